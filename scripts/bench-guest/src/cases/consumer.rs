//! The fast consumer: does a faster consumer ever lower the throughput?
//!
//! The consumer's speed is swept by a delay per packet, at the sender's host (the I/O thread that takes
//! packets out of the guest's ring) and at the far end (the receiving guest). Where each batch is
//! announced at once, a fast consumer finds little, sleeps, and must be woken for the next little; where
//! it looks at once, it takes the producer's cache lines for little. Slowing it down lets work pile up,
//! and the rate rises. The default policy must have no such dip.
//!
//! Whatever happens on two cores depends on whether they share a cache, which on a virtual machine changes
//! from moment to moment. So that is measured before and after each run, runs are compared only with
//! their like, and many short ones are better than a few long ones.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::chart::{Curve, Legend, Words, curves};
use crate::distance::{self, Distance};
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega, rare};
use crate::scene::{Scene, Topology};
use crate::step::Step;
use crate::summary::{Run, Summary};
use crate::target;

/// Delays per packet, from the slowest consumer to the fastest.
const DELAYS_NS: [u32; 7] = [500, 200, 100, 50, 20, 10, 0];
/// The curve begins there: a consumer that is slower than the producer has no dip.
const DRAWN_NS: u32 = 200;
/// Below this ring the doorbell dominates, above it the copies.
const RING: u32 = 1024;
/// There are this many times more runs than in other cases, ...
const MORE_RUNS: usize = 3;
/// ... this many times shorter, ...
const SHORTER: u32 = 8;
/// ... but no shorter than this.
const SHORTEST: Duration = Duration::from_millis(200);
/// Attempts at each run, since the distance of cores may change during one.
const ATTEMPTS: usize = 2;
/// How long to wait, in all, for cores to be as far apart as a run still needs.
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// Where the delay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consumer {
    /// The sender's I/O thread on a core of its own, into null: nothing but one producer, which publishes so
    /// many packets at a time, and one consumer.
    Core { burst: u32 },
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
    /// The burst that goes with it, where the case does not give one.
    burst: Option<u32>,
}

const NAIVE: Policy = Policy {
    name: "naive",
    title: "naive: sleep at once, wake at once",
    notify: Some("block,wake=first"),
    words: "kick_batch=1",
    burst: Some(32),
};
const NO_GATHER: Policy = Policy {
    name: "no gather",
    title: "default policy without gathering",
    notify: Some("poll=100us,block"),
    words: "",
    burst: None,
};
const DEFAULT: Policy =
    Policy { name: "default", title: "default policy", notify: None, words: "", burst: None };

impl Consumer {
    const ALL: [Consumer; 4] = [
        Consumer::Core { burst: 1 },
        Consumer::Core { burst: 32 },
        Consumer::Host,
        Consumer::Guest,
    ];

    fn name(self) -> String {
        match self {
            Consumer::Core { burst } => {
                format!("sender's I/O thread, a core of its own, to null:, bursts of {burst}")
            }
            Consumer::Host => "sender's I/O thread".into(),
            Consumer::Guest => "receiving guest".into(),
        }
    }

    fn policies(self) -> &'static [Policy] {
        match self {
            Consumer::Core { burst: 1 } => &[NAIVE, NO_GATHER, DEFAULT],
            _ => &[NAIVE, DEFAULT],
        }
    }

    fn scene(self, plan: &Plan, policy: &Policy, delay_ns: u32) -> Scene {
        let mut scene = Scene {
            step: Step::TOP,
            notify: policy.notify.map(str::to_owned),
            ..Scene::pair(60, RING, (plan.duration / SHORTER).max(SHORTEST))
        };
        let mut burst = policy.burst;
        match self {
            Consumer::Core { burst: given } => {
                (scene.topology, scene.apart) = (Topology::Null, true);
                burst = Some(given);
            }
            Consumer::Host => {}
            Consumer::Guest => scene.receiver_words = format!("delay={delay_ns}"),
        }
        if self != Consumer::Guest {
            scene.sender_args = vec!["--tx-delay".into(), format!("{delay_ns}ns")];
        }
        let burst = burst.map(|burst| format!("burst={burst}")).unwrap_or_default();
        scene.sender_words = format!("{} {burst}", policy.words).trim().to_owned();
        scene
    }
}

/// The runs of one distance: by policy and delay.
type Cells = Vec<Vec<Vec<Run>>>;

/// The largest drop of the rate below that of a slower consumer, relative to it.
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

/// The cores that the parties run on, if they are two.
fn cores(lab: &Lab) -> Option<(usize, usize)> {
    match [lab.cpus(0), lab.cpus(1)].concat()[..] {
        [a, b] if a != b => Some((a, b)),
        _ => None,
    }
}

