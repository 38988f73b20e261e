//! The registers of a device, mapped.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use e1000pv::pci::BAR0_BYTES;
use e1000pv_driver::{Bar, Mmio};

use crate::shm::map::Map;

/// Mapped registers.
#[derive(Debug)]
pub struct Registers {
    bar: Bar,
    _map: Map,
}

// SAFETY: an address of registers, mapped as long as the value lives, whatever thread has it; a `Nic` has it alone.
unsafe impl Send for Registers {}

impl Registers {
    /// Those that are shown at `offset` of what a descriptor names, in `bytes` bytes.
    ///
    /// # Errors
    /// As mmap(2); a driver of the kernel has them; they are too few.
    pub fn map(fd: impl AsFd, offset: u64, bytes: u64) -> io::Result<Self> {
        if bytes < u64::from(BAR0_BYTES) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let map = Map::of(fd.as_fd(), offset, BAR0_BYTES as usize)?;
        let base = NonNull::new(map.base().cast()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: so many bytes are mapped, page-aligned, as long as `_map` lives, and nobody makes a reference to them.
        let bar = unsafe { Bar::new(base, BAR0_BYTES) };
        Ok(Self { bar, _map: map })
    }
}

impl Mmio for Registers {
    fn read32(&self, offset: u32) -> u32 {
        self.bar.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.bar.write32(offset, value);
    }
}
