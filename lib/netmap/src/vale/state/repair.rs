//! Exchanging the buffers of two slots of a ring, so that a death between the two stores loses neither.
//!
//! ```text
//!                              slot a   slot b   repair
//!  before                        x        y        0
//!  1. what is about to go        x        y      a, b, x
//!  2. one slot                   y        y      a, b, x     a death here: x is named by the word alone
//!  3. the other                  y        x      a, b, x
//! ```
//!
//! Who writes what: the producer that holds the ring, and slots of the part that is free only. Invariant:
//! whoever holds the ring next finds each buffer in one slot, or in two and the missing one in the word,
//! and puts it back (`mend`). Which one is missing could not be computed: programs exchange
//! buffers, too. A word that is left over after step 3 is harmless: its two slots name different buffers.

use crate::sync::{AtomicU64, Ordering};

/// What the holder of a ring must know about the exchanges of others.
#[repr(C)]
#[derive(Debug)]
pub struct Exchange {
    /// 0, or the exchange that may be under way: see `Pending`.
    repair: AtomicU64,
    /// Which buffers of the free part were given back last (`forward::warm`). A hint: any value will do.
    pub hint: AtomicU64,
}

/// A slot and its number.
pub type Numbered<'a> = (u32, &'a AtomicU64);

/// An exchange that may be under way: two slots, and the buffer that the first one named. Taken from shared
/// memory: all three are what anybody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    a: u32,
    b: u32,
    buf_idx: u32,
}

impl Pending {
    const SET: u64 = 1 << 63;
    /// Slots of a ring are numbered from 0 to 4095.
    const SLOT: u64 = 0xfff;

    fn pack(self) -> u64 {
        let slots = u64::from(self.a) & Self::SLOT | (u64::from(self.b) & Self::SLOT) << 12;
        Self::SET | slots << 32 | u64::from(self.buf_idx)
    }

    fn unpack(word: u64) -> Option<Self> {
        let slot = |shift: u32| (word >> shift & Self::SLOT) as u32;
        (word & Self::SET != 0).then(|| Self { a: slot(32), b: slot(44), buf_idx: word as u32 })
    }
}

impl Exchange {
    /// Holder of the ring: exchanges the words of two slots of its free part.
    #[inline(always)]
    pub fn swap(&self, a: Numbered<'_>, b: Numbered<'_>) {
        for (word, value) in self.stores(a, b) {
            // Each is seen only with those before it, the last ones of the exchange before among them.
            word.store(value, Ordering::Release);
        }
    }

    /// The stores of an exchange, in their order.
    #[inline(always)]
    fn stores<'a>(
        &'a self,
        (a, word_a): Numbered<'a>,
        (b, word_b): Numbered<'a>,
    ) -> [(&'a AtomicU64, u64); 3] {
        let (was_a, was_b) = (word_a.load(Ordering::Relaxed), word_b.load(Ordering::Relaxed));
        let pending = Pending { a, b, buf_idx: was_a as u32 };
        [(&self.repair, pending.pack()), (word_a, was_b), (word_b, was_a)]
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

    /// Holder of the ring: ends the exchange that was cut off. `free` is the word of a slot of the free
    /// part, and `None` of others; `is_buffer` says which numbers are buffers.
    #[cold]
    pub fn mend<'a>(
        &self,
        free: impl Fn(u32) -> Option<&'a AtomicU64>,
        is_buffer: impl Fn(u32) -> bool,
    ) {
        if let Some(Pending { a, b, buf_idx }) =
            Pending::unpack(self.repair.load(Ordering::Acquire))
            && a != b
            && is_buffer(buf_idx)
            && let (Some(word_a), Some(word_b)) = (free(a), free(b))
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
        for (word, value) in self.stores(a, b).into_iter().take(n) {
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
        self.repair.store(Pending { a, b, buf_idx }.pack(), Ordering::Relaxed);
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
                    let pending = Pending { a, b, buf_idx };
                    assert_eq!(Pending::unpack(pending.pack()), Some(pending));
                }
            }
        }
        assert_eq!(Pending::unpack(0), None);
    }

    #[test]
    fn exchange_cut_off_after_any_store_is_mended() {
        for stores in 0..=3 {
            let (exchange, slots) = (Exchange::new(), slots([10, 11, 12, 13]));
            exchange.swap_and_die((1, &slots[1]), (3, &slots[3]), stores);
            assert_eq!(exchange.is_pending(), stores > 0);
            exchange.mend(|i| slots.get(i as usize), |idx| idx >= 2);
            assert!(!exchange.is_pending());
            let after = named(&slots);
            assert_eq!(after, if stores < 2 { [10, 11, 12, 13] } else { [10, 13, 12, 11] });
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
