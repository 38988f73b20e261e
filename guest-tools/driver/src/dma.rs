//! Memory that driver and device share: descriptors, buffers, the CSB page.
//!
//! Invariant: after construction everything is safe Rust. Shared bytes are seen as atomic words only,
//! never as `&[u8]` or `&mut`, so a device that writes at any moment (hostile, or on another thread of
//! this process) changes values, not soundness. The one exclusive borrow is the table of [`Buffer`]s,
//! which lies in memory that the driver never tells the device about.
//!
//! Memory is asked for in blocks of at most half a MiB, so that a platform whose memory is contiguous in pieces only
//! (huge pages of 2 MiB) can serve the largest rings.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::config::RING_MAX;

/// Bytes that a buffer holds: RCTL.BSIZE of 2048.
pub const BUFFER_BYTES: usize = 2048;
/// Distance between buffers. One line more than 2048, or the first lines of all buffers fall in few
/// sets of the caches: measured 2.5 times slower for 64-byte packets (the overview, decision 4).
pub const BUFFER_STRIDE: usize = BUFFER_BYTES + 64;
/// Words of a buffer.
pub const BUFFER_WORDS: usize = BUFFER_BYTES / 8;
/// Alignment of what the device is told the address of: RDBAL and TDBAL ask for 16 (8254x manual
/// 13.4.25); a page also suffices for buffers and the CSB.
const ALIGN: usize = 4096;
/// Buffers of a block: what fits half a MiB.
const PIECE: usize = (512 << 10) / BUFFER_STRIDE;
/// Blocks of the largest device: two rings and their tables, a CSB, buffers.
const BLOCKS_MOST: usize = 5 + 2 * (RING_MAX as usize).div_ceil(PIECE);

/// A block of memory, with its address for this program and for the device.
#[derive(Debug)]
pub struct Block {
    ptr: NonNull<u8>,
    bus: u64,
    bytes: usize,
}

// SAFETY: a block is addresses, and whoever has it has the memory to themselves (`Dma`).
unsafe impl Send for Block {}

impl Block {
    /// `bytes` bytes at `ptr`, which the device finds at `bus`.
    ///
    /// # Safety
    /// They are as [`Dma`] promises.
    pub unsafe fn new(ptr: NonNull<u8>, bus: u64, bytes: usize) -> Block {
        Block { ptr, bus, bytes }
    }

