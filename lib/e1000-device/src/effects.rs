//! Side effects of register accesses: one function for each register that has one (8254x manual, sections 13.4
//! and 13.7).
//!
//! Two tables, [`E1000::read_register`] and [`E1000::write_register`], lead from the offset to the
//! function; a register that is in neither is what the table of `e1000pv::regs` makes of it.
//! CONTRIBUTING.md tells how to add one.

use e1000pv::bits::{Ctrl, Icr, Mdic, Rctl, Status, Tctl};
use e1000pv::regs::{self, Access};

use crate::core::lock;
use crate::counters::Count;
use crate::device::E1000;
use crate::memory::GuestMemory;
use crate::path;
use crate::port::NetPort;

/// Kilobytes of packet buffer that PBA divides.
const PACKET_BUFFER_KB: u32 = 64;

/// A write: to which row of the table, at which offset, of what. Bytes that the access did not cover have
/// their old value; where the write is a command, 0.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    register: &'static regs::Register,
    offset: u32,
    value: u32,
}

impl Write {
    /// The bits that the register has, for those whose write is a command.
    fn causes(self) -> Icr {
        Icr::from_bits_retain(self.value & self.register.writable)
    }
}

impl<M: GuestMemory, P: NetPort> E1000<M, P> {
    /// Reads the register at `offset`, with its side effects. `None`: there is none.
    pub(crate) fn read_register(&self, offset: u32) -> Option<u32> {
        let register = self.lookup(offset)?;
        Some(match offset {
            regs::STATUS => self.read_status(),
            regs::ICR => self.read_icr(),
            regs::IMS => self.read_ims(),
            regs::EECD => self.read_eecd(),
            regs::MPC => self.read_mpc(),
            _ => match register.access {
                Access::ReadClear => self.core.stats.read(offset),
                Access::WriteOnly => 0,
                _ => self.core.registers.load(offset),
            },
        })
    }

    /// Writes those bits of the register at `offset` that are set in `lanes`. False: there is none.
    pub(crate) fn write_register(&self, offset: u32, value: u32, lanes: u32) -> bool {
        let Some(register) = self.lookup(offset) else {
            return false;
        };
        let command = matches!(register.access, Access::WriteOnly | Access::ReadClearWriteOneClear);
        let value = if command || lanes == u32::MAX {
            value
        } else {
            self.core.registers.load(offset) & !lanes | value
        };
        let write = Write { register, offset, value };
        match offset {
            regs::TDT => self.write_tdt(write),
            regs::RDT => self.write_rdt(write),
            regs::ICR => self.write_icr(write),
            regs::ICS => self.write_ics(write),
            regs::IMS => self.write_ims(write),
            regs::IMC => self.write_imc(write),
            regs::CTRL => self.write_ctrl(write),
            regs::EECD => self.write_eecd(write),
            regs::EERD => self.write_eerd(write),
            regs::MDIC => self.write_mdic(write),
            regs::PBA => self.write_pba(write),
            regs::RCTL => self.write_rctl(write),
            regs::TCTL => self.write_tctl(write),
            regs::TDBAL | regs::TDBAH | regs::TDLEN | regs::TDH => self.write_tx_ring(write),
            regs::RDBAL | regs::RDBAH | regs::RDLEN | regs::RDH => self.write_rx_ring(write),
            regs::TIDV | regs::RDTR => self.write_delay(write),
            regs::CSBAL => self.write_csbal(write),
            _ => self.store(write),
        }
        true
    }

