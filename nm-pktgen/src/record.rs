//! What a run reports: the start, intervals, totals. Field names are the JSON keys, so they carry units
//! and must stay as they are (`schema`).

use std::fmt;

use netmap::{Counters, PerDirection};
use nm_cli::latency::Summary;
use nm_cli::report::{Flow, Record};
use nm_cli::units::Units;
use serde::{Serialize, Serializer};

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
    pub fn new(plan: &Plan, port: String, slots: PerDirection<u32>) -> Start {
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
            tx_slots: slots.tx,
            rx_slots: slots.rx,
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

/// Why packets were dropped: keys are the library's counters. Of a direction that the function does not
/// use they are 0.
#[derive(Clone, Copy, Debug)]
struct Reasons {
    function: Function,
    port: Counters,
}

impl Reasons {
    fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.port.named().into_iter().filter_map(|(name, value)| {
            let used = match name.split_once("_drop_")?.0 {
                "tx" => self.function.sends(),
                "rx" => self.function.receives(),
                _ => return None, // of bridges
            };
            Some((name, if used { value } else { 0 }))
        })
    }
}

impl Serialize for Reasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.named())
    }
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
    #[serde(flatten)]
    reasons: Reasons,
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
            reasons: Reasons { function, port: tally.port },
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

    /// One line of at most [`COLUMNS`]: what matters most is there, the rest as far as it fits. JSON
    /// has all.
    fn human_interval(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let s = self.seconds;
        // Each with its importance; the line keeps their order.
        let mut fields = vec![(0, format!("{:9.3} s", self.elapsed_s))];
        for (sent, flow) in self.flows() {
            let way = if sent { "tx" } else { "rx" };
            fields.push((0, format!("{way} {:>11}", units.pps(flow.pps(s)))));
        }
        if let Some((_, flow)) = self.flows().last() {
            fields.push((2, format!("L2 {:>11}", units.bps(flow.bps_l2(s)))));
            fields.push((2, format!("L1 {:>11}", units.bps(flow.bps_l1(s)))));
        }
        fields.push((0, format!("drops {}", units.count(self.drops))));
        for (name, count) in self.faults().filter(|(_, count)| *count > 0) {
            fields.push((1, format!("{name} {}", units.count(count))));
        }
        if let (Some(mean), Some(std)) = (self.pps_mean, self.pps_std) {
            fields.push((1, format!("avg/std {}/{}", units.pps(mean), units.pps(std))));
        }
        if let Some(rtt) = self.rtt.filter(|rtt| rtt.rtt_count > 0) {
            fields.push((1, format!("rtt p50 {}", units.ns(rtt.rtt_p50_ns as f64))));
            fields.push((1, format!("p99 {}", units.ns(rtt.rtt_p99_ns as f64))));
        }
        if let Some(space) = self.space {
            fields.push((3, format!("space {space}")));
        }
        f.write_str(&fit(&fields))
    }

    /// What went wrong beside drops, as far as this function can tell.
    fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let faults = [
            ("lost", self.lost),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("foreign", self.foreign),
        ];
        faults.into_iter().filter_map(|(name, count)| Some((name, count?)))
    }

    fn human_totals(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let s = self.seconds;
        for (sent, flow) in self.flows() {
            let verb = if sent { "Sent" } else { "Received" };
            if flow.packets == 0 {
                writeln!(f, "{verb} nothing.")?;
                continue;
            }
            let (packets, bytes) = (plural(flow.packets, "packet"), plural(flow.bytes, "byte"));
            writeln!(f, "{verb} {packets}, {bytes} in {s:.3} s.")?;
            // One packet has no rate.
            if s > 0.0 {
                let (pps, l2, l1) =
                    (units.pps(flow.pps(s)), units.bps(flow.bps_l2(s)), units.bps(flow.bps_l1(s)));
                let batch = flow.avg_batch();
                writeln!(f, "Speed: {pps}  L2 {l2}  L1 {l1}  average batch {batch:.1} packets")?;
            }
        }
        write!(f, "Faults:  drops {}", units.count(self.drops))?;
        let reasons: Vec<String> = (self.reasons.named())
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{} {}", name.replace("_drop_", " "), units.count(count)))
            .collect();
        if !reasons.is_empty() {
            write!(f, " ({})", reasons.join(", "))?;
        }
        for (name, count) in self.faults() {
            write!(f, "  {name} {}", units.count(count))?;
        }
        if let (Some(lost), Some(tx), Some(rtt)) = (self.lost, self.tx, self.rtt) {
            let percent = 100.0 * lost as f64 / tx.tx_packets.max(1) as f64;
            write!(f, " ({percent:.1} % loss)")?;
            if rtt.rtt_count == 0 {
                return write!(f, "\nRound trip: no replies");
            }
            let ns = |value: u64| units.ns(value as f64);
            write!(f, "\nRound trip: {}", plural(rtt.rtt_count, "sample"))?;
            write!(f, "  min {}  mean {}", ns(rtt.rtt_min_ns), units.ns(rtt.rtt_mean_ns))?;
            write!(f, "  p50 {}  p90 {}", ns(rtt.rtt_p50_ns), ns(rtt.rtt_p90_ns))?;
            write!(f, "  p99 {}  p99.9 {}", ns(rtt.rtt_p99_ns), ns(rtt.rtt_p999_ns))?;
            write!(f, "  max {}", ns(rtt.rtt_max_ns))?;
        }
        Ok(())
    }
}

/// A number of things in words.
pub fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Width of a terminal that nobody has widened.
const COLUMNS: usize = 80;
const GAP: &str = "  ";

/// The fields in their order; those that do not fit are left out, the least important first.
fn fit(fields: &[(u8, String)]) -> String {
    let mut by_importance: Vec<usize> = (0..fields.len()).collect();
    by_importance.sort_by_key(|&at| fields[at].0);
    let mut width = 0;
    let mut kept = vec![false; fields.len()];
    for at in by_importance {
        let more = fields[at].1.chars().count() + if width > 0 { GAP.len() } else { 0 };
        if fields[at].0 == 0 || width + more <= COLUMNS {
            (kept[at], width) = (true, width + more);
        }
    }
    let shown = fields.iter().zip(kept).filter(|(_, kept)| *kept);
    shown.map(|((_, text), _)| text.as_str()).collect::<Vec<_>>().join(GAP)
}

impl Record for Totals {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        if self.interval { self.human_interval(f, units) } else { self.human_totals(f, units) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_a_terminal_and_lose_the_least_important() {
        let field = |importance, len: usize| (importance, "x".repeat(len));
        let line = fit(&[field(0, 11), field(3, 40), field(2, 20), field(0, 14), field(1, 25)]);
        assert_eq!(line.len(), 11 + 20 + 14 + 25 + 3 * GAP.len());
        assert_eq!(fit(&[field(0, 90)]).len(), 90, "what cannot be left out stays");
    }

    #[test]
    fn one_packet_is_not_one_packets() {
        assert_eq!(
            (plural(1, "packet"), plural(0, "packet")),
            ("1 packet".into(), "0 packets".into())
        );
    }
}
