//! What a bridge counts, and the records that show it.
//!
//! Invariant: the JSON keys are `a_to_b_*` and `b_to_a_*` with unscaled numbers; `a` and `b` say
//! which ports these are. L1 pads by each batch's mean frame size, because looking at every slot's
//! length would cost more than swapping it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use netmap::Counters;
use nm_cli::report::{Flow, Record};
use nm_cli::units::{self, Units};
use serde::Serialize;

/// Adds a batch to a direction's totals.
pub fn count_batch(flow: &mut Flow, packets: u64, bytes: u64) {
    flow.packets += packets;
    flow.bytes += bytes;
    flow.pad_bytes += (packets * units::MIN_FRAME_BYTES).saturating_sub(bytes);
    flow.batches += u64::from(packets > 0);
}

/// Both directions, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received on A, sent on B.
    pub a_to_b: Flow,
    /// Received on B, sent on A.
    pub b_to_a: Flow,
    /// What A and B had counted.
    pub ports: [Counters; 2],
    /// Times that the bridge slept.
    pub sleeps: u64,
}

impl Totals {
    /// Packets of both directions.
    pub fn packets(&self) -> u64 {
        self.a_to_b.packets + self.b_to_a.packets
    }

    /// What happened since `earlier`.
    pub fn since(self, earlier: Totals) -> Totals {
        Totals {
            a_to_b: self.a_to_b.since(earlier.a_to_b),
            b_to_a: self.b_to_a.since(earlier.b_to_a),
            ports: [0, 1].map(|i| self.ports[i].since(&earlier.ports[i])),
            sleeps: self.sleeps.saturating_sub(earlier.sleeps),
        }
    }
}

/// Packets lost, by the counters that say why; only those that are not 0.
type Reasons = BTreeMap<&'static str, u64>;

/// Why packets were lost that came in at a port and were to go out at another one.
fn reasons(from: &Counters, to: &Counters) -> Reasons {
    let of = |side: &'static str, counters: &Counters| {
        let drops = counters.named().into_iter();
        drops.filter(move |(name, n)| name.starts_with(side) && *n > 0)
    };
    of("rx_drop_", from).chain(of("tx_drop_", to)).collect()
}

/// ` (tx_drop_long 3)`, or nothing.
fn said(reasons: &Reasons) -> String {
    let said: Vec<String> = reasons.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

/// The first record: what is joined and how.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// First port.
    pub a: String,
    /// Second port.
    pub b: String,
    /// Whether buffers are swapped.
    pub zero_copy: bool,
    /// Most slots moved at once.
    pub burst: usize,
}

impl Record for Start {
    fn human(&self, f: &mut dyn fmt::Write, _: Units) -> fmt::Result {
        let how = if self.zero_copy { "swapping buffers" } else { "copying" };
        write!(f, "{} <-> {}, {how}, at most {} slots at once", self.a, self.b, self.burst)
    }
}

/// An interval or the totals.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// First port.
    pub a: String,
    /// Second port.
    pub b: String,
    /// Whether buffers are swapped.
    pub zero_copy: bool,
    /// Time since the start.
    pub seconds: f64,
    /// Packets from A to B.
    pub a_to_b_packets: u64,
    /// Their bytes, without CRC.
    pub a_to_b_bytes: u64,
    /// Packets per second.
    pub a_to_b_pps: f64,
    /// Bits per second, frames only.
    pub a_to_b_bps_l2: f64,
    /// Bits per second as on a wire.
    pub a_to_b_bps_l1: f64,
    /// Packets lost on A's receive side or B's send side.
    pub a_to_b_drops: u64,
    /// Of these, by the counters of the ports that say why, those that are not 0.
    pub a_to_b_drop_reasons: Reasons,
    /// Batches moved.
    pub a_to_b_batches: u64,
    /// Packets from B to A.
    pub b_to_a_packets: u64,
    /// Their bytes, without CRC.
    pub b_to_a_bytes: u64,
    /// Packets per second.
    pub b_to_a_pps: f64,
    /// Bits per second, frames only.
    pub b_to_a_bps_l2: f64,
    /// Bits per second as on a wire.
    pub b_to_a_bps_l1: f64,
    /// Packets lost on B's receive side or A's send side.
    pub b_to_a_drops: u64,
    /// Of these, as above.
    pub b_to_a_drop_reasons: Reasons,
    /// Batches moved.
    pub b_to_a_batches: u64,
    /// Times that the bridge slept.
    pub sleeps: u64,
    #[serde(skip)]
    flows: [Flow; 2],
    #[serde(skip)]
    span_s: f64,
}

