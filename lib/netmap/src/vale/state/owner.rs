//! A lock word that is tried, never waited for: which participant syncs a ring now.
//!
//! Invariant: a word that names a dead process is taken over by exactly one other; identities are never
//! used twice. Threads of one process share an identity, and exclude each other like others.

use crate::sync::{AtomicU64, Ordering};

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

impl Owner {
    /// Takes the ring for `me` (not 0), if nobody has it who lives.
    #[inline]
    pub fn take(&self, me: u64, is_dead: impl FnOnce(u64) -> bool) -> Taken {
        // Acquire pairs with the Release in `give`: the indices are those that the last one left.
        match self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Taken::Free,
            Err(owner) => self.take_over(owner, me, is_dead),
        }
    }

    #[cold]
    fn take_over(&self, owner: u64, me: u64, is_dead: impl FnOnce(u64) -> bool) -> Taken {
        let take = || self.0.compare_exchange(owner, me, Ordering::Acquire, Ordering::Relaxed);
        if is_dead(owner) && take().is_ok() { Taken::FromTheDead } else { Taken::No }
    }

    /// Gives the ring back. Does nothing if it is another's: a peer wrote over the word.
    #[inline]
    pub fn give(&self, me: u64) {
        if self.0.load(Ordering::Relaxed) == me {
            // Pairs with the Acquire in `take`.
            self.0.store(0, Ordering::Release);
        }
    }

    /// Free.
    #[cfg(all(test, loom))]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}
