//! The ACPI tables: what the machine has, for kernels that ask (ACPI 6.5, chapter 5). There is no firmware that could
//! make them, so they are written into memory with the kernel.
//!
//! ```text
//!   RSDP -> XSDT -> FADT  power management ports, what a PC has and this one has not -> DSDT  devices
//!                -> MADT  vCPUs, IOAPIC
//!                -> MCFG  PCI configuration as memory
//! ```
//!
//! Invariants: what the tables say is what `layout` has and the devices do. The machine is not "hardware-reduced":
//! in such a one Linux leaves the 8259s as they are, and what is not masked there arrives at vectors of exceptions.
//! GSI n is pin n of the IOAPIC and, below 16, input n of the 8259s: KVM's own routing, so nothing overrides it.

mod dsdt;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use crate::machine::layout;

const OEM: [u8; 6] = *b"NETMAP";
const OEM_TABLE: [u8; 8] = *b"E1000PV ";
const OEM_REVISION: u32 = 1;
/// Where a table may begin.
const ALIGN: usize = 16;
/// Identity of the IOAPIC: its own namespace on all processors since the Pentium 4.
const IOAPIC_ID: u8 = 0;

/// MADT: there are two 8259s as well.
const PCAT_COMPAT: u32 = 1;
/// MADT: LINT1 of each processor is the NMI, with the bus's polarity and trigger.
const LOCAL_APIC_NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];

/// IAPC_BOOT_ARCH: there are ISA devices, no VGA, no CMOS clock (kvm-clock tells the date); no 8042, by its bit
/// that is clear.
const BOOT_ARCH: u16 = 1 << 0 | 1 << 2 | 1 << 5;

/// The tables of a machine with so many vCPUs, as they lie in memory from [`layout::ACPI_TABLES`] on.
pub fn tables(vcpus: usize) -> Vec<u8> {
    let mut image = vec![0; Rsdp::len()];
    let dsdt = put(&mut image, &dsdt::dsdt());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [bytes(&fadt(dsdt).finalize()), madt(vcpus), bytes(&mcfg())] {
        xsdt.add_entry(put(&mut image, &table));
    }
    let xsdt = put(&mut image, &bytes(&xsdt));
    image[..Rsdp::len()].copy_from_slice(&bytes(&Rsdp::new(OEM, xsdt)));
    image
}

/// Appends a table; returns its address.
fn put(image: &mut Vec<u8>, table: &[u8]) -> u64 {
    image.resize(image.len().next_multiple_of(ALIGN), 0);
    let at = layout::ACPI_TABLES.start + image.len() as u64;
    image.extend_from_slice(table);
    at
}

fn bytes(of: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    of.to_aml_bytes(&mut bytes);
    bytes
}

fn header(signature: [u8; 4], revision: u8) -> Sdt {
    /// Bytes of a header.
    const HEADER: u32 = 36;
    Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION)
}

/// No SMI command: the machine is in ACPI mode always. No PM timer, no GPEs. The power button is the fixed one, by a
/// flag that is clear; there is no sleep button, by one that is set.
fn fadt(dsdt: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(layout::SCI).into();
    fadt.pm1a_evt_blk = u32::from(layout::PM1_EVENT.start).into();
    fadt.pm1_evt_len = layout::PM1_EVENT.len() as u8;
    fadt.pm1a_cnt_blk = u32::from(layout::PM1_CONTROL.start).into();
    fadt.pm1_cnt_len = layout::PM1_CONTROL.len() as u8;
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(layout::RESET_CONTROL),
    );
    fadt.reset_value = layout::RESET_VALUE;
    fadt
}

fn madt(vcpus: usize) -> Vec<u8> {
    let mut madt = header(*b"APIC", 5);
    let mut body = Vec::new();
    body.dword(layout::LOCAL_APIC);
    body.dword(PCAT_COMPAT);
    for index in 0..vcpus as u8 {
        ProcessorLocalApic::new(index, index, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(IOAPIC_ID, layout::IOAPIC, 0).to_aml_bytes(&mut body);
    body.extend_from_slice(&LOCAL_APIC_NMI);
    madt.append_slice(&body);
    madt.as_slice().to_vec()
}

/// Without it Linux warns that a PCI bridge has no extended configuration space.
fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.start, 0, 0, 0);
    mcfg
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
