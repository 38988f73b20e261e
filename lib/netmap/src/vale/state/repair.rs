//! Exchanging the buffers of two slots, so that a death between the two stores loses neither.
//!
//! ```text
//!                              slot a   slot b   repair
//!  before                        x        y        0
//!  1. what is about to go        x        y      a, b, x
//!  2. one slot                   y        y      a, b, x     a death here: x is named by the word alone
//!  3. the other                  y        x      a, b, x
//! ```
//!
//! Slot b is one of the ring whose word that is. Slot a is another one of it, or one of a ring that a zero-copy
//! monitor sees (`from`), whose sync makes the exchange.
//!
//! Who writes what: the producer that holds the ring, and slots of the part that is free only; and in the ring
//! that is seen, slots that its sync has not given back yet. So whoever mends needs both rings. Invariant:
//! whoever holds the ring next finds each buffer in one slot, or in two and the missing one in the word,
//! and puts it back (`mend`). Which one is missing could not be computed: programs exchange
//! buffers, too. A word that is left over after step 3 is harmless: its two slots name different buffers.

use crate::sync::{AtomicU64, Ordering};
use crate::vale::state::ids::RingNumber;

/// What the holder of a ring must know about the exchanges of others.
#[repr(C)]
#[derive(Debug)]
pub struct Exchange {
    /// 0, or the exchange that may be under way: see `Pending`.
    repair: AtomicU64,
    /// Which buffers of the free part were given back last (`forward::warm`). A hint: any value will do.
    pub hint: AtomicU64,
}

/// A slot's number and its word.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    slot: u32,
    word: &'a AtomicU64,
}

impl<'a> Numbered<'a> {
    /// Slot `slot`, which has that word.
    #[inline(always)]
    pub fn new(slot: u32, word: &'a AtomicU64) -> Self {
        Self { slot, word }
    }

    /// The word.
    #[cfg(not(loom))]
    pub fn word(self) -> &'a AtomicU64 {
        self.word
    }
}

/// What is about to be stored.
#[derive(Clone, Copy, Debug)]
struct Store<'a> {
    word: &'a AtomicU64,
    value: u64,
}

/// A ring that a zero-copy monitor sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenRing {
    /// A receive ring.
    pub is_rx: bool,
    /// Its number, below 16.
    pub number: RingNumber,
}

/// An exchange that may be under way: two slots, and the buffer that the first one named. Taken from shared
/// memory: all of it is what anybody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    /// Where slot a is, if not in this ring.
    from: Option<SeenRing>,
    a: u32,
    b: u32,
    buf_idx: u32,
}

impl Pending {
    const SET: u64 = 1 << 63;
    /// Slots of a ring are numbered from 0 to 4095.
    const SLOT: u64 = 0xfff;
    /// Above the slots: 0, or 1 and the number of the ring that is seen, and 16 more for a receive ring.
    const FROM: u32 = 56;

    fn pack(self) -> u64 {
        let slots = u64::from(self.a) & Self::SLOT | (u64::from(self.b) & Self::SLOT) << 12;
        let from = self.from.map_or(0, |from| {
            1 + (u64::from(from.number.0) & 0xf) + if from.is_rx { 16 } else { 0 }
        });
        Self::SET | from << Self::FROM | slots << 32 | u64::from(self.buf_idx)
    }

    fn unpack(word: u64) -> Option<Self> {
        let slot = |shift: u32| (word >> shift & Self::SLOT) as u32;
        let from = (word >> Self::FROM & 0x3f)
            .checked_sub(1)
            .map(|from| SeenRing { is_rx: from & 16 != 0, number: RingNumber((from & 0xf) as u8) });
        let pending = || Self { from, a: slot(32), b: slot(44), buf_idx: word as u32 };
        (word & Self::SET != 0).then(pending)
    }
}

impl Exchange {
    /// Holder of the ring: exchanges the words of two slots of its free part.
    #[inline(always)]
    pub fn swap(&self, a: Numbered<'_>, b: Numbered<'_>) {
        let (to_b, to_a) = (a.word.load(Ordering::Relaxed), b.word.load(Ordering::Relaxed));
        for Store { word, value } in self.stores(None, a, to_a, b, to_b) {
            // Each is seen only with those before it, the last ones of the exchange before among them.
            word.store(value, Ordering::Release);
        }
    }

