//! The loop: sync both ports, move both ways, sync what was filled, sleep if nothing moved.
//!
//! Invariant: one sync a batch and direction. A bridge that ends, for whatever reason it may choose,
//! first moves what it had taken and pushes out what it had filled.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use netmap::{Capabilities, Counters, Interest, Link, Port, Wait};
use nm_capture::is_stdout;
use nm_cli::args::OutputArgs;
use nm_cli::cpulist;
use nm_cli::every::Every;
use nm_cli::exit::Outcome;
use nm_cli::live::{Goal, Live};
use nm_cli::report::{Flow, Kind, Reporter};
use nm_cli::signal::Signals;

use crate::capture::Capture;
use crate::cli::Cli;
use crate::forward::Mover;
use crate::headers::Headers;
use crate::idle::Idle;
use crate::plan::{Pair, Plan};
use crate::service::{self, Partner};
use crate::stats::{Report, Start, Totals};

/// Longest wait for a link: upstream's.
const NIC_WAIT: Duration = Duration::from_secs(4);
/// How often a link that is down is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a stopping bridge tries to push out what a full destination does not take.
const DRAIN: Duration = Duration::from_millis(200);
/// Why a packet cannot be captured.
const INCOMPLETE: &str = "their virtio-net headers make no sense";
/// Longest time that a packet waits in the capture's buffer.
const FLUSH: Duration = Duration::from_millis(100);
/// Shortest time between two lines about links: whoever is at the other end may come and go all the time.
const TELL: Duration = Duration::from_millis(500);
/// How often a progress bar moves.
const LIVE: Duration = Duration::from_millis(200);

/// Runs the tool.
pub fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let ended = bridge(cli);
    if let (Err(why), Some(_)) = (&ended, &cli.attached) {
        service::last_words(why);
    }
    ended
}

fn bridge(cli: &Cli) -> anyhow::Result<Outcome> {
    let operands = cli.operands()?;
    let plan = Plan::new(cli, &operands)?;
    let signals = Signals::install()?;
    if let Some(cpu) = cli.cpu {
        cpulist::pin_thread(cpu)?;
    }
    // `vale-ctl attach` has looked, and what this says until it is ready is the reason of a failure.
    if !cli.output.quiet && cli.attached.is_none() {
        plan.default_route_notes().for_each(|note| nm_cli::say!("nm-bridge: {note}"));
    }
    let pair = plan.open(cli)?;
    if cli.verbose > 0 {
        describe(&pair, cli);
    }
    let capture = match &cli.pcap_out {
        Some(path) => {
            let capture = Capture::create(path, cli.snaplen, signals.stop_flag());
            Some(capture.context("opening the capture file")?)
        }
        None => None,
    };
    let left = if cli.count.0 == 0 { u64::MAX } else { cli.count.0 };
    let mover = Mover { burst: operands.burst, zero_copy: pair.zero_copy, capture, left };
    let start = Start {
        a: plan.a.to_string(),
        b: plan.b.to_string(),
        zero_copy: pair.zero_copy,
        burst: operands.burst,
    };
    let stdout_is_taken =
        plan.port_on_stdout() || cli.pcap_out.as_ref().is_some_and(|path| is_stdout(path));
    // Asking for rates is asking for lines of them, in every form.
    let mut output = cli.output.clone();
    if cli.stats {
        output.interval.get_or_insert(OutputArgs::DEFAULT_INTERVAL);
    }
    let reporter = match stdout_is_taken {
        true => Reporter::stderr(&output),
        false => Reporter::stdout(&output),
    };
    let partner = cli.with.map(Partner::of).transpose()?;
    if let Some(fd) = cli.ready_fd {
        service::ready(fd)?;
    }
    match cli.wait_link {
        Some(time) => signals.sleep(time),
        None if plan.has_nic() => await_links(&pair, &signals),
        None => {}
    }
    Bridge { partner, ..Bridge::new(cli, pair, mover, start, reporter) }
        .run(&signals, plan.loopback)
}

/// Waits until both links are up: a NIC may take its own down when its queues are taken.
fn await_links(pair: &Pair, signals: &Signals) {
    let begin = Instant::now();
    let is_down = || [&pair.a, &pair.b].iter().any(|port| port.link() == Link::Down);
    while is_down() && begin.elapsed() < NIC_WAIT && !signals.stopped() {
        signals.sleep(LOOK);
    }
}

