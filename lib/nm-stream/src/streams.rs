//! The streams of all senders that a receiver gets packets from, distinguished by a key.
//!
//! Invariant: `keys[..used]` are different, and `trackers[..used]` have begun. Packets come in bursts of
//! one sender, so the stream of the last packet is tried first.

use crate::tracker::{SequenceStats, Tracker};

/// The streams of at most `N` senders, of about a kilobyte each.
#[derive(Clone, Debug)]
pub struct Streams<const N: usize> {
    keys: [u32; N],
    trackers: [Tracker; N],
    used: usize,
    /// The stream of the last packet: packets come in bursts of one sender.
    last: usize,
}

impl<const N: usize> Default for Streams<N> {
    fn default() -> Self {
        Streams::new()
    }
}

impl<const N: usize> Streams<N> {
    /// None yet.
    pub const fn new() -> Self {
        Streams { keys: [0; N], trackers: [const { Tracker::empty() }; N], used: 0, last: 0 }
    }

    /// Records a sequence number of a sender; false if it is implausible, or there are too many senders.
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
        if self.used == N {
            return false;
        }
        self.keys[self.used] = stream;
        self.trackers[self.used].begin(seq);
        self.last = self.used;
        self.used += 1;
        true
    }

    /// Senders told apart so far.
    pub fn senders(&self) -> usize {
        self.used
    }

    /// The sums over all streams.
    pub fn stats(&self) -> SequenceStats {
        self.trackers[..self.used]
            .iter()
            .fold(SequenceStats::default(), |sum, tracker| sum + tracker.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_apart_and_bounded() {
        let mut streams = Streams::<16>::new();
        for (stream, seq) in [(1, 0), (2, 0), (1, 1), (2, 3), (1, 2), (1, 1)] {
            assert!(streams.note(stream, seq));
        }
        assert_eq!(streams.stats(), SequenceStats { lost: 2, reordered: 0, duplicated: 1 });
        let more = (3..100).filter(|&stream| streams.note(stream, 0)).count();
        assert_eq!((more, streams.senders()), (14, 16));
    }
}
