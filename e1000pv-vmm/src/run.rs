//! A machine's life: set up, run, report, take down.
//!
//! Invariants: whatever can fail because of what the user typed or what the system lacks fails before
//! a guest runs; whatever ends a run (the guest, a signal, the time, a lost reader), ports are closed
//! after everybody who uses them, and then the record is printed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kvm_ioctls::Kvm;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nm_cli::exit::Outcome;
use nm_cli::live::Live;
use nm_cli::mac::Mac;
use nm_cli::report::{Kind, Reporter};
use nm_cli::signal::Signals;
use serde_json::Value;
use vmm_sys_util::eventfd::EventFd;

use crate::cli::{Accel, Cli, SerialTo};
use crate::counters::VmCounters;
use crate::exit::End;
use crate::guest::Guest;
use crate::intx::{Intx, Nowhere};
use crate::kvm_guest::KvmMachine;
use crate::layout;
use crate::machines;
use crate::memory::Memory;
use crate::nics::{self, Nic, Service};
use crate::plan::Plan;
use crate::report::{self, Before, CpuTime, NicRecord, Start, Totals};
use crate::sandbox::{self, Role};
use crate::serial::{Console, GuestResult, Sink};
use crate::terminal::Terminal;
use crate::thread_guest::{Parts, ThreadGuest};
use crate::vm;

/// Runs the tool.
pub fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    if let Some(name) = &cli.stats {
        return report::stats(name, cli);
    }
    if cli.list {
        return report::list(cli);
    }
    let plan = Plan::new(cli)?;
    let kvm = accelerator(cli)?;
    let signals = Signals::install()?;
    let counters = VmCounters::new(&plan.name, plan.nics.len())?;
    // The name first: a second machine of that name would disturb the ports of the first.
    let published = machines::publish(&counters, &plan.name)?;
    let memory = Memory::new(cli.mem.0, plan.backing)?;
    if cli.verbose > 0 {
        nm_cli::say!("memory: {} MiB, {:?}", memory.bytes() >> 20, memory.backing);
    }
    let terminal = (cli.serial == SerialTo::Stdio && kvm.is_some() && !cli.output.machine())
        .then(Terminal::take)
        .flatten();
    let console = console(cli, &signals, terminal.is_some())?;
    let result = console.result();
    let mem_bytes = memory.bytes();
    let start = |accel| Start {
        name: plan.name.clone(),
        accel,
        nics: plan
            .nics
            .iter()
            .map(|nic| NicRecord { port: nic.port.clone(), mac: Mac(nic.config.mac) })
            .collect(),
        mem_bytes,
        cmdline: plan.command_line.clone(),
    };
    let ended = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).context("an eventfd")?;
    let (mut reporter, live) = (reporter(cli), Live::new(None, &cli.output));
    let (guest, service): (Box<dyn Guest>, Service) = match kvm {
        Some(kvm) => {
            let (machine, nics) = KvmMachine::new(kvm, cli, &plan, memory, console, &counters)?;
            reporter.emit(&live, Kind::Start, &start("kvm"))?;
            let service = serve(nics, &plan, cli, &ended)?;
            (Box::new(machine.start(cli, ended.try_clone()?)?), service)
        }
        None => {
            if !cli.output.quiet {
                nm_cli::say!(
                    "e1000pv-vmm: the guest runs in a thread: what would be exits of a virtual \
                     machine cost a function call"
                );
            }
            let (parts, nics) = thread_parts(cli, &plan, memory, console, &counters)?;
            reporter.emit(&live, Kind::Start, &start("thread"))?;
            let service = serve(nics, &plan, cli, &ended)?;
            let (cpu, ended) = (cli.cpu.as_ref().map(|cpus| cpus.nth(0)), ended.try_clone()?);
            let guest = ThreadGuest::start(parts, &plan, cpu, !cli.no_sandbox, ended)?;
            (Box::new(guest), service)
        }
    };
    if !cli.no_sandbox {
        sandbox::filter(Role::Main)?.enter()?;
    }
    let before = Some(Before { elapsed_ns: 0, counters: counters.snapshot() });
    let running = Running {
        cli,
        name: plan.name.clone(),
        guest,
        service,
        counters,
        result,
        begin: Instant::now(),
        ended: nics::owned(ended),
        reporter,
        live,
        terminal,
        before,
    };
    let outcome = running.run(&signals);
    drop(published);
    outcome
}

