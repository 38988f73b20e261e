//! The packets that the fast path of transmission does not take: several descriptors, checksums,
//! segmentation, VLAN tags, padding, and whatever is wrong (8254x manual, sections 3.3.3 to 3.5).
//!
//! Invariant: the packet is copied out of guest memory once, descriptor by descriptor, and everything
//! is done to the copy. Its last descriptor is complete when all of its frames are queued: a port
//! that has no space keeps the rest for later, and what was copied is not read again.

use e1000pv::desc::{ContextTx, DataTx, LegacyTx, Popts, TxCmd, TxDesc};
use e1000pv::regs;

use crate::core::Core;
use crate::counters::Count;
use crate::filter::{self, TAG_BYTES, TAG_OFFSET};
use crate::memory::GuestMemory;
use crate::offload::{self, Segments};
use crate::port::TxSlots;
use crate::sizes::ETHER_HEADER;
use crate::state::{self, BadState};
use crate::stats::Tally;

/// Longest frame that is not segmented (section 3.3: descriptors and packet sizes).
const LONGEST: usize = 16288;
/// Longest packet to segment: 64 KiB of IP packet and its headers.
const LONGEST_SEGMENTED: usize = 65536 + 256;

/// The outcome of processing a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was processed.
    Done,
    /// The port is full; the same descriptor comes again.
    NoSpace,
}

/// The packet whose descriptors are being read.
#[derive(Debug)]
pub struct Packet {
    /// What its descriptors held so far.
    bytes: Vec<u8>,
    /// At least one of its descriptors was read.
    is_begun: bool,
    /// Something is wrong: it is dropped at its end.
    is_bad: bool,
    /// Of its first descriptor (POPTS, TSE).
    popts: Popts,
    segmented: bool,
    /// The last context descriptors; each holds until the next one of its kind.
    contexts: Contexts,
    /// Of its first descriptor too, if it is to be segmented: whether a tag is to be inserted, and which.
    tag: (TxCmd, u16),
    /// Set once the last descriptor was read: what is left to send.
    sending: Option<Sending>,
    /// The frame that is sent next, while `sending`: an Ethernet header at least.
    frame: Vec<u8>,
}

/// The chip keeps two contexts. TSE in a context descriptor says which of them it sets, and TSE in a packet's first data
/// descriptor which of them the packet uses (section 3.3.6).
#[derive(Clone, Copy, Debug, Default)]
struct Contexts {
    /// With TSE.
    segmentation: ContextTx,
    /// Without.
    checksums: ContextTx,
}

impl Contexts {
    fn set(&mut self, context: ContextTx) {
        let of_its_kind = match context.tucmd.contains(TxCmd::TSE) {
            true => &mut self.segmentation,
            false => &mut self.checksums,
        };
        *of_its_kind = context;
    }
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    segments: Option<Segments>,
    /// Tag to insert.
    tag: Option<[u8; TAG_BYTES]>,
}

