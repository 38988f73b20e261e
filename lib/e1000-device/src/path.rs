//! The data path: both engines over one port, in rounds of bounded and fair work, and the protocol before a
//! sleep.
//!
//! ```text
//!   round    slice: up to 256 descriptors of TX, up to 256 packets of RX, in turns, until there is
//!            nothing to do or half a ring is done; one txsync for the lot; interrupts that are due
//!   idle     prepare_sleep: interrupts that are deferred; ask for kicks and bells and look again
//! ```
//!
//! Invariants: the lock around a `DataPath` is held for one slice, or for one txsync, and every round ends.
//! Before the thread goes idle, all consumed descriptors are reported and a guest that waits for them has been
//! interrupted. docs/design/csb.md says who writes which word.

mod sleep;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use e1000pv::csb::{self, Csb, Field, Wild};

use crate::SLICE;
use crate::board::Clock;
use crate::config::{TxMode, Wake};
use crate::core::Core;
use crate::counters::Count;
use crate::csb::CsbPage;
use crate::deferred::Deferred;
use crate::loopback::Loopback;
use crate::memory::GuestMemory;
use crate::port::{Await, NetPort};
use crate::rx::Rx;
use crate::state::{self, BadState, State};
use crate::tx::{Stop, Tx};

/// Most empty rounds that a guest can ask for: about a millisecond of yielding.
const MAX_EMPTY_ROUNDS: u32 = 4096;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Descriptors and packets.
    pub work: u32,
    /// There is more to do now.
    pub again: bool,
    /// How much that was, for rings of this size.
    pub size: Size,
}

/// A round's work, classified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// At most one packet, which may be part of a request-response exchange.
    #[default]
    One,
    /// Less than 64, or than a quarter of the larger ring.
    Few,
    /// Less than twice that.
    Enough,
    /// More.
    Many,
}

/// Packets whose handling outweighs a round's fixed costs: cache lines of the other core.
const ENOUGH: u32 = 64;

impl Size {
    fn of(work: u32, round_limit: u32) -> Size {
        let enough = ENOUGH.min(round_limit / 2);
        match work {
            0 | 1 => Size::One,
            _ if work < enough => Size::Few,
            _ if work < 2 * enough => Size::Enough,
            _ => Size::Many,
        }
    }
}

/// Both directions of one NIC.
pub struct DataPath<M, P> {
    port: P,
    /// Takes the port's place while `looped`.
    loopback: Loopback,
    looped: bool,
    tx: Tx,
    rx: Rx,
    csb: Option<Mapped<M>>,
    /// The bus lets the device read and write memory. While not, the CSB is here and not there.
    master: bool,
    parked: Option<CsbPage<M>>,
    /// Empty rounds that the guest asks for before a sleep.
    txcycles_lim: u32,
    /// A wild index was found in the CSB: no work until it is mapped anew, or a reset.
    broken: bool,
    /// The port is full: there is no use in more descriptors.
    blocked: bool,
    /// The vCPU thread has left transmission to the I/O thread, until that asks for kicks.
    left: bool,
    /// `before_sleep` has asked the guest for kicks.
    asked: bool,
    deferred: Deferred,
    /// What the port was last asked to wait for.
    armed: Option<Await>,
}

impl<M: GuestMemory, P: fmt::Debug> fmt::Debug for DataPath<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPath")
            .field("port", &self.port)
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .field("csb", &self.csb)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// Does something to the port, or to the loopback in its place: two types, so that neither costs a dynamic call a packet.
macro_rules! on_port {
    ($path:ident, |$port:ident| $do:expr) => {
        if $path.looped {
            let $port = &mut $path.loopback;
            $do
        } else {
            let $port = &mut $path.port;
            $do
        }
    };
}

/// Locks a data path. Poisoning is ignored, since indices that a panicking thread left are checked anyway.
pub fn lock<M, P>(path: &Mutex<DataPath<M, P>>) -> MutexGuard<'_, DataPath<M, P>> {
    path.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One round: slices in both directions, each under the lock of its own. `tx`: transmission is this
/// thread's business; packets that a full port has left are, in any case.
pub fn round<M: GuestMemory, P: NetPort>(
    path: &Mutex<DataPath<M, P>>,
    core: &Core<M>,
    now_ns: u64,
    tx: bool,
) -> Next {
    let mut next = Next::default();
    loop {
        let mut path = lock(path);
        let limit = path.round_limit();
        let tx = tx || path.left || path.has_backlog();
        let slice = path.slice(core, tx, true);
        next.work += slice.work;
        next.again = slice.again;
        if !slice.again || next.work >= limit {
            path.end_round(core, now_ns);
            next.size = Size::of(next.work, limit);
            return next;
        }
    }
}