/// KVM, or `None` for a thread.
fn accelerator(cli: &Cli) -> anyhow::Result<Option<Kvm>> {
    let path: &Path = &cli.kvm;
    match (cli.accel, vm::open_kvm(path)) {
        (Accel::Thread, _) => Ok(None),
        (_, Ok(kvm)) => Ok(Some(kvm)),
        // A thread can stand in for the bench guest only.
        (Accel::Auto, Err(why)) if cli.kernel.is_none() && cli.cmdline.is_none() => {
            if !cli.output.quiet {
                nm_cli::say!("e1000pv-vmm: {why:#}");
            }
            Ok(None)
        }
        (_, Err(why)) => Err(why),
    }
}

fn console(cli: &Cli, signals: &Signals, typed: bool) -> anyhow::Result<Console> {
    let sink = match &cli.serial {
        SerialTo::Stdio if cli.output.machine() => Sink::Stderr,
        SerialTo::Stdio => Sink::Stdout,
        SerialTo::Null => Sink::Null,
        SerialTo::File(path) => Sink::create(path)?,
    };
    let (stop, waker) = (signals.stop_flag(), signals.waker()?);
    // A reader that leaves ends the run, as it ends any filter.
    let hangup = Box::new(move || {
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        waker.wake();
    });
    let kept = cli.output.machine() && cli.serial == SerialTo::Stdio;
    Ok(Console::new(sink, hangup).raw(typed).keep_results(kept))
}

/// stdout is the guest's, or the records'.
fn reporter(cli: &Cli) -> Reporter {
    if cli.output.machine() { Reporter::stdout(&cli.output) } else { Reporter::stderr(&cli.output) }
}

fn serve(nics: Vec<Nic>, plan: &Plan, cli: &Cli, ended: &EventFd) -> anyhow::Result<Service> {
    Service::start(nics, plan, cli.cpu.as_ref(), !cli.no_sandbox, ended)
}

fn thread_parts(
    cli: &Cli,
    plan: &Plan,
    memory: Memory,
    console: Console,
    counters: &VmCounters,
) -> anyhow::Result<(Parts, Vec<Nic>)> {
    let ram = vm::guest_ram(&memory);
    let lines = (0..plan.nics.len()).map(layout::irq).collect();
    let intx = Arc::new(Intx::new(lines, Box::new(Nowhere)));
    let nics = nics::make(plan, cli.ring, &ram, &intx, counters, None)?;
    let registers = nics.iter().map(Nic::registers).collect();
    let counters = counters.clone();
    Ok((Parts { ram, nics: registers, intx, counters, console }, nics))
}

/// A guest that was asked to end has so long for its report: its output is queued for a second at most.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// A machine that runs.
struct Running<'a> {
    cli: &'a Cli,
    name: String,
    guest: Box<dyn Guest>,
    service: Service,
    counters: VmCounters,
    result: GuestResult,
    begin: Instant,
    ended: OwnedFd,
    reporter: Reporter,
    live: Live,
    terminal: Option<Terminal>,
    /// The last interval's record.
    before: Option<Before>,
}

/// Why the main thread stopped waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Guest,
    Signal,
    Timeout,
}

