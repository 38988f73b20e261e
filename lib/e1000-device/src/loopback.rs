//! The port of a device whose loopback is on (RCTL.LBM, or the PHY's): what is sent is received, and nothing else.
//!
//! ```text
//!     read          received            queued
//!   ---|---------------|-------------------|---     slots, numbered by counters that never wrap
//!      what rx shows    tx put, no sync yet
//! ```
//!
//! Invariant: at most `slots - 1` slots are in either part. As in the chip's packet buffer, what finds no
//! room is lost and counted, and the sender goes on: a self-test sends more than it takes in.

use crate::memory::GuestMemory;
use crate::port::{Await, NetPort, RxSlots, TxSlots};
use crate::ram::GuestRam;
use crate::state::{self, BadState};
use shared_bytes::Span;

/// Bytes of a slot: as of a netmap buffer here.
pub const SLOT_BYTES: usize = 2112;

/// A slot's data, which lie in `frames` by its number.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    len: usize,
    more: bool,
}

/// Frames on their way back.
#[derive(Debug)]
pub struct Loopback {
    slots: Vec<Slot>,
    /// The slots' bytes; there once loopback was on, unless there is no memory.
    frames: Option<GuestRam>,
    read: usize,
    received: usize,
    queued: usize,
    /// Of the received ones, so many are shown.
    shown: usize,
    missed: u64,
}

impl Loopback {
    /// In place of a port with so many slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::default(); 2 * slots],
            frames: None,
            read: 0,
            received: 0,
            queued: 0,
            shown: 0,
            missed: 0,
        }
    }

    /// Loopback is switched on or off: nothing is on its way.
    pub fn begin(&mut self) {
        (self.read, self.received, self.queued, self.shown) = (0, 0, 0, 0);
        if self.frames.is_none() {
            self.frames = GuestRam::anonymous((self.slots.len() * SLOT_BYTES) as u64).ok();
        }
    }

    /// Slots in either direction.
    fn each(&self) -> usize {
        self.slots.len() / 2
    }

    fn span(&self, number: usize, len: usize) -> Option<Span<'_>> {
        let place = number % self.slots.len() * SLOT_BYTES;
        self.frames.as_ref()?.span(place as u64, len)
    }

    /// What was received and not read.
    pub fn save(&self) -> Vec<state::Slot> {
        let slot = |number: usize| {
            let Slot { len, more } = self.slots[number % self.slots.len()];
            let bytes = self.span(number, len).map_or_else(Vec::new, |span| span.to_vec());
            state::Slot { bytes, more }
        };
        (self.read..self.received).map(slot).collect()
    }

    /// Takes that back, after `begin`.
    pub fn restore(&mut self, from: &[state::Slot]) -> Result<(), BadState> {
        let whole = from.last().is_none_or(|last| !last.more);
        let fits = from.iter().all(|slot| slot.bytes.len() <= SLOT_BYTES);
        if from.len() >= self.each() || !whole || !fits {
            return Err(BadState("frames that no loopback has"));
        }
        let mut tx = self.tx();
        for (at, slot) in from.iter().enumerate() {
            tx.put_copy(at, &slot.bytes, slot.more);
        }
        tx.commit(from.len());
        self.tx_sync();
        Ok(())
    }
}

/// Free slots.
#[derive(Debug)]
pub struct LoopbackTx<'a>(&'a mut Loopback);

impl LoopbackTx<'_> {
    /// The slot's number, whose data will be so long.
    fn fill(&mut self, at: usize, len: usize, more: bool) -> usize {
        let number = self.0.queued + at;
        let count = self.0.slots.len();
        self.0.slots[number % count] = Slot { len, more };
        number
    }
}

impl TxSlots for LoopbackTx<'_> {
    const SLOT_BYTES: usize = SLOT_BYTES;

    fn space(&self) -> usize {
        self.0.each() - 1 - (self.0.queued - self.0.received)
    }

    fn num_slots(&self) -> usize {
        self.0.each()
    }

    fn put(&mut self, at: usize, bytes: Span<'_>, more: bool) {
        let number = self.fill(at, bytes.len(), more);
        if let Some(to) = self.0.span(number, bytes.len()) {
            to.write_span(bytes);
        }
    }

    fn put_copy(&mut self, at: usize, bytes: &[u8], more: bool) {
        let number = self.fill(at, bytes.len(), more);
        if let Some(to) = self.0.span(number, bytes.len()) {
            to.write(0, bytes);
        }
    }

    fn commit(self, n: usize) {
        self.0.queued += n;
    }
}

