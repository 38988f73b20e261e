//! Rings as a program uses them: cursors over the slots between `head` and `tail`.
//!
//! ```text
//!   TX: [head, tail) are free: fill and advance; txsync sends them
//!   RX: [head, tail) are received: read and advance; rxsync gives them back
//! ```
//!
//! Who writes what: `head`, `cur` and the slots handed out by the program, through this module;
//! `tail` by txsync and rxsync. Invariant: a cursor copies `head` and `tail` once and checks them,
//! so slot numbers are below `num_slots`, and buffer numbers are checked against the region before
//! an address is made of them, whatever a peer wrote.

use crate::abi::{RING_HEADER_BYTES, RawRing, RawSlot, SlotFlags, SlotValue};
use crate::copy;
use crate::shm::mem::{BufferView, Cell, Region};
use crate::sync::core_atomic::Ordering;
use shared_bytes::Span as Frame;

/// A ring in its region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingRef<'a> {
    pub raw: &'a RawRing,
    pub slots: &'a [RawSlot],
    pub buffers: BufferView<'a>,
}

/// Bytes that a ring of `n` slots takes.
pub(crate) const fn ring_bytes(n: u32) -> usize {
    RING_HEADER_BYTES + n as usize * size_of::<RawSlot>()
}

impl<'a> RingRef<'a> {
    /// The ring of `n` slots at `cell`, if it lies within the region's cells.
    // Always: as a call, its result is written in words and read back in lines, which waits for the words.
    #[inline(always)]
    pub fn new(region: &'a Region, cell: Cell, n: u32) -> Option<Self> {
        let slots = region.slice(cell, RING_HEADER_BYTES, n as usize)?;
        Some(Self { raw: region.at(cell, 0)?, slots, buffers: region.buffers() })
    }

    /// Number of slots.
    #[inline]
    pub fn n(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Distance from `from` to `to` going forward. Both below n.
    #[inline]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.n() - from }
    }

    /// The slot `k` (at most n) after `from` (below n).
    #[inline]
    pub fn step(&self, from: u32, k: u32) -> u32 {
        let i = from + k;
        if i >= self.n() { i - self.n() } else { i }
    }

    /// Copies a slot out.
    #[inline]
    pub fn load(&self, i: u32) -> SlotValue {
        SlotValue::unpack(self.slots[i as usize].word.load(Ordering::Relaxed))
    }

