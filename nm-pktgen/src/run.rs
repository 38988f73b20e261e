//! A run from beginning to end: open ports, start threads, report while they work, join them, print the
//! totals. The totals are printed however the run ended; an error comes after them.

use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use netmap::{Capabilities, Counters, Direction, Options, PerDirection, Port, PortName};
use nm_cli::cpulist;
use nm_cli::every::Every;
use nm_cli::exit::{Outcome, UsageError};
use nm_cli::latency::Latency;
use nm_cli::live::{Goal, Live};
use nm_cli::mac::{Mac, MacRange};
use nm_cli::report::{Kind, Reporter};
use nm_cli::say;
use nm_cli::signal::{Signals, Waker};

use crate::capture::Capture;
use crate::cli::Function;
use crate::control::Control;
use crate::func::{self, replay};
use crate::neighbours::{self, Neighbours};
use crate::plan::{Plan, is_split};
use crate::record::{Start, Totals, plural};
use crate::stats::{Board, RateWindow, Tally, lock};
use crate::worker::Worker;

/// How often a progress bar moves between reports.
const BAR: Duration = Duration::from_millis(100);

/// Does what the plan says.
pub fn run(plan: &mut Plan) -> anyhow::Result<Outcome> {
    let signals = Signals::install()?;
    for flag in plan.idle.iter().filter(|_| !plan.output.quiet) {
        let with = if plan.replay.is_some() { "--pcap-in" } else { plan.function.flag() };
        say!("nm-pktgen: {flag} has no effect with {with}");
    }
    // Before a switch is made and a file replaced: the input may not be there.
    let mut input = match &plan.replay {
        Some(replay) => Some(replay::open(plan, replay)?),
        None => None,
    };
    let capture = match &plan.pcap_out {
        Some((path, snaplen)) => Some(Capture::create(path, *snaplen, signals.stop_flag())?),
        None => None,
    };
    let latency_out = match &plan.latency_out {
        Some(path) => Some(nm_cli::output::create(path)?),
        None => None,
    };
    // Who only sends takes nothing from the host.
    if plan.function.receives() && !plan.output.quiet {
        let note = netmap::control::default_route_note(&plan.ports[0]);
        note.iter().for_each(|note| say!("nm-pktgen: {note}"));
    }
    let ports = open(plan)?;
    plan.take_header(ports[0].vnet_hdr_len())?;
    // What was counted of a port that was there before. At once: a sender may be at work already.
    let before: Vec<Counters> = ports.iter().map(Port::counters).collect();
    if plan.own_mac
        && let Some(mac) = ports[0].mac()
    {
        plan.recipe.src_mac = MacRange::from(Mac(mac));
    }
    let plan = &*plan;
    let goal = plan.count.map(Goal::Packets).or(plan.duration.map(Goal::Time));
    let mut screen = Screen {
        live: Live::new(goal, &plan.output),
        reporter: if plan.stdout_is_capture() {
            Reporter::stderr(&plan.output)
        } else {
            Reporter::stdout(&plan.output)
        },
        window: RateWindow::default(),
        last: None,
        intervals: plan.output.interval.is_some(),
    };
    let start = Start::new(plan, ports[0].name().to_string(), ports[0].slots());
    if plan.verbose > 0 {
        describe(plan, &ports);
    }
    let mut company = Company::new(plan);
    company.greet();
    screen.reporter.emit(&screen.live, Kind::Start, &start)?;
    signals.sleep(plan.wait_link);

    let control =
        Control::new(signals.stop_flag(), signals.hurry_flag(), plan.count, !plan.warmup.is_zero());
    let boards: Vec<Board> = ports.iter().map(|_| Board::default()).collect();
    let working = AtomicUsize::new(ports.len());
    let mut outcome = Ok(());
    let mut left = Vec::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let mut threads = Vec::new();
        for (index, port) in ports.into_iter().enumerate() {
            let (board, capture) = (&boards[index], capture.as_ref());
            let before = before[index];
            let worker =
                Worker::new((index, port, before), plan, &control, board, capture, input.take());
            let waker = signals.waker()?;
            let working = &working;
            let body = move || work(worker, working, &waker);
            let thread = std::thread::Builder::new().name(format!("{}-{index}", start_name(plan)));
            match thread.spawn_scoped(scope, body) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    signals.request_stop();
                    outcome = Err(anyhow::Error::new(error).context("starting a thread"));
                    break;
                }
            }
        }
        let watched = watch(plan, &control, &boards, &working, &signals, &mut screen, &mut company);
        control.end();
        // Whoever is still at work must end, or the join would wait for ever.
        signals.request_stop();
        for thread in threads {
            match thread.join() {
                Ok((worker, done)) => {
                    left.push(worker);
                    outcome = std::mem::replace(&mut outcome, Ok(())).and(done);
                }
                Err(_) => {
                    outcome =
                        Err(anyhow::anyhow!("a thread panicked; this is a bug, please report it"));
                }
            }
        }
        outcome = std::mem::replace(&mut outcome, Ok(())).and(watched);
        Ok(())
    })?;
    screen.live.finish();

    // Each of these is tried, whatever became of the others: a report that nobody reads costs no capture.
    let tally = final_tally(&boards, &mut left);
    let mut reported = Ok(());
    if screen.last_interval_is_due() {
        reported = screen.interval(plan, &control, &boards);
    }
    let latency = round_trips(&boards);
    let totals = totals(plan, &control, &tally, &latency);
    reported = reported.and(screen.reporter.emit(&screen.live, Kind::End, &totals));
    for sentence in left.iter().flat_map(|worker| worker.port.remarks()) {
        say!("nm-pktgen: {sentence}");
    }
    let written = match (latency_out, &plan.latency_out) {
        (Some(file), Some(path)) => {
            let mut file = BufWriter::new(file);
            (latency.write_hgrm(&mut file).and_then(|()| file.flush()))
                .with_context(|| format!("writing {}", path.display()))
        }
        _ => Ok(()),
    };
    let left_out = capture.as_ref().map_or(0, Capture::incomplete);
    if left_out > 0 {
        let why = "their virtio-net headers make no sense";
        say!("nm-pktgen: {left_out} packets are not in the capture: {why}");
    }
    let captured = capture.map_or(Ok(()), |capture| capture.finish());
    outcome.and(written)?;
    captured?;
    reported?;
    exit_outcome(plan, &tally, company.alone(&tally))
}

