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
//! Who writes what: `lock` by producers; `exchange` and `hwtail` by the producer that holds `lock`; `hwcur` by
//! the consumer, the participant that `reader` names. Handles that sleep until packets come put themselves into
//! `sleepers`, those that sleep until there is space into `waiters`; whoever changes what they wait for
//! takes them out and rings them.
//!
//! Invariants, each with a loom model below: what lies before `hwtail` is complete; a producer that
//! dies loses only what it had not published; every handle that sleeps in a set is rung after
//! the next change. Values are masked or range-checked by the caller: any process may have
//! scribbled over them.

#[cfg(not(loom))]
use crate::ring::RingRef;
use crate::sync::{AtomicU32, AtomicU64, Ordering, spin_hint, yield_now};
use crate::vale::state::handleset::{Members, Summary, Taken};
use crate::vale::state::ids::{HandleIndex, ParticipantId};
use crate::vale::state::owner::Owner;
use crate::vale::state::repair::Exchange;

/// Shared state of one receive ring. Each writer has cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Kring {
    /// 0, or the identity of the participant that holds the ring as a producer (`ParticipantId`).
    lock: AtomicU64,
    /// The exchange of two buffers that the producer makes. On this line and not with `hwtail`, which a
    /// consumer that waits busily reads again after each store.
    pub exchange: Exchange,
    #[cfg(not(loom))]
    _pad0: [u64; 5],
    /// First slot not published. Written by the producer that holds `lock`.
    hwtail: AtomicU32,
    #[cfg(not(loom))]
    _pad1: [u32; 15],
    /// First slot not freed. Written by the consumer.
    hwcur: AtomicU32,
    /// Whether handles sleep until packets come.
    sleepers: Summary,
    #[cfg(not(loom))]
    _pad2: [u32; 14],
    /// Whether handles sleep until there is space.
    waiters: Summary,
    #[cfg(not(loom))]
    _pad3: u32,
    /// The participant that syncs the ring as its consumer now. On this line, which producers seldom touch.
    pub reader: Owner,
    #[cfg(not(loom))]
    _pad4: [u64; 6],
    /// Handles that sleep until packets come.
    sleeping: Members,
    /// Handles that sleep until there is space.
    waiting: Members,
}

