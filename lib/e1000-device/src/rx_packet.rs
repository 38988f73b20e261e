//! The packets that the fast path of reception does not take: several slots or buffers, padding,
//! filters that were not asked yet, VLAN tags, checksums, sizes that are not allowed.
//!
//! Invariant: the frame is copied out of the port once, and everything is decided on the copy. It is
//! delivered as a whole, when there are descriptors for all of it, or stays where it is.

use e1000pv::bits::Rctl;
use e1000pv::desc::{RxDesc, RxErrors, RxStatus};
use e1000pv::regs;

use crate::core::Core;
use crate::filter::{self, HEADER_BYTES, TAG_BYTES, TAG_OFFSET};
use crate::memory::GuestMemory;
use crate::offload;
use crate::port::RxSlots;
use crate::ring::{Ring, View};
use crate::rx_modes::{Modes, Work};
use crate::sizes::{CRC_BYTES, ETHER_HEADER, MAX_FRAME, MIN_FRAME};

/// Longest packet of all, with CRC (8254x manual, section 3.2: long packets).
const LONGEST: usize = 16384;

/// The outcome of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the guest's memory, or the guest's buffers were bad.
    Delivered {
        /// Descriptors that it took.
        descriptors: u32,
        /// First word of the frame, if the filters let all untagged frames to its destination pass.
        passed: Option<u64>,
    },
    /// The packet was dropped.
    Dropped,
    /// It needs more descriptors than there are.
    Waits {
        /// How many.
        descriptors: u32,
    },
}

/// Memory for one packet.
#[derive(Debug, Default)]
pub struct Packet {
    frame: Vec<u8>,
}

/// Descriptors in a row.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// The first one.
    pub next: u32,
    /// How many they are.
    pub count: u32,
}

impl Packet {
    /// Delivers or drops the packet whose first slot is number `work.slots`, if there are enough descriptors.
    #[inline(never)]
    pub fn deliver<M: GuestMemory, R: RxSlots>(
        &mut self,
        core: &Core<M>,
        modes: &Modes,
        slots: &R,
        (ring, view): (Ring, View<'_>),
        free: Descriptors,
        work: &mut Work,
    ) -> Outcome {
        let Some(count) = self.gather(slots, work.slots) else {
            // A chain without an end: no more of it will ever come.
            work.slots = slots.available();
            work.packets += 1;
            work.bad += 1;
            return Outcome::Dropped;
        };
        let outcome = self.frame(core, modes, (ring, view), free, work);
        if !matches!(outcome, Outcome::Waits { .. }) {
            work.slots += count;
            work.packets += 1;
        }
        outcome
    }

    /// Copies a packet out; returns how many slots it has. Bytes beyond the longest packet are left
    /// out: one more than allowed is enough to see that it is too long.
    fn gather<R: RxSlots>(&mut self, slots: &R, first: usize) -> Option<usize> {
        self.frame.clear();
        for at in first..slots.available() {
            let (part, more) = slots.frame(at);
            let have = self.frame.len();
            let part = part.first(part.len().min((LONGEST + 1).saturating_sub(have)));
            self.frame.resize(have + part.len(), 0);
            part.copy_to(&mut self.frame[have..]);
            if !more {
                return Some(at + 1 - first);
            }
        }
        None
    }

    fn frame<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        modes: &Modes,
        (ring, view): (Ring, View<'_>),
        free: Descriptors,
        work: &mut Work,
    ) -> Outcome {
        let len = self.frame.len();
        if len < ETHER_HEADER {
            work.bad += 1;
            return Outcome::Dropped;
        }
        let mut header = [0; HEADER_BYTES];
        let n = len.min(HEADER_BYTES);
        header[..n].copy_from_slice(&self.frame[..n]);
        if !filter::accepts(&core.registers, &header) {
            work.filtered += 1;
            return Outcome::Dropped;
        }
        let tag = filter::tag(&core.registers, &header).filter(|_| len >= HEADER_BYTES);
        // A long packet is one of more than 1522 bytes, whatever is in it (RCTL.LPE): so frames
        // with another tag than VET's, or an MPLS label, pass as well.
        let long = modes.rctl.contains(Rctl::LPE);
        let most = if long { LONGEST - CRC_BYTES } else { MAX_FRAME + TAG_BYTES };
        if len > most {
            core.stats.add(regs::ROC, 1);
            work.bad += 1;
            return Outcome::Dropped;
        }
        let first = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
        let checked = offload::received(&self.frame, modes.rxcsum);
        let mut last = RxDesc {
            checksum: checked.checksum,
            status: checked.status | RxStatus::EOP,
            errors: checked.errors,
            ..RxDesc::default()
        };
        if let Some(tag) = tag.filter(|_| modes.strips_tags) {
            self.frame.drain(TAG_OFFSET..TAG_OFFSET + TAG_BYTES);
            last.status |= RxStatus::VP;
            last.special = tag;
        }
        let len = self.frame.len().max(MIN_FRAME);
        self.frame.resize(len + modes.crc_bytes, 0);
        let need = self.frame.len().div_ceil(modes.buffer_bytes) as u32;
        if need >= ring.n() {
            work.bad += 1;
            return Outcome::Dropped;
        }
        // Descriptors without a buffer are written back, too, and hold nothing (null descriptors,
        // section 3.2.3).
        let (mut descriptors, mut missing) = (0, need);
        while missing > 0 {
            if descriptors == free.count {
                if free.count == ring.n() - 1 {
                    // All descriptors that a ring can offer, too few of them with a buffer: to wait
                    // for more is to look at the same ones again, without end.
                    work.bad += 1;
                    return Outcome::Dropped;
                }
                return Outcome::Waits { descriptors: (free.count + missing).min(ring.n() - 1) };
            }
            let address = view.address(ring.step(free.next, descriptors));
            missing -= u32::from(address != 0);
            descriptors += 1;
        }
        let taken = Descriptors { count: descriptors, ..free };
        self.scatter(core, modes, (ring, view), taken, last, work);
        work.tally.count(len as u32, first);
        let passed = tag.is_none().then_some(first);
        Outcome::Delivered { descriptors, passed }
    }

    /// Writes the frame to the buffers of these descriptors. The one with its end carries `last`'s
    /// status. A guest that changes their addresses meanwhile gets less of the frame, and no descriptor
    /// is written that was not counted.
    fn scatter<M: GuestMemory>(
        &self,
        core: &Core<M>,
        modes: &Modes,
        (ring, view): (Ring, View<'_>),
        to: Descriptors,
        last: RxDesc,
        work: &mut Work,
    ) {
        let mut parts = self.frame.chunks(modes.buffer_bytes).peekable();
        for at in (0..to.count).map(|k| ring.step(to.next, k)) {
            let [address, word] = view.load(at);
            if address == 0 {
                // "All other bits unchanged."
                const DD: u64 = (RxStatus::DD.bits() as u64) << 32;
                view.complete(at, word | DD);
                continue;
            }
            let part = parts.next().unwrap_or_default();
            let mut desc = if parts.peek().is_none() { last } else { RxDesc::default() };
            desc.status |= RxStatus::DD;
            desc.length = part.len() as u16;
            if !core.ram.write(address, part) {
                desc.errors |= RxErrors::RXE;
                work.bad += 1;
            }
            view.complete(at, desc.write_back());
        }
    }
}
