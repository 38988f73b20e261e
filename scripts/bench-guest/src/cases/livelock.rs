//! Receive livelock: the useful rate of a receiver that is offered more than it can process.
//!
//! The receiver works for a fixed time on each packet. Where every packet interrupts it, interrupts take the
//! time that the work needs, and the useful rate falls as the offered one rises. With the remedy it stays
//! at its maximum, and what is too much is dropped at the switch, before any copy.

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::chart::{Curve, Legend, Words, curves};
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega, rare};
use crate::scene::{Scene, Topology};
use crate::step::Step;
use crate::summary::{Run, Summary};
use crate::target;

/// Offered load as a part of the receiver's capacity.
const LOADS: [f64; 11] = [0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
/// Work per packet: a capacity of about a million a second, which the host's generator exceeds easily.
const DELAY_NS: u32 = 1000;
const RING: u32 = 1024;
/// The receiver's capacity is the best of this many runs, since disturbances only lower a rate.
const CAPACITY_RUNS: usize = 3;

/// How the receiver is told of packets.
struct Receiver {
    name: &'static str,
    title: &'static str,
    step: Step,
    words: &'static str,
}

const RECEIVERS: [Receiver; 3] = [
    Receiver {
        name: "plain",
        title: "an interrupt per packet",
        step: Step::Plain,
        words: "irq=always",
    },
    Receiver {
        name: "masked",
        title: "interrupts masked while busy",
        step: Step::Plain,
        words: "irq=masked",
    },
    Receiver { name: "csb", title: "CSB", step: Step::TOP, words: "" },
];

fn scene(plan: &Plan, receiver: &Receiver, offered_pps: f64) -> Scene {
    Scene {
        topology: Topology::Receive,
        step: receiver.step,
        receiver_words: format!("delay={DELAY_NS} {}", receiver.words).trim().into(),
        offered_pps,
        ..Scene::pair(60, RING, plan.duration)
    }
}

/// The part of the highest useful rate that is left at the highest load.
pub fn kept(rates: &[f64]) -> f64 {
    let peak = rates.iter().copied().fold(0.0, f64::max);
    rates.last().map_or(f64::NAN, |last| last / peak)
}

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    // What the receiver can do is what it does at the ladder's top when there is always something to do.
    out.doing("livelock: capacity");
    let flooded = scene(plan, &RECEIVERS[RECEIVERS.len() - 1], 0.0);
    let mut capacity = 0.0f64;
    for _ in 0..CAPACITY_RUNS {
        capacity = capacity.max(flooded.run(lab)?.pps);
    }
    let mut runs = vec![vec![Vec::<Run>::new(); LOADS.len()]; RECEIVERS.len()];
    for i in 0..plan.runs {
        for (k, load) in LOADS.iter().enumerate() {
            for (receiver, runs) in RECEIVERS.iter().zip(&mut runs) {
                out.doing(&format!(
                    "livelock: run {} of {}, load {load}, {}",
                    i + 1,
                    plan.runs,
                    receiver.name
                ));
                runs[k].push(scene(plan, receiver, load * capacity).run(lab)?);
            }
        }
    }
    out.done();
    let title = format!(
        "Receive livelock: {DELAY_NS} ns of work a packet, capacity {} Mpps, 64 B, {RING} descriptors",
        mega(capacity)
    );
    let columns = [
        ("receiver", -8),
        ("load", 6),
        ("offered", 8),
        ("useful", 8),
        ("irqs/p", 8),
        ("exits/p", 8),
        ("", -5),
    ];
    let table = Table::new(&title, &columns);
    let mut drawn = Vec::new();
    for (receiver, runs) in RECEIVERS.iter().zip(&runs) {
        let rows: Vec<Summary> = runs.iter().map(|runs| Summary::of(runs)).collect();
        for (load, row) in LOADS.iter().zip(&rows) {
            table.row(&[
                receiver.name.into(),
                digits(*load),
                mega(load * capacity),
                mega(row.pps),
                rare(row.events[3]),
                rare(row.events[0]),
                if row.noisy { "noisy".into() } else { String::new() },
            ]);
            let mut fields = json!({
                "case": "livelock", "receiver": receiver.name, "load_ratio": load, "capacity_pps": capacity,
                "offered_pps": load * capacity, "delay_ns": DELAY_NS, "ring": RING, "size_bytes": 60,
            });
            super::ladder::merge(&mut fields, crate::output::fields(row, None));
            out.record("row", &fields)?;
        }
        let rates: Vec<f64> = rows.iter().map(|row| row.pps).collect();
        println!(
            "{}: {} % of its best rate is left at four times the capacity",
            receiver.name,
            digits(100.0 * kept(&rates))
        );
        if receiver.step == Step::TOP {
            out.judged.add(target::LIVELOCK, kept(&rates));
        }
        let points = LOADS.iter().zip(&rates).map(|(load, pps)| (load * capacity / 1e6, pps / 1e6));
        drawn.push(Curve { name: receiver.title.into(), points: points.collect() });
    }
    out.chart("livelock.svg", || {
        let words = Words {
            title: "Receive livelock: useful rate by offered rate",
            subtitle: &format!("{DELAY_NS} ns of work a packet; {}", out.machine),
            x: "Mpps offered by nm-pktgen",
            y: "Mpps received",
            legend: Legend::LowerRight,
        };
        curves(&words, &drawn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_compares_the_last_with_the_best() {
        assert_eq!(kept(&[1.0, 4.0, 2.0]), 0.5);
        assert_eq!(kept(&[1.0, 4.0, 4.0]), 1.0);
        assert!(kept(&[]).is_nan());
    }

    #[test]
    fn loads_reach_from_a_tenth_to_four_times() {
        assert!(LOADS.is_sorted());
        assert_eq!((LOADS[0], LOADS[LOADS.len() - 1]), (0.1, 4.0));
    }
}
