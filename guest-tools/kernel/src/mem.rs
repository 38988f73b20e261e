//! The memory functions that compiled code calls. Nothing on a packet's path is copied by them.

use crate::arch;

/// Copies forward; the regions do not overlap.
///
/// # Safety
/// As C's memcpy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe { arch::copy_forward(to, from, n) };
    to
}

/// Copies; the regions may overlap.
///
/// # Safety
/// As C's memmove.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: copying forward never overwrites what is still to be read.
        return unsafe { memcpy(to, from, n) };
    }
    let (last_to, last_from) =
        (to.wrapping_add(n).wrapping_sub(1), from.wrapping_add(n).wrapping_sub(1));
    // SAFETY: the caller vouches for both ranges.
    unsafe { arch::copy_backward(last_to, last_from, n) };
    to
}

/// Fills.
///
/// # Safety
/// As C's memset.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range.
    unsafe { arch::fill(to, value as u8, n) };
    to
}

/// Compares.
///
/// # Safety
/// As C's memcmp.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: the caller vouches for both ranges.
        let x = unsafe { a.wrapping_add(i).read_volatile() };
        // SAFETY: as above.
        let y = unsafe { b.wrapping_add(i).read_volatile() };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// Compares for equality.
///
/// # Safety
/// As `memcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller vouches for both ranges.
    unsafe { memcmp(a, b, n) }
}

/// Named by the precompiled core, never called: a panic ends the machine.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// Length of a string that ends in a zero byte.
///
/// # Safety
/// As C's strlen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strlen(s: *const u8) -> usize {
    let mut n = 0;
    // SAFETY: the caller vouches for every byte up to the zero.
    while unsafe { s.wrapping_add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}
