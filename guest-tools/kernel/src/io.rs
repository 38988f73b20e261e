//! Ports, time stamp counter, and memory that something else may change.
//!
//! The task state segment opens all ports to CPL 3, where everything in this image runs but the
//! stubs of `boot.s`.

use core::arch::asm;

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the machine is this program's alone; no port reaches memory that Rust knows of.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a double word to a port. Not `nomem`: what the port is told may be an address.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as `outb`; the idle call writes to an `IdleCall` only, through its atomics.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
    };
}

/// Reads a double word from a port.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as `outb`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags));
    };
    value
}

/// Time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 has it, and it has no effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

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
