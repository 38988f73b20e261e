//! How a guest's run ends, and the exit code that results.
//!
//! | end | exit code |
//! |---|---|
//! | the guest writes 0 to its exit port, or resets itself | 0 |
//! | it writes 2: its command line is invalid | 2 |
//! | it writes anything else, or crashes | 1 |
//! | SIGINT, SIGTERM | 0, with the report |
//! | `--timeout` | 3 |
//!
//! The port is QEMU's `isa-debug-exit`; QEMU turns a status `s` into exit code `2 s + 1`, which cannot
//! say success, so that rule is not taken over. The bench guest's statuses are those of
//! `guest-tools/kernel`.

use std::fmt;

use nm_cli::exit::{Outcome, UsageError};
use serde::Serialize;

/// The bench guest found packets that must not be: damaged, again, or out of order.
pub const CHECK_FAILED: u32 = 1;
/// Its command line is invalid.
const COMMAND_LINE: u32 = 2;

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It wrote to the exit port.
    Status(u32),
    /// It reset the machine, which here is switched off instead.
    Reset,
    /// A signal, or whoever read its output left.
    Asked,
    /// `--timeout`.
    Timeout,
    /// It crashed.
    Crash(String),
}

impl End {
    /// The outcome of the process.
    pub fn outcome(&self) -> anyhow::Result<Outcome> {
        match self {
            End::Status(0) | End::Reset | End::Asked => Ok(Outcome::Done),
            End::Timeout => Ok(Outcome::ConditionNotMet),
            End::Status(COMMAND_LINE) => Err(UsageError::new(self.to_string()).into()),
            End::Status(_) | End::Crash(_) => Err(anyhow::anyhow!("{self}")),
        }
    }

    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            End::Status(_) => "status",
            End::Reset => "reset",
            End::Asked => "stopped",
            End::Timeout => "timeout",
            End::Crash(_) => "crash",
        }
    }

    /// The guest's exit status, if it gave one.
    pub fn status(&self) -> Option<u32> {
        match self {
            End::Status(status) => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Status(0) => f.write_str("the guest ended"),
            End::Status(COMMAND_LINE) => {
                f.write_str("the guest does not understand its command line")
            }
            End::Status(status) => write!(f, "the guest failed with status {status}"),
            End::Reset => f.write_str("the guest reset its machine"),
            End::Asked => f.write_str("stopped"),
            End::Timeout => f.write_str("the guest did not end in time"),
            End::Crash(how) => write!(f, "the guest crashed: {how}"),
        }
    }
}

impl Serialize for End {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_follow_the_table() {
        for end in [End::Status(0), End::Reset, End::Asked] {
            assert_eq!(end.outcome().expect("success"), Outcome::Done, "{end:?}");
        }
        assert_eq!(End::Timeout.outcome().expect("no failure"), Outcome::ConditionNotMet);
        let is_usage = |end: End| {
            let error = end.outcome().expect_err("no success");
            error.downcast_ref::<UsageError>().is_some()
        };
        assert!(is_usage(End::Status(2)));
        for end in [End::Status(1), End::Status(3), End::Status(u32::MAX), End::Crash("so".into())]
        {
            assert!(!is_usage(end));
        }
    }
}
