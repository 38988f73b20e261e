//! The transmit ring: filling, reclaiming. When the device is told is decided elsewhere
//! ([`crate::kick`]).
//!
//! ```text
//!        clean             published            next
//!          |                   |                  |
//!   [ free | the device's      | filled, not told | free ... ]
//! ```
//! Invariants: each index is below n; the three are in this order around the ring; at most n - 1
//! descriptors lie between `clean` and `next`. Only `clean` follows what the device says, and never
//! beyond `published`.

use e1000pv::csb::distance;
use e1000pv::desc::{TxCmd, TxStatus};

use crate::config::Report;
use crate::dma::{BUFFER_BYTES, Buffer, Descriptor};
use crate::rx::RxRing;

/// CMD in the second half of a descriptor (8254x manual 3.3.3).
const CMD_SHIFT: u32 = 24;
/// RS in the second half of a descriptor.
const RS: u64 = (TxCmd::RS.bits() as u64) << CMD_SHIFT;
/// DD in the second half of a descriptor.
const DD: u64 = (TxStatus::DD.bits() as u64) << 32;

/// Which descriptors get RS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportAt {
    /// As configured.
    Packets(Report),
    /// Slots 0 and n/2: as many as a host needs that interrupts for descriptors with RS only, when the
    /// driver waits for space.
    Halves,
}

/// A free slot of the ring.
#[derive(Debug)]
pub struct TxSlot<'a> {
    descriptor: &'a Descriptor,
    buffer: &'a Buffer,
    command: u64,
}

impl<'a> TxSlot<'a> {
    /// The slot's buffer.
    #[inline]
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// Makes it a packet of `len` bytes, at most [`BUFFER_BYTES`]. It is the device's once it is
    /// advanced over and flushed.
    #[inline]
    pub fn send(self, len: usize) {
        debug_assert!((1..=BUFFER_BYTES).contains(&len), "no packet has {len} bytes");
        self.descriptor.set_fields(len.min(BUFFER_BYTES) as u64 | self.command);
    }
}

#[derive(Debug)]
pub(crate) struct TxRing {
    ring: &'static [Descriptor],
    buffers: &'static mut [Buffer],
    n: u32,
    clean: u32,
    published: u32,
    next: u32,
    /// First descriptor at or after `clean` that may have RS: those before have been looked at.
    probe: u32,
    /// CMD of every descriptor, in place.
    command: u64,
    report: ReportAt,
}

impl TxRing {
    pub(crate) fn new(
        ring: &'static [Descriptor],
        buffers: &'static mut [Buffer],
        report: ReportAt,
        delayed: bool,
    ) -> TxRing {
        let mut cmd = TxCmd::EOP | TxCmd::IFCS;
        cmd.set(TxCmd::RS, report == ReportAt::Packets(Report::All));
        cmd.set(TxCmd::IDE, delayed);
        let n = ring.len() as u32;
        let command = u64::from(cmd.bits()) << CMD_SHIFT;
        TxRing { ring, buffers, n, clean: 0, published: 0, next: 0, probe: 0, command, report }
    }

    /// Empties the ring and gives each descriptor its buffer; returns how many packets that drops.
    pub(crate) fn reset(&mut self) -> u32 {
        let dropped = self.pending();
        (self.clean, self.published, self.next, self.probe) = (0, 0, 0, 0);
        for (descriptor, buffer) in self.ring.iter().zip(self.buffers.iter()) {
            descriptor.set_address(buffer.bus());
            descriptor.set_fields(0);
        }
        dropped
    }

    /// Number of descriptors.
    pub(crate) fn n(&self) -> u32 {
        self.n
    }

    /// Slots known to be free.
    #[inline]
    pub(crate) fn space(&self) -> u32 {
        self.n - 1 - self.pending()
    }