/// Whether the run was what was asked for.
fn exit_outcome(plan: &Plan, tally: &Tally, alone: bool) -> anyhow::Result<Outcome> {
    let nothing = plan.function.receives() && tally.rx_packets == 0;
    if plan.fail_on_loss {
        let lost = tally.lost > 0 || tally.drops > 0 || nothing || (plan.function.sends() && alone);
        return Ok(if lost { Outcome::ConditionNotMet } else { Outcome::Done });
    }
    if plan.function == Function::Ping && nothing && tally.tx_packets > 0 {
        anyhow::bail!("nobody answered");
    }
    Ok(Outcome::Done)
}

/// Who else is on the switch, looked at now and then until somebody is.
struct Company<'a> {
    plan: &'a Plan,
    seen: bool,
    told: bool,
}

impl<'a> Company<'a> {
    fn new(plan: &'a Plan) -> Company<'a> {
        Company { plan, seen: false, told: false }
    }

    fn look(&mut self) -> Option<Neighbours> {
        let found = Neighbours::of(&self.plan.ports[0]);
        self.seen |= found.as_ref().is_none_or(|found| !found.alone());
        found
    }

    /// At the start: says who shares the port, and with -v where the switch is.
    fn greet(&mut self) {
        let Some(found) = self.look() else { return };
        if self.plan.function.receives() {
            found.tell_sharers(&self.plan.ports[0]);
        }
        if self.plan.verbose > 0 {
            neighbours::tell_roots();
        }
    }

    /// While a sender runs: says once that nobody is there.
    fn check(&mut self) {
        if self.seen || !self.plan.function.sends() {
            return;
        }
        if let Some(found) = self.look()
            && found.alone()
            && !std::mem::replace(&mut self.told, true)
        {
            found.tell_alone(true);
        }
    }

    /// In the end: whether nobody was there at any look, which is said if it explains the result.
    fn alone(&mut self, tally: &Tally) -> bool {
        if self.seen {
            return false;
        }
        let found = self.look();
        let sends = self.plan.function.sends();
        if let Some(found) = found.filter(Neighbours::alone)
            && (sends || tally.rx_packets == 0)
            && !std::mem::replace(&mut self.told, true)
        {
            found.tell_alone(sends);
        }
        !self.seen
    }
}

fn start_name(plan: &Plan) -> &'static str {
    if plan.function.sends() { "tx" } else { "rx" }
}

