//! Guest memory that is one mapping here, and in the guest one range of physical addresses from 0, or two with a hole for
//! devices between them: what a small monitor has, and tests.
//!
//! ```text
//!   guest   0 ........ hole.start | no memory | hole.end ........
//!   here    base ................ | ..........................
//! ```
//!
//! Invariant: every address that comes from the guest becomes a pointer here and nowhere else, after
//! a check of the whole range against the memory's ranges; none goes across the hole. No reference to plain bytes
//! exists.
//!
//! The ranges are multiples of a page. Hence a range that begins within the memory and does not leave
//! it never wraps, and word-aligned guest addresses are word-aligned here.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use shared_bytes::{Span, copy};

use crate::memory::GuestMemory;

/// Alignment and granularity of guest memory.
pub const PAGE_BYTES: u64 = 4096;

/// Guest memory. Clones are handles on the same memory and keep it mapped.
#[derive(Clone)]
pub struct GuestRam {
    base: NonNull<u8>,
    len: u64,
    /// Bytes below the hole, or all.
    low: u64,
    /// Where those above it begin. Nothing is there if all are below.
    high_at: u64,
    _keep: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRam").field("len", &self.len).finish_non_exhaustive()
    }
}

// SAFETY: all access goes through atomics and opaque copies, which any thread may make at any time.
unsafe impl Send for GuestRam {}
// SAFETY: as above.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// Memory of `len` bytes at `base`, which `keep` keeps mapped.
    ///
    /// # Safety
    /// `base` is page-aligned; `len` bytes from there are readable and writable as long as `keep`
    /// or a clone of it lives; nobody makes references to them other than to atomics.
    ///
    /// # Panics
    /// If `len` is not a multiple of a page.
    pub unsafe fn new(base: NonNull<u8>, len: u64, keep: Arc<dyn Any + Send + Sync>) -> Self {
        assert!(len.is_multiple_of(PAGE_BYTES), "guest memory comes in pages");
        assert!(base.as_ptr().addr().is_multiple_of(PAGE_BYTES as usize), "and begins with one");
        Self { base, len, low: len, high_at: u64::MAX, _keep: keep }
    }

    /// The same with a hole in the guest's addresses: what would be there and behind it begins at its end.
    ///
    /// # Safety
    /// As for `new`.
    ///
    /// # Panics
    /// If `len` or the hole's ends are not multiples of a page.
    pub unsafe fn with_hole(
        base: NonNull<u8>,
        len: u64,
        hole: Range<u64>,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let whole = |at: &u64| at.is_multiple_of(PAGE_BYTES);
        assert!(whole(&hole.start) && whole(&hole.end), "a hole comes in pages");
        // SAFETY: as for this function.
        let all = unsafe { Self::new(base, len, keep) };
        let high = len > hole.start;
        Self { low: len.min(hole.start), high_at: if high { hole.end } else { u64::MAX }, ..all }
    }

    /// Fresh zeroed memory of this process alone: for tests and for guests that are threads.
    ///
    /// # Errors
    /// There is not that much memory.
    #[expect(clippy::missing_panics_doc, reason = "a mapping is not at address zero")]
    pub fn anonymous(len: u64) -> std::io::Result<Self> {
        let size = usize::try_from(len.next_multiple_of(PAGE_BYTES))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        let map = memmap2::MmapMut::map_anon(size)?;
        // Buffers lie far apart: with small pages nearly each is a TLB miss. A kernel without huge pages
        // does without.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.advise(memmap2::Advice::DontDump)?;
        let map = memmap2::MmapRaw::from(map);
        let base = NonNull::new(map.as_mut_ptr()).expect("a mapping is not at address zero");
        // SAFETY: `map` is a readable and writable mapping of `size` bytes, page-aligned, that lives
        // in the Arc; a raw map makes no references.
        Ok(unsafe { Self::new(base, size as u64, Arc::new(map)) })
    }

    /// Bytes of memory.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Address of the first byte, for those who map or register the memory.
    #[inline]
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of `len` bytes at guest-physical `gpa`, if all of them are memory.
    #[inline]
    #[must_use]
    pub fn ptr(&self, gpa: u64, len: usize) -> Option<NonNull<u8>> {
        let within = gpa <= self.low && len as u64 <= self.low - gpa;
        let offset = if within { gpa } else { self.above(gpa, len as u64)? };
        // SAFETY: the sum lies within the mapping, or is one past its end for nothing at all.
        Some(unsafe { self.base.add(offset as usize) })
    }

    /// The offset here of `len` bytes above the hole, if they are memory.
    fn above(&self, gpa: u64, len: u64) -> Option<u64> {
        let (bytes, at) = (self.len - self.low, gpa.checked_sub(self.high_at)?);
        (at < bytes && len <= bytes - at).then_some(self.low + at)
    }

    #[inline]
    fn aligned<T>(&self, gpa: u64, count: usize) -> Option<NonNull<T>> {
        let at = self.ptr(gpa, count.checked_mul(size_of::<T>())?)?.cast::<T>();
        gpa.is_multiple_of(align_of::<T>() as u64).then_some(at)
    }
}

