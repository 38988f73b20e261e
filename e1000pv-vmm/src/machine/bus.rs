//! Dispatches the vCPUs' accesses to memory-mapped registers and I/O ports.
//!
//! Invariants: every access of every width gets a defined answer; where no device answers, reads are all ones,
//! writes vanish, and the access is counted. A device never sees an access that crosses its window.

use std::sync::{Arc, Mutex, PoisonError};

use e1000pv::idle::{MAGIC, PORT as IDLE_PORT};

use crate::machine::com1::Com1;
use crate::machine::cpu::Cpu;
use crate::machine::exit::End;
use crate::machine::idle::Idle;
use crate::machine::layout;
use crate::machine::pci::{Decode, PciBus};
use crate::machine::power::Power;
use crate::machine::registers::Registers;
use crate::stats::counters::Vm;

/// A NIC on the bus.
#[derive(Debug)]
pub struct Slot {
    /// Where it answers.
    pub decode: Arc<Decode>,
    /// What it answers.
    pub registers: Arc<dyn Registers>,
}

/// All that vCPUs can reach beside memory.
#[derive(Debug)]
pub struct Bus {
    nics: Vec<Slot>,
    pci: Mutex<PciBus>,
    com1: Arc<Com1>,
    power: Arc<Power>,
    idle: Option<Arc<Idle>>,
}

impl Bus {
    /// Puts the machine together. Without `idle`, guests sleep as on a PC.
    pub fn new(
        pci: PciBus,
        nics: Vec<Slot>,
        com1: Arc<Com1>,
        power: Arc<Power>,
        idle: Option<Arc<Idle>>,
    ) -> Bus {
        Bus { nics, pci: Mutex::new(pci), com1, power, idle }
    }

    /// The vCPU reads an address that is not memory.
    pub fn mmio_read(&self, cpu: &Cpu, address: u64, data: &mut [u8]) {
        match self.memory(address, data.len()) {
            Some((nic, offset)) => nic.mmio_read(offset, data),
            None if layout::ECAM.contains(&address) => {
                self.pci(|pci| pci.read_memory(address - layout::ECAM.start, data));
            }
            None => nobody(cpu, data),
        }
    }

    /// The vCPU writes to an address that is not memory.
    pub fn mmio_write(&self, cpu: &Cpu, address: u64, data: &[u8]) {
        match self.memory(address, data.len()) {
            Some((nic, offset)) => nic.mmio_write(offset, data),
            None if layout::ECAM.contains(&address) => {
                self.pci(|pci| pci.write_memory(address - layout::ECAM.start, data));
            }
            None => cpu.counters.bump(Vm::Unclaimed, 1),
        }
    }

    fn memory(&self, address: u64, len: usize) -> Option<(&dyn Registers, u64)> {
        self.nics.iter().find_map(|slot| {
            let offset = address.checked_sub(u64::from(slot.decode.memory()?))?;
            let within = offset.saturating_add(len as u64) <= u64::from(layout::BAR0_BYTES);
            within.then_some((&*slot.registers, offset))
        })
    }

    fn ports(&self, port: u16, len: usize) -> Option<(&dyn Registers, u64)> {
        self.nics.iter().find_map(|slot| {
            let offset = port.checked_sub(slot.decode.io()?)?;
            let within = usize::from(offset) + len <= usize::from(layout::BAR1_BYTES);
            within.then_some((&*slot.registers, u64::from(offset)))
        })
    }

    /// The vCPU reads a port.
    pub fn port_in(&self, cpu: &Cpu, port: u16, data: &mut [u8]) {
        if layout::COM1.contains(&port) && data.len() == 1 {
            data[0] = self.com1.read((port - layout::COM1.start) as u8);
        } else if port == layout::PCI_ADDRESS && data.len() == 4 {
            self.pci(|pci| pci.read_address(data));
        } else if layout::PCI_DATA.contains(&port) {
            self.pci(|pci| pci.read_data(usize::from(port - layout::PCI_DATA.start), data));
        } else if port == IDLE_PORT && self.idle.is_some() && data.len() == 4 {
            data.copy_from_slice(&MAGIC.to_le_bytes());
        } else if let Some((nic, offset)) = self.ports(port, data.len()) {
            nic.io_read(offset, data);
        } else if !self.power.read(port, data) {
            nobody(cpu, data);
        }
    }

    /// The vCPU writes a port. Some writes end the guest.
    pub fn port_out(&self, cpu: &Cpu, port: u16, data: &[u8]) -> Option<End> {
        if layout::COM1.contains(&port) && data.len() == 1 {
            self.com1.write((port - layout::COM1.start) as u8, data[0]);
        } else if let (IDLE_PORT, Some(idle), Ok(block)) = (port, &self.idle, data.try_into()) {
            cpu.counters.bump(Vm::Halts, 1);
            if idle.call(cpu.index, u32::from_le_bytes(block)).is_none() {
                cpu.counters.bump(Vm::Unclaimed, 1);
            }
        } else if port == layout::PCI_ADDRESS && data.len() == 4 {
            self.pci(|pci| pci.write_address(data));
        } else if layout::PCI_DATA.contains(&port) {
            self.pci(|pci| pci.write_data(usize::from(port - layout::PCI_DATA.start), data));
        } else if layout::EXIT_PORT.contains(&port) {
            let mut status = [0; 4];
            let len = data.len().min(4);
            status[..len].copy_from_slice(&data[..len]);
            return Some(End::Status(u32::from_le_bytes(status)));
        } else if let Some((nic, offset)) = self.ports(port, data.len()) {
            nic.io_write(offset, data);
        } else {
            match self.power.write(port, data) {
                Some(end) => return end,
                None => cpu.counters.bump(Vm::Unclaimed, 1),
            }
        }
        None
    }

    /// All devices are as after power-on, and leave memory alone. For a machine whose vCPUs do not run.
    pub fn reset(&self) {
        self.pci(PciBus::reset);
        self.com1.reset();
        self.power.reset();
        if let Some(idle) = &self.idle {
            idle.reset();
        }
    }

    fn pci(&self, access: impl FnOnce(&mut PciBus)) {
        access(&mut self.pci.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A read that nobody answers.
fn nobody(cpu: &Cpu, data: &mut [u8]) {
    data.fill(0xff);
    cpu.counters.bump(Vm::Unclaimed, 1);
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
