//! The guest in a virtual machine: everything of it put together, and a thread for each vCPU.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use e1000_device::TxMode;
use kvm_ioctls::{Kvm, VcpuFd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use crate::guest::boot::Entry;
use crate::guest::gate::{Gate, News};
use crate::guest::power_on::PowerOn;
use crate::guest::vcpu::{self, Kick};
use crate::guest::vm::{self, Vm};
use crate::guest::{Ended, Guest, KvmPlan, Threads, boot};
use crate::host::event::{event, owned};
use crate::host::load::Load;
use crate::host::memory::Memory;
use crate::host::sandbox::{self, Filter, Role};
use crate::host::thread::{begin_thread, thread_cpu_ns};
use crate::machine::acpi;
use crate::machine::bus::{Bus, Slot};
use crate::machine::com1::{Com1, Edge};
use crate::machine::cpu::Cpu;
use crate::machine::exit::End;
use crate::machine::idle::Idle;
use crate::machine::intx::{Inject, Intx, IrqFd, IrqLine};
use crate::machine::layout;
use crate::machine::pci::{PciBus, identity};
use crate::machine::power::Power;
use crate::machine::serial::Console;
use crate::net::limiter::RxLimit;
use crate::net::nics::{self, Nic, NicPlan};
use crate::stats::counters::VmCounters;

/// A machine whose guest does not run yet.
pub struct KvmMachine {
    // Dropped from first to last: the vCPUs, what they reach, the machine, its memory.
    vcpus: Vec<(VcpuFd, Cpu, PowerOn)>,
    plan: KvmPlan,
    power: Arc<Power>,
    bus: Arc<Bus>,
    com1: Arc<Com1>,
    intx: Arc<Intx>,
    idle: Option<Arc<Idle>>,
    irqfd: Option<Arc<IrqFd>>,
    inline: bool,
    load: Arc<Load>,
    vm: Arc<Vm>,
}

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine").field("bus", &self.bus).finish_non_exhaustive()
    }
}

impl KvmMachine {
    /// Puts a machine with so many vCPUs together, loads its guest, and opens its ports.
    pub fn new(
        kvm: Kvm,
        plan: &KvmPlan,
        nics: &[NicPlan],
        vcpus: usize,
        memory: Memory,
        console: Console,
        counters: &VmCounters,
    ) -> anyhow::Result<(KvmMachine, Vec<Nic>)> {
        // Before anything that others can see: a wrong kernel disturbs no switch.
        let entry = load(plan, &memory, vcpus)?;
        let vm = Vm::new(kvm, memory)?;
        let ram = vm::guest_ram(vm.memory());
        let lines: Vec<u8> = (0..nics.len()).map(layout::irq).collect();
        let (inject, irqfd): (Box<dyn Inject>, _) = if plan.irqfd {
            let mut distinct = lines.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let irqfd = IrqFd::new(&vm.fd, &distinct).context("registering interrupts")?;
            let irqfd = Arc::new(irqfd);
            (Box::new(Arc::clone(&irqfd)), Some(irqfd))
        } else {
            (Box::new(IrqLine::new(Arc::clone(&vm.fd))), None)
        };
        let intx = Arc::new(Intx::new(lines, vcpus, inject));
        let inline = nics.iter().any(|nic| nic.config.tx_mode == TxMode::Inline);
        let csb: Vec<bool> = nics.iter().map(|nic| nic.config.csb).collect();
        if nics.iter().any(|nic| nic.rx_limit == Some(RxLimit::Auto)) {
            vm.halt_is_sleep();
        }
        let load = Load::new(vcpus);
        let nics = nics::make(nics, &ram, &intx, counters, &load, Some(&vm.fd))?;
        let mut pci = PciBus::new();
        let mut slots = Vec::new();
        for (index, (nic, csb)) in nics.iter().zip(csb).enumerate() {
            let space = identity::nic(index, csb);
            let decode = pci.add(layout::slot(index), space, nic.endpoint());
            slots.push(Slot { decode, registers: nic.registers() });
        }
        let registers = nics.iter().map(Nic::registers).collect();
        let idle = Idle::new(ram, Arc::clone(&intx), vcpus, registers);
        let idle = plan.idle_call.then(|| Arc::new(idle));
        let edge = event()?;
        vm.fd
            .register_irqfd(&edge, layout::COM1_IRQ)
            .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
            .context("connecting the serial port's interrupt")?;
        let com1 = Com1::new(Edge::new(edge), event()?, console).context("making an eventfd")?;
        let com1 = Arc::new(com1);
        // ACPI's interrupt is a line of its own.
        let power = Arc::new(Power::new(Box::new(IrqLine::new(Arc::clone(&vm.fd)))));
        let bus = Bus::new(pci, slots, Arc::clone(&com1), Arc::clone(&power), idle.clone());
        let bus = Arc::new(bus);
        let make = |index| -> anyhow::Result<(VcpuFd, Cpu, PowerOn)> {
            let vcpu = vcpu::create(&vm.kvm, &vm.fd, index, vcpus, entry)?;
            let power_on = PowerOn::of(&vm.kvm, &vcpu, index)?;
            Ok((vcpu, Cpu { index, counters: counters.vcpu(index) }, power_on))
        };
        let vcpus = (0..vcpus).map(make).collect::<anyhow::Result<_>>()?;
        let (plan, vm) = (plan.clone(), Arc::new(vm));
        let machine =
            KvmMachine { vcpus, plan, power, bus, com1, intx, idle, irqfd, inline, load, vm };
        Ok((machine, nics))
    }

