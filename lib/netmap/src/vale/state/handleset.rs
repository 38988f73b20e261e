//! A set of handles in shared memory: those that sleep at a ring and want to be rung.
//!
//! Picture: bit `h % 64` of word `h / 64` says that handle `h` is in; bit `w` of the summary says that
//! word `w` may have members. The summary lies with the ring's indices, which are read anyway, so that
//! looking whether anybody sleeps costs one load; the words are touched only when somebody does.
//!
//! Who writes what: a handle puts itself in and takes itself out; whoever rings takes all out at once.
//! Invariant, with loom models in `kring`: a handle that has put itself in and then sees no change is
//! told of the next one. A bit of the summary without members costs one look at its word.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::vale::state::ids::HandleIndex;

/// Most handles of a switch.
#[cfg(not(loom))]
pub const HANDLES: usize = 2048;
#[cfg(loom)]
pub const HANDLES: usize = 64;
/// Words of a set.
pub const WORDS: usize = HANDLES / 64;

/// Which words may have members.
#[repr(transparent)]
#[derive(Debug)]
pub struct Summary(AtomicU32);

/// The members.
#[repr(transparent)]
#[derive(Debug)]
pub struct Members([AtomicU64; WORDS]);

/// What became of an attempt to ring a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// It was rung.
    Yes,
    /// There is no such handle any more, or not there.
    Nobody,
    /// That failed for want of something: it may sleep on, and is to be rung another time.
    Later,
}

/// What was taken out of a set, by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken([u64; WORDS]);

impl Summary {
    /// Puts a handle in; the caller then looks again at what it waits for.
    pub fn insert(&self, members: &Members, handle: HandleIndex) {
        let (word, bit) = place(handle);
        members.0[word].fetch_or(bit, Ordering::Relaxed);
        // Release pairs with the Acquire in `take`: who sees the summary sees the member.
        self.0.fetch_or(1 << word, Ordering::Release);
        // The rule's fence: pairs with the one in `take`. One of the two sides sees the other.
        fence(Ordering::SeqCst);
    }

    /// Takes a handle out.
    pub fn remove(&self, members: &Members, handle: HandleIndex) {
        // The summary stays: to clear it would race with another member of the same word.
        let (word, bit) = place(handle);
        members.0[word].fetch_and(!bit, Ordering::Relaxed);
    }

    /// After a change: takes out all who wait for it. Each member is given to one caller.
    #[inline]
    pub fn take(&self, members: &Members) -> Option<Taken> {
        // The change is visible before the set is read. Pairs with the fence in `insert`.
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) == 0 { None } else { self.take_all(members) }
    }

    #[cold]
    fn take_all(&self, members: &Members) -> Option<Taken> {
        let words = self.0.swap(0, Ordering::Acquire);
        let taken = Taken(std::array::from_fn(|word| match words & 1 << word {
            0 => 0,
            _ => members.0[word].swap(0, Ordering::Relaxed),
        }));
        taken.0.iter().any(|&word| word != 0).then_some(taken)
    }
}

/// Word and bit of a handle.
fn place(HandleIndex(handle): HandleIndex) -> (usize, u64) {
    (handle as usize / 64 % WORDS, 1 << (handle % 64))
}

impl Taken {
    /// The handles, ascending.
    pub fn handles(self) -> impl Iterator<Item = HandleIndex> {
        self.0.into_iter().zip(0u32..).flat_map(|(mut bits, word)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(HandleIndex(word * 64 + bit))
            })
        })
    }
}

#[cfg(all(test, loom))]
impl Summary {
    /// Nobody is in.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

#[cfg(all(test, loom))]
impl Members {
    /// Nobody is in.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_taken_once_in_order_and_those_who_left_not_at_all() {
        let summary = Summary(AtomicU32::new(0));
        let members = Members(std::array::from_fn(|_| AtomicU64::new(0)));
        assert_eq!(summary.take(&members), None);
        for handle in [2047, 0, 63, 64, 1000, 5] {
            summary.insert(&members, HandleIndex(handle));
        }
        summary.remove(&members, HandleIndex(5));
        summary.remove(&members, HandleIndex(1000));
        let taken: Vec<u32> =
            summary.take(&members).unwrap().handles().map(|handle| handle.0).collect();
        assert_eq!(taken, [0, 63, 64, 2047]);
        assert_eq!(summary.take(&members), None);
        summary.insert(&members, HandleIndex(7));
        summary.remove(&members, HandleIndex(7));
        assert_eq!(summary.take(&members), None, "a summary without members is nobody");
    }
}
