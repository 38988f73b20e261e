//! QEMU's e1000 with the same guest image, beside ours, in turns.

use anyhow::{Context, Result};
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega};
use crate::process::go_on;
use crate::qemu::{self, Link, Pair};
use crate::scene::Scene;
use crate::step::Step;
use crate::summary::{Run, Summary, median};
use crate::target;

/// Descriptors of ours and theirs.
const RING: u32 = 4096;
/// Frame without CRC.
const SIZE: usize = 60;

/// What a driver can do without a CSB, which QEMU has not.
const DRIVERS: [&str; 2] = ["plain", "combine"];

struct Party {
    name: &'static str,
    key: &'static str,
    machine: Machine,
}

enum Machine {
    Qemu(Pair),
    Ours(Scene),
}

/// Runs the case; QEMU's plain rate, for the ladder's chart.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<Option<f64>> {
    if let Some(why) = qemu::unable() {
        println!("\nskipped: QEMU ({why})");
        return Ok(None);
    }
    let links = Table::new(
        "QEMU's e1000, same guest image, guest to guest, 64 B: which backend is the best",
        &[("backend", -14), ("driver", -8), ("Mpps", 7)],
    );
    let mut best: [Option<(Pair, f64)>; DRIVERS.len()] = Default::default();
    for link in Link::possible() {
        for (driver, best) in DRIVERS.into_iter().zip(&mut best) {
            out.doing(&format!("QEMU over {link}, {driver}"));
            let pair = Pair { link, driver, ring: RING, size: SIZE, duration: plan.duration };
            let result = pair.run(lab);
            out.done();
            let pps = match result {
                Ok(run) => run.pps,
                Err(error) => {
                    go_on()?;
                    println!("{link}, {driver}: {error:#}");
                    continue;
                }
            };
            links.row(&[link.to_string(), driver.into(), mega(pps)]);
            let fields = json!({"backend": link.to_string(), "driver": driver, "rx_pps": pps});
            out.record("qemu-backend", &fields)?;
            if best.as_ref().is_none_or(|(_, most)| pps > *most) {
                *best = Some((pair, pps));
            }
        }
    }
    let mut theirs = best.into_iter().flatten().map(|(pair, _)| pair);
    let (plain, combine) =
        theirs.next().zip(theirs.next()).context("no backend of QEMU works here")?;

    let ours = |step| Scene { step, ..Scene::pair(SIZE, RING, plan.duration) };
    let parties = [
        Party { name: "QEMU's e1000, plain", key: "qemu-plain", machine: Machine::Qemu(plain) },
        Party {
            name: "QEMU's e1000, combining",
            key: "qemu-combine",
            machine: Machine::Qemu(combine),
        },
        Party {
            name: "e1000pv-vmm, plain",
            key: "plain",
            machine: Machine::Ours(ours(Step::Plain)),
        },
        Party {
            name: "e1000pv-vmm, + both",
            key: "both",
            machine: Machine::Ours(ours(Step::Both)),
        },
        Party {
            name: "e1000pv-vmm, ladder top",
            key: "top",
            machine: Machine::Ours(ours(Step::TOP)),
        },
    ];
    let mut runs: [Vec<Run>; 5] = Default::default();
    for i in 0..plan.runs {
        for (party, runs) in parties.iter().zip(&mut runs) {
            out.doing(&format!("in turns: {} of {}, {}", i + 1, plan.runs, party.name));
            runs.push(match &party.machine {
                Machine::Qemu(pair) => pair.run(lab)?,
                Machine::Ours(scene) => scene.run(lab)?,
            });
        }
    }
    out.done();
    let ratio = |ours: &[Run], theirs: &[Run]| {
        median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.pps / theirs.pps).collect())
    };
    out.judged.add(target::TOP_TO_QEMU, ratio(&runs[4], &runs[0]));
    out.judged.add(target::PLAIN_TO_QEMU, ratio(&runs[2], &runs[0]));
    let table = Table::new(
        "In turns, each on its best backend; ratios are medians over neighbours",
        &[
            ("guest to guest, 64 B", -24),
            ("backend", -14),
            ("Mpps", 7),
            ("to plain", 8),
            ("to comb.", 8),
            ("loss %", 6),
            ("", -5),
        ],
    );
    for (party, own) in parties.iter().zip(&runs) {
        let row = Summary::of(own);
        let backend = match &party.machine {
            Machine::Qemu(pair) => pair.link.to_string(),
            Machine::Ours(_) => "VALE".into(),
        };
        let (to_plain, to_combine) = (ratio(own, &runs[0]), ratio(own, &runs[1]));
        table.row(&[
            party.name.into(),
            backend.clone(),
            mega(row.pps),
            digits(to_plain),
            digits(to_combine),
            digits(row.loss * 100.0),
            if row.noisy { "noisy".into() } else { String::new() },
        ]);
        let fields = json!({
            "case": "qemu", "machine": party.key, "backend": backend, "size_bytes": SIZE,
            "ring": RING, "runs": row.runs, "rx_pps": row.pps, "rx_pps_min": row.range_pps.0,
            "rx_pps_max": row.range_pps.1, "loss_ratio": row.loss, "bad_packets": row.bad,
            "ratio_to_qemu_plain": to_plain, "ratio_to_qemu_combine": to_combine, "noisy": row.noisy,
        });
        out.record("row", &fields)?;
    }
    Ok(Some(Summary::of(&runs[0]).pps))
}
