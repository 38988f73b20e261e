//! nm-pktgen: sends, receives and measures packets on netmap ports.
//!
//! ```text
//! cli (what was typed) -> plan (what is meant, validated) -> run (ports, threads, reports)
//!                                                             |
//!               func/ tx, replay, rx, ping: one per thread <- worker -> stats -> record
//! ```
//! Only [`cli`] is public: the manual page and the completions are made from it.
#![forbid(unsafe_code)]
// They panic where the output fails: nm_cli::say!, and writes whose errors are looked at.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod backlog;
mod capture;
pub mod cli;
mod clock;
mod control;
mod func;
mod hexdump;
mod idle;
mod neighbours;
mod packet;
mod plan;
mod rate;
mod record;
mod run;
mod stats;
mod worker;

/// Runs the tool.
pub fn run(cli: cli::Cli) -> anyhow::Result<nm_cli::exit::Outcome> {
    run::run(&mut plan::Plan::new(cli)?)
}
