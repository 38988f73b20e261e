//! Writing to a destination's receive ring: hold it, put packets, publish once, let go, ring the
//! bells of who sleeps there.
//!
//! Invariant: between `hold` and `finish` nobody else writes to the ring; what was put is seen by
//! the receiver only after `finish`, all at once; whoever dies in between has put nothing.

use std::time::{Duration, Instant};

use crate::abi::{RawSlot, SlotValue};
use crate::copy::{self, Isa};
use crate::stats::{C, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::vale::forward::inner::{AHEAD, Buffers, Copied, Stretch};
use crate::vale::forward::job::{Destinations, Job};
use crate::vale::forward::warm::Warm;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::{ParticipantId, RETIRED, RingNumber};
use crate::vale::state::kring::{Held, Kring, OnHeld};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::SwitchFile;

mod exchange;

pub use exchange::{hold_of_monitor, mend};

/// How long a sender waits for a ring that another sender holds before it gives up.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// How long one txsync of a port may still wait for rings that other senders hold. A process that is
/// stopped, or means ill, may hold hundreds of rings, and a flood goes to all of them.
#[derive(Debug)]
pub struct WaitBudget(Duration);

impl Default for WaitBudget {
    fn default() -> Self {
        Self(2 * LONGEST_WAIT)
    }
}

/// Why a ring could not be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// Another sender has it, and has had it for long.
    Busy,
    /// A peer has scribbled over its state.
    Damaged,
}

/// The place in a held ring: numbers only, so that several rings can be held at once without
/// borrowing their peers.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Ring number.
    pub ring: RingNumber,
    /// Next slot to write.
    tail: u32,
    /// Slots free.
    pub space: u32,
}

/// Holds RX ring `ring` of a peer and reads how much fits.
// Always: as `RingRef::new`.
#[inline(always)]
pub fn hold(
    switch: &SwitchFile,
    to: &PortFiles,
    ring: RingNumber,
    me: ParticipantId,
    budget: &mut WaitBudget,
) -> std::result::Result<Lease, NotHeld> {
    if take(switch, to.file.kring(ring), me, budget) {
        lease(to, ring, me)
    } else {
        Err(NotHeld::Busy)
    }
}

/// Who has taken a ring: mends it if that is needed, and reads how much fits.
#[inline]
fn lease(
    to: &PortFiles,
    ring: RingNumber,
    me: ParticipantId,
) -> std::result::Result<Lease, NotHeld> {
    let kring = to.file.kring(ring);
    let n = to.file.shape.rings.rx_slots;
    let freed = kring.freed();
    let mut tail = kring.producer_tail();
    if tail >= n {
        tail = freed; // damaged by a peer: begin anew where the consumer stands
    }
    if freed >= n || to.rx_ring(ring).is_none() {
        kring.release_hold(me);
        return Err(NotHeld::Damaged);
    }
    if kring.exchange.is_pending() {
        kring.mend(to.rx_ring(ring).expect("looked at above"));
    }
    let space = if freed > tail { freed - tail - 1 } else { n - 1 - (tail - freed) };
    Ok(Lease { ring, tail, space })
}

/// Takes a ring, if its holder lets go in time or is dead.
#[inline]
fn take(switch: &SwitchFile, kring: &Kring, me: ParticipantId, budget: &mut WaitBudget) -> bool {
    let mut waited: Option<(Instant, u32)> = None;
    let most = budget.0.min(LONGEST_WAIT);
    let held = kring.hold(me, |owner| {
        let (since, asked) = waited.get_or_insert_with(|| (Instant::now(), 0));
        *asked += 1;
        if *asked % 32 == 1 && switch.is_dead(owner) {
            OnHeld::Dead
        } else if owner == RETIRED || since.elapsed() > most {
            OnHeld::GiveUp
        } else {
            OnHeld::Wait
        }
    });
    if let Some((since, _)) = waited {
        budget.0 = budget.0.saturating_sub(since.elapsed());
    }
    held != Held::No
}

