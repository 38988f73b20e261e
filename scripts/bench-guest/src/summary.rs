//! From runs to a row: medians, and figures per packet.

use anyhow::{Context, Result};

use crate::machine::{STEAL_LIMIT, Ticks};
use crate::report::{Counts, Event, Guest};
use crate::threads::CpuTime;

/// The middle one; of an even number the mean of the two in the middle. NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// What happened in the middle of a run, when all was under way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Packets that arrived.
    pub packets: u64,
    /// CPU time of all machines.
    pub cpu: CpuTime,
    /// Counters of all machines.
    pub counts: Counts,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Rate of packets that arrived and were good.
    pub pps: f64,
    /// Packets that were sent.
    pub sent: u64,
    /// Packets that arrived and were good.
    pub received: u64,
    /// Packets that failed a check, or came in the wrong order.
    pub bad: u64,
    /// The middle of it.
    pub window: Window,
    /// The receiver took its leave long before the sender did: one of them stood still for a while.
    pub cut_short: bool,
    /// The part of the machine that others took.
    pub steal: f64,
}

/// Attempts at a run without disturbance; the best one counts.
const ATTEMPTS: usize = 3;
/// A receiver that was there for less than this part of the sender's time was cut short.
const WHOLE: f64 = 0.9;

/// Measures; again, if the run was disturbed.
pub fn steady(mut measure: impl FnMut() -> Result<Run>) -> Result<Run> {
    let mut best: Option<Run> = None;
    for _ in 0..ATTEMPTS {
        let before = Ticks::now()?;
        let mut run = measure()?;
        run.steal = Ticks::now()?.stolen_since(before);
        if !run.disturbed() {
            return Ok(run);
        }
        let order = |run: &Run| (run.cut_short, run.steal);
        if best.as_ref().is_none_or(|best| order(&run) < order(best)) {
            best = Some(run);
        }
    }
    best.context("there is at least one attempt")
}

impl Run {
    /// From what was sent in which time, and what came of it. The rate is over the longer of both times: a
    /// receiver that is slower than the sender is not done with it, and one that stopped listening after
    /// three packets was not fast.
    pub fn new(sent: (u64, u64), received: &Guest) -> Run {
        let duration_ns = sent.1.max(received.duration_ns).max(1);
        Run {
            pps: received.packets as f64 * 1e9 / duration_ns as f64,
            sent: sent.0,
            received: received.packets,
            bad: received.bad + received.reordered,
            cut_short: (received.duration_ns as f64) < WHOLE * sent.1 as f64,
            ..Run::default()
        }
    }

    /// Whether something from outside changed it.
    fn disturbed(&self) -> bool {
        self.cut_short || self.steal > STEAL_LIMIT
    }

    /// The part of what was sent that did not arrive.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 {
            return 0.0;
        }
        self.sent.saturating_sub(self.received) as f64 / self.sent as f64
    }

    /// `amount` of the window per packet in it.
    fn per_packet(&self, amount: u64) -> f64 {
        amount as f64 / self.window.packets as f64
    }
}

/// What a table shows of several runs: the median of each figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Runs that it is from.
    pub runs: usize,
    /// Rate received.
    pub pps: f64,
    /// Slowest and fastest run.
    pub range_pps: (f64, f64),
    /// The part lost.
    pub loss: f64,
    /// Packets that were not as they should be, in all runs.
    pub bad: u64,
    /// CPU time of vCPU threads per packet.
    pub vcpu_ns: f64,
    /// CPU time of I/O threads per packet.
    pub io_ns: f64,
    /// CPU time of all threads per packet.
    pub cpu_ns: f64,
    /// Events per packet, in the order of [`Event::ALL`].
    pub events: [f64; 4],
    /// A run among them was disturbed, and so were its repetitions.
    pub noisy: bool,
}

