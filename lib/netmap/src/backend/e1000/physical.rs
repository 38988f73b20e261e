//! A device that reaches physical memory: its registers by sysfs, huge pages, interrupts by uio_pci_generic.
//!
//! Invariant: the device reaches memory only between its reset by us and the end of the port; whoever takes the device after
//! a kill sees to it before he touches the memory that the device had.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use e1000pv_driver::quiesce;

use super::binding::{Binding, Handler};
use super::command::{Command, MASTER, MEMORY};
use super::device::Hold;
use super::door::Door;
use super::hugetlbfs;
use super::mark::Mark;
use super::memory::{Memory, pages_for};
use super::registers::Registers;
use super::sysfs::PciDevice;
use super::{Held, Wanted};
use crate::error::{Error, Lack, Privilege, Result};

/// What of a device's bus mastering ends with the port: nobody else switches it off where no driver is bound.
#[derive(Debug)]
struct Taken {
    command: Command,
    // Behind it in the order of dropping.
    _binding: Binding,
    _mark: Mark,
}

impl Hold for Taken {}

impl Drop for Taken {
    fn drop(&mut self) {
        let _ = self.command.change(0, MASTER); // the device may be gone
    }
}

/// Takes the device and resets it.
pub fn take(wanted: &Wanted<'_>, device: PciDevice) -> Result<Held> {
    let Wanted { port, tx, rx, force } = *wanted;
    let failed = |what| Error::io(what, port);
    // The mark, before anything is taken; and without memory nothing is.
    let directory = hugetlbfs::directory()?.ok_or_else(|| {
        let lack = Lack::HugePages { pages: pages_for(tx, rx) };
        Error::Unavailable { name: port.to_owned(), lack }
    })?;
    let privilege = Privilege::PhysicalAddresses;
    let mut mark = Mark::open(port, directory, device.address(), privilege)?;
    let memory = Memory::huge(port, mark.file(), tx, rx)?;
    let command = device.file("config").map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let privilege = Privilege::PhysicalAddresses;
            Error::NotPermitted { name: port.to_owned(), privilege }
        }
        _ => failed("open the configuration space of")(error),
    })?;
    let command = Command::new(command, 0);
    let binding = Binding::take(port, device, Handler::Uio, Some(&mark), force)?;
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
    let map = |bytes| Registers::map(&resource, 0, bytes);
    let registers = resource.metadata().and_then(|it| map(it.len()));
    let registers = registers.map_err(failed("map the registers of"))?;
    quiesce(&registers);
    mark.settle();
    command.change(MASTER, 0).map_err(failed("configure"))?;
    let by = match door.tells() {
        true => "interrupts by uio_pci_generic",
        false => "polled (uio_pci_generic is not loaded, or does not take it)",
    };
    let about = format!("{by}; {}", binding.about());
    let hold = Box::new(Taken { command, _binding: binding, _mark: mark });
    Ok(Held { registers, memory, door, about, hold })
}
