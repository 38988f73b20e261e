//! Memory that a device reaches: huge pages of a file, whose physical addresses do not change.
//!
//! Invariant: pages stay with the file, and the file stays until the device has been reset: after a killed program a
//! device that still writes meets memory that nobody else has. Ordinary pages would not do, locked or not: the kernel moves
//! them.
//!
//! Follows the kernel's `Documentation/admin-guide/mm/{hugetlbpage,pagemap}.rst`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use e1000pv_driver::{BUFFER_STRIDE, Block, Buffer, Dma};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Error, InUse, Lack, Privilege, Result};
use crate::shm::map::Map;

/// Bytes of a page.
const PAGE: usize = 2 << 20;
/// What of a page can be given out in any case: a block has half a MiB at most, and does not cross its end.
const USABLE: usize = PAGE - (512 << 10);
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;
/// Room for what is rounded up: each block of at most 39 to a small page.
const ROUNDING: usize = 40 * 4096;

/// The memory of a port.
#[derive(Debug)]
pub struct HugeMemory {
    map: Map,
    /// Where each page is for the device.
    frames: Vec<u64>,
    /// Bytes given out, from the start.
    used: usize,
    /// Bytes that somebody has.
    out: usize,
    mark: Marked,
}

/// The file, locked, which is removed when its memory is no longer used.
#[derive(Debug)]
struct Marked {
    directory: OwnedFd,
    name: String,
    /// A device may still use it that a killed program had taken, so it stays.
    is_left: bool,
    file: Flock<File>,
}

impl Drop for Marked {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // Under its lock. What stays is found by whoever takes the device next.
        let _ = unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Pages for rings of so many slots.
fn pages_for(tx: u32, rx: u32) -> usize {
    let slots = (tx + rx) as usize;
    let bytes = slots * (BUFFER_STRIDE + DESCRIPTOR + size_of::<Buffer>()) + ROUNDING;
    bytes.div_ceil(USABLE)
}

/// Where a file system of such pages is mounted, by the kernel's list of mounts.
fn mounted(mounts: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == b"hugetlbfs").then(|| unescaped(path))
    })
}

/// A path as it is. In the list a backslash and three octal digits stand for a byte that would end the word or the line, and
/// for a backslash. Other bytes are as they are, and need not be UTF-8.
fn unescaped(mut word: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(word.len());
    loop {
        word = match *word {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref rest @ ..] => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [byte, ref rest @ ..] => {
                path.push(byte);
                rest
            }
            [] => return OsString::from_vec(path).into(),
        }
    }
}

/// A directory on a file system of such pages.
fn directory() -> Result<Option<OwnedFd>> {
    let list = Path::new("/proc/self/mounts");
    let mounts = std::fs::read(list).map_err(Error::io("read", list))?;
    let right = |path: PathBuf| {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&path, flags, Mode::empty()).ok()?;
        let fs = fstatfs(&fd).ok()?;
        let is_right = fs.filesystem_type() == HUGETLBFS_MAGIC && fs.block_size() as usize == PAGE;
        is_right.then_some(fd)
    };
    Ok(mounted(&mounts).find_map(right))
}

impl HugeMemory {
    /// Memory for rings of so many slots, in the file of that name. `port` is for messages.
    pub fn open(port: &str, file: &str, tx: u32, rx: u32) -> Result<Self> {
        let pages = pages_for(tx, rx);
        let lacks = || {
            let lack = Lack::HugePages { pages };
            Error::Unavailable { name: port.to_owned(), lack }
        };
        let directory = directory()?.ok_or_else(lacks)?;
        let mark = Marked::open(port, directory, file)?;
        let failed = || Error::io("take huge pages for", port);
        let bytes = pages * PAGE;
        let has = mark.file.metadata().map_err(failed())?.len() as usize;
        if has < bytes {
            mark.file.set_len(bytes as u64).map_err(failed())?;
        }
        // The kernel sets pages aside now, so that none can be missing later.
        let map = Map::new(&mark.file, bytes).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => lacks(),
            _ => failed()(error),
        })?;
        let frames = (0..pages).map(|page| frame(&map, page)).collect::<io::Result<Vec<_>>>();
        let frames = frames.map_err(failed())?;
        if frames.contains(&0) {
            let privilege = Privilege::PhysicalAddresses;
            return Err(Error::NotPermitted { name: port.to_owned(), privilege });
        }
        Ok(Self { map, frames, used: 0, out: 0, mark })
    }

    /// Whether a killed program had left it, whose device may still use it.
    pub fn is_left(&self) -> bool {
        self.mark.is_left
    }

    /// The device has been reset, and whoever has it now gives it back.
    pub fn settle(&mut self) {
        self.mark.is_left = false;
    }
}

impl Marked {
    /// Opens the file and locks it.
    fn open(port: &str, directory: OwnedFd, name: &str) -> Result<Self> {
        let failed = || Error::io::<io::Error>("open the memory of", port);
        let open = |more: OFlag| {
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | more;
            openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
        };
        let (file, is_left) = match open(OFlag::O_CREAT | OFlag::O_EXCL) {
            Err(Errno::EEXIST) => {
                (open(OFlag::empty()).map_err(io::Error::from).map_err(failed())?, true)
            }
            made => (made.map_err(io::Error::from).map_err(failed())?, false),
        };
        let busy = || {
            let by = InUse::Nic;
            Error::Busy { name: port.to_owned(), by }
        };
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => busy(),
            errno => failed()(errno.into()),
        })?;
        let metadata = lock.metadata().map_err(failed())?;
        // Its last holder may have removed it between our two calls.
        if metadata.nlink() == 0 {
            return Err(busy());
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(failed()(Errno::EPERM.into()));
        }
        Ok(Self { directory, name: name.to_owned(), is_left, file: lock })
    }
}

