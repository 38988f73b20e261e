//! Loss, reordering and duplicates in one stream of sequence numbers, in constant memory and two
//! instructions a packet while nothing is wrong.
//!
//! A number that was skipped counts as lost until it comes late; then it counts as reordered (RFC 4737:
//! it came after a higher one). A number older than the window is reordered, and stays lost: nobody can
//! tell it from a duplicate. Numbers below the first one seen do not count as lost, because the receiver
//! may have started later than the sender.
//!
//! Invariant: the bitmap holds the numbers of [next - WINDOW, next) that are *missing*, and `missing`
//! counts them. So while it is 0 the bitmap is all zeros, and in-order numbers need not touch it.

use core::ops::Add;

/// Sequence numbers remembered.
pub const WINDOW: u64 = 8192;
const WORDS: usize = (WINDOW / 64) as usize;
/// A jump forward above this is a damaged packet, not a loss.
const JUMP: u64 = 1 << 32;

/// What is known of a stream from its sequence numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceStats {
    /// Numbers that did not come (yet).
    pub lost: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets that came again.
    pub duplicated: u64,
}

impl Add for SequenceStats {
    type Output = SequenceStats;

    fn add(self, other: SequenceStats) -> SequenceStats {
        SequenceStats {
            lost: self.lost + other.lost,
            reordered: self.reordered + other.reordered,
            duplicated: self.duplicated + other.duplicated,
        }
    }
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// One above the highest number seen.
    next: u64,
    /// The first number seen.
    origin: u64,
    missing: u64,
    bitmap: [u64; WORDS],
    stats: SequenceStats,
}

impl Tracker {
    /// Of nothing.
    pub(crate) const fn empty() -> Tracker {
        let stats = SequenceStats { lost: 0, reordered: 0, duplicated: 0 };
        Tracker { next: 0, origin: 0, missing: 0, bitmap: [0; WORDS], stats }
    }

    /// Begins with the first number seen. Each lower number may still arrive late, once.
    pub fn begin(&mut self, first: u64) {
        *self = Tracker { next: first.saturating_add(1), origin: first, ..Tracker::empty() };
        self.bitmap = [u64::MAX; WORDS];
        self.missing = WINDOW;
        self.found(first);
    }

    /// What is known so far.
    pub fn stats(&self) -> SequenceStats {
        self.stats
    }

    /// Records a number; false if it is so far off that the packet must be damaged.
    #[inline]
    pub fn note(&mut self, seq: u64) -> bool {
        if seq == self.next && self.missing == 0 && seq < u64::MAX {
            self.next += 1;
            return true;
        }
        self.note_slowly(seq)
    }

    fn note_slowly(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            return self.advance(seq);
        }
        if self.next - seq > WINDOW {
            self.stats.reordered += 1;
        } else if self.is_missing(seq) {
            self.found(seq);
            self.stats.reordered += 1;
            // Before the origin nothing was counted as lost.
            if seq > self.origin {
                self.stats.lost -= 1;
            }
        } else {
            self.stats.duplicated += 1;
        }
        true
    }

    /// A number at or above the next one.
    fn advance(&mut self, seq: u64) -> bool {
        let gap = seq - self.next;
        if gap > JUMP || seq == u64::MAX {
            return false;
        }
        self.stats.lost += gap;
        if gap >= WINDOW {
            self.bitmap = [u64::MAX; WORDS];
            self.missing = WINDOW;
        } else {
            for skipped in self.next..seq {
                if !self.is_missing(skipped) {
                    self.bitmap[word(skipped)] |= bit(skipped);
                    self.missing += 1;
                }
            }
        }
        self.next = seq + 1;
        // Its bit may still stand for the number that leaves the window.
        if self.is_missing(seq) {
            self.found(seq);
        }
        true
    }

    fn is_missing(&self, seq: u64) -> bool {
        self.bitmap[word(seq)] & bit(seq) != 0
    }

    fn found(&mut self, seq: u64) {
        self.bitmap[word(seq)] &= !bit(seq);
        self.missing -= 1;
    }
}

