//! Register accesses: of any width at any offset, through BAR0 or through BAR1's window (8254x
//! manual, sections 13.2 and 13.4).
//!
//! An access is cut into the registers that it touches, in ascending order. A read reads each of them
//! once, as a whole, with its side effects, and takes the bytes asked for. A write that covers a
//! register in part leaves the other bytes as they are; where a register's write is a command (ICS,
//! IMC, ...), they count as 0. What is in no register reads 0 and ignores writes. The manual only
//! defines aligned 32-bit accesses; all others are counted as bad, but for 64-bit ones to pairs.

use std::ops::Range;
use std::sync::atomic::Ordering;

use e1000pv::bits::{Ctrl, Icr, Mdic, Rctl, Tctl};
use e1000pv::regs::{self, Access};

use super::device::E1000;
use super::{lock, monotonic_ns, path};
use crate::counters::Nic;
use crate::netport::NetPort;

/// Kilobytes of packet buffer that PBA divides.
const PACKET_BUFFER_KB: u32 = 64;

/// The part of an access that lies within one register.
struct Piece {
    /// Offset of the register.
    register: u32,
    /// The first byte of the register that is accessed.
    first: usize,
    /// Which of the access's bytes these are.
    bytes: Range<usize>,
}

impl Piece {
    fn is_whole(&self) -> bool {
        self.bytes.len() == 4
    }
}

/// Cuts an access into registers. What lies beyond all registers is left out.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset.checked_add(done as u64)?;
        if done >= len || at >= u64::from(regs::END) {
            return None;
        }
        let first = (at % 4) as usize;
        let n = (4 - first).min(len - done);
        let piece = Piece { register: at as u32 & !3, first, bytes: done..done + n };
        done += n;
        Some(piece)
    })
}

