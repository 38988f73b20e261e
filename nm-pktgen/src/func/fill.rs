//! Filling transmit slots. The less a packet differs from the one before, the less is written:
//!
//! * one constant packet: nothing, once each buffer holds it (buffers keep their content over txsync);
//! * headers or mark vary: the first bytes, once each buffer holds the rest;
//! * several slots a packet: everything, as slots do not hold the same part twice.
//!
//! A slot may get another buffer when its packet has gone, to a zero-copy monitor for instance, and says so; that one holds
//! nothing yet.

use std::io::Write;

use netmap::{SlotFlags, TxRing, TxSlot};
use nm_cli::units;
use nm_stream::{Kind, Mark};

use crate::backlog::Batch;
use crate::hexdump;
use crate::packet::cut::Cut;
use crate::packet::source::Source;
use crate::plan::Plan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Constant,
    Head,
    Slots,
    Untouched,
    Indirect,
}

/// Fills the rings of one thread.
#[derive(Debug)]
pub struct Filler {
    source: Source,
    mode: Mode,
    cut: Cut,
    capacity: usize,
    /// Slots of the longest packet.
    slots: usize,
    /// Which buffers of each ring hold the packet, and how many do not yet.
    filled: Vec<(Vec<bool>, usize)>,
    /// Sequence number and mark of the next packet of txseq.
    mark: Option<Mark>,
    seq: u64,
    hexdump: bool,
    to_stderr: bool,
    /// The packet that indirect slots point to.
    constant: &'static [u8],
}

