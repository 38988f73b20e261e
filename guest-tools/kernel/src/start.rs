//! From the loader's entry to the end of the machine: sets up what the workload needs, runs it, and reports the
//! result. Panics and faults end here, too.

use core::fmt::{self, Write};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use e1000pv::{idle, regs};
use e1000pv_driver::{Bar, Nic};
use guest_workload::{Plan, run};

use crate::boot_info::BootInfo;
use crate::clock::Clock;
use crate::console::Console;
use crate::cpu::{GuestCpu, Sleep};
use crate::heap::Heap;
use crate::{arch, irq, pci};

/// QEMU's isa-debug-exit, as our monitor has it.
const EXIT_PORT: u16 = 0xf4;
/// BAR0 of the 82540EM.
const BAR_BYTES: u32 = 0x20000;

/// What the status at the exit port means.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Status {
    /// Done.
    Done = 0,
    /// Packets came that must not come: damaged, again, or out of order.
    Check = 1,
    /// The command line is invalid.
    CommandLine = 2,
    /// No interface, no memory, or not booted by PVH.
    Machine = 3,
    /// The processor raised an exception.
    Fault = 100,
    /// This program panicked.
    Panic = 101,
}

/// Where `boot.s` goes, at CPL 3 with interrupts on.
#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    irq::init_faults();
    Console::init();
    let Some(info) = BootInfo::read() else {
        end(Status::Machine, format_args!("not booted by PVH, or no memory map"))
    };
    let mut plan = match Plan::parse(info.cmdline) {
        Ok(plan) => plan,
        Err(e) => end(Status::CommandLine, format_args!("{e}")),
    };
    irq::init();
    let clock = Clock::new();
    let sleep = if arch::inl(idle::PORT) == idle::MAGIC {
        irq::introduce();
        Sleep::Call
    } else {
        Sleep::Halt { timer: irq::timer_ticks_per_ms(|| clock.now_ns()) }
    };
    let cpu = GuestCpu { clock, sleep };
    // SAFETY: called once, and by the loader's word this range is RAM; stack and image lie below it.
    let mut heap = unsafe { Heap::new(info.ram_end) };
    let mut found = pci::nics().enumerate().take(idle::NICS);
    let mut start = |plan: &mut Plan| {
        let (i, pci) = found.next()?;
        irq::route(i, pci.bar0 + regs::ICR as usize, pci.irq_line);
        plan.nic.subsystem_id = pci.subsystem_id;
        let base = NonNull::new(pci.bar0 as *mut u32)?;
        // SAFETY: BAR0 of a device whose memory decoding is on, identity-mapped; the stub reads ICR in
        // it, which makes no reference.
        let bar = unsafe { Bar::new(base, BAR_BYTES) };
        match Nic::new(bar, &mut heap, &cpu, &plan.nic) {
            Ok(nic) => Some(nic),
            Err(e) => end(Status::Machine, format_args!("interface {i}: {e}")),
        }
    };
    let Some(first) = start(&mut plan) else {
        end(Status::Machine, format_args!("no 82540EM was found on PCI bus 0"))
    };
    let second = if plan.function.nics() > 1 { start(&mut plan) } else { None };
    // Never dropped, which would reset devices that still send: the machine ends with them.
    let outcome = match second {
        None => run(&plan, &mut *ManuallyDrop::new([first]), &cpu),
        Some(second) => run(&plan, &mut *ManuallyDrop::new([first, second]), &cpu),
    };
    match outcome {
        Ok(summary) => {
            // The console takes everything.
            let _ = summary.write_json(&mut Console);
            let wrong = summary.bad + summary.reordered + summary.duplicated;
            exit(if wrong == 0 { Status::Done } else { Status::Check })
        }
        Err(e) => end(Status::Machine, format_args!("{e}")),
    }
}

unsafe extern "C" {
    static fault_vector: u32;
    static fault_code: u64;
    static fault_address: u64;
    static fault_rip: u64;
}

/// Where the exception stubs of `boot.s` go, at CPL 3.
#[unsafe(no_mangle)]
extern "C" fn guest_fault() -> ! {
    // SAFETY: boot.s wrote them right before it came here.
    let vector = unsafe { (&raw const fault_vector).read_volatile() };
    // SAFETY: as above.
    let code = unsafe { (&raw const fault_code).read_volatile() };
    // SAFETY: as above.
    let address = unsafe { (&raw const fault_address).read_volatile() };
    // SAFETY: as above.
    let rip = unsafe { (&raw const fault_rip).read_volatile() };
    end(
        Status::Fault,
        format_args!("exception {vector} at {rip:#x}, code {code:#x}, address {address:#x}"),
    )
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    end(Status::Panic, format_args!("{info}"))
}

/// Says why, and ends the machine.
fn end(status: Status, why: fmt::Arguments<'_>) -> ! {
    // The console takes everything.
    let _ = writeln!(Console, "guest: {why}");
    exit(status)
}

/// Ends the machine.
fn exit(status: Status) -> ! {
    arch::outl(EXIT_PORT, status as u32);
    // A machine without that port stays, asleep.
    loop {
        arch::sleep(irq::wakeups_now());
    }
}
