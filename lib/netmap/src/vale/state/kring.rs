//! The state of one receive ring that its producers and its consumer share, and the two protocols
//! on it: reservation under a lock that outlives its holder's death, and the notification rule.
//!
//! Picture of one ring of `n` slots (one is always empty):
//!
//! ```text
//!        hwcur (consumer)            hwtail (producer)
//!          |                           |
//!   [ free | published, not yet freed  | free ........ ]
//! ```
//!
//! Who writes what: `lock` by producers; `hwtail` by the producer that holds `lock`; `hwcur` by the
//! consumer, the handle that `reader` names; `want_kick` is set by the consumer and cleared by whoever kicks; `waiting` is set by
//! senders that wait for space and cleared by the consumer.
//!
//! Invariants, each with a loom model below: what lies before `hwtail` is complete; a producer that
//! dies loses only what it had not published; a consumer that sleeps with its flag set is kicked by
//! the next publication. Values are masked or range-checked by the caller: any process may have
//! scribbled over them.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, spin_hint, yield_now};
use crate::vale::state::owner::Owner;

/// Shared state of one receive ring. Each writer has cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Kring {
    /// 0, or the identity of the producer that holds the ring (`vale::switch::HandleId`).
    lock: AtomicU64,
    #[cfg(not(loom))]
    _pad0: [u64; 7],
    /// First slot not published. Written by the producer that holds `lock`.
    hwtail: AtomicU32,
    #[cfg(not(loom))]
    _pad1: [u32; 15],
    /// First slot not freed. Written by the consumer.
    hwcur: AtomicU32,
    /// 1: the consumer is about to sleep and wants its doorbell rung.
    want_kick: AtomicU32,
    #[cfg(not(loom))]
    _pad2: [u32; 14],
    /// Ports (by index) whose senders wait for space in this ring.
    waiting: [AtomicU64; 4],
    /// The handle that syncs the ring as its consumer now. On this line, which producers seldom touch.
    pub reader: Owner,
    #[cfg(not(loom))]
    _pad3: [u64; 3],
}

#[cfg(not(loom))]
const _: () = assert!(std::mem::size_of::<Kring>() == 256);
#[cfg(not(loom))]
// SAFETY: atomics and padding; the padding is never read.
unsafe impl crate::shm::map::Shared for Kring {}

/// What to do about a ring that somebody else holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHeld {
    /// The holder lives: go on waiting.
    Wait,
    /// The holder is dead: take the ring over.
    Dead,
    /// Waited long enough.
    GiveUp,
}

/// How an attempt to hold a ring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Free before.
    Fresh,
    /// Taken over from a dead holder, whose unpublished work is void.
    Stolen,
    /// Not held.
    No,
}

/// Spins before the first yield: about the time of a short batch.
const SPINS: u32 = 128;

