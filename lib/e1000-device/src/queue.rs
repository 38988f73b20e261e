//! One direction's descriptor ring: where the device is in it, and how far the guest lets it go
//! (8254x manual, sections 3.2.6 and 3.4).
//!
//! Invariants: `next` and `tail` are below the ring's size; `tail` is what the guest last said, when
//! [`Queue::look`] asked, or what a tail outside of the ring stands for. Looking takes the tail's cache line from a guest that is about to write it
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
    /// A tail register outside of the ring, counted once.
    bad_tail: Option<u32>,
    /// Transmission goes once round the ring, up to here, because its tail was written as one outside of it.
    lap: Option<u32>,
    /// There is no ring to work on, which was counted.
    refused: bool,
}

impl Queue {
    /// No ring yet.
    pub const fn new(place: &'static Place) -> Self {
        Self { place, ring: None, next: 0, tail: 0, bad_tail: None, lap: None, refused: false }
    }

    /// Starts over at the head, with the ring that the registers describe.
    pub fn restart<M: GuestMemory>(&mut self, core: &Core<M>) {
        let reg = |offset| core.registers.load(offset);
        let Place { base_high, base_low, length, head, .. } = *self.place;
        self.ring = Ring::new(&core.ram, reg(base_high), reg(base_low), reg(length));
        // A head outside of the ring: begins at its start, as after reset.
        self.next = Some(reg(head)).filter(|&head| head < self.n()).unwrap_or(0);
        (self.tail, self.bad_tail) = (self.next, None);
        (self.lap, self.refused) = (None, false);
    }

    /// Whether there is a ring. That the guest has published descriptors of none is counted, once.
    pub fn is_there<M: GuestMemory>(&mut self, core: &Core<M>) -> bool {
        if self.ring.is_none() {
            self.refuse(core);
        }
        self.ring.is_some()
    }

    #[cold]
    fn refuse<M: GuestMemory>(&mut self, core: &Core<M>) {
        let reg = |offset| core.registers.load(offset);
        if !self.refused && reg(self.place.tail) != reg(self.place.head) {
            self.refused = true;
            core.counters.bump(self.place.bad, 1);
        }
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
        let Self { tail, bad_tail, lap, refused, .. } = *self;
        state::Queue { tail, bad_tail, lap, refused }
    }

    /// After `restart`, with the same registers.
    pub fn restore(&mut self, from: &state::Queue) -> Result<(), BadState> {
        let outside = |index| index >= self.n().max(1);
        if outside(from.tail) || from.lap.is_some_and(outside) {
            return Err(BadState("a tail outside of its ring"));
        }
        (self.tail, self.bad_tail) = (from.tail, from.bad_tail);
        (self.lap, self.refused) = (from.lap, from.refused);
        Ok(())
    }

    /// Looks at the guest's tail. `settled`: all descriptors before `next` were reported done.
    pub fn look<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        csb: Option<&CsbPage<M>>,
        settled: bool,
    ) -> Result<u32, Wild> {
        self.tail = match (csb, self.ring) {
            (Some(page), _) if self.place.sends => csb::host_tx_tail(page, self.n())?,
            (Some(page), _) => csb::host_rx_tail(page, self.n())?,
            (None, None) => self.next, // not set up yet
            (None, Some(ring)) => {
                let tail = core.registers.load(self.place.tail);
                if tail < ring.n() {
                    (self.bad_tail, self.lap) = (None, None);
                    tail
                } else {
                    self.outside(core, ring, tail, settled)
                }
            }
        };
        Ok(self.tail)
    }

    /// What a tail register outside of the ring stands for. The head goes round and never meets it, so to
    /// reception all descriptors are free, always (many drivers write the ring's size there, once); transmission
    /// goes round once for each write, because it would send the same for ever. QEMU does so, and the manual does not say.
    #[cold]
    fn outside<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        ring: Ring,
        tail: u32,
        settled: bool,
    ) -> u32 {
        if self.bad_tail.replace(tail) != Some(tail) {
            core.counters.bump(self.place.bad, 1);
        }
        if !self.place.sends {
            return ring.step(self.next, ring.n() - 1);
        }
        let Some(end) = self.lap else { return self.tail };
        let last = ring.step(end, ring.n() - 1);
        // The last one by itself: two indices cannot tell a whole ring from none.
        if self.next == last && settled {
            self.lap = None;
            return end;
        }
        last
    }

    /// The guest has written its tail, or enabled the engine: if the tail is outside of the ring, a lap begins.
    pub fn begin_lap<M: GuestMemory>(&mut self, core: &Core<M>) {
        let tail = core.registers.load(self.place.tail);
        self.lap = self.ring.filter(|ring| tail >= ring.n()).map(|_| self.next);
        if self.lap.is_some() {
            self.bad_tail = None;
        }
    }
}
