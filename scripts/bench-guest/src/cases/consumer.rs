//! The fast consumer: does a faster consumer ever lower the throughput?
//!
//! The consumer's speed is swept by a delay per packet, once at the sender's host (the I/O thread that takes
//! packets out of the guest's ring) and once at the far end (the receiving guest). Where each batch is
//! announced at once, a fast consumer finds little, sleeps, and must be woken for the next little: slowing
//! it down lets work pile up, and the rate rises. The default policy must have no such dip.

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::chart::{Curve, Words, curves};
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega, rare};
use crate::scene::{Scene, Topology};
use crate::step::Step;
use crate::summary::{Run, Summary};
use crate::target;
use crate::vm;

/// Delays per packet, from the slowest consumer to the fastest.
const DELAYS_NS: [u32; 8] = [1000, 500, 200, 100, 50, 20, 10, 0];
/// Below this ring the doorbell dominates, above it the copies.
const RING: u32 = 1024;

/// Where the delay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumer {
    /// The sender's I/O thread on a core of its own, into null: nothing but one producer and one consumer.
    Core,
    /// The sender's I/O thread on the vCPU's core, guest to guest.
    Host,
    /// The receiving guest.
    Guest,
}

/// A policy of the I/O threads, and what its guest does alike.
struct Policy {
    name: &'static str,
    title: &'static str,
    notify: Option<&'static str>,
    /// What the sending driver does: kick for each packet, or for a worthwhile batch.
    words: &'static str,
}

const POLICIES: [Policy; 2] = [
    Policy {
        name: "naive",
        title: "naive: sleep at once, wake at once",
        notify: Some("block,wake=first"),
        words: "kick_batch=1 burst=32",
    },
    Policy { name: "default", title: "default policy", notify: None, words: "" },
];

impl Consumer {
    fn name(self) -> &'static str {
        match self {
            Consumer::Core => "sender's I/O thread, a core of its own, to null:",
            Consumer::Host => "sender's I/O thread",
            Consumer::Guest => "receiving guest",
        }
    }

    fn scene(self, plan: &Plan, policy: &Policy, delay_ns: u32) -> Scene {
        let mut scene = Scene {
            step: Step::TOP,
            notify: policy.notify.map(str::to_owned),
            sender_words: policy.words.into(),
            ..Scene::pair(60, RING, plan.duration)
        };
        match self {
            Consumer::Core | Consumer::Host => {
                if self == Consumer::Core {
                    (scene.topology, scene.apart) = (Topology::Null, true);
                    // The same bursts for all policies: what differs is who wakes whom, and when.
                    scene.sender_words =
                        format!("{} burst=32", policy.words.replace("burst=32", ""));
                }
                scene.sender_args = vec!["--tx-delay".into(), format!("{delay_ns}ns")];
            }
            Consumer::Guest => scene.receiver_words = format!("delay={delay_ns}"),
        }
        scene
    }
}

/// How far the rate ever falls below what a slower consumer had, as a part of that.
pub fn dip(rates: &[f64]) -> f64 {
    let (mut best, mut dip) = (0.0f64, 0.0f64);
    for &rate in rates {
        best = best.max(rate);
        if best > 0.0 {
            dip = dip.max(1.0 - rate / best);
        }
    }
    dip
}

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    let (mut drawn, mut drawn_at) = (Vec::new(), "");
    for consumer in [Consumer::Core, Consumer::Host, Consumer::Guest] {
        if consumer != Consumer::Guest && !vm::understands(&["--tx-delay", "1ns"]) {
            println!(
                "\nskipped: a delay in the {} (the monitor has no --tx-delay)",
                consumer.name()
            );
            continue;
        }
        let mut runs = vec![vec![Vec::<Run>::new(); DELAYS_NS.len()]; POLICIES.len()];
        for i in 0..plan.runs {
            for (k, &delay_ns) in DELAYS_NS.iter().enumerate() {
                for (policy, runs) in POLICIES.iter().zip(&mut runs) {
                    out.doing(&format!(
                        "consumer ({}): run {} of {}, {delay_ns} ns, {}",
                        consumer.name(),
                        i + 1,
                        plan.runs,
                        policy.name
                    ));
                    runs[k].push(consumer.scene(plan, policy, delay_ns).run(lab)?);
                }
            }
        }
        out.done();
        let columns = [
            ("policy", -8),
            ("delay ns", 8),
            ("Mpps", 7),
            ("kicks/p", 8),
            ("wakes/p", 8),
            ("irqs/p", 8),
            ("", -5),
        ];
        let title = format!(
            "Fast consumer: delay per packet in the {}, 64 B, {RING} descriptors, ladder top",
            consumer.name()
        );
        let table = Table::new(&title, &columns);
        for (policy, runs) in POLICIES.iter().zip(&runs) {
            let rows: Vec<Summary> = runs.iter().map(|runs| Summary::of(runs)).collect();
            for (&delay_ns, row) in DELAYS_NS.iter().zip(&rows) {
                let mut cells = vec![policy.name.into(), delay_ns.to_string(), mega(row.pps)];
                cells.extend(row.events[1..].iter().map(|&event| rare(event)));
                cells.push(if row.noisy { "noisy".into() } else { String::new() });
                table.row(&cells);
                let mut fields = json!({
                    "case": "consumer", "consumer": consumer.name(), "policy": policy.name,
                    "delay_ns": delay_ns, "ring": RING, "size_bytes": 60,
                });
                super::ladder::merge(&mut fields, crate::output::fields(row, None));
                out.record("row", &fields)?;
            }
            let rates: Vec<f64> = rows.iter().map(|row| row.pps).collect();
            let dip = dip(&rates);
            println!(
                "{}: {} % below the best of the slower ones",
                policy.name,
                digits(100.0 * dip)
            );
            if policy.notify.is_none() {
                out.judged.add(target::DIP, dip);
            }
            if drawn.len() < POLICIES.len() {
                drawn_at = consumer.name();
                let points =
                    DELAYS_NS.iter().zip(&rates).map(|(&ns, pps)| (f64::from(ns), pps / 1e6));
                drawn.push(Curve { name: policy.title.into(), points: points.rev().collect() });
            }
        }
    }
    out.chart("consumer.svg", || {
        let words = Words {
            title: "Fast consumer: throughput, 64 B, by speed of the consumer",
            subtitle: &format!("{RING} descriptors; {}", out.machine),
            x: &format!("delay per packet in the {drawn_at}, ns (left: faster)"),
            y: "Mpps",
            legend_below: false,
        };
        curves(&words, &drawn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dip_is_the_deepest_fall_below_a_slower_consumers_rate() {
        assert_eq!(dip(&[1.0, 2.0, 3.0]), 0.0);
        assert_eq!(dip(&[1.0, 6.4, 5.3, 2.4, 6.5]), 1.0 - 2.4 / 6.4);
        assert_eq!(dip(&[]), 0.0);
    }

    #[test]
    fn delays_go_from_slow_to_fast() {
        assert!(DELAYS_NS.is_sorted_by(|a, b| a > b));
        assert_eq!(DELAYS_NS.last(), Some(&0));
    }
}
