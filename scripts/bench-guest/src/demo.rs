//! The demonstration: the ladder between two guests, each step once and short, as a table, as bars, and
//! in words.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::cases::ladder::{Group, bars, draw};
use crate::lab::Lab;
use crate::machine;
use crate::output::{Output, digits, mega, rare};
use crate::step::Step;
use crate::summary::Summary;

const RING: u32 = 4096;
/// Columns of the longest bar.
const BAR_WIDTH: usize = 30;

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Demo {
    /// Directory for ladder.svg.
    #[arg(long, default_value = "target/demo")]
    pub svg: PathBuf,
    /// What runs the guests: kvm, thread; auto is kvm if it can be had.
    #[arg(long, default_value = "auto", value_parser = ["auto", "kvm", "thread"])]
    pub accel: String,
    /// Seconds per step.
    #[arg(long, default_value_t = 1.5)]
    pub seconds: f64,
}

/// The accelerator, after saying what it means if it is not KVM.
pub fn accel(demo: &Demo) -> &'static str {
    let why = match demo.accel.as_str() {
        "thread" => "KVM is not to be used.",
        "auto" if !machine::has_kvm() => "/dev/kvm is missing or forbidden.",
        _ => return "kvm",
    };
    println!(
        "\nNOTE: {why} What follows runs the same driver, workload and device on\n\
         threads, without virtual machines: an exit costs a function call there, so the lower steps look far\n\
         better than they are, and the factor far smaller."
    );
    "thread"
}

/// A bar on a logarithmic scale from `low` to `high`: what spans a factor of hundreds would be
/// invisible on a linear one.
fn bar(value: f64, low: f64, high: f64) -> String {
    let part = (value / low).ln() / (high / low).ln();
    let width = 1.0 + part.clamp(0.0, 1.0) * (BAR_WIDTH as f64 - 1.0);
    // Rates that could not be measured have no bar.
    "#".repeat(if width.is_finite() { width.round() as usize } else { 0 })
}

/// Shows it.
pub fn run(demo: &Demo, lab: &mut Lab) -> Result<()> {
    let group = Group::headline(RING);
    let out = Output::new(None, Some(&demo.svg))?;
    let kind = if lab.accel == "kvm" { "Two KVM guests" } else { "Two guests on threads" };
    println!(
        "\n{kind} on one VALE switch, 64-byte UDP from one to the other, every packet checked, {RING} descriptors:\n"
    );
    println!(
        "{:<21}  {:>7}  {:>7}  {:>8}  {:>8}  {:>8}",
        "step", "Mpps", "factor", "exits/p", "kicks/p", "irqs/p"
    );
    let duration = Duration::from_secs_f64(demo.seconds);
    let mut rows: Vec<(Step, Summary)> = Vec::new();
    for step in Step::ALL {
        out.doing(&format!("{step} ..."));
        let row = Summary::of(&[group.scene(step, duration).run(lab)?]);
        out.done();
        rows.push((step, row));
        let (_, row) = &rows[rows.len() - 1];
        let [exits, kicks, _, interrupts] = row.events.map(rare);
        println!(
            "{step:<21}  {:>7}  {:>7}  {exits:>8}  {kicks:>8}  {interrupts:>8}",
            mega(row.pps),
            digits(row.pps / rows[0].1.pps),
        );
    }
    println!("\nThe same as a picture (logarithmic), and why:\n");
    let rate = |row: &Summary| row.pps;
    let low = rows.iter().map(|(_, row)| rate(row)).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|(_, row)| rate(row)).fold(0.0, f64::max);
    for (step, row) in &rows {
        let width = BAR_WIDTH;
        println!(
            "{step:<21}  {:<width$}  {:>7}  {}",
            bar(row.pps, low, high),
            mega(row.pps),
            step.why()
        );
    }
    draw(&out, "ladder.svg", RING, &bars(&rows, None))?;
    let (bottom, top) = (&rows[0].1, &rows[rows.len() - 1].1);
    println!(
        "\nFrom {} to {} Mpps: {} times the packets, with {} instead of {} exits, kicks and interrupts per packet.",
        mega(bottom.pps),
        mega(top.pps),
        digits(top.pps / bottom.pps),
        rare(top.events[0] + top.events[1] + top.events[3]),
        rare(bottom.events[0] + bottom.events[1] + bottom.events[3]),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_is_longer_for_more() {
        let lengths: Vec<usize> =
            [1.0, 10.0, 100.0].iter().map(|&v| bar(v, 1.0, 100.0).len()).collect();
        assert_eq!((lengths[0], lengths[2]), (1, BAR_WIDTH));
        assert!(lengths[0] < lengths[1] && lengths[1] < lengths[2]);
        // All alike: no range to divide.
        assert_eq!(bar(5.0, 5.0, 5.0), "");
    }
}
