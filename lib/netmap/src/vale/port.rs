//! A handle on a VALE port: rings bound, its bell, and what sync means for it.
//!
//! Invariant: what holds for all handles (`bound`); and a handle that sleeps for room has asked every full ring at which
//! one of its TX rings has stopped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::adapter::Adapter;
use crate::error::{Error, Feature, Result};
use crate::layout::Layout;
use crate::name::{Capabilities, PortName, SwitchPort};
use crate::options::{MAX_RINGS, MemoryRef, PerDirection, Places};
use crate::ring::{RingRef, TxRingRef};
use crate::rings::extra_buffers;
use crate::shm::bell::Bell;
use crate::shm::file::FileId;
use crate::shm::mem::Cell;
use crate::stats::{C, Counters, RingDir};
use crate::sync::core_atomic::Ordering;
use crate::vale::bound::{DeathChecks, Step};
use crate::vale::forward::{Forwarder, Source, Used};
use crate::vale::lifecycle::loan;
use crate::vale::lifecycle::open::{Attached, Handle};
use crate::vale::lifecycle::persist;
use crate::vale::peers::Peers;
use crate::vale::state::ids::{ParticipantId, RingNumber};
use crate::vale::state::txstate::Stall;
use crate::wait::Interest;

pub mod monitor;

/// What such a port can do.
pub const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::INDIRECT)
    .union(Capabilities::OFFLOAD_HEADERS)
    .union(Capabilities::BACKPRESSURE)
    .union(Capabilities::PERSISTENT)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::SEVERAL_HANDLES)
    .union(Capabilities::PASSABLE);

/// A bound handle.
#[derive(Debug)]
pub struct ValePort {
    /// Before `at`: a handle is closed by closing its bell.
    bell: Bell,
    pub(crate) at: Attached,
    /// It is no port of the switch, but sees one.
    is_monitor: bool,
    forwarder: Forwarder,
    peers: Peers,
    death_checks: DeathChecks,
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
    /// Of an attached port.
    pub fn new(Handle { bell, at }: Handle) -> Self {
        let forwarder = Forwarder::new(at.port.file.shape.index);
        let (armed, armed_for) = ([None; MAX_RINGS as usize], Interest::empty());
        let (death_checks, skipped, reinits) = (DeathChecks::default(), 0, 0);
        let peers = Peers::new();
        let is_monitor = at.switch.monitor(at.port.file.shape.index).is_some();
        Self {
            bell,
            at,
            is_monitor,
            forwarder,
            peers,
            armed,
            armed_for,
            skipped,
            reinits,
            death_checks,
        }
    }