impl Summary {
    /// Of at least one run.
    pub fn of(runs: &[Run]) -> Summary {
        let of = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure).collect());
        let rates = || runs.iter().map(|run| run.pps);
        Summary {
            runs: runs.len(),
            pps: of(&|run| run.pps),
            range_pps: (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max)),
            loss: of(&Run::loss),
            bad: runs.iter().map(|run| run.bad).sum(),
            vcpu_ns: of(&|run| run.per_packet(run.window.cpu.vcpu_ns)),
            io_ns: of(&|run| run.per_packet(run.window.cpu.io_ns)),
            cpu_ns: of(&|run| run.per_packet(run.window.cpu.total_ns())),
            events: Event::ALL
                .map(|event| of(&|run| run.per_packet(run.window.counts.value(event.counter())))),
            noisy: runs.iter().any(Run::disturbed),
        }
    }

    /// Kicks, wake-ups and interrupts per packet: what the paravirtual path is to avoid. A kick is one
    /// of the wake-ups as well; it counts twice, to be on the safe side.
    pub fn notifications(&self) -> f64 {
        self.events[1..].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(vec![]).is_nan());
    }

    fn run(pps: f64, received: u64, packets: u64, kicks: u64) -> Run {
        let counters = serde_json::json!({"exits": 0, "nics":
            [{"kicks": kicks, "io_wakeups": 2 * kicks, "interrupts": 0}]});
        Run {
            pps,
            sent: 1000,
            received,
            bad: 1,
            window: Window {
                packets,
                cpu: CpuTime { vcpu_ns: 30 * packets, io_ns: 20 * packets, other_ns: packets },
                counts: Counts::parse(&counters).expect("all there"),
            },
            ..Run::default()
        }
    }

    #[test]
    fn summary_has_the_median_of_each_figure() {
        let runs = [run(5e6, 900, 100, 10), run(1e6, 1000, 100, 30), run(3e6, 500, 200, 40)];
        let summary = Summary::of(&runs);
        assert_eq!((summary.runs, summary.pps, summary.range_pps), (3, 3e6, (1e6, 5e6)));
        assert_eq!((summary.loss, summary.bad), (0.1, 3));
        assert_eq!((summary.vcpu_ns, summary.io_ns, summary.cpu_ns), (30.0, 20.0, 51.0));
        assert_eq!(summary.events, [0.0, 0.2, 0.4, 0.0]);
        assert!((summary.notifications() - 0.6).abs() < 1e-9);
        assert!(!summary.noisy);
    }

    #[test]
    fn summary_of_a_run_with_much_steal_is_noisy() {
        let stolen = Run { steal: 2.0 * STEAL_LIMIT, ..run(1.0, 1, 1, 1) };
        assert!(Summary::of(&[run(1.0, 1, 1, 1), stolen]).noisy);
    }

    #[test]
    fn run_rate_is_over_the_longer_time() {
        let guest =
            |packets, duration_ns| Guest { packets, duration_ns, bad: 1, ..Guest::default() };
        let run = Run::new((1000, 1_000_000_000), &guest(500, 2_000_000_000));
        assert_eq!((run.pps, run.loss(), run.bad), (250.0, 0.5, 1));
        let short = Run::new((1000, 1_000_000_000), &guest(3, 100));
        assert_eq!((short.pps, short.cut_short, run.cut_short), (3.0, true, false));
        assert_eq!(Run::new((0, 0), &guest(0, 0)).pps, 0.0);
    }

    #[test]
    fn steady_repeats_a_disturbed_run_and_keeps_the_least_disturbed() {
        let mut runs = [true, false, true].into_iter();
        let run = steady(|| {
            let cut_short = runs.next().expect("no more attempts than needed");
            Ok(Run { cut_short, pps: f64::from(u8::from(cut_short)), ..Run::default() })
        });
        // Steal time is the machine's own here, so only the order of the two kinds is certain.
        assert!(!run.expect("measured").cut_short);
        let all = steady(|| Ok(Run { cut_short: true, ..Run::default() })).expect("measured");
        assert!(Summary::of(&[all]).noisy);
    }

    #[test]
    fn loss_of_more_received_than_counted_sent_is_none() {
        assert_eq!(Run { sent: 10, received: 12, ..Run::default() }.loss(), 0.0);
        assert_eq!(Run::default().loss(), 0.0);
    }
}