    /// Packets filled or told, and not known to be sent.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        distance(self.clean, self.next, self.n)
    }

    #[inline]
    pub(crate) fn clean(&self) -> u32 {
        self.clean
    }

    #[inline]
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    #[inline]
    pub(crate) fn published(&self) -> u32 {
        self.published
    }

    /// The device has been told of everything.
    #[inline]
    pub(crate) fn set_published(&mut self) {
        self.published = self.next;
    }

    #[inline]
    pub(crate) fn wrap(&self, index: u32) -> u32 {
        if index >= self.n { index - self.n } else { index }
    }

    /// The free slot `i` places after the next one.
    #[inline]
    pub(crate) fn slot(&self, i: u32) -> TxSlot<'_> {
        debug_assert!(i < self.space(), "slot {i} is not free");
        let at = self.wrap(self.next + i) as usize;
        TxSlot { descriptor: &self.ring[at], buffer: &self.buffers[at], command: self.command }
    }

    /// The next `count` free slots: two runs, so that no index is checked in between.
    #[inline]
    pub(crate) fn batch(&self, count: u32) -> impl Iterator<Item = TxSlot<'_>> {
        debug_assert!(count <= self.space(), "{count} slots are not free");
        let (from, count) = (self.next as usize, count as usize);
        let (low, high) = self.ring.split_at(from);
        let (low_buffers, high_buffers) = self.buffers.split_at(from);
        let command = self.command;
        high.iter()
            .zip(high_buffers)
            .chain(low.iter().zip(low_buffers))
            .take(count)
            .map(move |(descriptor, buffer)| TxSlot { descriptor, buffer, command })
    }

    /// Puts the buffer of a received packet into the free slot `i` places after the next one, and that
    /// slot's buffer in its place. The packet has `len` bytes.
    #[inline]
    pub(crate) fn exchange(&mut self, i: u32, from: &mut RxRing, j: u32, len: usize) {
        let at = self.wrap(self.next + i) as usize;
        from.exchange(j, &mut self.buffers[at]);
        self.ring[at].set_address(self.buffers[at].bus());
        self.ring[at].set_fields(len.min(BUFFER_BYTES) as u64 | self.command);
    }

    /// Takes the next `count` slots as filled.
    #[inline]
    pub(crate) fn advance(&mut self, count: u32) {
        if count == 0 {
            return;
        }
        assert!(count <= self.space(), "advance over {count} slots with {} free", self.space());
        match self.report {
            ReportAt::Packets(Report::All) => {}
            ReportAt::Packets(Report::Batch) => self.report(self.wrap(self.next + count - 1)),
            ReportAt::Halves => {
                for at in [0, self.n / 2] {
                    if distance(self.next, at, self.n) < count {
                        self.report(at);
                    }
                }
            }
        }
        self.next = self.wrap(self.next + count);
    }

    fn report(&self, at: u32) {
        let descriptor = &self.ring[at as usize];
        descriptor.set_fields(descriptor.fields() | RS);
    }

    /// Takes back what the device has reported as done in the descriptors. A report covers all
    /// descriptors before it: the device sends in order.
    pub(crate) fn reclaim_done(&mut self) {
        while self.probe != self.published {
            let fields = self.ring[self.probe as usize].fields();
            if fields & RS != 0 && fields & DD == 0 {
                return;
            }
            self.probe = self.wrap(self.probe + 1);
            if fields & RS != 0 {
                self.clean = self.probe;
            }
        }
    }

    /// Takes back everything before `tdh`, the device's word; false if it is outside of what the
    /// device was given.
    #[inline]
    pub(crate) fn reclaim_to(&mut self, tdh: u32) -> bool {
        if tdh >= self.n
            || distance(self.clean, tdh, self.n) > distance(self.clean, self.published, self.n)
        {
            return false;
        }
        self.clean = tdh;
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::dma::tests::{buffers, descriptors};

    fn ring(n: usize, report: ReportAt) -> TxRing {
        let mut ring = TxRing::new(descriptors(n), buffers(n), report, false);
        assert_eq!(ring.reset(), 0);
        ring
    }

    fn fill(ring: &mut TxRing, count: u32) {
        ring.batch(count).for_each(|slot| slot.send(60));
        ring.advance(count);
    }

    fn done(ring: &TxRing, at: usize) {
        ring.ring[at].set_fields(ring.ring[at].fields() | DD);
    }

    fn reports(ring: &TxRing) -> Vec<usize> {
        (0..ring.ring.len()).filter(|&at| ring.ring[at].fields() & RS != 0).collect()
    }

    #[test]
    fn batch_wraps_and_agrees_with_slots() {
        let mut ring = ring(8, ReportAt::Halves);
        fill(&mut ring, 6);
        ring.set_published();
        assert!(ring.reclaim_to(6));
        let by_batch: Vec<u64> = ring.batch(7).map(|slot| slot.buffer().bus()).collect();
        let by_index: Vec<u64> = (0..7).map(|i| ring.slot(i).buffer().bus()).collect();
        assert_eq!(by_batch, by_index);
    }

    #[test]
    fn reports_are_where_they_were_asked_for() {
        let mut all = ring(8, ReportAt::Packets(Report::All));
        fill(&mut all, 3);
        assert_eq!(reports(&all), [0, 1, 2]);
        let mut batch = ring(8, ReportAt::Packets(Report::Batch));
        fill(&mut batch, 3);
        fill(&mut batch, 2);
        assert_eq!(reports(&batch), [2, 4]);
        let mut halves = ring(8, ReportAt::Halves);
        fill(&mut halves, 2);
        fill(&mut halves, 5);
        assert_eq!(reports(&halves), [0, 4]);
    }

    #[test]
    fn report_covers_the_packets_before_it() {
        let mut ring = ring(8, ReportAt::Packets(Report::Batch));
        fill(&mut ring, 3);
        fill(&mut ring, 2);
        ring.set_published();
        ring.reclaim_done();
        assert_eq!(ring.space(), 2);
        done(&ring, 2);
        ring.reclaim_done();
        assert_eq!(ring.space(), 5);
        done(&ring, 4);
        ring.reclaim_done();
        assert_eq!((ring.space(), ring.pending()), (7, 0));
    }

    #[test]
    fn descriptors_that_the_device_was_not_told_of_stay() {
        let mut ring = ring(8, ReportAt::Packets(Report::All));
        fill(&mut ring, 2);
        ring.set_published();
        fill(&mut ring, 2);
        (0..4).for_each(|at| done(&ring, at));
        ring.reclaim_done();
        assert_eq!(ring.pending(), 2, "a hostile device reports what it does not own");
    }

    #[test]
    fn head_outside_of_the_published_is_refused() {
        let mut ring = ring(8, ReportAt::Halves);
        fill(&mut ring, 3);
        ring.set_published();
        fill(&mut ring, 2);
        for wild in [4, 5, 7, 8, u32::MAX] {
            assert!(!ring.reclaim_to(wild), "{wild}");
        }
        assert!(ring.reclaim_to(2) && ring.reclaim_to(3));
        assert!(!ring.reclaim_to(2), "backwards");
    }

    #[test]
    fn reset_drops_what_was_not_sent() {
        let mut ring = ring(8, ReportAt::Packets(Report::All));
        fill(&mut ring, 5);
        ring.set_published();
        assert_eq!(ring.reset(), 5);
        assert_eq!((ring.space(), ring.next()), (7, 0));
    }
}