/// Measures all cells of a consumer until each has enough runs between cores of either distance that occurs.
fn cells(
    plan: &Plan,
    lab: &mut Lab,
    out: &Output,
    consumer: Consumer,
) -> Result<BTreeMap<Option<Distance>, Cells>> {
    let policies = consumer.policies();
    let runs = plan.runs * MORE_RUNS;
    let mut wait_left = WAIT_LIMIT;
    let mut found = BTreeMap::<Option<Distance>, Cells>::new();
    for round in 0..runs * ATTEMPTS {
        for (k, &delay_ns) in DELAYS_NS.iter().enumerate() {
            for (p, policy) in policies.iter().enumerate() {
                let fewest = found.iter().min_by_key(|(_, cells)| cells[p][k].len());
                if fewest.is_some_and(|(_, cells)| cells[p][k].len() >= runs) {
                    continue;
                }
                let wanted = fewest.and_then(|(cores, _)| *cores);
                out.doing(&format!(
                    "consumer ({}): round {}, {delay_ns} ns, {}",
                    consumer.name(),
                    round + 1,
                    policy.name
                ));
                let scene = consumer.scene(plan, policy, delay_ns);
                let (run, cores) = match cores(lab) {
                    None => (scene.run(lab)?, Some(None)),
                    Some((a, b)) => {
                        let before = distance::wait_for(a, b, wanted, &mut wait_left)?;
                        let run = scene.run(lab)?;
                        let after = Distance::between(a, b)?;
                        (run, (before == after).then_some(Some(before)))
                    }
                };
                // They moved meanwhile: a run like no other.
                let Some(cores) = cores else { continue };
                let new = || vec![vec![Vec::new(); DELAYS_NS.len()]; policies.len()];
                found.entry(cores).or_insert_with(new)[p][k].push(run);
            }
        }
    }
    out.done();
    Ok(found)
}

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    let (mut drawn, mut drawn_at) = (Vec::new(), String::new());
    for consumer in Consumer::ALL {
        for (cores, cells) in cells(plan, lab, out, consumer)? {
            let place = match cores {
                Some(cores) => format!("{}, cores {cores}", consumer.name()),
                None => consumer.name(),
            };
            if cells.iter().flatten().any(Vec::is_empty) {
                println!("\nnot shown: delay in the {place} (the cores were seldom so)");
                out.judged.add(target::DIP, f64::NAN);
                continue;
            }
            let columns = [
                ("policy", -10),
                ("delay ns", 8),
                ("runs", 4),
                ("Mpps", 7),
                ("kicks/p", 8),
                ("wakes/p", 8),
                ("irqs/p", 8),
                ("", -5),
            ];
            let title = format!(
                "Fast consumer: delay per packet in the {place}, 64 B, {RING} descriptors, ladder top"
            );
            let table = Table::new(&title, &columns);
            let draw = drawn.is_empty();
            for (policy, runs) in consumer.policies().iter().zip(&cells) {
                let rows: Vec<Summary> = runs.iter().map(|runs| Summary::of(runs)).collect();
                for (&delay_ns, row) in DELAYS_NS.iter().zip(&rows) {
                    let mut cells = vec![policy.name.into(), delay_ns.to_string()];
                    cells.extend([row.runs.to_string(), mega(row.pps)]);
                    cells.extend(row.events[1..].iter().map(|&event| rare(event)));
                    cells.push(if row.noisy { "noisy".into() } else { String::new() });
                    table.row(&cells);
                    let mut fields = json!({
                        "case": "consumer", "consumer": consumer.name(), "policy": policy.name,
                        "delay_ns": delay_ns, "ring": RING, "size_bytes": 60,
                        "cores": cores.map(|cores| cores.to_string()),
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
                if policy.name == DEFAULT.name {
                    out.judged.add(target::DIP, dip);
                }
                if draw {
                    let points = DELAYS_NS.iter().zip(&rates);
                    let points = points.filter(|(ns, _)| **ns <= DRAWN_NS);
                    let points = points.map(|(&ns, pps)| (f64::from(ns), pps / 1e6));
                    drawn.push(Curve { name: policy.title.into(), points: points.rev().collect() });
                }
            }
            if draw {
                drawn_at = place;
            }
        }
    }
    out.chart("consumer.svg", || {
        let words = Words {
            title: "Fast consumer: throughput, 64 B, by speed of the consumer",
            subtitle: &format!("{RING} descriptors; {}", out.machine),
            x: &format!("delay per packet in the {drawn_at}, ns (left: faster)"),
            y: "Mpps",
            legend: Legend::UpperRight,
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
