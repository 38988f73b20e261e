//! The ladder: the gain of each step from a plain e1000 to the paravirtual one.
//!
//! The steps of a group are measured in turns, not one after the other: the machine's speed changes
//! from minute to minute, and factors between neighbours hold when rates do not.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::chart::{self, Bar, Legend, Words};
use crate::lab::Lab;
use crate::netns;
use crate::output::{Output, Table, digits, fields, mega, rare};
use crate::scene::{Backend, Scene, Topology};
use crate::step::Step;
use crate::summary::{Run, Summary};
use crate::target;

/// Sizes of frames without CRC that are measured, and what they are called.
const SIZES: [(usize, &str); 2] = [(60, "64 B"), (1514, "1514 B")];
const RINGS: [u32; 3] = [256, 1024, 4096];

/// A ladder: steps in their order, with the result of each.
pub type Rows = Vec<(Step, Summary)>;

/// Steps that share everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    backend: Backend,
    topology: Topology,
    size: usize,
    ring: u32,
    steps: Vec<Step>,
}

impl Group {
    /// The one that everything is about: guest to guest, 64 B, over VALE; all steps.
    pub fn headline(ring: u32) -> Group {
        let (backend, topology) = (Backend::Vale, Topology::Pair);
        Group { backend, topology, size: 60, ring, steps: Step::ALL.to_vec() }
    }

    fn is_headline(&self) -> bool {
        *self == Group::headline(self.ring)
    }

    /// The measurement of a step.
    pub fn scene(&self, step: Step, duration: Duration) -> Scene {
        Scene {
            backend: self.backend,
            topology: self.topology,
            step,
            ..Scene::pair(self.size, self.ring, duration)
        }
    }

    fn title(&self) -> String {
        let size = SIZES.iter().find(|(size, _)| *size == self.size).map_or("?", |(_, name)| name);
        let over = match (self.topology, self.backend) {
            (Topology::Null, _) => String::new(),
            (_, Backend::Vale) => " over VALE".into(),
            (_, Backend::Tap) => " over tap".into(),
        };
        format!("{}{over}, {size}, {} descriptors", self.topology, self.ring)
    }
}

/// What is measured: everything, or a selection that takes minutes, not an hour.
pub fn groups(full: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = [4096, 1024].map(Group::headline).into();
    for backend in [Backend::Vale, Backend::Tap] {
        for topology in [Topology::Pair, Topology::Null, Topology::Receive, Topology::Forward] {
            for (size, _) in SIZES {
                for ring in RINGS {
                    // Rings matter most for small packets over VALE; elsewhere one size stands for all.
                    let rings = backend == Backend::Vale
                        && size == 60
                        && matches!(topology, Topology::Pair | Topology::Null);
                    let chosen = ring == 1024 || rings;
                    // null: is the same whatever joins others.
                    let same = topology == Topology::Null && backend == Backend::Tap;
                    let headline = groups[..2].iter().any(|group| {
                        (group.backend, group.topology, group.size, group.ring)
                            == (backend, topology, size, ring)
                    });
                    if same || headline || !(full || chosen) {
                        continue;
                    }
                    let steps = if full { Step::ALL.to_vec() } else { Step::SOME.to_vec() };
                    groups.push(Group { backend, topology, size, ring, steps });
                }
            }
        }
    }
    groups
}

/// Medians of one group's steps.
pub fn measure(plan: &Plan, lab: &mut Lab, out: &Output, group: &Group) -> Result<Rows> {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); group.steps.len()];
    for i in 0..plan.runs {
        for (step, runs) in group.steps.iter().zip(&mut runs) {
            out.doing(&format!("{}: run {} of {}, {step}", group.title(), i + 1, plan.runs));
            runs.push(group.scene(*step, plan.duration).run(lab)?);
        }
    }
    out.done();
    Ok(group.steps.iter().copied().zip(runs.iter().map(|runs| Summary::of(runs))).collect())
}

/// Prints a group's table and writes its rows.
pub fn print(out: &Output, group: &Group, rows: &[(Step, Summary)]) -> Result<()> {
    let columns = [
        ("step", -21),
        ("Mpps", 7),
        ("factor", 7),
        ("min", 7),
        ("max", 7),
        ("loss %", 6),
        ("bad", 4),
        ("CPU ns/p", 8),
        ("vCPU", 7),
        ("I/O", 7),
        ("exits/p", 8),
        ("kicks/p", 8),
        ("wakes/p", 8),
        ("irqs/p", 8),
        ("", -5),
    ];
    let table = Table::new(&group.title(), &columns);
    let plain = plain_pps(rows);
    for (step, row) in rows {
        let factor = row.pps / plain;
        let mut cells = vec![
            step.to_string(),
            mega(row.pps),
            digits(factor),
            mega(row.range_pps.0),
            mega(row.range_pps.1),
            digits(row.loss * 100.0),
            row.bad.to_string(),
            digits(row.cpu_ns),
            digits(row.vcpu_ns),
            digits(row.io_ns),
        ];
        cells.extend(row.events.map(rare));
        cells.push(if row.noisy { "noisy".into() } else { String::new() });
        table.row(&cells);
        let mut record = json!({
            "case": "ladder", "backend": group.backend.name(), "topology": group.topology.name(),
            "size_bytes": group.size, "ring": group.ring, "step": step.name(),
        });
        merge(&mut record, fields(row, Some(factor)));
        out.record("row", &record)?;
    }
    if let Some((step, row)) = rows.last() {
        println!("{step}: {} kicks, wake-ups and interrupts per packet", rare(row.notifications()));
    }
    Ok(())
}

