//! A device taken from the kernel's driver, and given back.
//!
//! Invariant: before anything is taken, a mark stands. Whoever finds a mark that nobody
//! holds finds a device that a killed program had taken, and gives it back in that one's place when it is done.

use std::io;

use super::mark::Mark;
use super::sysfs::PciDevice;
use crate::error::{Error, InUse, Result};

/// The kernel's driver of these devices.
const KERNEL: &str = "e1000";

/// Who hands a device to programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// uio_pci_generic: its interrupts alone, and the device does without it.
    Uio,
    /// vfio-pci: all of it.
    Vfio,
}

impl Handler {
    /// The driver.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Uio => "uio_pci_generic",
            Self::Vfio => "vfio-pci",
        }
    }
}

/// A device in our hands.
#[derive(Debug)]
pub struct Binding {
    device: PciDevice,
    handler: Handler,
    gives_back: bool,
    /// It was bound to the handler by us.
    entered: bool,
    uio: Option<u32>,
    /// It has no driver, and was enabled in the place of one.
    enabled: bool,
    /// What it was before.
    was: Option<String>,
}

impl Binding {
    /// Takes a device for the port `name`, under its mark; without one only if it is the handler's already. `force`: although
    /// its interface is up.
    pub fn take(
        name: &str,
        device: PciDevice,
        handler: Handler,
        mark: Option<&Mark>,
        force: bool,
    ) -> Result<Self> {
        let failed = |what| Error::io(what, name);
        let busy = |by| Err(Error::Busy { name: name.to_owned(), by });
        let driver = device.driver().map_err(failed("find the driver of"))?;
        let mut binding = Self {
            device,
            handler,
            gives_back: mark.is_some_and(Mark::is_left),
            entered: false,
            uio: None,
            enabled: false,
            was: None,
        };
        match driver.as_deref() {
            Some(driver) if driver == handler.driver() => {}
            // Whoever had it when we looked has just given it back.
            None | Some(KERNEL) if mark.is_none() => return busy(InUse::Nic),
            None => {}
            Some(KERNEL) => binding.leave_kernel(name, force)?,
            Some(other) => return busy(InUse::Driver { driver: other.to_owned() }),
        }
        match handler {
            Handler::Uio => binding.enter_uio().map_err(failed("bind uio_pci_generic to"))?,
            Handler::Vfio => binding.enter_vfio().map_err(failed("bind vfio-pci to"))?,
        }
        Ok(binding)
    }

    fn leave_kernel(&mut self, name: &str, force: bool) -> Result<()> {
        let interfaces = self.device.interfaces();
        let interfaces = interfaces.map_err(Error::io("find the interface of", name))?;
        if let Some(up) = interfaces.iter().find(|it| it.up).filter(|_| !force) {
            let by = InUse::Interface { interface: up.name.clone() };
            return Err(Error::Busy { name: name.to_owned(), by });
        }
        self.was = interfaces.into_iter().next().map(|it| it.name);
        self.device.unbind().map_err(Error::io("take from the kernel", name))?;
        self.gives_back = true;
        Ok(())
    }

    /// Whether the handler has it.
    fn is_handled(&self) -> io::Result<bool> {
        Ok(self.device.driver()?.as_deref() == Some(self.handler.driver()))
    }

    /// Has the device handed to the handler, if that takes it.
    fn enter(&mut self) -> io::Result<bool> {
        if self.is_handled()? {
            return Ok(true);
        }
        if !self.device.has_driver(self.handler.driver()) {
            return Ok(false);
        }
        self.device.set_override(Some(self.handler.driver()))?;
        self.entered = true;
        // A driver that does not want it says so by this call or by staying away, as kernels differ.
        let _ = self.device.probe();
        if self.is_handled()? {
            return Ok(true);
        }
        self.entered = false;
        self.device.set_override(None)?;
        Ok(false)
    }

    /// The driver that tells of interrupts, where there is one and it takes the device.
    fn enter_uio(&mut self) -> io::Result<()> {
        if self.enter()? {
            self.uio = self.device.uio()?;
        }
        if self.uio.is_none() {
            self.device.enable(true)?;
            self.enabled = true;
        }
        Ok(())
    }

    fn enter_vfio(&mut self) -> io::Result<()> {
        if self.enter()? {
            return Ok(());
        }
        Err(io::Error::other("it does not take the device; the kernel's log may say why"))
    }

    /// The device.
    pub fn device(&self) -> &PciDevice {
        &self.device
    }

    /// The uio device that tells of its interrupts, if there is one.
    pub fn uio(&self) -> Option<u32> {
        self.uio
    }

    /// What the operator may want to know.
    pub fn about(&self) -> String {
        match (&self.was, self.gives_back) {
            (Some(interface), _) => {
                format!(
                    "taken from the kernel, which had it as {interface} and gets it back without addresses"
                )
            }
            (None, true) => "goes to the kernel at the end".to_owned(),
            (None, false) => "the kernel did not have it".to_owned(),
        }
    }

    /// Takes it from the handler.
    fn leave(&self) -> io::Result<()> {
        if self.device.driver()?.is_some() {
            match self.device.unbind() {
                // Somebody else is doing so: the operator, or who unplugs the device.
                Err(error) if is_gone(&error) => {}
                done => done?,
            }
        }
        self.device.set_override(None)
    }

    fn give_back(&self) -> io::Result<()> {
        self.leave()?;
        self.device.probe()
    }
}

/// Whether the device has no such driver any more: its `unbind` is not there, or knows nothing of the device.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT))
}

impl Drop for Binding {
    fn drop(&mut self) {
        // There is nobody to tell; the device is there for the next who asks the kernel to look for a driver.
        if self.enabled {
            let _ = self.device.enable(false);
        }
        if self.gives_back {
            let _ = self.give_back();
        } else if self.entered {
            let _ = self.leave();
        }
    }
}