/// A held ring, being written.
#[derive(Debug)]
pub struct Writer<'a> {
    to: &'a PortFiles,
    me: ParticipantId,
    ring: RingNumber,
    slots: &'a [RawSlot],
    buffers: Buffers,
    tail: usize,
    /// Slots free.
    pub space: u32,
    /// Which bits of `ptr` in its slots say where in their buffers packets go; 0: they go to the beginning.
    pub offset_mask: u64,
    /// If packets go to warm buffers.
    warm: Option<Warm<'a>>,
    /// Packets put.
    packets: u64,
    bytes: u64,
    /// Slots, and copies for who watches, that are lost for another reason than space.
    pub bad: u64,
    /// Packets that found no space: for the caller to count up.
    pub dropped: u64,
}

impl<'a> Writer<'a> {
    /// Writes where `lease` says, to warm buffers if `job` says so; the ring is held for its sender.
    #[inline(always)]
    pub fn new(to: &'a PortFiles, lease: Lease, job: &Job<'_>) -> Self {
        let ring = to.rx_ring(lease.ring).expect("`hold` has seen it");
        let exchange = &to.file.kring(lease.ring).exchange;
        let offset_mask = job.switch.offset_mask_of(to.file.shape.index);
        let warm = || Warm::new(exchange, ring.n(), lease.tail, lease.space);
        Self {
            to,
            me: job.me,
            ring: lease.ring,
            slots: ring.slots,
            buffers: Buffers::of(ring.buffers),
            tail: lease.tail as usize,
            space: lease.space,
            offset_mask,
            warm: (offset_mask == 0 && job.uses_warm(ring.n())).then(warm),
            packets: 0,
            bytes: 0,
            bad: 0,
            dropped: 0,
        }
    }

    /// Slots of the ring.
    pub fn num_slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Puts `len` bytes into the next slot. There is space; the caller counts packets.
    ///
    /// # Safety
    /// `len` (at most STRIDE) bytes at `data` are readable, and if not `exact`, the whole lines
    /// they are in; the CPU has `I`'s instructions.
    #[inline(always)]
    pub unsafe fn put<I: Isa>(&mut self, data: *const u8, mut len: u16, exact: bool, flags: u16) {
        let n = self.slots.len();
        let ahead = self.tail + AHEAD; // n is at least 64
        let ahead = if ahead >= n { ahead - n } else { ahead };
        let later = self.slots[ahead].word.load(Ordering::Relaxed) as u32;
        copy::prefetch_write(self.buffers.anywhere(later));
        let slot = &self.slots[self.tail];
        let buf_idx = SlotValue::unpack(slot.word.load(Ordering::Relaxed)).buf_idx;
        if let Some(to) = self.buffers.at(buf_idx) {
            if exact {
                // SAFETY: `to` is a buffer of STRIDE bytes, `len` is not more.
                unsafe { copy::bytes(to, data, len.into()) };
            } else {
                // SAFETY: as above, and STRIDE is a multiple of 64.
                unsafe { I::lines(to, data, usize::from(len).div_ceil(64).max(1)) };
            }
        } else {
            len = 0; // a peer has damaged the slot
            self.bad += 1;
        }
        let value = SlotValue { buf_idx, len, flags };
        slot.word.store(value.pack(), Ordering::Relaxed);
        self.tail = if self.tail + 1 == n { 0 } else { self.tail + 1 };
        self.space -= 1;
        self.bytes += u64::from(len);
    }

    /// Where in its buffer the `i`th of the next slots wants its data.
    pub fn offset(&self, i: usize) -> u64 {
        let n = self.slots.len();
        self.slots[(self.tail + i) % n].ptr.load(Ordering::Relaxed) & self.offset_mask
    }

    /// As `put`, exactly `len` bytes, to some place in the next slot's buffer.
    ///
    /// # Safety
    /// `len` bytes at `data` are readable; `offset` and `len` lie within a buffer (`gather::fits`).
    pub unsafe fn put_at(&mut self, data: *const u8, mut len: u16, offset: u64, flags: u16) {
        let slot = &self.slots[self.tail];
        let buf_idx = SlotValue::unpack(slot.word.load(Ordering::Relaxed)).buf_idx;
        if let Some(to) = self.buffers.at(buf_idx) {
            // SAFETY: both lie within a buffer of STRIDE bytes, by the caller's promise.
            unsafe { copy::bytes(to.wrapping_add(offset as usize), data, len.into()) };
        } else {
            len = 0; // a peer has damaged the slot
            self.bad += 1;
        }
        slot.word.store(SlotValue { buf_idx, len, flags }.pack(), Ordering::Relaxed);
        self.tail = (self.tail + 1) % self.slots.len();
        self.space -= 1;
        self.bytes += u64::from(len);
    }

