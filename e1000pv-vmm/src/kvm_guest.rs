//! The guest in a virtual machine: everything of the VMM put together, and one vCPU thread.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use e1000_device::TxMode;
use kvm_ioctls::Kvm;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, Image, Initrd};
use crate::bus::{Bus, Slot};
use crate::cli::{Cli, IdleBy, Irq};
use crate::counters::VmCounters;
use crate::guest::{Ended, Guest, begin_thread};
use crate::idle::Idle;
use crate::intx::{Inject, Intx, IrqFd, IrqLine};
use crate::memory::Memory;
use crate::nics::{self, Nic};
use crate::pci::{Moved, PciBus, identity};
use crate::plan::Plan;
use crate::report::thread_cpu_ns;
use crate::sandbox::{self, Role};
use crate::serial::{Com1, Console, Edge};
use crate::vcpu::{self, Kick};
use crate::vm::{self, Vm};
use crate::{guest_image, layout};

/// A machine whose guest does not run yet.
pub struct KvmMachine {
    // Dropped from first to last: the vCPU, what it reaches, the machine, its memory.
    vcpu: kvm_ioctls::VcpuFd,
    bus: Bus,
    com1: Arc<Com1>,
    intx: Arc<Intx>,
    idle: Option<Arc<Idle>>,
    irqfd: Option<Arc<IrqFd>>,
    inline: bool,
    counters: VmCounters,
    _vm: Vm,
}

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine").field("bus", &self.bus).finish_non_exhaustive()
    }
}

fn image(cli: &Cli) -> Image {
    match &cli.kernel {
        Some(path) => Image::File(path.clone()),
        None => Image::Bytes(guest_image::bytes(), "bench guest"),
    }
}

impl KvmMachine {
    /// Puts a machine together, loads its guest, and opens its ports.
    pub fn new(
        kvm: Kvm,
        cli: &Cli,
        plan: &Plan,
        memory: Memory,
        console: Console,
        counters: &VmCounters,
    ) -> anyhow::Result<(KvmMachine, Vec<Nic>)> {
        let initrd = cli.initrd.clone().map(Initrd);
        // Before anything that others can see: a wrong kernel disturbs no switch.
        let line = &plan.command_line;
        let entry = boot::load(memory.guest(), memory.bytes(), &image(cli), initrd.as_ref(), line)?;
        let vm = Vm::new(kvm, memory)?;
        let ram = vm::guest_ram(vm.memory());
        let lines: Vec<u8> = (0..plan.nics.len()).map(layout::irq).collect();
        let (inject, irqfd): (Box<dyn Inject>, _) = match cli.irq {
            Irq::Line => (Box::new(IrqLine::new(Arc::clone(&vm.fd))), None),
            Irq::Irqfd => {
                let mut distinct = lines.clone();
                distinct.sort_unstable();
                distinct.dedup();
                let irqfd = IrqFd::new(&vm.fd, &distinct).context("registering interrupts")?;
                let irqfd = Arc::new(irqfd);
                (Box::new(Arc::clone(&irqfd)), Some(irqfd))
            }
        };
        let intx = Arc::new(Intx::new(lines, inject));
        let nics = nics::make(plan, cli.ring, &ram, &intx, counters, Some(&vm.fd))?;
        let mut pci = PciBus::new();
        let mut slots = Vec::new();
        for (index, nic) in nics.iter().enumerate() {
            let space = identity::nic(index, plan.nics[index].config.csb);
            let moved = Arc::clone(&nic.board) as Arc<dyn Moved>;
            let decode = pci.add(layout::slot(index), space, moved);
            slots.push(Slot { decode, registers: nic.registers() });
        }
        let registers = nics.iter().map(Nic::registers).collect();
        let idle = Idle::new(ram, Arc::clone(&intx), registers);
        let idle = (cli.idle == IdleBy::Call).then(|| Arc::new(idle));
        let edge = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        vm.fd
            .register_irqfd(&edge, layout::COM1_IRQ)
            .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
            .context("connecting the serial port's interrupt")?;
        let com1 = Arc::new(Com1::new(Edge::new(edge), console));
        let bus = Bus::new(pci, slots, Arc::clone(&com1), idle.clone(), counters.clone());
        let vcpu = vcpu::create(&vm.kvm, &vm.fd, entry)?;
        let inline = plan.nics.iter().any(|nic| nic.config.tx_mode == TxMode::Inline);
        let counters = counters.clone();
        Ok((KvmMachine { vcpu, bus, com1, intx, idle, irqfd, inline, counters, _vm: vm }, nics))
    }

