//! ELF images with a PVH note.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;

use anyhow::bail;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::loaded::{Entry, Loaded};
use super::map::below_hole;
use crate::machine::layout;

/// Linux's own limit, without the final zero; it cuts longer lines off and says nothing.
const LINUX_COMMAND_LINE: usize = 2047;
/// Linux takes the address of a PVH module's as 32 bits, and all loaders keep RAM disks below this.
pub const PVH_DISK_END: u64 = 2 << 30;

/// A segment that is loaded.
const PT_LOAD: u32 = 1;

/// Loads an image.
pub fn load<F: Read + ReadVolatile + Seek>(
    memory: &GuestMemoryMmap,
    image: &mut F,
) -> anyhow::Result<Loaded> {
    let lowest = Some(GuestAddress(layout::KERNEL_MIN));
    // A 64-bit kernel's e_entry may be virtual; only the PVH note's address is used, and checked.
    let loaded = Elf::load(memory, None, image, lowest).map_err(in_words)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        bail!(
            "it has no PVH entry (an ELF note of Xen's), as Linux has by CONFIG_PVH; the bzImage of the \
             same kernel needs none"
        );
    };
    if entry.0 < layout::KERNEL_MIN || entry.0 >= below_hole(memory) {
        bail!("it begins at {:#x}, outside of the guest's memory", entry.0);
    }
    Ok(Loaded {
        entry: Entry::Pvh(entry.0),
        end: loaded.kernel_end,
        disk_end: PVH_DISK_END,
        command_line: LINUX_COMMAND_LINE,
    })
}

fn in_words(e: linux_loader::loader::Error) -> anyhow::Error {
    use linux_loader::loader::Error::Elf as InElf;
    use linux_loader::loader::elf::Error as Why;
    match e {
        InElf(Why::ReadElfHeader | Why::InvalidElfMagicNumber) => {
            anyhow::anyhow!("it is neither an ELF image (of Linux, vmlinux is one) nor a bzImage")
        }
        InElf(Why::ReadKernelImage) => {
            anyhow::anyhow!("the file is cut off, or it does not fit the guest's memory")
        }
        InElf(Why::InvalidEntryAddress) => anyhow::anyhow!(
            "it begins below {} MiB, where no kernel does; is it a program?",
            layout::KERNEL_MIN >> 20
        ),
        e => e.into(),
    }
}

/// Where the last segment of an ELF image (64-bit, little endian) ends in memory, `None` for anything
/// else. Impossible numbers are left for the loader to refuse.
pub fn end(image: &File) -> Option<u64> {
    let mut header = [0; 64];
    image.read_exact_at(&mut header, 0).ok()?;
    header.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let word = |from: &[u8], at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(from.get(at..at + 8)?.try_into().ok()?))
    };
    let (table, size, count) = (word(&header, 32)?, half(54), half(56));
    let mut end = 0;
    for index in 0..count {
        let mut segment = [0; 56];
        image.read_exact_at(&mut segment, table.checked_add(index * size)?).ok()?;
        if segment.starts_with(&PT_LOAD.to_le_bytes()) {
            let (address, bytes) = (word(&segment, 24)?, word(&segment, 40)?);
            end = end.max(address.checked_add(bytes)?);
        }
    }
    Some(end)
}
