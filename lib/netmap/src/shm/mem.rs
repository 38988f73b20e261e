//! A memory region: one file of equal cells that holds buffers, rings and netmap_ifs.
//!
//! ```text
//!  0          256                      data_off (page aligned)
//!  | header   | bitmap of used cells   | cell 0 | cell 1 | cell 2 ...           | grows
//!                                        reserved          a buffer, or part of a ring
//! ```
//!
//! A buffer is one cell; a ring or a netmap_if is a run of cells. So a buffer's index is its cell's
//! number, and `NETMAP_BUF(ring, i) = ring + buf_ofs + i * nr_buf_size` holds for every ring of
//! every port in the region. A cell is 2048 + 64 bytes: buffers 2048 bytes apart would fall into
//! few cache sets (design decision 4).
//!
//! Who writes what: the header and the bitmap by the holder of the root's lock; cells by whoever
//! was given them. Invariant: an access through this module lies within the part of the file that
//! was there when `cells` was last read, whatever peers write into header or bitmap.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Damage, Error, Result, SharedFile};
use crate::shm::dir::Dir;
use crate::shm::file::{self, FileId};
use crate::shm::map::{Map, Shared};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// Distance between two buffers, and the room in each, in bytes.
pub const STRIDE: usize = 2048 + 64;
/// Most cells of a region: 528 MiB, so that offsets fit the 32 bits of netmap's legacy API.
pub const MAX_CELLS: u32 = 1 << 18;
/// Cells 0 and 1 are netmap's reserved buffers.
pub const RESERVED: u32 = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"NMVMEM\0\0");
const VERSION: u32 = 1;
const BITMAP_OFF: usize = 256;
const DATA_OFF: usize = (BITMAP_OFF + MAX_CELLS as usize / 8).next_multiple_of(4096);

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    stride: AtomicU32,
    cells: AtomicU32,
    /// Ports that were ever made here; while it is 1, the region goes with its port.
    ports: AtomicU32,
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
    /// Where more of them may have been added.
    growing: Option<&'a Region>,
}

impl BufferView<'_> {
    /// Whether a buffer of the one can take the place of a buffer of the other.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self.growing, other.growing) {
            (Some(one), Some(other)) => one.id() == other.id(),
            (None, None) => self.first == other.first && self.stride == other.stride,
            _ => false,
        }
    }

    /// Address of a buffer, if there is one of that number.
    #[inline]
    pub fn at(&self, idx: u32) -> Option<*mut u8> {
        if idx >= self.count && !self.has_grown_to(idx) {
            return None;
        }
        (idx >= RESERVED).then(|| self.anywhere(idx))
    }

    /// What would be its address: for prefetching, which may miss.
    #[inline]
    pub fn anywhere(&self, idx: u32) -> *mut u8 {
        self.first.wrapping_add(idx as usize * self.stride)
    }

    #[cold]
    fn has_grown_to(&self, idx: u32) -> bool {
        self.growing.is_some_and(|region| idx < region.refresh())
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
    /// Cells known to be backed by the file. Private: a peer cannot raise it.
    cells: AtomicU32,
}

impl Region {
    /// Creates an empty region file.
    pub fn create(dir: &Dir, name: &str) -> Result<Self> {
        let file = file::create(dir, name, DATA_OFF as u64)?;
        Self::fill(&file, Home::Named(dir.clone(), name.into()), &dir.join(name))
    }

    /// Creates a region that no other process can open.
    pub fn anonymous() -> Result<Self> {
        let file = file::anonymous(DATA_OFF as u64)?;
        let path = Path::new("private memory");
        let home = file.try_clone().map(Home::Anonymous).map_err(Error::io("open", path))?;
        Self::fill(&file, home, path)
    }

