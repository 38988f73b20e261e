//! The receive ring: finding packets, giving buffers back. When the device is told is decided by the
//! CSB's rule or by a count ([`crate::Nic::rx_release`]).
//!
//! ```text
//!        next       next + seen              tail
//!          |             |                     |
//!   [ ...  | received    | the device's ...    | one unused ]
//! ```
//! Invariants: the tail, which is the last released descriptor, lies just before `next` or further back
//! by what was released and not told; so the device never has more than n - 1 descriptors.

use e1000pv::csb::distance;
use e1000pv::desc::{RxErrors, RxStatus};

use crate::dma::{BUFFER_BYTES, Buffer, Descriptor};

/// STATUS in the second half of a descriptor (8254x manual 3.2.3).
const STATUS_SHIFT: u32 = 32;
/// ERRORS in the second half of a descriptor.
const ERRORS_SHIFT: u32 = 40;
/// DD in the second half of a descriptor.
const DD: u64 = (RxStatus::DD.bits() as u64) << STATUS_SHIFT;
/// Status and errors of a good packet in one buffer, and the bits that say so. Checksum errors are no
/// reason to drop: this driver does not ask for checksum offload, so nobody has computed one.
const GOOD: u64 = ((RxStatus::DD.bits() | RxStatus::EOP.bits()) as u64) << STATUS_SHIFT;
const GOOD_MASK: u64 = GOOD
    | ((RxErrors::CE.bits()
        | RxErrors::SE.bits()
        | RxErrors::SEQ.bits()
        | RxErrors::CXE.bits()
        | RxErrors::RXE.bits()) as u64)
        << ERRORS_SHIFT;

/// A received frame, or a part of one that did not fit a single buffer.
#[derive(Debug)]
pub struct RxSlot<'a> {
    buffer: &'a Buffer,
    fields: u64,
}

impl<'a> RxSlot<'a> {
    /// The slot's buffer.
    #[inline]
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// Length of the frame, without CRC; never above [`BUFFER_BYTES`].
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.fields as u16).min(BUFFER_BYTES)
    }

    /// True if there is no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True for a whole frame without errors. Frames over 1522 bytes are not asked for (RCTL.LPE is
    /// clear), so one in several buffers is the device's mistake.
    #[inline]
    pub fn is_good(&self) -> bool {
        self.fields & GOOD_MASK == GOOD && self.fields as u16 <= BUFFER_BYTES as u16
    }
}

#[derive(Debug)]
pub(crate) struct RxRing {
    ring: &'static [Descriptor],
    buffers: &'static mut [Buffer],
    n: u32,
    next: u32,
    /// Descriptors from `next` on that were found done.
    seen: u32,
    /// What the device was told last.
    tail: u32,
}

impl RxRing {
    pub(crate) fn new(ring: &'static [Descriptor], buffers: &'static mut [Buffer]) -> RxRing {
        let n = ring.len() as u32;
        RxRing { ring, buffers, n, next: 0, seen: 0, tail: n - 1 }
    }

    /// Gives each descriptor its buffer, and all but one to the device.
    pub(crate) fn reset(&mut self) {
        (self.next, self.seen, self.tail) = (0, 0, self.n - 1);
        for (descriptor, buffer) in self.ring.iter().zip(self.buffers.iter()) {
            descriptor.set_address(buffer.bus());
            descriptor.set_fields(0);
        }
    }

    /// Number of descriptors.
    pub(crate) fn n(&self) -> u32 {
        self.n
    }

    #[inline]
    fn wrap(&self, index: u32) -> u32 {
        if index >= self.n { index - self.n } else { index }
    }

    /// The tail that the device knows.
    #[inline]
    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    /// The tail that says what has been released: the descriptor before the next one.
    #[inline]
    pub(crate) fn released(&self) -> u32 {
        if self.next == 0 { self.n - 1 } else { self.next - 1 }
    }

    /// Descriptors released that the device does not know of.
    #[inline]
    pub(crate) fn untold(&self) -> u32 {
        distance(self.tail, self.released(), self.n)
    }

    /// The device has been told of everything.
    #[inline]
    pub(crate) fn set_told(&mut self) {
        self.tail = self.released();
    }

    /// Received packets, at most `most`. Fetches the frames of those that are new.
    #[inline]
    pub(crate) fn available(&mut self, most: u32) -> u32 {
        // The device owns no more than lies between next and the tail it knows.
        let most = most.min(distance(self.next, self.tail, self.n));
        let mut at = self.wrap(self.next + self.seen);
        while self.seen < most {
            let (descriptor, buffer) = (&self.ring[at as usize], &self.buffers[at as usize]);
            if descriptor.fields() & DD == 0 {
                break;
            }
            buffer.prefetch();
            self.seen += 1;
            at = self.wrap(at + 1);
        }
        self.seen.min(most)
    }