    /// The buffers that its slots name now.
    pub fn named_buffers(self) -> impl Iterator<Item = Cell> + use<'a> {
        (0..self.n()).map(move |i| Cell(self.load(i).buf_idx))
    }

    /// Address of a buffer, if there is one of that number.
    #[inline]
    pub fn buffer(&self, idx: u32) -> Option<*mut u8> {
        self.buffers.at(idx)
    }

    /// Bytes that a buffer holds.
    #[inline]
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.stride
    }

    /// The data of a slot. One that names no buffer gets buffer 0, which netmap reserves for that:
    /// always there, never anybody's.
    pub fn frame(&self, slot: SlotValue, len: usize) -> Frame<'a> {
        let ptr = self.buffer(slot.buf_idx).unwrap_or(self.buffers.first);
        // SAFETY: a buffer is that long and within the memory, which outlives 'a; buffer 0 is there
        // from its creation on.
        unsafe { Frame::new(ptr, len.min(self.buffer_bytes())) }
    }

    /// Whether a sync would change nothing: the program has gone no further than `hwcur`, and sees
    /// `hwtail` already.
    #[inline]
    pub fn is_idle(&self, hwcur: u32, hwtail: u32) -> bool {
        self.raw.tail.load(Ordering::Relaxed) == hwtail
            && self.head_in_order(hwcur, hwtail) == Some(hwcur)
    }

    /// The program's `head`, if netmap's rule holds: hwcur <= head <= cur <= hwtail, going round.
    /// `hwcur` and `hwtail` are below n.
    #[inline]
    pub fn head_in_order(&self, hwcur: u32, hwtail: u32) -> Option<u32> {
        let head = self.raw.head.load(Ordering::Relaxed);
        let cur = self.raw.cur.load(Ordering::Relaxed);
        let in_order = head < self.n()
            && cur < self.n()
            && self.distance(hwcur, head) <= self.distance(hwcur, cur)
            && self.distance(hwcur, cur) <= self.distance(hwcur, hwtail);
        in_order.then_some(head)
    }

    /// Sets the indices after damage, as netmap does: everything back to what the library knows,
    /// slots that name no buffer or too much of one emptied.
    #[cold]
    pub fn reinit(&self, hwcur: u32, hwtail: u32) {
        for slot in self.slots {
            let word = slot.word.load(Ordering::Relaxed);
            let mut v = SlotValue::unpack(word);
            let bad_index = self.buffer(v.buf_idx).is_none();
            if bad_index || usize::from(v.len) > self.buffer_bytes() {
                v.len = 0;
                if bad_index {
                    v.buf_idx = 0;
                }
                // Unless a sender, whose slot it may be, has put another buffer there meanwhile.
                let relaxed = Ordering::Relaxed;
                let _ = slot.word.compare_exchange(word, v.pack(), relaxed, relaxed);
            }
        }
        self.raw.head.store(hwcur, Ordering::Relaxed);
        self.raw.cur.store(hwcur, Ordering::Relaxed);
        self.raw.tail.store(hwtail, Ordering::Relaxed);
    }

    /// `head` and `tail`, or an empty range if a peer has made nonsense of them.
    fn range(&self) -> (u32, u32) {
        let head = self.raw.head.load(Ordering::Relaxed);
        // Pairs with the Release store of `tail` by a sync in another thread of the same port.
        let tail = self.raw.tail.load(Ordering::Acquire);
        if head < self.n() && tail < self.n() { (head, tail) } else { (0, 0) }
    }

    /// Whether the program has something to do with the ring: netmap's rule, `cur` is not at `tail`.
    /// Indices that `range` takes for an empty ring are none here either; whoever judged them by two
    /// rules would be woken for ever to find nothing.
    pub fn is_ready(&self) -> bool {
        let (head, tail) = self.range();
        let cur = self.raw.cur.load(Ordering::Relaxed);
        head != tail && cur < self.n() && cur != tail
    }

    fn set_head(&self, head: u32) {
        self.raw.head.store(head, Ordering::Relaxed);
        self.raw.cur.store(head, Ordering::Relaxed);
    }
}

/// Received packets of one ring, until the next rxsync.
#[derive(Debug)]
pub struct RxRing<'a> {
    ring: RingRef<'a>,
    head: u32,
    tail: u32,
}

impl<'a> RxRing<'a> {
    pub(crate) fn new(ring: RingRef<'a>) -> Self {
        let (head, tail) = ring.range();
        Self { ring, head, tail }
    }

    /// Slots of the ring.
    #[must_use]
    pub fn num_slots(&self) -> usize {
        self.ring.slots.len()
    }

    /// Received slots.
    #[inline]
    #[must_use]
    pub fn available(&self) -> usize {
        self.ring.distance(self.head, self.tail) as usize
    }

    /// The `i`th received slot.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    #[must_use]
    pub fn slot(&self, i: usize) -> Slot<'a> {
        assert!(i < self.available(), "slot beyond tail");
        self.at(self.ring.step(self.head, i as u32))
    }

    fn at(&self, index: u32) -> Slot<'a> {
        Slot { ring: self.ring, index, value: self.ring.load(index) }
    }

    /// At most `max` received slots in order. Data of later ones is fetched while earlier ones are
    /// looked at.
    #[inline]
    pub fn batch(&self, max: usize) -> impl Iterator<Item = Slot<'a>> + use<'a> {
        let ring = self.ring;
        let count = self.available().min(max) as u32;
        let head = self.head;
        (0..count).map(move |i| {
            if i + AHEAD < count {
                let later = ring.load(ring.step(head, i + AHEAD));
                // Prefetching any address is harmless, so the number needs no check.
                let p = ring.buffers.anywhere(later.buf_idx);
                copy::prefetch_read(p);
            }
            let index = ring.step(head, i);
            Slot { ring, index, value: ring.load(index) }
        })
    }

    /// Gives the first `n` slots back.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.available(), "head beyond tail");
        self.head = self.ring.step(self.head, n as u32);
        self.ring.set_head(self.head);
    }
}

