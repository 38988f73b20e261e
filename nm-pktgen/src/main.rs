//! nm-pktgen: the process around [`nm_pktgen::run`]. Everything is in the library crate, so that the
//! manual pages and completions come from the same definition as the flags.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::CommandFactory;
use nm_pktgen::cli::Cli;

fn main() -> ExitCode {
    if nm_cli::complete::answered(Cli::command(), &[("port", netmap::control::names)]) {
        return ExitCode::SUCCESS;
    }
    let cli: Cli = nm_cli::exit::parse();
    nm_cli::exit::run("nm-pktgen", || nm_pktgen::run(cli))
}
