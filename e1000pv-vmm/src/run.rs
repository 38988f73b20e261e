//! A machine's life: set up, run, report, take down.
//!
//! Invariants: errors in the command line, or due to what the system lacks, are reported before a guest runs.
//! However a run ends (by the guest, a signal, a timeout, a lost reader), the ports are closed after all their
//! users have ended, and then the record is printed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kvm_ioctls::Kvm;
use netmap::control;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nm_cli::every::Every;
use nm_cli::exit::Outcome;
use nm_cli::live::Live;
use nm_cli::mac::Mac;
use nm_cli::report::{Kind, Reporter};
use nm_cli::signal::Signals;
use serde_json::Value;

use crate::cli::{self, Cli, Ctl};
use crate::guest::Guest;
use crate::guest::gate::News;
use crate::guest::kvm::KvmMachine;
use crate::guest::thread::{Parts, ThreadGuest};
use crate::guest::vm;
use crate::halt::{Step, Watch};
use crate::host::clock;
use crate::host::event::{event, owned};
use crate::host::keys;
use crate::host::load::Load;
use crate::host::memory::Memory;
use crate::host::sandbox::{self, Role};
use crate::host::terminal::Terminal;
use crate::host::thread::process_cpu_ns;
use crate::host::wire::Wire;
use crate::input::{Asked, Input};
use crate::machine::exit::End;
use crate::machine::intx::{Intx, Nowhere};
use crate::machine::layout;
use crate::machine::serial::{Console, GuestResult, Sink};
use crate::net::nics::{self, Nic, Service};
use crate::plan::{Accel, Plan, Serial};
use crate::report::{self, Before, CpuTime, NicRecord, Start, Totals};
use crate::stats::commands::{Answer, Command, Inbox};
use crate::stats::counters::{Vm, VmCounters};
use crate::stats::{commands, machines};

/// Runs the tool.
pub fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    if let Some(name) = &cli.stats {
        return report::stats(name, &cli.output);
    }
    if cli.list {
        return report::list(&cli.output);
    }
    if let Some(name) = &cli.ctl {
        return command(
            name,
            match cli::command(&cli.command)? {
                Ctl::Link { nic, up } => Command::Link { nic, up },
                Ctl::Powerdown => Command::Powerdown,
                Ctl::Reset => Command::Reset,
                Ctl::Quit => Command::Quit,
            },
        );
    }
    machine(&Plan::new(cli)?)
}

/// Sends a command to a running machine.
fn command(name: &str, command: Command) -> anyhow::Result<Outcome> {
    let machine = match machines::find(name) {
        Ok(machine) => machine,
        Err(why) => {
            nm_cli::say!("e1000pv-vmm: {why:#}");
            return Ok(Outcome::ConditionNotMet);
        }
    };
    match commands::send(&machine, command).with_context(|| format!("the machine {name}"))? {
        Answer::Done => Ok(Outcome::Done),
        Answer::NoNic => {
            nm_cli::say!("e1000pv-vmm: the machine {name} has no such NIC; they count from 0");
            Ok(Outcome::ConditionNotMet)
        }
        Answer::Deaf => {
            nm_cli::say!("e1000pv-vmm: the guest of {name} does not listen to its power button");
            Ok(Outcome::ConditionNotMet)
        }
        Answer::NoMachine => {
            nm_cli::say!("e1000pv-vmm: the guest of {name} is a thread, which has no reset line");
            Ok(Outcome::ConditionNotMet)
        }
        Answer::NotBegun => {
            nm_cli::say!(
                "e1000pv-vmm: the machine {name} has not begun: it waits for a connection to its serial port"
            );
            Ok(Outcome::ConditionNotMet)
        }
        Answer::Unknown => bail!("the machine {name} does not know this command"),
    }
}

