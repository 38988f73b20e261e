//! The 82540EM, with the CSB of the paravirtual e1000: a device model without a VMM in it.
//!
//! ```text
//!   vCPU thread                                     I/O thread
//!   mmio_read, mmio_write, io_*                     kicked, round, before_sleep, timer
//!        |                                               |
//!        |   registers, irq, stats, csb (atomics and     |
//!        +-> small locks: Core)                        <-+
//!        |                                               |
//!        |   tx, rx, port (DataPath, one lock: reset,    |
//!        +-> ring set-up, inline transmission)         <-+  (held for one slice at a time)
//! ```
//!
//! Invariants: [`Core`] needs no lock that is held for longer than a few stores; the lock of the
//! engines is held for a slice of at most [`SLICE`] packets, so a vCPU that needs it waits no longer
//! than that. Locks nest in one order: engines, interrupts, CSB. Nothing a guest does makes the
//! device panic, loop or fail: it is counted, and the device does what its page in docs/design says.
//!
//! `docs/design/e1000-device.md` tells the whole.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e1000pv::bits::{Icr, Status};
use e1000pv::csb as csb_rules;
use e1000pv::regs;

use crate::counters::NicCounters;
use crate::notify::Notify;
use crate::ram::GuestRam;

pub mod csb;
pub mod eeprom;
pub mod filter;
#[allow(unsafe_code)]
pub mod fuzz;
pub mod irq;
pub mod offload;
pub mod owed;
pub mod path;
pub mod phy;
pub mod queue;
pub mod registers;
pub mod ring;
pub mod rx;
mod rx_packet;
pub mod stats;
pub mod tx;
mod tx_packet;

mod device;
mod mmio;
mod reset;

pub use device::E1000;
pub use path::{Next, Size};

use self::csb::CsbPage;
use eeprom::Eeprom;
use irq::{Change, Context, Irq, Wants};
use phy::Phy;
use registers::Registers;
use stats::Stats;

/// Packets that an engine handles in one slice, at most: what a vCPU may have to wait for.
pub const SLICE: usize = 256;

/// What the device needs of the machine around it.
pub trait Board: Send + Sync + fmt::Debug {
    /// Sets the level of the interrupt line; called on changes only, in their order, under the lock of
    /// the interrupt logic.
    fn set_intx(&self, level: bool);
    /// After `set_intx(true)`, without that lock: wakes a vCPU that sleeps. It runs at once, perhaps in
    /// this thread's place, and reads ICR: if it found the lock taken, each interrupt would cost two
    /// more context switches.
    fn wake_vcpu(&self) {}
    /// True: writes of TDT only wake the I/O thread from now on, their value may be lost (an
    /// ioeventfd). False: they come as `mmio_write`, with their value.
    fn set_doorbell(&self, on: bool);
    /// Lets the I/O thread run a round soon; from any thread, also from within a round.
    fn wake_io(&self);
}

/// Who transmits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxMode {
    /// The I/O thread, woken by a doorbell; the vCPU goes on at once.
    #[default]
    Thread,
    /// The vCPU thread, at its write of TDT.
    Inline,
}

/// What kind of device it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address in the EEPROM.
    pub mac: [u8; 6],
    /// Interrupts keep the distance that ITR and the delay registers say; off, each event raises one.
    pub moderation: bool,
    /// Offers the CSB.
    pub csb: bool,
    /// A burst of packets is one txsync; off, each packet is one.
    pub more: bool,
    /// When a guest that sleeps is woken.
    pub notify: Notify,
    /// Who transmits.
    pub tx_mode: TxMode,
    /// Busy time for each descriptor that is read: a slower consumer, for experiments.
    pub tx_delay_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            moderation: true,
            csb: true,
            more: true,
            notify: Notify::default(),
            tx_mode: TxMode::Thread,
            tx_delay_ns: 0,
        }
    }
}

/// What vCPU and engines share.
#[derive(Debug)]
pub struct Core {
    /// What kind of device it is.
    pub config: Config,
    /// The guest's memory.
    pub ram: GuestRam,
    /// The register file. RDH, TDH and the other ring registers are in it: the engines read them at
    /// the start of a slice and store the heads at its end.
    pub registers: Registers,
    /// Interrupts; raised by [`Core::raise`].
    pub irq: Irq,
    /// Statistics registers.
    pub stats: Stats,
    /// What is counted for the host.
    pub counters: NicCounters,
    /// The machine.
    pub board: Arc<dyn Board>,
    eeprom: Mutex<Eeprom>,
    phy: Mutex<Phy>,
    csb: Mutex<Option<CsbPage>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is valid after each single store.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    fn new(config: Config, ram: GuestRam, board: Arc<dyn Board>, counters: NicCounters) -> Self {
        Self {
            irq: Irq::new(config.moderation, counters.clone()),
            eeprom: Mutex::new(Eeprom::new(config.mac, config.csb)),
            phy: Mutex::new(Phy::default()),
            csb: Mutex::new(None),
            registers: Registers::new(),
            stats: Stats::default(),
            config,
            ram,
            counters,
            board,
        }
    }

    /// The data path raises interrupt causes: once per round, after descriptors and indices are
    /// written. `ide`: one of the descriptors asked for a delay.
    pub fn raise(&self, causes: Icr, ide: bool) {
        let change = self.irq.raise(causes, ide, self.context(monotonic_ns));
        if self.config.tx_mode == TxMode::Inline || change != Change::Postponed {
            self.tell(change);
        }
    }

    /// A register that the guest wrote, or the cable, raises interrupt causes.
    fn raise_outside(&self, causes: Icr) {
        let change = self.irq.raise(causes, false, self.context(monotonic_ns));
        self.tell(change);
    }

    /// Tells whom a decision of the interrupt logic concerns. The I/O thread asks for the deadline
    /// before each sleep; of one that another thread has set since it must be told.
    fn tell(&self, change: Change) {
        match change {
            Change::Postponed => self.board.wake_io(),
            Change::Line(true) => self.board.wake_vcpu(),
            Change::Line(false) | Change::None => {}
        }
    }

    /// The CSB, if the guest mapped one that is memory.
    #[must_use]
    pub fn csb(&self) -> Option<CsbPage> {
        lock(&self.csb).clone()
    }

    /// Whether there is a link; without one nothing is sent or received.
    #[inline]
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.registers.load(regs::STATUS) & Status::LU.bits() != 0
    }

    fn context<C: FnOnce() -> u64>(
        &self,
        now_ns: C,
    ) -> Context<'_, impl FnOnce() -> Wants + '_, impl FnOnce(bool) + '_, C> {
        Context {
            registers: &self.registers,
            wants: || self.wants(),
            set_intx: |level| self.board.set_intx(level),
            now_ns,
        }
    }

    /// What the guest wants to be interrupted for, by its CSB.
    fn wants(&self) -> Wants {
        match &*lock(&self.csb) {
            Some(page) if csb_rules::host_csb_on(page) => Wants {
                tx: csb_rules::host_wants_tx_irq(page),
                rx: csb_rules::host_wants_rx_irq(page),
            },
            _ => Wants::ALL,
        }
    }
}

/// CLOCK_MONOTONIC, the clock of all deadlines.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