    /// Starts the guest. `ended` is signalled when one of its vCPUs has ended.
    pub fn start(self, threads: &Threads, ended: &EventFd) -> anyhow::Result<KvmGuest> {
        let KvmMachine { vcpus, plan, power, bus, com1, intx, idle, irqfd, inline, load, vm } =
            self;
        let role = if inline { Role::InlineVcpu } else { Role::Vcpu };
        let resampler = match &irqfd {
            Some(irqfd) => Some(Resampler::start(irqfd, &intx, threads.confined)?),
            None => None,
        };
        let gate = Arc::new(Gate::new(vcpus.len()));
        let mut guest = KvmGuest {
            vcpus: Vec::new(),
            gate,
            plan,
            intx,
            idle,
            com1,
            power,
            bus,
            resampler,
            load,
            vm,
        };
        for (vcpu, cpu, power_on) in vcpus {
            let pinned = threads.vcpus.get(cpu.index).copied().flatten();
            let filter = threads.confined.then(|| sandbox::filter(role)).transpose()?;
            match RunningVcpu::start((vcpu, cpu, power_on), pinned, filter, &guest, ended) {
                Ok(vcpu) => guest.vcpus.push(vcpu),
                Err(why) => {
                    guest.stop();
                    return Err(why);
                }
            }
        }
        Ok(guest)
    }
}

/// Loads what the guest begins with into memory, which is empty.
fn load(plan: &KvmPlan, memory: &Memory, vcpus: usize) -> anyhow::Result<Entry> {
    let KvmPlan { image, initrd, command_line, .. } = plan;
    let tables = acpi::tables(vcpus);
    boot::load(memory.guest(), image, initrd.as_ref(), command_line, &tables)
}

/// A vCPU and its thread.
#[derive(Debug)]
struct RunningVcpu {
    thread: JoinHandle<anyhow::Result<Ended>>,
    kick: Arc<Kick>,
}

impl RunningVcpu {
    fn start(
        (mut vcpu, cpu, power_on): (VcpuFd, Cpu, PowerOn),
        pinned: Option<usize>,
        filter: Option<Filter>,
        guest: &KvmGuest,
        ended: &EventFd,
    ) -> anyhow::Result<RunningVcpu> {
        let kick = Kick::new()?;
        let (kick_of_thread, gate) = (Arc::clone(&kick), Arc::clone(&guest.gate));
        let (bus, vm, com1) =
            (Arc::clone(&guest.bus), Arc::clone(&guest.vm), Arc::clone(&guest.com1));
        let (ended, name) = (ended.try_clone()?, format!("vcpu{}", cpu.index));
        let load = Arc::clone(&guest.load);
        let run = move || -> anyhow::Result<Ended> {
            let tell = || drop(ended.write(1)); // it fails only if 2^64 are pending, and then it is readable
            load.enlist(cpu.index);
            let began = begin_thread(pinned, filter.as_ref());
            if let Err(why) = began {
                gate.fail(End::Crash(format!("{why:#}")));
                tell();
                return Err(why);
            }
            loop {
                let end = vcpu::run(&mut vcpu, &cpu, &bus, &kick_of_thread);
                com1.finish();
                gate.arrive(&end);
                tell();
                let Some(entry) = gate.wait() else { break };
                if let Err(why) = power_on.restore(&mut vcpu, entry) {
                    let why = std::io::Error::from_raw_os_error(why.errno());
                    gate.fail(End::Error(format!("virtual CPU {}: {why}", cpu.index)));
                    tell();
                    break;
                }
                kick_of_thread.resume(&mut vcpu);
                gate.ready();
            }
            let end = gate.why().unwrap_or(End::Asked);
            Ok(Ended { end, cpu_ns: thread_cpu_ns(), used: Box::new((vcpu, bus, vm)) })
        };
        let thread = thread::Builder::new().name(name).spawn(run);
        Ok(RunningVcpu { thread: thread.context("starting a vCPU's thread")?, kick })
    }
}