/// Opens one handle a thread. A one-way function binds rings of its direction only.
fn open(plan: &Plan) -> anyhow::Result<Vec<Port>> {
    let direction = match plan.function {
        Function::Tx | Function::Txseq => Direction::TxOnly,
        Function::Rx | Function::Rxseq => Direction::RxOnly,
        Function::Ping | Function::Pong => Direction::Both,
    };
    let to_ethernet = plan.to_ethernet();
    let options = Options { direction, to_ethernet, ..plan.options.clone() };
    let open_one = |name: &PortName| {
        let mut port =
            Port::open_with(name, &options).with_context(|| format!("opening port {name}"))?;
        // Whoever asks for headers has to tell the port, or its frames would begin with them. Borrowed, what the port has already as
        // well: nobody changes it under this program's hands, and a port that stays is as it was.
        if port.can(Capabilities::OFFLOAD_HEADERS) {
            let len = plan.asked_header().unwrap_or(port.vnet_hdr_len());
            port.borrow_vnet_hdr_len(len)
                .with_context(|| format!("setting the header of {name}"))?;
        }
        let missing = (plan.function.sends() && port.tx_rings() == 0).then_some("transmit");
        let missing =
            missing.or((plan.function.receives() && port.rx_rings() == 0).then_some("receive"));
        match missing {
            Some(missing) => Err(anyhow::Error::new(UsageError::new(format!(
                "{name} has no {missing} ring for this function"
            )))),
            None => Ok(port),
        }
    };
    let first = &plan.ports[0];
    if !is_split(first, plan.ports.len() as u16) {
        return plan.ports.iter().map(open_one).collect();
    }
    if direction == Direction::Both {
        let why = format!("{first} cannot be shared by threads that both send and receive");
        return Err(UsageError::new(why).into());
    }
    let (senders, receivers) =
        open_one(first)?.split_rings().with_context(|| format!("splitting port {first}"))?;
    Ok(if direction == Direction::TxOnly { senders } else { receivers })
}

fn describe(plan: &Plan, ports: &[Port]) {
    for (index, port) in ports.iter().enumerate() {
        let PerDirection { tx, rx } = port.slots();
        let cpu = plan.cpus.as_ref().map_or(String::new(), |cpus| format!(", CPU {}", cpus[index]));
        say!(
            "nm-pktgen: thread {index}: {} with {} of {tx} slots, {} of {rx} slots{cpu}",
            port.name(),
            plural(port.tx_rings() as u64, "tx ring"),
            plural(port.rx_rings() as u64, "rx ring")
        );
        if let Some(about) = port.about() {
            say!("nm-pktgen: {}: {about}", port.name());
        }
    }
    if plan.verbose > 1 {
        say!("nm-pktgen: {plan:#?}");
    }
}

/// A thread's life.
fn work<'a>(
    mut worker: Worker<'a>,
    working: &AtomicUsize,
    waker: &Waker,
) -> (Worker<'a>, anyhow::Result<()>) {
    let pinned = match &worker.plan.cpus {
        Some(cpus) => cpulist::pin_thread(cpus[worker.index]),
        None => Ok(()),
    };
    let done = pinned.map_err(anyhow::Error::from).and_then(|()| func::run(&mut worker));
    if done.is_err() {
        // One failure ends the run: half of a test is no test.
        worker.control.stop.store(true, Ordering::Relaxed);
    }
    // Pairs with the Acquire load in `watch`, which then sees what this thread published.
    working.fetch_sub(1, Ordering::Release);
    waker.wake();
    (worker, done)
}

/// What reports go through.
struct Screen {
    live: Live,
    reporter: Reporter,
    window: RateWindow,
    /// When the last interval ended, and what had been counted by then; `None` before the first begins.
    last: Option<(f64, Tally)>,
    /// An interval was reported, or would be.
    intervals: bool,
}

