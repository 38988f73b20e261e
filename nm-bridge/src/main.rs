//! nm-bridge: the process around [`nm_bridge::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::CommandFactory;
use nm_bridge::cli::Cli;

fn main() -> ExitCode {
    let ports = netmap::control::names;
    if nm_cli::complete::answered(Cli::command(), &[("ports", ports), ("words", ports)]) {
        return ExitCode::SUCCESS;
    }
    let cli: Cli = nm_cli::exit::parse();
    nm_cli::exit::run("nm-bridge", || nm_bridge::run(&cli))
}