    fn fill(file: &File, home: Home, path: &Path) -> Result<Self> {
        let region = Self::mapped(file, home, path)?;
        let h = region.header();
        h.version.store(VERSION, Ordering::Relaxed);
        h.stride.store(STRIDE as u32, Ordering::Relaxed);
        h.magic.store(MAGIC, Ordering::Release);
        region.grow(RESERVED)?;
        region.mark(0..RESERVED, true);
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
        if file::len(&file) < DATA_OFF as u64 {
            return Err(damaged(path, Damage::Short(SharedFile::Region)));
        }
        let region = Self::mapped(&file, Home::Named(dir.clone(), name.into()), path)?;
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
        region.refresh();
        Ok(region)
    }

    /// Removes the region's file, if it is still the one of that name.
    pub fn remove(&self, dir: &Dir, name: &str) -> Result<()> {
        match dir.stat_at(name) {
            Ok(there) if FileId::from(&there) == self.id => file::remove(dir, name),
            _ => Ok(()),
        }
    }

    fn mapped(file: &File, home: Home, path: &Path) -> Result<Self> {
        // All of the address range at once: the region may grow, its base never moves.
        let len = DATA_OFF + MAX_CELLS as usize * STRIDE;
        let map = Map::new(file, len).map_err(Error::io("map", path))?;
        let meta = file.metadata().map_err(Error::io("inspect", path))?;
        let id = FileId { device: meta.dev(), inode: meta.ino() };
        Ok(Self { map, home, path: path.into(), id, cells: AtomicU32::new(0) })
    }

    fn header(&self) -> &Header {
        self.map.at(0).expect("the mapping is longer than the header and page-aligned")
    }

    /// Looks at how far the file reaches now. What was once known stays: should a peer truncate
    /// the file, the pages beyond read as zeros (`map`).
    #[cold]
    pub fn refresh(&self) -> u32 {
        let bytes = self.bytes().saturating_sub(DATA_OFF as u64);
        let cells = (bytes / STRIDE as u64).min(u64::from(MAX_CELLS)) as u32;
        self.cells.fetch_max(cells, Ordering::Relaxed).max(cells)
    }

    /// Cells that may be accessed.
    #[inline]
    pub fn cells(&self) -> u32 {
        self.cells.load(Ordering::Relaxed)
    }

