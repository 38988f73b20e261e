//! What a vCPU says of itself by CPUID: what the host's processor can do and KVM supports, with the topology of this
//! machine, which is one package of cores with one thread each (Intel SDM 2A, CPUID; AMD APM 3, appendix E).
//!
//! Invariants: the APIC id of vCPU n is n, by every leaf that has one. KVM's own leaves are passed on, so guests find
//! kvm-clock, which is also where the date comes from; the instruction RDRAND is passed on, where Linux has its first
//! entropy from.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::machine::layout;

/// Hypervisor leaves begin here.
const HYPERVISOR: u32 = 0x4000_0000;
/// Leaf 1, ECX: under a hypervisor.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local APIC's timer goes off at a value of the TSC.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, EDX: the package has several logical processors (HTT).
const EDX_MANY: u32 = 1 << 28;
/// Extended topology, of Intel's and AMD's; a second version of it.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// Kinds of levels there.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Adapts the leaves, which KVM reports for the processor that runs this, to vCPU `index` of `count`.
pub fn adjust(cpuid: &mut CpuId, index: usize, count: usize) {
    let (id, count) = (index as u32, count as u32);
    /// Replaces a field.
    fn set(register: &mut u32, mask: u32, value: u32) {
        *register = *register & !mask | value & mask;
    }
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                set(&mut entry.ebx, 0xff00_0000, id << 24); // initial APIC id
                set(&mut entry.ebx, 0x00ff_0000, count << 16); // logical processors
                set(&mut entry.edx, EDX_MANY, if count > 1 { EDX_MANY } else { 0 });
                entry.ecx |= ECX_HYPERVISOR;
            }
            // Caches of Intel: bits 31:26 are the cores of the package, 25:14 who shares the cache. None is shared.
            4 if entry.eax & 0x1f != 0 => set(&mut entry.eax, 0xffff_c000, (count - 1) << 26),
            // AMD: cores, and how many bits of an APIC id are for them.
            0x8000_0008 => set(&mut entry.ecx, 0xf0ff, id_bits(count) << 12 | (count - 1)),
            // Caches of AMD: who shares them.
            0x8000_001d if entry.eax & 0x1f != 0 => set(&mut entry.eax, 0x03ff_c000, 0),
            // AMD: APIC id; core id, one thread in each core; one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
            _ => {}
        }
    }
    topology(cpuid, id, count);
}

/// Bits of an APIC id that tell cores apart.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// KVM reports the leaves of topology without levels, which they get here.
fn topology(cpuid: &mut CpuId, id: u32, count: u32) {
    let has = |leaf| cpuid.as_slice().iter().any(|entry| entry.function == leaf);
    for leaf in TOPOLOGY.into_iter().filter(|leaf| has(*leaf)).collect::<Vec<_>>() {
        cpuid.retain(|entry| entry.function != leaf);
        let level = |index, shift, processors, kind: u32| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: kind | index,
            edx: id,
            ..Default::default()
        };
        let levels = [
            level(0, 0, 1, LEVEL_THREAD),
            level(1, id_bits(count), count, LEVEL_CORE),
            level(2, 0, 0, 0),
        ];
        for level in levels {
            // The table has room for four times what processors have.
            let _ = cpuid.push(level);
        }
    }
}

/// Offers the timer that is set to a value of the TSC. KVM has it and leaves it out of its leaves, since it goes with the local
/// APIC in the kernel. Without it Linux measures the APIC's timer against the PIT, and where the host is busy, so that
/// the two disagree, it goes without that timer for good.
pub fn offer_deadline_timer(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx |= ECX_TSC_DEADLINE;
    }
}

/// Adds the leaf that tells the frequency of the TSC, and makes it reachable. Without it, or if the table is full,
/// guests measure.
pub fn tell_tsc(cpuid: &mut CpuId, tsc_khz: u32) {
    let base = cpuid.as_mut_slice().iter_mut().find(|entry| entry.function == HYPERVISOR);
    let Some(base) = base else { return };
    base.eax = base.eax.max(layout::CPUID_TSC_KHZ);
    cpuid.retain(|entry| entry.function != layout::CPUID_TSC_KHZ);
    let _ = cpuid.push(kvm_cpuid_entry2 {
        function: layout::CPUID_TSC_KHZ,
        eax: tsc_khz,
        ebx: 1_000_000, // KVM's local APIC counts nanoseconds: 1 GHz
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32, ebx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, edx, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let all = cpuid.as_slice();
        *all.iter().find(|e| (e.function, e.index) == (function, index)).expect("the leaf")
    }

    #[test]
    fn frequency_is_told_and_a_machine_of_one_is_no_group() {
        let mut cpuid = CpuId::from_entries(&[
            entry(1, 0, 0x0702_0800, EDX_MANY),
            entry(0xb, 0, 0, 7),
            entry(HYPERVISOR, 0x4000_0001, 0, 0),
            entry(0x4000_0001, 0x0100_00fb, 0, 0),
        ])
        .expect("four entries");
        adjust(&mut cpuid, 0, 1);
        tell_tsc(&mut cpuid, 2_500_000);
        let first = find(&cpuid, 1, 0);
        assert_eq!((first.ebx, first.ecx, first.edx), (0x0001_0800, ECX_HYPERVISOR, 0));
        offer_deadline_timer(&mut cpuid);
        assert_eq!(find(&cpuid, 1, 0).ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
        assert_eq!(find(&cpuid, HYPERVISOR, 0).eax, layout::CPUID_TSC_KHZ);
        assert_eq!(find(&cpuid, layout::CPUID_TSC_KHZ, 0).eax, 2_500_000);
        assert_eq!(find(&cpuid, 0x4000_0001, 0).eax, 0x0100_00fb, "kvm-clock and the rest");
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_in_every_leaf_and_the_same_neighbours() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2)] {
            for index in 0..count {
                let of = |function| entry(function, u32::MAX, u32::MAX, u32::MAX);
                let leaves = [1, 4, 0xb, 0x1f, 0x8000_0008, 0x8000_001e];
                let mut cpuid = CpuId::from_entries(&leaves.map(of)).expect("room");
                adjust(&mut cpuid, index as usize, count as usize);
                let first = find(&cpuid, 1, 0);
                assert_eq!((first.ebx >> 24, first.ebx >> 16 & 0xff), (index, count));
                assert_eq!(first.edx & EDX_MANY != 0, count > 1);
                assert_eq!(find(&cpuid, 4, 0).eax >> 26, count - 1);
                for leaf in TOPOLOGY {
                    let (thread, core) = (find(&cpuid, leaf, 0), find(&cpuid, leaf, 1));
                    assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
                    assert_eq!((core.eax, core.ebx, core.ecx), (bits, count, 0x201));
                    assert_eq!((thread.edx, core.edx), (index, index));
                    assert_eq!(find(&cpuid, leaf, 2).ebx, 0, "the last level");
                }
                let size = find(&cpuid, 0x8000_0008, 0).ecx;
                assert_eq!((size & 0xff, size >> 12 & 0xf), (count - 1, bits));
                assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, index);
            }
        }
    }

    #[test]
    fn leaves_that_the_processor_lacks_are_not_invented() {
        let mut cpuid = CpuId::from_entries(&[entry(1, 0, 0, 0)]).expect("an entry");
        adjust(&mut cpuid, 0, 2);
        tell_tsc(&mut cpuid, 1);
        assert_eq!(cpuid.as_slice().len(), 1);
    }
}
