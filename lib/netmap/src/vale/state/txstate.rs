//! The state of one transmit ring that all handles which bind it share.
//!
//! ```text
//!      hwcur              claimed
//!        |                   |
//!  sent  | being published   | queued
//! ```
//!
//! Who writes what: all of it by the handle that `owner` names. Before the first publication of a run
//! or batch `claimed` is its end; after the last one `hwcur` is. Invariant: whoever takes over from a
//! dead owner begins at `claimed`. What lies between may have been published, so it is not sent again:
//! at most one batch is lost, nothing is sent twice.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::vale::state::handleset::{Members, Summary, Taken as Waiting};
use crate::vale::state::ids::{HandleIndex, ParticipantId, PortIndex, RingNumber};
use crate::vale::state::owner::{Owner, Taken};

/// Shared state of one transmit ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct TxState {
    owner: Owner,
    hwcur: AtomicU32,
    claimed: AtomicU32,
    /// Where the last batch stopped: 0, or 1 + port * 256 + ring.
    stall: AtomicU64,
    /// Whether handles wait for the end of somebody else's sync.
    waiters: Summary,
    #[cfg(not(loom))]
    _pad: [u32; 9],
    waiting: Members,
}

#[cfg(not(loom))]
const _: () = assert!(std::mem::size_of::<TxState>() == 320);

#[cfg(not(loom))]
// SAFETY: atomics and padding.
unsafe impl crate::shm::map::Shared for TxState {}

/// Where backpressure stopped a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Port whose ring is full.
    pub port: PortIndex,
    /// That ring.
    pub ring: RingNumber,
}

/// Begin of a txsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// First slot not sent, unchecked.
    pub hwcur: u32,
    /// The one that a dead owner left, from which on it may have sent.
    pub lost_from: Option<u32>,
}

impl TxState {
    /// First slot not sent, unchecked.
    #[inline]
    pub fn hwcur(&self) -> u32 {
        self.hwcur.load(Ordering::Relaxed)
    }

    /// Begins a txsync for the process `me`; `None` if somebody else syncs the ring at this moment.
    #[inline]
    pub fn begin(
        &self,
        me: ParticipantId,
        is_dead: impl FnOnce(ParticipantId) -> bool,
    ) -> Option<Begun> {
        match self.owner.take(me, is_dead) {
            Taken::Free => Some(Begun { hwcur: self.hwcur(), lost_from: None }),
            Taken::FromTheDead => {
                let (hwcur, lost_from) = (self.claimed.load(Ordering::Acquire), Some(self.hwcur()));
                self.hwcur.store(hwcur, Ordering::Relaxed);
                Some(Begun { hwcur, lost_from })
            }
            Taken::No => None,
        }
    }

    /// What lies before `end` is about to be published.
    #[inline]
    pub fn claim(&self, end: u32) {
        // Seen by everybody who sees what is published after it.
        self.claimed.store(end, Ordering::Release);
    }

    /// What lies before `hwcur` has been published, or is not to be sent.
    #[inline]
    pub fn done(&self, hwcur: u32) {
        // In this order: between the two, a death loses nothing that was not published.
        self.hwcur.store(hwcur, Ordering::Release);
        self.claimed.store(hwcur, Ordering::Release);
    }

    /// Ends the txsync; returns the handles that waited for it, to be rung.
    #[inline]
    pub fn end(&self, me: ParticipantId) -> Option<Waiting> {
        if self.owner.give_and_look(me) { self.waiters.take(&self.waiting) } else { None }
    }

    /// Lets a handle that could not `begin` be rung when the other one ends. False: that has happened.
    pub fn wait_for_end(&self, handle: HandleIndex) -> bool {
        self.waiters.insert(&self.waiting, handle);
        self.owner.want()
    }