    /// The next slots up to the ring's end, as far as they are free, and where their buffers are:
    /// for a loop that fills them itself, with `want` packets if there are so many, and then says so with
    /// `filled`. There are none only if no slot is free.
    #[inline]
    pub fn stretch(&mut self, want: usize) -> Stretch<'a> {
        let most = if self.warm.is_some() { self.prepare(want) } else { self.space };
        let end = self.slots.len().min(self.tail + most as usize);
        Stretch { slots: &self.slots[self.tail..end], buffers: self.buffers }
    }

    /// Whether packets go to warm buffers: then `warm_up` comes before `put`s, and `used` after them.
    pub fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    /// Gives warm buffers to the slots that are next, unless they have got them.
    #[inline(always)]
    pub fn warm_up(&mut self) {
        if self.warm.as_ref().is_some_and(Warm::runs_out) {
            self.prepare(usize::MAX);
        }
    }

    /// The next `n` slots have been written.
    #[inline(always)]
    pub fn used(&mut self, n: u32) {
        if let Some(warm) = &mut self.warm {
            warm.used(n);
        }
    }

    /// How many of the next slots are to be written before this is called again.
    fn prepare(&mut self, want: usize) -> u32 {
        let (ring, space) = (Stretch { slots: self.slots, buffers: self.buffers }, self.space);
        let warm = self.warm.as_mut().expect("the caller has looked");
        warm.prepare(ring, self.tail as u32, space, want.min(u32::MAX as usize) as u32).min(space)
    }

    /// Counts the first slots of the stretch, each a packet.
    #[inline]
    pub fn filled(&mut self, Copied { packets: n, bytes }: Copied) {
        self.used(n as u32);
        self.tail += n;
        if self.tail == self.slots.len() {
            self.tail = 0;
        }
        self.space -= n as u32;
        self.packets += n as u64;
        self.bytes += bytes;
    }

    /// Packets put so far.
    pub fn packets_put(&self) -> usize {
        self.packets as usize
    }

    /// Counts what was dropped at the receiver alone: copies for a mirror are no loss of the sender's.
    pub fn forgive(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        self.to.file.rx_counters(self.ring).add(C::rx_drop_full, dropped);
    }

    /// Counts a packet whose slots have been put.
    #[inline(always)]
    pub fn packet(&mut self) {
        self.packets += 1;
    }

    /// Publishes, lets the ring go, and rings who sleeps there. `counters` are the sender's.
    #[inline]
    pub fn finish(self, counters: &SharedCounters, destinations: &impl Destinations) {
        let kring = self.to.file.kring(self.ring);
        let rx = self.to.file.rx_counters(self.ring);
        if let Some(warm) = self.warm {
            warm.finish(self.slots.len() as u32, self.tail as u32, self.space);
        }
        if self.packets > 0 {
            kring.publish(self.tail as u32);
            rx.add(C::rx_packets, self.packets);
            rx.add(C::rx_bytes, self.bytes);
            rx.add(C::rx_batches, 1);
        }
        if self.dropped + self.bad > 0 {
            rx.add(C::rx_drop_full, self.dropped);
            rx.add(C::rx_drop_bad, self.bad);
            counters.add(C::tx_drop_full, self.dropped);
        }
        kring.release_hold(self.me);
        if self.packets > 0 {
            if let Some(sleepers) = kring.take_sleepers() {
                for handle in sleepers.handles() {
                    match destinations.ring(handle, self.to.file.shape.index) {
                        Rung::Yes => counters.add(C::doorbells_rung, 1),
                        Rung::Nobody => {}
                        Rung::Later => kring.sleep_for_packets(handle), // the next publication's
                    }
                }
            } else {
                counters.add(C::doorbells_suppressed, 1);
            }
        }
    }
}
