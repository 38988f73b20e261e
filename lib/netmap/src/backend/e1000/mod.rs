//! `e1000:PCI-ADDRESS`: an e1000 that this process drives itself, in a guest or on a machine that has one
//! (docs/design/guest-driver.md).
//!
//! Invariant: while such a port is open the device is this process's; when it is closed the device has been reset and the
//! kernel has it back, and after a kill both hold as soon as the next such port of it is closed.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use e1000pv::pci::{SUBSYSTEM_PARAVIRT, VENDOR_ID};
use e1000pv_driver::{Config, Discipline, Interrupts, Kick, Nic, RING_MAX, quiesce};

use self::binding::Binding;
use self::command::{Command, MASTER, MEMORY};
use self::device::{Clock, E1000};
use self::door::Door;
use self::memory::HugeMemory;
use self::registers::Registers;
use self::sysfs::PciDevice;
use crate::adapter::Kind;
use crate::backend::packets::{Packets, one_ring_pair};
use crate::error::{Error, Invalid, Lack, Privilege, Result};
use crate::name::{Capabilities, NicDriver, PortName, Scheme, Syntax};
use crate::options::{Options, Sizes};

mod binding;
mod command;
mod device;
mod door;
#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod registers;
mod sysfs;
#[cfg(test)]
mod tests;

/// What such a port can do. Its link may take a second to come up.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::LINK_STATE)
    .union(Capabilities::HARDWARE_ADDRESS);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "e1000",
        syntax: Syntax::Pci,
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        one_ring_pair(name)?;
        let open = |_| Ok(vec![open(name, options)?]);
        Ok(Box::new(Packets::new(name, options, CAPABILITIES, 1, open)?))
    },
};

/// Where the kernel shows its devices.
const SYSFS: &str = "/sys";
/// 82540EM, 82545EM, 82544GC: the copper ones, which emulators have.
const DEVICES: [u16; 3] = [0x100e, 0x100f, 0x100c];

/// When the device is told of packets, as asked for and as the device can.
fn discipline(name: &str, asked: Option<NicDriver>, subsystem: u16) -> Result<Discipline> {
    let offers = subsystem == SUBSYSTEM_PARAVIRT;
    Ok(match asked.unwrap_or(NicDriver::Auto) {
        NicDriver::Auto if offers => Discipline::Csb,
        NicDriver::Auto | NicDriver::Combine => Discipline::Combine,
        NicDriver::Plain => Discipline::Plain,
        NicDriver::Csb if offers => Discipline::Csb,
        NicDriver::Csb => return Err(Error::invalid(name, Invalid::NoCsb { subsystem })),
    })
}

/// Finds the device and looks whether it is one that can be driven. Nothing is changed.
fn find(name: &PortName, root: &Path) -> Result<(PciDevice, Discipline)> {
    let port = name.to_string();
    let lacks = |lack| Error::Unavailable { name: port.clone(), lack };
    let failed = |what| Error::io(what, &port);
    let address = name.pci().ok_or_else(|| lacks(Lack::PciDevice))?;
    let device = PciDevice::open(root, address).map_err(failed("look for"))?;
    let device = device.ok_or_else(|| lacks(Lack::PciDevice))?;
    let id = |file| device.id(file).map_err(failed("identify"));
    let (vendor, number, subsystem) = (id("vendor")?, id("device")?, id("subsystem_device")?);
    if vendor != VENDOR_ID || !DEVICES.contains(&number) {
        return Err(Error::invalid(&port, Invalid::NotAnE1000 { vendor, device: number }));
    }
    match device.iommu().map_err(failed("find the IOMMU of"))?.as_deref() {
        None | Some("identity") => {}
        Some(_) => return Err(lacks(Lack::Untranslated)),
    }
    let discipline = discipline(&port, name.conf.driver, subsystem)?;
    Ok((device, discipline))
}

/// What of a device's bus mastering ends with the port: nobody else switches it off where no driver is bound.
#[derive(Debug)]
struct Company {
    command: Command,
    // Behind it in the order of dropping.
    _binding: Binding,
}

impl Drop for Company {
    fn drop(&mut self) {
        let _ = self.command.change(0, MASTER); // the device may be gone
    }
}

/// Takes the device, resets it, and starts it.
fn open(name: &PortName, options: &Options) -> Result<E1000<Registers, HugeMemory>> {
    let port = name.to_string();
    let failed = |what| Error::io(what, &port);
    let (device, discipline) = find(name, Path::new(SYSFS))?;
    let sizes = Sizes::from_options(&port, options)?;
    let descriptors = |slots: u32| slots.next_multiple_of(8).min(RING_MAX);
    let (tx, rx) = (descriptors(sizes.tx_slots), descriptors(sizes.rx_slots));

    // The mark, before anything is taken; and without memory nothing is.
    let mark = format!("vale-e1000-{}", device.address());
    let mut memory = HugeMemory::open(&port, &mark, tx, rx)?;
    let command = device.file("config").map(Command::new).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let privilege = Privilege::PhysicalAddresses;
            Error::NotPermitted { name: port.clone(), privilege }
        }
        _ => failed("open the configuration space of")(error),
    })?;
    let binding = Binding::take(&port, device, memory.is_left(), name.conf.force)?;
    let door = match binding.uio() {
        Some(number) => {
            let path = format!("/dev/uio{number}");
            let events = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
            let events = events.map_err(Error::io("open", path))?;
            let command = command.try_clone().map_err(failed("configure"))?;
            Door::uio(events, command).map_err(failed("mask the interrupts of"))?
        }
        None => Door::clock().map_err(failed("make a clock for"))?,
    };
    // Whatever the device was doing, it does not go on when it may reach memory again.
    command.change(MEMORY, MASTER).map_err(failed("configure"))?;
    let resource = binding.device().file("resource0").map_err(failed("open the registers of"))?;
    let registers = Registers::map(&resource).map_err(failed("map the registers of"))?;
    quiesce(&registers);
    memory.settle();
    command.change(MASTER, 0).map_err(failed("configure"))?;
    let interrupts = if door.tells() { Interrupts::Wake } else { Interrupts::Never };
    let by = match interrupts {
        Interrupts::Never => "polled (uio_pci_generic is not loaded, or does not take it)",
        _ => "interrupts by uio_pci_generic",
    };
    let about = format!("driver={}, {by}; {}", discipline.name(), binding.about());
    let company = Box::new(Company { command, _binding: binding });
    let config = Config {
        discipline,
        subsystem_id: if discipline == Discipline::Csb { SUBSYSTEM_PARAVIRT } else { 0 },
        tx_descriptors: tx,
        rx_descriptors: rx,
        kick: Kick::Batch,
        interrupts,
        promiscuous: true,
        ..Config::default()
    };
    let nic = Nic::new(registers, &mut memory, &Clock, &config);
    let nic = nic.map_err(|error| failed("start")(io::Error::other(error.to_string())))?;
    Ok(E1000::new(port.clone(), nic, memory, door, about, company))
}