impl<P: NetPort> E1000<P> {
    /// The guest reads through BAR0.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        self.core.counters.bump(Nic::RegisterAccesses, 1);
        data.fill(0);
        let mut bad = !data.len().is_multiple_of(4) || offset >= u64::from(regs::END);
        for piece in pieces(offset, data.len()) {
            let value = self.read_register(piece.register);
            bad |= !piece.is_whole() || value.is_none();
            let bytes = value.unwrap_or(0).to_le_bytes();
            let n = piece.bytes.len();
            data[piece.bytes].copy_from_slice(&bytes[piece.first..piece.first + n]);
        }
        self.count_bad(bad);
    }

    /// The guest writes through BAR0.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) {
        self.core.counters.bump(Nic::RegisterAccesses, 1);
        let mut bad = !data.len().is_multiple_of(4) || offset >= u64::from(regs::END);
        for piece in pieces(offset, data.len()) {
            bad |= !piece.is_whole();
            let mut bytes = [0; 4];
            let mut lanes = [0; 4];
            let n = piece.bytes.len();
            bytes[piece.first..piece.first + n].copy_from_slice(&data[piece.bytes]);
            lanes[piece.first..piece.first + n].fill(0xFF);
            let (value, lanes) = (u32::from_le_bytes(bytes), u32::from_le_bytes(lanes));
            bad |= !self.write_register(piece.register, value, lanes);
        }
        self.count_bad(bad);
    }

    /// The guest reads through BAR1: IOADDR, or the register that it names.
    pub fn io_read(&self, offset: u64, data: &mut [u8]) {
        let address = u64::from(self.io_address.load(Ordering::Relaxed));
        match offset {
            0..4 => {
                let bytes = (address as u32).to_le_bytes();
                data.fill(0);
                let from = &bytes[offset as usize..];
                let n = from.len().min(data.len());
                data[..n].copy_from_slice(&from[..n]);
            }
            4..8 => self.mmio_read(address + offset - 4, data),
            _ => {
                data.fill(0);
                self.count_bad(true);
            }
        }
    }

    /// The guest writes through BAR1.
    pub fn io_write(&self, offset: u64, data: &[u8]) {
        let address = self.io_address.load(Ordering::Relaxed);
        match offset {
            0..4 => {
                let mut bytes = address.to_le_bytes();
                let to = &mut bytes[offset as usize..];
                let n = to.len().min(data.len());
                to[..n].copy_from_slice(&data[..n]);
                self.io_address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            }
            4..8 => self.mmio_write(u64::from(address) + offset - 4, data),
            _ => self.count_bad(true),
        }
    }

    fn count_bad(&self, bad: bool) {
        if bad {
            self.core.counters.bump(Nic::BadAccesses, 1);
        }
    }

    /// Reads the register at `offset`, with its side effects. `None`: there is none.
    fn read_register(&self, offset: u32) -> Option<u32> {
        let core = &self.core;
        let register = self.lookup(offset)?;
        Some(match (offset, register.access) {
            (regs::ICR, _) => {
                core.counters.bump(Nic::IcrReads, 1);
                core.irq.read_icr(|level| core.board.set_intx(level)).bits()
            }
            (regs::IMS, _) => core.irq.ims().bits(),
            (regs::EECD, _) => lock(&core.eeprom).read_eecd(),
            (_, Access::ReadClear) => core.stats.read(offset),
            (_, Access::WriteOnly) => 0,
            _ => core.registers.load(offset),
        })
    }

    fn lookup(&self, offset: u32) -> Option<&'static regs::Register> {
        let register = regs::lookup(offset)?.register;
        let paravirtual = matches!(offset, regs::CSBAL | regs::CSBAH);
        (!paravirtual || self.core.config.csb).then_some(register)
    }

    /// Writes those bits of the register at `offset` that are set in `lanes`. False: there is none.
    fn write_register(&self, offset: u32, value: u32, lanes: u32) -> bool {
        let Some(register) = self.lookup(offset) else {
            return false;
        };
        let core = &self.core;
        let command = matches!(register.access, Access::WriteOnly | Access::ReadClearWriteOneClear);
        let value = if command || lanes == u32::MAX {
            value
        } else {
            core.registers.load(offset) & !lanes | value
        };
        let store = || core.registers.write(register, offset, value);
        let intx = |level| core.board.set_intx(level);
        match offset {
            regs::TDT => {
                core.counters.bump(Nic::TdtWrites, 1);
                store();
                self.transmit();
            }
            regs::RDT => {
                core.counters.bump(Nic::RdtWrites, 1);
                store();
                core.board.wake_io();
            }
            regs::ICR => core.irq.clear(Icr::from_bits_retain(value), intx),
            regs::IMC => core.irq.mask(Icr::from_bits_retain(value), intx),
            regs::IMS => {
                let causes = Icr::from_bits_retain(value & register.writable);
                let change = core.irq.unmask(causes, core.context(monotonic_ns));
                core.tell(change);
            }
            regs::ICS => core.raise_outside(Icr::from_bits_retain(value & register.writable)),
            regs::CTRL => self.write_ctrl(value),
            regs::EECD => lock(&core.eeprom).write_eecd(value),
            regs::EERD => {
                let result = lock(&core.eeprom).write_eerd(value);
                core.registers.store(regs::EERD, result);
            }
            regs::MDIC => self.write_mdic(value),
            regs::PBA => {
                // What is not given to reception is left to transmission.
                let receive = value & register.writable;
                let transmit = PACKET_BUFFER_KB.saturating_sub(receive);
                core.registers.store(regs::PBA, transmit << 16 | receive);
            }
            regs::RCTL | regs::TCTL => {
                let enabled = offset == regs::RCTL && value & Rctl::EN.bits() != 0
                    || offset == regs::TCTL && value & Tctl::EN.bits() != 0;
                store();
                if enabled {
                    core.board.wake_io();
                }
            }
            // Registers of a ring are changed under the lock of the data path: no slice has one half
            // of an address and works.
            regs::TDBAL | regs::TDBAH | regs::TDLEN | regs::TDH => {
                let mut path = path::lock(&self.path);
                store();
                path.restart_tx(core);
            }
            regs::RDBAL | regs::RDBAH | regs::RDLEN | regs::RDH => {
                let mut path = path::lock(&self.path);
                store();
                path.restart_rx(core);
            }
            regs::TIDV | regs::RDTR => {
                store();
                if value & e1000pv::bits::FPD != 0 {
                    core.irq.flush();
                    let change = core.irq.evaluate(core.context(monotonic_ns));
                    core.tell(change);
                }
            }
            regs::CSBAL => {
                store();
                self.map_csb();
            }
            _ => {
                store();
            }
        }
        true
    }

    fn write_ctrl(&self, value: u32) {
        let ctrl = Ctrl::from_bits_retain(value);
        if ctrl.contains(Ctrl::RST) {
            self.reset_mac();
            return;
        }
        self.core.registers.store(regs::CTRL, ctrl.difference(Ctrl::PHY_RST).bits());
        if ctrl.contains(Ctrl::PHY_RST) {
            lock(&self.core.phy).reset();
            self.link_changed();
        }
    }

    fn write_mdic(&self, value: u32) {
        let command = Mdic::from_bits_retain(value);
        let outcome = lock(&self.core.phy).mdi(command);
        self.core.registers.store(regs::MDIC, outcome.mdic.bits());
        if outcome.negotiated {
            self.link_changed();
        }
        if command.contains(Mdic::I) {
            self.core.raise_outside(Icr::MDAC);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_cut_at_register_boundaries() {
        let cut = |offset, len| {
            pieces(offset, len).map(|p| (p.register, p.first, p.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(cut(8, 4), [(8, 0, 0..4)]);
        assert_eq!(cut(6, 4), [(4, 2, 0..2), (8, 0, 2..4)]);
        assert_eq!(cut(3, 1), [(0, 3, 0..1)]);
        assert_eq!(cut(8, 8), [(8, 0, 0..4), (12, 0, 4..8)]);
        assert_eq!(cut(u64::from(regs::END) - 2, 8), [(regs::END - 4, 2, 0..2)]);
        assert_eq!(cut(u64::MAX - 1, 8), []);
        assert_eq!(cut(0, 0), []);
    }
}
