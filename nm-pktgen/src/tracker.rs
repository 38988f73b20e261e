//! Loss, reordering and duplicates in one stream of sequence numbers, with constant memory.
//!
//! The window remembers which of the last [`WINDOW`] numbers came. A number that was skipped counts as
//! lost until it comes late; then it counts as reordered (RFC 4737: it came after a higher one). A
//! number older than the window is reordered, and stays lost: nobody can tell it from a duplicate.
//! What was sent before the first number seen is nobody's loss: the receiver may have come later.

/// Sequence numbers remembered.
pub const WINDOW: u64 = 8192;
const WORDS: usize = (WINDOW / 64) as usize;
/// A jump forward above this is a damaged packet, not a loss.
const JUMP: u64 = 1 << 32;

/// What became of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Numbers that did not come (yet).
    pub lost: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets that came again.
    pub duplicated: u64,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// One above the highest number seen; the window is [next - WINDOW, next).
    next: u64,
    /// The first number seen.
    origin: u64,
    seen: Box<[u64; WORDS]>,
    verdict: Verdict,
}

impl Tracker {
    /// Begins with the first number seen.
    pub fn new(first: u64) -> Tracker {
        let mut tracker = Tracker {
            next: first.saturating_add(1),
            origin: first,
            seen: Box::new([0; WORDS]),
            verdict: Verdict::default(),
        };
        tracker.mark(first);
        tracker
    }

    /// What is known so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Notes a number; false if it is too absurd to be of this stream.
    #[inline]
    pub fn note(&mut self, seq: u64) -> bool {
        if seq == self.next && seq < u64::MAX {
            // The common case: nothing is missing.
            self.next += 1;
            self.mark(seq);
            return true;
        }
        self.note_gap(seq)
    }

    #[cold]
    fn note_gap(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            let gap = seq - self.next;
            if gap > JUMP || seq == u64::MAX {
                return false;
            }
            self.verdict.lost += gap;
            // Forget what the window slides over: the skipped numbers' places hold older numbers' bits.
            if gap >= WINDOW {
                self.seen.fill(0);
            } else {
                (self.next..seq).for_each(|skipped| self.seen[word(skipped)] &= !bit(skipped));
            }
            self.next = seq + 1;
            self.mark(seq);
        } else if self.next - seq > WINDOW {
            self.verdict.reordered += 1;
        } else if self.seen[word(seq)] & bit(seq) != 0 {
            self.verdict.duplicated += 1;
        } else {
            self.mark(seq);
            self.verdict.reordered += 1;
            // Before the origin nothing was counted as lost.
            if seq > self.origin {
                self.verdict.lost -= 1;
            }
        }
        true
    }

    fn mark(&mut self, seq: u64) {
        self.seen[word(seq)] |= bit(seq);
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
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Remembers everything.
    fn naive(numbers: &[u64]) -> Verdict {
        let (first, mut highest) = (numbers[0], numbers[0]);
        let mut seen = HashSet::new();
        let mut verdict = Verdict::default();
        for &seq in numbers {
            if !seen.insert(seq) {
                verdict.duplicated += 1;
            } else if seq < highest {
                verdict.reordered += 1;
            }
            highest = highest.max(seq);
        }
        verdict.lost = (first..=highest).filter(|seq| !seen.contains(seq)).count() as u64;
        verdict
    }

    fn tracked(numbers: &[u64]) -> Verdict {
        let mut tracker = Tracker::new(numbers[0]);
        numbers[1..].iter().for_each(|&seq| assert!(tracker.note(seq)));
        tracker.verdict()
    }

    #[test]
    fn late_packet_turns_loss_into_reordering() {
        assert_eq!(tracked(&[0, 1, 4]), Verdict { lost: 2, ..Verdict::default() });
        assert_eq!(tracked(&[0, 1, 4, 2]), Verdict { lost: 1, reordered: 1, duplicated: 0 });
        assert_eq!(tracked(&[0, 1, 4, 2, 2]), Verdict { lost: 1, reordered: 1, duplicated: 1 });
    }

    #[test]
    fn number_beyond_the_window_stays_lost() {
        let mut numbers = vec![0];
        numbers.extend(2..WINDOW + 2);
        assert_eq!(tracked(&numbers).lost, 1);
        numbers.push(1);
        assert_eq!(tracked(&numbers), Verdict { lost: 1, reordered: 1, duplicated: 0 });
    }

    #[test]
    fn absurd_jumps_are_refused() {
        let mut tracker = Tracker::new(5);
        assert!(!tracker.note(u64::MAX));
        assert!(!tracker.note(1 << 40));
        assert!(tracker.note(6));
        assert_eq!(tracker.verdict(), Verdict::default());
    }

    #[test]
    fn highest_number_of_all_overflows_nothing() {
        let mut tracker = Tracker::new(u64::MAX);
        assert!(!tracker.note(u64::MAX), "has no place in the window");
        assert!(tracker.note(0), "older than the window");
        assert_eq!(tracker.verdict(), Verdict { reordered: 1, ..Verdict::default() });
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model_within_the_window(
            start in 0u64..1 << 40,
            steps in proptest::collection::vec((0u64..6, -40i64..40), 1..400),
        ) {
            // Numbers go up by small steps, each displaced a little: losses, reordering, duplicates.
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