/// A TX ring with what the program may not write.
#[derive(Clone, Copy, Debug)]
pub struct TxRingRef<'a> {
    /// The ring.
    pub ring: RingRef<'a>,
    /// Its first slot that is not the program's again.
    pub hwcur: u32,
    /// Its first slot that was not sent: on a pipe, what lies between the two is the reader's.
    pub sent: u32,
}

impl<'a> TxRingRef<'a> {
    /// A ring whose slots are the program's again as soon as they are sent.
    #[inline]
    pub fn new(ring: RingRef<'a>, hwcur: u32) -> Self {
        Self { ring, hwcur, sent: hwcur }
    }
}

/// How many packets ahead data is fetched: covers a cache-to-cache transfer at some 10 ns a packet.
const AHEAD: u32 = 8;

/// A received slot, copied out.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    ring: RingRef<'a>,
    index: u32,
    value: SlotValue,
}

impl<'a> Slot<'a> {
    /// Bytes of data in this slot's buffer.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        usize::from(self.value.len)
    }

    /// Whether the packet goes on in the next slot.
    #[inline]
    #[must_use]
    pub fn more_frag(&self) -> bool {
        self.flags().contains(SlotFlags::MOREFRAG)
    }

    /// Flags, of which a VALE port sets `MOREFRAG` and the number of fragments.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> SlotFlags {
        SlotFlags::from_bits_retain(self.value.flags)
    }

    /// The data.
    #[inline]
    #[must_use]
    pub fn frame(&self) -> Frame<'a> {
        self.ring.frame(self.value, self.len())
    }

    /// Where in its buffer the data begin, on a port with offsets (`Options::offsets`): `frame_at` takes it.
    #[must_use]
    pub fn offset(&self) -> usize {
        let ptr = self.ring.slots[self.index as usize].ptr.load(Ordering::Relaxed);
        (ptr & self.ring.raw.offset_mask.load(Ordering::Relaxed)) as usize
    }

    /// The data, if they begin there in the buffer; as much of them as lies in it.
    #[must_use]
    pub fn frame_at(&self, offset: usize) -> Frame<'a> {
        let buffer = self.ring.frame(self.value, self.ring.buffer_bytes());
        let offset = offset.min(buffer.len());
        let len = self.len().min(buffer.len() - offset);
        // SAFETY: that part of the buffer.
        unsafe { Frame::new(buffer.as_ptr().wrapping_add(offset), len) }
    }

    /// Number of the slot's buffer.
    #[must_use]
    pub fn buf_idx(&self) -> u32 {
        self.value.buf_idx
    }

    /// Puts another buffer of the same region into the slot and returns the one that was there.
    pub fn swap_buffer(&mut self, buf_idx: u32) -> u32 {
        let old = std::mem::replace(&mut self.value.buf_idx, buf_idx);
        self.value.flags |= SlotFlags::BUF_CHANGED.bits();
        self.ring.slots[self.index as usize].word.store(self.value.pack(), Ordering::Relaxed);
        old
    }
}

/// Free slots of one ring, until the next txsync.
#[derive(Debug)]
pub struct TxRing<'a> {
    ring: RingRef<'a>,
    head: u32,
    tail: u32,
    hwcur: u32,
    sent: u32,
}

impl<'a> TxRing<'a> {
    pub(crate) fn new(TxRingRef { ring, hwcur, sent }: TxRingRef<'a>) -> Self {
        let (head, tail) = ring.range();
        Self { ring, head, tail, hwcur, sent }
    }

    /// Slots of the ring.
    #[must_use]
    pub fn num_slots(&self) -> usize {
        self.ring.slots.len()
    }

    /// Free slots.
    #[inline]
    #[must_use]
    pub fn space(&self) -> usize {
        self.ring.distance(self.head, self.tail) as usize
    }

    /// Bytes that a slot's buffer holds.
    #[must_use]
    pub fn buf_bytes(&self) -> usize {
        self.ring.buffer_bytes()
    }

