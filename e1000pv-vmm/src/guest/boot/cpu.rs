//! Registers at the entry of a PVH kernel: 32-bit protected mode, flat segments, paging off, interrupts
//! off, `ebx` pointing to the start_info.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use crate::machine::layout;

/// CR0: protection enable, and the bit that says 387 and is always one.
const CR0_PE_ET: u64 = 1 << 0 | 1 << 4;
/// RFLAGS: the bit that is always one.
const RFLAGS_ONE: u64 = 1 << 1;

/// Entries of the boot table: null, flat code, flat data, task state; base, limit, access and flags as
/// the descriptor has them (Intel SDM 3A, 3.4.5).
pub const GDT: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];

/// Takes a descriptor apart for KVM.
fn segment(index: usize) -> kvm_segment {
    let entry = GDT[index];
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

/// Sets segments, tables and control registers.
pub fn boot_segments(sregs: &mut kvm_sregs) {
    sregs.cs = segment(1);
    let data = segment(2);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(3);
    let limit = size_of_val(&GDT) as u16 - 1;
    sregs.gdt = kvm_dtable { base: layout::BOOT_GDT, limit, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = CR0_PE_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

/// General registers for a kernel that begins at `entry`.
pub fn boot_registers(entry: u64) -> kvm_regs {
    kvm_regs { rip: entry, rbx: layout::START_INFO, rflags: RFLAGS_ONE, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_32_bit() {
        let mut sregs = kvm_sregs::default();
        boot_segments(&mut sregs);
        let (cs, ss, tr) = (sregs.cs, sregs.ss, sregs.tr);
        assert_eq!((cs.base, cs.limit, cs.type_, cs.db, cs.l), (0, u32::MAX, 0xb, 1, 0));
        assert_eq!((ss.base, ss.limit, ss.type_, ss.db, ss.s), (0, u32::MAX, 3, 1, 1));
        assert_eq!((tr.limit, tr.type_, tr.s, tr.present), (0x67, 0xb, 0, 1));
        assert_eq!(sregs.cr0 & (1 << 31 | 1), 1, "protected, not paged");
        assert_eq!(sregs.gdt.limit, 31);
    }
}