/// A machine's life.
fn machine(plan: &Plan) -> anyhow::Result<Outcome> {
    let kvm = accelerator(plan)?;
    let signals = Signals::install()?;
    let counters = VmCounters::new(&plan.name, plan.threads.vcpus.len(), plan.nics.len())?;
    // The name first: a second machine of that name would disturb the ports of the first.
    let mut inbox = Inbox::new(&counters).context("making a pipe for commands")?;
    let published = machines::publish(&counters, &plan.name)?;
    let memory = Memory::new(plan.mem_bytes, &layout::HOLE, plan.backing)?;
    if plan.verbose {
        nm_cli::say!("memory: {} MiB, {:?}", memory.bytes() >> 20, memory.backing);
    }
    if !plan.output.quiet {
        let notes = plan.nics.iter().filter_map(|nic| control::default_route_note(&nic.port));
        notes.for_each(|note| nm_cli::say!("e1000pv-vmm: {note}"));
    }
    // Who waits for a connection does not wait longer than the machine is to run.
    let waits = matches!(plan.serial, Serial::Unix { wait: true, .. });
    let end = plan.timeout.filter(|_| waits).map(|time| Instant::now() + time);
    let wire = wire(plan)?;
    let quits = match &wire {
        Some(wire) => wait_for_peer(plan, wire, end, &mut inbox, &signals)?,
        None => false,
    };
    let mut input = match plan.serial {
        // The bench guest listens to nobody. With records somebody watches, and does not type.
        _ if plan.work.is_some() || kvm.is_none() => Input::none(),
        Serial::Stdio => Input::stdin(true),
        Serial::Stderr => Input::stdin(false),
        Serial::Null | Serial::File(_) => Input::none(),
        Serial::Unix { .. } => wire.clone().map_or_else(Input::none, Input::wire),
    };
    // Without a terminal, being stopped is nothing to prepare for.
    let jobs = input.terminal().map(|_| Jobs::watch(&signals)).transpose()?;
    if input.is_typed() && !plan.output.quiet {
        nm_cli::say!(
            "e1000pv-vmm: Ctrl-a x ends the machine, Ctrl-a h helps; all else is the guest's"
        );
    }
    let console = console(plan, &signals, wire, input.terminal().is_some())?;
    let (result, lost) = (console.result(), console.lost_flag());
    let mem_bytes = memory.bytes();
    let start = |accel| Start {
        name: plan.name.clone(),
        accel,
        nics: plan
            .nics
            .iter()
            .map(|nic| NicRecord { port: nic.port.to_string(), mac: Mac(nic.config.mac) })
            .collect(),
        mem_bytes,
        cmdline: plan.guest.command_line.clone(),
    };
    let (ended, failed) = (event()?, event()?);
    let (mut reporter, live) = (reporter(plan), Live::new(None, &plan.output));
    let serve = |nics| Service::start(nics, plan.notify, plan.threads.confined, &failed);
    let (guest, service): (Box<dyn Guest>, Service) = match kvm {
        Some(kvm) => {
            let vcpus = plan.threads.vcpus.len();
            let (machine, nics) =
                KvmMachine::new(kvm, &plan.guest, &plan.nics, vcpus, memory, console, &counters)?;
            reporter.emit(&live, Kind::Start, &start("kvm"))?;
            let service = serve(nics)?;
            (Box::new(machine.start(&plan.threads, &ended)?), service)
        }
        None => {
            if !plan.output.quiet {
                nm_cli::say!(
                    "e1000pv-vmm: the guest runs in a thread: what would be exits of a virtual \
                     machine cost a function call"
                );
            }
            let (parts, nics) = thread_parts(plan, memory, console, &counters)?;
            reporter.emit(&live, Kind::Start, &start("thread"))?;
            let service = serve(nics)?;
            let work = plan.work.clone().expect("a plan for a thread has work: it has no kernel");
            let guest = ThreadGuest::start(parts, work, &plan.threads, ended.try_clone()?)?;
            (Box::new(guest), service)
        }
    };
    if plan.threads.confined {
        sandbox::filter(Role::Main)?.enter()?;
    }
    let before = Some(Before { elapsed_ns: 0, counters: counters.snapshot() });
    let begin = Instant::now();
    let running = Running {
        plan,
        guest,
        service,
        counters,
        result,
        lost,
        begin,
        timeout: end.or_else(|| plan.timeout.map(|time| begin + time)),
        ended: owned(ended),
        failed: owned(failed),
        halts: Watch::new(Instant::now()),
        reporter,
        live,
        input,
        jobs,
        quits,
        inbox,
        before,
    };
    let outcome = running.run(&signals);
    drop(published);
    outcome
}

