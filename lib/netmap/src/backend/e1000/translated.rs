//! A device behind an IOMMU: all of it by VFIO.
//!
//! Invariant: while a port waits for the kernel to take vfio-pci off the device, this process has neither a descriptor nor a
//! mapping of it, because the kernel waits for them. For the same reason a port whose device the kernel asks for fails.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use e1000pv_driver::quiesce;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::stat::Mode;

use super::binding::{Binding, Handler};
use super::command::{Command, MASTER, MEMORY};
use super::device::Hold;
use super::door::Door;
use super::mark::Mark;
use super::memory::ordinary;
use super::sysfs::PciDevice;
use super::vfio::{self, Container, Device, Space};
use super::{Held, Wanted};
use crate::error::{Error, InUse, Lack, Privilege, Result};

/// Where marks lie: on a file system that does not outlive the kernel whose devices they are about.
const MARKS: &str = "/run";
/// Drivers that do not use the device's memory accesses, so that the kernel lets them stay in a group that a program has
/// (those that manage DMA themselves, as it calls it).
const HARMLESS: [&str; 3] = ["vfio-pci", "pci-stub", "pcieport"];

/// What ends with the port.
#[derive(Debug)]
struct Taken {
    // In the order of dropping: the device before what it reaches, and both before the kernel takes vfio-pci off it.
    command: Command,
    /// Tells that the kernel waits for the device.
    request: Option<EventFd>,
    _device: Device,
    _space: Space,
    _binding: Binding,
    _mark: Option<Mark>,
}

impl Hold for Taken {
    fn is_asked_back(&self) -> bool {
        // Looked at, not read: it has been asked for until it is given.
        self.request.as_ref().is_some_and(|request| {
            let request = PollFd::new(request.as_fd(), PollFlags::POLLIN);
            poll(&mut [request], PollTimeout::ZERO) == Ok(1)
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let _ = self.command.change(0, MASTER); // the device may be gone
    }
}

/// The directory of marks.
fn marks() -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(MARKS, flags, Mode::empty());
    directory.map_err(io::Error::from).map_err(Error::io("open", MARKS))
}

/// The mark of a device that there is something to give back of: the kernel has it, or a killed program had taken it.
pub fn mark(
    port: &str,
    device: &PciDevice,
    directory: OwnedFd,
    privilege: Privilege,
) -> Result<Option<Mark>> {
    let failed = |what| Error::io(what, port);
    let driver = device.driver().map_err(failed("find the driver of"))?;
    // In this order: who has it now made his mark before he bound it.
    let is_left = Mark::is_there(&directory, device.address());
    let is_left = is_left.map_err(failed("look for the mark of"))?;
    if driver.as_deref() == Some(Handler::Vfio.driver()) && !is_left {
        return Ok(None);
    }
    Mark::open(port, directory, device.address(), privilege).map(Some)
}

/// Looks whether its group can be had: the kernel gives all of it or nothing.
pub fn look_around(port: &str, device: &PciDevice, group: u32) -> Result<()> {
    let others = device.companions().map_err(Error::io("look at the IOMMU group of", port))?;
    let in_use = |driver: &str| !HARMLESS.contains(&driver);
    match others.into_iter().find(|other| in_use(&other.driver)) {
        None => Ok(()),
        Some(other) => {
            let by = InUse::Group { group, device: other.device, driver: other.driver };
            Err(Error::Busy { name: port.to_owned(), by })
        }
    }
}

/// Opens the group and puts it into an address space of its own.
fn space(port: &str, container: Container, group: u32) -> Result<Space> {
    let path = vfio::group_path(group);
    let file: File = vfio::open_group(group).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => {
            let by = InUse::Nic;
            Error::Busy { name: port.to_owned(), by }
        }
        Some(libc::EACCES | libc::EPERM) => {
            let privilege = Privilege::Vfio { group };
            Error::NotPermitted { name: port.to_owned(), privilege }
        }
        _ => Error::io("open", &path)(error),
    })?;
    let space = container.with_group(file).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => {
            let lack = Lack::InterruptRemapping;
            Error::Unavailable { name: port.to_owned(), lack }
        }
        _ => Error::io("take", &path)(error),
    })?;
    // Its devices had no driver in the way when we looked around.
    space.ok_or_else(|| Error::io("take", &path)(io::Error::from(io::ErrorKind::ResourceBusy)))
}

/// Takes the device of that IOMMU group and resets it.
pub fn take(wanted: &Wanted<'_>, device: PciDevice, group: u32) -> Result<Held> {
    let Wanted { port, tx, rx, force } = *wanted;
    let failed = |what| Error::io(what, port);
    let lacks = |lack| Error::Unavailable { name: port.to_owned(), lack };
    look_around(port, &device, group)?;
    let container = Container::open().map_err(Error::io("open", Path::new("/dev/vfio/vfio")))?;
    let container = container.filter(|_| device.has_driver(Handler::Vfio.driver()));
    let container = container.ok_or_else(|| lacks(Lack::Vfio))?;
    if !container.has_type1() {
        return Err(lacks(Lack::VfioType1));
    }
    let map = ordinary(tx, rx).map_err(failed("take memory for"))?;
    let bytes = map.len() as u64;

    // The mark, before anything is taken.
    let mut mark = mark(port, &device, marks()?, Privilege::Vfio { group })?;
    let binding = Binding::take(port, device, Handler::Vfio, mark.as_ref(), force)?;
    let space = space(port, container, group)?;
    let memory = space.show(map).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            let privilege = Privilege::LockMemory { bytes };
            Error::NotPermitted { name: port.to_owned(), privilege }
        }
        _ => failed("show memory to")(error),
    })?;
    let device = space.device(binding.device().address()).map_err(failed("open"))?;
    let command = device.command().map_err(failed("find the configuration space of"))?;
    command.change(MEMORY, MASTER).map_err(failed("configure"))?;
    let registers = device.registers().map_err(failed("map the registers of"))?;
    quiesce(&registers);
    if let Some(mark) = &mut mark {
        mark.settle();
    }
    let door = match device.line().map_err(failed("take the interrupts of"))? {
        Some(line) => Door::vfio(line),
        None => Door::clock().map_err(failed("make a clock for"))?,
    };
    let request = device.request().map_err(failed("watch"))?;
    command.change(MASTER, 0).map_err(failed("configure"))?;
    let by = match door.tells() {
        true => "interrupts by vfio-pci",
        false => "polled (vfio-pci gives no interrupt of it)",
    };
    let about = format!("{by}, IOMMU group {group}; {}", binding.about());
    let hold =
        Taken { command, request, _device: device, _space: space, _binding: binding, _mark: mark };
    Ok(Held { registers, memory, door, about, hold: Box::new(hold) })
}
