//! A handle on a VALE port: rings bound, its bell, and what sync means for it.
//!
//! Invariant: between `arm` for RX and `disarm` every bound RX ring asks for kicks and has been looked at
//! after asking, so a sleep in between ends with the next packet; outside, nobody kicks in vain. Handles on one ring do
//! not know of each other: each is in the sets of those who sleep there, and has its own bell.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::adapter::{Adapter, Kind};
use crate::error::Result;
use crate::layout::Layout;
use crate::name::{Capabilities, PortName, Scheme, SwitchPort, Syntax};
use crate::options::{BoundRings, MAX_RINGS, MemoryRef, Options, PerDirection};
use crate::ring::{RingRef, TxRingRef};
use crate::rings::extra_buffers;
use crate::shm::bell::Bell;
use crate::shm::file::FileId;
use crate::shm::mem::Region;
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::time::now_ms;
use crate::vale::forward::{Forwarder, Source};
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::open::{self, Attached};
use crate::vale::lifecycle::persist;
use crate::vale::lifecycle::reap;
use crate::vale::lifecycle::root::Root;
use crate::vale::peers::{MOST_RINGS, Peers};
use crate::vale::state::handleset::{Rung, Taken};
use crate::vale::state::ids::{HandleIndex, ParticipantId, PortIndex};
use crate::vale::state::owner;
use crate::vale::state::portfile::Shape;
use crate::vale::state::txstate::Stall;
use crate::wait::Interest;

/// Pause between two looks at whether a full destination is dead.
const DEATH_CHECK_MS: u64 = 50;

/// Why a ring of our own is always found: `open` checked it, and a region's known cells never
/// become fewer (a truncated file reads as zeros).
const WITHIN: &str = "checked when the port was bound";

/// What such a port can do.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::INDIRECT)
    .union(Capabilities::BACKPRESSURE)
    .union(Capabilities::PERSISTENT)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::SEVERAL_HANDLES)
    .union(Capabilities::PASSABLE);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "vale",
        syntax: Syntax::SwitchPort,
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| Ok(Box::new(ValePort::open(name, options)?)),
};

/// A bound handle.
#[derive(Debug)]
pub struct ValePort {
    /// Before `at`: a handle is closed by closing its bell.
    bell: Bell,
    pub(crate) at: Attached,
    forwarder: Forwarder,
    peers: Peers,
    last_death_check_ms: u64,
    /// Where TX rings had stopped when `arm` asked about it.
    armed: [Option<Stall>; MAX_RINGS as usize],
    /// What `arm` was called for.
    armed_for: Interest,
    /// TX rings that another handle was syncing when this one tried last: a bit each.
    skipped: u32,
    /// Rings that its syncs set right.
    reinits: u64,
}

impl ValePort {
    /// Opens a port, making it and its switch if they are not there.
    fn open(name: &PortName, options: &Options) -> Result<Self> {
        let SwitchPort { switch, port } = name.switch_port().expect("the syntax of the kind");
        let bound = |shape: &Shape| {
            let has = PerDirection { tx: shape.rings.tx.len(), rx: shape.rings.rx.len() };
            BoundRings::chosen(&name.to_string(), name.rings, options.direction, has)
        };
        Ok(Self::new(open::open(&Root::open()?, switch, port, options, bound)?))
    }

    /// Takes over the handle that a descriptor names, with its port's name.
    pub fn adopt(fd: OwnedFd) -> Result<(PortName, Self)> {
        let port = Self::new(open::adopt(fd)?);
        let listed = port.at.switch.listed(port.at.port.file.shape.index);
        let name = listed.map_or_else(String::new, |listed| listed.name);
        Ok((format!("{}:{name}", port.at.switch.name()).parse()?, port))
    }

    /// Of an attached port.
    pub fn new((bell, at): (Bell, Attached)) -> Self {
        let forwarder = Forwarder::new(at.port.file.shape.index);
        let (armed, armed_for) = ([None; MAX_RINGS as usize], Interest::empty());
        let (last_death_check_ms, skipped, reinits) = (0, 0, 0);
        let peers = Peers::new();
        Self { bell, at, forwarder, peers, armed, armed_for, skipped, reinits, last_death_check_ms }
    }

