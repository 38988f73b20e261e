//! A memory region: one file of equal cells that holds buffers, rings and netmap_ifs.
//!
//! ```text
//!  0          256                      data_off (page aligned)
//!  | header   | bitmap of used cells   | cell 0 | cell 1 | cell 2 ...  |          a hole          |
//!                                        reserved          a buffer,   backed                     end of the file
//!                                                          or part of a ring
//! ```
//!
//! The file's length is fixed when it is made. Memory is taken as cells are given out, lowest first, and
//! stays: cells before `backed` have theirs, in huge pages as far as they fill some and the kernel has them.
//!
//! A buffer is one cell; a ring or a netmap_if is a run of cells. So a buffer's index is its cell's
//! number, and `NETMAP_BUF(ring, i) = ring + buf_ofs + i * nr_buf_size` holds for every ring of
//! every port in the region. A cell is 2048 + 64 bytes: buffers 2048 bytes apart would fall into
//! few cache sets (design decision 4).
//!
//! Who writes what: the header and the bitmap by the holder of the root's lock; cells by whoever
//! was given them. Invariant: an access through this module lies within the file as it was when it was
//! opened, whatever peers write into header or bitmap.

use std::fs::File;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use crate::error::{Damage, Error, Result, SharedFile};
use crate::shm::dir::Dir;
use crate::shm::file::{self, FileId};
use crate::shm::map::{HUGE, Map, Shared};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// Distance between two buffers, and the room in each, in bytes.
pub const STRIDE: usize = 2048 + 64;
/// Most cells of a region: 528 MiB, so that offsets fit the 32 bits of netmap's legacy API.
pub const MAX_CELLS: u32 = 1 << 18;
/// Bytes of a region with that many cells.
pub const MAX_BYTES: u64 = bytes_for(MAX_CELLS);
/// Cells 0 and 1 are netmap's reserved buffers.
pub const RESERVED: u32 = 2;

/// A cell's number in its region. Of a buffer it is netmap's index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(pub u32);

impl Cell {
    /// As an index of an array of cells.
    #[inline]
    pub const fn at(self) -> usize {
        self.0 as usize
    }

    /// This one and those behind it, `n` in all.
    pub fn run(self, n: u32) -> impl Iterator<Item = Self> + Clone {
        (self.0..self.0.saturating_add(n)).map(Self)
    }

    /// Those of numbers `from` to `to`.
    pub fn between(from: u32, to: u32) -> impl Iterator<Item = Self> + Clone {
        (from..to).map(Self)
    }
}

const MAGIC: u64 = u64::from_le_bytes(*b"NMVMEM\0\0");
const VERSION: u32 = 2;
const BITMAP_OFF: usize = 256;
const DATA_OFF: usize = (BITMAP_OFF + MAX_CELLS as usize / 8).next_multiple_of(4096);

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    stride: AtomicU32,
    /// Cells that the file has room for.
    cells: AtomicU32,
    /// Ports that were ever made here; while it is 1, the region goes with its port.
    ports: AtomicU32,
    /// Cells before this one have memory.
    backed: AtomicU32,
}
// SAFETY: atomics and padding.
unsafe impl Shared for Header {}

/// Buffers by number, in a region or in memory that a port brought along.
#[derive(Clone, Copy, Debug)]
pub struct BufferView<'a> {
    /// Buffer 0, which is nobody's, as is buffer 1.
    pub first: *mut u8,
    /// Distance between two buffers, and the room in each, in bytes.
    pub stride: usize,
    /// How many there are.
    pub count: u32,
    memory: PhantomData<&'a Region>,
}

impl BufferView<'_> {
    /// Whether a buffer of the one can take the place of a buffer of the other: a process maps a region
    /// once.
    pub fn same_as(&self, other: &Self) -> bool {
        self.first == other.first && self.stride == other.stride
    }

    /// Address of a buffer, if there is one of that number.
    #[inline]
    pub fn at(&self, idx: u32) -> Option<*mut u8> {
        (RESERVED..self.count).contains(&idx).then(|| self.anywhere(idx))
    }

    /// What would be its address: for prefetching, which may miss.
    #[inline]
    pub fn anywhere(&self, idx: u32) -> *mut u8 {
        self.first.wrapping_add(idx as usize * self.stride)
    }
}