    /// Slots filled and not yet sent; on a pipe, also those that its reader has not released.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.since(self.hwcur)
    }

    /// Slots filled from `first` on.
    fn since(&self, first: u32) -> usize {
        if first >= self.ring.n() {
            return 0;
        }
        self.ring.distance(first, self.head) as usize
    }

    /// The `i`th free slot.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    #[must_use]
    pub fn slot(&mut self, i: usize) -> TxSlot<'a> {
        assert!(i < self.space(), "slot beyond tail");
        TxSlot { ring: self.ring, index: self.ring.step(self.head, i as u32) }
    }

    /// Queues the first `n` slots for the next txsync.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.space(), "head beyond tail");
        self.head = self.ring.step(self.head, n as u32);
        self.ring.set_head(self.head);
    }

    /// Takes back what is queued and was not sent, so that the memory that its slots name is no longer
    /// needed; returns how many slots that were.
    pub fn withdraw(&mut self) -> usize {
        let n = self.since(self.sent);
        if n > 0 {
            self.head = self.sent;
            self.ring.set_head(self.head);
        }
        n
    }

    /// Queues one packet, copied to as many slots as it needs. False: not enough space, nothing
    /// queued.
    #[inline]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let slots = packet.len().div_ceil(self.buf_bytes()).max(1);
        if slots > self.space() {
            return false;
        }
        let mut rest = packet;
        for i in 0..slots {
            let (part, after) = rest.split_at(rest.len().min(self.buf_bytes()));
            let slot = self.slot(i);
            slot.frame().write(0, part);
            let more = if i + 1 < slots { SlotFlags::MOREFRAG } else { SlotFlags::empty() };
            slot.set(part.len(), more);
            rest = after;
        }
        self.advance(slots);
        true
    }
}

/// A free slot to fill.
#[derive(Clone, Copy, Debug)]
pub struct TxSlot<'a> {
    ring: RingRef<'a>,
    index: u32,
}

impl<'a> TxSlot<'a> {
    /// Bytes that fit the slot's buffer.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.buffer_bytes()
    }

    /// Number of the slot in its ring: stable, so that a program can remember what its buffer
    /// holds.
    #[inline]
    #[must_use]
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// The whole buffer.
    #[inline]
    #[must_use]
    pub fn frame(&self) -> Frame<'a> {
        self.ring.frame(self.ring.load(self.index), self.capacity())
    }

    /// Says how many bytes of the buffer to send. `INDIRECT` is ignored here: see `set_indirect`.
    ///
    /// # Panics
    /// `len` is more than the buffer holds.
    #[inline]
    pub fn set(&self, len: usize, flags: SlotFlags) {
        assert!(len <= self.capacity(), "longer than the buffer");
        let slot = &self.ring.slots[self.index as usize];
        let old = SlotValue::unpack(slot.word.load(Ordering::Relaxed));
        let flags = flags.difference(SlotFlags::INDIRECT).bits();
        let new = SlotValue { buf_idx: old.buf_idx, len: len as u16, flags };
        slot.word.store(new.pack(), Ordering::Relaxed);
    }

    /// Says where in the buffer the data begin, on a port with offsets.
    pub fn set_offset(&self, offset: usize) {
        let mask = self.ring.raw.offset_mask.load(Ordering::Relaxed);
        let ptr = &self.ring.slots[self.index as usize].ptr;
        let others = ptr.load(Ordering::Relaxed) & !mask;
        ptr.store(others | offset as u64 & mask, Ordering::Relaxed);
    }

    /// Sends `len` bytes at `data` instead of the buffer: they are copied inside txsync. The bytes
    /// must lie in memory that the port was told about (`Port::allow_indirect`, `allow_indirect_anywhere`), else txsync drops
    /// the packet: the slot itself is in shared memory, where a peer could write any address.
    ///
    /// # Panics
    /// `len` is more than a destination's buffer holds.
    #[inline]
    pub fn set_indirect(&self, data: *const u8, len: usize, flags: SlotFlags) {
        assert!(len <= self.capacity(), "longer than a destination's buffer");
        let slot = &self.ring.slots[self.index as usize];
        slot.ptr.store(data as u64, Ordering::Relaxed);
        let old = SlotValue::unpack(slot.word.load(Ordering::Relaxed));
        let flags = (flags | SlotFlags::INDIRECT).bits();
        let new = SlotValue { buf_idx: old.buf_idx, len: len as u16, flags };
        slot.word.store(new.pack(), Ordering::Relaxed);
    }

    /// Number of the slot's buffer.
    #[must_use]
    pub fn buf_idx(&self) -> u32 {
        self.ring.load(self.index).buf_idx
    }

    /// Whether the slot has got another buffer since it was set: a zero-copy monitor has the one that was sent.
    #[inline]
    #[must_use]
    pub fn buf_changed(&self) -> bool {
        let flags = SlotFlags::from_bits_retain(self.ring.load(self.index).flags);
        flags.contains(SlotFlags::BUF_CHANGED)
    }

    /// Puts another buffer of the same region into the slot and returns the one that was there.
    pub fn swap_buffer(&self, buf_idx: u32) -> u32 {
        let slot = &self.ring.slots[self.index as usize];
        let old = SlotValue::unpack(slot.word.load(Ordering::Relaxed));
        let flags = old.flags | SlotFlags::BUF_CHANGED.bits();
        slot.word.store(SlotValue { buf_idx, flags, ..old }.pack(), Ordering::Relaxed);
        old.buf_idx
    }
}

