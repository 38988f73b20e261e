//! The guest without a virtual machine (`--accel thread`): the bench guest's driver and workload in a
//! thread of this process, against the same device model and the same layout of memory.
//!
//! ```text
//!   workload -> driver -> Mmio: a call of the device      Dma: guest RAM at bus addresses from 1 MiB
//!                      -> Cpu:  the lines of `intx`, looked at once a batch; sleep is a wait for them
//! ```
//!
//! It does not imitate the cost of exits: what is an exit of a virtual machine is a function call here, and its
//! output says so. Registers, descriptors, CSB and notification are the same, and so are their counts.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use e1000_device::GuestRam;
use e1000pv::{pci, regs};
use e1000pv_driver::{Block, Cpu, Dma, Mmio, Nic as Driver};
use guest_workload::Plan as Work;
use vmm_sys_util::eventfd::EventFd;

use crate::guest::gate::News;
use crate::guest::{Ended, Guest, Threads};
use crate::host::clock::monotonic_ns;
use crate::host::load::Load;
use crate::host::sandbox::{self, Role};
use crate::host::thread::{begin_thread, thread_cpu_ns};
use crate::machine::com1::Com1;
use crate::machine::exit::{CHECK_FAILED, End};
use crate::machine::intx::{Intx, Woken};
use crate::machine::layout;
use crate::machine::registers::Registers;
use crate::machine::serial::Console;
use crate::stats::counters::{VcpuCounters, Vm};

/// Room for the workload's buffers, which are on its stack.
const STACK_BYTES: usize = 2 << 20;

/// Registers by function call.
#[derive(Debug)]
struct Call(Arc<dyn Registers>);

impl Mmio for Call {
    fn read32(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.0.mmio_read(u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.mmio_write(u64::from(offset), &value.to_le_bytes());
    }
}

/// Guest RAM, given out from the bottom and never taken back.
struct Ram {
    ram: GuestRam,
    next: u64,
}

// SAFETY: pieces of fresh, zeroed guest memory that do not overlap, mapped as long as the `GuestRam`
// that the device holds too; `bus` is the guest-physical address, by which the device finds the same
// bytes. Nobody else in this process uses guest memory.
unsafe impl Dma for Ram {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let bus = self.next.checked_next_multiple_of(align as u64)?;
        let ptr = self.ram.ptr(bus, bytes)?;
        self.next = bus + bytes as u64;
        // SAFETY: a piece as the trait promises, see above.
        Some(unsafe { Block::new(ptr, bus, bytes) })
    }

    /// It is not used again: the guest ends with its workload.
    fn free(&mut self, _: Block) {}
}

/// The thread as a CPU with one interrupt.
struct ThreadCpu {
    intx: Arc<Intx>,
    nics: Vec<Arc<dyn Registers>>,
    counters: VcpuCounters,
    stop: Arc<AtomicBool>,
    interrupts: Cell<u32>,
    causes: Cell<u32>,
}

impl ThreadCpu {
    /// What an interrupt handler does: reads ICR of each device that asserts its line.
    fn handle(&self, levels: u32) {
        for (index, nic) in self.nics.iter().enumerate() {
            if levels & (1 << index) != 0 {
                let mut icr = [0; 4];
                nic.mmio_read(u64::from(regs::ICR), &mut icr);
                self.causes.set(self.causes.get() | u32::from_le_bytes(icr));
            }
        }
        self.interrupts.set(self.interrupts.get().wrapping_add(1));
    }
}

impl Cpu for ThreadCpu {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn idle(&self, seen: u32, timeout_ns: Option<u64>) {
        if self.interrupts() != seen {
            return;
        }
        self.counters.bump(Vm::Halts, 1);
        let woken = self.intx.sleep(0, timeout_ns.map(Duration::from_nanos));
        self.intx.awake(0);
        if let Woken::Interrupt(levels) = woken {
            self.handle(levels);
        }
    }

    /// The moment at which an interrupt is taken: a thread cannot be interrupted elsewhere.
    fn interrupts(&self) -> u32 {
        match self.intx.levels() {
            0 => {}
            levels => self.handle(levels),
        }
        self.interrupts.get()
    }