/// Where a page is for the device; 0: this process must not know.
fn frame(map: &Map, page: usize) -> io::Result<u64> {
    /// Bytes of the pages that the table is about.
    const SMALL: usize = 4096;
    const PRESENT: u64 = 1 << 63;
    const NUMBER: u64 = (1 << 55) - 1;
    map.populate(page * PAGE, 1);
    let at = (map.base() as usize + page * PAGE) / SMALL * size_of::<u64>();
    let mut entry = [0; size_of::<u64>()];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at as u64)?;
    let entry = u64::from_ne_bytes(entry);
    Ok(if entry & PRESENT == 0 { 0 } else { (entry & NUMBER) * SMALL as u64 })
}

/// Where the next block begins.
fn place(used: usize, bytes: usize, align: usize) -> Option<usize> {
    let at = used.checked_next_multiple_of(align)?;
    let left = PAGE - at % PAGE;
    match bytes {
        _ if bytes > PAGE => None,
        _ if bytes > left => Some(at + left),
        _ => Some(at),
    }
}

// SAFETY: blocks do not overlap, since `used` grows until all are back; each lies in one page, which is contiguous for the
// device, stays where it is as long as the file has it, and is zeroed here. Only the lock's holder maps the file.
unsafe impl Dma for HugeMemory {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let at = place(self.used, bytes, align)?;
        let end = at.checked_add(bytes).filter(|&end| end <= self.map.len())?;
        let frame = *self.frames.get(at / PAGE)?;
        let ptr = NonNull::new(self.map.base().wrapping_add(at))?;
        // SAFETY: within the mapping, checked above, and given to nobody.
        unsafe { ptr.write_bytes(0, bytes) };
        (self.used, self.out) = (end, self.out + bytes);
        // SAFETY: as the trait promises, see above.
        Some(unsafe { Block::new(ptr, frame + (at % PAGE) as u64, bytes) })
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
        assert_eq!(place(0, 100, 4096), Some(0));
        assert_eq!(place(100, 4096, 4096), Some(4096));
        assert_eq!(place(PAGE - 4096, 4096, 4096), Some(PAGE - 4096));
        assert_eq!(place(PAGE - 4096, 4097, 4096), Some(PAGE));
        assert_eq!(place(PAGE + 1, PAGE, 4096), Some(2 * PAGE));
        assert_eq!(place(0, PAGE + 1, 4096), None);
        assert_eq!(place(usize::MAX, 1, 4096), None);
    }

    /// The blocks of a device with rings of every size find room in the pages that are asked for.
    #[test]
    fn pages_suffice_for_all_blocks() {
        for slots in (64..=4096).step_by(8) {
            let pages = pages_for(slots, slots);
            let mut memory = memory_of(pages);
            let config = e1000pv_driver::Config {
                tx_descriptors: slots,
                rx_descriptors: slots,
                ..e1000pv_driver::Config::default()
            };
            // Nothing answers: it takes its memory, fails to start, and gives it back.
            let failed = e1000pv_driver::Nic::new(Dead, &mut memory, &Stopped::default(), &config);
            assert_eq!(failed.err(), Some(e1000pv_driver::Error::Reset), "{slots}");
            assert_eq!((memory.out, memory.used), (0, 0));
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

    /// Ordinary memory with made-up addresses.
    fn memory_of(pages: usize) -> HugeMemory {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = nix::fcntl::open(directory.path(), OFlag::O_DIRECTORY, Mode::empty());
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let map = Map::new(&file, pages * PAGE).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let (directory, name) = (directory.unwrap(), "none".into());
        let mark = Marked { directory, name, is_left: false, file: lock };
        let frames = (0..pages).map(|page| (7 + 2 * page) as u64 * PAGE as u64).collect();
        HugeMemory { map, frames, used: 0, out: 0, mark }
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
    fn file_has_one_holder_and_tells_whether_it_was_left() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = || {
            let fd = nix::fcntl::open(directory.path(), OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            Marked::open("e1000:x", fd, "x")
        };
        let mark = open().unwrap();
        assert!(!mark.is_left);
        let busy = open().unwrap_err();
        assert!(matches!(busy, Error::Busy { by: InUse::Nic, .. }), "{busy}");
        drop(mark);
        assert!(!directory.path().join("x").exists());
        // What a killed program leaves: a file without a lock.
        std::fs::write(directory.path().join("x"), b"").unwrap();
        // Who cannot take the device either leaves it as it is.
        drop(open().unwrap());
        let mut mark = open().unwrap();
        assert!(mark.is_left);
        mark.is_left = false;
        drop(mark);
        assert!(!directory.path().join("x").exists());
    }

    #[test]
    fn mounts_of_huge_pages_are_found() {
        let mounts = b"proc /proc proc rw 0 0\nnone /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\nx";
        assert_eq!(mounted(mounts).collect::<Vec<_>>(), [PathBuf::from("/dev/hugepages")]);
    }

    #[test]
    fn mount_points_with_spaces_and_other_bytes_are_found() {
        let mounts = br"none /mnt/huge\040pages\0111\134040\043 hugetlbfs rw 0 0";
        let found: Vec<_> = mounted(mounts).collect();
        assert_eq!(found, [PathBuf::from("/mnt/huge pages\t1\\040#")]);
        let mounts = b"none /mnt/\xff tmpfs rw 0 0\nnone /mnt/\xfe\\04 hugetlbfs rw 0 0\n";
        let path = OsString::from_vec(b"/mnt/\xfe\\04".to_vec());
        assert_eq!(mounted(mounts).collect::<Vec<_>>(), [PathBuf::from(path)]);
    }
}