    /// Where this program finds it.
    pub fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Where the device finds it.
    pub fn bus(&self) -> u64 {
        self.bus
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Gives out memory that the device reaches.
///
/// # Safety
/// Each [`Block`] is zeroed, mapped and writable, `bus` is the address of the same bytes for the device,
/// contiguously; nobody but the caller and the device uses it, until it is given back, or the [`crate::Nic`] that was
/// made with it is dropped. A block that is given back and came from elsewhere is left alone.
pub unsafe trait Dma {
    /// `bytes` bytes, half a MiB at most, with both addresses a multiple of `align` (a power of two, at most 4096).
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block>;

    /// Takes back a block that nobody uses any more.
    fn free(&mut self, block: Block);
}

/// The blocks of a device, to be given back.
#[derive(Debug)]
pub(crate) struct Taken {
    blocks: [Option<Block>; BLOCKS_MOST],
    count: usize,
}

impl Taken {
    pub(crate) fn new() -> Taken {
        Taken { blocks: [const { None }; BLOCKS_MOST], count: 0 }
    }

    fn push(&mut self, block: Block) {
        self.blocks[self.count] = Some(block);
        self.count += 1;
    }

    /// Gives all of them back, the last one first.
    pub(crate) fn give_back(&mut self, dma: &mut impl Dma) {
        let taken = &mut self.blocks[..self.count];
        taken.iter_mut().rev().filter_map(Option::take).for_each(|block| dma.free(block));
        self.count = 0;
    }
}

/// A descriptor, transmit or receive: 16 bytes (8254x manual 3.2.3, 3.3.3).
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Descriptor {
    /// Buffer address. Written by the driver.
    address: AtomicU64,
    /// Length, command, status. Written by both.
    fields: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

impl Descriptor {
    #[inline]
    pub(crate) fn set_address(&self, bus: u64) {
        self.address.store(bus.to_le(), Ordering::Relaxed);
    }

    /// Relaxed: publication (a release store into the CSB, or an MMIO write) orders it.
    #[inline]
    pub(crate) fn set_fields(&self, fields: u64) {
        self.fields.store(fields.to_le(), Ordering::Relaxed);
    }

    /// Acquire: pairs with the device's write of the status after everything else (RX: frame and
    /// length; TX: its last look at the buffer).
    #[inline]
    pub(crate) fn fields(&self) -> u64 {
        u64::from_le(self.fields.load(Ordering::Acquire))
    }
}

/// A packet buffer, owned by the slot that it is in. Two slots exchange theirs by `core::mem::swap`.
#[derive(Debug)]
pub struct Buffer {
    words: &'static [AtomicU64; BUFFER_WORDS],
    bus: u64,
}

impl Buffer {
    /// The frame, as words whose bytes are in the frame's order whatever the CPU's.
    #[inline]
    pub fn words(&self) -> &[AtomicU64; BUFFER_WORDS] {
        self.words
    }

    /// Eight bytes of the frame, the first in the least significant place. `at` counts words.
    #[inline]
    pub fn word(&self, at: usize) -> u64 {
        u64::from_le(self.words[at].load(Ordering::Relaxed))
    }

    /// Changes eight bytes of the frame.
    #[inline]
    pub fn set_word(&self, at: usize, value: u64) {
        self.words[at].store(value.to_le(), Ordering::Relaxed);
    }

    /// Copies bytes to the buffer's beginning. The last word is filled up with zeros.
    pub fn write(&self, bytes: &[u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut full = [0; 8];
            full[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(full), Ordering::Relaxed);
        }
    }

    /// Copies bytes from the buffer's beginning.
    pub fn read(&self, bytes: &mut [u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks_mut(8)) {
            let full = word.load(Ordering::Relaxed).to_ne_bytes();
            chunk.copy_from_slice(&full[..chunk.len()]);
        }
    }

    /// Address for the device.
    #[inline]
    pub(crate) fn bus(&self) -> u64 {
        self.bus
    }

    /// Fetches the first line.
    #[inline]
    pub(crate) fn prefetch(&self) {
        crate::arch::prefetch(self.words.as_ptr().cast());
    }
}

/// Takes memory for a device, and remembers it.
#[derive(Debug)]
pub(crate) struct Taking<'a, D> {
    pub(crate) dma: &'a mut D,
    pub(crate) taken: Taken,
}

impl<D: Dma> Taking<'_, D> {
    /// A block for `count` values of `T`, checked.
    fn take<T>(&mut self, count: usize) -> Option<(NonNull<T>, u64)> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let block = self.dma.allocate(bytes, ALIGN)?;
        let aligned = |address: u64| address.is_multiple_of(ALIGN as u64);
        let usable =
            block.bytes >= bytes && aligned(block.ptr.as_ptr() as u64) && aligned(block.bus);
        let found = usable.then_some((block.ptr.cast(), block.bus));
        self.taken.push(block);
        found
    }

