//! From a kernel's file to a machine that is about to execute its first instruction.
//!
//! ```text
//!            file -- kind -+- ELF, by the PVH boot ABI ---- elf, start_info --+
//!  (what is it not?)       +- bzImage, by Linux's protocol - bzimage, zero_page -+- cpu: the first vCPU's state
//!  initial RAM disk ------ place: high, in whole pages      map: what is memory
//! ```
//!
//! PVH is Xen's direct boot (docs/misc/pvh.pandoc), the same that QEMU's `-kernel` follows for ELF images; Linux's
//! protocol is its Documentation/arch/x86/boot.rst, of which the 64-bit entry is used.
//!
//! Invariants: a file may be any: each size and address in it is checked against guest memory, and errors say what is
//! wrong with it. What is refused for its size is refused before anything is loaded, with the size that is needed.

mod bzimage;
mod cpu;
mod elf;
mod kind;
mod loaded;
mod map;
mod place;
mod start_info;
mod zero_page;

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use anyhow::{Context, bail};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub use cpu::{boot_registers, boot_segments};
pub use loaded::{Entry, Initrd};

use self::bzimage::Header;
use self::loaded::Loaded;
use crate::machine::layout;

/// What to boot.
#[derive(Clone, Debug)]
pub enum Image {
    /// An image in memory, with its name for messages.
    Bytes(&'static [u8], &'static str),
    /// A file.
    File(PathBuf),
}

/// Loads the image and all it needs into `memory`, with the ACPI tables.
///
/// # Errors
/// Something cannot be loaded; in words.
pub fn load(
    memory: &GuestMemoryMmap,
    image: &Image,
    initrd: Option<&Initrd>,
    command_line: &str,
    acpi: &[u8],
) -> anyhow::Result<Entry> {
    let (loaded, name) = match image {
        Image::Bytes([], name) => {
            bail!("this build carries no {name}; give a kernel by --kernel")
        }
        Image::Bytes(image, name) => {
            let loaded = elf::load(memory, &mut Cursor::new(*image));
            let long = layout::COMMAND_LINE_MAX_BYTES - 1;
            (loaded.map(|elf| (Loaded { command_line: long, ..elf }, None)), name.to_string())
        }
        Image::File(path) => (file(memory, path, initrd), path.display().to_string()),
    };
    let (loaded, header) = loaded.with_context(|| format!("loading {name}"))?;
    place::fits(memory, loaded.end, 0).with_context(|| format!("loading {name}"))?;
    let disk = match initrd {
        None => None,
        Some(disk) => Some(place::load(memory, &loaded, disk)?),
    };
    if let Some(scarce) = disk.and_then(|disk| place::scarce(memory, loaded.end, disk)) {
        nm_cli::say!("e1000pv-vmm: {scarce}"); // a kernel that leaves it packed can do with less
    }
    check_command_line(command_line, loaded.command_line)?;
    write_common(memory, command_line, acpi, loaded.entry)?;
    match header {
        None => start_info::write(memory, disk)?,
        Some(header) => zero_page::write(memory, &header, disk)?,
    }
    Ok(loaded.entry)
}

/// Loads a file of whichever kind it is; with what a bzImage says of itself.
fn file(
    memory: &GuestMemoryMmap,
    path: &PathBuf,
    initrd: Option<&Initrd>,
) -> anyhow::Result<(Loaded, Option<Header>)> {
    // Before it is opened, which would wait for a FIFO's writer. What is read twice, by a reboot too, must be a file.
    if !std::fs::metadata(path)?.is_file() {
        bail!("it is no file: a kernel cannot come by a pipe or device");
    }
    let mut file = File::open(path)?;
    if let Some(why) = kind::wrong_kind(&file) {
        bail!("{why}");
    }
    let disk_bytes = initrd.map_or(Ok(0), place::bytes)?;
    match Header::read(&file)? {
        Some(header) => {
            place::fits(memory, header.end(), disk_bytes)?;
            Ok((header.load(memory, &mut file)?, Some(header)))
        }
        None => {
            // Without an end, the loader reports what is wrong with it.
            if let Some(end) = elf::end(&file) {
                place::fits(memory, end, disk_bytes)?;
            }
            Ok((elf::load(memory, &mut file)?, None))
        }
    }
}

fn check_command_line(line: &str, limit: usize) -> anyhow::Result<()> {
    if line.contains('\0') {
        bail!("a kernel command line has no zero byte");
    }
    if line.len() > limit {
        bail!(
            "the kernel command line has {} bytes, and this kernel takes {limit}: shorten --cmdline",
            line.len()
        );
    }
    Ok(())
}

/// What every kernel finds, whatever it is told about.
fn write_common(
    memory: &GuestMemoryMmap,
    command_line: &str,
    acpi: &[u8],
    entry: Entry,
) -> anyhow::Result<()> {
    let mut text = command_line.as_bytes().to_vec();
    text.push(0);
    memory.write_slice(&text, GuestAddress(layout::COMMAND_LINE))?;
    memory.write_slice(acpi, GuestAddress(layout::ACPI_TABLES.start))?;
    for (at, word) in cpu::tables(entry) {
        memory.write_obj(word, GuestAddress(at))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
