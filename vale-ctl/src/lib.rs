//! `vale-ctl` as a library, so that its command line ([`cli`]) can be turned into manual pages and
//! completions. `main` is the program.
//!
//! A command reads the switches' files through `netmap::control` and prints; only `attach` and
//! `poll` start another process, an `nm-bridge` that outlives the command.

#![forbid(unsafe_code)]
// The macros of std panic if the output fails. Use nm_cli::say!, and writes whose errors are checked.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;

mod bridge;
mod cmd;
mod full;
mod json;
mod legacy;
mod notify;
mod output;
mod select;
mod target;

use std::process::ExitCode;

use clap::CommandFactory;
use nm_cli::complete;
use nm_cli::exit::{self, Outcome};

use crate::cli::{Cli, Command, List};
use crate::output::Out;
use crate::select::NotThere;

/// Name in messages.
const TOOL: &str = "vale-ctl";

/// The program: parses the arguments, runs the command, tells the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let names: &complete::Sources =
        &[("names", select::typed), ("name", select::typed), ("switch", select::typed_switches)];
    if complete::answered(Cli::command(), names) {
        return ExitCode::SUCCESS;
    }
    let cli = parse();
    exit::run(TOOL, || match run(&cli) {
        Err(error) if is_not_there(&error) => {
            nm_cli::say!("{TOOL}: {error:#}");
            for note in netmap::control::root_notes() {
                nm_cli::say!("{TOOL}: {note}");
            }
            Ok(Outcome::ConditionNotMet)
        }
        other => other,
    })
}

/// Whether the error is that a named switch or port does not exist, which the library reports by its own type.
fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NotThere>().is_some()
        || matches!(error.downcast_ref(), Some(netmap::Error::NotFound { .. }))
}

/// Ends the process on a usage error or when help was asked for, as clap does.
fn parse() -> Cli {
    let given: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let refuse = |why: String| -> ! {
        exit::refuse(&Cli::command().error(clap::error::ErrorKind::InvalidValue, why))
    };
    let cli = match legacy::parse(&given) {
        None => exit::parse(),
        Some(Ok(cli)) => cli,
        Some(Err(why)) => refuse(why),
    };
    match target::check(&cli) {
        Ok(()) => cli,
        Err(why) => refuse(why),
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let mut out = Out::new(cli.json, cli.verbose);
    let done = match &cli.command {
        None => return cmd::list::run(&mut out, &List::default()),
        Some(Command::List(args)) => return cmd::list::run(&mut out, args),
        Some(Command::Show(args)) => cmd::show::run(&mut out, args),
        Some(Command::Create(args)) => cmd::create::run(&mut out, args),
        Some(Command::Delete(args)) => cmd::delete::run(&mut out, args),
        Some(Command::Attach(args)) => cmd::attach::run(&mut out, args),
        Some(Command::Detach(args)) => cmd::detach::run(&mut out, args),
        Some(Command::Fdb(args)) => cmd::fdb::run(&mut out, args),
        Some(Command::Stats(args)) => cmd::stats::run(&mut out, args),
        Some(Command::Top(args)) => cmd::top::run(&mut out, args),
        Some(Command::Watch(args)) => cmd::watch::run(&mut out, args),
        Some(Command::Set(args)) => cmd::set::run(&mut out, args),
        Some(Command::Mirror(args)) => cmd::mirror::run(&mut out, args),
        Some(Command::Ageing(args)) => cmd::set::ageing(&mut out, args),
        Some(Command::Backpressure(args)) => cmd::set::backpressure(&mut out, args),
        Some(Command::Poll(args)) => cmd::poll::run(&mut out, args),
    };
    done.map(|()| Outcome::Done)
}
