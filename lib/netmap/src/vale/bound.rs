//! The rings that a handle binds: what is the same for all handles, whichever way their ports send.
//!
//! Invariant: between `arm_rx` for RX and `disarm` every bound RX ring asks for kicks and has been looked at
//! after asking, so a sleep in between ends with the next packet; outside, nobody kicks in vain. Handles on one ring do
//! not know of each other: each is in the sets of those who sleep there, and has its own bell.

use std::os::fd::OwnedFd;

use crate::error::Result;
use crate::layout::Layout;
use crate::options::Places;
use crate::ring::RingRef;
use crate::shm::bell::Bell;
use crate::shm::mem::Region;
use crate::stats::{C, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::time::now_ms;
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::open::{Attached, Handle};
use crate::vale::lifecycle::reap;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::peers::MOST_RINGS;
use crate::vale::state::handleset::{Rung, Taken};
use crate::vale::state::ids::{HandleIndex, ParticipantId, PortIndex, RingNumber};
use crate::vale::state::owner;
use crate::wait::Interest;

/// Why a ring of our own is always found: `open` checked it, and a region's known cells never
/// become fewer (a truncated file reads as zeros).
pub const WITHIN: &str = "checked when the port was bound";

/// What happens in a sync of an RX ring, for those who have more to do then.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The ring was taken over from a process that died in its sync.
    TakenOver(RingRef<'a>),
    /// Slots are about to be given back.
    GiveBack {
        /// The ring.
        ring: RingRef<'a>,
        /// The first of them.
        from: u32,
        /// Past the last one.
        to: u32,
        /// The ring was taken over, and some of it may have been done.
        heir: bool,
    },
}

impl Attached {
    /// The TX ring at that place among those that the handle binds.
    #[inline]
    pub fn tx_number(&self, place: usize) -> RingNumber {
        self.bound.tx[place]
    }

    /// The RX ring at that place among those that the handle binds.
    #[inline]
    pub fn rx_number(&self, place: usize) -> RingNumber {
        self.bound.rx[place]
    }

    /// The TX rings that the handle binds.
    #[inline]
    pub fn tx_rings(&self) -> impl Iterator<Item = RingNumber> + '_ {
        self.bound.tx.iter().copied()
    }

    /// The RX rings that the handle binds.
    #[inline]
    pub fn rx_rings(&self) -> impl Iterator<Item = RingNumber> + '_ {
        self.bound.rx.iter().copied()
    }

    /// TX ring `i` in memory.
    #[inline]
    pub fn tx_ring(&self, i: RingNumber) -> RingRef<'_> {
        self.port.file.shape.rings.tx_ring(&self.port.region, i).expect(WITHIN)
    }

    /// RX ring `i` in memory.
    #[inline]
    pub fn rx_ring(&self, i: RingNumber) -> RingRef<'_> {
        self.port.file.shape.rings.rx_ring(&self.port.region, i).expect(WITHIN)
    }

    /// Whether a sync of RX ring `i` would change nothing: nothing was read, and nothing is new.
    #[inline]
    pub fn is_idle_rx(&self, i: RingNumber) -> bool {
        let (ring, kring) = (self.rx_ring(i), self.port.file.kring(i));
        let (hwcur, hwtail) = (kring.consumer_cur(), kring.published());
        hwcur < ring.n() && hwtail < ring.n() && ring.is_idle(hwcur, hwtail)
    }

    /// Gives back what was read on RX ring `i`, which is not idle, and shows what came, unless another handle is doing
    /// that at this moment. Senders wait at a full ring if they are `lossless`. `on` is told of each
    /// step. True: the program's indices made no sense, and were put
    /// right.
    #[inline]
    pub fn receive_ring<'a>(
        &'a self,
        me: ParticipantId,
        i: RingNumber,
        lossless: bool,
        mut on: impl FnMut(Step<'a>),
    ) -> bool {
        let ring = self.rx_ring(i);
        let kring = self.port.file.kring(i);
        let n = ring.n();
        let switch = &self.switch;
        let taken = kring.reader.take(me, |owner| switch.is_dead(owner));
        if taken == owner::Taken::No {
            return false;
        }
        let heir = taken == owner::Taken::FromTheDead;
        if heir {
            on(Step::TakenOver(ring));
        }
        let (mut hwcur, mut hwtail) = (kring.consumer_cur(), kring.published());
        if hwcur >= n {
            hwcur = if hwtail < n { hwtail } else { 0 };
            kring.free(hwcur);
        }
        if hwtail >= n {
            // Damaged by a peer. The next sender goes on from where we stand; until then there is
            // nothing to read, and whoever waits sleeps.
            hwtail = hwcur;
        }
        let mut waiting = None;
        let in_order = ring.head_in_order(hwcur, hwtail);
        if let Some(head) = in_order {
            if head != hwcur {
                on(Step::GiveBack { ring, from: hwcur, to: head, heir });
                kring.free(head);
            }
            if head != hwtail && ring.raw.tail.load(Ordering::Relaxed) != hwtail {
                stamp(&ring);
            }
            // Pairs with the Acquire in `RingRef::range`.
            ring.raw.tail.store(hwtail, Ordering::Release);
            // Senders that wait for space are woken for a worthwhile batch: half the ring.
            if head != hwcur && lossless && ring.distance(head, hwtail) <= n / 2 {
                waiting = kring.take_waiters();
            }
        } else {
            ring.reinit(hwcur, hwtail);
            self.port.file.rx_counters(i).add(C::reinits, 1);
        }
        kring.reader.give(me); // nobody is told: readers look before they sleep
        if let Some(waiting) = waiting {
            self.wake(waiting, None, self.port.file.rx_counters(i), |handle| {
                kring.wait_for_space(handle); // rung when more is freed
            });
        }
        in_order.is_none()
    }

    /// Rings those who wait, on that port or any, as many as one sync rings; the others are put `back`.
    #[cold]
    pub fn wake(
        &self,
        waiting: Taken,
        on: Option<PortIndex>,
        counters: &SharedCounters,
        back: impl Fn(HandleIndex),
    ) {
        for (n, handle) in waiting.handles().enumerate() {
            let rung = if n < MOST_RINGS { self.switch.ring(handle, on) } else { Rung::Later };
            match rung {
                Rung::Yes => counters.add(C::doorbells_rung, 1),
                Rung::Nobody => {}
                Rung::Later => back(handle),
            }
        }
    }

    /// Whether some bound RX ring has more to read than the program has seen.
    pub fn has_news(&self) -> bool {
        self.rx_rings().any(|i| {
            let tail = self.rx_ring(i).raw.tail.load(Ordering::Relaxed);
            self.port.file.kring(i).published() != tail
        })
    }

    /// Before the handle sleeps: asks for kicks, if it is to wake for packets.
    pub fn arm_rx(&self, what: Interest, lossless: bool) {
        for i in self.rx_rings() {
            let kring = self.port.file.kring(i);
            if what.contains(Interest::RX) {
                kring.sleep_for_packets(self.index());
            }
            // About to sleep: whoever waits for space gets what there is.
            if lossless && let Some(waiting) = kring.take_waiters() {
                self.wake(waiting, None, self.port.file.rx_counters(i), |handle| {
                    kring.wait_for_space(handle);
                });
            }
        }
    }

    /// Asks the handles that kept this one from syncing the TX rings in `skipped` (a bit each) to ring when
    /// they end; they may have taken what this one queued, or not. False: one has ended by now.
    pub fn is_told(&self, skipped: u32) -> bool {
        let told = |i: RingNumber| {
            skipped & i.bit() == 0 || self.port.file.tx_state(i).wait_for_end(self.index())
        };
        self.tx_rings().all(told)
    }

    /// After a sleep, or instead of one: takes the request for kicks back and clears the bell.
    pub fn disarm(&self, bell: &Bell, slept: bool) {
        for i in self.rx_rings() {
            self.port.file.kring(i).stay_awake(self.index());
        }
        bell.clear(self.switch.dir(), || self.bell());
        if slept && let Some(i) = self.rx_rings().next() {
            self.port.file.rx_counters(i).add(C::wakeups, 1);
        }
    }

    /// Gives away the descriptor of the handle's bell, and goes on listening at another one.
    pub fn detach(&self, bell: &mut Bell) -> Result<OwnedFd> {
        let other = Bell::listen(self.switch.dir(), &self.bell())?;
        Ok(std::mem::replace(bell, other).into_fd())
    }

    /// Where the handle's structures lie in the port's memory.
    pub fn layout(&self) -> Layout {
        let (mem_size, if_offset) = (self.port.region.bytes(), Region::offset(self.if_cell));
        let mem_id = memory::id(&self.port.file.shape.region);
        Layout { mem_size, if_offset: if_offset as u64, mem_id }
    }

    /// Lets a new handle have the rings at these places; they are no longer this one's.
    pub fn give_away_bound(&mut self, places: &Places) -> Result<Handle> {
        self.give_away(self.bound.at(places))
    }
}

/// Pause between two looks at whether a full destination is dead.
const DEATH_CHECK_MS: u64 = 50;

/// Looks now and then whether a port whose ring was full is dead.
#[derive(Debug, Default)]
pub struct DeathChecks {
    last_ms: u64,
}

impl DeathChecks {
    /// If it is, it is taken off the list, unless the root's lock is taken: then whoever has it does the same.
    #[cold]
    pub fn look(&mut self, switch: &Switch, port: PortIndex) {
        let now = now_ms();
        if now.wrapping_sub(self.last_ms) >= DEATH_CHECK_MS {
            self.last_ms = now;
            // What cannot be cleared away now is not this sender's trouble: the next one tries again.
            let _ = reap::unlist_if_dead(switch, port);
        }
    }
}

/// Time of a sync that brought packets, as netmap keeps it by default.
#[inline]
fn stamp(ring: &RingRef<'_>) {
    let clock = nix::time::ClockId::CLOCK_REALTIME_COARSE;
    if let Ok(now) = nix::time::clock_gettime(clock) {
        ring.raw.ts_sec.store(now.tv_sec(), Ordering::Relaxed);
        ring.raw.ts_usec.store(now.tv_nsec() / 1000, Ordering::Relaxed);
    }
}
