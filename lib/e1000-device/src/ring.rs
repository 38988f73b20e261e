//! A descriptor ring in guest memory: 16-byte descriptors as pairs of 64-bit words.
//!
//! Follows sections 3.2.6 and 3.4 of the 8254x manual (receive and transmit descriptor rings): base
//! aligned to 16 bytes, length a multiple of 128 bytes, so a number of descriptors that is a multiple
//! of 8.
//!
//! Invariant: a `Ring` lies within guest memory as a whole, and indices are below `n`; whatever the
//! guest writes into its registers either yields such a ring or none at all.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::GuestMemory;

/// Bytes of a descriptor of any kind.
pub const DESCRIPTOR_BYTES: u64 = 16;
/// The bits of TDLEN and RDLEN that count: 19 to 7.
const LENGTH_MASK: u32 = 0x000f_ff80;

/// Where a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    base: u64,
    n: u32,
}

impl Ring {
    /// The ring that the registers describe, if it has descriptors and all of them are memory.
    #[must_use]
    pub fn new<M: GuestMemory>(ram: &M, high: u32, low: u32, length: u32) -> Option<Self> {
        let base = u64::from(high) << 32 | u64::from(low & !0xf);
        let bytes = u64::from(length & LENGTH_MASK);
        let ring = Self { base, n: (bytes / DESCRIPTOR_BYTES) as u32 };
        (ring.n > 0 && ram.words(base, 2 * ring.n as usize).is_some()).then_some(ring)
    }

    /// Descriptors.
    #[inline]
    #[must_use]
    pub fn n(self) -> u32 {
        self.n
    }

    /// The descriptors themselves.
    #[inline]
    #[must_use]
    pub fn view<M: GuestMemory>(self, ram: &M) -> View<'_> {
        let words = ram.words(self.base, 2 * self.n as usize).expect("checked when it was made");
        View { words }
    }

    /// Distance from `from` to `to`, both below `n`, going forward.
    #[inline]
    #[must_use]
    pub fn distance(self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.n - from }
    }

    /// The index `k` (at most `n`) after `from` (below `n`).
    #[inline]
    #[must_use]
    pub fn step(self, from: u32, k: u32) -> u32 {
        let i = from + k;
        if i >= self.n { i - self.n } else { i }
    }
}

/// The descriptors of a ring.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    words: &'a [AtomicU64],
}

impl View<'_> {
    /// Copies a descriptor out: the buffer's address, and everything else.
    #[inline]
    #[must_use]
    pub fn load(self, index: u32) -> [u64; 2] {
        let at = 2 * index as usize;
        // Relaxed: that the descriptor was written before the tail that covers it is the tail's
        // business (an Acquire load, or the exit that brought it).
        [&self.words[at], &self.words[at + 1]].map(|w| u64::from_le(w.load(Ordering::Relaxed)))
    }

    /// Copies a descriptor's first word out: the buffer's address.
    #[inline]
    #[must_use]
    pub fn address(self, index: u32) -> u64 {
        u64::from_le(self.words[2 * index as usize].load(Ordering::Relaxed))
    }

    /// Writes a descriptor's second word: length, status and all. Release: who sees the status (DD)
    /// sees the data that were written before, and what was read before is no longer needed.
    #[inline]
    pub fn complete(self, index: u32, word: u64) {
        self.words[2 * index as usize + 1].store(word.to_le(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::GuestRam;

    #[test]
    fn new_silly_lengths_and_places_yield_nothing() {
        let ram = GuestRam::anonymous(1 << 16).unwrap();
        let at = |low, length| Ring::new(&ram, 0, low, length);
        assert_eq!(at(0, 128).map(Ring::n), Some(8));
        assert_eq!(at(0xffff, 0), None);
        assert_eq!(at(0, 127), None); // bits 6 to 0 do not count
        assert_eq!(at(0x1007, 255).map(Ring::n), Some(8)); // nor does the base's low nibble
        assert_eq!(at(0xff80, 128).map(Ring::n), Some(8));
        assert_eq!(at(0xff90, 128), None);
        assert_eq!(at(0, 1 << 16).map(Ring::n), Some(4096));
        assert_eq!(at(0, 0xffff_ffff), None);
        assert_eq!(Ring::new(&ram, 1, 0, 128), None);
        assert_eq!(Ring::new(&ram, u32::MAX, u32::MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn step_and_distance_agree(eighths in 1u32..64, from: u32, k: u32) {
            let n = 8 * eighths;
            let ring = Ring { base: 0, n };
            let (from, k) = (from % n, k % n);
            prop_assert_eq!(ring.distance(from, ring.step(from, k)), k);
            prop_assert_eq!(ring.step(from, n), from);
        }
    }
}