fn describe(pair: &Pair, cli: &Cli) {
    for note in netmap::control::root_notes() {
        nm_cli::say!("{note}");
    }
    for port in [&pair.a, &pair.b] {
        nm_cli::say!("{}: {} tx rings, {} rx rings", port.name(), port.tx_rings(), port.rx_rings());
        if let Some(about) = port.about() {
            nm_cli::say!("{}: {about}", port.name());
        }
    }
    if pair.a.vnet_hdr_len() > 0 {
        let bytes = pair.a.vnet_hdr_len();
        nm_cli::say!("frames carry virtio-net headers of {bytes} bytes");
    }
    nm_cli::say!(
        "{}",
        match (pair.zero_copy, cli.copy) {
            (true, _) => "the ports share memory: buffers are swapped",
            (false, true) => "packets are copied, as asked",
            (false, false) => "the ports do not share memory: packets are copied",
        }
    );
}

/// A running bridge.
struct Bridge<'a> {
    cli: &'a Cli,
    a: Port,
    b: Port,
    mover: Mover,
    headers: Headers,
    idle: Idle,
    totals: Totals,
    /// What the ports had counted before.
    before: [Counters; 2],
    /// What the far end of a switch's port had counted when that was told there, and when it may be told again.
    far: Counters,
    next_shared: Instant,
    begin: Instant,
    /// What was said of the ports' links, and when more may be said.
    links: [Link; 2],
    next_told: Instant,
    shown: (Totals, Instant),
    intervals: Option<Every>,
    next_flush: Instant,
    bar: Option<Every>,
    start: Start,
    reporter: Reporter,
    live: Live,
    /// Which it ends with.
    partner: Option<Partner>,
}

