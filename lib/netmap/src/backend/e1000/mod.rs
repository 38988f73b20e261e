//! `e1000:PCI-ADDRESS`: an e1000 that this process drives itself, in a guest or on a machine that has one
//! (docs/design/guest-driver.md).
//!
//! Invariant: while such a port is open the device is this process's; when it is closed the device has been reset and the
//! kernel has it back, and after a kill both hold as soon as the next such port of it is closed.

use std::io;
use std::path::Path;

use e1000pv::pci::{SUBSYSTEM_PARAVIRT, VENDOR_ID};
use e1000pv_driver::{Config, Discipline, Interrupts, Kick, Nic, RING_MAX};

use self::binding::Handler;
use self::device::{Clock, E1000, Hold};
use self::door::Door;
use self::memory::Memory;
use self::registers::Registers;
use self::sysfs::PciDevice;
use crate::adapter::Kind;
use crate::backend::packets::{Packets, one_ring_pair};
use crate::error::{Error, Invalid, Lack, Result};
use crate::name::{Capabilities, NicDriver, PortName, Scheme, Syntax};
use crate::options::{Options, Sizes};

mod binding;
mod command;
mod device;
mod door;
mod hugetlbfs;
mod mark;
#[allow(unsafe_code)]
mod memory;
mod physical;
#[allow(unsafe_code)]
mod registers;
mod sysfs;
#[cfg(test)]
mod tests;
mod translated;
#[allow(unsafe_code)]
mod vfio;

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

/// How a device reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// By physical addresses.
    Physical,
    /// By those that an IOMMU translates, in this group.
    Translated {
        /// Its number.
        group: u32,
    },
}

/// Which it is. An IOMMU that lets everything pass is as good as none, unless the operator has given the device to VFIO.
fn access(device: &PciDevice) -> io::Result<Access> {
    let Some(iommu) = device.iommu()? else { return Ok(Access::Physical) };
    let passes = iommu.kind == "identity";
    let is_vfios =
        || Ok::<_, io::Error>(device.driver()?.as_deref() == Some(Handler::Vfio.driver()));
    Ok(match passes && !is_vfios()? {
        true => Access::Physical,
        false => Access::Translated { group: iommu.group },
    })
}

/// Finds the device and looks whether it is one that can be driven. Nothing is changed.
fn find(name: &PortName, root: &Path) -> Result<(PciDevice, Discipline, Access)> {
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
    let access = access(&device).map_err(failed("find the IOMMU of"))?;
    let discipline = discipline(&port, name.conf.driver, subsystem)?;
    Ok((device, discipline, access))
}

/// What a device is wanted for.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    /// The port.
    port: &'a str,
    /// Its descriptors.
    tx: u32,
    rx: u32,
    /// Although its interface is up.
    force: bool,
}

/// A device in our hands, reset, with what there is to drive it by.
#[derive(Debug)]
struct Held {
    // In the order of dropping: what belongs to the device before what gives it back.
    registers: Registers,
    memory: Memory,
    door: Door,
    /// What the operator may want to know.
    about: String,
    hold: Box<dyn Hold>,
}

/// Takes the device, resets it, and starts it.
fn open(name: &PortName, options: &Options) -> Result<E1000<Registers, Memory>> {
    let port = name.to_string();
    let (device, discipline, access) = find(name, Path::new(SYSFS))?;
    let sizes = Sizes::from_options(&port, options)?;
    let descriptors = |slots: u32| slots.next_multiple_of(8).min(RING_MAX);
    let (tx, rx) = (descriptors(sizes.tx_slots), descriptors(sizes.rx_slots));
    let wanted = Wanted { port: &port, tx, rx, force: name.conf.force };
    let mut held = match access {
        Access::Physical => physical::take(&wanted, device)?,
        Access::Translated { group } => translated::take(&wanted, device, group)?,
    };
    let config = Config {
        discipline,
        subsystem_id: if discipline == Discipline::Csb { SUBSYSTEM_PARAVIRT } else { 0 },
        tx_descriptors: tx,
        rx_descriptors: rx,
        kick: Kick::Batch,
        interrupts: if held.door.tells() { Interrupts::Wake } else { Interrupts::Never },
        promiscuous: true,
        ..Config::default()
    };
    let nic = Nic::new(held.registers, &mut held.memory, &Clock, &config);
    let nic =
        nic.map_err(|error| Error::io("start", &port)(io::Error::other(error.to_string())))?;
    let about = format!("driver={}, {}", discipline.name(), held.about);
    Ok(E1000::new(port.clone(), nic, held.memory, held.door, about, held.hold))
}
