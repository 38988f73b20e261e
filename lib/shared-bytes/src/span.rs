//! A checked range of bytes that somebody else may be writing to: guest memory, or a port's buffer.
//!
//! Invariant: all of a span's bytes are mapped for its lifetime, whoever writes them; so everything
//! that looks into packets or copies them takes spans and needs no unsafe code of its own. Access is by
//! copies and loads that the compiler does not see through: a byte that changes meanwhile yields the
//! old or the new value, and nothing worse.

use std::fmt;
use std::marker::PhantomData;

use crate::{arch, copy};

/// Shared bytes. Offsets beyond the end panic: they are this program's mistake, never a peer's or a
/// guest's.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    start: *mut u8,
    len: usize,
    _memory: PhantomData<&'a ()>,
}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The way in which this CPU copies packets best.
#[derive(Clone, Copy, Debug)]
pub struct Mover(copy::Kind);

impl Mover {
    /// Asks the CPU: once a batch.
    #[must_use]
    pub fn detect() -> Self {
        Self(copy::detect())
    }
}

impl<'a> Span<'a> {
    /// # Safety
    /// `len` bytes from `start` are readable, and writable if the span is written to, for `'a`;
    /// nobody has a reference to them that is not to atomics.
    #[inline]
    pub unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self { start, len, _memory: PhantomData }
    }

    /// Bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for those who hand it on.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    #[inline]
    fn check(&self, at: usize, n: usize) -> *mut u8 {
        assert!(n <= self.len && at <= self.len - n, "beyond the span's end");
        self.start.wrapping_add(at)
    }

    /// The first `n` bytes.
    ///
    /// # Panics
    /// The span is shorter.
    #[inline]
    #[must_use]
    pub fn first(self, n: usize) -> Self {
        assert!(n <= self.len, "beyond the span's end");
        Self { len: n, ..self }
    }

    /// What follows the first `n` bytes.
    ///
    /// # Panics
    /// The span is shorter.
    #[inline]
    #[must_use]
    pub fn after(self, n: usize) -> Self {
        let start = self.check(n, 0);
        Self { start, len: self.len - n, _memory: PhantomData }
    }

    /// One byte.
    ///
    /// # Panics
    /// It lies beyond the end.
    #[inline]
    #[must_use]
    pub fn u8_at(&self, at: usize) -> u8 {
        let from = self.check(at, 1);
        // SAFETY: within the span; a volatile byte is a single access.
        unsafe { from.read_volatile() }
    }

    /// Two bytes in network order.
    ///
    /// # Panics
    /// They do not lie within the span.
    #[inline]
    #[must_use]
    pub fn be16_at(&self, at: usize) -> u16 {
        let from = self.check(at, 2);
        // SAFETY: within the span.
        u16::from_be(unsafe { arch::load_u16(from) })
    }

    /// Four bytes in network order.
    ///
    /// # Panics
    /// They do not lie within the span.
    #[inline]
    #[must_use]
    pub fn be32_at(&self, at: usize) -> u32 {
        let from = self.check(at, 4);
        // SAFETY: within the span.
        u32::from_be(unsafe { arch::load_u32(from) })
    }

    /// Eight bytes in the CPU's order.
    ///
    /// # Panics
    /// They do not lie within the span.
    #[inline]
    #[must_use]
    pub fn u64_at(&self, at: usize) -> u64 {
        let from = self.check(at, 8);
        // SAFETY: within the span.
        unsafe { arch::load_u64(from) }
    }

    /// Writes eight bytes in the CPU's order.
    ///
    /// # Panics
    /// They do not lie within the span.
    #[inline]
    pub fn put_u64(&self, at: usize, value: u64) {
        let to = self.check(at, 8);
        // SAFETY: within the span, which is writable (`new`).
        unsafe { arch::store_u64(to, value) };
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Panics
    /// They do not fit behind `at`.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.check(at, bytes.len());
        // SAFETY: within the span; private and shared memory do not overlap.
        unsafe { copy::bytes(to, bytes.as_ptr(), bytes.len()) };
    }

    /// Copies the first bytes out, as many as both hold, and returns how many.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let n = self.len.min(to.len());
        // SAFETY: both hold `n` bytes; private and shared memory do not overlap.
        unsafe { copy::bytes(to.as_mut_ptr(), self.start, n) };
        n
    }

    /// Copies everything to a vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        self.copy_to(&mut v);
        v
    }

    /// Copies another span to the span's beginning. Should the two overlap, what comes out is some
    /// mixture of their bytes.
    ///
    /// # Panics
    /// The other span is longer.
    #[inline]
    pub fn write_span(self, from: Span<'_>) {
        assert!(from.len <= self.len, "beyond the span's end");
        // SAFETY: both hold that many bytes. Overlapping spans are two names for the same guest's
        // memory at worst: the copy goes upwards in assembly and touches nothing outside of them.
        unsafe { copy::bytes(self.start, from.start, from.len) };
    }

    /// Copies a packet to the span's beginning, which has room for the packet rounded up to whole lines
    /// of 64 bytes; what follows the packet in its last line may become zero.
    ///
    /// # Panics
    /// The span is shorter than the packet rounded up to whole lines.
    #[inline(always)]
    pub fn write_packet(self, from: Span<'_>, mover: Mover) {
        assert!(from.len.next_multiple_of(64) <= self.len, "beyond the span's end");
        // SAFETY: both hold as much as is accessed there; the kind is `detect`'s. Overlap: as in
        // `write_span`.
        unsafe { copy::packet(mover.0, self.start, from.start, from.len) };
    }

    /// Fetches the first line for reading, ahead of its use.
    #[inline(always)]
    pub fn prefetch(self) {
        copy::prefetch_read(self.start);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessors_agree_with_bytes() {
        let mut bytes: Vec<u8> = (1..=64).collect();
        // SAFETY: the vector outlives the span.
        let f = unsafe { Span::new(bytes.as_mut_ptr(), 64) };
        assert_eq!((f.u8_at(63), f.be16_at(0), f.be32_at(1)), (64, 0x0102, 0x0203_0405));
        assert_eq!(f.u64_at(8), u64::from_ne_bytes([9, 10, 11, 12, 13, 14, 15, 16]));
        f.put_u64(56, 0);
        f.write(0, &[9, 9]);
        assert_eq!(&f.to_vec()[..3], &[9, 9, 3]);
        assert_eq!(f.to_vec()[56..], [0; 8]);
    }

    #[test]
    fn parts_and_copies_agree_with_bytes() {
        let mut bytes: Vec<u8> = (0..32).collect();
        // SAFETY: the vector outlives the span and is not used while the span is.
        let span = unsafe { Span::new(bytes.as_mut_ptr(), 32) };
        assert_eq!(span.u64_at(24), u64::from_ne_bytes([24, 25, 26, 27, 28, 29, 30, 31]));
        let tail = span.after(30);
        assert_eq!((tail.len(), span.first(3).len(), span.after(32).is_empty()), (2, 3, true));
        let mut out = [0; 4];
        assert_eq!(tail.copy_to(&mut out), 2);
        assert_eq!(out, [30, 31, 0, 0]);
        span.write(0, &[9, 8]);
        span.after(16).write_span(span.first(2));
        assert_eq!(span.after(15).copy_to(&mut out), 4);
        assert_eq!(out, [15, 9, 8, 18]);
    }

    #[test]
    #[should_panic(expected = "beyond the span's end")]
    fn load_beyond_the_end_panics() {
        let mut bytes = [0u8; 12];
        // SAFETY: the array outlives the span.
        let span = unsafe { Span::new(bytes.as_mut_ptr(), 12) };
        let _ = span.u64_at(5);
    }
}