impl<'a> Bridge<'a> {
    fn new(cli: &'a Cli, pair: Pair, mover: Mover, start: Start, reporter: Reporter) -> Bridge<'a> {
        let begin = Instant::now();
        let goal = match (cli.count.0, cli.duration) {
            (0, None) => None,
            (0, Some(time)) => Some(Goal::Time(time)),
            (count, _) => Some(Goal::Packets(count)),
        };
        let (a, b) = (pair.a, pair.b);
        Bridge {
            links: [Link::Up; 2],
            next_told: begin,
            before: [a.counters(), b.counters()],
            far: Counters::default(),
            next_shared: begin,
            headers: Headers::of(&a, &b),
            a,
            b,
            mover,
            idle: Idle::new(cli.wait()),
            totals: Totals::default(),
            begin,
            shown: (Totals::default(), begin),
            next_flush: begin,
            intervals: cli.wants_intervals().then(|| Every::new(begin, cli.output.interval())),
            bar: goal.map(|_| Every::new(begin, LIVE)),
            start,
            reporter,
            live: Live::new(goal, &cli.output),
            partner: None,
            cli,
        }
    }

    fn run(mut self, signals: &Signals, one_way: bool) -> anyhow::Result<Outcome> {
        let worked = self.work(signals, one_way);
        // Whatever ended it: what was taken goes out, is counted, and is reported; then the error.
        let drained = self.drain(signals);
        let finished = self.finish();
        self.tell_switch();
        let reported = self.conclude();
        worked?;
        drained?;
        finished?;
        reported?;
        Ok(Outcome::Done)
    }

    fn work(&mut self, signals: &Signals, one_way: bool) -> anyhow::Result<()> {
        self.reporter.emit(&self.live, Kind::Start, &self.start)?;
        loop {
            // Each time: frames with headers of the one length are nonsense to a port of another.
            let [there, back] = self.headers.follow(&mut self.a, &mut self.b)?;
            self.totals.a_to_b.drops += there;
            self.totals.b_to_a.drops += back;
            let (moved, want_a, want_b) = self.round(one_way)?;
            let now = Instant::now();
            if signals.stopped() || self.is_done(now) || (!moved && self.is_at_the_end()) {
                return Ok(());
            }
            if signals.take_report() {
                self.report(Kind::Totals, now)?;
            }
            self.show(now)?;
            // Whoever reads the capture need not wait for the next packet, nor for a pause.
            if !moved || now >= self.next_flush {
                self.flush()?;
                self.tell_changes(now);
                // A bridge that spins comes here all the time.
                if now >= self.next_shared {
                    self.tell_switch();
                    self.next_shared = now + FLUSH;
                }
                if self.partner.as_ref().is_some_and(Partner::has_ended) {
                    bail!("the other bridge of this NIC and its host has ended, so this one does");
                }
                self.next_flush = now + FLUSH;
            }
            if !moved {
                let event = self.next_event().map(|at| at.saturating_duration_since(now));
                let timeout = [event, self.next_look()].into_iter().flatten().min();
                let (a, b) = ((&mut self.a, want_a), (&mut self.b, want_b));
                self.idle.wait(a, b, signals, timeout)?;
            }
        }
    }

    /// How long a wait may be for what no port is woken for.
    fn next_look(&self) -> Option<Duration> {
        let has_link = [&self.a, &self.b].iter().any(|port| port.can(Capabilities::LINK_STATE));
        self.partner.as_ref().map(|_| FLUSH).or(has_link.then_some(TELL))
    }

    /// Says what has become of the headers and of a port's link, now and then.
    fn tell_changes(&mut self, now: Instant) {
        if now < self.next_told {
            return;
        }
        if let Some(news) = self.headers.news() {
            nm_cli::say!("nm-bridge: {news}");
            self.next_told = now + TELL;
        }
        for (port, told) in [&self.a, &self.b].into_iter().zip(&mut self.links) {
            let link = port.link();
            if *told == link {
                continue;
            }
            *told = link;
            self.next_told = now + TELL;
            match link {
                Link::Up => nm_cli::say!("nm-bridge: {}: the link is up", port.name()),
                Link::Down => nm_cli::say!("nm-bridge: {}: the link is down", port.name()),
                Link::Gone => {} // the error that ends the bridge says so
            }
        }
    }

    /// Counts at a port of a switch what the other port has dropped: `vale-ctl` looks there, and a bridge in the background
    /// reports to nobody.
    fn tell_switch(&mut self) {
        let of_switch = |port: &Port| port.name().switch_port().is_some();
        let (near, far) = match (of_switch(&self.a), of_switch(&self.b)) {
            (true, false) => (&self.a, &self.b),
            (false, true) => (&self.b, &self.a),
            _ => return,
        };
        let now = far.counters();
        near.count_far_drops(&now.since(&self.far));
        self.far = now;
    }

    /// The reports of the end: what is left of an interval where rows of intervals are all there is.
    fn conclude(&mut self) -> anyhow::Result<()> {
        self.live.finish();
        for port in [&self.a, &self.b] {
            for remark in port.remarks() {
                nm_cli::say!("nm-bridge: {remark}");
            }
        }
        let now = Instant::now();
        if self.cli.output.csv && self.intervals.is_some() {
            self.report(Kind::Interval, now)?;
        }
        self.report(Kind::End, now)
    }

    /// Neither port can give anything any more, and what they gave has gone.
    fn is_at_the_end(&mut self) -> bool {
        let silent =
            |port: &Port| port.rx_rings() == 0 || port.ended() || !port.can(Capabilities::RECEIVE);
        let captures = self.a.ended() || self.b.ended();
        captures
            && silent(&self.a)
            && silent(&self.b)
            && self.a.pending() == 0
            && self.b.pending() == 0
    }

    /// One batch each way. Returns whether anything moved and, if not, what to wait for.
    fn round(&mut self, one_way: bool) -> netmap::Result<(bool, Interest, Interest)> {
        let Self { a, b, mover, totals, .. } = self;
        let there = one_batch(mover, a, b, &mut totals.a_to_b)?;
        if one_way {
            return Ok((there.moved, there.source, there.destination));
        }
        let back = one_batch(mover, b, a, &mut totals.b_to_a)?;
        Ok((
            there.moved || back.moved,
            there.source | back.destination,
            there.destination | back.source,
        ))
    }

    fn is_done(&self, now: Instant) -> bool {
        let count = self.cli.count.0;
        (count > 0 && self.totals.packets() >= count)
            || self.cli.duration.is_some_and(|time| now >= self.begin + time)
    }

    fn next_event(&self) -> Option<Instant> {
        let end = self.cli.duration.map(|time| self.begin + time);
        let next = |every: Option<Every>| every.map(|every| every.next());
        [next(self.intervals), next(self.bar), end].into_iter().flatten().min()
    }

    fn show(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.intervals.as_mut().is_some_and(|every| every.due(now)) {
            self.report(Kind::Interval, now)?;
        }
        if self.bar.as_mut().is_some_and(|every| every.due(now)) {
            let elapsed = now - self.begin;
            let rate = self.totals.packets() as f64 / elapsed.as_secs_f64().max(1e-9);
            let units = self.cli.output.units();
            self.live.update(self.totals.packets(), elapsed, || units.pps(rate));
        }
        Ok(())
    }

    fn report(&mut self, kind: Kind, now: Instant) -> anyhow::Result<()> {
        let mut totals = self.totals;
        totals.ports = [&self.a, &self.b].map(Port::counters);
        for (now, before) in totals.ports.iter_mut().zip(&self.before) {
            *now = now.since(before);
        }
        let (there, back) = port_drops(&totals.ports);
        for (flow, drops) in [(&mut totals.a_to_b, there), (&mut totals.b_to_a, back)] {
            flow.drops = flow.drops.saturating_add(drops);
        }
        totals.sleeps = self.idle.sleeps;
        let elapsed = now - self.begin;
        let report = if kind == Kind::Interval {
            let (before, at) = std::mem::replace(&mut self.shown, (totals, now));
            Report::new(&self.start, totals.since(before), now - at, elapsed)
        } else {
            Report::new(&self.start, totals, elapsed, elapsed)
        };
        self.reporter.emit(&self.live, kind, &report)
    }

    /// Pushes out what was filled, as far as the destinations take it within `DRAIN`.
    fn drain(&mut self, signals: &Signals) -> netmap::Result<()> {
        let end = Instant::now() + DRAIN;
        for port in [&mut self.a, &mut self.b] {
            port.txsync()?;
            while port.pending() > 0 {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || signals.hurried() {
                    break;
                }
                port.wait(Interest::SENT, Wait::Block, Some(left))?;
            }
        }
        Ok(())
    }

    /// Hands on what ports and the capture hold back for their readers.
    fn finish(&mut self) -> netmap::Result<()> {
        let left_out = self.mover.capture.as_ref().map_or(0, Capture::incomplete);
        if left_out > 0 {
            nm_cli::say!("nm-bridge: {left_out} packets are not in the capture: {INCOMPLETE}");
        }
        let ports = self.a.finish().and(self.b.finish());
        ports.and(self.mover.capture.as_mut().map_or(Ok(()), Capture::finish))
    }

    fn flush(&mut self) -> netmap::Result<()> {
        self.mover.capture.as_mut().map_or(Ok(()), Capture::flush)
    }
}

/// What one batch leaves to be done.
struct Next {
    moved: bool,
    /// What to wait for at the source, and at the destination.
    source: Interest,
    destination: Interest,
}

/// Sync the source, move, sync the destination. With a full destination there is no point in
/// waiting for more to come; with nothing queued there, none in waiting for space.
fn one_batch(
    mover: &mut Mover,
    src: &mut Port,
    dst: &mut Port,
    flow: &mut Flow,
) -> netmap::Result<Next> {
    src.rxsync()?;
    let batch = mover.forward(src, dst, flow)?;
    let before = dst.pending();
    let mut after = 0;
    if before > 0 {
        dst.txsync()?;
        after = dst.pending();
    }
    Ok(Next {
        // What was blocked is worth another try if the sync made room.
        moved: batch.packets > 0 || (batch.blocked && after < before),
        source: if batch.blocked { Interest::empty() } else { Interest::RX },
        destination: if after > 0 { Interest::SPACE } else { Interest::empty() },
    })
}

/// Packets lost on the way from A to B and from B to A: where they came in, and where they went out.
fn port_drops([a, b]: &[Counters; 2]) -> (u64, u64) {
    // Counters of a switch are shared memory, which others write.
    (a.rx_drops().saturating_add(b.tx_drops()), b.rx_drops().saturating_add(a.tx_drops()))
}