/// One round of transmission alone, in the vCPU thread at its doorbell. True: the I/O thread must go
/// on with it, because the port is full or the round was not enough.
pub fn transmit<M: GuestMemory, P: NetPort>(
    path: &Mutex<DataPath<M, P>>,
    core: &Core<M>,
    now_ns: u64,
) -> bool {
    let mut work = 0;
    loop {
        let mut path = lock(path);
        let slice = path.slice(core, true, false);
        work += slice.work;
        if !slice.again || work >= path.round_limit() {
            path.end_round(core, now_ns);
            path.settle(core, None);
            path.left = slice.again || path.has_backlog() || !path.ask_for_kicks(core);
            return path.left;
        }
    }
}

impl<M: GuestMemory, P: NetPort> DataPath<M, P> {
    /// Of a device that was reset, on `port`.
    pub fn new(port: P, wake: Wake) -> Self {
        Self {
            tx: Tx::new(port.tx_slots()),
            rx: Rx::default(),
            loopback: Loopback::new(port.tx_slots()),
            looped: false,
            port,
            csb: None,
            master: true,
            parked: None,
            txcycles_lim: 0,
            broken: false,
            blocked: false,
            left: false,
            asked: false,
            deferred: Deferred::new(wake),
            armed: None,
        }
    }

    /// Maps another CSB, or none: CSBAL was written.
    pub fn map_csb(&mut self, core: &Core<M>, page: Option<CsbPage<M>>) {
        self.broken = false;
        if !self.master {
            (self.csb, self.parked) = (None, page);
            return;
        }
        // Sampled when the address is written, as published.
        // Bounded, so that an idle guest cannot keep the I/O thread busy.
        let rounds = page.as_ref().map_or(0, |page| page.load(Field::HostTxcyclesLim));
        self.txcycles_lim = rounds.min(MAX_EMPTY_ROUNDS);
        self.csb = page.map(|page| Mapped { on: csb::host_csb_on(&page), page });
        if core.config.tx_mode == TxMode::Thread {
            // The I/O thread is awake, or is about to be woken to look at the new page.
            self.kicked();
        }
    }

    /// The CSB that both threads may use.
    pub fn csb_page(&self) -> Option<CsbPage<M>> {
        self.csb.as_ref().map(|csb| csb.page.clone())
    }

    /// The bus lets the device read and write memory, or no longer: then all work stands still, and the CSB is left
    /// alone. Slots that point into guest memory are taken back. True: it was the other way before.
    pub fn set_bus_master(&mut self, core: &Core<M>, on: bool) -> bool {
        if on == self.master {
            return false;
        }
        if on {
            self.master = true;
            let broken = self.broken;
            if let Some(page) = self.parked.take() {
                self.map_csb(core, Some(page));
            }
            self.broken = broken;
        } else {
            self.give_up(core);
            self.parked = self.csb.take().map(|csb| csb.page);
            self.master = false;
        }
        true
    }

    /// Takes back what is queued in the port: it is lost, counted, and reported as done.
    fn give_up(&mut self, core: &Core<M>) {
        let lost = on_port!(self, |port| port.tx_withdraw());
        core.counters.bump(Count::TxDropped, lost as u64);
        if self.master {
            self.tx.give_up(core, used(&self.csb));
        }
        self.blocked = false;
        core.set_paused(false);
    }

    /// Empty rounds that the guest wants before the I/O thread sleeps (`host_txcycles_lim`).
    pub fn txcycles_lim(&self) -> u32 {
        if used(&self.csb).is_some() { self.txcycles_lim } else { 0 }
    }

    /// The port.
    pub fn port(&mut self) -> &mut P {
        &mut self.port
    }

    /// After a write of TDBAL, TDBAH, TDLEN or TDH: begins anew at TDH. What the port has not taken is
    /// taken back.
    pub fn restart_tx(&mut self, core: &Core<M>) {
        on_port!(self, |port| port.tx_withdraw());
        self.blocked = false;
        core.set_paused(false);
        self.tx.restart(core);
    }

    /// After a write of RDBAL, RDBAH, RDLEN or RDH: begins anew at RDH.
    pub fn restart_rx(&mut self, core: &Core<M>) {
        on_port!(self, |port| self.rx.restart(core, port));
    }

