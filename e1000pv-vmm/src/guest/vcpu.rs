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
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::guest::boot::{self, Entry};
use crate::guest::cpuid;
use crate::machine::bus::Bus;
use crate::machine::cpu::Cpu;
use crate::machine::exit::End;
use crate::stats::counters::Vm;

/// The local APIC's entries for its two inputs, and what they are on a PC: the 8259s, and the NMI.
const LINT: [(usize, u32); 2] = [(0x350, DELIVER_EXTINT), (0x360, DELIVER_NMI)];
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_EXTINT: u32 = 7 << 8;

/// Makes vCPU `index` of `count`. The first one is at the kernel's entry; others wait until it starts them.
pub fn create(
    kvm: &Kvm,
    vm: &VmFd,
    index: usize,
    count: usize,
    entry: Entry,
) -> anyhow::Result<VcpuFd> {
    let make = || -> Result<VcpuFd, kvm_ioctls::Error> {
        let vcpu = vm.create_vcpu(index as u64)?;
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        cpuid::adjust(&mut cpuid, index, count);
        if kvm.check_extension(Cap::TscDeadlineTimer) {
            cpuid::offer_deadline_timer(&mut cpuid);
        }
        // Unknown frequency (no invariant TSC): the guest measures.
        if let Ok(tsc_khz @ 1..) = vcpu.get_tsc_khz() {
            cpuid::tell_tsc(&mut cpuid, tsc_khz);
        }
        vcpu.set_cpuid2(&cpuid)?;
        let mut lapic = vcpu.get_lapic()?;
        for (at, delivery) in LINT {
            for (register, byte) in lapic.regs[at..].iter_mut().zip(delivery.to_le_bytes()) {
                *register = byte.cast_signed();
            }
        }
        vcpu.set_lapic(&lapic)?;
        if index == 0 {
            let mut sregs = vcpu.get_sregs()?;
            boot::boot_segments(&mut sregs, entry);
            vcpu.set_sregs(&sregs)?;
            vcpu.set_regs(&boot::boot_registers(entry))?;
        }
        Ok(vcpu)
    };
    make()
        .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
        .with_context(|| format!("creating virtual CPU {index}"))
}

/// What a vCPU says when it is asked whether it has halted.
mod answer {
    pub const NONE: u8 = 0;
    pub const ASKED: u8 = 1;
    pub const RUNS: u8 = 2;
    pub const HALTED: u8 = 3;
}

/// Stops a vCPU from another thread, or asks it something.
#[derive(Debug, Default)]
pub struct Kick {
    /// It ends.
    stop: AtomicBool,
    /// It stops until it is resumed.
    pause: AtomicBool,
    /// Whether it has halted.
    answer: AtomicU8,
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
        self.interrupt(true);
    }

    /// The same, until it is resumed.
    pub fn pause(&self) {
        self.pause.store(true, Ordering::SeqCst);
        self.interrupt(true);
    }

    /// By the vCPU's thread: it may run again.
    pub fn resume(&self, vcpu: &mut VcpuFd) {
        vcpu.set_kvm_immediate_exit(0);
        self.pause.store(false, Ordering::SeqCst);
        self.answer.store(answer::NONE, Ordering::SeqCst);
    }

    /// Asks it whether it has halted for good. One that does not execute its guest just now does not answer.
    pub fn ask_halted(&self) {
        self.answer.store(answer::ASKED, Ordering::SeqCst);
        self.interrupt(false);
    }

    /// Whether it has answered that it has.
    pub fn is_halted(&self) -> bool {
        self.answer.load(Ordering::SeqCst) == answer::HALTED
    }

    fn interrupt(&self, stops: bool) {
        if let Some(target) = &*self.target.lock().unwrap_or_else(PoisonError::into_inner) {
            if stops {
                // SAFETY: the target is set, so the mapping is there; see `run`.
                unsafe { &*target.immediate_exit }.store(1, Ordering::SeqCst);
            }
            // SAFETY: the target is set, so its thread is in `run`.
            unsafe { libc::pthread_kill(target.thread, SIGRTMIN()) };
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.pause.load(Ordering::SeqCst)
    }

    /// Answers, if that was asked.
    fn tell_halted(&self, vcpu: &mut VcpuFd) {
        if self.answer.load(Ordering::SeqCst) == answer::ASKED {
            let halted = if has_halted(vcpu) { answer::HALTED } else { answer::RUNS };
            self.answer.store(halted, Ordering::SeqCst);
        }
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

/// Whether nothing but a reset can wake it: halted with interrupts off, or never started.
fn has_halted(vcpu: &mut VcpuFd) -> bool {
    let interruptible = vcpu.get_kvm_run().if_flag != 0;
    match vcpu.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_HALTED) => !interruptible,
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => true,
        _ => false,
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
                kick.tell_halted(vcpu);
                None
            }
            Ok(VcpuExit::Hlt) => Some(End::Halt),
            Ok(VcpuExit::Shutdown) => Some(End::TripleFault(crash("triple fault", vcpu))),
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
                kick.tell_halted(vcpu);
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
    fn kick_before_the_run_is_not_lost() {
        let kick = Kick::new().expect("a signal");
        kick.stop();
        assert!(kick.stopped());
    }
}