    /// TX ring `i` in memory.
    #[inline]
    pub fn tx_ring(&self, i: RingNumber) -> RingRef<'_> {
        self.at.tx_ring(i)
    }

    /// RX ring `i` in memory.
    #[inline]
    pub fn rx_ring(&self, i: RingNumber) -> RingRef<'_> {
        self.at.rx_ring(i)
    }

    /// Sends what is queued on TX ring `i`, unless another handle is doing that at this moment.
    #[inline]
    pub(crate) fn send_ring(&mut self, me: ParticipantId, i: RingNumber) {
        let ring = self.at.tx_ring(i);
        let counters = self.at.port.file.tx_counters(i);
        let state = self.at.port.file.tx_state(i);
        let n = ring.n();
        let tail = |hwcur: u32| ring.step(hwcur, n - 1);
        let hwcur = state.hwcur();
        if hwcur < n && ring.is_idle(hwcur, tail(hwcur)) {
            if state.stall().is_some() {
                state.set_stall(None);
            }
            self.skipped &= !(i.bit());
            return; // nothing queued, nothing to be shown
        }
        let switch = &self.at.switch;
        let Some(begun) = state.begin(me, |owner| switch.is_dead(owner)) else {
            self.skipped |= i.bit();
            return;
        };
        self.skipped &= !(i.bit());
        let mut hwcur = begun.hwcur;
        let (port, dir) = (&*self.at.port, RingDir::Tx);
        let used = |from| Used { me, port, dir, number: i, ring, from, to: from, counters };
        if begun.lost_from.is_some() && switch.modes().exchanges {
            self.forwarder.mend(switch, &mut self.peers.of(switch), &used(0));
        }
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
                let others = &mut self.peers.of(switch);
                let sent = self.forwarder.txsync(switch, others, &from);
                full = sent.full;
                if switch.modes().exchanges {
                    let used = Used { to: sent.hwcur, ..used(hwcur) };
                    full = self.forwarder.hand_over(switch, others, &used).or(full);
                }
                hwcur = sent.hwcur;
                state.set_stall(sent.stall);
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
            self.at.wake(waiting, None, counters, |handle| {
                let _ = state.wait_for_end(handle); // rung at the next end
            });
        }
        if let Some(port) = full {
            self.death_checks.look(&self.at.switch, port);
        }
    }

    /// Gives back what was read on RX ring `i` and shows what came.
    #[inline]
    pub(crate) fn receive_ring(&mut self, me: ParticipantId, i: RingNumber) {
        let Self { at, forwarder, peers, .. } = self;
        if at.is_idle_rx(i) {
            return;
        }
        let (switch, port) = (&at.switch, &*at.port);
        let (modes, counters) = (switch.modes(), port.file.rx_counters(i));
        let others = &mut peers.of(switch);
        let mut full = None;
        let used = |ring, from, to| Used {
            me,
            port,
            dir: RingDir::Rx,
            number: i,
            ring,
            from,
            to,
            counters,
        };
        let reinit = at.receive_ring(me, i, modes.backpressure, |step| match step {
            _ if !modes.exchanges => {}
            Step::TakenOver(ring) => forwarder.mend(switch, others, &used(ring, 0, 0)),
            // Some of what a dead process gave back has been handed over, and must not be again.
            Step::GiveBack { heir: true, .. } => {}
            Step::GiveBack { ring, from, to, .. } => {
                full = forwarder.hand_over(switch, others, &used(ring, from, to));
            }
        });
        self.reinits += u64::from(reinit);
        if let Some(monitor) = full {
            self.death_checks.look(&self.at.switch, monitor);
        }
    }

    /// Where the last batch of TX ring `i` stopped. Peers may have written anything there.
    fn stall(&self, i: RingNumber) -> Option<Stall> {
        let stall = self.at.port.file.tx_state(i).stall()?;
        (u16::from(stall.ring.0) < MAX_RINGS).then_some(stall)
    }

    fn stalls(&self) -> [Option<Stall>; MAX_RINGS as usize] {
        let mut stalls = [None; MAX_RINGS as usize];
        for i in self.at.tx_rings() {
            stalls[i.at()] = self.stall(i);
        }
        stalls
    }

    fn first_stall(&self) -> Option<Stall> {
        self.at.tx_rings().find_map(|i| self.stall(i))
    }
}

impl Adapter for ValePort {
    fn capabilities(&self) -> Capabilities {
        if self.is_monitor { monitor::CAPABILITIES } else { CAPABILITIES }
    }

    fn ended(&self) -> bool {
        self.is_monitor && self.sees_nothing_any_more()
    }

    fn rings(&self) -> PerDirection<usize> {
        self.at.bound.count()
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
        let i = self.at.tx_number(ring);
        TxRingRef::new(self.tx_ring(i), self.at.port.file.tx_state(i).hwcur())
    }

