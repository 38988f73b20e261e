//! Measures the VALE switch: rates, latencies, sizes, each as a median of several runs beside a
//! reference loop in the same run. `scripts/bench vale` builds and runs it.
#![deny(unsafe_code)]

mod actors;
mod cases;
#[allow(unsafe_code)]
mod packet;
mod peers;
mod plan;
mod preload;
#[allow(unsafe_code)]
mod reference;
mod roles;
mod rows;
mod sent;
mod sweep;
mod xdp;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures the VALE switch against a reference loop.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plan: plan::Plan,
    /// Measure with ordinary pages of memory alone
    #[arg(long)]
    small_pages: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(hide = true)]
    Send(roles::Role),
    #[command(hide = true)]
    Receive(roles::Role),
    #[command(hide = true)]
    Echo(roles::Role),
    #[command(hide = true)]
    Ping(roles::Role),
    #[command(hide = true)]
    Idle {
        #[command(flatten)]
        role: roles::Role,
        #[arg(long)]
        ports: usize,
    },
    #[command(hide = true)]
    Packets(packet::Packets),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.small_pages {
        nix::sys::prctl::set_thp_disable(true)?; // what it starts inherits it
    }
    let result = match cli.command {
        None => return cases::run(&cli.plan),
        Some(Command::Send(role)) => role.send()?,
        Some(Command::Receive(role)) => role.receive()?,
        Some(Command::Echo(role)) => role.echo()?,
        Some(Command::Ping(role)) => role.ping()?,
        Some(Command::Idle { role, ports }) => role.idle(ports)?,
        Some(Command::Packets(packets)) => packets.send()?,
    };
    println!("{result}");
    Ok(())
}

/// Keeps this thread on one CPU; a machine with fewer leaves it where it is.
fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    if set.set(cpu).is_ok() {
        // Best effort: with fewer CPUs the numbers are worse, not wrong.
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}