/// Received slots.
#[derive(Debug)]
pub struct LoopbackRx<'a>(&'a mut Loopback);

impl RxSlots for LoopbackRx<'_> {
    fn available(&self) -> usize {
        self.0.shown
    }

    fn frame(&self, at: usize) -> (Span<'_>, bool) {
        let number = self.0.read + at;
        let Slot { len, more } = self.0.slots[number % self.0.slots.len()];
        (self.0.span(number, len).expect("what was received has memory"), more)
    }

    fn prefetch(&self, _: usize) {}

    fn release(self, n: usize) {
        self.0.read += n;
        self.0.shown -= n;
    }
}

impl NetPort for Loopback {
    type Tx<'a> = LoopbackTx<'a>;
    type Rx<'a> = LoopbackRx<'a>;

    fn tx_slots(&self) -> usize {
        self.each()
    }

    fn tx(&mut self) -> LoopbackTx<'_> {
        LoopbackTx(self)
    }

    fn tx_sync(&mut self) -> usize {
        let most = self.read + self.each() - 1;
        let mut begin = self.received;
        for number in self.received..self.queued {
            if self.slots[number % self.slots.len()].more {
                continue;
            }
            // Frames are taken in order, so after the first that has no room none has.
            if number < most && self.frames.is_some() {
                begin = number + 1;
            } else {
                self.missed += 1;
            }
        }
        (self.received, self.queued) = (begin, begin);
        0
    }

    fn tx_lost(&self) -> u64 {
        0
    }

    fn tx_withdraw(&mut self) -> usize {
        let queued = self.queued - self.received;
        self.queued = self.received;
        queued
    }

    fn rx_slots(&self) -> usize {
        self.each()
    }

    fn rx(&mut self) -> LoopbackRx<'_> {
        LoopbackRx(self)
    }

    fn rx_sync(&mut self) {
        self.shown = self.received - self.read;
    }

    fn rx_discard(&mut self) {
        (self.read, self.shown) = (self.received, 0);
    }

    fn rx_missed(&self) -> u64 {
        self.missed
    }

    fn arm(&mut self, what: Await) -> bool {
        !what.contains(Await::PACKET) || self.received == self.read
    }

    fn disarm(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(port: &mut Loopback, parts: &[&[u8]]) {
        let mut tx = port.tx();
        for (at, part) in parts.iter().enumerate() {
            tx.put_copy(at, part, at + 1 < parts.len());
        }
        tx.commit(parts.len());
        assert_eq!(port.tx_sync(), 0);
    }

    fn receive(port: &mut Loopback) -> Vec<(Vec<u8>, bool)> {
        port.rx_sync();
        let rx = port.rx();
        let n = rx.available();
        let all = (0..n).map(|at| rx.frame(at)).map(|(span, more)| (span.to_vec(), more)).collect();
        rx.release(n);
        all
    }

    #[test]
    fn frames_come_back_in_order_and_what_has_no_room_is_lost_whole() {
        let mut port = Loopback::new(4);
        port.begin();
        for turn in 0..9 {
            send(&mut port, &[&[turn; 60]]);
            send(&mut port, &[&[1; 60], &[2; 5]]);
            send(&mut port, &[&[9; 60]]);
            let whole = [(vec![turn; 60], false), (vec![1; 60], true), (vec![2; 5], false)];
            assert!(!port.arm(Await::PACKET));
            assert_eq!(receive(&mut port), whole);
            assert_eq!(port.rx_missed(), u64::from(turn) + 1);
            assert!(port.arm(Await::PACKET));
            // Two slots are taken, so a frame of two has no room.
            send(&mut port, &[&[3; 60]]);
            send(&mut port, &[&[3; 60]]);
            assert_eq!((port.save().len(), port.tx().space()), (2, 3));
            port.rx_discard();
        }
    }

    #[test]
    fn frames_survive_a_save_and_impossible_ones_are_refused() {
        let mut port = Loopback::new(4);
        port.begin();
        send(&mut port, &[&[1; 60], &[2; 5]]);
        let saved = port.save();
        let mut other = Loopback::new(4);
        other.begin();
        other.restore(&saved).unwrap();
        assert_eq!(receive(&mut other), [(vec![1; 60], true), (vec![2; 5], false)]);
        for bad in [saved[..1].to_vec(), [saved.clone(), saved.clone()].concat()] {
            assert!(other.restore(&bad).is_err());
        }
    }
}