    fn take_causes(&self) -> u32 {
        self.causes.take()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A guest that is a thread.
pub struct ThreadGuest {
    thread: JoinHandle<anyhow::Result<Ended>>,
    intx: Arc<Intx>,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for ThreadGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadGuest").finish_non_exhaustive()
    }
}

/// What the thread is given.
pub struct Parts {
    /// Guest memory.
    pub ram: GuestRam,
    /// The NICs, in order.
    pub nics: Vec<Arc<dyn Registers>>,
    /// Whether they offer the CSB.
    pub csb: Vec<bool>,
    /// Their lines.
    pub intx: Arc<Intx>,
    /// Who watches its time.
    pub load: Arc<Load>,
    /// Where to count.
    pub counters: VcpuCounters,
    /// Where to print.
    pub console: Console,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("nics", &self.nics).finish_non_exhaustive()
    }
}

impl ThreadGuest {
    /// Checks what the guest is to do, and starts it. `ended` is signalled when it has ended.
    pub fn start(
        parts: Parts,
        work: Work,
        threads: &Threads,
        ended: EventFd,
    ) -> anyhow::Result<ThreadGuest> {
        let cpu = threads.vcpus[0];
        let stop = Arc::new(AtomicBool::new(false));
        let intx = Arc::clone(&parts.intx);
        let filter = threads.confined.then(|| sandbox::filter(Role::Io)).transpose()?;
        let stopped = Arc::clone(&stop);
        let run = move || -> anyhow::Result<Ended> {
            parts.load.enlist(0);
            begin_thread(cpu, filter.as_ref())?;
            let used = Box::new((parts.nics.clone(), parts.ram.clone()));
            let end = work_through(parts, &work, stopped);
            Ok(Ended { end, cpu_ns: thread_cpu_ns(), used })
        };
        let thread = thread::Builder::new()
            .name("guest".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let result = run();
                let _ = ended.write(1); // it cannot be full: it is written once
                result
            })
            .context("starting the guest's thread")?;
        Ok(ThreadGuest { thread, intx, stop })
    }
}

/// The guest's `main`.
fn work_through(parts: Parts, work: &Work, stop: Arc<AtomicBool>) -> End {
    let Parts { ram, nics, csb, intx, counters, mut console, .. } = parts;
    let (interrupts, causes) = (Cell::new(0), Cell::new(0));
    let registers = nics.clone();
    let cpu = ThreadCpu { intx, nics: registers, counters, stop, interrupts, causes };
    let mut dma = Ram { ram, next: layout::KERNEL_MIN };
    // Never dropped, which would reset devices that still send: as with a machine that is switched off.
    let mut drivers = ManuallyDrop::new(Vec::new());
    for (nic, csb) in nics.into_iter().zip(csb) {
        let mut config = work.nic.clone();
        config.subsystem_id = if csb { pci::SUBSYSTEM_PARAVIRT } else { pci::SUBSYSTEM_PLAIN };
        match Driver::new(Call(nic), &mut dma, &cpu, &config) {
            Ok(driver) => drivers.push(driver),
            Err(e) => return End::Crash(format!("its driver: {e}")),
        }
    }
    let summary = match guest_workload::run(work, &mut drivers, &cpu) {
        Ok(summary) => summary,
        Err(e) => return End::Crash(e.to_string()),
    };
    let mut line = String::new();
    if let Err(e) = summary.write_json(&mut line) {
        return End::Crash(format!("its result: {e}"));
    }
    console.print(line.as_bytes());
    console.finish();
    let wrong = summary.bad + summary.reordered + summary.duplicated;
    End::Status(if wrong == 0 { 0 } else { CHECK_FAILED })
}

impl Guest for ThreadGuest {
    fn accel(&self) -> &'static str {
        "thread"
    }

    fn com1(&self) -> Option<&Com1> {
        None
    }

    fn news(&self) -> News {
        News::Over // it signals nothing else
    }

    fn reboot(&self) {}

    fn pull_reset(&self) -> bool {
        false
    }

    fn press_power_button(&self) -> bool {
        false
    }

    fn ask_halted(&self) {}

    fn is_halted(&self) -> bool {
        false
    }

    fn end_halted(&self) {}

    fn ask(&self) -> bool {
        self.stop();
        true
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.intx.stop();
    }

    fn join(self: Box<Self>) -> anyhow::Result<Ended> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the guest's thread panicked")))
    }
}
