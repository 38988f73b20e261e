//! The registers of a device, as vCPUs access them.

use std::fmt;

use e1000_device::{E1000, GuestMemory, NetPort};

/// A device's registers. The device defines the effect of accesses of every width at every offset within the BAR.
/// Several vCPUs may access them at the same time.
pub trait Registers: Send + Sync + fmt::Debug {
    /// Reads through BAR0.
    fn mmio_read(&self, offset: u64, data: &mut [u8]);
    /// Writes through BAR0.
    fn mmio_write(&self, offset: u64, data: &[u8]);
    /// Reads through BAR1.
    fn io_read(&self, offset: u64, data: &mut [u8]);
    /// Writes through BAR1.
    fn io_write(&self, offset: u64, data: &[u8]);
}

impl<M: GuestMemory, P: NetPort> Registers for E1000<M, P> {
    fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        E1000::mmio_read(self, offset, data);
    }

    fn mmio_write(&self, offset: u64, data: &[u8]) {
        E1000::mmio_write(self, offset, data);
    }

    fn io_read(&self, offset: u64, data: &mut [u8]) {
        E1000::io_read(self, offset, data);
    }

    fn io_write(&self, offset: u64, data: &[u8]) {
        E1000::io_write(self, offset, data);
    }
}
