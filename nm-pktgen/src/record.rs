//! What a run reports: the start, intervals, totals. Field names are the JSON keys, so they carry units
//! and must stay as they are (`schema`).

use std::fmt;

use nm_cli::latency::Summary;
use nm_cli::report::{Flow, Record};
use nm_cli::units::Units;
use serde::Serialize;

use crate::cli::Function;
use crate::plan::Plan;
use crate::stats::Tally;

/// Before the first packet.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    tool: &'static str,
    version: &'static str,
    function: Function,
    port: String,
    threads: usize,
    burst: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_s: Option<f64>,
    tx_slots: u32,
    rx_slots: u32,
}

impl Start {
    /// Describes a plan on a port with rings of so many slots.
    pub fn new(plan: &Plan, port: String, slots: (u32, u32)) -> Start {
        let makes =
            plan.function.sends() && plan.function != Function::Pong && plan.replay.is_none();
        Start {
            tool: "nm-pktgen",
            version: env!("CARGO_PKG_VERSION"),
            function: plan.function,
            port,
            threads: plan.threads(),
            burst: plan.burst,
            size: makes.then(|| plan.recipe.sizes.to_string()),
            seed: makes.then_some(plan.recipe.seed),
            count: plan.count,
            duration_s: plan.duration.map(|time| time.as_secs_f64()),
            tx_slots: slots.0,
            rx_slots: slots.1,
        }
    }
}

impl Record for Start {
    /// Nothing: people know what they typed, and stdout is for results.
    fn human(&self, _: &mut dyn fmt::Write, _: Units) -> fmt::Result {
        Ok(())
    }
}

/// One direction.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sent {
    tx_packets: u64,
    tx_bytes: u64,
    tx_pps: f64,
    tx_bps_l2: f64,
    tx_bps_l1: f64,
    tx_avg_batch: f64,
}

/// The other direction.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Received {
    rx_packets: u64,
    rx_bytes: u64,
    rx_pps: f64,
    rx_bps_l2: f64,
    rx_bps_l1: f64,
    rx_avg_batch: f64,
}

/// What happened in an interval or the whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    function: Function,
    /// Since the start of the run (or the end of its warm-up).
    elapsed_s: f64,
    /// That the rates refer to: an interval's length, or from the first to the last packet.
    seconds: f64,
    #[serde(flatten)]
    tx: Option<Sent>,
    #[serde(flatten)]
    rx: Option<Received>,
    drops: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reordered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pps_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pps_std: Option<f64>,
    #[serde(flatten)]
    rtt: Option<Summary>,
    #[serde(skip)]
    tally: Tally,
    #[serde(skip)]
    interval: bool,
}

impl Totals {
    /// Of a tally, with rates over `seconds`.
    pub fn new(
        plan: &Plan,
        tally: &Tally,
        elapsed_s: f64,
        seconds: f64,
        rtt: Option<Summary>,
    ) -> Totals {
        let function = plan.function;
        let sequenced = function == Function::Rxseq;
        let matched = sequenced || function == Function::Ping;
        let (tx, rx) = (tally.tx(), tally.rx());
        Totals {
            function,
            elapsed_s,
            seconds,
            tx: function.sends().then(|| Sent {
                tx_packets: tx.packets,
                tx_bytes: tx.bytes,
                tx_pps: tx.pps(seconds),
                tx_bps_l2: tx.bps_l2(seconds),
                tx_bps_l1: tx.bps_l1(seconds),
                tx_avg_batch: tx.avg_batch(),
            }),
            rx: function.receives().then(|| Received {
                rx_packets: rx.packets,
                rx_bytes: rx.bytes,
                rx_pps: rx.pps(seconds),
                rx_bps_l2: rx.bps_l2(seconds),
                rx_bps_l1: rx.bps_l1(seconds),
                rx_avg_batch: rx.avg_batch(),
            }),
            drops: tally.drops,
            lost: matched.then_some(tally.lost),
            reordered: sequenced.then_some(tally.reordered),
            duplicated: sequenced.then_some(tally.duplicated),
            foreign: (matched || function == Function::Pong).then_some(tally.foreign),
            space: None,
            pps_mean: None,
            pps_std: None,
            rtt,
            tally: *tally,
            interval: false,
        }
    }

