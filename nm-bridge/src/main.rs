//! nm-bridge: the process around [`nm_bridge::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nm_bridge::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    nm_cli::exit::run("nm-bridge", || nm_bridge::run(&cli))
}