    /// TX ring `i` in memory.
    #[inline]
    pub fn tx_ring(&self, i: usize) -> RingRef<'_> {
        self.at.port.file.shape.rings.tx_ring(&self.at.port.region, i).expect(WITHIN)
    }

    /// RX ring `i` in memory.
    #[inline]
    pub fn rx_ring(&self, i: usize) -> RingRef<'_> {
        self.at.port.file.shape.rings.rx_ring(&self.at.port.region, i).expect(WITHIN)
    }

    /// Sends what is queued on TX ring `i`, unless another handle is doing that at this moment.
    #[inline]
    pub(crate) fn send_ring(&mut self, me: ParticipantId, i: usize) {
        let ring = self.at.port.file.shape.rings.tx_ring(&self.at.port.region, i).expect(WITHIN);
        let counters = self.at.port.file.tx_counters(i);
        let state = self.at.port.file.tx_state(i);
        let n = ring.n();
        let tail = |hwcur: u32| ring.step(hwcur, n - 1);
        let hwcur = state.hwcur();
        if hwcur < n && ring.is_idle(hwcur, tail(hwcur)) {
            if state.stall().is_some() {
                state.set_stall(None);
            }
            self.skipped &= !(1 << i);
            return; // nothing queued, nothing to be shown
        }
        let switch = &self.at.switch;
        let Some(begun) = state.begin(me, |owner| switch.is_dead(owner)) else {
            self.skipped |= 1 << i;
            return;
        };
        self.skipped &= !(1 << i);
        let mut hwcur = begun.hwcur;
        let known = hwcur < n; // a peer may have scribbled over it
        if !known {
            hwcur = 0;
        } else if let Some(from) = begun.lost_from.filter(|&from| from < n) {
            // What the program has taken back meanwhile is neither sent nor lost.
            if let Some(head) = ring.head_in_order(from, tail(from))
                && ring.distance(from, hwcur) > ring.distance(from, head)
            {
                hwcur = head;
                state.done(hwcur);
            }
            counters.add(C::tx_drop_dead, ring.distance(from, hwcur).into());
        }
        let mut full = None;
        if let Some(head) = ring.head_in_order(hwcur, tail(hwcur)).filter(|_| known) {
            if hwcur != head {
                let from = Source { me, ring, state, number: i, hwcur, head, counters };
                let sent = self.forwarder.txsync(switch, &mut self.peers.of(switch), &from);
                hwcur = sent.hwcur;
                state.set_stall(sent.stall);
                full = sent.full;
            } else {
                state.set_stall(None);
            }
            // Pairs with the Acquire in `RingRef::range`.
            ring.raw.tail.store(tail(hwcur), Ordering::Release);
        } else {
            state.done(hwcur);
            ring.reinit(hwcur, tail(hwcur));
            counters.add(C::reinits, 1);
            self.reinits += 1;
        }
        if let Some(waiting) = state.end(me) {
            let counters = self.at.port.file.tx_counters(i);
            wake(&self.at, waiting, counters, |handle| {
                let _ = state.wait_for_end(handle); // rung at the next end
            });
        }
        if let Some(port) = full {
            self.look_for_dead(port);
        }
    }

    /// A full ring may be a dead one. If so, its port is taken off the list, unless the root's lock is
    /// taken: then whoever has it does the same.
    #[cold]
    fn look_for_dead(&mut self, port: PortIndex) {
        let now = now_ms();
        if now.wrapping_sub(self.last_death_check_ms) >= DEATH_CHECK_MS {
            self.last_death_check_ms = now;
            // What cannot be cleared away now is not this sender's trouble: the next one tries again.
            let _ = reap::unlist_if_dead(&self.at.switch, port);
        }
    }

    /// Gives back what was read on RX ring `i` and shows what came, unless another handle is doing that
    /// at this moment.
    #[inline]
    pub(crate) fn receive_ring(&mut self, me: ParticipantId, i: usize) {
        let ring = self.at.port.file.shape.rings.rx_ring(&self.at.port.region, i).expect(WITHIN);
        let kring = self.at.port.file.kring(i);
        let n = ring.n();
        let (hwcur, hwtail) = (kring.consumer_cur(), kring.published());
        if hwcur < n && hwtail < n && ring.is_idle(hwcur, hwtail) {
            return; // nothing read, nothing new
        }
        let switch = &self.at.switch;
        if kring.reader.take(me, |owner| switch.is_dead(owner)) == owner::Taken::No {
            return;
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
        if let Some(head) = ring.head_in_order(hwcur, hwtail) {
            if head != hwcur {
                kring.free(head);
            }
            if head != hwtail && ring.raw.tail.load(Ordering::Relaxed) != hwtail {
                stamp(&ring);
            }
            // Pairs with the Acquire in `RingRef::range`.
            ring.raw.tail.store(hwtail, Ordering::Release);
            // Senders that wait for space are woken for a worthwhile batch: half the ring.
            if head != hwcur && switch.modes().backpressure && ring.distance(head, hwtail) <= n / 2
            {
                waiting = kring.take_waiters();
            }
        } else {
            ring.reinit(hwcur, hwtail);
            self.at.port.file.rx_counters(i).add(C::reinits, 1);
            self.reinits += 1;
        }
        kring.reader.give(me); // nobody is told: readers look before they sleep
        if let Some(waiting) = waiting {
            wake(&self.at, waiting, self.at.port.file.rx_counters(i), |handle| {
                kring.wait_for_space(handle); // rung when more is freed
            });
        }
    }

    /// Where the last batch of TX ring `i` stopped. Peers may have written anything there.
    fn stall(&self, i: usize) -> Option<Stall> {
        let stall = self.at.port.file.tx_state(i).stall()?;
        (u16::from(stall.ring) < MAX_RINGS).then_some(stall)
    }

    fn stalls(&self) -> [Option<Stall>; MAX_RINGS as usize] {
        let mut stalls = [None; MAX_RINGS as usize];
        for &i in &self.at.bound.tx {
            stalls[i] = self.stall(i);
        }
        stalls
    }

    fn first_stall(&self) -> Option<Stall> {
        self.at.bound.tx.iter().find_map(|&i| self.stall(i))
    }
}

