//! The memory map that a kernel is given, in whichever form.
//!
//! Invariants: entries are in order and apart; every byte of RAM is in one, and nothing else is called RAM. What firmware
//! would have its data in is reserved; the ACPI tables are there. So is PCI's configuration, without which Linux does
//! not trust the table that tells of it.

use std::ops::Range;

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::machine::layout;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub range: Range<u64>,
    /// RAM for the guest to use; else reserved.
    pub is_ram: bool,
}

/// The map.
pub fn map(memory: &GuestMemoryMmap) -> Vec<Entry> {
    let ram = |range: Range<u64>| Entry { range, is_ram: true };
    let reserved = |range: Range<u64>| Entry { range, is_ram: false };
    let (legacy, low) = (layout::LEGACY_HOLE, below_hole(memory));
    let mut map = vec![
        ram(0..legacy.start),
        reserved(legacy.clone()),
        ram(legacy.end..low),
        reserved(layout::ECAM),
    ];
    for region in memory.iter().skip(1) {
        let start = region.start_addr().raw_value();
        map.push(ram(start..start + region.len()));
    }
    map
}

/// Where the memory from 0 on ends.
pub fn below_hole(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}
