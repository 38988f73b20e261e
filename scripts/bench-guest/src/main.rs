//! Measures guests: the ladder from a plain e1000 to the paravirtual one, QEMU beside it, latency, idling,
//! boot, and the curves of the two open problems. `scripts/bench guest` builds and runs it;
//! `scripts/demo` shows the ladder with it.
#![deny(unsafe_code)]

mod cases;
mod chart;
mod curves;
mod demo;
mod distance;
#[allow(unsafe_code)]
mod judgement;
mod lab;
mod machine;
mod netns;
mod output;
#[allow(unsafe_code)]
mod process;
mod qemu;
mod report;
mod scene;
mod step;
mod summary;
mod target;
mod threads;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use nm_cli::duration;
use nm_cli::exit::{self, Outcome};

use crate::lab::Lab;
use crate::output::Output;

/// Measures guests on e1000pv-vmm; medians, each beside a reference in the same run.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench guest", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What scripts/demo shows.
    #[command(hide = true)]
    Demo(demo::Demo),
    /// Draw what scripts/nested and scripts/livelock have measured.
    Curves(curves::Curves),
}

#[derive(Debug, clap::Args)]
struct Args {
    /// Write one JSON object a line to FILE, as docs/schema/bench-guest.json says.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts to DIR: ladder.svg, consumer.svg, livelock.svg.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Runs per figure; medians are reported [default: 3; 1 with --quick].
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Length of a run [default: 2s; 500ms with --quick].
    #[arg(long, value_name = "TIME", value_parser = duration::nonzero_seconds)]
    duration: Option<Duration>,
    /// A first look: short runs, once, and of the ladder only the guest-to-guest ones over VALE.
    #[arg(long)]
    quick: bool,
    /// Of the ladder the whole product of cases; an hour.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Leave threads to the scheduler. Otherwise each machine's threads share a core: the sender's the first,
    /// the receiver's the second.
    #[arg(long)]
    no_pin: bool,
    /// Compare with this e1000pv-vmm, that of another build (the case `other`, alone unless others are named).
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// Cases (all unless named).
    cases: Vec<Case>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    Ladder,
    Qemu,
    Latency,
    Idle,
    Boot,
    Consumer,
    Livelock,
    Sockets,
}

impl Case {
    const ALL: [Case; 8] = [
        Case::Ladder,
        Case::Qemu,
        Case::Latency,
        Case::Idle,
        Case::Boot,
        Case::Consumer,
        Case::Livelock,
        Case::Sockets,
    ];
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Runs per figure.
    pub runs: usize,
    /// Length of a run.
    pub duration: Duration,
    /// Fewer cases.
    pub quick: bool,
    /// All cases.
    pub full: bool,
}

impl Plan {
    fn new(args: &Args) -> Plan {
        let (runs, ms) = if args.quick { (1, 500) } else { (3, 2000) };
        Plan {
            runs: args.runs.unwrap_or(runs).max(1),
            duration: args.duration.unwrap_or(Duration::from_millis(ms)),
            quick: args.quick,
            full: args.full,
        }
    }
}

/// The directory of this program, where the others are.
fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    Ok(own.parent().unwrap_or(Path::new(".")).to_owned())
}

fn measure(args: &Args) -> Result<()> {
    ensure!(
        machine::has_kvm(),
        "/dev/kvm is missing or forbidden; there is nothing to measure without it"
    );
    let mut lab = Lab::new(&programs()?, !args.no_pin, "kvm")?;
    let plan = Plan::new(args);
    let out = Output::new(args.json.as_deref(), args.svg.as_deref())?;
    println!("# {}", out.machine);
    let cases: &[Case] = match (&args.other, &args.cases[..]) {
        (None, []) => &Case::ALL,
        (_, named) => named,
    };
    if let Some(other) = &args.other {
        cases::other::run(&plan, other, &mut lab, &out)?;
    }
    let (mut headline, mut qemu_pps) = (None, None);
    for case in cases {
        match case {
            Case::Ladder => headline = cases::ladder::run(&plan, &mut lab, &out)?,
            Case::Qemu => qemu_pps = cases::qemu::run(&plan, &mut lab, &out)?,
            Case::Latency => cases::latency::run(&plan, &mut lab, &out)?,
            Case::Idle => cases::idle::run(&plan, &mut lab, &out)?,
            Case::Boot => cases::boot::run(&plan, &mut lab, &out)?,
            Case::Consumer => cases::consumer::run(&plan, &mut lab, &out)?,
            Case::Livelock => cases::livelock::run(&plan, &mut lab, &out)?,
            Case::Sockets => cases::sockets::run(&plan, &mut lab, &out)?,
        }
    }
    judgement::print(&out)?;
    if let Some((ring, rows)) = headline {
        cases::ladder::draw(&out, "ladder.svg", ring, &cases::ladder::bars(&rows, qemu_pps))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::run("bench-guest", || {
        // Before threads start, as this and the lab want.
        process::handle_signals()?;
        match cli.command {
            Some(Command::Demo(demo)) => {
                let accel = demo::accel(&demo);
                demo::run(&demo, &mut Lab::new(&programs()?, true, accel)?)?;
            }
            Some(Command::Curves(args)) => curves::run(&args)?,
            None => measure(&cli.args)?,
        }
        Ok(Outcome::Done)
    })
}
