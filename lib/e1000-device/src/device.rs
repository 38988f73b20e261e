//! The device as vCPU and I/O thread see it: [`Core`] and data path put together.
//!
//! Each method says which thread may call it. Those of the I/O thread are called in this order: `kicked` or
//! nothing, `round` until it has no more work, `before_sleep`, `timer`, sleep, `after_sleep`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use e1000pv::bits::Icr;
use e1000pv::csb::{self, Csb, Field};
use e1000pv::regs;

use crate::board::Board;
use crate::config::{Config, TxMode};
use crate::core::{Core, lock};
use crate::counters::{Count, Counters};
use crate::csb::CsbPage;
use crate::irq::Change;
use crate::memory::GuestMemory;
use crate::path::{self, DataPath, Next};
use crate::port::{Await, NetPort};
use crate::state::{BadState, State, Unsent};

/// One 82540EM on a port.
pub struct E1000<M, P> {
    pub(super) core: Core<M>,
    pub(super) path: Mutex<DataPath<M, P>>,
    /// IOADDR, the offset that BAR1's window is at.
    pub(super) io_address: AtomicU32,
    /// What the board was told about the doorbell.
    doorbell: AtomicBool,
    /// An inline transmission did not finish; the I/O thread goes on with it.
    tx_left: AtomicBool,
}

