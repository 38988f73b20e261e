//! Memory that something else may change: registers of devices.

/// Reads a device register.
///
/// # Safety
/// `address` is a register of a device, or memory that nothing in this image owns.
pub unsafe fn read32(address: usize) -> u32 {
    // SAFETY: identity-mapped up to 4 GiB; the caller says that it is a register.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a device register.
///
/// # Safety
/// As `read32`; and what the device then does to memory harms nobody.
pub unsafe fn write32(address: usize, value: u32) {
    // SAFETY: as `read32`.
    unsafe { (address as *mut u32).write_volatile(value) };
}
