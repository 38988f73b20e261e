//! The DSDT: the machine's devices in ACPI's bytecode. No methods: everything is a constant.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package,
    PackageBuilder, Path, ResourceTemplate, Scope,
};
use acpi_tables::{Aml, AmlSink};

use super::{bytes, header};
use crate::machine::layout;

/// All functions of a slot, in an address of PCI's.
const ALL_FUNCTIONS: u32 = 0xffff;

/// The table.
pub fn dsdt() -> Vec<u8> {
    let mut dsdt = header(*b"DSDT", 2);
    let devices = bytes(&Scope::new(Path::new("\\_SB_"), vec![&pci(), &com1(), &pvpanic()]));
    dsdt.append_slice(&devices);
    // SLP_TYP for PM1a and PM1b, of which there is one; two that are reserved.
    let sleep = bytes(&Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&layout::SLEEP_TYPE_S5, &0u8, &0u8, &0u8]),
    ));
    dsdt.append_slice(&sleep);
    dsdt.as_slice().to_vec()
}

/// Bytes of a piece of AML that are made already, so that it borrows nothing.
struct Made(Vec<u8>);

impl Aml for Made {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// The host bridge. Its windows hold every BAR, and leave the configuration ports out, which are its own.
fn pci() -> Made {
    let ports = layout::PCI_ADDRESS..layout::PCI_DATA.end;
    let (mmio, last) = (layout::MMIO.start as u32, (layout::MMIO.end - 1) as u32);
    let mut routes = PackageBuilder::new();
    for index in 0..layout::NICS_MAX {
        let address = u32::from(layout::slot(index)) << 16 | ALL_FUNCTIONS;
        // INTA#, which is wired to this GSI and to no link that could be set.
        let gsi = layout::irq(index);
        routes.add_element(&Package::new(vec![&address, &0u8, &0u8, &gsi]));
    }
    device(
        "PCI0",
        &EISAName::new("PNP0A03"),
        vec![
            &AddressSpace::new_bus_number(0u16, 0u16),
            &IO::new(ports.start, ports.start, 1, ports.len() as u8),
            &AddressSpace::new_io(0u16, ports.start - 1, None),
            &AddressSpace::new_io(ports.end, u16::MAX, None),
            &AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, mmio, last, None),
        ],
        &[&Name::new(Path::new("_PRT"), &routes)],
    )
}

fn com1() -> Made {
    let ports = layout::COM1;
    device(
        "COM1",
        &EISAName::new("PNP0501"),
        vec![
            &IO::new(ports.start, ports.start, 1, ports.len() as u8),
            &Interrupt::new(true, true, false, false, layout::COM1_IRQ),
        ],
        &[],
    )
}

/// How a guest says that it has panicked.
fn pvpanic() -> Made {
    let port = layout::PVPANIC;
    device("PEVT", &"QEMU0001", vec![&IO::new(port, port, 1, 1)], &[])
}

fn device(name: &str, id: &dyn Aml, resources: Vec<&dyn Aml>, more: &[&dyn Aml]) -> Made {
    let id = Name::new(Path::new("_HID"), id);
    let number = Name::new(Path::new("_UID"), &0u8);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&id, &number, &resources];
    children.extend_from_slice(more);
    Made(bytes(&Device::new(Path::new(name), children)))
}
