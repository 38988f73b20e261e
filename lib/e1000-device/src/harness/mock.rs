//! A port without a network, for tests, fuzzing and benchmarks: what was sent is kept or thrown away,
//! what is to be received is put in by hand.
//!
//! Invariant: it keeps the promises of `NetPort`, and its whims (taking only so many slots per sync)
//! are set from outside, so a test is deterministic.

use std::collections::VecDeque;
use std::fmt;

use shared_bytes::Span;

use crate::loopback::SLOT_BYTES;
use crate::port::{Await, NetPort, RxSlots, TxSlots};

/// A slot that is queued.
#[derive(Clone, Copy, Debug)]
struct Queued {
    /// Address in guest memory, or null: in `buffers`.
    data: *mut u8,
    len: usize,
    more: bool,
}

/// The port.
pub struct MockPort {
    slots: usize,
    /// Addresses are kept, and data are copied when a slot is taken.
    indirect: bool,
    queue: Vec<Queued>,
    buffers: Vec<u8>,
    /// Slots that `tx_sync` takes in the next calls: one number per call; then all.
    takes: VecDeque<usize>,
    /// Packets sent, if they are kept.
    sent: Option<Vec<Vec<u8>>>,
    /// Number of packets sent.
    count: u64,
    partial: Vec<u8>,
    source: Vec<u8>,
    endless: usize,
    /// Packets not received yet: slots with a flag each.
    received: VecDeque<(Vec<u8>, bool)>,
    /// Of these, as many as `rx_sync` has shown.
    shown: usize,
    armed: Await,
    missed: u64,
    /// Its TX indices are out of range until a sync.
    damaged: bool,
}

impl fmt::Debug for MockPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockPort")
            .field("queued", &self.queue.len())
            .field("received", &self.received.len())
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}

// SAFETY: the addresses in `queue` are guest memory, which any thread may read at any time.
unsafe impl Send for MockPort {}

impl MockPort {
    /// A port with rings of `slots`. `indirect`: keeps addresses until slots are taken; whoever fills
    /// slots keeps that memory mapped.
    #[must_use]
    pub fn new(slots: usize, indirect: bool) -> Self {
        Self {
            slots,
            indirect,
            queue: Vec::with_capacity(slots),
            buffers: vec![0; slots * SLOT_BYTES],
            takes: VecDeque::new(),
            sent: Some(Vec::new()),
            count: 0,
            partial: Vec::new(),
            source: Vec::new(),
            endless: 0,
            received: VecDeque::new(),
            shown: 0,
            armed: Await::empty(),
            missed: 0,
            damaged: false,
        }
    }

    /// Throws away what is sent.
    #[must_use]
    pub fn sink(mut self) -> Self {
        self.sent = None;
        self
    }

    /// Has always a ring full of copies of this packet to receive.
    ///
    /// # Panics
    /// It is longer than a slot.
    #[must_use]
    pub fn endless(mut self, packet: &[u8]) -> Self {
        assert!(packet.len() <= SLOT_BYTES, "one slot");
        self.source = packet.to_vec();
        self.endless = self.slots - 1;
        self
    }

    /// Lets the next sync take at most so many slots; calls add up to a list.
    pub fn take_next(&mut self, slots: usize) {
        self.takes.push_back(slots);
    }

    /// Shows no free slots until the next sync, as a ring does whose indices a peer has damaged.
    pub fn damage(&mut self) {
        self.damaged = true;
    }

