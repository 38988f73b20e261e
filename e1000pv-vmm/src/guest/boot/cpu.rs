//! Registers and tables of the first vCPU at a kernel's entry. PVH: 32-bit protected mode, flat segments, paging off,
//! `ebx` pointing to the start_info. Linux's 64-bit entry: long mode, the first 4 GiB mapped to themselves, code at
//! selector 0x10, data at 0x18, `rsi` pointing to the zero page. Interrupts are off in both.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::loaded::Entry;
use crate::machine::layout;

/// CR0: protection enable, and the bit that says 387 and is always one.
const CR0_PE_ET: u64 = 1 << 0 | 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode is enabled, and active.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: the bit that is always one.
const RFLAGS_ONE: u64 = 1 << 1;

/// Entries of the boot tables; base, limit, access and flags as the descriptor has them (Intel SDM 3A, 3.4.5).
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const TASK: u64 = 0x0000_8b00_0000_0067;

/// A boot table, and the indices of code, data and task state in it.
struct Gdt {
    entries: &'static [u64],
    code: usize,
}

const PVH: Gdt = Gdt { entries: &[0, CODE_32, DATA, TASK], code: 1 };
/// The task state's descriptor is twice as long there, and the second half is zero.
const LINUX: Gdt = Gdt { entries: &[0, 0, CODE_64, DATA, TASK, 0], code: 2 };

impl Gdt {
    fn of(entry: Entry) -> Gdt {
        match entry {
            Entry::Pvh(_) => PVH,
            Entry::Linux(_) => LINUX,
        }
    }

    /// Takes a descriptor apart for KVM.
    fn segment(&self, index: usize) -> kvm_segment {
        let entry = self.entries[index];
        let bits = |from: u32, count: u32| entry >> from & ((1 << count) - 1);
        let granular = bits(55, 1) == 1;
        let limit = (bits(0, 16) | bits(48, 4) << 16) as u32;
        kvm_segment {
            base: bits(16, 24) | bits(56, 8) << 24,
            limit: if granular { limit << 12 | 0xfff } else { limit },
            selector: 8 * index as u16,
            type_: bits(40, 4) as u8,
            s: bits(44, 1) as u8,
            dpl: bits(45, 2) as u8,
            present: bits(47, 1) as u8,
            avl: bits(52, 1) as u8,
            l: bits(53, 1) as u8,
            db: bits(54, 1) as u8,
            g: u8::from(granular),
            ..Default::default()
        }
    }
}

/// The words of the tables that an entry needs in memory, each with its address.
pub fn tables(entry: Entry) -> Vec<(u64, u64)> {
    let gdt = Gdt::of(entry).entries;
    let at = |start: u64, index: usize| start + 8 * index as u64;
    let mut words: Vec<(u64, u64)> =
        gdt.iter().enumerate().map(|(i, word)| (at(layout::BOOT_GDT, i), *word)).collect();
    if matches!(entry, Entry::Linux(_)) {
        words.extend(page_tables());
    }
    words
}

/// One PML4, one table of pointers to directories, four directories: 4 GiB in pages of 2 MiB.
fn page_tables() -> impl Iterator<Item = (u64, u64)> {
    const PAGE: u64 = 4096;
    /// Present, writable.
    const TABLE: u64 = 3;
    /// The same, a page of 2 MiB.
    const LARGE: u64 = TABLE | 1 << 7;
    let (pml4, pointers) = (layout::PAGE_TABLES, layout::PAGE_TABLES + PAGE);
    let directories = pointers + PAGE;
    let of_pointers = (0..4).map(move |i| (pointers + 8 * i, (directories + PAGE * i) | TABLE));
    let of_directories = (0..4 * 512).map(move |i| (directories + 8 * i, i << 21 | LARGE));
    std::iter::once((pml4, pointers | TABLE)).chain(of_pointers).chain(of_directories)
}

/// Sets segments, tables and control registers.
pub fn boot_segments(sregs: &mut kvm_sregs, entry: Entry) {
    let gdt = Gdt::of(entry);
    sregs.cs = gdt.segment(gdt.code);
    let data = gdt.segment(gdt.code + 1);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = gdt.segment(gdt.code + 2);
    let limit = size_of_val(gdt.entries) as u16 - 1;
    sregs.gdt = kvm_dtable { base: layout::BOOT_GDT, limit, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE_ET;
    (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
    if matches!(entry, Entry::Linux(_)) {
        sregs.cr0 |= CR0_PG;
        (sregs.cr3, sregs.cr4, sregs.efer) = (layout::PAGE_TABLES, CR4_PAE, EFER_LME_LMA);
    }
}

/// General registers.
pub fn boot_registers(entry: Entry) -> kvm_regs {
    let regs = kvm_regs { rflags: RFLAGS_ONE, ..Default::default() };
    match entry {
        Entry::Pvh(rip) => kvm_regs { rip, rbx: layout::START_INFO, ..regs },
        Entry::Linux(rip) => kvm_regs { rip, rsi: layout::ZERO_PAGE, ..regs },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_32_bit() {
        let mut sregs = kvm_sregs::default();
        boot_segments(&mut sregs, Entry::Pvh(0));
        let (cs, ss, tr) = (sregs.cs, sregs.ss, sregs.tr);
        assert_eq!((cs.base, cs.limit, cs.type_, cs.db, cs.l), (0, u32::MAX, 0xb, 1, 0));
        assert_eq!((ss.base, ss.limit, ss.type_, ss.db, ss.s), (0, u32::MAX, 3, 1, 1));
        assert_eq!((tr.limit, tr.type_, tr.s, tr.present), (0x67, 0xb, 0, 1));
        assert_eq!(sregs.cr0 & (1 << 31 | 1), 1, "protected, not paged");
        assert_eq!(sregs.gdt.limit, 31);
    }

    #[test]
    fn linux_is_entered_in_long_mode_with_the_segments_that_it_reloads() {
        let mut sregs = kvm_sregs::default();
        boot_segments(&mut sregs, Entry::Linux(0));
        let (cs, ss) = (sregs.cs, sregs.ss);
        assert_eq!((cs.selector, cs.type_, cs.db, cs.l, cs.s), (0x10, 0xb, 0, 1, 1));
        assert_eq!((ss.selector, ss.type_, ss.base, ss.limit), (0x18, 3, 0, u32::MAX));
        assert_eq!((sregs.cr0 & (1 << 31 | 1), sregs.cr4, sregs.efer), (1 << 31 | 1, 0x20, 0x500));
    }

    #[test]
    fn page_tables_map_four_gigabytes_to_themselves() {
        let words: std::collections::BTreeMap<u64, u64> =
            tables(Entry::Linux(0)).into_iter().collect();
        let next = |table: u64, index: u64| words[&(table + 8 * index)] & !0xfff;
        for address in [0u64, 0x1234_5678, 0xffff_ffff] {
            let index = |shift: u32| address >> shift & 511;
            let directory = next(next(layout::PAGE_TABLES, index(39)), index(30));
            let entry = words[&(directory + 8 * index(21))];
            assert_eq!((entry & !0x1f_ffff, entry & 0x83), (address & !0x1f_ffff, 0x83));
        }
        assert!(words.keys().all(|at| *at < layout::PAGE_TABLES + 6 * 4096));
    }
}