fn word(seq: u64) -> usize {
    ((seq / 64) as usize) % WORDS
}

fn bit(seq: u64) -> u64 {
    1 << (seq % 64)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Remembers everything.
    fn naive(numbers: &[u64]) -> SequenceStats {
        let (first, mut highest) = (numbers[0], numbers[0]);
        let mut seen = HashSet::new();
        let mut stats = SequenceStats::default();
        for &seq in numbers {
            if !seen.insert(seq) {
                stats.duplicated += 1;
            } else if seq < highest {
                stats.reordered += 1;
            }
            highest = highest.max(seq);
        }
        stats.lost = (first..=highest).filter(|seq| !seen.contains(seq)).count() as u64;
        stats
    }

    fn tracked(numbers: &[u64]) -> SequenceStats {
        let mut tracker = Tracker::empty();
        tracker.begin(numbers[0]);
        numbers[1..].iter().for_each(|&seq| assert!(tracker.note(seq)));
        tracker.stats()
    }

    #[test]
    fn late_packet_turns_loss_into_reordering() {
        assert_eq!(tracked(&[0, 1, 4]), SequenceStats { lost: 2, ..SequenceStats::default() });
        assert_eq!(tracked(&[0, 1, 4, 2]), SequenceStats { lost: 1, reordered: 1, duplicated: 0 });
        assert_eq!(
            tracked(&[0, 1, 4, 2, 2]),
            SequenceStats { lost: 1, reordered: 1, duplicated: 1 }
        );
    }

    #[test]
    fn number_beyond_the_window_stays_lost() {
        let mut numbers: Vec<u64> = (0..1).chain(2..WINDOW + 2).collect();
        assert_eq!(tracked(&numbers).lost, 1);
        numbers.push(1);
        assert_eq!(tracked(&numbers), SequenceStats { lost: 1, reordered: 1, duplicated: 0 });
    }

    #[test]
    fn healthy_stream_reaches_the_fast_path_and_leaves_it_on_loss() {
        let mut tracker = Tracker::empty();
        tracker.begin(1_000_000);
        (1_000_001..1_000_000 + WINDOW).for_each(|seq| assert!(tracker.note(seq)));
        assert_eq!(tracker.missing, 0);
        assert!(tracker.note(1_000_000 + WINDOW + 3));
        assert_eq!((tracker.missing, tracker.stats().lost), (3, 3));
        (0..WINDOW).for_each(|k| assert!(tracker.note(1_000_000 + WINDOW + 4 + k)));
        assert_eq!((tracker.missing, tracker.stats().lost), (0, 3));
    }

    #[test]
    fn absurd_numbers_are_refused() {
        let mut tracker = Tracker::empty();
        tracker.begin(5);
        assert!(!tracker.note(u64::MAX) && !tracker.note(1 << 40) && tracker.note(6));
        assert_eq!(tracker.stats(), SequenceStats::default());
        tracker.begin(u64::MAX);
        assert!(!tracker.note(u64::MAX) && tracker.note(0));
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model_within_the_window(
            start in 0u64..1 << 40,
            steps in proptest::collection::vec((0u64..6, -40i64..40), 1..400),
        ) {
            let mut at = start + 100;
            let numbers: Vec<u64> = steps.iter().map(|&(up, shift)| {
                at += up;
                at.saturating_add_signed(shift)
            }).collect();
            prop_assert_eq!(tracked(&numbers), naive(&numbers));
        }

        #[test]
        fn agrees_across_large_gaps(gaps in proptest::collection::vec(1u64..3 * WINDOW, 1..40)) {
            let mut at = 0;
            let numbers: Vec<u64> = gaps.iter().flat_map(|&gap| { at += gap; [at, at] }).collect();
            prop_assert_eq!(tracked(&numbers), naive(&numbers));
        }
    }
}