    /// Where backpressure stopped the last batch: port and ring.
    #[inline]
    pub fn stall(&self) -> Option<Stall> {
        let word = self.stall.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Stall { port: PortIndex((word >> 8) as u8), ring: RingNumber(word as u8) })
    }

    /// Says where backpressure stopped the last batch, or that nothing did.
    #[inline]
    pub fn set_stall(&self, stall: Option<Stall>) {
        let word = stall.map_or(0, |at| 1 + u64::from(at.port.0) * 256 + u64::from(at.ring.0));
        self.stall.store(word, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn id(word: u64) -> ParticipantId {
        ParticipantId::from_word(word).unwrap()
    }

    fn state() -> Arc<TxState> {
        Arc::new(TxState {
            owner: Owner::new(),
            hwcur: AtomicU32::new(0),
            claimed: AtomicU32::new(0),
            stall: AtomicU64::new(0),
            waiters: Summary::new(),
            waiting: Members::new(),
        })
    }

    /// Sends the slots up to 2, one a batch; counts each in what was published of it.
    fn send(
        state: &TxState,
        me: ParticipantId,
        published: &[AtomicU32; 2],
        is_dead: impl FnOnce(ParticipantId) -> bool,
    ) {
        let Some(begun) = state.begin(me, is_dead) else { return };
        for slot in begun.hwcur..2 {
            state.claim(slot + 1);
            published[slot as usize].fetch_add(1, Ordering::Release);
            state.done(slot + 1);
        }
        let _ = state.end(me);
    }

    fn none() -> Arc<[AtomicU32; 2]> {
        Arc::new([AtomicU32::new(0), AtomicU32::new(0)])
    }

    #[test]
    fn loom_two_handles_send_each_slot_once() {
        loom::model(|| {
            let (state, published) = (state(), none());
            let spawn = |me: u64| {
                let (state, published) = (state.clone(), published.clone());
                thread::spawn(move || send(&state, id(me), &published, |_| false))
            };
            let (a, b) = (spawn(1), spawn(2));
            a.join().unwrap();
            b.join().unwrap();
            // Who came second may have skipped the ring, but the first sent all.
            for slot in published.iter() {
                assert_eq!(slot.load(Ordering::Relaxed), 1);
            }
        });
    }

    #[test]
    fn loom_handle_that_found_the_ring_taken_is_told_of_the_end() {
        loom::model(|| {
            let state = state();
            assert!(state.begin(id(1), |_| false).is_some());
            let other = {
                let state = state.clone();
                thread::spawn(move || {
                    state.done(1);
                    let told = state.end(id(1)).into_iter().flat_map(Waiting::handles);
                    told.collect::<Vec<_>>() == [HandleIndex(0)]
                })
            };
            // As a sync before a sleep: it begins, or it asks, and if that is too late it tries again.
            let mut sleeps = false;
            while state.begin(id(2), |_| false).is_none() {
                if state.wait_for_end(HandleIndex(0)) {
                    sleeps = true;
                    break;
                }
            }
            let told = other.join().unwrap();
            assert_eq!(sleeps, told, "asleep and not told, or the other way round");
        });
    }

    #[test]
    fn loom_heirs_of_the_dead_send_nothing_twice_and_lose_one_batch() {
        // The owner dies after each of its stores.
        for died_after in 0..=6 {
            loom::model(move || {
                let (state, published) = (state(), none());
                assert!(state.begin(id(9), |_| false).is_some());
                let mut steps = 0;
                let mut step = |store: &dyn Fn()| {
                    if steps < died_after {
                        store();
                    }
                    steps += 1;
                };
                for slot in 0..2 {
                    step(&|| state.claim(slot + 1));
                    step(&|| {
                        let _ = published[slot as usize].fetch_add(1, Ordering::Release);
                    });
                    step(&|| state.done(slot + 1));
                }
                let spawn = |me: u64| {
                    let (state, published) = (state.clone(), published.clone());
                    thread::spawn(move || send(&state, id(me), &published, |owner| owner == id(9)))
                };
                let (a, b) = (spawn(1), spawn(2));
                a.join().unwrap();
                b.join().unwrap();
                let sent = |i: usize| published[i].load(Ordering::Relaxed);
                assert!(sent(0) <= 1 && sent(1) <= 1, "sent twice");
                assert!(sent(0) + sent(1) >= 1, "more than one batch of one slot was lost");
                assert_eq!(state.hwcur(), 2);
            });
        }
    }
}
