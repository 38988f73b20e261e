//! A PCI device as the kernel shows it in sysfs: what it is, who drives it, handing it over.
//!
//! Invariant: everything is reached through one descriptor, of /sys or of what a test has in its place, and what is read
//! is a word of some bytes.
//!
//! Follows the kernel's `Documentation/ABI/testing/sysfs-bus-pci`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::name::PciAddress;

/// Longest word that is read.
const WORD: u64 = 4096;
/// IFF_UP of an interface's flags.
const UP: u32 = 1;

/// An interface that a driver has made of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetInterface {
    /// Its name.
    pub name: String,
    /// Whether somebody has set it up.
    pub up: bool,
}

/// What stands between a device and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// The devices that it cannot tell apart have one number.
    pub group: u32,
    /// What it does: `DMA`, `identity`, ...
    pub kind: String,
}

/// A device that another one cannot do without in the eyes of an IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its address.
    pub device: String,
    /// Who has it.
    pub driver: String,
}

/// A device.
#[derive(Debug)]
pub struct PciDevice {
    root: OwnedFd,
    address: PciAddress,
    #[cfg(test)]
    pub kernel: Option<fn(&Path, &str, &str)>,
}

/// What a missing file means.
fn optional<T>(result: nix::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl PciDevice {
    /// The device below `root`, which is /sys; `None`: there is none of that address.
    ///
    /// # Errors
    /// There is no such directory, or it must not be read.
    pub fn open(root: &Path, address: PciAddress) -> io::Result<Option<Self>> {
        let root = nix::fcntl::open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let device = Self {
            root,
            address,
            #[cfg(test)]
            kernel: None,
        };
        let found = optional(device.open_at(&device.path(""), OFlag::O_DIRECTORY))?;
        Ok(found.map(|_| device))
    }

    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    fn path(&self, file: &str) -> String {
        format!("bus/pci/devices/{}/{file}", self.address)
    }

    fn open_at(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat(&self.root, path, flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let file = File::from(self.open_at(&self.path(file), OFlag::O_RDONLY)?);
        let mut word = String::new();
        file.take(WORD).read_to_string(&mut word)?;
        Ok(word.trim_end().to_owned())
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        File::from(self.open_at(path, OFlag::O_WRONLY)?).write_all(text.as_bytes())?;
        #[cfg(test)]
        if let Some(kernel) = self.kernel {
            let root = std::os::fd::AsRawFd::as_raw_fd(&self.root);
            kernel(Path::new(&format!("/proc/self/fd/{root}")), path, text);
        }
        Ok(())
    }

    /// A number in hexadecimal: `vendor`, `device`, `subsystem_device`.
    ///
    /// # Errors
    /// There is none.
    pub fn id(&self, file: &str) -> io::Result<u16> {
        let word = self.read(file)?;
        let digits = word.strip_prefix("0x").unwrap_or(&word);
        u16::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// The name of its driver, if it has one.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn driver(&self) -> io::Result<Option<String>> {
        self.target("driver")
    }

    /// The last word of where a link of the device leads, if there is such a link.
    fn target(&self, link: &str) -> io::Result<Option<String>> {
        let link = optional(readlinkat(&self.root, self.path(link).as_str()))?;
        let name = |link| Some(Path::new(&link).file_name()?.to_string_lossy().into_owned());
        Ok(link.and_then(name))
    }

    /// Whether the kernel has a driver of that name.
    pub fn has_driver(&self, name: &str) -> bool {
        let path = format!("bus/pci/drivers/{name}");
        self.open_at(&path, OFlag::O_DIRECTORY).is_ok()
    }

    /// The IOMMU that it is behind, if it is.
    ///
    /// # Errors
    /// As readlink(2) and read(2).
    pub fn iommu(&self) -> io::Result<Option<Iommu>> {
        let Some(group) = self.target("iommu_group")? else { return Ok(None) };
        let group = group.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Some(Iommu { group, kind: self.read("iommu_group/type")? }))
    }

    /// The other devices of its IOMMU group that drivers have.
    ///
    /// # Errors
    /// As getdents(2) and readlink(2).
    pub fn companions(&self) -> io::Result<Vec<Companion>> {
        let own = self.address.to_string();
        let others = self.names("iommu_group/devices")?.into_iter().filter(|name| *name != own);
        let driver = |device: String| {
            let driver = self.target(&format!("iommu_group/devices/{device}/driver"));
            driver.map(|driver| Some(Companion { driver: driver?, device })).transpose()
        };
        others.filter_map(driver).collect()
    }

    /// The interfaces that its driver has made of it.
    ///
    /// # Errors
    /// As getdents(2) and read(2).
    pub fn interfaces(&self) -> io::Result<Vec<NetInterface>> {
        let names = self.names("net")?;
        let look = |name: String| {
            let flags = self.read(&format!("net/{name}/flags"))?;
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
            Ok(NetInterface { name, up: flags & UP != 0 })
        };
        names.into_iter().map(look).collect()
    }

    /// The number of its uio device, if its driver is one of those.
    ///
    /// # Errors
    /// As getdents(2).
    pub fn uio(&self) -> io::Result<Option<u32>> {
        let number = |name: &String| name.strip_prefix("uio")?.parse().ok();
        Ok(self.names("uio")?.iter().find_map(number))
    }

    /// The entries of a directory of the device; none if there is no such directory.
    fn names(&self, directory: &str) -> io::Result<Vec<String>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let Some(fd) = optional(self.open_at(&self.path(directory), flags))? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd)?.iter() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A file of the device, for reading and writing: `config`, `resource0`.
    ///
    /// # Errors
    /// As openat(2).
    pub fn file(&self, name: &str) -> io::Result<File> {
        Ok(File::from(self.open_at(&self.path(name), OFlag::O_RDWR)?))
    }

    /// Has the kernel power a device without a driver and decode its memory, or no longer.
    ///
    /// # Errors
    /// As write(2).
    pub fn enable(&self, on: bool) -> io::Result<()> {
        self.write(&self.path("enable"), if on { "1" } else { "0" })
    }

    /// Takes the device away from its driver.
    ///
    /// # Errors
    /// As write(2).
    pub fn unbind(&self) -> io::Result<()> {
        self.write(&self.path("driver/unbind"), &self.address.to_string())
    }

    /// From now on only the driver of that name may have it; with none, any that knows it.
    ///
    /// # Errors
    /// As write(2).
    pub fn set_override(&self, driver: Option<&str>) -> io::Result<()> {
        self.write(&self.path("driver_override"), &format!("{}\n", driver.unwrap_or_default()))
    }

    /// Looks for a driver for it.
    ///
    /// # Errors
    /// As write(2). That no driver took it is none.
    pub fn probe(&self) -> io::Result<()> {
        self.write("bus/pci/drivers_probe", &self.address.to_string())
    }
}
