//! A checked range of bytes that somebody else may be writing to: guest memory, or a port's buffer.
//!
//! Invariant: all of a span's bytes are mapped for its lifetime, whoever writes them; so everything
//! that copies packets takes spans and needs no unsafe code of its own. Access is by copies and loads
//! that the compiler does not see through: a byte that changes meanwhile yields the old or the new
//! value, and nothing worse.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use netmap::copy;

/// Shared bytes. Offsets beyond the end panic: they are this program's mistake, never the guest's.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    start: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a u8>,
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
    /// Asks the CPU: once a slice.
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
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, _memory: PhantomData }
    }

    /// Bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for those who hand it on.
    #[inline]
    #[must_use]
    pub fn as_ptr(self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The first `n` bytes.
    #[inline]
    #[must_use]
    pub fn first(self, n: usize) -> Self {
        assert!(n <= self.len, "beyond the span's end");
        Self { len: n, ..self }
    }

    /// What follows the first `n` bytes.
    #[inline]
    #[must_use]
    pub fn after(self, n: usize) -> Self {
        assert!(n <= self.len, "beyond the span's end");
        // SAFETY: the sum is within the span or one past its end.
        let start = unsafe { self.start.add(n) };
        Self { start, len: self.len - n, _memory: PhantomData }
    }

    /// Eight bytes at `at`, in the CPU's order.
    #[inline]
    #[must_use]
    pub fn load_u64(self, at: usize) -> u64 {
        assert!(self.len >= 8 && at <= self.len - 8, "beyond the span's end");
        let from = self.start.as_ptr().wrapping_add(at);
        let value: u64;
        // SAFETY: the eight bytes were checked to lie within the span; a load has no other effect.
        // Assembly, because the owner of the bytes may write them meanwhile.
        unsafe {
            std::arch::asm!(
                "mov {}, [{}]", out(reg) value, in(reg) from,
                options(nostack, readonly, preserves_flags)
            );
        }
        value
    }

    /// Copies the first bytes out, as many as both hold, and returns how many.
    #[inline]
    pub fn read(self, to: &mut [u8]) -> usize {
        let n = self.len.min(to.len());
        // SAFETY: both hold `n` bytes; private and shared memory do not overlap.
        unsafe { copy::bytes(to.as_mut_ptr(), self.start.as_ptr(), n) };
        n
    }

    /// Copies `from` to the span's beginning.
    #[inline]
    pub fn write(self, from: &[u8]) {
        assert!(from.len() <= self.len, "beyond the span's end");
        // SAFETY: as in `read`.
        unsafe { copy::bytes(self.start.as_ptr(), from.as_ptr(), from.len()) };
    }

    /// Copies another span to the span's beginning. Should the two overlap, what comes out is some
    /// mixture of their bytes.
    #[inline]
    pub fn write_span(self, from: Span<'_>) {
        assert!(from.len <= self.len, "beyond the span's end");
        // SAFETY: both hold that many bytes. Overlapping spans are two names for the same guest's
        // memory at worst: the copy goes upwards in assembly and touches nothing outside of them.
        unsafe { copy::bytes(self.start.as_ptr(), from.start.as_ptr(), from.len) };
    }

    /// Copies a packet to the span's beginning, which has room for the packet rounded up to whole lines
    /// of 64 bytes; what follows the packet in its last line may become zero.
    #[inline(always)]
    pub fn write_packet(self, from: Span<'_>, mover: Mover) {
        assert!(from.len.next_multiple_of(64) <= self.len, "beyond the span's end");
        // SAFETY: both hold as much as is accessed there; the kind is `detect`'s. Overlap: as in
        // `write_span`.
        unsafe { copy::packet(mover.0, self.start.as_ptr(), from.start.as_ptr(), from.len) };
    }

    /// Fetches the first line for reading, ahead of its use.
    #[inline(always)]
    pub fn prefetch(self) {
        copy::prefetch_read(self.start.as_ptr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_copies_agree_with_bytes() {
        let mut bytes: Vec<u8> = (0..32).collect();
        // SAFETY: the vector outlives the span and is not used while the span is.
        let span = unsafe { Span::new(NonNull::new(bytes.as_mut_ptr()).unwrap(), 32) };
        assert_eq!(span.load_u64(24), u64::from_le_bytes([24, 25, 26, 27, 28, 29, 30, 31]));
        let tail = span.after(30);
        assert_eq!((tail.len(), span.first(3).len(), span.after(32).is_empty()), (2, 3, true));
        let mut out = [0; 4];
        assert_eq!(tail.read(&mut out), 2);
        assert_eq!(out, [30, 31, 0, 0]);
        span.write(&[9, 8]);
        span.after(16).write_span(span.first(2));
        assert_eq!(span.after(15).read(&mut out), 4);
        assert_eq!(out, [15, 9, 8, 18]);
    }

    #[test]
    #[should_panic(expected = "beyond the span's end")]
    fn load_beyond_the_end_panics() {
        let mut bytes = [0u8; 12];
        // SAFETY: the array outlives the span.
        let span = unsafe { Span::new(NonNull::new(bytes.as_mut_ptr()).unwrap(), 12) };
        let _ = span.load_u64(5);
    }
}