impl Adapter for ValePort {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn rings(&self) -> PerDirection<usize> {
        PerDirection { tx: self.at.bound.tx.len(), rx: self.at.bound.rx.len() }
    }

    fn all_rings(&self) -> PerDirection<usize> {
        let rings = &self.at.port.file.shape.rings;
        PerDirection { tx: rings.tx.len(), rx: rings.rx.len() }
    }

    fn slots(&self) -> PerDirection<u32> {
        self.at.port.file.shape.rings.slots()
    }

    #[inline]
    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        let i = self.at.bound.tx[ring];
        TxRingRef { ring: self.tx_ring(i), hwcur: self.at.port.file.tx_state(i).hwcur() }
    }

    #[inline]
    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.rx_ring(self.at.bound.rx[ring])
    }

    fn txsync_ring(&mut self, ring: usize) -> Result<()> {
        self.forwarder.begin();
        self.send_ring(self.at.switch.me()?, self.at.bound.tx[ring]);
        Ok(())
    }

    fn rxsync_ring(&mut self, ring: usize) -> Result<()> {
        self.receive_ring(self.at.switch.me()?, self.at.bound.rx[ring]);
        Ok(())
    }

    fn txsync(&mut self) -> Result<()> {
        self.forwarder.begin();
        let me = self.at.switch.me()?;
        for ring in 0..self.at.bound.tx.len() {
            self.send_ring(me, self.at.bound.tx[ring]);
        }
        Ok(())
    }

    fn rxsync(&mut self) -> Result<()> {
        let me = self.at.switch.me()?;
        for ring in 0..self.at.bound.rx.len() {
            self.receive_ring(me, self.at.bound.rx[ring]);
        }
        Ok(())
    }

    fn peek(&self) -> bool {
        self.at.bound.rx.iter().any(|&i| {
            let tail = self.rx_ring(i).raw.tail.load(Ordering::Relaxed);
            self.at.port.file.kring(i).published() != tail
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn events(&self, _what: Interest) -> PollFlags {
        PollFlags::POLLIN // a bell rings for everything
    }

    fn arm(&mut self, what: Interest) {
        self.armed = self.stalls();
        self.armed_for = what;
        for &i in &self.at.bound.rx {
            let kring = self.at.port.file.kring(i);
            if what.contains(Interest::RX) {
                kring.sleep_for_packets(self.at.index());
            }
            // About to sleep: whoever waits for space gets what there is.
            if self.at.switch.modes().backpressure
                && let Some(waiting) = kring.take_waiters()
            {
                wake(&self.at, waiting, self.at.port.file.rx_counters(i), |handle| {
                    kring.wait_for_space(handle);
                });
            }
        }
        if what.contains(Interest::TX) {
            for stall in self.armed.into_iter().flatten() {
                self.peers.update(&self.at.switch, stall.port);
                if let Some(peer) = self.peers.get(stall.port) {
                    peer.file.kring(stall.ring.into()).wait_for_space(self.at.index());
                }
            }
        }
    }

    fn is_armed(&self) -> bool {
        // Another handle may have kept that sync from sending, or from showing what has come.
        let told = |&i: &usize| {
            self.skipped & 1 << i == 0
                || self.at.port.file.tx_state(i).wait_for_end(self.at.index())
        };
        self.at.bound.tx.iter().all(told)
            && self.stalls() == self.armed
            && !(self.armed_for.contains(Interest::RX) && self.peek())
    }

    fn disarm(&mut self, slept: bool) {
        for &i in &self.at.bound.rx {
            self.at.port.file.kring(i).stay_awake(self.at.index());
        }
        self.bell.clear(self.at.switch.dir(), || self.at.bell());
        if slept && let Some(&i) = self.at.bound.rx.first() {
            self.at.port.file.rx_counters(i).add(C::wakeups, 1);
        }
    }

    fn allow_indirect(&mut self, start: usize, len: usize) {
        self.forwarder.allow(start, len);
    }

    fn detach(&mut self) -> Result<Option<OwnedFd>> {
        let other = Bell::listen(self.at.switch.dir(), &self.at.bell())?;
        Ok(Some(std::mem::replace(&mut self.bell, other).into_fd()))
    }

    fn reinits(&self) -> u64 {
        self.reinits
    }

    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        let Self { bell, .. } = *self;
        Some(bell.into_fd()) // the rest is dropped and finds the handle alive
    }

    fn give_away(&mut self, rings: &BoundRings) -> Result<Box<dyn Adapter>> {
        let of = |all: &[usize], some: &[usize]| some.iter().map(|&i| all[i]).collect();
        let bound = &self.at.bound;
        let rings = BoundRings { tx: of(&bound.tx, &rings.tx), rx: of(&bound.rx, &rings.rx) };
        Ok(Box::new(Self::new(self.at.give_away(rings)?)))
    }

    fn held_up_by(&self) -> Option<String> {
        let listed = self.at.switch.listed(self.first_stall()?.port)?;
        Some(format!("{}:{}", self.at.switch.name(), listed.name))
    }

    fn memory_id(&self) -> FileId {
        self.at.port.region.id()
    }

    fn memory(&self) -> Option<MemoryRef> {
        Some(MemoryRef(self.at.port.file.shape.region.clone()))
    }

    fn vnet_hdr_len(&self) -> u8 {
        self.at.switch.header_of(self.at.port.file.shape.index)
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        let SwitchPort { switch, port } = name.switch_port().expect("the syntax of the kind");
        persist::set_vnet_hdr_len(self.at.switch.root(), switch, port, len)
    }

    fn layout(&self) -> Option<Layout> {
        let (mem_size, if_offset) = (self.at.port.region.bytes(), Region::offset(self.at.if_cell));
        let mem_id = memory::id(&self.at.port.file.shape.region);
        Some(Layout { mem_size, if_offset: if_offset as u64, mem_id })
    }

    fn open_memory(&self, _name: &PortName) -> Result<OwnedFd> {
        Ok(self.at.port.region.file()?.into())
    }

    fn extra_buffers(&self) -> Vec<u32> {
        extra_buffers(&self.at.port.region, self.at.if_cell)
    }

    fn counters(&self) -> Counters {
        self.at.port.file.counters()
    }
}

/// Rings those who wait, on whatever port, as many as one sync rings; the others are put `back`.
#[cold]
fn wake(at: &Attached, waiting: Taken, counters: &SharedCounters, back: impl Fn(HandleIndex)) {
    for (n, handle) in waiting.handles().enumerate() {
        let rung = if n < MOST_RINGS { at.switch.ring(handle, None) } else { Rung::Later };
        match rung {
            Rung::Yes => counters.add(C::doorbells_rung, 1),
            Rung::Nobody => {}
            Rung::Later => back(handle),
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

#[cfg(test)]
mod tests;
