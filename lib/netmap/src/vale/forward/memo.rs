//! What a sender remembers of the learning table: traffic to and from many addresses in turn would
//! otherwise cost two buckets of 8 words for each packet and address.
//!
//! ```text
//!  word: | epoch 8 | what 8 | MAC address 48 |        one table for destinations, one for sources
//! ```
//!
//! Invariant: a word counts only in its epoch. A new one begins whenever anybody has changed the table
//! (it counts its changes), the time of its stamps has gone on, or a second has passed: so
//! what is remembered is what the table would say now, or could have said when this txsync began.
//! Private memory; the pages of a table are there once they are used.

use crate::vale::state::fdb::MacKey;
use crate::vale::state::ids::PortIndex;

/// Words of a table, a power of two: as many addresses as the learning table serves without a miss, and
/// as many again, so that few meet in one word.
const WORDS: usize = 1 << 15;

const MAC_MASK: u64 = (1 << 48) - 1;

/// What is remembered of addresses.
#[derive(Debug)]
pub struct Memo {
    /// Port and 1 behind which a destination is; 0: nobody knows.
    destinations: Box<[u64]>,
    /// Sources that the table knows to be behind this port, stamped as of now.
    sources: Box<[u64]>,
    /// Never 0, which empty words have.
    epoch: u8,
    /// Changes and stamp of the table in this epoch.
    of: (u64, u8, u32),
}

impl Memo {
    /// Nothing yet.
    pub fn new() -> Self {
        let words = || vec![0; WORDS].into_boxed_slice();
        Self { destinations: words(), sources: words(), epoch: 1, of: (0, 0, 0) }
    }

    /// Forgets what may not be so any more: the table has changed as often as `changes` says, stamps
    /// addresses with `stamp`, and it is `second`. (Who dies between a change and its count leaves
    /// the others with what they remember until then.)
    #[inline]
    pub fn refresh(&mut self, changes: u64, stamp: u8, second: u32) {
        if self.of != (changes, stamp, second) {
            self.of = (changes, stamp, second);
            self.forget();
        }
    }

    /// Forgets everything.
    #[cold]
    fn forget(&mut self) {
        if self.epoch == u8::MAX {
            self.destinations.fill(0);
            self.sources.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
    }

    /// Where a destination is, if that is remembered: `Some(None)` if nobody knows.
    #[inline]
    pub fn destination(&self, mac: MacKey) -> Option<Option<PortIndex>> {
        let word = self.destinations[index(mac)];
        let known = (word ^ mac) & MAC_MASK == 0 && (word >> 56) as u8 == self.epoch;
        known.then(|| ((word >> 48) as u8).checked_sub(1).map(PortIndex))
    }

    /// Remembers where a destination is.
    #[inline]
    pub fn note_destination(&mut self, mac: MacKey, port: Option<PortIndex>) {
        let what = port.map_or(0, |port| u64::from(port.0) + 1);
        self.destinations[index(mac)] = mac | what << 48 | u64::from(self.epoch) << 56;
    }

    /// Forgets where an address is, which has just been learnt.
    #[inline]
    pub fn forget_destination(&mut self, mac: MacKey) {
        self.destinations[index(mac)] = 0;
    }

    /// Whether a source needs not be learnt.
    #[inline]
    pub fn knows_source(&self, mac: MacKey) -> bool {
        self.sources[index(mac)] == mac | u64::from(self.epoch) << 56
    }

    /// Remembers that a source has been learnt.
    #[inline]
    pub fn note_source(&mut self, mac: MacKey) {
        self.sources[index(mac)] = mac | u64::from(self.epoch) << 56;
    }
}

/// Multiplicative hashing: the upper bits depend on all others.
#[inline]
fn index(mac: MacKey) -> usize {
    (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - WORDS.trailing_zeros())) as usize % WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_counts_until_the_table_or_its_stamp_changes() {
        let mut memo = Memo::new();
        memo.refresh(7, 1, 0);
        memo.note_destination(0x0200, Some(PortIndex(253)));
        memo.note_destination(0x0300, None);
        memo.note_source(0x0400);
        memo.refresh(7, 1, 0);
        assert_eq!(memo.destination(0x0200), Some(Some(PortIndex(253))));
        assert_eq!(memo.destination(0x0300), Some(None));
        assert_eq!(memo.destination(0x0400), None);
        assert!(memo.knows_source(0x0400) && !memo.knows_source(0x0200));
        memo.refresh(8, 1, 0);
        assert_eq!(memo.destination(0x0200), None);
        memo.note_destination(0x0200, Some(PortIndex(1)));
        memo.refresh(8, 2, 0);
        assert!(memo.destination(0x0200).is_none() && !memo.knows_source(0x0400));
    }

    #[test]
    fn epochs_that_come_again_bring_nothing_back() {
        let mut memo = Memo::new();
        memo.note_destination(0x0200, Some(PortIndex(1)));
        memo.note_source(0);
        for changes in 1..1000 {
            memo.refresh(changes, 0, 0);
            assert_eq!(memo.destination(0x0200), None, "{changes}");
            assert!(!memo.knows_source(0), "{changes}");
        }
    }
}