/// A guest on vCPUs.
#[derive(Debug)]
pub struct KvmGuest {
    vcpus: Vec<RunningVcpu>,
    gate: Arc<Gate>,
    plan: KvmPlan,
    intx: Arc<Intx>,
    idle: Option<Arc<Idle>>,
    com1: Arc<Com1>,
    power: Arc<Power>,
    bus: Arc<Bus>,
    resampler: Option<Resampler>,
    load: Arc<Load>,
    vm: Arc<Vm>,
}

impl KvmGuest {
    /// vCPUs that still run stop, to wait at the gate.
    fn pause(&self) {
        self.vcpus.iter().for_each(|vcpu| vcpu.kick.pause());
        self.intx.nudge(); // who sleeps in the idle call
    }
}

impl Guest for KvmGuest {
    fn accel(&self) -> &'static str {
        "kvm"
    }

    fn com1(&self) -> Option<&Com1> {
        Some(&self.com1)
    }

    fn news(&self) -> News {
        if self.gate.stops() {
            self.pause();
        }
        self.gate.news()
    }

    fn reboot(&self) {
        // Devices first: what they still had to do to memory would spoil what is loaded.
        self.bus.reset();
        let loaded = self.vm.reset().and_then(|()| {
            load(&self.plan, self.vm.memory(), self.vcpus.len())
                .context("is the kernel's file still there?")
        });
        match loaded {
            Ok(entry) => self.gate.open(entry),
            Err(why) => self.gate.fail(End::Error(format!("{why:#}"))),
        }
    }

    fn pull_reset(&self) -> bool {
        if self.gate.ask_for_reset() {
            self.pause();
        }
        true
    }

    fn press_power_button(&self) -> bool {
        self.power.press_button()
    }

    fn ask_halted(&self) {
        self.vcpus.iter().for_each(|vcpu| vcpu.kick.ask_halted());
    }

    fn is_halted(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.kick.is_halted())
    }

    fn end_halted(&self) {
        self.gate.fail(End::Halt);
    }

    fn ask(&self) -> bool {
        self.idle.as_ref().is_some_and(|idle| idle.ask_to_stop())
    }

    fn stop(&self) {
        self.com1.stop();
        self.intx.stop();
        self.vcpus.iter().for_each(|vcpu| vcpu.kick.stop());
        self.gate.end();
    }

    fn join(self: Box<Self>) -> anyhow::Result<Ended> {
        let join = |vcpu: RunningVcpu| {
            vcpu.thread.join().unwrap_or_else(|_| Err(anyhow!("a vCPU's thread panicked")))
        };
        let all: Vec<_> = self.vcpus.into_iter().map(join).collect();
        if let Some(resampler) = self.resampler {
            resampler.finish();
        }
        let all = all.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let cpu_ns = all.iter().map(|vcpu| vcpu.cpu_ns).sum();
        let end = self.gate.why().unwrap_or(End::Asked);
        // The bus holds the devices, and with them the ports.
        Ok(Ended { end, cpu_ns, used: Box::new((all, self.bus, self.vm)) })
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
        let wake = event()?;
        let stop = Arc::new(AtomicBool::new(false));
        let filter = confined.then(|| sandbox::filter(Role::Io)).transpose()?;
        let (intx, stopped) = (Arc::clone(intx), Arc::clone(&stop));
        let woken = owned(wake.try_clone()?);
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