impl GuestMemory for GuestRam {
    #[inline]
    fn span(&self, gpa: u64, len: usize) -> Option<Span<'_>> {
        // SAFETY: `ptr` checked the range; the mapping lives as long as `self`, and nobody has
        // references to it other than to atomics (`new`).
        self.ptr(gpa, len).map(|start| unsafe { Span::new(start.as_ptr(), len) })
    }

    #[inline]
    fn words(&self, gpa: u64, count: usize) -> Option<&[AtomicU64]> {
        let start = self.aligned::<AtomicU64>(gpa, count)?;
        // SAFETY: aligned and within the mapping, which lives as long as `self`; atomics may be
        // written by anybody meanwhile; the length is below that of the mapping.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), count) })
    }

    #[inline]
    fn word32(&self, gpa: u64) -> Option<&AtomicU32> {
        let at = self.aligned::<AtomicU32>(gpa, 1)?;
        // SAFETY: as in `words`.
        Some(unsafe { at.as_ref() })
    }

    #[inline(always)]
    fn prefetch_write(&self, gpa: u64) {
        let offset =
            if gpa < self.high_at { gpa } else { self.low.wrapping_add(gpa - self.high_at) };
        copy::prefetch_write(self.base.as_ptr().wrapping_add(offset as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 2 * PAGE_BYTES;

    #[test]
    fn ptr_only_ranges_within_memory() {
        let ram = GuestRam::anonymous(LEN).unwrap();
        for (gpa, len, ok) in [
            (0, LEN as usize, true),
            (LEN - 1, 1, true),
            (LEN, 0, true),
            (LEN, 1, false),
            (LEN - 1, 2, false),
            (1, LEN as usize, false),
            (u64::MAX, 1, false),
            (u64::MAX, 0, false),
            (u64::MAX - 3, 8, false),
            (0, usize::MAX, false),
        ] {
            assert_eq!(ram.ptr(gpa, len).is_some(), ok, "{gpa:#x} + {len:#x}");
        }
    }

    /// Two pages, of which the second is above a hole of three.
    fn holed() -> GuestRam {
        let all = GuestRam::anonymous(LEN).unwrap();
        let hole = PAGE_BYTES..4 * PAGE_BYTES;
        // SAFETY: the mapping of `all`, which is kept.
        unsafe { GuestRam::with_hole(all.base(), LEN, hole, Arc::new(all.clone())) }
    }

    #[test]
    fn ptr_beside_a_hole_and_never_across_it() {
        const PAGE: u64 = PAGE_BYTES;
        let ram = holed();
        for (gpa, len, offset) in [
            (0, PAGE, Some(0)),
            (0, PAGE + 1, None),
            (PAGE - 1, 1, Some(PAGE - 1)),
            (PAGE - 1, 2, None),
            (PAGE, 0, Some(PAGE)),
            (PAGE, 1, None),
            (2 * PAGE, 8, None),
            (4 * PAGE - 1, 2, None),
            (4 * PAGE, PAGE, Some(PAGE)),
            (4 * PAGE + 7, 9, Some(PAGE + 7)),
            (5 * PAGE - 1, 1, Some(2 * PAGE - 1)),
            (5 * PAGE - 1, 2, None),
            (5 * PAGE, 1, None),
            (u64::MAX, 1, None),
            (u64::MAX, 0, None),
            (u64::MAX - 1, u64::MAX, None),
        ] {
            let at =
                ram.ptr(gpa, len as usize).map(|at| at.as_ptr().addr() - ram.base.as_ptr().addr());
            assert_eq!(at, offset.map(|at| at as usize), "{gpa:#x} + {len:#x}");
        }
        assert!(ram.words(4 * PAGE, 512).is_some() && ram.words(4 * PAGE, 513).is_none());
        assert!(ram.word32(4 * PAGE + 2).is_none());
        for gpa in [0, PAGE, 4 * PAGE, u64::MAX] {
            ram.prefetch_write(gpa);
        }
    }

    #[test]
    fn a_hole_beyond_the_memory_is_none() {
        let all = GuestRam::anonymous(LEN).unwrap();
        // SAFETY: as in `holed`.
        let ram =
            unsafe { GuestRam::with_hole(all.base(), LEN, LEN..2 * LEN, Arc::new(all.clone())) };
        assert!(ram.ptr(0, LEN as usize).is_some());
        assert!(ram.ptr(2 * LEN, 1).is_none() && ram.ptr(u64::MAX, 0).is_none());
    }

    #[test]
    fn words_aligned_and_within() {
        let ram = GuestRam::anonymous(LEN).unwrap();
        assert_eq!(ram.words(0, 1024).map(<[_]>::len), Some(1024));
        assert!(ram.words(8, 1024).is_none());
        assert!(ram.words(4, 1).is_none());
        assert!(ram.words(0, usize::MAX / 4).is_none());
        assert!(ram.word32(2).is_none() && ram.word32(LEN - 4).is_some());
    }

    #[test]
    fn read_sees_what_write_and_stores_left() {
        let ram = GuestRam::anonymous(LEN).unwrap();
        assert!(ram.write(10, &[1, 2, 3, 4, 5, 6]));
        assert!(ram.store_u32(12, 0x0a0b_0c0d));
        let mut out = [0; 8];
        assert!(ram.read(9, &mut out));
        assert_eq!(out, [0, 1, 2, 0x0d, 0x0c, 0x0b, 0x0a, 0]);
        assert_eq!(ram.load_u32(12), Some(0x0a0b_0c0d));
        assert!(!ram.write(LEN - 2, &[0; 3]) && !ram.read(LEN - 2, &mut [0; 3]));
    }
}