    #[inline]
    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.rx_ring(self.at.rx_number(ring))
    }

    fn txsync_ring(&mut self, ring: usize) -> Result<()> {
        self.forwarder.begin();
        self.send_ring(self.at.switch.me()?, self.at.tx_number(ring));
        Ok(())
    }

    fn rxsync_ring(&mut self, ring: usize) -> Result<()> {
        self.forwarder.begin();
        self.receive_ring(self.at.switch.me()?, self.at.rx_number(ring));
        Ok(())
    }

    fn txsync(&mut self) -> Result<()> {
        self.forwarder.begin();
        let me = self.at.switch.me()?;
        for ring in 0..self.at.bound.tx.len() {
            self.send_ring(me, self.at.tx_number(ring));
        }
        Ok(())
    }

    fn rxsync(&mut self) -> Result<()> {
        self.forwarder.begin();
        let me = self.at.switch.me()?;
        for ring in 0..self.at.bound.rx.len() {
            self.receive_ring(me, self.at.rx_number(ring));
        }
        Ok(())
    }

    fn peek(&self) -> bool {
        self.at.has_news()
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
        self.at.arm_rx(what, self.at.switch.modes().backpressure);
        // Whatever it waits for: what was left is to go as soon as there is room.
        for stall in self.armed.into_iter().flatten() {
            self.peers.update(&self.at.switch, stall.port);
            if let Some(peer) = self.peers.get(stall.port) {
                peer.file.kring(stall.ring).wait_for_space(self.at.index());
            }
        }
    }

    fn is_armed(&self) -> bool {
        self.at.is_told(self.skipped)
            && self.stalls() == self.armed
            && !(self.armed_for.contains(Interest::RX) && self.at.has_news())
    }

    fn has_unsent(&self) -> bool {
        self.skipped != 0 || self.first_stall().is_some()
    }

    fn disarm(&mut self, slept: bool) {
        self.at.disarm(&self.bell, slept);
    }

    fn allow_indirect(&mut self, start: usize, len: usize) {
        self.forwarder.allow(start, len);
    }

    fn allow_indirect_anywhere(&mut self, name: &PortName) -> Result<()> {
        if !self.at.switch.root().is_private() {
            return Err(Error::unsupported(name, Feature::IndirectOnSharedRoot));
        }
        self.forwarder.allow_anywhere();
        Ok(())
    }

    fn detach(&mut self) -> Result<Option<OwnedFd>> {
        self.at.detach(&mut self.bell).map(Some)
    }

    fn reinits(&self) -> u64 {
        self.reinits
    }

    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        let Self { bell, .. } = *self;
        Some(bell.into_fd()) // the rest is dropped and finds the handle alive
    }

    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>> {
        Ok(Box::new(Self::new(self.at.give_away_bound(places)?)))
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
        let index = self.at.port.file.shape.index;
        if self.is_monitor {
            return self.at.switch.header_seen(index);
        }
        self.at.switch.header_of(index)
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        if self.is_monitor {
            return Err(Error::unsupported(name, Feature::VnetHeaders));
        }
        let SwitchPort { switch, port } = name.switch_port().expect("the syntax of the kind");
        persist::set_vnet_hdr_len(self.at.switch.root(), switch, port, Some(self.at.id), len)
    }

    fn borrow_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        if self.is_monitor {
            return Err(Error::unsupported(name, Feature::VnetHeaders));
        }
        let (at, len) = (&self.at, persist::header(&name.to_string(), len)?);
        loan::lend(&at.switch, &at.port, at.id, &at.bound, len)
    }

    fn layout(&self) -> Option<Layout> {
        Some(self.at.layout())
    }

    fn open_memory(&self, _name: &PortName) -> Result<OwnedFd> {
        Ok(self.at.port.region.file()?.into())
    }

    fn extra_buffers(&self) -> Vec<Cell> {
        extra_buffers(&self.at.port.region, self.at.if_cell)
    }

    fn counters(&self) -> Counters {
        self.at.port.file.counters()
    }

    fn count_far_drops(&self, drops: &Counters) {
        if !self.is_monitor {
            self.at.port.file.rx_counters(RingNumber::new(0)).add_far(drops);
        }
    }
}

#[cfg(test)]
mod tests;