    /// Switches loopback on or off: frames that are queued or on their way are lost, as on a wire that is cut. True: it
    /// was the other way before.
    pub fn set_loopback(&mut self, core: &Core<M>, on: bool) -> bool {
        if on == self.looped {
            return false;
        }
        self.give_up(core);
        on_port!(self, |port| port.rx_discard());
        self.looped = on;
        if on {
            self.loopback.begin();
        } else {
            // What came meanwhile, nobody was there to receive.
            self.port.rx_discard();
        }
        let (lost, missed) = on_port!(self, |port| (port.tx_lost(), port.rx_missed()));
        self.tx.change_port(lost);
        self.rx.change_port(missed);
        true
    }

    /// Whether what is sent gets anywhere, to a link or back, and memory may be used.
    fn is_connected(&self, core: &Core<M>) -> bool {
        self.master && (self.looped || core.link_up())
    }

    /// The link has come up: what came before is old.
    pub fn discard_received(&mut self) {
        if !self.looped {
            self.port.rx_discard();
        }
    }

    /// Whether loopback is on.
    pub fn is_looped(&self) -> bool {
        self.looped
    }

    /// Device reset, after the registers have been reset.
    pub fn reset(&mut self, core: &Core<M>) {
        self.map_csb(core, None);
        self.restart_tx(core);
        self.restart_rx(core);
        self.deferred.forget();
    }

    /// Empties the port's queue before a save: lets the port take what is queued, and counts what it has lost.
    /// Returns the number of slots that it has not taken.
    pub fn drain(&mut self, core: &Core<M>) -> usize {
        if self.tx.pending() > 0 || self.tx.is_unsynced() {
            on_port!(self, |port| self.tx.sync(core, port, used(&self.csb)));
        }
        // What waits for space finds some in the next round.
        self.blocked &= self.has_backlog();
        core.set_paused(self.has_backlog());
        self.count_missed(core);
        self.tx.pending()
    }

    /// This part of a device's state, after `drain`.
    pub fn save(&self, to: &mut State, now_ns: u64) {
        let page = self.csb_page().or_else(|| self.parked.clone());
        to.csb =
            page.map(|page| state::MappedCsb { gpa: page.gpa(), txcycles_lim: self.txcycles_lim });
        to.bus_master = self.master;
        to.broken = self.broken;
        to.tx = self.tx.save(self.left);
        to.rx = self.rx.save();
        to.deferred = self.deferred.save(now_ns);
        to.loopback = self.loopback.save();
    }

    /// Restores what `save` returned, after the registers have been restored.
    pub fn restore(&mut self, core: &Core<M>, from: &State, now_ns: u64) -> Result<(), BadState> {
        self.master = from.bus_master;
        if let Some(mapped) = from.csb {
            let page = CsbPage::new(&core.ram, mapped.gpa);
            let page = page.ok_or(BadState("a CSB that is not in memory"))?;
            if self.master {
                self.csb = Some(Mapped { on: csb::host_csb_on(&page), page });
            } else {
                self.parked = Some(page);
            }
            *crate::core::lock(&core.csb) = self.csb_page();
            self.txcycles_lim = mapped.txcycles_lim.min(MAX_EMPTY_ROUNDS);
        }
        self.restart_tx(core);
        self.set_loopback(core, core.loops_back());
        if self.looped {
            self.loopback.restore(&from.loopback)?;
        }
        self.tx.restore(&from.tx)?;
        on_port!(self, |port| self.rx.restore(core, port, &from.rx))?;
        self.deferred.restore(&from.deferred, now_ns);
        (self.broken, self.left) = (from.broken, from.tx.left);
        Ok(())
    }

    /// TDT was written as one outside of the ring, or TCTL.EN was set.
    #[cold]
    pub fn begin_lap(&mut self, core: &Core<M>) {
        self.tx.begin_lap(core);
    }

    /// Adds what the port has lost to MPC. True: there is a cause to be raised.
    pub fn count_missed(&mut self, core: &Core<M>) -> bool {
        on_port!(self, |port| self.rx.count_missed(core, port, used(&self.csb)));
        self.deferred.add(self.rx.take_causes(), false);
        !self.deferred.is_empty()
    }

    /// The guest has kicked: it need not do so again until the next sleep.
    pub fn kicked(&mut self) {
        if let Some(csb) = &self.csb {
            csb::host_tx_start(&csb.page);
        }
    }

    /// Whether packets are queued that the port has not taken, so that transmission has to go on
    /// without a doorbell.
    pub fn has_backlog(&self) -> bool {
        self.tx.pending() > 0
    }

    /// Half of the larger ring: bounds a round.
    fn round_limit(&self) -> u32 {
        (self.tx.queue().n().max(self.rx.queue().n()) / 2).max(1)
    }

