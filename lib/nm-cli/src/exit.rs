//! Exit codes, and errors said once. 0 success (also after a first SIGINT or SIGTERM, with its report),
//! 1 failure while running, 2 usage, 3 a condition that was asked for does not hold, 128 + signal after
//! a second signal ([`crate::signal`]). A reader that goes away (`| head`) is no failure.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The EXIT STATUS section of every `--help` and man page.
pub const HELP: &str = "\
Exit status:
  0  success, also when stopped by SIGINT or SIGTERM (the report is printed)
  1  failure while running
  2  wrong usage
  3  the condition that was asked for does not hold
  130, 143  second SIGINT, SIGTERM: stopped at once

Signals: SIGINT and SIGTERM stop and report, SIGUSR1 prints the totals so far.";

/// How a run that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: 0.
    Done,
    /// What the user asked to be told by the exit code, as loss with `--fail-on-loss`: 3.
    ConditionNotMet,
}

/// A mistake in what the user typed that clap cannot see by itself: exit code 2.
#[derive(Debug)]
pub struct UsageError(String);

impl UsageError {
    /// One sentence that says what to do.
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

/// Runs a tool after its command line was parsed; prints the error, if any, once and as a chain:
/// `nm-pktgen: error: opening port valeA:x: ...`.
pub fn run(tool: &str, body: impl FnOnce() -> anyhow::Result<Outcome>) -> ExitCode {
    match body() {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ConditionNotMet) => ExitCode::from(3),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<UsageError>().is_some();
            // stderr may be gone as well; there is nobody left to tell.
            let _ =
                io::Write::write_fmt(&mut io::stderr(), format_args!("{tool}: error: {error:#}\n"));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// True when the cause is that whoever read our stdout left.
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
    }
}