impl Screen {
    /// Reports what happened since the last interval.
    fn interval(&mut self, plan: &Plan, control: &Control, boards: &[Board]) -> anyhow::Result<()> {
        let (before_s, before) = self.last.unwrap_or_default();
        let (now_s, tally) = (control.elapsed_s(), merge(boards));
        self.last = Some((now_s, tally));
        self.intervals = true;
        let rtt = (plan.function == Function::Ping).then(|| {
            let mut all = Latency::new();
            for board in boards {
                let mut round_trips = lock(&board.round_trips);
                all.merge(&round_trips.interval);
                round_trips.interval.clear();
            }
            all.summary()
        });
        let since = tally.since(&before);
        let mut record = Totals::new(plan, &since, now_s, now_s - before_s, rtt).into_interval();
        if plan.rate_stats {
            let stats = self.window.add(record.pps());
            record = record.with_rate_stats(stats);
        }
        self.reporter.emit(&self.live, Kind::Interval, &record)
    }

    /// In the end: intervals that were asked for, or have begun, add up to the totals.
    fn last_interval_is_due(&self) -> bool {
        self.intervals
    }
}

/// Reports until all threads have ended or the run is stopped.
fn watch(
    plan: &Plan,
    control: &Control,
    boards: &[Board],
    working: &AtomicUsize,
    signals: &Signals,
    screen: &mut Screen,
    company: &mut Company<'_>,
) -> anyhow::Result<()> {
    /// Time between two looks for company.
    const LONELY: Duration = Duration::from_secs(1);
    let bounded = plan.count.is_some() || plan.duration.is_some();
    let mut begin = Instant::now();
    let warm = begin + plan.warmup;
    let mut reports = Every::new(begin, plan.output.interval());
    let mut looks = Every::new(begin, LONELY);
    while working.load(Ordering::Acquire) > 0 && !signals.stopped() {
        let now = Instant::now();
        let warming = !control.measuring.load(Ordering::Relaxed);
        if warming && now >= warm {
            control.measure();
            begin = now;
            screen.last = None;
            reports = Every::new(begin, plan.output.interval());
        }
        let end = plan.duration.filter(|_| !warming).map(|time| begin + time);
        if end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        if signals.take_report() {
            let tally = merge(boards);
            screen.reporter.emit(
                &screen.live,
                Kind::Totals,
                &totals(plan, control, &tally, &round_trips(boards)),
            )?;
        }
        if !warming && reports.due(now) {
            screen.interval(plan, control, boards)?;
        }
        if looks.due(now) {
            company.check();
        }
        if bounded && !warming {
            let tally = merge(boards);
            let packets =
                if plan.function.receives() { tally.rx_packets } else { tally.tx_packets };
            screen.live.update(packets, now - begin, || message(plan, &tally));
        }
        let bar = screen.live.is_shown().then_some(now + BAR);
        let until = [(!warming).then(|| reports.next()), bar, end, warming.then_some(warm)];
        let until = until.into_iter().flatten().fold(looks.next(), Instant::min);
        signals.wait(until.saturating_duration_since(Instant::now()));
    }
    // A request that came with the end is still answered by the end's own record.
    Ok(())
}

fn message(plan: &Plan, tally: &Tally) -> String {
    let flow = if plan.function.receives() { tally.rx() } else { tally.tx() };
    plan.output.units().pps(flow.pps(tally.seconds()))
}

fn merge(boards: &[Board]) -> Tally {
    boards.iter().map(Board::read).reduce(|all, one| all.merge(&one)).unwrap_or_default()
}

fn round_trips(boards: &[Board]) -> Latency {
    let mut all = Latency::new();
    boards.iter().for_each(|board| all.merge(&lock(&board.round_trips).total));
    all
}

/// The tally after all threads have ended. The first, which counts the drops of the port, may have ended
/// before the others, so it looks again.
fn final_tally(boards: &[Board], left: &mut [Worker<'_>]) -> Tally {
    if let Some(first) = left.iter_mut().find(|worker| worker.index == 0) {
        first.finish();
    }
    merge(boards)
}

/// Totals, with rates over the time that was asked for, or else from the first to the last packet; one
/// packet has no rate.
fn totals(plan: &Plan, control: &Control, tally: &Tally, latency: &Latency) -> Totals {
    let rtt = (plan.function == Function::Ping).then(|| latency.summary());
    let elapsed_s = control.elapsed_s();
    let seconds = match plan.duration {
        Some(_) if !control.exhausted() => elapsed_s,
        _ if tally.tx_packets.max(tally.rx_packets) < 2 => 0.0,
        _ => tally.seconds(),
    };
    Totals::new(plan, tally, elapsed_s, seconds, rtt)
}
