//! Exit codes, and errors that are printed once: 0 for success (also after a first SIGINT, SIGTERM or SIGHUP, which
//! still prints the report), 1 for a failure while running, 2 for wrong usage, 3 if a condition that the user
//! asked about does not hold, and 128 + signal after a third request to end ([`crate::signal`]). If the
//! reader of stdout goes away (`| head`), that is not a failure.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// The EXIT STATUS section of every `--help` and man page.
pub const HELP: &str = "\
Exit status:
  0  success, also when stopped by SIGINT, SIGTERM or SIGHUP (the report is printed)
  1  failure while running
  2  wrong usage
  3  the condition that was asked for does not hold
  129, 130, 143  third SIGHUP, SIGINT, SIGTERM: ended at once, without a report

Signals: SIGINT, SIGTERM and SIGHUP stop and report. Another, a second later or more, waits for
nobody any more, and still flushes and reports; a third, again a second later, ends at once. Closer
together they count as one. SIGUSR1 prints the totals so far.";

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run succeeded: exit code 0.
    Done,
    /// A condition that the user wants reported by the exit code, such as loss with `--fail-on-loss`: 3.
    ConditionNotMet,
}

/// A mistake in what the user typed that clap cannot see by itself: exit code 2.
#[derive(Debug)]
pub struct UsageError(String);

impl UsageError {
    /// `why` is one sentence that says what to do instead.
    pub fn new(why: impl Into<String>) -> UsageError {
        UsageError(why.into())
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A failure with an exit code of its own, which the tool's help tells.
#[derive(Debug)]
pub struct Coded {
    code: u8,
    why: String,
}

impl Coded {
    /// `why` is one sentence.
    pub fn new(code: u8, why: impl Into<String>) -> Coded {
        Coded { code, why: why.into() }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Coded {}

/// The command line, as `clap` describes it; help and mistakes are printed, and end the process.
pub fn parse<C: Parser>() -> C {
    C::try_parse().unwrap_or_else(|why| refuse(&why))
}

/// Prints help, or what is wrong with a command line, and ends the process: 0, 2, or 1 if help could
/// not be written.
pub fn refuse(why: &clap::Error) -> ! {
    let written = why.print().and_then(|()| io::stdout().flush());
    let lost = written.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
    std::process::exit(if lost && !why.use_stderr() { 1 } else { why.exit_code() })
}

/// Runs a tool after its command line was parsed; prints the error, if any, once and as a chain:
/// `nm-pktgen: error: opening port valeA:x: ...`.
pub fn run(tool: &str, body: impl FnOnce() -> anyhow::Result<Outcome>) -> ExitCode {
    crate::signal::outlive_file_size_limit();
    match body() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ConditionNotMet) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<UsageError>().is_some();
            let own = error.downcast_ref::<Coded>().map(|coded| coded.code);
            crate::say!("{tool}: error: {error:#}");
            ExitCode::from(own.unwrap_or(if usage { 2 } else { 1 }))
        }
    }
}

/// True if the cause is that the reader of our stdout went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn broken_pipe_is_found_below_context() {
        let error = Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe))
            .context("writing")
            .expect_err("is one");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("broken pipe in words only")));
    }

    #[test]
    fn codes_follow_the_table() {
        let code = |result: anyhow::Result<Outcome>| format!("{:?}", run("test", || result));
        assert_eq!(code(Ok(Outcome::Done)), format!("{:?}", ExitCode::from(0)));
        assert_eq!(code(Ok(Outcome::ConditionNotMet)), format!("{:?}", ExitCode::from(3)));
        assert_eq!(
            code(Err(UsageError::new("expected by a test").into())),
            format!("{:?}", ExitCode::from(2))
        );
        assert_eq!(
            code(Err(anyhow::anyhow!("expected by a test"))),
            format!("{:?}", ExitCode::from(1))
        );
        let own = Err(anyhow::Error::from(Coded::new(34, "expected")).context("by a test"));
        assert_eq!(code(own), format!("{:?}", ExitCode::from(34)));
    }
}
