//! The state that the vCPU thread and the engines share: registers, interrupts, statistics, and small parts
//! with locks of their own.
//!
//! Invariant: nothing here is locked for longer than a few stores.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e1000pv::bits::{Ctrl, Icr, Rah, Rctl, Status};
use e1000pv::csb as csb_rules;
use e1000pv::regs;

use crate::board::Board;
use crate::config::{Config, TxMode};
use crate::counters::Counters;
use crate::csb::CsbPage;
use crate::eeprom::Eeprom;
use crate::irq::{Change, Context, Irq, Wants};
use crate::memory::GuestMemory;
use crate::phy::Phy;
use crate::registers::Registers;
use crate::stats::Stats;

/// What vCPU and engines share.
#[derive(Debug)]
pub(crate) struct Core<M> {
    /// What kind of device it is.
    pub config: Config,
    /// The guest's memory.
    pub ram: M,
    /// The register file. RDH, TDH and the other ring registers are in it: the engines read them at
    /// the start of a slice and store the heads at its end.
    pub registers: Registers,
    /// Interrupts; raised by [`Core::raise`].
    pub irq: Irq,
    /// Statistics registers.
    pub stats: Stats,
    /// What is counted for the host.
    pub counters: Arc<dyn Counters>,
    /// The machine.
    pub board: Arc<dyn Board>,
    pub(crate) eeprom: Mutex<Eeprom>,
    pub(crate) phy: Mutex<Phy>,
    pub(crate) csb: Mutex<Option<CsbPage<M>>>,
    /// The port has left packets queued. Written under the data path's lock, read at any time.
    paused: AtomicBool,
}

/// Locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is valid after each single store.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: GuestMemory> Core<M> {
    pub(crate) fn new(
        config: Config,
        ram: M,
        board: Arc<dyn Board>,
        counters: Arc<dyn Counters>,
    ) -> Self {
        Self {
            irq: Irq::new(config.moderation, Arc::clone(&counters)).paced(config.pace_ns),
            eeprom: Mutex::new(Eeprom::new(config.mac, config.csb)),
            phy: Mutex::new(Phy::default()),
            csb: Mutex::new(None),
            paused: AtomicBool::new(false),
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
        let change = self.irq.raise(causes, ide, self.context(|| self.board.now_ns()));
        if self.config.tx_mode == TxMode::Inline || change != Change::Postponed {
            self.tell(change);
        }
    }

    /// A register that the guest wrote, or the cable, raises interrupt causes.
    pub(crate) fn raise_outside(&self, causes: Icr) {
        let change = self.irq.raise(causes, false, self.context(|| self.board.now_ns()));
        self.tell(change);
    }

    /// Tells whom a decision of the interrupt logic concerns. The I/O thread asks for the deadline
    /// before each sleep; of one that another thread has set since it must be told.
    pub(crate) fn tell(&self, change: Change) {
        match change {
            Change::Postponed => self.board.wake_io(),
            Change::Line(true) => self.board.wake_vcpu(),
            Change::Line(false) | Change::None => {}
        }
    }

    /// The CSB, if the guest mapped one that is memory.
    #[must_use]
    pub fn csb(&self) -> Option<CsbPage<M>> {
        lock(&self.csb).clone()
    }

    /// Whether there is a link; without one nothing is sent or received.
    #[inline]
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.registers.load(regs::STATUS) & Status::LU.bits() != 0
    }

    /// Whether sent packets wait for the port: to a driver, a link partner that has paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The data path's answer to that, once a round.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether loopback is on, in the MAC or in the PHY: frames come back and do not leave the port. The manual names one
    /// of the three modes of RCTL.LBM; in none do frames leave.
    pub(crate) fn loops_back(&self) -> bool {
        let rctl = Rctl::from_bits_retain(self.registers.load(regs::RCTL));
        rctl.intersects(Rctl::LBM) || lock(&self.phy).loops_back()
    }

    pub(crate) fn context<C: FnOnce() -> u64>(
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
    pub(crate) fn wants(&self) -> Wants {
        match &*lock(&self.csb) {
            Some(page) if csb_rules::host_csb_on(page) => Wants {
                tx: csb_rules::host_wants_tx_irq(page),
                rx: csb_rules::host_wants_rx_irq(page),
            },
            _ => Wants::ALL,
        }
    }

    /// Reset of the MAC (8254x manual, section 14.3): registers as the table says, the address from the
    /// EEPROM, no cause, everything masked, no CSB. The data path's part is `DataPath::reset`, under whose
    /// lock this runs; PHY and PCI configuration are not the MAC's.
    pub(crate) fn reset(&self) {
        self.irq.reset(|level| self.board.set_intx(level));
        *lock(&self.csb) = None;
        self.registers.reset();
        self.stats.reset();
        let mut eeprom = lock(&self.eeprom);
        eeprom.reset();
        let [a, b, c, d, e, f] = eeprom.mac();
        drop(eeprom);
        self.registers.store(regs::RAL, u32::from_le_bytes([a, b, c, d]));
        self.registers.store(regs::RAH, u32::from_le_bytes([e, f, 0, 0]) | Rah::AV.bits());
        self.follow_link();
    }

    /// STATUS tells the link, its speed and duplex as the PHY has them, or as CTRL forces the MAC to; true if that
    /// has changed it. Under the PHY's lock: the cable is the I/O thread's, and who looked first must not store last.
    pub(crate) fn follow_link(&self) -> bool {
        let phy = lock(&self.phy);
        let ctrl = Ctrl::from_bits_retain(self.registers.load(regs::CTRL));
        let before = Status::from_bits_retain(self.registers.load(regs::STATUS));
        let link = phy.link();
        let mut status = before;
        status.set(Status::LU, link.is_some());
        if let Some(link) = link {
            let forced = ctrl.contains(Ctrl::FRCSPD);
            status = status.with_speed(if forced { ctrl.speed() } else { link.speed }, link.speed);
            let forced = ctrl.contains(Ctrl::FRCDPX);
            let full = if forced { ctrl.contains(Ctrl::FD) } else { link.full_duplex };
            status.set(Status::FD, full);
        }
        self.registers.store(regs::STATUS, status.bits());
        before != status
    }
}