    /// Starts the guest. `ended` is signalled when it has ended.
    pub fn start(self, cli: &Cli, ended: EventFd) -> anyhow::Result<KvmGuest> {
        let kick = Kick::new()?;
        let role = if self.inline { Role::InlineVcpu } else { Role::Vcpu };
        let filter = (!cli.no_sandbox).then(|| sandbox::filter(role)).transpose()?;
        let cpu = cli.cpu.as_ref().map(|cpus| cpus.nth(0));
        let resampler = match &self.irqfd {
            Some(irqfd) => Some(Resampler::start(irqfd, &self.intx, !cli.no_sandbox)?),
            None => None,
        };
        let (intx, com1) = (Arc::clone(&self.intx), Arc::clone(&self.com1));
        let idle = self.idle.clone();
        let kick_of_thread = Arc::clone(&kick);
        let run = move || -> anyhow::Result<Ended> {
            begin_thread(cpu, filter.as_ref())?;
            let KvmMachine { mut vcpu, bus, com1, counters, _vm, .. } = self;
            let end = vcpu::run(&mut vcpu, &bus, &counters, &kick_of_thread);
            com1.finish();
            Ok(Ended { end, cpu_ns: thread_cpu_ns(), used: Box::new((vcpu, bus, _vm)) })
        };
        let thread = thread::Builder::new()
            .name("vcpu0".to_string())
            .spawn(move || {
                let result = run();
                let _ = ended.write(1); // it cannot be full: it is written once
                result
            })
            .context("starting the vCPU thread")?;
        Ok(KvmGuest { thread, kick, intx, idle, com1, resampler })
    }
}

/// A guest on a vCPU.
#[derive(Debug)]
pub struct KvmGuest {
    thread: JoinHandle<anyhow::Result<Ended>>,
    kick: Arc<Kick>,
    intx: Arc<Intx>,
    idle: Option<Arc<Idle>>,
    com1: Arc<Com1>,
    resampler: Option<Resampler>,
}

impl Guest for KvmGuest {
    fn accel(&self) -> &'static str {
        "kvm"
    }

    fn input(&self, bytes: &[u8]) {
        self.com1.input(bytes);
    }

    fn ask(&self) -> bool {
        self.idle.as_ref().is_some_and(|idle| idle.ask_to_stop())
    }

    fn stop(&self) {
        self.intx.stop();
        self.kick.stop();
    }

    fn join(self: Box<Self>) -> anyhow::Result<Ended> {
        let result =
            self.thread.join().unwrap_or_else(|_| Err(anyhow!("the vCPU thread panicked")));
        if let Some(resampler) = self.resampler {
            resampler.finish();
        }
        result
    }
}

/// With irqfd: the thread that hears of the ends of interrupts, and asserts lines again that are still
/// needed.
#[derive(Debug)]
struct Resampler {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    wake: EventFd,
}

impl Resampler {
    fn start(irqfd: &IrqFd, intx: &Arc<Intx>, confined: bool) -> anyhow::Result<Resampler> {
        let lines = irqfd.resample()?;
        let wake = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let stop = Arc::new(AtomicBool::new(false));
        let filter = confined.then(|| sandbox::filter(Role::Io)).transpose()?;
        let (intx, stopped) = (Arc::clone(intx), Arc::clone(&stop));
        let woken = nics::owned(wake.try_clone()?);
        let thread = thread::Builder::new().name("resample".to_string()).spawn(move || {
            if begin_thread(None, filter.as_ref()).is_err() {
                return; // the kernel takes the same filter from the other threads
            }
            while !stopped.load(Ordering::Acquire) {
                resample(&lines, woken.as_fd(), &intx);
            }
        });
        Ok(Resampler { thread: thread.context("starting a thread")?, stop, wake })
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.write(1); // it cannot be full: it is written once
        let _ = self.thread.join(); // what it did is of no use any more
    }
}

/// Waits for ends of interrupts, or for the end of all.
fn resample(lines: &[(u8, OwnedFd)], woken: BorrowedFd<'_>, intx: &Intx) {
    let mut fds: Vec<PollFd<'_>> =
        lines.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    fds.push(PollFd::new(woken, PollFlags::POLLIN));
    if poll(&mut fds, PollTimeout::NONE).is_err() {
        return; // a signal
    }
    for ((line, fd), polled) in lines.iter().zip(&fds) {
        if polled.any() == Some(true) && nix::unistd::read(fd, &mut [0; 8]).is_ok() {
            intx.ended(*line);
        }
    }
}
