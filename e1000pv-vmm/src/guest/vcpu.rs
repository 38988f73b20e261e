//! A vCPU: its first state, and the loop that runs it and answers its exits.
//!
//! Invariants: an exit is answered by the bus, whole, before the guest goes on. A vCPU that is asked to
//! stop does: the flag is looked at before each entry; `immediate_exit`, which the kernel looks at
//! after it has begun to take signals, closes the gap between that look and the entry; and a signal
//! ends an entry that has happened.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::guest::boot;
use crate::machine::bus::Bus;
use crate::machine::cpu::Cpu;
use crate::machine::exit::End;
use crate::machine::layout;
use crate::stats::counters::Vm;

/// Hypervisor leaves begin here.
const CPUID_HYPERVISOR: u32 = 0x4000_0000;

/// Makes vCPU `index`. The first one is at the entry of a PVH kernel; others wait to be started by it.
pub fn create(kvm: &Kvm, vm: &VmFd, index: usize, entry: u64) -> anyhow::Result<VcpuFd> {
    let make = || -> Result<VcpuFd, kvm_ioctls::Error> {
        let vcpu = vm.create_vcpu(index as u64)?;
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        // Unknown frequency (no invariant TSC): the guest measures.
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        adjust_cpuid(cpuid.as_mut_slice(), index);
        if tsc_khz != 0 && tell_tsc(&mut cpuid, tsc_khz).is_err() {
            // The table is full: the guest measures.
        }
        vcpu.set_cpuid2(&cpuid)?;
        if index == 0 {
            let mut sregs = vcpu.get_sregs()?;
            boot::boot_segments(&mut sregs);
            vcpu.set_sregs(&sregs)?;
            vcpu.set_regs(&boot::boot_registers(entry))?;
        }
        Ok(vcpu)
    };
    make()
        .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
        .with_context(|| format!("creating virtual CPU {index}"))
}

/// Adapts the CPUID leaves, which the kernel reports for the CPU that runs this, to vCPU `index`, whose APIC has
/// that id.
fn adjust_cpuid(entries: &mut [kvm_cpuid_entry2], index: usize) {
    for entry in entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | (index as u32) << 24; // initial APIC id
                entry.ecx |= 1 << 31; // under a hypervisor
            }
            // Topology: x2APIC id.
            0xb | 0x1f => entry.edx = index as u32,
            _ => {}
        }
    }
}

/// Adds the leaf that tells the frequency of the TSC, and makes it reachable.
fn tell_tsc(cpuid: &mut kvm_bindings::CpuId, tsc_khz: u32) -> Result<(), vmm_sys_util::fam::Error> {
    let base = cpuid.as_mut_slice().iter_mut().find(|e| e.function == CPUID_HYPERVISOR);
    let Some(base) = base else { return Ok(()) };
    base.eax = base.eax.max(layout::CPUID_TSC_KHZ);
    cpuid.retain(|entry| entry.function != layout::CPUID_TSC_KHZ);
    cpuid.push(kvm_cpuid_entry2 {
        function: layout::CPUID_TSC_KHZ,
        eax: tsc_khz,
        ebx: 1_000_000, // KVM's local APIC counts nanoseconds: 1 GHz
        ..Default::default()
    })
}

/// Stops a vCPU from another thread.
#[derive(Debug, Default)]
pub struct Kick {
    stop: AtomicBool,
    target: Mutex<Option<Target>>,
}

struct Target {
    /// `kvm_run.immediate_exit`, mapped as long as this target is set.
    immediate_exit: *const AtomicU8,
    thread: libc::pthread_t,
}

// SAFETY: the pointer is to an atomic that is valid while the target is set, by whichever thread.
unsafe impl Send for Target {}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target")
    }
}

/// Withdraws the target when the vCPU thread is done with it, however that ends.
struct Armed<'a>(&'a Kick);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        *self.0.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Kick {
    /// A kick for a vCPU that does not run yet. Installs the signal's handler, which does nothing:
    /// being interrupted is all that is wanted.
    pub fn new() -> anyhow::Result<Arc<Kick>> {
        register_signal_handler(SIGRTMIN(), ignore)
            .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
            .context("installing the vCPU's signal")?;
        Ok(Arc::default())
    }

    /// Makes the vCPU stop, now or as soon as it starts.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(target) = &*self.target.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: the target is set, so the mapping is there; see `run`.
            unsafe { &*target.immediate_exit }.store(1, Ordering::SeqCst);
            // SAFETY: the target is set, so its thread is in `run`.
            unsafe { libc::pthread_kill(target.thread, SIGRTMIN()) };
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn arm(&self, vcpu: &mut VcpuFd) -> Armed<'_> {
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        // SAFETY: no condition; it names the calling thread.
        let thread = unsafe { libc::pthread_self() };
        let target = Target { immediate_exit, thread };
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        Armed(self)
    }
}