#[cfg(not(loom))]
const _: () = assert!(std::mem::size_of::<Kring>() == 768);
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
    /// Holds the ring for `me`. While another has it, `judge` is asked about that holder
    /// each time that spinning and yielding did not help.
    #[inline]
    pub fn hold(&self, me: ParticipantId, judge: impl FnMut(ParticipantId) -> OnHeld) -> Held {
        // Acquire pairs with the Release in `release_hold`: slots written by the last holder are
        // ours to overwrite.
        match self.lock.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Held::Fresh,
            Err(_) => self.hold_contended(me, judge),
        }
    }

    #[cold]
    fn hold_contended(
        &self,
        me: ParticipantId,
        mut judge: impl FnMut(ParticipantId) -> OnHeld,
    ) -> Held {
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
            let won = match ParticipantId::from_word(owner).map(&mut judge) {
                None => Held::Fresh,
                Some(OnHeld::Dead) => Held::Stolen,
                Some(OnHeld::GiveUp) => return Held::No,
                Some(OnHeld::Wait) => {
                    yield_now();
                    continue;
                }
            };
            let take =
                self.lock.compare_exchange(owner, me.word(), Ordering::Acquire, Ordering::Relaxed);
            if take.is_ok() {
                return won;
            }
        }
    }

    /// Lets go of the ring. Does nothing if `me` no longer holds it (a hostile peer took it).
    #[inline]
    pub fn release_hold(&self, me: ParticipantId) {
        // A plain store would do between honest peers; checking first costs nothing, since the
        // line is ours, and keeps a scribbled lock word from being turned into a free lock.
        if self.lock.load(Ordering::Relaxed) == me.word() {
            // Pairs with the Acquire in `hold`.
            self.lock.store(0, Ordering::Release);
        }
    }

    /// Whoever has taken the ring from a dead producer, or keeps it for ever: puts the buffer back that an
    /// exchange cut off has left in no slot.
    #[cfg(not(loom))]
    #[cold]
    pub fn mend(&self, ring: RingRef<'_>) {
        self.exchange.mend(self.free_slots(ring), |idx| ring.buffer(idx).is_some());
    }

    /// The same, for who holds the ring `seen` as well.
    #[cfg(not(loom))]
    #[cold]
    pub fn mend_with(&self, ring: RingRef<'_>, seen: RingRef<'_>) {
        let a = |i: u32| seen.slots.get(i as usize).map(|slot| &slot.word);
        self.exchange.mend_with(a, self.free_slots(ring), |idx| ring.buffer(idx).is_some());
    }

    /// Tells the words of the slots that are free.
    #[cfg(not(loom))]
    fn free_slots<'a>(&self, ring: RingRef<'a>) -> impl Fn(u32) -> Option<&'a AtomicU64> + use<'a> {
        let (freed, n) = (self.freed(), ring.n());
        let tail = Some(self.producer_tail()).filter(|&tail| tail < n).unwrap_or(freed);
        let free = match freed < n {
            true if tail == freed => n,
            true => ring.distance(tail, freed),
            false => 0, // damaged: what is free cannot be told
        };
        move |i: u32| {
            let is_free = i < n && free > 0 && ring.distance(tail, i) < free;
            is_free.then(|| &ring.slots[i as usize].word)
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

    /// Producer, after `publish`: the handles that asked to be woken for packets. Each is given to one
    /// caller, who rings it.
    #[inline]
    pub fn take_sleepers(&self) -> Option<Taken> {
        self.sleepers.take(&self.sleeping)
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

    /// Handle that is about to sleep until packets come: look again (`published`) before sleeping.
    pub fn sleep_for_packets(&self, handle: HandleIndex) {
        self.sleepers.insert(&self.sleeping, handle);
    }

    /// Handle that is awake: to ring it would be in vain.
    pub fn stay_awake(&self, handle: HandleIndex) {
        self.sleepers.remove(&self.sleeping, handle);
    }

    /// Handle that found no space: look again (`freed`) before sleeping.
    pub fn wait_for_space(&self, handle: HandleIndex) {
        self.waiters.insert(&self.waiting, handle);
    }

    /// Handle that no longer waits for space: to ring it would be in vain.
    pub fn need_no_space(&self, handle: HandleIndex) {
        self.waiters.remove(&self.waiting, handle);
    }

    /// Consumer, after `free`: the handles that wait for space, to be rung.
    #[inline]
    pub fn take_waiters(&self) -> Option<Taken> {
        self.waiters.take(&self.waiting)
    }
}

#[cfg(all(test, loom))]
pub mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    pub fn id(word: u64) -> ParticipantId {
        ParticipantId::from_word(word).unwrap()
    }

    pub fn kring() -> Arc<Kring> {
        Arc::new(Kring {
            lock: AtomicU64::new(0),
            exchange: Exchange::new(),
            hwtail: AtomicU32::new(0),
            hwcur: AtomicU32::new(0),
            sleepers: Summary::new(),
            waiters: Summary::new(),
            reader: Owner::new(),
            sleeping: Members::new(),
            waiting: Members::new(),
        })
    }

    /// Bells of two handles: one bit each, that stays set until the sleeper takes it.
    type Bells = [AtomicBool; 2];

    fn bells() -> Arc<Bells> {
        Arc::new([AtomicBool::new(false), AtomicBool::new(false)])
    }

    fn ring(taken: Option<Taken>, bells: &Bells) {
        for handle in taken.into_iter().flat_map(Taken::handles) {
            bells[handle.0 as usize].store(true, Ordering::SeqCst);
        }
    }

    fn rung(bell: &AtomicBool) -> bool {
        bell.swap(false, Ordering::SeqCst)
    }

    #[test]
    fn loom_sleeping_consumer_is_always_kicked() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            let producer = {
                let (k, bells) = (k.clone(), bells.clone());
                thread::spawn(move || {
                    k.publish(1);
                    ring(k.take_sleepers(), &bells);
                })
            };
            // The consumer decides to sleep only if it asked and then still saw nothing.
            k.sleep_for_packets(HandleIndex(0));
            let sleeps = k.published() == 0;
            producer.join().unwrap();
            assert!(!sleeps || rung(&bells[0]), "asleep, a packet in the ring, and no kick");
        });
    }

    #[test]
    fn loom_both_handles_that_sleep_at_a_ring_are_kicked() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            let sleeper = |handle: HandleIndex| {
                let k = k.clone();
                thread::spawn(move || {
                    k.sleep_for_packets(handle);
                    k.published() == 0
                })
            };
            let other = sleeper(HandleIndex(1));
            let producer = {
                let (k, bells) = (k.clone(), bells.clone());
                thread::spawn(move || {
                    k.publish(1);
                    ring(k.take_sleepers(), &bells);
                })
            };
            k.sleep_for_packets(HandleIndex(0));
            let sleeps = [k.published() == 0, other.join().unwrap()];
            producer.join().unwrap();
            for (handle, bell) in bells.iter().enumerate() {
                assert!(!sleeps[handle] || rung(bell), "handle {handle} sleeps for ever");
            }
        });
    }

    #[test]
    fn loom_handle_that_wakes_takes_no_other_out_of_the_set() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            // Handle 1 slept, and goes on while handle 0 goes to sleep.
            k.sleep_for_packets(HandleIndex(1));
            let other = {
                let k = k.clone();
                thread::spawn(move || k.stay_awake(HandleIndex(1)))
            };
            k.sleep_for_packets(HandleIndex(0));
            let sleeps = k.published() == 0;
            other.join().unwrap();
            k.publish(1);
            ring(k.take_sleepers(), &bells);
            assert!(!sleeps || rung(&bells[0]));
            assert!(!rung(&bells[1]));
        });
    }

    #[test]
    fn loom_sender_waiting_for_space_is_always_woken() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            let consumer = {
                let (k, bells) = (k.clone(), bells.clone());
                thread::spawn(move || {
                    k.free(1);
                    ring(k.take_waiters(), &bells);
                })
            };
            k.wait_for_space(HandleIndex(1));
            let sleeps = k.freed() == 0;
            consumer.join().unwrap();
            assert!(
                !sleeps || rung(&bells[1]),
                "waiting for space that is there, and nobody rings"
            );
        });
    }

    /// The end of a pipe that reads two slots, of a ring of three, one by one: it rings senders once at most half the ring is
    /// left, and before it goes to sleep.
    fn read_two(k: &Kring, bells: &Bells) {
        for head in 1..=2 {
            while k.published() < head {
                yield_now();
            }
            let hwtail = k.published();
            k.free(head);
            if hwtail - head <= 3 / 2 {
                ring(k.take_waiters(), bells);
            }
        }
        ring(k.take_waiters(), bells);
    }

    #[test]
    fn loom_sender_at_a_full_pipe_is_woken_by_a_reader_that_rings_at_half_a_ring() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            k.publish(2);
            let reader = {
                let (k, bells) = (k.clone(), bells.clone());
                thread::spawn(move || read_two(&k, &bells))
            };
            k.wait_for_space(HandleIndex(1));
            let sleeps = k.published() - k.freed() == 2;
            reader.join().unwrap();
            assert!(!sleeps || rung(&bells[1]), "asleep at an empty pipe");
        });
    }

    #[test]
    fn loom_sender_that_fills_a_pipe_as_it_goes_to_sleep_asks_before_it_does() {
        loom::model(|| {
            let (k, bells) = (kring(), bells());
            let reader = {
                let (k, bells) = (k.clone(), bells.clone());
                thread::spawn(move || read_two(&k, &bells))
            };
            let (mut asked, mut sleeps) = (false, false);
            for _ in 0..2 {
                // With nothing in flight there is nothing that the reader could release.
                if k.published() != k.freed() {
                    k.wait_for_space(HandleIndex(1));
                    asked = true;
                }
                // The look after asking passes on what is queued.
                if k.published() == 0 {
                    k.publish(2);
                }
                let in_flight = k.published() - k.freed();
                if in_flight < 2 {
                    break; // room
                }
                if asked {
                    sleeps = true;
                    break;
                }
            }
            reader.join().unwrap();
            assert!(!sleeps || rung(&bells[1]), "asleep at an empty pipe");
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
                    assert_ne!(k.hold(id(me), |_| OnHeld::Wait), Held::No);
                    let t = k.producer_tail();
                    slots[t as usize].store(me as u32, Ordering::Relaxed);
                    k.publish(t + 1);
                    k.release_hold(id(me));
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
            assert_eq!(k.hold(id(9), |_| OnHeld::GiveUp), Held::Fresh);
            let spawn = |me: u64| {
                let k = k.clone();
                thread::spawn(move || {
                    // Only 9 is dead; a living holder is waited for.
                    let judge = |o| if o == id(9) { OnHeld::Dead } else { OnHeld::Wait };
                    let how = k.hold(id(me), judge);
                    let t = k.producer_tail();
                    k.publish(t + 1);
                    k.release_hold(id(me));
                    how == Held::Stolen
                })
            };
            let (a, b) = (spawn(1), spawn(2));
            let thefts = u32::from(a.join().unwrap()) + u32::from(b.join().unwrap());
            assert_eq!(thefts, 1);
            assert_eq!(k.published(), 2, "a publication was lost");
            assert_eq!(k.hold(id(3), |_| OnHeld::GiveUp), Held::Fresh);
        });
    }

    #[test]
    fn loom_retired_ring_is_never_written_again() {
        loom::model(|| {
            use crate::vale::state::ids::RETIRED;
            let k = kring();
            // The slot's memory: 0 while it is the port's, 1 once the reaper has given it away.
            let given = Arc::new(AtomicU32::new(0));
            let sender = {
                let (k, given) = (k.clone(), given.clone());
                thread::spawn(move || {
                    let judge = |o| if o == RETIRED { OnHeld::GiveUp } else { OnHeld::Wait };
                    if k.hold(id(1), judge) != Held::No {
                        assert_eq!(given.load(Ordering::Relaxed), 0, "wrote to another's memory");
                        k.publish(1);
                        assert_eq!(given.load(Ordering::Relaxed), 0, "wrote to another's memory");
                        k.release_hold(id(1));
                    }
                })
            };
            // The reaper: takes the ring from the living as they let go, and keeps it.
            assert_ne!(k.hold(RETIRED, |_| OnHeld::Wait), Held::No);
            given.store(1, Ordering::Relaxed);
            sender.join().unwrap();
            assert_eq!(k.hold(id(2), |_| OnHeld::GiveUp), Held::No);
        });
    }
}
