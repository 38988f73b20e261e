//! What Linux's protocol promises a bzImage: `boot_params`, which is called the zero page (zero-page.rst).

use anyhow::Context;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::bzimage::Header;
use super::map::map;
use super::place::Placed;
use crate::machine::layout;

/// A loader that has no number of its own.
const LOADER_UNKNOWN: u8 = 0xff;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Writes it.
pub fn write(
    memory: &GuestMemoryMmap,
    header: &Header,
    disk: Option<Placed>,
) -> anyhow::Result<()> {
    let mut params = boot_params { hdr: header.raw, ..Default::default() };
    params.acpi_rsdp_addr = layout::ACPI_TABLES.start;
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.code32_start = header.raw.pref_address as u32;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    if let Some(Placed { at, bytes }) = disk {
        params.hdr.ramdisk_image = u32::try_from(at).context("the RAM disk is above 4 GiB")?;
        params.hdr.ramdisk_size = u32::try_from(bytes).context("the RAM disk is too large")?;
    }
    let map = map(memory);
    params.e820_entries = map.len() as u8;
    for (to, entry) in params.e820_table.iter_mut().zip(&map) {
        *to = boot_e820_entry {
            addr: entry.range.start,
            size: entry.range.end - entry.range.start,
            r#type: if entry.is_ram { E820_RAM } else { E820_RESERVED },
        };
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}