/// What `transfer` moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Slots.
    pub slots: usize,
    /// Whole packets.
    pub packets: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Moves whole packets from a receive ring to a transmit ring, at most `max_slots` slots: by
/// exchanging buffers if `zero_copy` (both rings must be in one memory region, see
/// `Port::same_memory`; otherwise it copies all the same), else by copying.
pub fn transfer(
    from: &mut RxRing<'_>,
    to: &mut TxRing<'_>,
    max_slots: usize,
    zero_copy: bool,
) -> Moved {
    transfer_packets(from, to, max_slots, usize::MAX, zero_copy)
}

/// As `transfer`, but at most `max_packets` packets.
pub fn transfer_packets(
    from: &mut RxRing<'_>,
    to: &mut TxRing<'_>,
    max_slots: usize,
    max_packets: usize,
    zero_copy: bool,
) -> Moved {
    let zero_copy = zero_copy && from.ring.buffers.same_as(&to.ring.buffers);
    let room = from.available().min(to.space()).min(max_slots);
    let mut done = Moved::default();
    while done.packets < max_packets
        && let Some(slots) = packet_slots(from, done.slots, room)
    {
        for i in done.slots..done.slots + slots {
            done.bytes += move_slot(from.slot(i), to.slot(i), zero_copy);
        }
        done.slots += slots;
        done.packets += 1;
    }
    if done.slots == 0 && max_packets > 0 && room == from.num_slots().min(to.num_slots()) - 1 {
        // A chain as long as a ring never ends: drop it, or it blocks the bridge for ever.
        from.advance(room);
        return done;
    }
    from.advance(done.slots);
    to.advance(done.slots);
    done
}

/// Slots of the packet that begins at the `first`th slot, if it ends before the `room`th.
#[inline]
fn packet_slots(from: &RxRing<'_>, first: usize, room: usize) -> Option<usize> {
    let last = (first..room).find(|&i| !from.slot(i).more_frag())?;
    Some(last + 1 - first)
}

#[inline]
fn move_slot(mut slot: Slot<'_>, out: TxSlot<'_>, zero_copy: bool) -> usize {
    let more = slot.flags() & SlotFlags::MOREFRAG;
    if zero_copy {
        let len = slot.len().min(out.capacity());
        let buffer = slot.swap_buffer(out.buf_idx());
        out.swap_buffer(buffer);
        out.set(len, more | SlotFlags::BUF_CHANGED);
        return len;
    }
    let (src, dst) = (slot.frame(), out.frame());
    let len = src.len().min(dst.len());
    // SAFETY: both are within buffers of mapped regions, `len` bytes each. Should damage have put
    // one buffer into both slots, an overlapping copy yields a mixed packet and nothing worse.
    unsafe { copy::bytes(dst.as_ptr(), src.as_ptr(), len) };
    out.set(len, more);
    len
}

#[cfg(test)]
mod tests;
