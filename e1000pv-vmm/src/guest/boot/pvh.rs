//! Loads an ELF image and writes what PVH promises it: start_info, memory map, command line, module.
//!
//! The image may be any file, so every size and address in it is checked against guest memory, and errors say
//! what is wrong with it.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::cpu::GDT;
use crate::machine::layout;

/// An initial RAM disk begins with a page.
const DISK_ALIGN: u64 = 4096;
/// ELF: a segment that is loaded.
const PT_LOAD: u32 = 1;

/// What to boot.
#[derive(Clone, Debug)]
pub enum Image {
    /// An image in memory, with its name for messages.
    Bytes(&'static [u8], &'static str),
    /// A file.
    File(PathBuf),
}

/// An initial RAM disk.
#[derive(Clone, Debug)]
pub struct Initrd(pub PathBuf);

#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct MapEntry(hvm_memmap_table_entry);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Module(hvm_modlist_entry);

// SAFETY: repr(C) structures of integers without padding (sizes are asserted by linux-loader).
unsafe impl ByteValued for StartInfo {}
// SAFETY: as above.
unsafe impl ByteValued for MapEntry {}
// SAFETY: as above.
unsafe impl ByteValued for Module {}

/// Loads the image and all it needs into `memory` of `bytes` from address 0. Returns its entry.
pub fn load(
    memory: &GuestMemoryMmap,
    bytes: u64,
    image: &Image,
    initrd: Option<&Initrd>,
    command_line: &str,
) -> anyhow::Result<u64> {
    let (loaded, name) = match image {
        Image::Bytes([], name) => {
            bail!("this build carries no {name}; give a PVH kernel by --kernel")
        }
        Image::Bytes(image, name) => (elf(memory, &mut Cursor::new(*image)), name.to_string()),
        Image::File(path) => {
            let open = || format!("opening {}", path.display());
            let mut file = File::open(path).with_context(open)?;
            if let Some(why) = super::kind::wrong_kind(&file) {
                bail!("loading {}: {why}", path.display());
            }
            room(bytes, &mut file, initrd)
                .with_context(|| format!("loading {}", path.display()))?;
            (elf(memory, &mut file), path.display().to_string())
        }
    };
    let loaded = loaded.with_context(|| format!("loading {name}"))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        bail!("{name} has no PVH entry (an ELF note of Xen's): an uncompressed vmlinux is needed");
    };
    if entry.0 < layout::KERNEL_MIN || entry.0 >= bytes {
        bail!("{name} begins at {:#x}, outside of the guest's memory", entry.0);
    }
    // The image that this program carries has not been looked at yet.
    if loaded.kernel_end > bytes {
        bail!(
            "{name} needs memory up to {} MiB: give the guest more by --mem",
            loaded.kernel_end.div_ceil(1 << 20)
        );
    }
    let module = match initrd {
        None => None,
        Some(Initrd(path)) => Some(
            load_initrd(memory, bytes, loaded.kernel_end, path)
                .with_context(|| format!("loading {}", path.display()))?,
        ),
    };
    tables(memory, bytes, command_line, module)?;
    Ok(entry.0)
}

/// Refuses an image that does not fit the guest's memory, with its initial RAM disk if there is one, and
/// says how much both need.
fn room(bytes: u64, image: &mut File, initrd: Option<&Initrd>) -> anyhow::Result<()> {
    let Some(end) = end(image) else { return Ok(()) }; // the loader reports what is wrong with it
    let disk = match initrd {
        Some(Initrd(path)) => {
            let size = std::fs::metadata(path)
                .with_context(|| format!("opening {}", path.display()))?
                .len();
            size.div_ceil(DISK_ALIGN).saturating_mul(DISK_ALIGN)
        }
        None => 0,
    };
    let need = end.saturating_add(disk);
    if need > bytes {
        let what = if initrd.is_some() { "it and the initial RAM disk need" } else { "it needs" };
        bail!(
            "{what} memory up to {} MiB, and the guest has {}: give it more by --mem, and some to \
             work with",
            need.div_ceil(1 << 20),
            bytes >> 20
        );
    }
    Ok(())
}