    /// Some work in each direction.
    fn slice(&mut self, core: &Core<M>, tx: bool, rx: bool) -> Next {
        if self.broken || !self.is_connected(core) {
            return Next::default();
        }
        if let Some(csb) = &mut self.csb {
            csb.on = csb::host_csb_on(&csb.page);
        }
        let sent = if tx { self.send(core) } else { Ok(Next::default()) };
        let received = if rx { self.receive(core) } else { Ok(Next::default()) };
        match (sent, received) {
            (Ok(sent), Ok(received)) => Next {
                work: sent.work + received.work,
                again: sent.again || received.again,
                ..Next::default()
            },
            (Err(wild), _) | (_, Err(wild)) => self.found(core, wild),
        }
    }

    /// Stops all work. The guest sees a device that does nothing until it is reset.
    #[cold]
    fn found(&mut self, core: &Core<M>, _: Wild) -> Next {
        self.broken = true;
        core.counters.bump(Count::CsbBad, 1);
        Next::default()
    }

    fn send(&mut self, core: &Core<M>) -> Result<Next, Wild> {
        let csb = used(&self.csb);
        if !self.tx.is_enabled(core) {
            return Ok(Next::default());
        }
        self.tx.look(core, csb)?;
        Ok(on_port!(self, |port| send(core, port, &mut self.tx, csb, &mut self.blocked)))
    }

    fn receive(&mut self, core: &Core<M>) -> Result<Next, Wild> {
        if !self.rx.is_enabled(core) {
            return Ok(Next::default());
        }
        let csb = used(&self.csb);
        self.rx.look(core, csb)?;
        let (work, again) = on_port!(self, |port| self.rx.fill(core, port, csb));
        self.deferred.add(self.rx.take_causes(), false);
        Ok(Next { work, again, ..Next::default() })
    }

    /// Passes on what a round has left to be done, and interrupts the guest if an interrupt is due.
    fn end_round(&mut self, core: &Core<M>, now_ns: u64) {
        if self.tx.is_unsynced() {
            on_port!(self, |port| self.tx.sync(core, port, used(&self.csb)));
        }
        core.set_paused(self.has_backlog());
        core.counters.bump(Count::Rounds, 1);
        self.settle(core, Some(now_ns));
    }

    /// Raises the interrupts that are due; all that are deferred if there is no time, which means that
    /// this thread is about to go idle.
    pub fn settle(&mut self, core: &Core<M>, now_ns: Option<u64>) {
        let (causes, delayed) = self.tx.take_causes();
        self.deferred.add(causes, delayed);
        if now_ns.is_none() {
            self.count_missed(core);
        }
        let Self { tx, rx, csb, deferred, .. } = self;
        if deferred.is_empty() {
            return;
        }
        deferred.settle(core, used(csb), tx.ready(), rx.ready(), now_ns);
    }
}

/// Some transmission to `port`, after a look at the tail.
fn send<M: GuestMemory, P: NetPort>(
    core: &Core<M>,
    port: &mut P,
    tx: &mut Tx,
    csb: Option<&CsbPage<M>>,
    blocked: &mut bool,
) -> Next {
    let each = !core.config.more;
    if tx.pending() > 0 && !tx.is_unsynced() {
        // Only trying shows whether a full destination has space again.
        tx.sync(core, port, csb);
    }
    let mut work = 0;
    let again = loop {
        let limit = if each { 1 } else { (SLICE as u32).saturating_sub(work) };
        let (done, stop) = tx.fill(core, port, limit);
        work += done;
        if core.config.tx_delay_ns > 0 {
            busy(&*core.board, u64::from(done) * core.config.tx_delay_ns);
        }
        let sync = stop == Stop::NoSpace || each && tx.is_unsynced();
        let moved = if sync { tx.sync(core, port, csb) } else { 0 };
        *blocked = stop == Stop::NoSpace && moved == 0;
        if stop == Stop::Empty || *blocked {
            break false;
        }
        if work >= SLICE as u32 {
            break true;
        }
    };
    Next { work, again, ..Next::default() }
}

/// Spins for a time, like a consumer that works.
#[cold]
fn busy(clock: &(impl Clock + ?Sized), ns: u64) {
    let end_ns = clock.now_ns() + ns;
    while clock.now_ns() < end_ns {
        std::hint::spin_loop();
    }
}

/// A CSB that the guest has mapped.
#[derive(Debug)]
struct Mapped<M> {
    page: CsbPage<M>,
    /// The guest used it when the last slice began. Looked at no oftener: see `queue.rs`.
    on: bool,
}

/// The CSB, if the guest uses the one it mapped.
#[inline]
fn used<M>(csb: &Option<Mapped<M>>) -> Option<&CsbPage<M>> {
    csb.as_ref().filter(|csb| csb.on).map(|csb| &csb.page)
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