    /// Bytes of the file; 0 if its name leads elsewhere: nobody lets it grow any more.
    pub fn bytes(&self) -> u64 {
        match &self.home {
            Home::Anonymous(file) => file::len(file),
            Home::Named(dir, name) => match dir.stat_at(name) {
                Ok(there) if FileId::from(&there) == self.id => there.st_size as u64,
                _ => 0,
            },
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
        let (first, count) = (self.cell0(), self.cells());
        BufferView { first, stride: STRIDE, count, growing: Some(self) }
    }

    /// Start of cell 0.
    #[inline]
    fn cell0(&self) -> *mut u8 {
        self.map.base().wrapping_add(DATA_OFF)
    }

    /// Offset of a cell from the start of the file (and of the mapping), in bytes.
    #[inline]
    pub const fn offset(cell: u32) -> usize {
        DATA_OFF + cell as usize * STRIDE
    }

    /// The `T` at `byte` of `cell`, if it lies within the cells known.
    pub fn at<T: Shared>(&self, cell: u32, byte: usize) -> Option<&T> {
        self.slice(cell, byte, 1).map(|s| &s[0])
    }

    /// `n` `T`s from `byte` of `cell` on, if they lie within the cells known.
    pub fn slice<T: Shared>(&self, cell: u32, byte: usize, n: usize) -> Option<&[T]> {
        let start = Self::offset(cell).checked_add(byte)?;
        let end = start.checked_add(n.checked_mul(size_of::<T>())?)?;
        if end > Self::offset(self.cells()) {
            return None;
        }
        self.map.slice(start, n)
    }

    /// Makes the pages of some cells present.
    pub fn populate(&self, cells: std::ops::Range<u32>) {
        let (start, end) = (Self::offset(cells.start), Self::offset(cells.end));
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

    fn used(&self, cell: u32) -> bool {
        self.bitmap()[cell as usize / 32].load(Ordering::Relaxed) & 1 << (cell % 32) != 0
    }

    fn mark(&self, cells: impl IntoIterator<Item = u32>, used: bool) {
        for cell in cells {
            let word = &self.bitmap()[cell as usize / 32];
            let bit = 1 << (cell % 32);
            let old = word.load(Ordering::Relaxed);
            word.store(if used { old | bit } else { old & !bit }, Ordering::Relaxed);
        }
    }

    fn grow(&self, cells: u32) -> Result<()> {
        if cells > MAX_CELLS {
            return Err(Error::Limit {
                name: self.path.display().to_string(),
                what: "a memory region cannot hold that many buffers",
                limit: u64::from(MAX_CELLS),
            });
        }
        let bytes = Self::offset(cells) as u64;
        match &self.home {
            Home::Anonymous(file) => file::reserve(file, &self.path, bytes)?,
            Home::Named(dir, name) => {
                let file = file::open(dir, name)?;
                if file::id(&file) != self.id {
                    return Err(damaged(&self.path, Damage::Replaced(SharedFile::Region)));
                }
                file::reserve(&file, &self.path, bytes)?;
            }
        }
        if self.refresh() < cells {
            return Err(damaged(&self.path, Damage::Short(SharedFile::Region)));
        }
        self.header().cells.store(self.cells(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that `n` more cells can be given out without growing file by file.
    pub fn reserve(&self, n: u32) -> Result<()> {
        self.refresh();
        let free = (0..self.cells()).filter(|&c| !self.used(c)).count() as u32;
        if free < n { self.grow(self.cells().saturating_add(n - free)) } else { Ok(()) }
    }

    /// Takes `n` consecutive cells, the first with an even number (a ring's alignment).
    pub fn take_run(&self, n: u32) -> Result<u32> {
        self.refresh();
        let mut start = RESERVED;
        let mut cell = start;
        while cell < self.cells() && cell - start < n {
            if self.used(cell) {
                start = (cell + 1).next_multiple_of(2);
                cell = start;
            } else {
                cell += 1;
            }
        }
        if start + n > self.cells() {
            self.grow(start.saturating_add(n))?;
        }
        self.mark(start..start + n, true);
        Ok(start)
    }

    /// Takes any `n` cells, lowest first.
    pub fn take(&self, n: u32) -> Result<Vec<u32>> {
        self.reserve(n)?;
        let cells: Vec<u32> =
            (RESERVED..self.cells()).filter(|&c| !self.used(c)).take(n as usize).collect();
        self.mark(cells.iter().copied(), true);
        Ok(cells)
    }

    /// Gives cells back; reserved ones, ones beyond the end and ones already free are ignored.
    pub fn give_back(&self, cells: impl IntoIterator<Item = u32>) {
        let n = self.refresh();
        self.mark(cells.into_iter().filter(|&c| c >= RESERVED && c < n), false);
    }
}

/// Whole cells that `bytes` need.
pub const fn cells_for(bytes: usize) -> u32 {
    bytes.div_ceil(STRIDE) as u32
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
        let region = Region::create(&dir, "r").unwrap();
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
    fn at_beyond_the_file_is_refused_until_it_grows() {
        let (_temp, dir, region) = region();
        let peer = Region::open(&dir, "r").unwrap();
        assert!(peer.at::<AtomicU32>(2, 0).is_none());
        region.take(1).unwrap();
        peer.refresh();
        assert!(peer.at::<AtomicU32>(2, 0).is_some());
        assert!(peer.at::<AtomicU32>(2, STRIDE).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn allocation_never_gives_a_cell_twice(ops in prop::collection::vec((0u8..3, 1u32..20), 1..60)) {
            let (_temp, _dir, region) = region();
            let mut given: Vec<Vec<u32>> = Vec::new();
            let mut out = HashSet::from([0, 1]);
            for (op, n) in ops {
                let cells = match op {
                    0 => region.take(n).unwrap(),
                    1 => {
                        let c = region.take_run(n).unwrap();
                        prop_assert_eq!(c % 2, 0);
                        (c..c + n).collect()
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
                    prop_assert!(out.insert(c), "cell {} given twice", c);
                    prop_assert!(c < region.cells());
                }
                given.push(cells);
            }
        }
    }
}