impl Filler {
    /// For rings of `num_slots` each, with buffers of `capacity` bytes. `mark` is that of the first
    /// packet. With `by_reference` a packet that is always the same is in one place, to which all slots
    /// point: a thousand buffers with the same bytes would not fit the cache.
    pub fn new(
        plan: &Plan,
        source: Source,
        rings: &[usize],
        capacity: usize,
        mark: Option<Mark>,
        by_reference: bool,
    ) -> anyhow::Result<Filler> {
        let longest = plan.recipe.sizes.bounds().end() + plan.recipe.vnet;
        plan.cut.check(longest, capacity)?;
        let slots = plan.cut.slots(longest, capacity).0;
        let mode = match () {
            () if plan.indirect => Mode::Indirect,
            () if plan.no_init => Mode::Untouched,
            () if slots > 1 || plan.cut.frags.is_some() => Mode::Slots,
            () if source.constant() && mark.is_none() && by_reference => Mode::Indirect,
            () if source.constant() && mark.is_none() => Mode::Constant,
            () => Mode::Head,
        };
        // Slots point to it until the process ends, whatever becomes of this value.
        let constant: &'static [u8] = if mode == Mode::Indirect {
            Box::leak(source.bytes()[..longest].to_vec().into_boxed_slice())
        } else {
            &[]
        };
        Ok(Filler {
            source,
            mode,
            cut: plan.cut,
            capacity,
            slots,
            filled: rings.iter().map(|&num_slots| (vec![false; num_slots], num_slots)).collect(),
            mark,
            seq: 0,
            hexdump: plan.hexdump,
            to_stderr: plan.talks_on_stderr(),
            constant,
        })
    }

    /// Slots that the longest packet takes.
    pub fn slots_per_packet(&self) -> usize {
        self.slots
    }

    /// The bytes that indirect slots point to; empty if there are none.
    pub fn indirect_bytes(&self) -> &'static [u8] {
        self.constant
    }

    /// Queues `packets` packets on ring number `index`, or as many as fit.
    pub fn fill(&mut self, ring: &mut TxRing<'_>, index: usize, packets: usize) -> Batch {
        // What this cursor shows, which cannot change: what was seen before may not be true any more.
        let packets = packets.min(ring.space() / self.slots);
        if packets == 0 {
            return Batch::default();
        }
        if self.hexdump {
            return self.fill_dumping(ring, index, packets);
        }
        self.fill_quietly(ring, index, packets)
    }

    fn fill_quietly(&mut self, ring: &mut TxRing<'_>, index: usize, packets: usize) -> Batch {
        match self.mode {
            Mode::Constant => self.fill_constant(ring, index, packets),
            Mode::Head => self.fill_heads(ring, index, packets),
            Mode::Slots | Mode::Untouched => self.fill_slots(ring, packets),
            Mode::Indirect => self.fill_indirect(ring, packets),
        }
    }

    fn same(&self, packets: usize, len: usize) -> Batch {
        // What counts is the frame.
        let len = len - self.source.vnet();
        let pad_bytes = units::pad_bytes(len as u64) * packets as u64;
        Batch { slots: packets, packets, bytes: (packets * len) as u64, pad_bytes }
    }

    fn fill_constant(&mut self, ring: &mut TxRing<'_>, index: usize, packets: usize) -> Batch {
        let len = self.source.next();
        let (filled, missing) = &mut self.filled[index];
        if *missing > 0 {
            for i in 0..packets {
                let slot = ring.slot(i);
                if !std::mem::replace(&mut filled[slot.index()], true) {
                    *missing -= 1;
                    let frame = slot.frame();
                    let n = len.min(frame.len());
                    frame.write(0, &self.source.bytes()[..n]);
                }
            }
        }
        for i in 0..packets {
            let slot = ring.slot(i);
            if slot.buf_changed() {
                self.refill(slot);
            }
            slot.set(len, SlotFlags::empty());
        }
        ring.advance(packets);
        self.same(packets, len)
    }

    /// Writes a whole packet again.
    #[cold]
    fn refill(&self, slot: TxSlot<'_>) {
        let (frame, bytes) = (slot.frame(), self.source.bytes());
        frame.write(0, &bytes[..bytes.len().min(frame.len())]);
    }

    fn fill_heads(&mut self, ring: &mut TxRing<'_>, index: usize, packets: usize) -> Batch {
        let mut made = Batch { slots: packets, packets, ..Batch::default() };
        for i in 0..packets {
            let len = self.next();
            let slot = ring.slot(i);
            let frame = slot.frame();
            let (filled, missing) = &mut self.filled[index];
            // The tail behind the head is the same in all packets, so it is written to its greatest
            // length once.
            let first = *missing > 0 && !std::mem::replace(&mut filled[slot.index()], true);
            *missing -= usize::from(first);
            let bytes = match first || slot.buf_changed() {
                true => self.source.bytes(),
                false => self.source.head(),
            };
            frame.write(0, &bytes[..bytes.len().min(frame.len())]);
            slot.set(len, SlotFlags::empty());
            let len = len - self.source.vnet();
            made.bytes += len as u64;
            made.pad_bytes += units::pad_bytes(len as u64);
        }
        ring.advance(packets);
        made
    }

    fn fill_slots(&mut self, ring: &mut TxRing<'_>, packets: usize) -> Batch {
        let mut made = Batch { packets, ..Batch::default() };
        let mut next = 0;
        for _ in 0..packets {
            let len = self.next();
            let (slots, size) = self.cut.slots(len, self.capacity);
            let mut rest = &self.source.bytes()[..len];
            for part in 0..slots {
                let last = part + 1 == slots;
                let (now, after) =
                    rest.split_at(if last { rest.len() } else { size.min(rest.len()) });
                let slot = ring.slot(next);
                if self.mode != Mode::Untouched {
                    let frame = slot.frame();
                    frame.write(0, &now[..now.len().min(frame.len())]);
                }
                slot.set(now.len(), if last { SlotFlags::empty() } else { SlotFlags::MOREFRAG });
                rest = after;
                next += 1;
            }
            let len = len - self.source.vnet();
            made.bytes += len as u64;
            made.pad_bytes += units::pad_bytes(len as u64);
        }
        ring.advance(next);
        made.slots = next;
        made
    }

    fn fill_indirect(&mut self, ring: &mut TxRing<'_>, packets: usize) -> Batch {
        let bytes = self.constant;
        for i in 0..packets {
            ring.slot(i).set_indirect(bytes.as_ptr(), bytes.len(), SlotFlags::empty());
        }
        ring.advance(packets);
        self.same(packets, bytes.len())
    }

    /// Makes the next packet, with its mark if it has one.
    #[inline]
    fn next(&mut self) -> usize {
        let len = self.source.next();
        if let Some(mark) = self.mark {
            self.source.set_mark(Mark {
                seq: self.seq as u32,
                value: self.seq,
                kind: Kind::Seq,
                ..mark
            });
            self.seq += 1;
        }
        len
    }

    /// One packet at a time, each printed as it is sent.
    #[cold]
    fn fill_dumping(&mut self, ring: &mut TxRing<'_>, index: usize, packets: usize) -> Batch {
        let mut all = Batch::default();
        for _ in 0..packets {
            let made = self.fill_quietly(ring, index, 1);
            let frame = &self.source.bytes()[self.source.vnet()..][..made.bytes as usize];
            print_to("tx", frame, self.to_stderr);
            all.slots += made.slots;
            all.packets += made.packets;
            all.bytes += made.bytes;
            all.pad_bytes += made.pad_bytes;
        }
        all
    }
}

/// Prints a packet in hexadecimal: to stdout, or to stderr if stdout is read by a program.
pub fn print(plan: &Plan, title: &str, packet: &[u8]) {
    print_to(title, packet, plan.talks_on_stderr());
}

fn print_to(title: &str, packet: &[u8], to_stderr: bool) {
    let text = hexdump::dump(title, packet);
    // A reader that left is noticed by the reports.
    let _ = if to_stderr {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
}