    fn lookup(&self, offset: u32) -> Option<&'static regs::Register> {
        let register = regs::lookup(offset)?.register;
        let paravirtual = matches!(offset, regs::CSBAL | regs::CSBAH);
        (!paravirtual || self.core.config.csb).then_some(register)
    }

    /// A write without side effect: the writable bits are stored.
    fn store(&self, write: Write) {
        self.core.registers.write(write.register, write.offset, write.value);
    }

    /// Without a lock: drivers read it to flush their writes, at each interrupt.
    fn read_status(&self) -> u32 {
        let mut status = Status::from_bits_retain(self.core.registers.load(regs::STATUS));
        status.set(Status::TXOFF, self.core.is_paused());
        status.bits()
    }

    fn read_icr(&self) -> u32 {
        self.core.counters.bump(Count::IcrReads, 1);
        self.core.irq.read_icr(|level| self.core.board.set_intx(level)).bits()
    }

    fn read_ims(&self) -> u32 {
        self.core.irq.ims().bits()
    }

    fn read_eecd(&self) -> u32 {
        lock(&self.core.eeprom).read_eecd()
    }

    /// The I/O thread sleeps while the guest has no buffers, so it is looked at here what the port has lost.
    fn read_mpc(&self) -> u32 {
        if path::lock(&self.path).count_missed(&self.core) {
            self.core.board.wake_io();
        }
        self.core.stats.read(regs::MPC)
    }

    fn write_tdt(&self, write: Write) {
        self.core.counters.bump(Count::TdtWrites, 1);
        self.store(write);
        if self.core.registers.load(regs::TDT) >= self.core.registers.load(regs::TDLEN) >> 4 {
            path::lock(&self.path).begin_lap(&self.core);
        }
        self.transmit();
    }

    fn write_rdt(&self, write: Write) {
        self.core.counters.bump(Count::RdtWrites, 1);
        self.store(write);
        self.core.board.wake_io();
    }

    fn write_icr(&self, write: Write) {
        let causes = Icr::from_bits_retain(write.value);
        self.core.irq.clear(causes, |level| self.core.board.set_intx(level));
    }

    fn write_ics(&self, write: Write) {
        self.core.raise_outside(write.causes());
    }

    fn write_ims(&self, write: Write) {
        let now = || self.core.board.now_ns();
        let change = self.core.irq.unmask(write.causes(), self.core.context(now));
        self.core.tell(change);
    }

    fn write_imc(&self, write: Write) {
        let causes = Icr::from_bits_retain(write.value);
        self.core.irq.mask(causes, |level| self.core.board.set_intx(level));
    }

    fn write_ctrl(&self, write: Write) {
        let ctrl = Ctrl::from_bits_retain(write.value);
        if ctrl.contains(Ctrl::RST) {
            self.reset_mac();
            return;
        }
        self.core.registers.store(regs::CTRL, ctrl.difference(Ctrl::PHY_RST).bits());
        if ctrl.contains(Ctrl::PHY_RST) {
            lock(&self.core.phy).reset();
            self.loopback_changed();
            self.link_changed();
        } else {
            // FRCSPD and FRCDPX are told by STATUS; that is no change of the link.
            self.core.follow_link();
        }
    }

    fn write_eecd(&self, write: Write) {
        lock(&self.core.eeprom).write_eecd(write.value);
    }

    fn write_eerd(&self, write: Write) {
        let result = lock(&self.core.eeprom).write_eerd(write.value);
        self.core.registers.store(regs::EERD, result);
    }

    fn write_mdic(&self, write: Write) {
        let command = Mdic::from_bits_retain(write.value);
        let outcome = lock(&self.core.phy).mdi(command);
        self.core.registers.store(regs::MDIC, outcome.mdic.bits());
        if outcome.negotiated {
            self.loopback_changed();
            self.link_changed();
        }
        if command.contains(Mdic::I) {
            self.core.raise_outside(Icr::MDAC);
        }
    }

    /// What is not given to reception is left to transmission.
    fn write_pba(&self, write: Write) {
        let receive = write.value & write.register.writable;
        let transmit = PACKET_BUFFER_KB.saturating_sub(receive);
        self.core.registers.store(regs::PBA, transmit << 16 | receive);
    }

    fn write_rctl(&self, write: Write) {
        self.store(write);
        self.loopback_changed();
        if write.value & Rctl::EN.bits() != 0 {
            self.core.board.wake_io();
        }
    }

    fn write_tctl(&self, write: Write) {
        self.store(write);
        if write.value & Tctl::EN.bits() != 0 {
            path::lock(&self.path).begin_lap(&self.core);
            self.resume();
        }
    }

    /// Under the lock of the data path, as below: no slice has one half of an address and works.
    fn write_tx_ring(&self, write: Write) {
        let mut path = path::lock(&self.path);
        self.store(write);
        path.restart_tx(&self.core);
        drop(path);
        // Engines may be on and tails written before there is a ring.
        self.resume();
    }

    fn write_rx_ring(&self, write: Write) {
        let mut path = path::lock(&self.path);
        self.store(write);
        path.restart_rx(&self.core);
        drop(path);
        self.core.board.wake_io();
    }

    /// FPD ends the distance to the last interrupt; it is not kept.
    fn write_delay(&self, write: Write) {
        self.store(write);
        if write.value & e1000pv::bits::FPD != 0 {
            self.core.irq.flush();
            let now = || self.core.board.now_ns();
            let change = self.core.irq.evaluate(self.core.context(now));
            self.core.tell(change);
        }
    }

    fn write_csbal(&self, write: Write) {
        self.store(write);
        self.map_csb();
    }
}
