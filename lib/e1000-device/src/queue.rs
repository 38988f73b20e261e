//! One direction's descriptor ring: where the device is in it, and how far the guest lets it go
//! (8254x manual, sections 3.2.6 and 3.4).
//!
//! Invariants: `next` and `tail` are below the ring's size; `tail` is what the guest last said, when
//! [`Queue::look`] asked. Looking takes the tail's cache line from a guest that is about to write it
//! (with a CSB: for each packet), so it is done once per slice, and everybody else uses `tail`.

use e1000pv::csb::{self, Wild};
use e1000pv::regs;

use crate::core::Core;
use crate::counters::Count;
use crate::csb::CsbPage;
use crate::memory::GuestMemory;
use crate::ring::Ring;
use crate::state::{self, BadState};

/// Where a direction's ring is described.
#[derive(Debug)]
pub struct Place {
    base_high: u32,
    base_low: u32,
    length: u32,
    head: u32,
    tail: u32,
    /// Transmission, whose tail has a word of its own in the CSB, as the other has.
    sends: bool,
    /// Counts tails outside of the ring.
    bad: Count,
}

/// Transmission.
pub static TX: Place = Place {
    base_high: regs::TDBAH,
    base_low: regs::TDBAL,
    length: regs::TDLEN,
    head: regs::TDH,
    tail: regs::TDT,
    sends: true,
    bad: Count::TxBad,
};

/// Reception.
pub static RX: Place = Place {
    base_high: regs::RDBAH,
    base_low: regs::RDBAL,
    length: regs::RDLEN,
    head: regs::RDH,
    tail: regs::RDT,
    sends: false,
    bad: Count::RxBad,
};

/// A ring in use, or none.
#[derive(Debug)]
pub struct Queue {
    place: &'static Place,
    ring: Option<Ring>,
    next: u32,
    tail: u32,
    /// A wild tail register, counted once.
    bad_tail: Option<u32>,
}

impl Queue {
    /// No ring yet.
    pub const fn new(place: &'static Place) -> Self {
        Self { place, ring: None, next: 0, tail: 0, bad_tail: None }
    }

    /// Starts over at the head, with the ring that the registers describe.
    pub fn restart<M: GuestMemory>(&mut self, core: &Core<M>) {
        let reg = |offset| core.registers.load(offset);
        let Place { base_high, base_low, length, head, .. } = *self.place;
        self.ring = Ring::new(&core.ram, reg(base_high), reg(base_low), reg(length));
        // A head outside of the ring: begins at its start, as after reset.
        self.next = Some(reg(head)).filter(|&head| head < self.n()).unwrap_or(0);
        (self.tail, self.bad_tail) = (self.next, None);
    }

    /// The ring.
    #[inline]
    pub fn ring(&self) -> Option<Ring> {
        self.ring
    }

    /// Descriptors of the ring; 0 if there is none.
    #[inline]
    pub fn n(&self) -> u32 {
        self.ring.map_or(0, Ring::n)
    }

    /// The first descriptor that the device has not processed.
    #[inline]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The device has processed all descriptors before `next`, which is below [`Queue::n`].
    #[inline]
    pub fn set_next(&mut self, next: u32) {
        debug_assert!(next < self.n(), "{next} is outside of the ring");
        self.next = next;
    }

    /// The guest's tail, as it was last seen.
    #[inline]
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Where the guest's tail was; the rest is in registers.
    pub fn save(&self) -> state::Queue {
        state::Queue { tail: self.tail, bad_tail: self.bad_tail }
    }

    /// After `restart`, with the same registers.
    pub fn restore(&mut self, from: &state::Queue) -> Result<(), BadState> {
        if from.tail >= self.n().max(1) {
            return Err(BadState("a tail outside of its ring"));
        }
        (self.tail, self.bad_tail) = (from.tail, from.bad_tail);
        Ok(())
    }

    /// Looks at the guest's tail. A tail register outside of the ring is no tail: there is nothing to
    /// do until another is written.
    pub fn look<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        csb: Option<&CsbPage<M>>,
    ) -> Result<u32, Wild> {
        self.tail = match (csb, self.ring) {
            (Some(page), _) if self.place.sends => csb::host_tx_tail(page, self.n())?,
            (Some(page), _) => csb::host_rx_tail(page, self.n())?,
            (None, None) => self.next, // not set up yet
            (None, Some(ring)) => {
                let tail = core.registers.load(self.place.tail);
                if tail < ring.n() {
                    self.bad_tail = None;
                    tail
                } else {
                    if self.bad_tail.replace(tail) != Some(tail) {
                        core.counters.bump(self.place.bad, 1);
                    }
                    self.next
                }
            }
        };
        Ok(self.tail)
    }
}
