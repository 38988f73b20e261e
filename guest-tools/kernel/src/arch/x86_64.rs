//! x86-64: the entry from the loader to Rust and the interrupt stubs (`boot.s`), ports, time stamp
//! counter, string instructions, sleep.
//!
//! The task state segment opens all ports to CPL 3, where everything in this image runs but the stubs of
//! `boot.s`.

use core::arch::{asm, global_asm};

global_asm!(include_str!("boot.s"), options(att_syntax, raw));

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

/// Copies forward.
///
/// # Safety
/// `n` bytes from `from` may be read and as many from `to` written; a copy that goes forward is right.
pub unsafe fn copy_forward(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller's conditions.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    };
}

/// Copies backward, from these last bytes on.
///
/// # Safety
/// As `copy_forward`, of the `n` bytes up to these.
pub unsafe fn copy_backward(last_to: *mut u8, last_from: *const u8, n: usize) {
    // SAFETY: the caller's conditions; the direction flag is clear again afterwards.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") last_to => _,
            inout("rsi") last_from => _, options(nostack));
    };
}

/// Fills.
///
/// # Safety
/// `n` bytes from `to` may be written.
pub unsafe fn fill(to: *mut u8, value: u8, n: usize) {
    // SAFETY: the caller's condition.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") value,
            options(nostack, preserves_flags));
    };
}

/// Sleeps until an interrupt, unless there was one since the caller saw `seen`.
pub fn sleep(seen: u32) {
    // SAFETY: the stub compares, halts and returns behind the instruction; it changes no register
    // and no memory but the counters, which are atomics.
    unsafe { asm!("ud2", in("r10") 0x51ee9, in("esi") seen) };
}
