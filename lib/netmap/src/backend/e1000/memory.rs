//! Memory that a device reaches: huge pages of a file, whose physical addresses do not change, or ordinary pages that an
//! IOMMU shows to the device.
//!
//! Invariant: pages outlive the device's use of them. Huge ones stay with their file, and the file stays until the device
//! has been reset: after a killed program a device that still writes meets memory that nobody else has. Ordinary
//! ones are of use behind an IOMMU only, where the kernel pins them for as long as the device finds them; elsewhere it moves
//! them, locked or not.
//!
//! Follows the kernel's `Documentation/admin-guide/mm/{hugetlbpage,pagemap}.rst`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use e1000pv_driver::{BUFFER_STRIDE, Block, Buffer, Dma};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::hugetlbfs::PAGE;
use crate::error::{Error, Lack, Privilege, Result};
use crate::shm::map::Map;

/// What of a page can be given out in any case: a block has half a MiB at most, and does not cross its end.
const USABLE: usize = PAGE - (512 << 10);
/// Bytes of an ordinary page.
const SMALL: usize = 4096;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Room for what is rounded up: each block of at most 39 to a small page.
const ROUNDING: usize = 40 * 4096;

/// The memory of a port.
#[derive(Debug)]
pub struct Memory {
    map: Map,
    /// Bytes that are contiguous for the device.
    piece: usize,
    /// Where each piece is for it.
    places: Vec<u64>,
    /// Bytes given out, from the start.
    used: usize,
    /// Bytes that somebody has.
    out: usize,
}

/// Bytes for rings of so many slots, and what is rounded up.
fn bytes_for(tx: u32, rx: u32) -> usize {
    let slots = (tx + rx) as usize;
    slots * (BUFFER_STRIDE + DESCRIPTOR + size_of::<Buffer>()) + ROUNDING
}

/// Huge pages for rings of so many slots.
pub fn pages_for(tx: u32, rx: u32) -> usize {
    bytes_for(tx, rx).div_ceil(USABLE)
}

/// Ordinary pages for rings of so many slots, which nothing but this mapping is of.
///
/// # Errors
/// As memfd_create(2) and ftruncate(2).
pub fn ordinary(tx: u32, rx: u32) -> io::Result<Map> {
    let bytes = bytes_for(tx, rx).next_multiple_of(SMALL);
    // Shared, as all mappings here: of private pages a fork makes copies, of which the device has one and we the other.
    let file = File::from(memfd_create(c"vale-e1000", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(bytes as u64)?;
    Map::new(&file, bytes)
}

impl Memory {
    /// Memory for rings of so many slots: huge pages of a file that this process alone uses. `port` is for messages.
    pub fn huge(port: &str, file: &File, tx: u32, rx: u32) -> Result<Self> {
        let pages = pages_for(tx, rx);
        let failed = || Error::io("take huge pages for", port);
        let bytes = pages * PAGE;
        let has = file.metadata().map_err(failed())?.len() as usize;
        if has < bytes {
            file.set_len(bytes as u64).map_err(failed())?;
        }
        // The kernel sets pages aside now, so that none can be missing later.
        let map = Map::new(file, bytes).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => {
                let lack = Lack::HugePages { pages };
                Error::Unavailable { name: port.to_owned(), lack }
            }
            _ => failed()(error),
        })?;
        let places = (0..pages).map(|page| frame(&map, page)).collect::<io::Result<Vec<_>>>();
        let places = places.map_err(failed())?;
        if places.contains(&0) {
            let privilege = Privilege::PhysicalAddresses;
            return Err(Error::NotPermitted { name: port.to_owned(), privilege });
        }
        Ok(Self { map, piece: PAGE, places, used: 0, out: 0 })
    }

    /// All of a mapping, whose pages the device finds from `place` on as long as it can reach memory at all.
    pub fn contiguous(map: Map, place: u64) -> Self {
        let piece = map.len();
        Self { map, piece, places: vec![place], used: 0, out: 0 }
    }
}

/// Where a page is for the device; 0: this process must not know.
fn frame(map: &Map, page: usize) -> io::Result<u64> {
    const PRESENT: u64 = 1 << 63;
    const NUMBER: u64 = (1 << 55) - 1;
    map.populate(page * PAGE, 1);
    let at = (map.base() as usize + page * PAGE) / SMALL * size_of::<u64>();
    let mut entry = [0; size_of::<u64>()];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at as u64)?;
    let entry = u64::from_ne_bytes(entry);
    Ok(if entry & PRESENT == 0 { 0 } else { (entry & NUMBER) * SMALL as u64 })
}

/// Where the next block begins, in memory whose pieces have so many bytes.
fn place(used: usize, bytes: usize, align: usize, piece: usize) -> Option<usize> {
    let at = used.checked_next_multiple_of(align)?;
    let left = piece - at % piece;
    match bytes {
        _ if bytes > piece => None,
        _ if bytes > left => Some(at + left),
        _ => Some(at),
    }
}