    /// Whether the packet `i` places after the next one has been received.
    #[inline]
    pub(crate) fn has(&self, i: u32) -> bool {
        let owned = i < distance(self.next, self.tail, self.n);
        i < self.seen || owned && self.ring[self.wrap(self.next + i) as usize].fields() & DD != 0
    }

    /// The received packet `i` places after the next one.
    #[inline]
    pub(crate) fn slot(&self, i: u32) -> RxSlot<'_> {
        debug_assert!(i < self.seen, "slot {i} has not been received");
        let at = self.wrap(self.next + i) as usize;
        RxSlot { buffer: &self.buffers[at], fields: self.ring[at].fields() }
    }

    /// The next `count` received packets: two runs, so that no index is checked in between.
    #[inline]
    pub(crate) fn batch(&self, count: u32) -> impl Iterator<Item = RxSlot<'_>> {
        debug_assert!(count <= self.seen, "{count} packets have not been received");
        let (from, count) = (self.next as usize, count as usize);
        let (low, high) = self.ring.split_at(from);
        let (low_buffers, high_buffers) = self.buffers.split_at(from);
        high.iter()
            .zip(high_buffers)
            .chain(low.iter().zip(low_buffers))
            .take(count)
            .map(|(descriptor, buffer)| RxSlot { buffer, fields: descriptor.fields() })
    }

    /// Exchanges the buffer of the received packet `i` places after the next one.
    #[inline]
    pub(crate) fn exchange(&mut self, i: u32, with: &mut Buffer) {
        let at = self.wrap(self.next + i) as usize;
        core::mem::swap(&mut self.buffers[at], with);
        self.ring[at].set_address(self.buffers[at].bus());
    }

    /// Clears the status of the next `count` descriptors, ready to be the device's again.
    #[inline]
    pub(crate) fn release(&mut self, count: u32) {
        assert!(count <= self.seen, "release of {count} packets with {} received", self.seen);
        let (from, count) = (self.next as usize, count as usize);
        let first = count.min(self.ring.len() - from);
        self.ring[from..from + first].iter().for_each(|descriptor| descriptor.set_fields(0));
        self.ring[..count - first].iter().for_each(|descriptor| descriptor.set_fields(0));
        self.next = self.wrap((from + count) as u32);
        self.seen -= count as u32;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::dma::tests::{buffers, descriptors};

    fn ring(n: usize) -> RxRing {
        let mut ring = RxRing::new(descriptors(n), buffers(n));
        ring.reset();
        ring
    }

    fn receive(ring: &RxRing, at: usize, len: u64) {
        ring.ring[at].set_fields(GOOD | len);
    }

    #[test]
    fn packets_are_seen_released_and_seen_again_around_the_end() {
        let mut ring = ring(8);
        let mut next = 0;
        for round in 0..20 {
            assert_eq!(ring.available(8), 0);
            for k in 0..5 {
                receive(&ring, (next + k) % 8, 60 + k as u64);
            }
            assert!(ring.has(0) && ring.has(4) && !ring.has(5));
            assert_eq!(ring.available(3), 3, "round {round}");
            assert_eq!(ring.available(8), 5);
            let lens: Vec<usize> = ring.batch(5).map(|slot| slot.len()).collect();
            assert_eq!(lens, [60, 61, 62, 63, 64]);
            assert_eq!(ring.slot(4).len(), 64);
            ring.release(5);
            assert_eq!(ring.untold(), 5);
            ring.set_told();
            next = (next + 5) % 8;
        }
    }

    #[test]
    fn device_that_marks_everything_done_delivers_what_it_owns() {
        let mut ring = ring(8);
        (0..8).for_each(|at| receive(&ring, at, 60));
        assert!(ring.has(6) && !ring.has(7) && !ring.has(100));
        assert_eq!(ring.available(100), 7, "the last one is not the device's");
        ring.release(7);
        assert_eq!(ring.available(100), 0, "the tail has not been told");
    }

    #[test]
    fn errors_and_pieces_are_not_good() {
        let ring = ring(8);
        let good = |fields| {
            ring.ring[0].set_fields(fields);
            RxSlot { buffer: &ring.buffers[0], fields: ring.ring[0].fields() }.is_good()
        };
        assert!(good(GOOD | 60) && good(GOOD | 2048));
        assert!(!good(GOOD | 2049), "longer than the buffer");
        assert!(!good(DD | 60), "no end of packet");
        assert!(!good(GOOD | 60 | u64::from(RxErrors::RXE.bits()) << ERRORS_SHIFT));
        assert!(good(GOOD | 60 | u64::from(RxErrors::IPE.bits()) << ERRORS_SHIFT));
    }
}
