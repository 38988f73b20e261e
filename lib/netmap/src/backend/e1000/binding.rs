//! A device taken from the kernel's driver, and given back.
//!
//! Invariant: before anything is taken, a mark stands (the file that its memory is in). Whoever finds a mark that nobody
//! holds finds a device that a killed program had taken, and gives it back in that one's place when it is done.

use std::io;

use super::sysfs::PciDevice;
use crate::error::{Error, InUse, Result};

/// The kernel's driver of these devices.
const KERNEL: &str = "e1000";
/// The driver that hands interrupts to programs.
const UIO: &str = "uio_pci_generic";

/// A device in our hands.
#[derive(Debug)]
pub struct Binding {
    device: PciDevice,
    gives_back: bool,
    uio: Option<u32>,
    /// It has no driver, and was enabled in the place of one.
    enabled: bool,
    /// What it was before.
    was: Option<String>,
}

impl Binding {
    /// Takes a device for the port `name`. `is_left`: it bears the mark of a killed program. `force`: although its interface
    /// is up.
    pub fn take(name: &str, device: PciDevice, is_left: bool, force: bool) -> Result<Self> {
        let failed = |what| Error::io(what, name);
        let driver = device.driver().map_err(failed("find the driver of"))?;
        let mut binding =
            Self { device, gives_back: is_left, uio: None, enabled: false, was: None };
        match driver.as_deref() {
            None | Some(UIO) => {}
            Some(KERNEL) => binding.leave_kernel(name, force)?,
            Some(other) => {
                let by = InUse::Driver { driver: other.to_owned() };
                return Err(Error::Busy { name: name.to_owned(), by });
            }
        }
        binding.enter_uio().map_err(failed("bind uio_pci_generic to"))?;
        if binding.uio.is_none() {
            binding.device.enable(true).map_err(failed("enable"))?;
            binding.enabled = true;
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

    /// Has the device handed to the driver that tells of interrupts, where there is one and it takes it.
    fn enter_uio(&mut self) -> io::Result<()> {
        let is_there =
            |device: &PciDevice| Ok::<_, io::Error>(device.driver()?.as_deref() == Some(UIO));
        if !is_there(&self.device)? {
            if !self.device.has_driver(UIO) {
                return Ok(());
            }
            self.device.set_override(Some(UIO))?;
            // A driver that does not want it says so by this call or by staying away, as kernels differ.
            let _ = self.device.probe();
            if !is_there(&self.device)? {
                return self.device.set_override(None);
            }
        }
        self.uio = self.device.uio()?;
        Ok(())
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

    fn give_back(&self) -> io::Result<()> {
        if self.device.driver()?.is_some() {
            self.device.unbind()?;
        }
        self.device.set_override(None)?;
        self.device.probe()
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // There is nobody to tell; the device is there for the next who asks the kernel to look for a driver.
        if self.enabled {
            let _ = self.device.enable(false);
        }
        if self.gives_back {
            let _ = self.give_back();
        }
    }
}
