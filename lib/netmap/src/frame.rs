//! The bytes of one buffer, seen without making a reference to them.
//!
//! Invariant: a `Frame` lies within one buffer of a mapped region for its whole life, and every
//! access is range-checked and goes through assembly that the compiler treats as opaque. So peers
//! may change the bytes at any time: a reader then sees old or new ones, and copies what it wants
//! to rely on.

use std::arch::asm;
use std::fmt;
use std::marker::PhantomData;

use crate::copy;

/// Bytes in shared memory. Offsets beyond `len` panic: that is the caller's mistake, never a
/// peer's.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    ptr: *mut u8,
    len: usize,
    _memory: PhantomData<&'a crate::shm::mem::Region>,
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("len", &self.len).finish_non_exhaustive()
    }
}

macro_rules! load {
    ($self:ident, $at:ident, $t:ty, $($ins:tt)*) => {{
        let p = $self.check($at, size_of::<$t>());
        let v: $t;
        // SAFETY: `check` proved that the bytes lie within the buffer; a load has no other effect.
        unsafe { asm!($($ins)*, out(reg) v, in(reg) p, options(nostack, readonly, preserves_flags)) };
        v
    }};
}

impl<'a> Frame<'a> {
    /// # Safety
    /// `len` bytes from `ptr` are mapped and writable for `'a`.
    pub(crate) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        Self { ptr, len, _memory: PhantomData }
    }

    /// Bytes in the frame.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn check(&self, at: usize, n: usize) -> *mut u8 {
        assert!(n <= self.len && at <= self.len - n, "beyond the frame's end");
        self.ptr.wrapping_add(at)
    }

    /// One byte.
    #[inline]
    #[must_use]
    pub fn u8_at(&self, at: usize) -> u8 {
        let p = self.check(at, 1);
        // SAFETY: within the buffer; a volatile byte is a single access.
        unsafe { p.read_volatile() }
    }

    /// Two bytes in network order.
    #[inline]
    #[must_use]
    pub fn be16_at(&self, at: usize) -> u16 {
        let v = load!(self, at, u16, "mov {0:x}, [{1}]");
        u16::from_be(v)
    }

    /// Four bytes in network order.
    #[inline]
    #[must_use]
    pub fn be32_at(&self, at: usize) -> u32 {
        let v = load!(self, at, u32, "mov {0:e}, [{1}]");
        u32::from_be(v)
    }

    /// Eight bytes in the CPU's order.
    #[inline]
    #[must_use]
    pub fn u64_at(&self, at: usize) -> u64 {
        load!(self, at, u64, "mov {0}, [{1}]")
    }

    /// Writes eight bytes in the CPU's order.
    #[inline]
    pub fn put_u64(&self, at: usize, v: u64) {
        let p = self.check(at, 8);
        // SAFETY: within the buffer, which is writable shared memory.
        unsafe { asm!("mov [{}], {}", in(reg) p, in(reg) v, options(nostack, preserves_flags)) };
    }

    /// Writes `bytes` at `at`.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let p = self.check(at, bytes.len());
        // SAFETY: within the buffer; private memory and a shared mapping do not overlap.
        unsafe { copy::bytes(p, bytes.as_ptr(), bytes.len()) };
    }

    /// Copies to the start of `to` as much as fits, and returns how much that was.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let n = self.len.min(to.len());
        // SAFETY: n bytes are within both; private memory and a shared mapping do not overlap.
        unsafe { copy::bytes(to.as_mut_ptr(), self.ptr, n) };
        n
    }

    /// Copies everything to a vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        self.copy_to(&mut v);
        v
    }

    /// Reads one word of every 64-byte line and combines them: what a receiver that looks at each
    /// packet must at least do. For benchmarks.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let mut at = 0;
        let mut sum = 0u64;
        while at + 8 <= self.len {
            sum = sum.wrapping_add(self.u64_at(at));
            at += 64;
        }
        sum
    }

    /// Address of the first byte, for system calls that take one.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessors_agree_with_bytes() {
        let mut bytes: Vec<u8> = (1..=64).collect();
        // SAFETY: the vector outlives the frame.
        let f = unsafe { Frame::new(bytes.as_mut_ptr(), 64) };
        assert_eq!((f.u8_at(63), f.be16_at(0), f.be32_at(1)), (64, 0x0102, 0x0203_0405));
        assert_eq!(f.u64_at(8), u64::from_ne_bytes([9, 10, 11, 12, 13, 14, 15, 16]));
        f.put_u64(56, 0);
        f.write(0, &[9, 9]);
        assert_eq!(&f.to_vec()[..3], &[9, 9, 3]);
        assert_eq!(f.to_vec()[56..], [0; 8]);
    }

    #[test]
    #[should_panic(expected = "beyond the frame's end")]
    fn read_beyond_the_end_panics() {
        let mut bytes = [0u8; 16];
        // SAFETY: the array outlives the frame.
        let f = unsafe { Frame::new(bytes.as_mut_ptr(), 16) };
        let _ = f.u64_at(9);
    }
}
