//! Finds network interfaces by PCI configuration mechanism #1 (ports 0xCF8 and 0xCFC).

use crate::arch::{inl, outl};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const VENDOR_INTEL: u32 = 0x8086;
const DEVICE_82540EM: u32 = 0x100e;
/// Memory space and bus master, of the command register.
const COMMAND_MEMORY_MASTER: u32 = 0x6;

/// An 82540EM as firmware (or the monitor) left it.
#[derive(Clone, Copy, Debug)]
pub struct Nic {
    /// Address of BAR0.
    pub bar0: usize,
    /// Subsystem id: 0x1101 says that the device knows the CSB.
    pub subsystem_id: u16,
    /// Line that INTA is routed to.
    pub irq_line: u8,
}

fn address(device: u32, register: u32) -> u32 {
    0x8000_0000 | device << 11 | register
}

fn read(device: u32, register: u32) -> u32 {
    outl(ADDRESS, address(device, register));
    inl(DATA)
}

fn write(device: u32, register: u32, value: u32) {
    outl(ADDRESS, address(device, register));
    outl(DATA, value);
}

/// The interfaces on bus 0, in order, with memory access and bus mastering on.
pub fn nics() -> impl Iterator<Item = Nic> {
    (0..32).filter_map(|device| {
        if read(device, 0) != DEVICE_82540EM << 16 | VENDOR_INTEL {
            return None;
        }
        let command = read(device, 0x04) & 0xffff;
        write(device, 0x04, command | COMMAND_MEMORY_MASTER);
        Some(Nic {
            bar0: (read(device, 0x10) & !0xf) as usize,
            subsystem_id: (read(device, 0x2c) >> 16) as u16,
            irq_line: read(device, 0x3c) as u8,
        })
    })
}
