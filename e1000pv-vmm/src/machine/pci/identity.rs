//! The functions on the bus: a host bridge, because systems look for one before they trust configuration
//! mechanism #1, and NICs, set up as firmware leaves them that boots by network: BARs placed, decoding and bus
//! mastering on, so that a guest need not know PCI; interrupt line written.

use e1000pv::pci;

use super::config::{
    Bar, COMMAND, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY, ConfigSpace, INTERRUPT_LINE, Identity,
};
use crate::machine::layout;

/// The 82441FX of every small virtual PC.
pub fn host_bridge() -> ConfigSpace {
    ConfigSpace::new(Identity {
        vendor: 0x8086,
        device: 0x1237,
        revision: 2,
        class: 0x06_0000,
        subsystem_vendor: 0,
        subsystem: 0,
        interrupt_pin: 0,
    })
}

/// NIC `index`. A guest that knows the CSB recognises a device that offers it by its subsystem id.
pub fn nic(index: usize, paravirtual: bool) -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: pci::VENDOR_ID,
        device: pci::DEVICE_ID,
        revision: pci::REVISION,
        class: pci::CLASS,
        subsystem_vendor: pci::VENDOR_ID,
        subsystem: if paravirtual { pci::SUBSYSTEM_PARAVIRT } else { pci::SUBSYSTEM_PLAIN },
        interrupt_pin: pci::INTERRUPT_PIN,
    });
    space.add_bar(0, Bar::Memory(layout::BAR0_BYTES), layout::bar0(index));
    space.add_bar(1, Bar::Io(u32::from(layout::BAR1_BYTES)), u32::from(layout::bar1(index)));
    space.add_power_management();
    space.preset(COMMAND, &(COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER).to_le_bytes());
    space.preset(INTERRUPT_LINE, &[layout::irq(index)]);
    space
}

const _: () = assert!(layout::BAR0_BYTES == pci::BAR0_BYTES);
const _: () = assert!(layout::BAR1_BYTES as u32 == pci::BAR1_BYTES);