    /// Makes it an interval: with the ring's free slots.
    pub fn into_interval(mut self) -> Totals {
        self.interval = true;
        self.space = Some(self.tally.space);
        self
    }

    /// Adds mean and standard deviation of the last intervals' rates.
    pub fn with_rate_stats(mut self, (mean, std): (f64, f64)) -> Totals {
        self.pps_mean = Some(mean);
        self.pps_std = Some(std);
        self
    }

    /// The rate that matters: what is received, or sent if nothing is received.
    pub fn pps(&self) -> f64 {
        self.rx.map(|rx| rx.rx_pps).or(self.tx.map(|tx| tx.tx_pps)).unwrap_or(0.0)
    }

    fn flows(&self) -> impl Iterator<Item = (bool, Flow)> + use<> {
        let tx = self.tx.map(|_| (true, self.tally.tx()));
        let rx = self.rx.map(|_| (false, self.tally.rx()));
        tx.into_iter().chain(rx)
    }

    fn human_interval(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        write!(f, "{:9.3} s", self.elapsed_s)?;
        for (sent, flow) in self.flows() {
            let s = self.seconds;
            write!(f, "  {} {:>11}", if sent { "tx" } else { "rx" }, units.pps(flow.pps(s)))?;
            write!(
                f,
                "  L2 {:>11}  L1 {:>11}",
                units.bps(flow.bps_l2(s)),
                units.bps(flow.bps_l1(s))
            )?;
            write!(
                f,
                "  packets {:>8}  batch {:>5.1}",
                units.count(flow.packets),
                flow.avg_batch()
            )?;
        }
        write!(f, "  drops {}", units.count(self.drops))?;
        self.human_faults(f, units)?;
        if let Some(space) = self.space {
            write!(f, "  space {space}")?;
        }
        if let (Some(mean), Some(std)) = (self.pps_mean, self.pps_std) {
            write!(f, "  avg/std {}/{}", units.pps(mean), units.pps(std))?;
        }
        if let Some(rtt) = self.rtt.filter(|rtt| rtt.rtt_count > 0) {
            write!(
                f,
                "  rtt p50 {} p99 {}",
                units.ns(rtt.rtt_p50_ns as f64),
                units.ns(rtt.rtt_p99_ns as f64)
            )?;
        }
        Ok(())
    }

    fn human_faults(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let faults = [
            ("lost", self.lost),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("foreign", self.foreign),
        ];
        for (name, count) in faults {
            if let Some(count) = count {
                write!(f, "  {name} {}", units.count(count))?;
            }
        }
        Ok(())
    }

    fn human_totals(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let s = self.seconds;
        for (sent, flow) in self.flows() {
            let verb = if sent { "Sent" } else { "Received" };
            if flow.packets == 0 {
                writeln!(f, "{verb} nothing.")?;
                continue;
            }
            let (packets, bytes) = (flow.packets, flow.bytes);
            writeln!(f, "{verb} {packets} packets, {bytes} bytes in {s:.3} s.")?;
            let (pps, l2, l1) =
                (units.pps(flow.pps(s)), units.bps(flow.bps_l2(s)), units.bps(flow.bps_l1(s)));
            writeln!(
                f,
                "Speed: {pps}  L2 {l2}  L1 {l1}  average batch {:.1} packets",
                flow.avg_batch()
            )?;
        }
        write!(f, "Faults:  drops {}", units.count(self.drops))?;
        self.human_faults(f, units)?;
        if let Some(rtt) = self.rtt {
            if rtt.rtt_count == 0 {
                return write!(f, "\nRound trip: no replies");
            }
            let ns = |value: u64| units.ns(value as f64);
            write!(f, "\nRound trip: {} samples", rtt.rtt_count)?;
            write!(f, "  min {}  mean {}", ns(rtt.rtt_min_ns), units.ns(rtt.rtt_mean_ns))?;
            write!(f, "  p50 {}  p90 {}", ns(rtt.rtt_p50_ns), ns(rtt.rtt_p90_ns))?;
            write!(f, "  p99 {}  p99.9 {}", ns(rtt.rtt_p99_ns), ns(rtt.rtt_p999_ns))?;
            write!(f, "  max {}", ns(rtt.rtt_max_ns))?;
        }
        Ok(())
    }
}

impl Record for Totals {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        if self.interval { self.human_interval(f, units) } else { self.human_totals(f, units) }
    }
}
