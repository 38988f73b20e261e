//! Where an initial RAM disk goes, and whether memory has room for kernel and disk.
//!
//! Invariant: a disk lies above what the kernel uses before it knows of it, in whole pages, as high as the kernel can
//! reach: the kernel allocates upwards from its image.

use std::fs::File;

use anyhow::{Context, bail};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::loaded::{Initrd, Loaded};
use super::map::below_hole;
use crate::machine::layout;

/// A disk begins with a page.
const DISK_ALIGN: u64 = 4096;
const MIB: u64 = 1 << 20;

/// An initial RAM disk in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its address.
    pub at: u64,
    /// Its size.
    pub bytes: u64,
}

/// The size of a disk, which must have one before it is read: a pipe has not.
pub fn bytes(Initrd(path): &Initrd) -> anyhow::Result<u64> {
    let data = std::fs::metadata(path).with_context(|| format!("opening {}", path.display()))?;
    if !data.is_file() {
        bail!("{} is no file: an initial RAM disk cannot come by a pipe or device", path.display());
    }
    Ok(data.len())
}

/// Refuses what does not fit the guest's memory: a kernel up to `end`, and a disk of so many bytes, if any.
pub fn fits(memory: &GuestMemoryMmap, end: u64, disk_bytes: u64) -> anyhow::Result<()> {
    let has = below_hole(memory);
    let disk = disk_bytes.checked_next_multiple_of(DISK_ALIGN).unwrap_or(u64::MAX);
    let need = end.saturating_add(disk);
    if need <= has {
        return Ok(());
    }
    let what = if disk > 0 { "it and the initial RAM disk need" } else { "it needs" };
    let need_mib = need.div_ceil(MIB);
    if need > layout::HOLE.start {
        bail!(
            "{what} memory up to {need_mib} MiB, and no guest has more below its devices than 3072"
        );
    }
    bail!(
        "{what} memory up to {need_mib} MiB, and the guest has {}: give it --mem {}M at least, and \
         some to work with",
        has / MIB,
        least(end, disk) / MIB
    );
}

/// Loads a disk for a kernel.
pub fn load(memory: &GuestMemoryMmap, kernel: &Loaded, disk: &Initrd) -> anyhow::Result<Placed> {
    let bytes = bytes(disk)?;
    let Initrd(path) = disk;
    let load = || -> anyhow::Result<Placed> {
        let mut file = File::open(path)?;
        let top = below_hole(memory).min(kernel.disk_end);
        let Some(at) = place(bytes, kernel.end, top) else {
            fits(memory, kernel.end, bytes)?;
            bail!(
                "it is too large: between the kernel and {} MiB, up to where the kernel can \
                   reach for it, there are {} MiB",
                top / MIB,
                top.saturating_sub(kernel.end) / MIB
            );
        };
        let len = usize::try_from(bytes).context("it is too large")?;
        memory.read_exact_volatile_from(GuestAddress(at), &mut file, len)?;
        Ok(Placed { at, bytes })
    };
    load().with_context(|| format!("loading {}", path.display()))
}

/// What to tell of a disk that fits, and that Linux has not the memory to unpack: it needs room for what is in it besides.
pub fn scarce(memory: &GuestMemoryMmap, end: u64, disk: Placed) -> Option<String> {
    let has: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    let least = least(end, disk.bytes);
    (least > has).then(|| {
        format!(
            "the guest has {} MiB of memory, and Linux will not be able to unpack the initial RAM disk, of {}: that \
             takes --mem {}M at least",
            has / MIB,
            disk.bytes.div_ceil(MIB),
            least / MIB
        )
    })
}

/// Bytes of memory for a kernel up to `end` that unpacks a disk of so many bytes.
fn least(end: u64, disk_bytes: u64) -> u64 {
    let need = end.saturating_add(disk_bytes.saturating_mul(2));
    need.checked_next_multiple_of(layout::RAM_ALIGN_BYTES).unwrap_or(u64::MAX)
}

fn place(bytes: u64, from: u64, top: u64) -> Option<u64> {
    let at = top.checked_sub(bytes)? & !(DISK_ALIGN - 1);
    (at >= from).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn disks_are_within_their_room_as_high_as_they_can_be(bytes: u64, from: u64, top: u64) {
            match place(bytes, from, top) {
                Some(at) => {
                    prop_assert!(at >= from && at + bytes <= top && at % DISK_ALIGN == 0);
                    prop_assert!(top - (at + bytes) < DISK_ALIGN);
                }
                None => prop_assert!(top.saturating_sub(from) < bytes.saturating_add(DISK_ALIGN)),
            }
        }
    }
}
