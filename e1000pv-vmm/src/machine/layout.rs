//! The guest's physical addresses, I/O ports and interrupt lines, and what is at each. It is the smallest PC that
//! Linux and the bench guest need (Intel 8254x manual for the NIC's windows, PCI 2.3 for the rest).
//!
//! ```text
//!   0                guest RAM, at most 3 GiB of it
//!   dff0 0000        PCI configuration of bus 0 (ECAM, 1 MiB)
//!   e000 0000        BAR0 of NIC 0 (128 KiB), of NIC 1, ... as "firmware" places them
//!   fec0 0000        IOAPIC (in the kernel)
//!   fee0 0000        local APIC (in the kernel)
//!   fffb c000        pages that KVM wants for itself on Intel: identity map, task state
//!   1 0000 0000      the rest of guest RAM
//! ```

use std::ops::Range;

/// No RAM is here: it is what devices answer in.
pub const HOLE: Range<u64> = 3 << 30..4 << 30;
/// As much as anybody may ask for.
pub const RAM_MAX_BYTES: u64 = 1 << 40;
/// With less, not even the bench guest has room for its rings.
pub const RAM_MIN_BYTES: u64 = 8 << 20;
/// RAM comes in these, so that huge pages fit.
pub const RAM_ALIGN_BYTES: u64 = 2 << 20;

/// Where PC firmware's data lies; no RAM for the guest in its memory map.
pub const LEGACY_HOLE: Range<u64> = 0x9_fc00..0x10_0000;
/// The ACPI tables, the RSDP first: where a PC's BIOS has them, so that who looks there finds them.
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;

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
/// Linux's `boot_params`, one page.
pub const ZERO_PAGE: u64 = 0xd000;
/// Page tables of a kernel that is entered in long mode: six pages.
pub const PAGE_TABLES: u64 = 0x1_0000;
/// First address of a kernel: all below is firmware's.
pub const KERNEL_MIN: u64 = 0x10_0000;

/// PCI configuration of bus 0 as memory: 4 KiB a function (PCI Firmware Specification 3.0, 4.1.2).
pub const ECAM: Range<u64> = 0xdff0_0000..0xe000_0000;

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

/// The IOAPIC, whose pin n is KVM's GSI n.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
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
/// ACPI: PM1a event block, status and enable.
pub const PM1_EVENT: Range<u16> = 0x600..0x604;
/// ACPI: PM1a control.
pub const PM1_CONTROL: Range<u16> = 0x604..0x606;
/// ACPI: SLP_TYP of the state S5, soft off.
pub const SLEEP_TYPE_S5: u8 = 5;
/// ACPI: the system control interrupt.
pub const SCI: u8 = 9;
/// QEMU's pvpanic.
pub const PVPANIC: u16 = 0x505;
/// Keyboard controller, for `reboot=k`: status and command.
pub const KEYBOARD_COMMAND: u16 = 0x64;
/// Reset control register of PC chipsets.
pub const RESET_CONTROL: u16 = 0xcf9;
/// What resets the machine when it is written there.
pub const RESET_VALUE: u8 = 6;
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

/// vCPUs at most.
pub const VCPUS_MAX: usize = 4;

/// Interrupt lines for PCI: free of ISA devices (3 is that of COM2, which is not there) and of ACPI's interrupt,
/// level-triggered in the 8259's ELCR. NICs beyond the fourth share.
const PCI_IRQS: [u8; 4] = [11, 10, 5, 3];
/// Interrupt line of NIC `index`: 8259 input, IOAPIC pin and KVM's GSI alike.
pub const fn irq(index: usize) -> u8 {
    PCI_IRQS[index % PCI_IRQS.len()]
}
/// The lines as the two bytes of the ELCR (ports 0x4D0 and 0x4D1).
pub const fn level_triggered() -> [u8; 2] {
    let (mut lines, mut i) = (1u16 << SCI, 0);
    while i < PCI_IRQS.len() {
        lines |= 1 << PCI_IRQS[i];
        i += 1;
    }
    lines.to_le_bytes()
}

/// CPUID leaf that tells the frequency of the TSC in kHz, as VMware defined it and Linux reads it.
pub const CPUID_TSC_KHZ: u32 = 0x4000_0010;

const _: () = {
    assert!(HOLE.start <= ECAM.start && ECAM.end <= MMIO.start && MMIO.end <= IOAPIC as u64);
    assert!(ECAM.end - ECAM.start == 32 * 8 * 4096);
    assert!((IOAPIC as u64) < LOCAL_APIC as u64 && TSS as u64 + 3 * 4096 <= HOLE.end);
    assert!(HOLE.start.is_multiple_of(RAM_ALIGN_BYTES));
    assert!(LEGACY_HOLE.start <= ACPI_TABLES.start && ACPI_TABLES.end <= LEGACY_HOLE.end);
    assert!(COMMAND_LINE + (COMMAND_LINE_MAX_BYTES as u64) <= ZERO_PAGE);
    assert!(ZERO_PAGE + 4096 <= PAGE_TABLES && PAGE_TABLES + 6 * 4096 <= LEGACY_HOLE.start);
    assert!(VCPUS_MAX <= crate::stats::counters::VCPUS_MAX);
    assert!(bar0(NICS_MAX) as u64 <= MMIO.end);
    assert!(bar0(0).is_multiple_of(BAR0_BYTES) && bar1(0).is_multiple_of(BAR1_BYTES));
    assert!(NICS_MAX <= crate::stats::counters::NICS_MAX);
};
