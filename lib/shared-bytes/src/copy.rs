//! Copying packets between shared buffers, with the widest moves the CPU has.
//!
//! Invariant: the copies are written in assembly (`arch`), which the compiler treats as opaque. So a peer
//! that changes the source meanwhile yields a packet of mixed bytes (its own fault), never undefined
//! behaviour. Where whole 64-byte lines are copied, as VALE does, buffers are a multiple of 64 long and
//! 64-byte aligned, so the surplus stays within the buffer.

pub use crate::arch::{
    Avx, Avx512, Kind, Sse2, detect, load_two_u64, prefetch_read, prefetch_write,
};
use crate::arch::{short, string};

/// A way to move lines, chosen once per batch.
pub trait Isa {
    /// Copies `lines` * 64 bytes.
    ///
    /// # Safety
    /// The CPU has the instructions; both ranges are mapped and `dst` writable; `lines > 0`.
    unsafe fn lines(dst: *mut u8, src: *const u8, lines: usize);
    /// Copies exactly `len` bytes from `src`. What follows them in the last line of `dst` (counted from
    /// `dst`) may be overwritten with zeros, never with what follows at `src`.
    ///
    /// # Safety
    /// The CPU has the instructions; `len` bytes at `src` are mapped, `dst` is mapped and writable up to
    /// the next multiple of 64.
    #[inline(always)]
    unsafe fn packet(dst: *mut u8, src: *const u8, len: usize)
    where
        Self: Sized,
    {
        // SAFETY: the caller's conditions.
        unsafe { exact::<Self>(dst, src, len) };
    }
    /// Call once after a batch: leaves no dirty upper halves behind.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn end() {}
}

/// Copies exactly `len` bytes: for sources that are not whole lines (indirect buffers).
///
/// # Safety
/// Both ranges are mapped, `dst` writable, and they do not overlap. (If they do, the bytes copied are
/// some mixture.)
#[inline]
pub unsafe fn bytes(dst: *mut u8, src: *const u8, len: usize) {
    if (16..=SHORT).contains(&len) {
        // SAFETY: the caller's conditions.
        unsafe { short(dst, src, len) };
    } else {
        // SAFETY: the caller's conditions.
        unsafe { string(dst, src, len) };
    }
}

/// [`Isa::packet`] for those who look at the kind per packet: a branch that is always the same.
///
/// # Safety
/// As `Isa::packet`; `kind` is what [`detect`] said.
#[inline(always)]
pub unsafe fn packet(kind: Kind, dst: *mut u8, src: *const u8, len: usize) {
    if kind == Kind::Avx512 {
        // SAFETY: the caller's conditions.
        unsafe { Avx512::packet(dst, src, len) };
    } else {
        // SAFETY: the caller's conditions, of which this needs less.
        unsafe { bytes(dst, src, len) };
    }
}

/// Copies exactly `len` bytes with `I`'s moves: long packets from sources that are not whole lines.
///
/// # Safety
/// As `bytes`; the CPU has the instructions.
#[inline(always)]
pub unsafe fn exact<I: Isa>(dst: *mut u8, src: *const u8, len: usize) {
    if len < 64 {
        // SAFETY: the caller's conditions.
        return unsafe { bytes(dst, src, len) };
    }
    // SAFETY: so many whole lines are not more than `len` bytes.
    unsafe { I::lines(dst, src, len / 64) };
    if !len.is_multiple_of(64) {
        let last = len - 64;
        // SAFETY: the last 64 of at least 64 bytes; some of them are copied again.
        unsafe { I::lines(dst.wrapping_add(last), src.wrapping_add(last), 1) };
    }
}

/// Up to here a loop of 16-byte moves is faster than a string instruction, which takes some ten
/// nanoseconds to begin (measured with the data path of a virtual NIC: 60-byte packets).
const SHORT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn check<I: Isa>() {
        for n in [1usize, 2, 3, 24, 33] {
            let src: Vec<u8> = (0..n * 64).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut dst = vec![0u8; n * 64 + 64];
            // SAFETY: the vectors hold n lines; the caller checked the CPU.
            unsafe { I::lines(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n * 64], &src[..]);
            assert!(dst[n * 64..].iter().all(|&b| b == 0));
        }
        for n in [0usize, 15, 16, 60, 63, 64, 65, 127, 128, 1514] {
            let src: Vec<u8> = (0..n).map(|i| (i * 7) as u8 | 1).collect();
            let mut dst = vec![0u8; n + 64];
            // SAFETY: the vectors hold n bytes; the caller checked the CPU.
            unsafe { exact::<I>(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n], &src[..]);
            assert!(dst[n..].iter().all(|&b| b == 0));
            dst.fill(0);
            // SAFETY: the source holds n bytes, the destination 64 more; the caller checked the CPU.
            unsafe { I::packet(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n], &src[..]);
            assert!(dst[n..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn lines_every_isa_copies_exactly() {
        check::<Sse2>();
        if std::arch::is_x86_feature_detected!("avx") {
            check::<Avx>();
        }
        let has_avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("bmi2");
        if has_avx512 {
            check::<Avx512>();
        }
    }

    #[test]
    fn bytes_any_length_copies_exactly() {
        for n in (0..=300usize).chain([1514]) {
            let src: Vec<u8> = (0..n).map(|i| i as u8 ^ 0x5a).collect();
            let mut dst = vec![0u8; n + 1];
            // SAFETY: both vectors hold n bytes.
            unsafe { bytes(dst.as_mut_ptr(), src.as_ptr(), n) };
            assert_eq!(&dst[..n], &src[..]);
            assert_eq!(dst[n], 0);
        }
    }
}