impl Packet {
    /// No packet, no contexts.
    pub fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(LONGEST_SEGMENTED),
            is_begun: false,
            is_bad: false,
            popts: Popts::empty(),
            segmented: false,
            contexts: Contexts::default(),
            tag: (TxCmd::empty(), 0),
            sending: None,
            frame: Vec::with_capacity(LONGEST_SEGMENTED),
        }
    }

    /// Forgets packet and contexts.
    pub fn reset(&mut self) {
        self.end();
        self.contexts = Contexts::default();
    }

    fn end(&mut self) {
        self.bytes.clear();
        self.frame.clear();
        (self.is_begun, self.is_bad, self.segmented) = (false, false, false);
        self.popts = Popts::empty();
        self.tag = (TxCmd::empty(), 0);
        self.sending = None;
    }

    /// What was read of it, and how much of that was sent.
    pub fn save(&self) -> state::Packet {
        let sending = self.sending.map(|sending| state::Sending {
            frame: self.frame.clone(),
            tag: sending.tag,
            segments: sending.segments.map(|segments| segments.progress()),
        });
        state::Packet {
            bytes: self.bytes.clone(),
            begun: self.is_begun,
            bad: self.is_bad,
            popts: self.popts.bits(),
            segmented: self.segmented,
            tag: (self.tag.0.bits(), self.tag.1),
            segmentation: self.contexts.segmentation.to_bytes(),
            checksums: self.contexts.checksums.to_bytes(),
            sending,
        }
    }

    /// Restores what `save` returned.
    pub fn restore(&mut self, from: &state::Packet) -> Result<(), BadState> {
        let bad = BadState("a packet that is longer than any, or half sent as none can be");
        self.reset();
        let most = if from.segmented { LONGEST_SEGMENTED } else { LONGEST };
        if from.bytes.len() > most
            || !from.begun && (!from.bytes.is_empty() || from.sending.is_some())
        {
            return Err(bad);
        }
        self.bytes.extend_from_slice(&from.bytes);
        (self.is_begun, self.is_bad, self.segmented) = (from.begun, from.bad, from.segmented);
        self.popts = Popts::from_bits_retain(from.popts);
        self.tag = (TxCmd::from_bits_retain(from.tag.0), from.tag.1);
        self.contexts = Contexts {
            segmentation: ContextTx::from_bytes(from.segmentation),
            checksums: ContextTx::from_bytes(from.checksums),
        };
        let Some(sending) = &from.sending else { return Ok(()) };
        if !(ETHER_HEADER..=LONGEST).contains(&sending.frame.len()) {
            return Err(bad);
        }
        let segments = match &sending.segments {
            Some(progress) => Some(self.segments().ok_or(bad)?.at(progress)),
            None => None,
        };
        self.frame.extend_from_slice(&sending.frame);
        self.sending = Some(Sending { segments, tag: sending.tag });
        Ok(())
    }

    /// The packet in segments, none of which is made yet, if that is possible.
    fn segments(&self) -> Option<Segments> {
        Segments::new(self.contexts.segmentation, self.popts, self.bytes.len())
            .filter(|s| s.longest() <= LONGEST)
    }

    /// Whether the next descriptor begins a packet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.is_begun
    }

    /// Processes a descriptor. Slots from `used` on are free. `shortest`: shorter frames are padded,
    /// or if not even an Ethernet header, dropped.
    #[inline(never)]
    pub fn descriptor<M: GuestMemory, T: TxSlots>(
        &mut self,
        core: &Core<M>,
        desc: TxDesc,
        shortest: usize,
        (slots, used): (&mut T, &mut usize),
        tally: &mut Tally,
    ) -> Put {
        if self.sending.is_none() {
            let is_last = match desc {
                TxDesc::Context(context) => {
                    self.contexts.set(context);
                    false
                }
                TxDesc::Legacy(d) => self.legacy(core, d),
                TxDesc::Data(d) => self.data(core, d),
                TxDesc::Reserved(_) => {
                    core.counters.bump(Count::TxBad, 1);
                    false
                }
            };
            if !is_last {
                return Put::Done;
            }
            if self.sending.is_none() {
                core.counters.bump(Count::TxBad, 1);
                self.end();
                return Put::Done;
            }
        }
        let put = self.send(core, shortest, (slots, used), tally);
        if put == Put::Done {
            self.end();
        }
        put
    }

    /// Adds a legacy descriptor. True: it is the packet's last, and unless something is wrong there is
    /// something to send.
    fn legacy<M: GuestMemory>(&mut self, core: &Core<M>, d: LegacyTx) -> bool {
        self.is_begun = true;
        self.add(core, d.buffer_addr, d.length.into(), LONGEST);
        // VLE and IC are qualified by EOP (section 3.3.3.1).
        if !d.cmd.contains(TxCmd::EOP) {
            return false;
        }
        if !self.is_bad && self.bytes.len() >= ETHER_HEADER {
            self.frame.clear();
            self.frame.extend_from_slice(&self.bytes);
            if d.cmd.contains(TxCmd::IC) {
                // A place outside of the packet: sent without, as a wire would.
                offload::legacy_checksum(&mut self.frame, &d);
            }
            self.sending = Some(Sending { segments: None, tag: tag(core, d.cmd, d.special) });
        }
        true
    }

    /// Adds a data descriptor, likewise.
    fn data<M: GuestMemory>(&mut self, core: &Core<M>, d: DataTx) -> bool {
        if !self.is_begun {
            self.is_begun = true;
            self.popts = d.popts;
            self.segmented = d.dcmd.contains(TxCmd::TSE);
            // Of a packet that is to be segmented, the tag stands in the first descriptor; else in the last
            // (section 3.3.7.1).
            self.tag = (d.dcmd, d.special);
        }
        if !self.segmented {
            self.tag = (d.dcmd, d.special);
        }
        let most = if self.segmented { LONGEST_SEGMENTED } else { LONGEST };
        self.add(core, d.buffer_addr, d.dtalen as usize, most);
        if !d.dcmd.contains(TxCmd::EOP) {
            return false;
        }
        if self.is_bad || self.bytes.len() < ETHER_HEADER {
            return true;
        }
        let segments = if self.segmented {
            let Some(mut segments) = self.segments() else {
                core.stats.add(regs::TSCTFC, 1);
                return true;
            };
            // The packet ends where EOP says; PAYLEN should say so, too.
            let whole = segments.payload() == self.contexts.segmentation.paylen as usize;
            core.stats.add(if whole { regs::TSCTC } else { regs::TSCTFC }, 1);
            segments.next(&self.bytes, &mut self.frame);
            Some(segments)
        } else {
            self.frame.clear();
            self.frame.extend_from_slice(&self.bytes);
            offload::checksums(&mut self.frame, &self.contexts.checksums, self.popts);
            None
        };
        let (cmd, special) = self.tag;
        self.sending = Some(Sending { segments, tag: tag(core, cmd, special) });
        true
    }

    fn add<M: GuestMemory>(&mut self, core: &Core<M>, address: u64, len: usize, most: usize) {
        let have = self.bytes.len();
        if self.is_bad || have + len > most {
            self.is_bad = true;
            return;
        }
        self.bytes.resize(have + len, 0);
        self.is_bad = !core.ram.read(address, &mut self.bytes[have..]);
    }

    /// Queues the frames that are left, as far as there is space.
    fn send<M: GuestMemory, T: TxSlots>(
        &mut self,
        core: &Core<M>,
        shortest: usize,
        (slots, used): (&mut T, &mut usize),
        tally: &mut Tally,
    ) -> Put {
        let Some(sending) = &mut self.sending else { return Put::Done };
        loop {
            let tag_bytes = sending.tag.map_or(0, |tag| tag.len());
            let len = (self.frame.len() + tag_bytes).max(shortest);
            let count = len.div_ceil(T::SLOT_BYTES);
            if *used + count > slots.space() {
                if count < slots.num_slots() {
                    return Put::NoSpace;
                }
                // More than the port's ring could ever hold.
                core.counters.bump(Count::TxBad, 1);
            } else {
                if let Some(tag) = sending.tag {
                    self.frame.splice(TAG_OFFSET..TAG_OFFSET, tag);
                }
                self.frame.resize(len, 0);
                for (i, part) in self.frame.chunks(T::SLOT_BYTES).enumerate() {
                    slots.put_copy(*used, part, i + 1 < count);
                    *used += 1;
                }
                let first = self.frame[..8].try_into().expect("no shorter than a header");
                tally.count(len as u32, u64::from_le_bytes(first));
            }
            let more = sending
                .segments
                .as_mut()
                .is_some_and(|segments| segments.next(&self.bytes, &mut self.frame));
            if !more {
                return Put::Done;
            }
        }
    }
}

fn tag<M: GuestMemory>(core: &Core<M>, cmd: TxCmd, special: u16) -> Option<[u8; TAG_BYTES]> {
    cmd.contains(TxCmd::VLE).then(|| filter::insert(&core.registers, special)).flatten()
}
