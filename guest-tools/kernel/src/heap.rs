//! Memory for rings and buffers: a bump allocator over what lies between the image and the end of
//! RAM. Bus address = address. Nothing is ever given back: a guest runs one workload.

use core::ptr::NonNull;

use e1000pv_driver::{Block, Dma};

unsafe extern "C" {
    /// First byte after the image, by link.ld.
    static heap: u8;
}

/// The free memory.
#[derive(Debug)]
pub struct Heap {
    next: usize,
    end: usize,
}

impl Heap {
    /// All memory from the image's end to `ram_end`.
    ///
    /// # Safety
    /// To be called once; up to `ram_end` there is RAM, which nobody else uses.
    pub unsafe fn new(ram_end: usize) -> Self {
        Self { next: &raw const heap as usize, end: ram_end }
    }
}

// SAFETY: each block is fresh: `next` only grows. It is RAM by the contract of `new`, mapped at its bus
// address up to 4 GiB, and zeroed here.
unsafe impl Dma for Heap {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(bytes)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        let ptr = NonNull::new(start as *mut u8)?;
        // SAFETY: RAM of this allocator, given to nobody yet.
        unsafe { ptr.write_bytes(0, bytes) };
        // SAFETY: fresh, zeroed, and mapped at its own address, as the trait promises.
        Some(unsafe { Block::new(ptr, start as u64, bytes) })
    }

    /// It is not used again: the machine ends with its workload.
    fn free(&mut self, _: Block) {}
}