/// Where a region's file is. A mapping needs none open, and a process may have very many regions mapped.
#[derive(Debug)]
enum Home {
    /// Under a name, as long as that leads to it.
    Named(Dir, String),
    /// Nowhere else than here.
    Anonymous(File),
}

/// A mapped region.
#[derive(Debug)]
pub struct Region {
    map: Map,
    home: Home,
    path: PathBuf,
    id: FileId,
    /// Cells in the file, as it was when it was opened. Private: no peer can raise it.
    cells: u32,
}

impl Region {
    /// Creates an empty region file with room for so many cells.
    pub fn create(dir: &Dir, name: &str, cells: u32) -> Result<Self> {
        let path = dir.join(name);
        let file = dir.create(name).map_err(Error::io("create", &path))?;
        let home = Home::Named(dir.clone(), name.into());
        Self::fill(&file, home, &path, cells).inspect_err(|_| {
            let _ = dir.remove(name); // best effort: the first error is the one to report
        })
    }

    /// Creates a region that no other process can open.
    pub fn anonymous(cells: u32) -> Result<Self> {
        let path = Path::new("private memory");
        let file = file::anonymous(0)?;
        let home = file.try_clone().map(Home::Anonymous).map_err(Error::io("open", path))?;
        Self::fill(&file, home, path, cells)
    }

    fn fill(file: &File, home: Home, path: &Path, cells: u32) -> Result<Self> {
        let cells = cells.clamp(RESERVED, MAX_CELLS);
        file.set_len(bytes_for(cells)).map_err(Error::io("set the length of", path))?;
        file::reserve(file, path, 0, Self::offset(Cell(RESERVED)) as u64)?;
        let region = Self::mapped(file, home, path, cells)?;
        let h = region.header();
        h.version.store(VERSION, Ordering::Relaxed);
        h.stride.store(STRIDE as u32, Ordering::Relaxed);
        h.cells.store(cells, Ordering::Relaxed);
        h.backed.store(RESERVED, Ordering::Relaxed);
        region.mark(Cell::between(0, RESERVED), true);
        h.magic.store(MAGIC, Ordering::Release);
        Ok(region)
    }

    /// Whether a file is a region, of whatever version, or one that was being made.
    pub fn is_one(dir: &Dir, name: &str) -> bool {
        use std::os::unix::fs::FileExt;
        let Ok(file) = file::open(dir, name) else { return false };
        let mut magic = [0; 8];
        file::len(&file) == 0
            || file.read_exact_at(&mut magic, 0).is_ok()
                && [MAGIC, 0].contains(&u64::from_le_bytes(magic))
    }

    /// Opens the region file of a peer.
    pub fn open(dir: &Dir, name: &str) -> Result<Self> {
        let file = file::open(dir, name)?;
        let path = &dir.join(name);
        let len = file::len(&file);
        if len < Self::offset(Cell(RESERVED)) as u64 {
            return Err(damaged(path, Damage::Short(SharedFile::Region)));
        }
        let cells = cells_within(len);
        let region = Self::mapped(&file, Home::Named(dir.clone(), name.into()), path, cells)?;
        let h = region.header();
        if h.magic.load(Ordering::Acquire) != MAGIC {
            return Err(damaged(path, Damage::Magic(SharedFile::Region)));
        }
        let found = h.version.load(Ordering::Relaxed);
        if found != VERSION {
            let file = SharedFile::Region;
            return Err(damaged(path, Damage::Version { file, found, known: VERSION }));
        }
        if h.stride.load(Ordering::Relaxed) as usize != STRIDE {
            return Err(damaged(path, Damage::Values(SharedFile::Region)));
        }
        if h.cells.load(Ordering::Relaxed) > cells {
            return Err(damaged(path, Damage::Short(SharedFile::Region)));
        }
        Ok(region)
    }

    /// Removes the region's file, if it is still the one of that name.
    pub fn remove(&self, dir: &Dir, name: &str) -> Result<()> {
        match dir.stat_at(name) {
            Ok(there) if FileId::from(&there) == self.id => file::remove(dir, name),
            _ => Ok(()),
        }
    }