    /// Packets sent since the last call.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        self.sent.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many packets were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.count
    }

    /// Offers a packet, in slots of at most `slot_bytes`. False: the ring is full, dropped.
    pub fn offer(&mut self, packet: &[u8], slot_bytes: usize) -> bool {
        let count = packet.len().div_ceil(slot_bytes).max(1);
        if self.received.len() + count > self.slots - 1 {
            self.missed += 1;
            return false;
        }
        for i in 0..count {
            let end = packet.len().min((i + 1) * slot_bytes);
            self.received.push_back((packet[i * slot_bytes..end].to_vec(), i + 1 < count));
        }
        true
    }

    /// Whether what it was last armed for has happened: there is no descriptor, so a test asks.
    #[must_use]
    pub fn rings_bell(&self) -> bool {
        self.armed.contains(Await::PACKET) && !self.received.is_empty()
            || self.armed.contains(Await::SPACE)
    }

    /// A port like this one that is sent the same packets: for a device that goes on where the device of
    /// this one is. What it has sent stays behind.
    ///
    /// # Panics
    /// If something is queued.
    #[must_use]
    pub fn twin(&self) -> Self {
        assert!(self.queue.is_empty(), "a device whose state was saved has nothing queued");
        Self {
            takes: self.takes.clone(),
            received: self.received.clone(),
            damaged: self.damaged,
            ..Self::new(self.slots, self.indirect)
        }
    }

    /// Slots offered and not received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.received.len()
    }
}

/// Free slots of a mock port.
#[derive(Debug)]
pub struct MockTx<'a> {
    port: &'a mut MockPort,
    space: usize,
}

impl TxSlots for MockTx<'_> {
    const SLOT_BYTES: usize = SLOT_BYTES;

    fn space(&self) -> usize {
        self.space
    }

    fn num_slots(&self) -> usize {
        self.port.slots
    }

    #[inline]
    fn put(&mut self, at: usize, bytes: Span<'_>, more: bool) {
        assert!(at < self.space && bytes.len() <= SLOT_BYTES, "a free slot, and what fits");
        let number = self.port.queue.len();
        let (mut data, len) = (bytes.as_ptr(), bytes.len());
        if !self.port.indirect {
            // Buffers are reused in turns; those of queued slots are not, since there are as many.
            let place = self.port.buffer(number);
            bytes.copy_to(&mut self.port.buffers[place..][..len]);
            data = std::ptr::null_mut();
        }
        self.port.queue.push(Queued { data, len, more });
    }

    fn put_copy(&mut self, at: usize, bytes: &[u8], more: bool) {
        assert!(at < self.space && bytes.len() <= SLOT_BYTES, "a free slot, and what fits");
        let place = self.port.buffer(self.port.queue.len());
        self.port.buffers[place..][..bytes.len()].copy_from_slice(bytes);
        self.port.queue.push(Queued { data: std::ptr::null_mut(), len: bytes.len(), more });
    }

    fn commit(self, n: usize) {
        let left = self.port.slots - 1 - self.space;
        let filled = self.port.damaged || self.port.queue.len() == left + n;
        assert!(filled, "what was filled is queued");
    }
}

impl MockPort {
    fn buffer(&self, number: usize) -> usize {
        number * SLOT_BYTES
    }

    fn take(&mut self, number: usize) {
        let Queued { data, len, more } = self.queue[number];
        let have = self.partial.len();
        self.partial.resize(have + len, 0);
        if data.is_null() {
            let place = self.buffer(number);
            self.partial[have..].copy_from_slice(&self.buffers[place..place + len]);
        } else {
            // SAFETY: a span of that length was put, and whoever put it keeps it mapped (`new`).
            unsafe { Span::new(data, len) }.copy_to(&mut self.partial[have..]);
        }
        if !more {
            self.count += 1;
            match &mut self.sent {
                Some(sent) => sent.push(std::mem::take(&mut self.partial)),
                None => self.partial.clear(),
            }
        }
    }
}

/// Received slots of a mock port.
#[derive(Debug)]
pub struct MockRx<'a> {
    port: &'a mut MockPort,
}

