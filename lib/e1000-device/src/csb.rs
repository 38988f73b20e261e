//! The CSB in guest memory: `e1000pv::csb::Csb` over the page whose address the guest wrote to CSBAH
//! and CSBAL.
//!
//! Invariant: a `CsbPage` lies within guest memory as a whole and its words are aligned; an address
//! that is not so maps nothing, and the device stays a plain e1000.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use e1000pv::csb::{Csb, Field, PAGE_BYTES};

use crate::memory::GuestMemory;

/// A mapped CSB. Clones are handles on the same page.
#[derive(Clone, Debug)]
pub struct CsbPage<M> {
    ram: M,
    gpa: u64,
}

impl<M: GuestMemory> CsbPage<M> {
    /// The page at `gpa`, if all of it is memory and its words are aligned. (Alignment to a page is
    /// not asked for: FreeBSD's driver promises 128 bytes only.)
    #[must_use]
    pub fn new(ram: &M, gpa: u64) -> Option<Self> {
        ram.span(gpa, PAGE_BYTES as usize)?;
        ram.word32(gpa)?;
        Some(Self { ram: ram.clone(), gpa })
    }

    /// Where it is.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    #[inline]
    fn word(&self, field: Field) -> &AtomicU32 {
        self.ram.word32(self.gpa + u64::from(field.offset())).expect("checked when it was mapped")
    }
}

impl<M: GuestMemory> Csb for CsbPage<M> {
    #[inline]
    fn load(&self, field: Field) -> u32 {
        // Pairs with the guest's stores, each of which publishes what it wrote before.
        u32::from_le(self.word(field).load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, field: Field, value: u32) {
        // Pairs with the guest's loads: head indices publish DD bits and data.
        self.word(field).store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestRam;

    #[test]
    fn new_only_aligned_pages_within_memory() {
        let ram = GuestRam::anonymous(1 << 16).unwrap();
        for (gpa, ok) in [
            (0x1000, true),
            (0x1004, true),
            (0x1002, false),
            (0xf000, true),
            (0xf004, false),
            (0x10000, false),
            (u64::MAX - 3, false),
        ] {
            assert_eq!(CsbPage::new(&ram, gpa).is_some(), ok, "{gpa:#x}");
        }
    }

    #[test]
    fn words_lie_at_their_offsets() {
        let ram = GuestRam::anonymous(1 << 16).unwrap();
        let csb = CsbPage::new(&ram, 0x2000).unwrap();
        csb.store(Field::HostRdh, 77);
        assert_eq!(ram.load_u32(0x2050), Some(77));
        assert!(ram.store_u32(0x2010, 5));
        assert_eq!(csb.load(Field::GuestRdt), 5);
    }
}