impl Kring {
    /// Holds the ring for `me` (not 0). While another has it, `judge` is asked about that holder
    /// each time that spinning and yielding did not help.
    #[inline]
    pub fn hold(&self, me: u64, judge: impl FnMut(u64) -> OnHeld) -> Held {
        // Acquire pairs with the Release in `release_hold`: slots written by the last holder are
        // ours to overwrite.
        match self.lock.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Held::Fresh,
            Err(_) => self.hold_contended(me, judge),
        }
    }

    #[cold]
    fn hold_contended(&self, me: u64, mut judge: impl FnMut(u64) -> OnHeld) -> Held {
        loop {
            let mut owner = 0;
            for _ in 0..if cfg!(loom) { 1 } else { SPINS } {
                owner = self.lock.load(Ordering::Relaxed);
                if owner == 0 {
                    break;
                }
                spin_hint();
            }
            // A dead holder is replaced only if it is still the very same one: identities are
            // never used twice, so of several thieves exactly one succeeds.
            let (expect, won) = if owner == 0 {
                (0, Held::Fresh)
            } else {
                match judge(owner) {
                    OnHeld::Dead => (owner, Held::Stolen),
                    OnHeld::GiveUp => return Held::No,
                    OnHeld::Wait => {
                        yield_now();
                        continue;
                    }
                }
            };
            if self.lock.compare_exchange(expect, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return won;
            }
        }
    }

    /// Lets go of the ring. Does nothing if `me` no longer holds it (a hostile peer took it).
    #[inline]
    pub fn release_hold(&self, me: u64) {
        // A plain store would do between honest peers; checking first costs nothing, since the
        // line is ours, and keeps a scribbled lock word from being turned into a free lock.
        if self.lock.load(Ordering::Relaxed) == me {
            // Pairs with the Acquire in `hold`.
            self.lock.store(0, Ordering::Release);
        }
    }

    /// Producer, holding the ring: where the next packet goes.
    #[inline]
    pub fn producer_tail(&self) -> u32 {
        // Ordered by the lock.
        self.hwtail.load(Ordering::Relaxed)
    }

    /// Producer: how far the consumer has freed.
    #[inline]
    pub fn freed(&self) -> u32 {
        // Pairs with the Release in `free`: the consumer has read what it frees.
        self.hwcur.load(Ordering::Acquire)
    }

    /// Producer, holding the ring: everything before `tail` is complete.
    #[inline]
    pub fn publish(&self, tail: u32) {
        // Pairs with the Acquire in `published`.
        self.hwtail.store(tail, Ordering::Release);
    }

    /// Producer, after `publish`: whether the consumer asked for a kick. At most one producer is
    /// told so.
    #[inline]
    pub fn take_kick(&self) -> bool {
        // The rule's fence: the publication is visible before the flag is read. Pairs with the
        // fence in `ask_kick`; one of the two sides sees the other.
        fence(Ordering::SeqCst);
        self.want_kick.load(Ordering::Relaxed) != 0
            && self.want_kick.swap(0, Ordering::Relaxed) != 0
    }

    /// Consumer: how far there is something to read.
    #[inline]
    pub fn published(&self) -> u32 {
        // Pairs with the Release in `publish`.
        self.hwtail.load(Ordering::Acquire)
    }

    /// Consumer: where it last freed.
    #[inline]
    pub fn consumer_cur(&self) -> u32 {
        self.hwcur.load(Ordering::Relaxed)
    }

    /// Consumer: everything before `cur` may be overwritten.
    #[inline]
    pub fn free(&self, cur: u32) {
        // Pairs with the Acquire in `freed`.
        self.hwcur.store(cur, Ordering::Release);
    }

    /// Consumer, about to sleep: ask for a kick, then look again (`published`) before sleeping.
    #[inline]
    pub fn ask_kick(&self) {
        self.want_kick.store(1, Ordering::Relaxed);
        // Pairs with the fence in `take_kick`.
        fence(Ordering::SeqCst);
    }

    /// Consumer, awake: kicks would be wasted.
    #[inline]
    pub fn clear_kick(&self) {
        self.want_kick.store(0, Ordering::Relaxed);
    }

    /// Sender that found no space: ask to be woken, then look again (`freed`) before sleeping.
    pub fn wait_for_space(&self, port: u8) {
        self.waiting[usize::from(port / 64)].fetch_or(1 << (port % 64), Ordering::Relaxed);
        // Pairs with the fence in `take_waiting`.
        fence(Ordering::SeqCst);
    }

    /// Consumer, after `free`: the senders to wake, by port. Clears them.
    #[inline]
    pub fn take_waiting(&self) -> Option<[u64; 4]> {
        // Pairs with the fence in `wait_for_space`.
        fence(Ordering::SeqCst);
        if self.waiting.iter().all(|w| w.load(Ordering::Relaxed) == 0) {
            return None;
        }
        Some(std::array::from_fn(|i| self.waiting[i].swap(0, Ordering::Relaxed)))
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    fn kring() -> Arc<Kring> {
        Arc::new(Kring {
            lock: AtomicU64::new(0),
            hwtail: AtomicU32::new(0),
            hwcur: AtomicU32::new(0),
            want_kick: AtomicU32::new(0),
            waiting: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)],
            reader: Owner::new(),
        })
    }

    /// The doorbell: one bit that stays set until the sleeper takes it.
    fn rung(bell: &AtomicBool) -> bool {
        bell.swap(false, Ordering::SeqCst)
    }

    #[test]
    fn loom_sleeping_consumer_is_always_kicked() {
        loom::model(|| {
            let k = kring();
            let bell = Arc::new(AtomicBool::new(false));
            let producer = {
                let (k, bell) = (k.clone(), bell.clone());
                thread::spawn(move || {
                    k.publish(1);
                    if k.take_kick() {
                        bell.store(true, Ordering::SeqCst);
                    }
                })
            };
            // The consumer decides to sleep only if it asked and then still saw nothing.
            k.ask_kick();
            let sleeps = k.published() == 0;
            producer.join().unwrap();
            assert!(!sleeps || rung(&bell), "asleep, a packet in the ring, and no kick");
        });
    }

    #[test]
    fn loom_sender_waiting_for_space_is_always_woken() {
        loom::model(|| {
            let k = kring();
            let bell = Arc::new(AtomicBool::new(false));
            let consumer = {
                let (k, bell) = (k.clone(), bell.clone());
                thread::spawn(move || {
                    k.free(1);
                    if k.take_waiting().is_some_and(|w| w[0] & 1 << 5 != 0) {
                        bell.store(true, Ordering::SeqCst);
                    }
                })
            };
            k.wait_for_space(5);
            let sleeps = k.freed() == 0;
            consumer.join().unwrap();
            assert!(!sleeps || rung(&bell), "waiting for space that is there, and nobody rings");
        });
    }

    #[test]
    fn loom_two_producers_publish_complete_slots_once_each() {
        loom::model(|| {
            let k = kring();
            let slots = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let spawn = |me: u64| {
                let (k, slots) = (k.clone(), slots.clone());
                thread::spawn(move || {
                    assert_ne!(k.hold(me, |_| OnHeld::Wait), Held::No);
                    let t = k.producer_tail();
                    slots[t as usize].store(me as u32, Ordering::Relaxed);
                    k.publish(t + 1);
                    k.release_hold(me);
                })
            };
            let (a, b) = (spawn(1), spawn(2));
            let seen = k.published();
            for slot in &slots[..seen as usize] {
                assert_ne!(slot.load(Ordering::Relaxed), 0, "published but not written");
            }
            a.join().unwrap();
            b.join().unwrap();
            assert_eq!(k.published(), 2);
            let sum: u32 = slots.iter().map(|s| s.load(Ordering::Relaxed)).sum();
            assert_eq!(sum, 3, "one slot written twice");
        });
    }

    #[test]
    fn loom_dead_holder_is_replaced_by_exactly_one_thief() {
        loom::model(|| {
            let k = kring();
            // A producer died after writing half of its batch and before publishing.
            assert_eq!(k.hold(9, |_| OnHeld::GiveUp), Held::Fresh);
            let spawn = |me: u64| {
                let k = k.clone();
                thread::spawn(move || {
                    // Only 9 is dead; a living holder is waited for.
                    let judge = |o| if o == 9 { OnHeld::Dead } else { OnHeld::Wait };
                    let how = k.hold(me, judge);
                    let t = k.producer_tail();
                    k.publish(t + 1);
                    k.release_hold(me);
                    how == Held::Stolen
                })
            };
            let (a, b) = (spawn(1), spawn(2));
            let thefts = u32::from(a.join().unwrap()) + u32::from(b.join().unwrap());
            assert_eq!(thefts, 1);
            assert_eq!(k.published(), 2, "a publication was lost");
            assert_eq!(k.hold(3, |_| OnHeld::GiveUp), Held::Fresh);
        });
    }

    #[test]
    fn loom_retired_ring_is_never_written_again() {
        loom::model(|| {
            const RETIRED: u64 = u64::MAX;
            let k = kring();
            // The slot's memory: 0 while it is the port's, 1 once the reaper has given it away.
            let given = Arc::new(AtomicU32::new(0));
            let sender = {
                let (k, given) = (k.clone(), given.clone());
                thread::spawn(move || {
                    let judge = |o| if o == RETIRED { OnHeld::GiveUp } else { OnHeld::Wait };
                    if k.hold(1, judge) != Held::No {
                        assert_eq!(given.load(Ordering::Relaxed), 0, "wrote to another's memory");
                        k.publish(1);
                        assert_eq!(given.load(Ordering::Relaxed), 0, "wrote to another's memory");
                        k.release_hold(1);
                    }
                })
            };
            // The reaper: takes the ring from the living as they let go, and keeps it.
            assert_ne!(k.hold(RETIRED, |_| OnHeld::Wait), Held::No);
            given.store(1, Ordering::Relaxed);
            sender.join().unwrap();
            assert_eq!(k.hold(2, |_| OnHeld::GiveUp), Held::No);
        });
    }
}
