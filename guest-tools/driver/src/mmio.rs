//! Registers behind a mapped BAR0, and a wrapper that counts accesses: on a virtual device each is an
//! exit, so their number is the price of a discipline.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::arch;
use crate::platform::Mmio;

/// A mapped BAR0.
#[derive(Debug)]
pub struct Bar {
    base: NonNull<u32>,
    bytes: u32,
}

impl Bar {
    /// Registers at `base`.
    ///
    /// # Safety
    /// `bytes` bytes from `base`, which is a multiple of 4, are mapped as a device's registers for as
    /// long as this value lives, and nobody makes a reference to them.
    pub unsafe fn new(base: NonNull<u32>, bytes: u32) -> Bar {
        Bar { base, bytes }
    }

    fn register(&self, offset: u32) -> *mut u32 {
        assert!(
            offset.is_multiple_of(4) && offset < self.bytes.saturating_sub(3),
            "register out of BAR0"
        );
        self.base.as_ptr().wrapping_byte_add(offset as usize)
    }
}

impl Mmio for Bar {
    #[inline]
    fn read32(&self, offset: u32) -> u32 {
        // SAFETY: `register` checked that the address is a register of the BAR, which is mapped by the
        // contract of `new`.
        unsafe { arch::read32(self.register(offset)) }
    }

    #[inline]
    fn write32(&self, offset: u32, value: u32) {
        // SAFETY: as for `read32`.
        unsafe { arch::write32(self.register(offset), value) };
    }
}

/// Counts accesses.
#[derive(Debug)]
pub(crate) struct Counted<M> {
    inner: M,
    reads: Cell<u64>,
    writes: Cell<u64>,
}

impl<M: Mmio> Counted<M> {
    pub(crate) fn new(inner: M) -> Counted<M> {
        Counted { inner, reads: Cell::new(0), writes: Cell::new(0) }
    }

    pub(crate) fn read(&self, offset: u32) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.inner.read32(offset)
    }

    pub(crate) fn write(&self, offset: u32, value: u32) {
        self.writes.set(self.writes.get() + 1);
        self.inner.write32(offset, value);
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_words_of_the_bar() {
        let mut words = [0u32, 1, 2, 3];
        let base = NonNull::new(words.as_mut_ptr()).expect("an array has an address");
        // SAFETY: the array outlives the BAR and is used through it only.
        let bar = unsafe { Bar::new(base, 16) };
        let counted = Counted::new(bar);
        assert_eq!(counted.read(12), 3);
        counted.write(8, 7);
        assert_eq!(counted.read(8), 7);
        assert_eq!((counted.reads(), counted.writes()), (2, 1));
    }

    #[test]
    #[should_panic(expected = "register out of BAR0")]
    fn access_beyond_the_bar_panics() {
        // SAFETY: nothing is accessed: the check comes first.
        let bar = unsafe { Bar::new(NonNull::dangling(), 16) };
        bar.read32(16);
    }
}