/// Runs the vCPU in this thread until the guest ends or somebody kicks.
pub fn run(vcpu: &mut VcpuFd, cpu: &Cpu, bus: &Bus, kick: &Kick) -> End {
    let counters = &cpu.counters;
    // Withdrawn before this returns, hence before the vCPU can be unmapped.
    let _armed = kick.arm(vcpu);
    loop {
        if kick.stopped() {
            return End::Asked;
        }
        let exit = vcpu.run();
        counters.bump(Vm::Exits, 1);
        let end = match exit {
            Ok(VcpuExit::MmioRead(address, data)) => {
                counters.bump(Vm::MmioExits, 1);
                bus.mmio_read(cpu, address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                counters.bump(Vm::MmioExits, 1);
                bus.mmio_write(cpu, address, data);
                None
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                counters.bump(Vm::PioExits, 1);
                bus.port_in(cpu, port, data);
                None
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                counters.bump(Vm::PioExits, 1);
                bus.port_out(cpu, port, data)
            }
            Ok(VcpuExit::Intr) => {
                counters.bump(Vm::SignalExits, 1);
                None
            }
            Ok(VcpuExit::Hlt) => Some(End::Crash(crash("it halted for ever", vcpu))),
            Ok(VcpuExit::Shutdown) => Some(End::Crash(crash("triple fault", vcpu))),
            Ok(VcpuExit::SystemEvent(..)) => Some(End::Reset),
            Ok(VcpuExit::InternalError) => {
                // SAFETY: the exit reason says that this is the member of the union in use; it is
                // plain integers in any case.
                let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
                let what =
                    format!("an instruction that KVM cannot emulate ({})", internal.suberror);
                Some(End::Crash(crash(&what, vcpu)))
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Some(End::Crash(crash(&format!("the CPU refuses its state ({reason:#x})"), vcpu)))
            }
            Ok(other) => {
                let what = format!("an exit that nobody expects, {other:?}");
                Some(End::Crash(crash(&what, vcpu)))
            }
            Err(e) if [libc::EINTR, libc::EAGAIN].contains(&e.errno()) => {
                counters.bump(Vm::SignalExits, 1);
                None
            }
            Err(e) => {
                let why = std::io::Error::from_raw_os_error(e.errno());
                Some(End::Crash(crash(&format!("KVM gave up: {why}"), vcpu)))
            }
        };
        if let Some(end) = end {
            return end;
        }
    }
}

/// What happened and where.
fn crash(what: &str, vcpu: &VcpuFd) -> String {
    match (vcpu.get_regs(), vcpu.get_sregs()) {
        (Ok(regs), Ok(sregs)) => format!(
            "{what} at {:#x} (rsp {:#x}, cr0 {:#x}, cr2 {:#x}, cr3 {:#x})",
            regs.rip, regs.rsp, sregs.cr0, sregs.cr2, sregs.cr3
        ),
        _ => what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_tells_the_frequency_and_names_vcpu_0() {
        let entry = |function, eax, ebx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            edx,
            ..Default::default()
        };
        let mut cpuid = kvm_bindings::CpuId::from_entries(&[
            entry(1, 0, 0x0702_0800, 0),
            entry(0xb, 0, 0, 7),
            entry(CPUID_HYPERVISOR, 0x4000_0001, 0, 0),
        ])
        .expect("three entries");
        adjust_cpuid(cpuid.as_mut_slice(), 0);
        tell_tsc(&mut cpuid, 2_500_000).expect("room");
        let get =
            |function| *cpuid.as_slice().iter().find(|e| e.function == function).expect("the leaf");
        assert_eq!((get(1).ebx, get(1).ecx), (0x0002_0800, 1 << 31));
        assert_eq!(get(0xb).edx, 0);
        assert_eq!(get(CPUID_HYPERVISOR).eax, layout::CPUID_TSC_KHZ);
        assert_eq!(get(layout::CPUID_TSC_KHZ).eax, 2_500_000);
    }

    #[test]
    fn cpuid_tells_each_vcpu_its_own_apic_id() {
        let entry = |function| kvm_cpuid_entry2 { function, ebx: u32::MAX, ..Default::default() };
        let mut entries = [entry(1), entry(0xb)];
        adjust_cpuid(&mut entries, 3);
        assert_eq!((entries[0].ebx >> 24, entries[1].edx), (3, 3));
    }

    #[test]
    fn kick_before_the_run_is_not_lost() {
        let kick = Kick::new().expect("a signal");
        kick.stop();
        assert!(kick.stopped());
    }
}