fn judge(out: &Output, group: &Group, rows: &[(Step, Summary)]) {
    let Some((_, top)) = rows.iter().find(|(step, _)| *step == Step::TOP) else { return };
    match (group.is_headline(), group.topology, group.size, group.ring) {
        (true, _, _, 1024) => out.judged.add(target::TOP_1024, top.pps / 1e6),
        (true, ..) => {
            out.judged.add(target::TOP_4096, top.pps / 1e6);
            out.judged.add(target::FACTOR, top.pps / plain_pps(rows));
            out.judged.add(target::NOTIFICATIONS, top.notifications());
        }
        (false, Topology::Null, 60, 4096) => out.judged.add(target::NULL, top.pps / 1e6),
        _ => {}
    }
}

fn plain_pps(rows: &[(Step, Summary)]) -> f64 {
    rows.iter().find(|(step, _)| *step == Step::Plain).map_or(f64::NAN, |(_, row)| row.pps)
}

/// Adds the keys of `more` to `object`.
pub fn merge(object: &mut serde_json::Value, more: serde_json::Value) {
    if let serde_json::Value::Object(more) = more {
        for (key, value) in more {
            object[key] = value;
        }
    }
}

/// Bars of a ladder, with what QEMU reached if that was measured.
pub fn bars(rows: &[(Step, Summary)], qemu_pps: Option<f64>) -> Vec<Bar> {
    let plain = plain_pps(rows);
    let bar = |label: String, pps: f64, foreign| Bar {
        label,
        value: pps / 1e6,
        note: format!("{} Mpps, \u{d7}{}", mega(pps), digits(pps / plain)),
        foreign,
    };
    let mut bars: Vec<Bar> =
        rows.iter().map(|(step, row)| bar(step.to_string(), row.pps, false)).collect();
    bars.extend(qemu_pps.map(|pps| bar("QEMU's e1000".into(), pps, true)));
    bars
}

/// Draws it.
pub fn draw(out: &Output, name: &str, ring: u32, bars: &[Bar]) -> Result<()> {
    out.chart(name, || {
        let subtitle = format!("{ring} descriptors; {}", out.machine);
        let words = Words {
            title: "Guest to guest over VALE, 64-byte UDP packets received per second",
            subtitle: &subtitle,
            x: "Mpps, logarithmic",
            y: "",
            legend: Legend::UpperRight,
        };
        chart::bars(&words, bars)
    })
}

/// Runs the case; the headline's ladder, for the chart.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<Option<(u32, Rows)>> {
    let mut headline = None;
    for group in groups(plan.full) {
        if plan.quick && !group.is_headline() {
            continue;
        }
        if group.backend == Backend::Tap
            && let Some(why) = netns::unable()
        {
            println!("\nskipped: {} ({why})", group.title());
            continue;
        }
        let rows = measure(plan, lab, out, &group)?;
        print(out, &group, &rows)?;
        judge(out, &group, &rows);
        if group.is_headline() && headline.is_none() {
            headline = Some((group.ring, rows));
        }
    }
    Ok(headline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_default_have_the_headline_in_full_and_every_case_at_three_steps() {
        let groups = groups(false);
        assert_eq!(&groups[..2], &[Group::headline(4096), Group::headline(1024)]);
        assert!(groups[2..].iter().all(|group| group.steps == Step::SOME));
        for topology in [Topology::Pair, Topology::Receive, Topology::Forward] {
            for backend in [Backend::Vale, Backend::Tap] {
                for (size, _) in SIZES {
                    let there = |group: &Group| {
                        (group.topology, group.backend, group.size) == (topology, backend, size)
                    };
                    assert!(groups.iter().any(there), "{topology} {backend:?} {size}");
                }
            }
        }
        for ring in RINGS {
            assert!(
                groups.iter().any(|group| group.topology == Topology::Pair && group.ring == ring)
            );
        }
    }

    #[test]
    fn groups_in_full_are_the_product_without_repetition() {
        let all = groups(true);
        // Two backends, but null: once; two sizes, three rings.
        assert_eq!(all.len(), (2 * 3 + 1) * 2 * 3);
        for (i, group) in all.iter().enumerate() {
            assert_eq!(group.steps, Step::ALL);
            assert!(!all[i + 1..].contains(group), "{group:?} twice");
        }
    }

    #[test]
    fn bars_are_one_per_row_and_one_for_qemu() {
        let rows = |step: Step, pps: f64| (step, Summary::of(&[Run { pps, ..Run::default() }]));
        let rows = [rows(Step::Plain, 46_000.0), rows(Step::TOP, 23_000_000.0)];
        let bars = bars(&rows, Some(23_000.0));
        let shown: Vec<_> = bars.iter().map(|bar| (bar.note.as_str(), bar.foreign)).collect();
        assert_eq!(
            shown,
            [
                ("0.0460 Mpps, \u{d7}1.00", false),
                ("23.0 Mpps, \u{d7}500", false),
                ("0.0230 Mpps, \u{d7}0.500", true),
            ]
        );
    }
}
