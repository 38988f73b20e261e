//! A lock word that is tried, never waited for: which participant syncs a ring now.
//!
//! Invariant: a word that names a dead process is taken over by exactly one other; identities are never
//! used twice. Threads of one process share an identity, and exclude each other like others.

use crate::sync::{AtomicU64, Ordering};
use crate::vale::state::ids::ParticipantId;

/// 0, or the identity of the process that syncs the ring (`ParticipantId`).
#[repr(transparent)]
#[derive(Debug)]
pub struct Owner(AtomicU64);

#[cfg(not(loom))]
// SAFETY: an atomic.
unsafe impl crate::shm::map::Shared for Owner {}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was free.
    Free,
    /// It was in the name of a dead process, which may have been in the middle of a sync.
    FromTheDead,
    /// Somebody alive has it.
    No,
}

/// In the word: somebody who found it taken wants to be told when it is given back. Generations do not reach
/// that bit.
const WANTED: u64 = 1 << 63;

impl Owner {
    /// Takes the ring for `me`, if nobody has it who lives.
    #[inline]
    pub fn take(&self, me: ParticipantId, is_dead: impl FnOnce(ParticipantId) -> bool) -> Taken {
        // Acquire pairs with the Release in `give`: the indices are those that the last one left.
        match self.0.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Taken::Free,
            Err(word) => self.take_over(word, me, is_dead),
        }
    }

    #[cold]
    fn take_over(
        &self,
        word: u64,
        me: ParticipantId,
        is_dead: impl FnOnce(ParticipantId) -> bool,
    ) -> Taken {
        let mine = me.word() | word & WANTED;
        let take = || self.0.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed);
        let dead = ParticipantId::from_word(word & !WANTED).is_none_or(is_dead);
        if dead && take().is_ok() { Taken::FromTheDead } else { Taken::No }
    }

    /// Asks whoever has the ring to tell when it is given back. False: nobody has it any more.
    pub fn want(&self) -> bool {
        // Release: whoever gives the ring back finds who asked.
        let ask = |word| (word != 0).then_some(word | WANTED);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, ask).is_ok()
    }

    /// Gives the ring back, where nobody asks to be told. Does nothing if it is another's: a peer wrote over
    /// the word.
    #[inline]
    pub fn give(&self, me: ParticipantId) {
        if self.0.load(Ordering::Relaxed) == me.word() {
            // Release pairs with the Acquire in `take`.
            self.0.store(0, Ordering::Release);
        }
    }

    /// Gives the ring back; true if somebody wants to be told. Does nothing if it is another's.
    #[inline]
    pub fn give_and_look(&self, me: ParticipantId) -> bool {
        // Release pairs with the Acquire in `take`.
        match self.0.compare_exchange(me.word(), 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => false,
            Err(word) => self.give_and_tell(word, me),
        }
    }

    #[cold]
    fn give_and_tell(&self, word: u64, me: ParticipantId) -> bool {
        // Acquire pairs with the Release in `want`.
        word == me.word() | WANTED
            && self.0.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Free.
    #[cfg(all(test, loom))]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}
