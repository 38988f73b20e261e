//! Guest RAM on the host: allocated whole before the guest starts, in huge pages where the system has
//! them.
//!
//! Invariants: all pages of a [`Memory`] are present. So a lack of memory is an error message at the start, and
//! never a SIGBUS or the OOM killer while a guest runs. The memory is excluded from core dumps of this process,
//! so that a guest's secrets do not get into a file on the host, and a crash does not write gigabytes. No piece of
//! it crosses the hole that the guest's addresses have below 4 GiB: it is one mapping here and two ranges there.
//!
//! Huge pages halve the cost of what a guest does with memory where page tables are shadowed (a first
//! touch is 2.4-3.9 us with 4 KiB pages and 0.2 us with 2 MiB), so `auto` takes the first of: a memfd
//! on hugetlbfs, a memfd if the system allows transparent huge pages there, anonymous memory if it
//! allows them there, a memfd of small pages.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Memory comes in multiples of this.
const CLEARED_AT_ONCE: usize = 2 << 20;

/// Where RAM comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The first of the others that gives huge pages.
    Auto,
    /// A memfd on hugetlbfs: pages that the administrator set aside.
    Hugetlb,
    /// A memfd.
    Memfd,
    /// Private memory without a file.
    Anonymous,
}

/// The RAM of a machine. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Memory {
    region: Arc<MmapRegion>,
    pieces: Vec<Piece>,
    /// Views of the mapping, which `region` owns.
    guest: GuestMemoryMmap,
    /// What it was made of, for `--verbose`.
    pub backing: Backing,
}

/// A range of the guest's addresses that is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its address in the guest.
    pub guest: u64,
    /// Where it begins in the mapping.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

/// The pieces of so much memory around a hole.
pub fn pieces(bytes: u64, hole: &Range<u64>) -> Vec<Piece> {
    let low = bytes.min(hole.start);
    let mut pieces = vec![Piece { guest: 0, offset: 0, bytes: low }];
    if bytes > low {
        pieces.push(Piece { guest: hole.end, offset: low, bytes: bytes - low });
    }
    pieces
}

impl Memory {
    /// Allocates `bytes`, a multiple of 2 MiB, and makes every page present. None of it is in the hole, which begins
    /// and ends with a huge page.
    pub fn new(bytes: u64, hole: &Range<u64>, backing: Backing) -> anyhow::Result<Memory> {
        let mib = bytes >> 20;
        let asked = || format!("allocating {mib} MiB of guest memory");
        let size = usize::try_from(bytes).with_context(asked)?;
        if backing != Backing::Hugetlb {
            room_for(bytes).with_context(asked)?;
        }
        let (region, backing) = match backing {
            Backing::Auto => match hugetlb(size) {
                Ok(region) => (region, Backing::Hugetlb),
                Err(_) if !shmem_is_huge() && anonymous_is_huge() => {
                    (anonymous(size).with_context(asked)?, Backing::Anonymous)
                }
                Err(_) => (memfd(size).with_context(asked)?, Backing::Memfd),
            },
            Backing::Hugetlb => (
                hugetlb(size)
                    .context("does /proc/sys/vm/nr_hugepages have enough?")
                    .with_context(asked)?,
                backing,
            ),
            Backing::Memfd => (memfd(size).with_context(asked)?, backing),
            Backing::Anonymous => (anonymous(size).with_context(asked)?, backing),
        };
        advise(&region, libc::MADV_DONTDUMP).context("keeping guest memory out of core dumps")?;
        let region = Arc::new(region);
        let pieces = pieces(bytes, hole);
        let seen = pieces.iter().map(|piece| seen(&region, piece));
        let guest = GuestMemoryMmap::from_regions(seen.collect::<anyhow::Result<_>>()?)
            .context("guest memory overlaps")?;
        Ok(Memory { region, pieces, guest, backing })
    }

    /// As loaders see it: by guest-physical address.
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// Empties it; every page stays. For a guest that does not run and devices that leave it alone.
    ///
    /// # Errors
    /// None is expected: all that is written is memory.
    pub fn clear(&self) -> anyhow::Result<()> {
        let zeros = vec![0; CLEARED_AT_ONCE];
        for piece in &self.pieces {
            for offset in (0..piece.bytes).step_by(CLEARED_AT_ONCE) {
                self.guest
                    .write_slice(&zeros, GuestAddress(piece.guest + offset))
                    .context("clearing guest memory")?;
            }
        }
        Ok(())
    }

    /// What of the guest's addresses is memory, from the lowest on.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The mapping.
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.region
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.region.size() as u64
    }
}

/// A piece as loaders see it.
fn seen(region: &MmapRegion, piece: &Piece) -> anyhow::Result<GuestRegionMmap> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let start = region.as_ptr().wrapping_add(piece.offset as usize);
    // SAFETY: the piece lies within the mapping, which is readable and writable. It outlives what is made here: that is a
    // field of the `Memory` that owns the mapping, lent by reference to the loader.
    let view = unsafe { MmapRegion::build_raw(start, piece.bytes as usize, prot, flags) };
    GuestRegionMmap::new(view.context("a piece of memory")?, GuestAddress(piece.guest))
        .context("guest memory wraps")
}

/// Checks that there is enough memory. An allocation beyond that would make the OOM killer end some process.
fn room_for(bytes: u64) -> anyhow::Result<()> {
    let Ok(info) = std::fs::read_to_string("/proc/meminfo") else { return Ok(()) };
    let available_kib = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    match available_kib {
        Some(kib) if bytes >> 10 > kib => bail!("this machine has {} MiB available", kib >> 10),
        _ => Ok(()),
    }
}

fn policy(name: &str) -> Option<String> {
    let text =
        std::fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}")).ok()?;
    Some(text.split('[').nth(1)?.split(']').next()?.to_string())
}

