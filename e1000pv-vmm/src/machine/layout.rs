//! The guest's physical addresses, I/O ports and interrupt lines, and what is at each. It is the smallest PC that
//! Linux and the bench guest need (Intel 8254x manual for the NIC's windows, PCI 2.3 for the rest).
//!
//! ```text
//!   0                guest RAM, at most 3 GiB, from 0 without a hole
//!   e000 0000        BAR0 of NIC 0 (128 KiB), of NIC 1, ... as "firmware" places them
//!   fec0 0000        IOAPIC (in the kernel)
//!   fee0 0000        local APIC (in the kernel)
//!   fffb c000        pages that KVM wants for itself on Intel: identity map, task state
//! ```

use std::ops::Range;

/// Guest RAM ends here at the latest: above come the devices.
pub const RAM_MAX_BYTES: u64 = 3 << 30;
/// With less, not even the bench guest has room for its rings.
pub const RAM_MIN_BYTES: u64 = 8 << 20;
/// RAM comes in these, so that huge pages fit.
pub const RAM_ALIGN_BYTES: u64 = 2 << 20;

/// Where PC firmware's data lies; no RAM for the guest in its memory map.
pub const LEGACY_HOLE: Range<u64> = 0x9_fc00..0x10_0000;

/// Three segment descriptors for guests that reload a segment before they have a table of their own.
pub const BOOT_GDT: u64 = 0x500;
/// PVH `hvm_start_info`.
pub const START_INFO: u64 = 0x6000;
/// PVH memory map.
pub const MEMORY_MAP: u64 = 0x7000;
/// PVH module list (the initial RAM disk).
pub const MODULE_LIST: u64 = 0x7800;
/// Kernel command line.
pub const COMMAND_LINE: u64 = 0x8000;
/// Longest command line with its final zero.
pub const COMMAND_LINE_MAX_BYTES: usize = 0x4000;
/// First address of a kernel: all below is firmware's.
pub const KERNEL_MIN: u64 = 0x10_0000;

/// Where PCI memory BARs may be: between RAM and the IOAPIC.
pub const MMIO: Range<u64> = 0xe000_0000..0xfec0_0000;
/// BAR0 of NIC `index` when the guest starts.
pub const fn bar0(index: usize) -> u32 {
    MMIO.start as u32 + index as u32 * BAR0_BYTES
}
/// 82540EM: registers, 128 KiB (8254x manual, 4.1, BAR0).
pub const BAR0_BYTES: u32 = 0x2_0000;
/// BAR1 of NIC `index` when the guest starts.
pub const fn bar1(index: usize) -> u16 {
    0xc000 + index as u16 * BAR1_BYTES
}
/// 82540EM: IOADDR and IODATA behind 64 bytes of ports, as QEMU and the chip's I/O BAR have it.
pub const BAR1_BYTES: u16 = 64;

/// KVM's identity map page (VMX without unrestricted guest).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's three task state pages.
pub const TSS: usize = 0xfffb_d000;

/// COM1.
pub const COM1: Range<u16> = 0x3f8..0x400;
/// Interrupt line of COM1.
pub const COM1_IRQ: u32 = 4;
/// QEMU's `isa-debug-exit`, at the address that everybody gives it.
pub const EXIT_PORT: Range<u16> = 0xf4..0xf8;
/// Keyboard controller, for `reboot=k`: status and command.
pub const KEYBOARD_COMMAND: u16 = 0x64;
/// Reset control register of PC chipsets.
pub const RESET_CONTROL: u16 = 0xcf9;
/// PCI configuration mechanism #1: address.
pub const PCI_ADDRESS: u16 = 0xcf8;
/// PCI configuration mechanism #1: data.
pub const PCI_DATA: Range<u16> = 0xcfc..0xd00;

/// PCI slot of NIC `index`; below are the host bridge and what PCs have in 1 and 2.
pub const fn slot(index: usize) -> u8 {
    3 + index as u8
}
/// Most NICs: slots up to 10, and two machines' worth of middlebox.
pub const NICS_MAX: usize = 8;

/// Interrupt lines for PCI, as PC firmware uses them: free of ISA devices, level-triggered in the
/// 8259's ELCR. NICs beyond the fourth share.
const PCI_IRQS: [u8; 4] = [11, 10, 9, 5];
/// Interrupt line of NIC `index`: 8259 input, IOAPIC pin and KVM's GSI alike.
pub const fn irq(index: usize) -> u8 {
    PCI_IRQS[index % PCI_IRQS.len()]
}
/// The lines as the two bytes of the ELCR (ports 0x4D0 and 0x4D1).
pub const fn level_triggered() -> [u8; 2] {
    let (mut lines, mut i) = (0u16, 0);
    while i < PCI_IRQS.len() {
        lines |= 1 << PCI_IRQS[i];
        i += 1;
    }
    lines.to_le_bytes()
}

/// CPUID leaf that tells the frequency of the TSC in kHz, as VMware defined it and Linux reads it.
pub const CPUID_TSC_KHZ: u32 = 0x4000_0010;

const _: () = {
    assert!(RAM_MAX_BYTES <= MMIO.start);
    assert!(bar0(NICS_MAX) as u64 <= MMIO.end);
    assert!(bar0(0).is_multiple_of(BAR0_BYTES) && bar1(0).is_multiple_of(BAR1_BYTES));
    assert!(COMMAND_LINE + (COMMAND_LINE_MAX_BYTES as u64) < LEGACY_HOLE.start);
    assert!(NICS_MAX <= crate::stats::counters::NICS_MAX);
};
