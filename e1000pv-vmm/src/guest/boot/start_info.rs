//! What PVH promises a kernel: start_info, memory map, module, and where to find the command line and ACPI's tables.

use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::map::map;
use super::place::Placed;
use crate::machine::layout;

/// Writes them.
pub fn write(memory: &GuestMemoryMmap, disk: Option<Placed>) -> anyhow::Result<()> {
    let map = map(memory);
    for (i, entry) in map.iter().enumerate() {
        let at = layout::MEMORY_MAP + (i * size_of::<hvm_memmap_table_entry>()) as u64;
        let type_ =
            if entry.is_ram { XEN_HVM_MEMMAP_TYPE_RAM } else { XEN_HVM_MEMMAP_TYPE_RESERVED };
        let (addr, size) = (entry.range.start, entry.range.end - entry.range.start);
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        memory.write_obj(entry, GuestAddress(at))?;
    }
    if let Some(Placed { at, bytes }) = disk {
        let module = hvm_modlist_entry { paddr: at, size: bytes, ..Default::default() };
        memory.write_obj(module, GuestAddress(layout::MODULE_LIST))?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: u32::from(disk.is_some()),
        modlist_paddr: if disk.is_some() { layout::MODULE_LIST } else { 0 },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI_TABLES.start,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write_obj(info, GuestAddress(layout::START_INFO))?;
    Ok(())
}