impl RxSlots for MockRx<'_> {
    #[inline]
    fn available(&self) -> usize {
        self.port.shown
    }

    #[inline]
    fn frame(&self, at: usize) -> (Span<'_>, bool) {
        assert!(at < self.port.shown, "a received slot");
        let (bytes, more) = match self.port.endless {
            0 => (&self.port.received[at].0, self.port.received[at].1),
            _ => (&self.port.source, false),
        };
        // SAFETY: the vector lives and stays as it is while `self` is borrowed; it is not written.
        let span = unsafe { Span::new(bytes.as_ptr().cast_mut(), bytes.len()) };
        (span, more)
    }

    fn prefetch(&self, _: usize) {}

    fn release(self, n: usize) {
        assert!(n <= self.port.shown, "received slots");
        self.port.shown -= n;
        if self.port.endless == 0 {
            self.port.received.drain(..n);
        }
    }
}

impl NetPort for MockPort {
    type Tx<'a> = MockTx<'a>;
    type Rx<'a> = MockRx<'a>;

    fn tx_slots(&self) -> usize {
        self.slots
    }

    fn tx(&mut self) -> MockTx<'_> {
        let free = self.slots - 1 - self.queue.len();
        let space = if self.damaged { 0 } else { free };
        MockTx { port: self, space }
    }

    fn tx_sync(&mut self) -> usize {
        self.damaged = false;
        let most = self.takes.pop_front().unwrap_or(usize::MAX);
        let mut taken = self.queue.len().min(most);
        // Whole packets only.
        while taken > 0 && self.queue[taken - 1].more {
            taken -= 1;
        }
        if self.sent.is_some() {
            for number in 0..taken {
                self.take(number);
            }
        } else {
            self.count += self.queue[..taken].iter().filter(|slot| !slot.more).count() as u64;
        }
        let left = self.queue.len() - taken;
        if left > 0 {
            self.buffers.copy_within(taken * SLOT_BYTES..(taken + left) * SLOT_BYTES, 0);
        }
        self.queue.drain(..taken);
        left
    }

    fn tx_lost(&self) -> u64 {
        0
    }

    fn tx_withdraw(&mut self) -> usize {
        self.queue.drain(..).count()
    }

    fn rx_slots(&self) -> usize {
        self.slots
    }

    fn rx(&mut self) -> MockRx<'_> {
        MockRx { port: self }
    }

    fn rx_sync(&mut self) {
        self.shown = if self.endless > 0 { self.endless } else { self.received.len() };
    }

    fn rx_discard(&mut self) {
        self.received.clear();
        self.shown = 0;
    }

    fn rx_missed(&self) -> u64 {
        self.missed
    }

    fn arm(&mut self, what: Await) -> bool {
        self.armed = what;
        self.rx_sync();
        let space = what.contains(Await::SPACE) && {
            let before = self.queue.len();
            self.tx_sync() < before
        };
        !(space || what.contains(Await::PACKET) && self.shown > 0)
    }

    fn disarm(&mut self) {
        self.armed = Await::empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_takes_whole_packets_only_and_keeps_the_rest() {
        let mut port = MockPort::new(8, false);
        let mut tx = port.tx();
        tx.put_copy(0, &[1; 20], false);
        tx.put_copy(1, &[2; 30], true);
        tx.put_copy(2, &[3; 5], false);
        tx.commit(3);
        port.take_next(2);
        assert_eq!(port.tx_sync(), 2);
        assert_eq!(port.take_sent(), [vec![1; 20]]);
        assert_eq!((port.tx().space(), port.tx_sync()), (5, 0));
        assert_eq!(port.take_sent(), [[vec![2; 30], vec![3; 5]].concat()]);
    }

    #[test]
    fn offer_splits_and_refuses_what_does_not_fit() {
        let mut port = MockPort::new(4, false);
        assert!(port.offer(&[1; 100], 60) && !port.offer(&[1; 100], 60));
        port.rx_sync();
        let rx = port.rx();
        assert_eq!(rx.available(), 2);
        assert_eq!(
            [rx.frame(0), rx.frame(1)].map(|(s, more)| (s.len(), more)),
            [(60, true), (40, false)]
        );
        rx.release(2);
        assert_eq!(port.waiting(), 0);
    }
}
