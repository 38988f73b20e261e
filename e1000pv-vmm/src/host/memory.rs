//! Guest RAM on the host: allocated whole before the guest starts, in huge pages where the system has
//! them.
//!
//! Invariants: all pages of a [`Memory`] are present. So a lack of memory is an error message at the start, and
//! never a SIGBUS or the OOM killer while a guest runs. The memory is excluded from core dumps of this process,
//! so that a guest's secrets do not get into a file on the host, and a crash does not write gigabytes.
//!
//! Huge pages halve the cost of what a guest does with memory where page tables are shadowed (a first
//! touch is 2.4-3.9 us with 4 KiB pages and 0.2 us with 2 MiB), so `auto` takes the first of: a memfd
//! on hugetlbfs, a memfd if the system allows transparent huge pages there, anonymous memory if it
//! allows them there, a memfd of small pages.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

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
    guest: GuestMemoryMmap,
    /// What it was made of, for `--verbose`.
    pub backing: Backing,
}

impl Memory {
    /// Allocates `bytes`, a multiple of 2 MiB, and makes every page present.
    pub fn new(bytes: u64, backing: Backing) -> anyhow::Result<Memory> {
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
        let ram = GuestRegionMmap::with_arc(Arc::clone(&region), GuestAddress(0))
            .context("guest memory wraps")?;
        let guest = GuestMemoryMmap::from_regions(vec![ram]).context("guest memory overlaps")?;
        Ok(Memory { region, guest, backing })
    }

    /// As loaders see it: by guest-physical address.
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
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
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn memory_every_kind_is_zero_and_whole() {
        const BYTES: u64 = 4 << 20;
        for backing in [Backing::Auto, Backing::Memfd, Backing::Anonymous] {
            let memory = Memory::new(BYTES, backing).expect("four megabytes");
            let last = GuestAddress(BYTES - 8);
            assert_eq!(memory.guest().read_obj::<u64>(last).expect("inside"), 0, "{backing:?}");
            assert!(memory.guest().read_obj::<u64>(GuestAddress(BYTES - 4)).is_err());
            assert_eq!(memory.bytes(), BYTES);
        }
    }

    #[test]
    fn memory_more_than_there_is_fails_in_words() {
        let error = Memory::new(1 << 50, Backing::Memfd).expect_err("a petabyte");
        let text = format!("{error:#}");
        assert!(text.contains("MiB of guest memory") && text.contains("available"), "{text}");
    }
}