fn shmem_is_huge() -> bool {
    policy("shmem_enabled").is_some_and(|policy| {
        ["always", "within_size", "advise", "force"].contains(&policy.as_str())
    })
}

fn anonymous_is_huge() -> bool {
    policy("enabled").is_some_and(|policy| policy != "never")
}

fn file(size: usize, flags: MFdFlags) -> anyhow::Result<File> {
    let file = File::from(memfd_create(c"guest-ram", MFdFlags::MFD_CLOEXEC | flags)?);
    file.set_len(size as u64)?;
    Ok(file)
}

fn shared(file: File, size: usize) -> anyhow::Result<MmapRegion> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    Ok(MmapRegion::build(Some(FileOffset::new(file, 0)), size, prot, libc::MAP_SHARED)?)
}

fn hugetlb(size: usize) -> anyhow::Result<MmapRegion> {
    let file = file(size, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?;
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, flags, 0, size as i64).context("reserving huge pages")?;
    let region = shared(file, size)?;
    populate(&region)?;
    Ok(region)
}

fn memfd(size: usize) -> anyhow::Result<MmapRegion> {
    let file = file(size, MFdFlags::empty())?;
    let region = shared(file.try_clone()?, size)?;
    // Before fallocate: that one takes small pages where huge ones depend on advice.
    advise_huge(&region);
    populate(&region)?;
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, flags, 0, size as i64).context("reserving memory")?;
    Ok(region)
}

fn anonymous(size: usize) -> anyhow::Result<MmapRegion> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let region = MmapRegion::build(None, size, prot, flags)?;
    advise_huge(&region);
    populate(&region)?;
    Ok(region)
}

fn advise(region: &MmapRegion, advice: i32) -> std::io::Result<()> {
    // SAFETY: the range is the mapping that `region` owns, and no piece of advice used here changes its
    // contents.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn advise_huge(region: &MmapRegion) {
    // This is advice only: if it is refused, pages are small and everything works.
    let _ = advise(region, libc::MADV_HUGEPAGE);
}

/// Makes all pages present. What a store would answer with SIGBUS is an error here.
fn populate(region: &MmapRegion) -> anyhow::Result<()> {
    match advise(region, libc::MADV_POPULATE_WRITE) {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EFAULT) => bail!("there is not enough memory"),
        Err(e) => Err(e).context("making memory present"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of no memory here.
    const NO_HOLE: Range<u64> = 3 << 30..4 << 30;

    #[test]
    fn memory_every_kind_is_zero_and_whole() {
        const BYTES: u64 = 4 << 20;
        for backing in [Backing::Auto, Backing::Memfd, Backing::Anonymous] {
            let memory = Memory::new(BYTES, &NO_HOLE, backing).expect("four megabytes");
            let last = GuestAddress(BYTES - 8);
            assert_eq!(memory.guest().read_obj::<u64>(last).expect("inside"), 0, "{backing:?}");
            assert!(memory.guest().read_obj::<u64>(GuestAddress(BYTES - 4)).is_err());
            assert_eq!(memory.bytes(), BYTES);
        }
    }

    #[test]
    fn memory_more_than_there_is_fails_in_words() {
        let error = Memory::new(1 << 50, &NO_HOLE, Backing::Memfd).expect_err("a petabyte");
        let text = format!("{error:#}");
        assert!(text.contains("MiB of guest memory") && text.contains("available"), "{text}");
    }

    #[test]
    fn memory_around_a_hole_is_one_mapping_and_two_ranges() {
        const MIB: u64 = 1 << 20;
        let hole = 4 * MIB..16 * MIB;
        let memory = Memory::new(6 * MIB, &hole, Backing::Anonymous).expect("six megabytes");
        let guest = memory.guest();
        for at in [0, 4 * MIB - 8, 16 * MIB, 18 * MIB - 8] {
            guest.write_obj(at, GuestAddress(at)).expect("memory");
        }
        for at in [4 * MIB - 4, 4 * MIB, 16 * MIB - 8, 18 * MIB] {
            assert!(guest.write_obj(at, GuestAddress(at)).is_err(), "{at:#x}");
        }
        guest.write_obj(1u8, GuestAddress(18 * MIB - 1)).expect("memory");
        let cleared = memory.clone();
        let start = memory.region().as_ptr().cast::<u64>();
        let second = start.wrapping_byte_add(4 * MIB as usize);
        // SAFETY: within the six megabytes, aligned, written by nobody else.
        assert_eq!(unsafe { second.read_volatile() }, 16 * MIB);
        cleared.clear().expect("it is memory");
        for at in [0, 4 * MIB - 8, 16 * MIB, 18 * MIB - 8] {
            assert_eq!(guest.read_obj::<u64>(GuestAddress(at)).expect("memory"), 0, "{at:#x}");
        }
        assert_eq!(memory.bytes(), 6 * MIB);
    }

    proptest! {
        #[test]
        fn pieces_are_all_of_memory_and_never_in_the_hole(mib in 1u64..1 << 20, from in 1u64..1 << 12, len in 1u64..1 << 12) {
            let (bytes, hole) = (mib << 20, from << 20..(from + len) << 20);
            let pieces = pieces(bytes, &hole);
            prop_assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), bytes);
            let (mut offset, mut free) = (0, 0);
            for piece in &pieces {
                let end = piece.guest + piece.bytes;
                prop_assert!(piece.bytes > 0 && piece.guest >= free, "in order, apart");
                prop_assert_eq!(piece.offset, offset, "one behind the other here");
                prop_assert!(end <= hole.start || piece.guest >= hole.end);
                (offset, free) = (offset + piece.bytes, end);
            }
        }
    }
}
