//! x86-64: register accesses and prefetches.
//!
//! The accesses are written in assembly, not as volatile: whatever emulates them decodes the instruction,
//! and a plain `mov` between a register and memory is what every decoder knows.

use core::arch::asm;
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Reads a device register. Not `readonly`: reading ICR has side effects.
///
/// # Safety
/// `from` is a mapped register.
#[inline]
pub(crate) unsafe fn read32(from: *const u32) -> u32 {
    let value: u32;
    // SAFETY: the caller's condition.
    unsafe {
        asm!("mov {:e}, [{}]", out(reg) value, in(reg) from, options(nostack, preserves_flags));
    }
    value
}

/// Writes a device register. The default memory clobber keeps earlier stores to descriptors in front of
/// it, and x86 does not reorder stores.
///
/// # Safety
/// `to` is a mapped register.
#[inline]
pub(crate) unsafe fn write32(to: *mut u32, value: u32) {
    // SAFETY: the caller's condition.
    unsafe {
        asm!("mov [{}], {:e}", in(reg) to, in(reg) value, options(nostack, preserves_flags));
    }
}

/// Fetches the line at `at` for reading. Any address will do.
#[inline]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch has no effect that a program can see, at any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}