/// Where the last segment of an ELF image (64-bit, little endian) ends in memory, `None` for anything
/// else. Impossible numbers are left for the loader to refuse.
fn end(image: &mut File) -> Option<u64> {
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

fn elf<F: Read + ReadVolatile + Seek>(
    memory: &GuestMemoryMmap,
    image: &mut F,
) -> anyhow::Result<KernelLoaderResult> {
    let lowest = Some(GuestAddress(layout::KERNEL_MIN));
    // A 64-bit kernel's e_entry may be virtual; only the PVH note's address is used, and checked.
    Elf::load(memory, None, image, lowest).map_err(|e| {
        use linux_loader::loader::Error::Elf as InElf;
        use linux_loader::loader::elf::Error as Why;
        match e {
            InElf(Why::ReadElfHeader | Why::InvalidElfMagicNumber) => {
                anyhow::anyhow!(
                    "it is not an ELF image (of Linux, vmlinux is one, bzImage is none)"
                )
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
    })
}

/// At the end of memory, in whole pages, as other loaders do: the kernel allocates upwards from its image.
fn load_initrd(
    memory: &GuestMemoryMmap,
    bytes: u64,
    kernel_end: u64,
    path: &Path,
) -> anyhow::Result<Module> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let at =
        bytes.checked_sub(size).map(|at| at & !(DISK_ALIGN - 1)).filter(|at| *at >= kernel_end);
    let Some(at) = at else { bail!("it does not fit the guest's memory beside the kernel") };
    let len = usize::try_from(size).context("it is too large")?;
    memory.read_exact_volatile_from(GuestAddress(at), &mut file, len)?;
    Ok(Module(hvm_modlist_entry { paddr: at, size, ..Default::default() }))
}

fn map(bytes: u64) -> [MapEntry; 3] {
    let entry = |addr, end, type_| {
        MapEntry(hvm_memmap_table_entry { addr, size: end - addr, type_, reserved: 0 })
    };
    let hole = layout::LEGACY_HOLE;
    [
        entry(0, hole.start, XEN_HVM_MEMMAP_TYPE_RAM),
        entry(hole.start, hole.end, XEN_HVM_MEMMAP_TYPE_RESERVED),
        entry(hole.end, bytes, XEN_HVM_MEMMAP_TYPE_RAM),
    ]
}

fn tables(
    memory: &GuestMemoryMmap,
    bytes: u64,
    command_line: &str,
    module: Option<Module>,
) -> anyhow::Result<()> {
    if command_line.len() >= layout::COMMAND_LINE_MAX_BYTES || command_line.contains('\0') {
        bail!(
            "a kernel command line has less than {} bytes and no zero byte",
            layout::COMMAND_LINE_MAX_BYTES
        );
    }
    let mut text = command_line.as_bytes().to_vec();
    text.push(0);
    memory.write_slice(&text, GuestAddress(layout::COMMAND_LINE))?;
    for (i, entry) in GDT.iter().enumerate() {
        memory.write_obj(*entry, GuestAddress(layout::BOOT_GDT + 8 * i as u64))?;
    }
    let map = map(bytes);
    for (i, entry) in map.iter().enumerate() {
        let at = layout::MEMORY_MAP + (i * size_of::<MapEntry>()) as u64;
        memory.write_obj(*entry, GuestAddress(at))?;
    }
    if let Some(module) = module {
        memory.write_obj(module, GuestAddress(layout::MODULE_LIST))?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(module.is_some()),
        modlist_paddr: if module.is_some() { layout::MODULE_LIST } else { 0 },
        cmdline_paddr: layout::COMMAND_LINE,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write_obj(StartInfo(info), GuestAddress(layout::START_INFO))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BYTES: u64 = 16 << 20;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), BYTES as usize)]).expect("memory")
    }

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Image) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("room");
        let image = Image::File(file.path().to_path_buf());
        (file, image)
    }

    fn error(bytes: &[u8]) -> String {
        let (_file, image) = file(bytes);
        format!("{:#}", load(&memory(), BYTES, &image, None, "").expect_err("no kernel"))
    }

    #[test]
    fn tables_say_what_the_machine_has() {
        let memory = memory();
        tables(&memory, BYTES, "tx count=1", None).expect("room");
        let StartInfo(info) =
            memory.read_obj(GuestAddress(layout::START_INFO)).expect("start_info");
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 0));
        let mut line = [0; 11];
        memory.read_slice(&mut line, GuestAddress(info.cmdline_paddr)).expect("command line");
        assert_eq!(&line, b"tx count=1\0");
        let mut next = 0;
        for i in 0..u64::from(info.memmap_entries) {
            let MapEntry(entry) =
                memory.read_obj(GuestAddress(info.memmap_paddr + 24 * i)).expect("entry");
            assert_eq!(entry.addr, next, "no gap, no overlap");
            next = entry.addr + entry.size;
        }
        assert_eq!(next, BYTES);
    }

    #[test]
    fn initrd_is_at_the_end_and_must_fit() {
        let memory = memory();
        let (disk, _) = file(b"an initial RAM disk");
        let Module(module) = load_initrd(&memory, BYTES, 2 << 20, disk.path()).expect("room");
        assert_eq!((module.paddr, module.size), (BYTES - 4096, 19));
        let mut start = [0; 10];
        memory.read_slice(&mut start, GuestAddress(module.paddr)).expect("inside");
        assert_eq!(&start, b"an initial");
        assert!(load_initrd(&memory, BYTES, BYTES - 100, disk.path()).is_err());
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_words() {
        assert!(error(b"").contains("not an ELF image"));
        assert!(error(&[0x90; 4096]).contains("not an ELF image"));
        // ELF header of a program without program headers.
        let mut header = vec![0u8; 64];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        header[18] = 62;
        header[24..32].copy_from_slice(&layout::KERNEL_MIN.to_le_bytes());
        header[32..40].copy_from_slice(&64u64.to_le_bytes());
        header[52] = 64;
        header[54] = 56;
        assert!(error(&header).contains("no PVH entry"), "{}", error(&header));
    }

    /// An image with one segment from 1 MiB on, of so many bytes.
    fn kernel_of(bytes: u64) -> Vec<u8> {
        let mut image = vec![0u8; 120];
        image[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        image[18] = 62;
        image[24..32].copy_from_slice(&layout::KERNEL_MIN.to_le_bytes());
        image[32..40].copy_from_slice(&64u64.to_le_bytes());
        image[52] = 64;
        image[54] = 56;
        image[56] = 1;
        image[64..68].copy_from_slice(&PT_LOAD.to_le_bytes());
        image[64 + 24..64 + 32].copy_from_slice(&layout::KERNEL_MIN.to_le_bytes());
        image[64 + 40..64 + 48].copy_from_slice(&bytes.to_le_bytes());
        image
    }

    #[test]
    fn kernel_and_disk_that_do_not_fit_tell_what_they_need() {
        assert!(error(&kernel_of(20 << 20)).contains("it needs memory up to 21 MiB"));
        let (_file, image) = file(&kernel_of(14 << 20));
        let load = |disk: Option<&Initrd>| load(&memory(), BYTES, &image, disk, "");
        let fits = format!("{:#}", load(None).expect_err("no entry"));
        assert!(fits.contains("no PVH entry"), "{fits}");
        let (disk, _) = file(&vec![1; (3 << 20) / 2]);
        let disk = Initrd(disk.path().to_path_buf());
        let text = format!("{:#}", load(Some(&disk)).expect_err("too much"));
        assert!(text.contains("the initial RAM disk need memory up to 17 MiB"), "{text}");
        assert!(text.contains("--mem"), "{text}");
        // Numbers that wrap must not cause a panic.
        assert!(!error(&kernel_of(u64::MAX)).is_empty());
    }

    #[test]
    fn command_line_too_long_is_refused() {
        let long = "x".repeat(layout::COMMAND_LINE_MAX_BYTES);
        assert!(tables(&memory(), BYTES, &long, None).is_err());
        assert!(tables(&memory(), BYTES, &long[1..], None).is_ok());
        assert!(tables(&memory(), BYTES, "a\0b", None).is_err());
    }
}
