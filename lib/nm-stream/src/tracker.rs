//! Loss, reordering and duplicates in streams of sequence numbers, with the meanings that nm-pktgen's
//! rxseq gives them, in constant memory and two instructions a packet while nothing is wrong.
//!
//! A number that was skipped is lost until it comes late; then it is reordered (RFC 4737). A number
//! older than the window is reordered, and stays lost. What was sent before the first number seen is
//! nobody's loss: the receiver may have come later.
//!
//! Invariant: the bitmap holds the numbers of [next - WINDOW, next) that are *missing*, and `missing`
//! counts them. So while it is 0 the bitmap is all zeros, and in-order numbers need not touch it.

/// Sequence numbers remembered.
pub const WINDOW: u64 = 8192;
const WORDS: usize = (WINDOW / 64) as usize;
/// A jump forward above this is a damaged packet, not a loss.
const JUMP: u64 = 1 << 32;
/// Senders told apart; packets of more are foreign.
pub const STREAMS: usize = 16;

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
    /// One above the highest number seen.
    next: u64,
    /// The first number seen.
    origin: u64,
    missing: u64,
    bitmap: [u64; WORDS],
    verdict: Verdict,
}

impl Tracker {
    /// Of nothing.
    const fn empty() -> Tracker {
        let verdict = Verdict { lost: 0, reordered: 0, duplicated: 0 };
        Tracker { next: 0, origin: 0, missing: 0, bitmap: [0; WORDS], verdict }
    }

    /// Begins with the first number seen; all before it may still come late, once each.
    pub fn begin(&mut self, first: u64) {
        *self = Tracker { next: first.saturating_add(1), origin: first, ..Tracker::empty() };
        self.bitmap = [u64::MAX; WORDS];
        self.missing = WINDOW;
        self.found(first);
    }

    /// What is known so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Notes a number; false if it is too absurd to be of this stream.
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
            self.verdict.reordered += 1;
        } else if self.is_missing(seq) {
            self.found(seq);
            self.verdict.reordered += 1;
            // Before the origin nothing was counted as lost.
            if seq > self.origin {
                self.verdict.lost -= 1;
            }
        } else {
            self.verdict.duplicated += 1;
        }
        true
    }

    /// A number at or above the next one.
    fn advance(&mut self, seq: u64) -> bool {
        let gap = seq - self.next;
        if gap > JUMP || seq == u64::MAX {
            return false;
        }
        self.verdict.lost += gap;
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
        // Its place may hold the bit of the number that leaves the window.
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

/// The streams of all senders that a receiver hears.
#[derive(Clone, Debug)]
pub struct Streams {
    keys: [u32; STREAMS],
    trackers: [Tracker; STREAMS],
    used: usize,
    /// The last one noted: packets come in bursts of one sender.
    last: usize,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams::new()
    }
}

impl Streams {
    /// None yet.
    pub const fn new() -> Streams {
        Streams {
            keys: [0; STREAMS],
            trackers: [const { Tracker::empty() }; STREAMS],
            used: 0,
            last: 0,
        }
    }

    /// Notes a sequence number of a sender; false if it makes no sense, or there are too many senders.
    #[inline]
    pub fn note(&mut self, stream: u32, seq: u64) -> bool {
        if self.last >= self.used || self.keys[self.last] != stream {
            match self.find(stream) {
                Some(found) => self.last = found,
                None => return self.begin(stream, seq),
            }
        }
        self.trackers[self.last].note(seq)
    }

    fn find(&self, stream: u32) -> Option<usize> {
        self.keys[..self.used].iter().position(|&key| key == stream)
    }

    fn begin(&mut self, stream: u32, seq: u64) -> bool {
        if self.used == STREAMS {
            return false;
        }
        self.keys[self.used] = stream;
        self.trackers[self.used].begin(seq);
        self.last = self.used;
        self.used += 1;
        true
    }

    /// Of all streams together.
    pub fn verdict(&self) -> Verdict {
        let sum = |sum: Verdict, tracker: &Tracker| {
            let one = tracker.verdict();
            Verdict {
                lost: sum.lost + one.lost,
                reordered: sum.reordered + one.reordered,
                duplicated: sum.duplicated + one.duplicated,
            }
        };
        self.trackers[..self.used].iter().fold(Verdict::default(), sum)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;
    use std::vec::Vec;

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
        let mut streams = Streams::new();
        numbers.iter().for_each(|&seq| assert!(streams.note(7, seq)));
        streams.verdict()
    }

    #[test]
    fn late_packet_turns_loss_into_reordering() {
        assert_eq!(tracked(&[0, 1, 4]), Verdict { lost: 2, ..Verdict::default() });
        assert_eq!(tracked(&[0, 1, 4, 2]), Verdict { lost: 1, reordered: 1, duplicated: 0 });
        assert_eq!(tracked(&[0, 1, 4, 2, 2]), Verdict { lost: 1, reordered: 1, duplicated: 1 });
    }

    #[test]
    fn number_beyond_the_window_stays_lost() {
        let mut numbers: Vec<u64> = (0..1).chain(2..WINDOW + 2).collect();
        assert_eq!(tracked(&numbers).lost, 1);
        numbers.push(1);
        assert_eq!(tracked(&numbers), Verdict { lost: 1, reordered: 1, duplicated: 0 });
    }

    #[test]
    fn healthy_stream_reaches_the_fast_path_and_leaves_it_on_loss() {
        let mut tracker = Tracker::empty();
        tracker.begin(1_000_000);
        (1_000_001..1_000_000 + WINDOW).for_each(|seq| assert!(tracker.note(seq)));
        assert_eq!(tracker.missing, 0);
        assert!(tracker.note(1_000_000 + WINDOW + 3));
        assert_eq!((tracker.missing, tracker.verdict().lost), (3, 3));
        (0..WINDOW).for_each(|k| assert!(tracker.note(1_000_000 + WINDOW + 4 + k)));
        assert_eq!((tracker.missing, tracker.verdict().lost), (0, 3));
    }

    #[test]
    fn absurd_numbers_are_refused() {
        let mut tracker = Tracker::empty();
        tracker.begin(5);
        assert!(!tracker.note(u64::MAX) && !tracker.note(1 << 40) && tracker.note(6));
        assert_eq!(tracker.verdict(), Verdict::default());
        tracker.begin(u64::MAX);
        assert!(!tracker.note(u64::MAX) && tracker.note(0));
    }

    #[test]
    fn streams_are_told_apart_and_bounded() {
        let mut streams = Streams::new();
        for (stream, seq) in [(1, 0), (2, 0), (1, 1), (2, 3), (1, 2), (1, 1)] {
            assert!(streams.note(stream, seq));
        }
        assert_eq!(streams.verdict(), Verdict { lost: 2, reordered: 0, duplicated: 1 });
        let more = (3..100).filter(|&stream| streams.note(stream, 0)).count();
        assert_eq!(more, STREAMS - 2);
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