    fn mapped(file: &File, home: Home, path: &Path, cells: u32) -> Result<Self> {
        let map = Map::new(file, bytes_for(cells) as usize).map_err(Error::io("map", path))?;
        Ok(Self { map, home, path: path.into(), id: file::id(file), cells })
    }

    fn header(&self) -> &Header {
        self.map.at(0).expect("the mapping is longer than the header and page-aligned")
    }

    /// Cells that may be accessed.
    #[inline]
    pub fn cells(&self) -> u32 {
        self.cells
    }

    /// Bytes of the file, and of its mapping.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Bytes that have memory; the header's word for it.
    pub fn bytes_backed(&self) -> u64 {
        Self::offset(Cell(self.backed())) as u64
    }

    /// The file, opened anew.
    pub fn file(&self) -> Result<File> {
        match &self.home {
            Home::Anonymous(file) => file.try_clone().map_err(Error::io("open", &self.path)),
            Home::Named(dir, name) => {
                let file = file::open(dir, name)?;
                if file::id(&file) != self.id {
                    return Err(damaged(&self.path, Damage::Replaced(SharedFile::Region)));
                }
                Ok(file)
            }
        }
    }

    /// What tells two regions apart: device and inode of the file.
    #[inline]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its cells as buffers.
    #[inline]
    pub fn buffers(&self) -> BufferView<'_> {
        let (first, count) = (self.cell0(), self.cells);
        BufferView { first, stride: STRIDE, count, memory: PhantomData }
    }

    /// The mapping, of `bytes` bytes.
    pub fn mapping(&self) -> &Map {
        &self.map
    }

    /// Start of cell 0.
    #[inline]
    fn cell0(&self) -> *mut u8 {
        self.map.base().wrapping_add(DATA_OFF)
    }

    /// Offset of a cell from the start of the file (and of the mapping), in bytes.
    #[inline]
    pub const fn offset(cell: Cell) -> usize {
        DATA_OFF + cell.at() * STRIDE
    }

    /// The `T` at `byte` of `cell`, if it lies within the region.
    pub fn at<T: Shared>(&self, cell: Cell, byte: usize) -> Option<&T> {
        self.slice(cell, byte, 1).map(|s| &s[0])
    }

    /// `n` `T`s from `byte` of `cell` on, if they lie within the region.
    pub fn slice<T: Shared>(&self, cell: Cell, byte: usize, n: usize) -> Option<&[T]> {
        let start = Self::offset(cell).checked_add(byte)?;
        let end = start.checked_add(n.checked_mul(size_of::<T>())?)?;
        if end > Self::offset(Cell(self.cells)) {
            return None;
        }
        self.map.slice(start, n)
    }

    /// Puts the cells that have memory into huge pages, as far as they fill some. Not under the root's lock: the kernel copies what is there,
    /// and waits for all processors in turn.
    pub fn gather(&self) {
        let end = Self::offset(Cell(self.backed())) / HUGE * HUGE;
        if end > 0 {
            self.map.gather(end);
        }
    }

    /// Makes the pages of `n` cells present.
    pub fn populate(&self, first: Cell, n: u32) {
        let (start, end) = (Self::offset(first), Self::offset(Cell(first.0 + n)));
        self.map.populate(start, end.saturating_sub(start));
    }

    // ---- allocation: under the root's lock ----

    /// Counts a port that is made here and returns how many there ever were.
    pub fn count_port(&self) -> u32 {
        let n = self.header().ports.load(Ordering::Relaxed).saturating_add(1);
        self.header().ports.store(n, Ordering::Relaxed);
        n
    }

    /// How many ports were ever made here.
    pub fn ports_ever(&self) -> u32 {
        self.header().ports.load(Ordering::Relaxed)
    }

    fn bitmap(&self) -> &[AtomicU32] {
        self.map
            .slice(BITMAP_OFF, MAX_CELLS as usize / 32)
            .expect("the mapping is longer than the bitmap and page-aligned")
    }

    /// Whether a cell has been given out.
    pub fn used(&self, cell: Cell) -> bool {
        self.bitmap()[cell.at() / 32].load(Ordering::Relaxed) & 1 << (cell.0 % 32) != 0
    }

    fn mark(&self, cells: impl IntoIterator<Item = Cell>, used: bool) {
        for cell in cells {
            let word = &self.bitmap()[cell.at() / 32];
            let bit = 1 << (cell.0 % 32);
            let old = word.load(Ordering::Relaxed);
            word.store(if used { old | bit } else { old & !bit }, Ordering::Relaxed);
        }
    }

    /// Cells before this one have memory, unless a peer says so falsely: then what is given out may meet a full
    /// tmpfs later, where the SIGBUS guard answers with zeros.
    fn backed(&self) -> u32 {
        self.header().backed.load(Ordering::Relaxed).clamp(RESERVED, self.cells)
    }

    /// Cells that were ever given out are before this one.
    pub fn end_of_given(&self) -> u32 {
        self.backed()
    }

    /// Takes memory for the cells before `end`.
    fn back(&self, end: u32) -> Result<()> {
        let backed = self.backed();
        if end > self.cells {
            return Err(Error::MemoryFull { path: self.path.clone(), buffers: self.cells });
        }
        if end > backed {
            let file = self.file()?;
            if file::len(&file) < self.bytes() {
                return Err(damaged(&self.path, Damage::Short(SharedFile::Region)));
            }
            let (from, to) = (Self::offset(Cell(backed)) as u64, Self::offset(Cell(end)) as u64);
            file::reserve(&file, &self.path, from, to)?;
            self.header().backed.store(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Cells that are free, with memory or without.
    pub fn free(&self) -> u32 {
        self.unused(self.cells).count() as u32
    }

    /// Cells before that number that are free.
    fn unused(&self, end: u32) -> impl Iterator<Item = Cell> + '_ {
        Cell::between(RESERVED, end).filter(|&cell| !self.used(cell))
    }

    /// Makes sure that `n` more cells can be given out, in one call of the system.
    pub fn reserve(&self, n: u32) -> Result<()> {
        let backed = self.backed();
        let free = self.unused(backed).count() as u32;
        let mut lacking = n.saturating_sub(free);
        let mut end = backed;
        while lacking > 0 && end < self.cells {
            lacking -= u32::from(!self.used(Cell(end))); // a peer may have marked what was never given out
            end += 1;
        }
        self.back(end.saturating_add(lacking))
    }

    /// Takes `n` consecutive cells, the first with an even number (a ring's alignment).
    pub fn take_run(&self, n: u32) -> Result<Cell> {
        let mut start = RESERVED;
        let mut cell = start;
        while cell < self.cells && cell - start < n {
            if self.used(Cell(cell)) {
                start = (cell + 1).next_multiple_of(2);
                cell = start;
            } else {
                cell += 1;
            }
        }
        self.back(start.saturating_add(n))?;
        let start = Cell(start);
        self.mark(start.run(n), true);
        Ok(start)
    }

    /// Takes any `n` cells, lowest first.
    pub fn take(&self, n: u32) -> Result<Vec<Cell>> {
        self.reserve(n)?;
        let cells: Vec<Cell> = self.unused(self.cells).take(n as usize).collect();
        self.mark(cells.iter().copied(), true);
        Ok(cells)
    }

    /// Gives cells back; reserved ones, ones beyond the end and ones already free are ignored.
    pub fn give_back(&self, cells: impl IntoIterator<Item = Cell>) {
        let there = RESERVED..self.cells;
        self.mark(cells.into_iter().filter(|cell| there.contains(&cell.0)), false);
    }
}

/// Whole cells that `bytes` need.
pub const fn cells_for(bytes: usize) -> u32 {
    bytes.div_ceil(STRIDE) as u32
}

/// Bytes of a region with so many cells: whole pages.
pub const fn bytes_for(cells: u32) -> u64 {
    (Region::offset(Cell(cells)) as u64).next_multiple_of(4096)
}

/// Cells of a region of so many bytes.
pub const fn cells_within(bytes: u64) -> u32 {
    let cells = bytes.saturating_sub(DATA_OFF as u64) / STRIDE as u64;
    if cells < MAX_CELLS as u64 { cells as u32 } else { MAX_CELLS }
}

fn damaged(path: &Path, damage: Damage) -> Error {
    Error::Damaged { path: path.into(), damage }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn region() -> (tempfile::TempDir, Dir, Region) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let region = Region::create(&dir, "r", 4000).unwrap();
        (temp, dir, region)
    }

    #[test]
    fn open_rejects_damage_with_the_reason() {
        let (_temp, dir, region) = region();
        region.header().version.store(99, Ordering::Relaxed);
        assert!(Region::open(&dir, "r").unwrap_err().to_string().contains("layout version 99"));
        region.header().version.store(VERSION, Ordering::Relaxed);
        region.header().magic.store(1, Ordering::Relaxed);
        assert!(Region::open(&dir, "r").unwrap_err().to_string().contains("does not begin"));
        file::open(&dir, "r").unwrap().set_len(100).unwrap();
        assert!(Region::open(&dir, "r").unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn length_is_fixed_and_memory_is_taken_as_cells_are_given_out() {
        use std::os::unix::fs::MetadataExt;
        let (_temp, dir, region) = region();
        let file = file::open(&dir, "r").unwrap();
        let meta = || file.metadata().unwrap();
        assert_eq!((meta().len(), meta().len() % 4096), (region.bytes(), 0));
        assert!(region.bytes() >= 4000 * STRIDE as u64);
        assert!(meta().blocks() * 512 < 100_000, "{} blocks of an empty region", meta().blocks());
        // A peer that mapped it before finds what is given out later.
        let peer = Region::open(&dir, "r").unwrap();
        region.take(1000).unwrap();
        let taken = meta().blocks() * 512;
        assert!((1000 * STRIDE as u64..1200 * STRIDE as u64).contains(&taken), "{taken}");
        assert_eq!(meta().len(), region.bytes());
        region.at::<AtomicU32>(Cell(1001), 0).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(peer.at::<AtomicU32>(Cell(1001), 0).unwrap().load(Ordering::Relaxed), 7);
        assert!(peer.at::<AtomicU32>(Cell(4000), 0).is_none());
        assert!(peer.buffers().at(3999).is_some() && peer.buffers().at(4000).is_none());
        // What is given back keeps its memory, and is given out again first.
        region.give_back([Cell(500)]);
        assert_eq!(region.take(1).unwrap(), [Cell(500)]);
        assert_eq!(meta().blocks() * 512, taken);
    }

    #[test]
    fn full_region_is_an_error_that_names_the_option_and_takes_nothing() {
        let (_temp, _dir, region) = region();
        region.take(3900).unwrap();
        for e in [region.take(99).unwrap_err(), region.take_run(99).unwrap_err()] {
            assert!(matches!(e, Error::MemoryFull { buffers: 4000, .. }), "{e:?}");
            assert!(e.to_string().contains("mem-mib"), "{e}");
        }
        assert_eq!(region.free(), 98);
        assert_eq!(region.take(98).unwrap().len(), 98);
        assert!(region.take(1).is_err() && region.take(0).is_ok());
    }

    #[test]
    fn region_that_peers_scribbled_over_gives_out_what_it_has_and_no_more() {
        for word in [0, 1, 3, 3999, 4000, u32::MAX] {
            let (_temp, dir, region) = region();
            region.header().backed.store(word, Ordering::Relaxed);
            let peer = Region::open(&dir, "r").unwrap();
            assert_eq!(peer.take(3998).unwrap().len(), 3998);
            assert!(peer.take(1).is_err());
            peer.header().cells.store(4001, Ordering::Relaxed);
            assert!(Region::open(&dir, "r").unwrap_err().to_string().contains("truncated"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn allocation_never_gives_a_cell_twice(ops in prop::collection::vec((0u8..3, 1u32..20), 1..60)) {
            let (_temp, _dir, region) = region();
            let mut given: Vec<Vec<Cell>> = Vec::new();
            let mut out = HashSet::from([Cell(0), Cell(1)]);
            for (op, n) in ops {
                let cells = match op {
                    0 => region.take(n).unwrap(),
                    1 => {
                        let c = region.take_run(n).unwrap();
                        prop_assert_eq!(c.0 % 2, 0);
                        c.run(n).collect()
                    }
                    _ => {
                        if let Some(cells) = given.pop() {
                            for c in &cells { out.remove(c); }
                            region.give_back(cells);
                        }
                        continue;
                    }
                };
                for &c in &cells {
                    prop_assert!(out.insert(c), "cell {} given twice", c.0);
                    prop_assert!(c.0 < region.cells());
                }
                given.push(cells);
            }
        }
    }
}