    /// A ring of descriptors and its bus address.
    pub(crate) fn descriptors(&mut self, n: usize) -> Option<(&'static [Descriptor], u64)> {
        let (ptr, bus) = self.take::<Descriptor>(n)?;
        // SAFETY: the contract of `Dma`: n descriptors of zeroed memory, aligned, shared with the device
        // only, and descriptors consist of atomics. They are used by the Nic only, hence as long as it lives.
        let ring = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), n) };
        Some((ring, bus))
    }

    /// The page of the CSB and its bus address.
    pub(crate) fn csb_page(&mut self) -> Option<(&'static [AtomicU32; 1024], u64)> {
        let (ptr, bus) = self.take::<[AtomicU32; 1024]>(1)?;
        // SAFETY: as for `descriptors`: a page of atomics.
        let page = unsafe { ptr.as_ref() };
        Some((page, bus))
    }

    /// `n` slots with a buffer each.
    pub(crate) fn buffers(&mut self, n: usize) -> Option<&'static mut [Buffer]> {
        const _: () = assert!(BUFFER_STRIDE.is_multiple_of(64));
        let (table, _) = self.take::<Buffer>(n)?;
        for first in (0..n).step_by(PIECE) {
            let count = PIECE.min(n - first);
            let (frames, bus) = self.take::<[u8; BUFFER_STRIDE]>(count)?;
            for at in 0..count {
                // SAFETY: at < count, so the buffer lies in the block of so many strides.
                let frame = unsafe { frames.add(at) };
                // SAFETY: as for `descriptors`: 2048 bytes of atomics, of a stride that is a multiple of 8.
                let words = unsafe { frame.cast::<[AtomicU64; BUFFER_WORDS]>().as_ref() };
                let buffer = Buffer { words, bus: bus + (at * BUFFER_STRIDE) as u64 };
                // SAFETY: first + at < n, so the entry lies in the block of n entries.
                let entry = unsafe { table.add(first + at) };
                // SAFETY: the entry is aligned memory that is the driver's alone.
                unsafe { entry.write(buffer) };
            }
        }
        // SAFETY: n entries, all just written; nobody else has the block's address.
        Some(unsafe { core::slice::from_raw_parts_mut(table.as_ptr(), n) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use std::alloc::{Layout, alloc_zeroed};
    use std::vec::Vec;

    use super::*;

    /// Leaks: tests are short.
    pub(crate) struct Leaking;

    // SAFETY: fresh zeroed memory each time, never freed.
    unsafe impl Dma for Leaking {
        fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
            let layout = Layout::from_size_align(bytes, align).ok()?;
            // SAFETY: no caller asks for nothing.
            let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            Some(Block { ptr, bus: ptr.as_ptr() as u64, bytes })
        }

        fn free(&mut self, _: Block) {}
    }

    /// A ring of `n` descriptors.
    pub(crate) fn descriptors(n: usize) -> &'static [Descriptor] {
        let mut taking = Taking { dma: &mut Leaking, taken: Taken::new() };
        taking.descriptors(n).expect("memory").0
    }

    /// `n` buffers.
    pub(crate) fn buffers(n: usize) -> &'static mut [Buffer] {
        let mut taking = Taking { dma: &mut Leaking, taken: Taken::new() };
        taking.buffers(n).expect("memory")
    }

    struct Misaligned;

    // SAFETY: as above, but for the alignment, which is why it must be refused.
    unsafe impl Dma for Misaligned {
        fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
            let block = Leaking.allocate(bytes, align)?;
            Some(Block { bus: block.bus + 8, ..block })
        }

        fn free(&mut self, _: Block) {}
    }

    #[test]
    fn buffers_are_apart_and_hold_bytes_in_frame_order() {
        let buffers = buffers(3);
        let [first, second, _] = buffers else { panic!("three buffers") };
        assert_eq!(second.bus - first.bus, BUFFER_STRIDE as u64);
        first.write(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(first.word(0), 0x0807_0605_0403_0201);
        first.set_word(1, 0x0a09);
        let mut bytes = [0; 11];
        first.read(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]);
        core::mem::swap(first, second);
        assert_eq!((first.word(0), second.word(1)), (0, 0x0a09));
    }

    #[test]
    fn block_that_the_device_cannot_use_is_refused() {
        let mut taking = Taking { dma: &mut Misaligned, taken: Taken::new() };
        assert!(taking.descriptors(8).is_none());
        assert!(taking.csb_page().is_none());
        assert_eq!(taking.taken.count, 2, "it goes back with the rest");
    }

    /// Gives out so many blocks, and knows which are out.
    struct Counting {
        left: usize,
        out: Vec<u64>,
    }

    // SAFETY: as `Leaking`.
    unsafe impl Dma for Counting {
        fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
            assert!(bytes <= 512 << 10, "{bytes} bytes in a block");
            self.left = self.left.checked_sub(1)?;
            let block = Leaking.allocate(bytes, align)?;
            self.out.push(block.bus);
            Some(block)
        }

        fn free(&mut self, block: Block) {
            self.out.retain(|&bus| bus != block.bus);
        }
    }

    #[test]
    fn largest_rings_come_in_small_blocks_and_all_go_back() {
        let mut dma = Counting { left: usize::MAX, out: Vec::new() };
        let mut taking = Taking { dma: &mut dma, taken: Taken::new() };
        for _ in 0..2 {
            assert!(taking.descriptors(RING_MAX as usize).is_some());
            let buffers = taking.buffers(RING_MAX as usize).expect("memory");
            let mut at: Vec<u64> = buffers.iter().map(Buffer::bus).collect();
            at.sort_unstable();
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= BUFFER_STRIDE as u64));
        }
        assert!(taking.csb_page().is_some());
        let mut taken = taking.taken;
        assert_eq!(taken.count, BLOCKS_MOST);
        taken.give_back(&mut dma);
        assert!(dma.out.is_empty());
    }

    #[test]
    fn what_was_taken_before_memory_ran_out_goes_back() {
        let mut dma = Counting { left: 2, out: Vec::new() };
        let mut taking = Taking { dma: &mut dma, taken: Taken::new() };
        assert!(taking.buffers(2 * PIECE).is_none());
        let mut taken = taking.taken;
        taken.give_back(&mut dma);
        assert!(dma.out.is_empty());
    }
}