    /// Holder of the ring who syncs the ring `from`: gives the buffer of its slot a to slot b of the free part,
    /// and the other way round, with the words that the slots are to have.
    pub fn cross(&self, from: SeenRing, a: Numbered<'_>, to_a: u64, b: Numbered<'_>, to_b: u64) {
        for Store { word, value } in self.stores(Some(from), a, to_a, b, to_b) {
            word.store(value, Ordering::Release);
        }
    }

    /// The stores of an exchange, in their order.
    #[inline(always)]
    fn stores<'a>(
        &'a self,
        from: Option<SeenRing>,
        a: Numbered<'a>,
        to_a: u64,
        b: Numbered<'a>,
        to_b: u64,
    ) -> [Store<'a>; 3] {
        let pending = Pending { from, a: a.slot, b: b.slot, buf_idx: to_b as u32 };
        [
            Store { word: &self.repair, value: pending.pack() },
            Store { word: a.word, value: to_a },
            Store { word: b.word, value: to_b },
        ]
    }

    /// Holder of the ring, after its last exchange.
    #[inline]
    pub fn done(&self) {
        self.repair.store(0, Ordering::Release);
    }

    /// Whether an exchange may have been cut off.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.repair.load(Ordering::Acquire) != 0
    }

    /// The buffer that no slot may name at this moment, unchecked.
    pub fn displaced(&self) -> Option<u32> {
        Pending::unpack(self.repair.load(Ordering::Acquire)).map(|pending| pending.buf_idx)
    }

    /// The ring that is seen, if the exchange that may have been cut off was with one of its slots.
    pub fn crossed(&self) -> Option<SeenRing> {
        Pending::unpack(self.repair.load(Ordering::Acquire))?.from
    }

    /// Holder of the ring: ends the exchange that was cut off. `free` is the word of a slot of the free
    /// part, and `None` of others; `is_buffer` says which numbers are buffers.
    #[cold]
    pub fn mend<'a>(
        &self,
        free: impl Fn(u32) -> Option<&'a AtomicU64>,
        is_buffer: impl Fn(u32) -> bool,
    ) {
        if self.crossed().is_none() {
            self.mend_with(&free, &free, is_buffer);
        }
        self.done(); // in a ring that is no monitor's, a word about another one is nonsense
    }

    /// The same, where slot a is `seen`: in the ring that this one's holder syncs, too.
    #[cold]
    pub fn mend_with<'a>(
        &self,
        seen: impl Fn(u32) -> Option<&'a AtomicU64>,
        free: impl Fn(u32) -> Option<&'a AtomicU64>,
        is_buffer: impl Fn(u32) -> bool,
    ) {
        if let Some(Pending { from, a, b, buf_idx }) =
            Pending::unpack(self.repair.load(Ordering::Acquire))
            && (from.is_some() || a != b)
            && is_buffer(buf_idx)
            && let (Some(word_a), Some(word_b)) = (seen(a), free(b))
            && word_a.load(Ordering::Acquire) as u32 == word_b.load(Ordering::Acquire) as u32
        {
            word_b.store(buf_idx.into(), Ordering::Release);
        }
        self.done();
    }
}

/// Deaths in the middle of an exchange, for tests.
#[cfg(test)]
impl Exchange {
    /// None under way.
    pub fn new() -> Self {
        Self { repair: AtomicU64::new(0), hint: AtomicU64::new(0) }
    }

    /// The first `n` stores of an exchange, after which the holder is killed.
    pub fn swap_and_die(&self, a: Numbered<'_>, b: Numbered<'_>, n: usize) {
        self.exchange_and_die(None, a, b, n);
    }

    /// The same with a slot a in a ring that is seen.
    pub fn cross_and_die(&self, from: SeenRing, a: Numbered<'_>, b: Numbered<'_>, n: usize) {
        self.exchange_and_die(Some(from), a, b, n);
    }

    fn exchange_and_die(&self, from: Option<SeenRing>, a: Numbered<'_>, b: Numbered<'_>, n: usize) {
        let (to_b, to_a) = (a.word.load(Ordering::Relaxed), b.word.load(Ordering::Relaxed));
        let stores = self.stores(from, a, to_a, b, to_b);
        for Store { word, value } in stores.into_iter().take(n) {
            word.store(value, Ordering::Release);
        }
    }
}