impl Running<'_> {
    fn run(mut self, signals: &Signals) -> anyhow::Result<Outcome> {
        let woken = self.watch(signals)?;
        if woken != Wake::Guest && self.guest.ask() {
            // For its report. Who asks a second time does not want to wait for it.
            self.wait_for_end(REPORT_TIME, signals);
        }
        self.guest.stop();
        let accel = self.guest.accel();
        let ended = self.guest.join();
        let elapsed = self.begin.elapsed();
        let served = self.service.finish();
        drop(self.terminal.take());
        let (ended, io_ns) = (ended?, served?);
        // Here the last devices go, and with them their ports are closed.
        drop(ended.used);
        let end = match (woken, ended.end) {
            (Wake::Timeout, End::Asked | End::Status(_)) => End::Timeout,
            // Asked to stop, a guest that is a thread still says how it was.
            (Wake::Signal, End::Status(0)) => End::Asked,
            (_, end) => end,
        };
        let cpu =
            CpuTime { total_ns: report::process_cpu_ns(), vcpu_ns: Some(ended.cpu_ns), io_ns };
        let totals = Totals {
            name: self.name,
            accel,
            status: end.status(),
            end: Some(end.clone()),
            elapsed_ns: elapsed.as_nanos() as u64,
            cpu,
            guest: self.result.take(),
            counters: self.counters.snapshot(),
            before: None,
        };
        // The result in words is talk; the guest has printed it.
        if self.cli.output.machine() || !self.cli.output.quiet {
            self.reporter.emit(&self.live, Kind::End, &totals)?;
        }
        end.outcome()
    }

    /// Waits until the guest has ended, but not for ever.
    fn wait_for_end(&self, time: Duration, signals: &Signals) {
        let end = Instant::now() + time;
        while !signals.hurried() {
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(1..) if fds[0].any() != Some(true) => signals.drain(),
                _ => return,
            }
        }
    }

    /// Waits for the end, and reports on the way.
    fn watch(&mut self, signals: &Signals) -> anyhow::Result<Wake> {
        let end = self.cli.timeout.map(|time| self.begin + time);
        let mut next = self.cli.output.interval.map(|interval| self.begin + interval);
        loop {
            let now = Instant::now();
            if signals.stopped() {
                return Ok(Wake::Signal);
            }
            if end.is_some_and(|end| now >= end) {
                return Ok(Wake::Timeout);
            }
            if signals.take_report() {
                self.totals(Kind::Totals)?;
            }
            if let Some(at) = next.filter(|at| now >= *at) {
                self.totals(Kind::Interval)?;
                let interval = self.cli.output.interval();
                // Late by more than an interval: go on from now, catch up nothing.
                next = Some(if at + interval > now { at + interval } else { now + interval });
            }
            let wait = [end, next].into_iter().flatten().min();
            if self.wait(signals, wait.map(|at| at.saturating_duration_since(now)))? {
                return Ok(Wake::Guest);
            }
        }
    }

    /// Sleeps until a signal, input, the time, or the guest's end, which returns true.
    fn wait(&mut self, signals: &Signals, timeout: Option<Duration>) -> anyhow::Result<bool> {
        let timeout = match timeout {
            None => PollTimeout::NONE,
            // Rounded up: rounding down would spin through the last millisecond.
            Some(time) => PollTimeout::try_from(time.as_nanos().div_ceil(1_000_000))
                .unwrap_or(PollTimeout::MAX),
        };
        let mut fds = vec![
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = &self.terminal {
            fds.push(PollFd::new(terminal.fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).context("waiting for the guest"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] {
            signals.drain();
        }
        if ready.get(2) == Some(&true) {
            self.typed();
        }
        Ok(ready[0])
    }

    fn typed(&mut self) {
        let mut buffer = [0; 64];
        let Some(terminal) = &self.terminal else { return };
        match terminal.read(&mut buffer) {
            [] => self.terminal = None, // the end of input: not polled any more
            bytes => self.guest.input(bytes),
        }
    }

    fn totals(&mut self, kind: Kind) -> anyhow::Result<()> {
        let totals = Totals {
            name: self.name.clone(),
            accel: self.guest.accel(),
            end: None,
            status: None,
            elapsed_ns: self.begin.elapsed().as_nanos() as u64,
            cpu: CpuTime { total_ns: report::process_cpu_ns(), ..CpuTime::default() },
            guest: None::<Value>,
            counters: self.counters.snapshot(),
            before: self.before.take_if(|_| kind == Kind::Interval),
        };
        if kind == Kind::Interval {
            let (elapsed_ns, counters) = (totals.elapsed_ns, totals.counters.clone());
            self.before = Some(Before { elapsed_ns, counters });
        }
        self.reporter.emit(&self.live, kind, &totals)
    }
}
