//! Guest memory as the device sees it.
//!
//! Invariant: an address that comes from the guest becomes bytes by these functions and by nothing
//! else, after a check of the whole range. The guest may write any byte at any time, so words are
//! atomics and everything else is a [`Span`]; what is used twice is copied out once.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shared_bytes::Span;

/// Memory of a guest by its physical addresses. Clones are handles on the same memory.
///
/// The engines are generic over this trait, so per packet there is no dynamic call.
pub trait GuestMemory: Clone + Send + Sync + fmt::Debug + 'static {
    /// `len` bytes at `gpa`, if all of them are memory and lie together.
    fn span(&self, gpa: u64, len: usize) -> Option<Span<'_>>;
    /// `count` 64-bit words at `gpa`, if they are memory and aligned.
    fn words(&self, gpa: u64, count: usize) -> Option<&[AtomicU64]>;
    /// The 32-bit word at `gpa`, if it is memory and aligned.
    fn word32(&self, gpa: u64) -> Option<&AtomicU32>;
    /// Fetches the line at `gpa` for writing, ahead of a store to it. Any number will do.
    #[inline(always)]
    fn prefetch_write(&self, gpa: u64) {
        let _ = gpa;
    }

    /// Loads a 32-bit word, if there is one; relaxed.
    #[inline]
    fn load_u32(&self, gpa: u64) -> Option<u32> {
        Some(u32::from_le(self.word32(gpa)?.load(Ordering::Relaxed)))
    }

    /// Stores a 32-bit word; relaxed. False: there is none.
    #[inline]
    fn store_u32(&self, gpa: u64, value: u32) -> bool {
        self.word32(gpa).map(|word| word.store(value.to_le(), Ordering::Relaxed)).is_some()
    }

    /// Copies guest memory out. False: not all of it is memory, nothing copied.
    #[inline]
    fn read(&self, gpa: u64, to: &mut [u8]) -> bool {
        self.span(gpa, to.len()).map(|from| from.copy_to(to)).is_some()
    }

    /// Copies to guest memory. False: not all of it is memory, nothing copied.
    #[inline]
    fn write(&self, gpa: u64, from: &[u8]) -> bool {
        self.span(gpa, from.len()).map(|to| to.write(0, from)).is_some()
    }
}