/// What a peer may write, for tests and fuzzing.
#[cfg(not(loom))]
impl Exchange {
    /// Anything.
    pub fn scribble(&self, repair: u64, hint: u64) {
        self.repair.store(repair, Ordering::Relaxed);
        self.hint.store(hint, Ordering::Relaxed);
    }

    /// An exchange of two slots that nobody has begun.
    pub fn forge(&self, a: u32, b: u32, buf_idx: u32) {
        self.repair.store(Pending { from: None, a, b, buf_idx }.pack(), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slots(buffers: [u64; 4]) -> [AtomicU64; 4] {
        buffers.map(AtomicU64::new)
    }

    fn named(slots: &[AtomicU64]) -> Vec<u32> {
        slots.iter().map(|slot| slot.load(Ordering::Relaxed) as u32).collect()
    }

    #[test]
    fn word_holds_all_slots_and_buffers() {
        for a in [0, 1, 4095] {
            for b in [0, 2, 4095] {
                for buf_idx in [0, 2, 1 << 18, u32::MAX] {
                    let rings = [0, 15]
                        .map(RingNumber)
                        .map(|number| [false, true].map(|is_rx| SeenRing { is_rx, number }));
                    for from in rings.into_iter().flatten().map(Some).chain([None]) {
                        let pending = Pending { from, a, b, buf_idx };
                        assert_eq!(Pending::unpack(pending.pack()), Some(pending));
                    }
                }
            }
        }
        assert_eq!(Pending::unpack(0), None);
    }

    #[test]
    fn exchange_cut_off_after_any_store_is_mended() {
        for stores in 0..=3 {
            let (exchange, slots) = (Exchange::new(), slots([10, 11, 12, 13]));
            let slot = |i: u32| Numbered::new(i, &slots[i as usize]);
            exchange.swap_and_die(slot(1), slot(3), stores);
            assert_eq!(exchange.is_pending(), stores > 0);
            exchange.mend(|i| slots.get(i as usize), |idx| idx >= 2);
            assert!(!exchange.is_pending());
            let after = named(&slots);
            assert_eq!(after, if stores < 2 { [10, 11, 12, 13] } else { [10, 13, 12, 11] });
        }
    }

    #[test]
    fn exchange_with_another_ring_cut_off_after_any_store_is_mended_by_who_has_both() {
        let from = SeenRing { is_rx: false, number: RingNumber(3) };
        for stores in 0..=3 {
            let (exchange, ring, seen) =
                (Exchange::new(), slots([10, 11, 12, 13]), slots([20, 21, 22, 23]));
            let third = |slots| Numbered::new(3, slots);
            exchange.cross_and_die(from, third(&seen[3]), third(&ring[3]), stores);
            assert_eq!(exchange.crossed(), (stores > 0).then_some(from));
            exchange.mend_with(|i| seen.get(i as usize), |i| ring.get(i as usize), |idx| idx >= 2);
            assert!(!exchange.is_pending());
            let (seen, ring) = (named(&seen), named(&ring));
            let after = if stores < 2 { (23, 13) } else { (13, 23) };
            assert_eq!((seen[3], ring[3]), after);
            assert_eq!((&seen[..3], &ring[..3]), (&[20, 21, 22][..], &[10, 11, 12][..]));
        }
    }

    #[test]
    fn word_that_a_peer_made_up_changes_nothing_in_a_ring_in_order() {
        let cases = [(1, 1, 12), (0, 3, 11), (9, 1, 12), (4095, 4095, 0), (2, 1, u32::MAX)];
        for (a, b, buf_idx) in cases {
            let (exchange, slots) = (Exchange::new(), slots([10, 11, 12, 13]));
            exchange.forge(a, b, buf_idx);
            exchange.mend(|i| slots.get(i as usize), |_| true);
            assert_eq!(named(&slots), [10, 11, 12, 13]);
            assert!(!exchange.is_pending());
        }
    }

    #[test]
    fn what_is_not_free_or_no_buffer_is_left_alone() {
        let (exchange, slots) = (Exchange::new(), slots([10, 10, 12, 13]));
        exchange.forge(0, 1, 11);
        exchange.mend(|i| slots.get(i as usize).filter(|_| i != 1), |_| true);
        exchange.forge(0, 1, 11);
        exchange.mend(|i| slots.get(i as usize), |idx| idx != 11);
        assert_eq!(named(&slots), [10, 10, 12, 13]);
    }
}