impl<M: GuestMemory, P: fmt::Debug> fmt::Debug for E1000<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E1000")
            .field("core", &self.core)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl<M: GuestMemory, P: NetPort> E1000<M, P> {
    /// A device as after power-on.
    pub fn new(
        config: Config,
        ram: M,
        port: P,
        board: Arc<dyn Board>,
        counters: Arc<dyn Counters>,
    ) -> Self {
        let path = Mutex::new(DataPath::new(port, config.wake));
        let core = Core::new(config, ram, board, counters);
        core.reset();
        Self {
            core,
            path,
            io_address: AtomicU32::new(0),
            doorbell: AtomicBool::new(false),
            tx_left: AtomicBool::new(false),
        }
    }

    /// Where it counts; who runs its rounds counts their sleeps there.
    pub fn counters(&self) -> &dyn Counters {
        &*self.core.counters
    }

    /// A device that continues where another one of the same configuration was when its state was saved. Guest
    /// memory must be as it was then. The I/O thread must begin with a round, since work may be pending.
    ///
    /// # Errors
    /// No device can be in that state.
    pub fn from_state(
        config: Config,
        ram: M,
        port: P,
        board: Arc<dyn Board>,
        counters: Arc<dyn Counters>,
        state: &State,
    ) -> Result<Self, BadState> {
        let device = Self::new(config, ram, port, board, counters);
        let core = &device.core;
        let now_ns = core.board.now_ns();
        if state.csb.is_some() && !core.config.csb {
            return Err(BadState("a CSB of a device that has none"));
        }
        if !core.registers.restore(&state.registers) || !core.stats.restore(&state.statistics) {
            return Err(BadState("other registers than these"));
        }
        lock(&core.eeprom).restore(&state.eeprom)?;
        lock(&core.phy).restore(&state.phy)?;
        path::lock(&device.path).restore(core, state, now_ns)?;
        core.irq.restore(&state.interrupts, now_ns, |level| core.board.set_intx(level))?;
        device.io_address.store(state.io_address, Ordering::Relaxed);
        device.tx_left.store(state.tx.unfinished, Ordering::Relaxed);
        let csb = core.csb().is_some();
        device.set_doorbell(csb && core.config.tx_mode == TxMode::Thread);
        core.board.wake_io();
        Ok(device)
    }

    /// The complete state of the device. Call it between two rounds and while no vCPU runs. Packets that are
    /// queued in the port are sent first.
    ///
    /// # Errors
    /// The port is full.
    pub fn state(&self) -> Result<State, Unsent> {
        let mut path = path::lock(&self.path);
        match path.drain(&self.core) {
            0 => {}
            slots => return Err(Unsent { slots }),
        }
        let now_ns = self.core.board.now_ns();
        let mut state = State {
            registers: self.core.registers.save(),
            statistics: self.core.stats.save(),
            io_address: self.io_address.load(Ordering::Relaxed),
            interrupts: self.core.irq.save(now_ns),
            eeprom: lock(&self.core.eeprom).save(),
            phy: lock(&self.core.phy).save(),
            ..State::default()
        };
        path.save(&mut state, now_ns);
        drop(path);
        state.tx.unfinished = self.tx_left.load(Ordering::Relaxed);
        // Packets for which the port had no space may fit now.
        self.core.board.wake_io();
        Ok(state)
    }

    // The I/O thread's.

    /// The doorbell (ioeventfd) rang.
    pub fn kicked(&self) {
        self.core.counters.bump(Count::Kicks, 1);
        if self.core.config.tx_mode == TxMode::Thread {
            path::lock(&self.path).kicked();
        }
        // The doorbell swallowed the value of TDT. A guest that mapped a CSB and doesn't use it yet
        // writes it there nevertheless.
        if let Some(page) = self.core.csb()
            && !csb::host_csb_on(&page)
        {
            self.core.registers.store(regs::TDT, page.load(Field::GuestTdt) & 0xFFFF);
        }
    }

    /// One bounded round of work in both directions.
    pub fn round(&self, now_ns: u64) -> Next {
        let tx = match self.core.config.tx_mode {
            TxMode::Thread => true,
            // Acquire pairs with the Release in `transmit_inline`.
            TxMode::Inline => self.tx_left.swap(false, Ordering::Acquire),
        };
        let next = path::round(&self.path, &self.core, now_ns, tx);
        if tx && next.again && self.core.config.tx_mode == TxMode::Inline {
            self.tx_left.store(true, Ordering::Relaxed);
        }
        next
    }

    /// Before a sleep: raises deferred interrupts, and asks for kicks and bells. False: there is work. In both
    /// cases `after_sleep` must be called next.
    pub fn before_sleep(&self) -> bool {
        let tx = self.core.config.tx_mode == TxMode::Thread;
        path::lock(&self.path).before_sleep(&self.core, tx) && !self.tx_left.load(Ordering::Acquire)
    }

    /// After a sleep, or instead of one.
    pub fn after_sleep(&self) {
        path::lock(&self.path).after_sleep();
    }

    /// Raises a postponed interrupt whose time has come; returns when the next one is due. Between
    /// `before_sleep`, which may postpone one, and the sleep.
    pub fn timer(&self, now_ns: u64) -> Option<u64> {
        if now_ns < self.core.irq.deadline()? {
            return self.core.irq.deadline();
        }
        if self.core.irq.evaluate(self.core.context(|| now_ns)) == Change::Line(true) {
            self.core.board.wake_vcpu();
        }
        self.core.irq.deadline()
    }

    /// Empty rounds that the guest wants before a sleep (`host_txcycles_lim`).
    pub fn txcycles_lim(&self) -> u32 {
        path::lock(&self.path).txcycles_lim()
    }

    /// Raises deferred interrupts without asking for kicks or bells: the I/O thread has nothing to do but does
    /// not sleep, or sleeps for a fixed time.
    pub fn idle(&self) {
        path::lock(&self.path).settle(&self.core, None);
    }

    /// What the sleep that `before_sleep` announced waits for at the port.
    pub fn awaits(&self) -> Await {
        path::lock(&self.path).awaits()
    }

    // Anybody's.

    /// Lets `use_port` have the port, between two slices.
    pub fn with_port<T>(&self, use_port: impl FnOnce(&mut P) -> T) -> T {
        use_port(path::lock(&self.path).port())
    }

    /// Plugs the cable in or out.
    pub fn link(&self, up: bool) {
        lock(&self.core.phy).plug(up);
        self.link_changed();
    }

    /// The operator takes the link down, whatever the cable's state, or lets it up again.
    pub fn hold_link_down(&self, down: bool) {
        lock(&self.core.phy).hold_down(down);
        self.link_changed();
    }

    // The PCI bus's, which keeps the configuration space: a device begins as one that may master the bus, with an
    // enabled interrupt.

    /// COMMAND, bit 2: the device may read and write memory. Off, descriptors and packets wait, as they do on QEMU, and
    /// after the return nothing of the guest's memory is read or written, not even what was queued: that is lost
    /// and counted (`tx_dropped`).
    pub fn set_bus_master(&self, on: bool) {
        let mut path = path::lock(&self.path);
        if path.set_bus_master(&self.core, on) {
            self.follow_csb(path);
            self.resume();
        }
    }

    /// COMMAND, bit 10: INTx is down whatever the causes are.
    pub fn set_intx_disabled(&self, disabled: bool) {
        let set_intx = |level| self.core.board.set_intx(level);
        self.core.tell(self.core.irq.disable(disabled, set_intx));
    }

    /// STATUS, bit 3: INTx is up, or would be if it were not disabled.
    pub fn is_interrupting(&self) -> bool {
        self.core.irq.is_asserted()
    }

    /// PCI reset: all of the device, PHY included. The cable stays, and so does what the bus has allowed.
    pub fn reset(&self) {
        lock(&self.core.phy).reset();
        self.io_address.store(0, Ordering::Relaxed);
        self.reset_mac();
    }

    /// CTRL.RST: resets everything but the PHY. It waits for a slice in progress.
    pub(super) fn reset_mac(&self) {
        let mut path = path::lock(&self.path);
        self.core.reset();
        path.reset(&self.core);
        path.set_loopback(&self.core, self.core.loops_back());
        drop(path);
        self.tx_left.store(false, Ordering::Relaxed);
        self.set_doorbell(false);
        self.core.counters.bump(Count::Resets, 1);
    }

    /// The PHY's link may have changed: STATUS follows, with LSC if it did. What has come while it was down, and waits in
    /// the port, is lost, as on a wire.
    pub(super) fn link_changed(&self) {
        let was_up = self.core.link_up();
        if self.core.follow_link() {
            if !was_up && self.core.link_up() {
                path::lock(&self.path).discard_received();
            }
            self.core.raise_outside(Icr::LSC);
            self.resume();
        }
    }

    // The vCPU thread's.

    /// RCTL or the PHY was written.
    pub(super) fn loopback_changed(&self) {
        let mut path = path::lock(&self.path);
        let changed = path.set_loopback(&self.core, self.core.loops_back());
        drop(path);
        if changed {
            self.core.board.wake_io();
        }
    }

    /// CSBAL was written: maps or unmaps.
    pub(super) fn map_csb(&self) {
        let reg = |offset| self.core.registers.load(offset);
        let gpa = u64::from(reg(regs::CSBAH)) << 32 | u64::from(reg(regs::CSBAL));
        let page = if gpa == 0 { None } else { CsbPage::new(&self.core.ram, gpa) };
        let on = page.is_some();
        let mut path = path::lock(&self.path);
        if gpa != 0 && !on {
            self.core.counters.bump(Count::CsbBad, 1);
        }
        path.map_csb(&self.core, page);
        self.follow_csb(path);
    }

    /// The path has another CSB, or none: all others know.
    fn follow_csb(&self, path: MutexGuard<'_, DataPath<M, P>>) {
        let page = path.csb_page();
        let on = page.is_some();
        *lock(&self.core.csb) = page;
        if on {
            // What `resume` left to the I/O thread; what a full port has left, the path knows.
            self.tx_left.store(false, Ordering::Relaxed);
        }
        drop(path);
        // Inline, the vCPU transmits: its write has to come here.
        self.set_doorbell(on && self.core.config.tx_mode == TxMode::Thread);
        self.core.board.wake_io();
    }

    fn set_doorbell(&self, on: bool) {
        if self.doorbell.swap(on, Ordering::Relaxed) != on {
            self.core.board.set_doorbell(on);
        }
    }

    /// Work may have become possible without a write of TDT: both directions are looked at. Where there is a CSB, inline
    /// transmission follows its rules alone: what the guest has published without a kick waits for one.
    pub(super) fn resume(&self) {
        if self.core.config.tx_mode == TxMode::Inline && self.core.csb().is_none() {
            // Release pairs with the Acquire in `round`.
            self.tx_left.store(true, Ordering::Release);
        }
        self.core.board.wake_io();
    }

    /// TDT was written, with an exit.
    pub(super) fn transmit(&self) {
        match self.core.config.tx_mode {
            TxMode::Thread => self.core.board.wake_io(),
            TxMode::Inline => {
                let looped = {
                    let mut path = path::lock(&self.path);
                    path.kicked();
                    path.is_looped()
                };
                let left = path::transmit(&self.path, &self.core, self.core.board.now_ns());
                if looped {
                    self.core.board.wake_io(); // it receives
                }
                if left {
                    // Release pairs with the Acquire in `round`.
                    self.tx_left.store(true, Ordering::Release);
                    self.core.board.wake_io();
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
