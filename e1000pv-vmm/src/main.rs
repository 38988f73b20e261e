//! e1000pv-vmm: the process around [`e1000pv_vmm::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::CommandFactory;
use e1000pv_vmm::cli::Cli;
use e1000pv_vmm::stats::machines;

fn main() -> ExitCode {
    let names: &nm_cli::complete::Sources = &[("stats", running), ("netdev", ports)];
    if nm_cli::complete::answered(Cli::command(), names) {
        return ExitCode::SUCCESS;
    }
    let cli = Cli::from_process();
    nm_cli::exit::run("e1000pv-vmm", || e1000pv_vmm::run(&cli))
}

/// As `--netdev` has them.
fn ports() -> Vec<String> {
    netmap::control::names().into_iter().map(|name| format!("port={name}")).collect()
}

fn running() -> Vec<String> {
    machines::all().unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}