// SAFETY: blocks do not overlap, since `used` grows until all are back; each lies in one piece, which is contiguous for the
// device, stays where it is, and is zeroed here. A huge page stays as long as its file has it, and only the holder of the
// file's lock maps that; pages behind an IOMMU stay where they are shown until the device is closed, nobody else has their file, and an
// address that is wrong leads nowhere.
unsafe impl Dma for Memory {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let at = place(self.used, bytes, align, self.piece)?;
        let end = at.checked_add(bytes).filter(|&end| end <= self.map.len())?;
        let place = *self.places.get(at / self.piece)?;
        let ptr = NonNull::new(self.map.base().wrapping_add(at))?;
        // SAFETY: within the mapping, checked above, and given to nobody.
        unsafe { ptr.write_bytes(0, bytes) };
        (self.used, self.out) = (end, self.out + bytes);
        // SAFETY: as the trait promises, see above.
        Some(unsafe { Block::new(ptr, place + (at % self.piece) as u64, bytes) })
    }

    fn free(&mut self, block: Block) {
        let at = (block.ptr().as_ptr() as usize).wrapping_sub(self.map.base() as usize);
        if at >= self.map.len() {
            return; // it came from elsewhere
        }
        self.out -= block.bytes();
        if self.out == 0 {
            self.used = 0;
        }
    }
}

#[cfg(test)]
pub mod tests {
    use e1000_device::GuestRam;

    use super::*;

    /// Memory of a machine in this process, given out from its bottom.
    #[derive(Debug)]
    pub struct Ram {
        ram: GuestRam,
        next: u64,
    }

    impl Ram {
        /// The memory but for its first page.
        pub fn new(ram: GuestRam) -> Self {
            Self { ram, next: 4096 }
        }
    }

    // SAFETY: fresh guest memory, zeroed, at the address that is its bus address; `ram` keeps it.
    unsafe impl Dma for Ram {
        fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
            let bus = self.next.next_multiple_of(align as u64);
            let ptr = self.ram.ptr(bus, bytes)?;
            self.next = bus + bytes as u64;
            // SAFETY: as above.
            Some(unsafe { Block::new(ptr, bus, bytes) })
        }

        fn free(&mut self, _: Block) {}
    }

    #[test]
    fn blocks_do_not_cross_the_end_of_a_page() {
        let place = |used, bytes, align| place(used, bytes, align, PAGE);
        assert_eq!(place(0, 100, 4096), Some(0));
        assert_eq!(place(100, 4096, 4096), Some(4096));
        assert_eq!(place(PAGE - 4096, 4096, 4096), Some(PAGE - 4096));
        assert_eq!(place(PAGE - 4096, 4097, 4096), Some(PAGE));
        assert_eq!(place(PAGE + 1, PAGE, 4096), Some(2 * PAGE));
        assert_eq!(place(0, PAGE + 1, 4096), None);
        assert_eq!(place(usize::MAX, 1, 4096), None);
    }

    /// The blocks of a device with rings of every size find room in the pages that are asked for, huge or ordinary.
    #[test]
    fn pages_suffice_for_all_blocks() {
        for slots in (64..=4096).step_by(8) {
            let translated = Memory::contiguous(ordinary(slots, slots).unwrap(), 1 << 20);
            for mut memory in [memory_of(pages_for(slots, slots)), translated] {
                let config = e1000pv_driver::Config {
                    tx_descriptors: slots,
                    rx_descriptors: slots,
                    ..e1000pv_driver::Config::default()
                };
                // Nothing answers: it takes its memory, fails to start, and gives it back.
                let clock = Stopped::default();
                let failed = e1000pv_driver::Nic::new(Dead, &mut memory, &clock, &config);
                assert_eq!(failed.err(), Some(e1000pv_driver::Error::Reset), "{slots}");
                assert_eq!((memory.out, memory.used), (0, 0));
            }
        }
    }

    struct Dead;

    impl e1000pv_driver::Mmio for Dead {
        fn read32(&self, _: u32) -> u32 {
            u32::MAX
        }

        fn write32(&self, _: u32, _: u32) {}
    }

    /// A clock that runs fast.
    #[derive(Default)]
    struct Stopped(std::cell::Cell<u64>);

    impl e1000pv_driver::Cpu for Stopped {
        fn now_ns(&self) -> u64 {
            self.0.set(self.0.get() + 1_000_000);
            self.0.get()
        }

        fn idle(&self, _: u32, _: Option<u64>) {}

        fn interrupts(&self) -> u32 {
            0
        }

        fn take_causes(&self) -> u32 {
            0
        }
    }

    /// Huge pages that are not, with made-up addresses.
    fn memory_of(pages: usize) -> Memory {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let map = Map::new(&file, pages * PAGE).unwrap();
        let places = (0..pages).map(|page| (7 + 2 * page) as u64 * PAGE as u64).collect();
        Memory { map, piece: PAGE, places, used: 0, out: 0 }
    }

    #[test]
    fn block_is_at_its_address_for_the_device() {
        let mut memory = memory_of(2);
        let first = memory.allocate(PAGE - 4096, 4096).unwrap();
        let second = memory.allocate(8192, 4096).unwrap();
        assert_eq!((first.bus(), second.bus()), (7 * PAGE as u64, 9 * PAGE as u64));
        assert!(memory.allocate(PAGE, 4096).is_none());
        memory.free(first);
        memory.free(second);
        assert_eq!(memory.allocate(64, 64).unwrap().bus(), 7 * PAGE as u64);
    }

    #[test]
    fn behind_an_iommu_all_memory_is_one_piece() {
        let map = ordinary(1024, 1024).unwrap();
        let bytes = map.len();
        assert!(bytes > 2 * PAGE && bytes.is_multiple_of(4096));
        let mut memory = Memory::contiguous(map, 0x10_0000);
        let first = memory.allocate(PAGE - 4096, 4096).unwrap();
        let second = memory.allocate(8192, 4096).unwrap();
        assert_eq!((first.bus(), second.bus()), (0x10_0000, 0x10_0000 + PAGE as u64 - 4096));
        assert!(memory.allocate(bytes - PAGE, 4096).is_none());
    }
}