/// KVM, or `None` for a thread.
fn accelerator(plan: &Plan) -> anyhow::Result<Option<Kvm>> {
    match (plan.accel, vm::open_kvm(&plan.kvm)) {
        (Accel::Thread, _) => Ok(None),
        (_, Ok(kvm)) => Ok(Some(kvm)),
        (Accel::KvmOrThread, Err(why)) => {
            if !plan.output.quiet {
                nm_cli::say!("e1000pv-vmm: {why:#}");
            }
            Ok(None)
        }
        (Accel::Kvm, Err(why)) => Err(why),
    }
}

/// The socket that the serial port leads to, if it does.
fn wire(plan: &Plan) -> anyhow::Result<Option<Arc<Wire>>> {
    let Serial::Unix { path, server, .. } = &plan.serial else { return Ok(None) };
    let wire = match server {
        true => Wire::listen(path),
        false => Wire::connect(path),
    };
    let wire = wire.with_context(|| format!("the serial port's socket {}", path.display()))?;
    Ok(Some(Arc::new(wire)))
}

/// Waits for somebody at the serial port's socket if that is wanted: until one comes, a signal or the time ends the machine
/// before it has begun, or a command does, for which true is returned.
fn wait_for_peer(
    plan: &Plan,
    wire: &Wire,
    end: Option<Instant>,
    inbox: &mut Inbox,
    signals: &Signals,
) -> anyhow::Result<bool> {
    let Serial::Unix { path, wait: true, .. } = &plan.serial else { return Ok(false) };
    if !plan.output.quiet {
        nm_cli::say!("e1000pv-vmm: waits for a connection to {}", path.display());
    }
    while !signals.stopped() && end.is_none_or(|end| Instant::now() < end) {
        if wire.wait(&[signals.fd(), inbox.fd()], end)? {
            break;
        }
        signals.drain();
        for (number, command) in inbox.read() {
            let answer = match command {
                Some(Command::Quit) => Answer::Done,
                Some(_) => Answer::NotBegun,
                None => Answer::Unknown,
            };
            inbox.answer(number, answer);
            if command == Some(Command::Quit) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn console(
    plan: &Plan,
    signals: &Signals,
    wire: Option<Arc<Wire>>,
    typed: bool,
) -> anyhow::Result<Console> {
    let typed = typed || wire.is_some();
    let sink = match &plan.serial {
        Serial::Unix { .. } => wire.map_or(Sink::Null, Sink::Wire),
        Serial::Stderr => Sink::Stderr,
        Serial::Stdio => Sink::Stdout,
        Serial::Null => Sink::Null,
        Serial::File(path) => Sink::create(path)?,
    };
    let (stop, waker) = (signals.stop_flag(), signals.waker()?);
    // A reader that leaves ends the run, as it ends any filter.
    let hangup = Box::new(move || {
        stop.store(true, Ordering::Relaxed);
        waker.wake();
    });
    Ok(Console::new(sink, hangup).raw(typed).keep_results(plan.keep_results))
}

/// stdout is the guest's, or the records'.
fn reporter(plan: &Plan) -> Reporter {
    let output = &plan.output;
    if output.machine() { Reporter::stdout(output) } else { Reporter::stderr(output) }
}

fn thread_parts(
    plan: &Plan,
    memory: Memory,
    console: Console,
    counters: &VmCounters,
) -> anyhow::Result<(Parts, Vec<Nic>)> {
    let ram = vm::guest_ram(&memory);
    let lines = (0..plan.nics.len()).map(layout::irq).collect();
    let intx = Arc::new(Intx::new(lines, plan.threads.vcpus.len(), Box::new(Nowhere)));
    let load = Load::new(1);
    let nics = nics::make(&plan.nics, &ram, &intx, counters, &load, None)?;
    let registers = nics.iter().map(Nic::registers).collect();
    let csb = plan.nics.iter().map(|nic| nic.config.csb).collect();
    let counters = counters.vcpu(0);
    Ok((Parts { ram, nics: registers, csb, intx, load, counters, console }, nics))
}

/// Job control by others: this process is stopped (Ctrl-Z is the guest's), and goes on.
struct Jobs {
    stops: Arc<AtomicBool>,
    continues: Arc<AtomicBool>,
}

impl Jobs {
    fn watch(signals: &Signals) -> anyhow::Result<Jobs> {
        let flag = |signal| signals.flag_for(signal);
        Ok(Jobs { stops: flag(libc::SIGTSTP)?, continues: flag(libc::SIGCONT)? })
    }

    /// Gives the terminal back while this process is stopped, and takes it when it has become this job's.
    fn follow(&self, terminal: &mut Terminal, now: Instant) {
        if self.stops.swap(false, Ordering::Relaxed) {
            terminal.stop();
        }
        if self.continues.swap(false, Ordering::Relaxed) {
            terminal.enter();
        }
        terminal.look(now);
    }
}

/// Time that a guest has for its report after it was asked to end.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// A machine that runs.
struct Running<'a> {
    plan: &'a Plan,
    guest: Box<dyn Guest>,
    service: Service,
    counters: VmCounters,
    result: GuestResult,
    /// Some of what the guest printed could not be written.
    lost: Arc<AtomicBool>,
    begin: Instant,
    /// When it is ended.
    timeout: Option<Instant>,
    /// There is news of the guest.
    ended: OwnedFd,
    /// A thread that serves a NIC has failed.
    failed: OwnedFd,
    halts: Watch,
    reporter: Reporter,
    live: Live,
    input: Input,
    jobs: Option<Jobs>,
    /// Somebody has asked that the machine ends.
    quits: bool,
    inbox: Inbox,
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
            // The guest writes its report meanwhile. A second request means not to wait for it.
            self.wait_for_end(REPORT_TIME, signals);
        }
        self.guest.stop();
        let accel = self.guest.accel();
        let ended = self.guest.join();
        let elapsed = self.begin.elapsed();
        let served = self.service.finish();
        drop(std::mem::replace(&mut self.input, Input::none())); // the terminal is as it was
        let (ended, io_ns) = (ended?, served?);
        // The last devices are dropped here, which closes their ports.
        drop(ended.used);
        let end = match (woken, ended.end) {
            // It was perhaps about to begin anew.
            (Wake::Timeout, End::Asked | End::Status(_) | End::Reset) => End::Timeout,
            // A guest that is a thread reports its result even when it was asked to stop.
            (Wake::Signal, End::Status(0) | End::Reset) => End::Asked,
            (_, end) => end,
        };
        let cpu = CpuTime { total_ns: process_cpu_ns(), vcpu_ns: Some(ended.cpu_ns), io_ns };
        let totals = Totals {
            name: self.plan.name.clone(),
            accel,
            status: end.status(),
            end: Some(end.clone()),
            elapsed_ns: elapsed.as_nanos() as u64,
            cpu,
            guest: self.result.take(),
            counters: self.counters.snapshot(),
            before: None,
        };
        // The result in words goes to stderr, since the guest has printed it on stdout.
        if self.plan.output.machine() || !self.plan.output.quiet {
            self.reporter.emit(&self.live, Kind::End, &totals)?;
        }
        match end.outcome()? {
            Outcome::Done if self.lost.load(Ordering::Relaxed) => {
                bail!("what the guest printed could not be written, and is lost")
            }
            outcome => Ok(outcome),
        }
    }

    /// Waits a limited time until the guest has ended.
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

    /// Waits for the end, and prints interval reports meanwhile.
    fn watch(&mut self, signals: &Signals) -> anyhow::Result<Wake> {
        let end = self.timeout;
        let mut intervals = self.plan.output.interval.map(|time| Every::new(self.begin, time));
        loop {
            let now = Instant::now();
            if signals.stopped() || self.quits {
                return Ok(Wake::Signal);
            }
            if let (Some(jobs), Some(terminal)) = (&self.jobs, self.input.terminal()) {
                jobs.follow(terminal, now);
            }
            if end.is_some_and(|end| now >= end) {
                return Ok(Wake::Timeout);
            }
            if signals.take_report() {
                self.totals(Kind::Totals)?;
            }
            if intervals.as_mut().is_some_and(|every| every.due(now)) {
                self.totals(Kind::Interval)?;
            }
            if self.has_halted(now) {
                self.guest.end_halted();
                return Ok(Wake::Guest);
            }
            let next = intervals.map(|every| every.next());
            let look = self.may_halt().then(|| self.halts.next());
            let until = [end, next, look, self.input.next(now)].into_iter().flatten().min();
            if self.wait(signals, now, until)? {
                return Ok(Wake::Guest);
            }
        }
    }

    /// The bench guest never does, and is not to be disturbed.
    fn may_halt(&self) -> bool {
        self.plan.work.is_none()
    }

    fn has_halted(&mut self, now: Instant) -> bool {
        if !self.may_halt() || now < self.halts.next() {
            return false;
        }
        let counters = self.counters.snapshot();
        // Being asked is no sign of life.
        let exits = counters.vm(Vm::Exits).wrapping_sub(counters.vm(Vm::SignalExits));
        match self.halts.step(now, exits, || self.guest.is_halted()) {
            Step::Wait => false,
            Step::Ask => {
                self.guest.ask_halted();
                false
            }
            Step::Halted => true,
        }
    }

    /// There is news of the guest. True: it has ended.
    fn has_ended(&mut self) -> bool {
        let _ = nix::unistd::read(&self.ended, &mut [0; 8]); // it is only emptied
        match self.guest.news() {
            News::Running => false,
            News::Over => true,
            News::Waiting if !self.plan.reboots => true,
            News::Waiting => {
                if !self.plan.output.quiet {
                    nm_cli::say!("e1000pv-vmm: the guest begins anew");
                }
                self.guest.reboot();
                self.halts = Watch::new(Instant::now());
                self.guest.news() == News::Over
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Answer {
        match command {
            Command::Link { nic, up } if self.service.set_link(nic, up) => Answer::Done,
            Command::Link { .. } => Answer::NoNic,
            Command::Powerdown if self.guest.press_power_button() => Answer::Done,
            Command::Powerdown => Answer::Deaf,
            Command::Reset if self.guest.pull_reset() => Answer::Done,
            Command::Reset => Answer::NoMachine,
            Command::Quit => {
                self.quits = true;
                Answer::Done
            }
        }
    }

    /// Sleeps until a signal, input, the time, or the guest's end, which returns true.
    fn wait(
        &mut self,
        signals: &Signals,
        now: Instant,
        until: Option<Instant>,
    ) -> anyhow::Result<bool> {
        let timeout = until.map_or(PollTimeout::NONE, |until| clock::timeout(until, now));
        let com1 = self.guest.com1();
        let mut fds = vec![
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.fd(), PollFlags::POLLIN),
            PollFd::new(self.inbox.fd(), PollFlags::POLLIN),
            PollFd::new(self.failed.as_fd(), PollFlags::POLLIN),
        ];
        let more = com1.and_then(|com1| self.input.fd(com1, now));
        fds.extend(com1.map(|com1| PollFd::new(com1.room_fd(), PollFlags::POLLIN)));
        fds.extend(more.map(|more| PollFd::new(more, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).context("waiting for the guest"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] {
            signals.drain();
        }
        if ready[2] {
            for (number, command) in self.inbox.read() {
                let answer = command.map_or(Answer::Unknown, |command| self.carry_out(command));
                self.inbox.answer(number, answer);
            }
        }
        if let Some(com1) = self.guest.com1() {
            if ready[4] {
                let _ = nix::unistd::read(com1.room_fd(), &mut [0; 8]); // it is only emptied
                self.input.give(com1);
            }
            if ready.get(5) == Some(&true) {
                match self.input.read(com1) {
                    Asked::Nothing => {}
                    Asked::Help => nm_cli::say!("{}", keys::HELP),
                    Asked::Quit => self.quits = true,
                }
            }
        }
        Ok(ready[3] || ready[0] && self.has_ended())
    }

    fn totals(&mut self, kind: Kind) -> anyhow::Result<()> {
        let totals = Totals {
            name: self.plan.name.clone(),
            accel: self.guest.accel(),
            end: None,
            status: None,
            elapsed_ns: self.begin.elapsed().as_nanos() as u64,
            cpu: CpuTime { total_ns: process_cpu_ns(), ..CpuTime::default() },
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