impl Report {
    /// A report of what was counted during `span`, of a run that lasts `elapsed` by now.
    pub fn new(start: &Start, counted: Totals, span: Duration, elapsed: Duration) -> Report {
        let (there, back, span_s) = (counted.a_to_b, counted.b_to_a, span.as_secs_f64());
        let [a, b] = &counted.ports;
        Report {
            a: start.a.clone(),
            b: start.b.clone(),
            zero_copy: start.zero_copy,
            seconds: elapsed.as_secs_f64(),
            a_to_b_packets: there.packets,
            a_to_b_bytes: there.bytes,
            a_to_b_pps: there.pps(span_s),
            a_to_b_bps_l2: there.bps_l2(span_s),
            a_to_b_bps_l1: there.bps_l1(span_s),
            a_to_b_drops: there.drops,
            a_to_b_drop_reasons: reasons(a, b),
            a_to_b_batches: there.batches,
            b_to_a_packets: back.packets,
            b_to_a_bytes: back.bytes,
            b_to_a_pps: back.pps(span_s),
            b_to_a_bps_l2: back.bps_l2(span_s),
            b_to_a_bps_l1: back.bps_l1(span_s),
            b_to_a_drops: back.drops,
            b_to_a_drop_reasons: reasons(b, a),
            b_to_a_batches: back.batches,
            sleeps: counted.sleeps,
            flows: [there, back],
            span_s,
        }
    }
}

impl Record for Report {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let ways = [
            (&self.a, &self.b, &self.a_to_b_drop_reasons),
            (&self.b, &self.a, &self.b_to_a_drop_reasons),
        ];
        for (i, (flow, (from, to, reasons))) in self.flows.iter().zip(ways).enumerate() {
            let time = if i == 0 { format!("{:8.1} s", self.seconds) } else { " ".repeat(10) };
            write!(
                f,
                "{}{time}  {from} -> {to}  {}  {} ({} L1)  {} packets  {} drops{}  {:.1} avg batch",
                if i == 0 { "" } else { "\n" },
                units.pps(flow.pps(self.span_s)),
                units.bps(flow.bps_l2(self.span_s)),
                units.bps(flow.bps_l1(self.span_s)),
                units.count(flow.packets),
                units.count(flow.drops),
                said(reasons),
                flow.avg_batch(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let mut totals = Totals::default();
        count_batch(&mut totals.a_to_b, 10, 300);
        count_batch(&mut totals.a_to_b, 1, 1514);
        count_batch(&mut totals.b_to_a, 0, 0);
        totals
    }

    fn report() -> Report {
        let start = Start { a: "valeA:x".into(), b: "tap:t".into(), zero_copy: true, burst: 64 };
        Report::new(&start, totals(), Duration::from_secs(1), Duration::from_secs(5))
    }

    #[test]
    fn batch_pads_short_frames_and_counts_only_real_batches() {
        let totals = totals();
        assert_eq!((totals.a_to_b.pad_bytes, totals.a_to_b.batches), (300, 2));
        assert_eq!(totals.b_to_a, Flow::default());
        assert_eq!((totals.packets(), totals.since(totals)), (11, Totals::default()));
    }

    #[test]
    fn report_keys_are_per_direction_and_unscaled() {
        let text = serde_json::to_string(&report()).unwrap();
        assert!(text.contains("\"a_to_b_packets\":11"), "{text}");
        assert!(text.contains("\"a_to_b_bps_l2\":14512.0"), "{text}");
        assert!(!text.contains("flows"), "{text}");
    }

    #[test]
    fn report_human_has_a_line_per_direction() {
        let mut text = String::new();
        report().human(&mut text, Units::default()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("valeA:x -> tap:t  11 pps  14.51 kbps"), "{text}");
        assert!(lines[1].contains("tap:t -> valeA:x  0 pps"), "{text}");
        assert!(lines.iter().all(|line| line.contains(" 0 drops  ")), "{text}");
    }

    #[test]
    fn report_says_why_packets_were_lost() {
        let [mut before, mut now] = [totals(), totals()];
        before.ports[1].tx_drop_long = 5;
        now.ports[1] = Counters { tx_drop_long: 7, tx_drop_down: 1, ..Counters::default() };
        now.ports[0] = Counters { rx_drop_bad: 4, tx_packets: 9, ..Counters::default() };
        let start = Start { a: "valeA:x".into(), b: "tap:t".into(), zero_copy: true, burst: 64 };
        let second = Duration::from_secs(1);
        let mut text = String::new();
        let report = Report::new(&start, now.since(before), second, second);
        report.human(&mut text, Units::default()).unwrap();
        let (there, back) = text.split_once('\n').unwrap();
        assert!(there.contains("drops (rx_drop_bad 4, tx_drop_down 1, tx_drop_long 2) "), "{text}");
        assert!(back.contains("0 drops  "), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        let why = serde_json::json!({ "rx_drop_bad": 4, "tx_drop_down": 1, "tx_drop_long": 2 });
        assert_eq!(
            (&json["a_to_b_drop_reasons"], &json["b_to_a_drop_reasons"]),
            (&why, &serde_json::json!({}))
        );
    }
}
