//! How a guest's run ends, and the exit code that results.
//!
//! | end | exit code |
//! |---|---|
//! | the guest switches itself off, or halts for good | 0 |
//! | it resets itself, and `--no-reboot` says that it does not begin anew; or it does so by the 8042 | 0 |
//! | it writes 0 to its exit port | 0 |
//! | it writes 2: its command line is invalid | 2 |
//! | it writes anything else, or crashes | 1 |
//! | it ended well, and what it printed to stdout or a file could not be written | 1 |
//! | triple fault | 33 |
//! | it tells that it has panicked | 34 |
//! | SIGINT, SIGTERM, SIGHUP, Ctrl-a x, `--ctl NAME quit` | 0, with the report |
//! | `--timeout` | 3 |
//!
//! 33 and 34 are those of crosvm.
//!
//! The port is QEMU's `isa-debug-exit`; QEMU turns a status `s` into exit code `2 s + 1`, which cannot
//! say success, so that rule is not taken over. The bench guest's statuses are those of
//! `guest-tools/kernel`.

use std::fmt;

use nm_cli::exit::{Coded, Outcome, UsageError};
use serde::Serialize;

/// The bench guest found packets that must not be: damaged, again, or out of order.
pub const CHECK_FAILED: u32 = 1;
/// Its command line is invalid.
const COMMAND_LINE: u32 = 2;

/// Exit code of a triple fault.
const TRIPLE_FAULT: u8 = 33;
/// Exit code of a guest that has panicked.
const PANIC: u8 = 34;

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It wrote to the exit port.
    Status(u32),
    /// It switched itself off.
    Poweroff,
    /// All its vCPUs halted with interrupts off.
    Halt,
    /// It reset the machine.
    Reset,
    /// It pulled the reset line by the keyboard controller, which ACPI says is not there: as small monitors have it,
    /// whose guests are told `reboot=k`, that is an end.
    KeyboardReset,
    /// Its machine could not be reset.
    Error(String),
    /// It told that it has panicked.
    Panic,
    /// A fault while a fault was being delivered; with where.
    TripleFault(String),
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
            End::Status(0)
            | End::Poweroff
            | End::Halt
            | End::Reset
            | End::KeyboardReset
            | End::Asked => Ok(Outcome::Done),
            End::Panic => Err(Coded::new(PANIC, self.to_string()).into()),
            End::TripleFault(_) => Err(Coded::new(TRIPLE_FAULT, self.to_string()).into()),
            End::Timeout => Ok(Outcome::ConditionNotMet),
            End::Status(COMMAND_LINE) => Err(UsageError::new(self.to_string()).into()),
            End::Status(_) | End::Crash(_) | End::Error(_) => Err(anyhow::anyhow!("{self}")),
        }
    }

    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            End::Status(_) => "status",
            End::Poweroff => "poweroff",
            End::Halt => "halt",
            End::Reset | End::KeyboardReset => "reset",
            End::Error(_) => "error",
            End::Panic => "panic",
            End::TripleFault(_) => "triple-fault",
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
            End::Poweroff => f.write_str("the guest switched itself off"),
            End::Halt => f.write_str("the guest halted"),
            End::Reset | End::KeyboardReset => f.write_str("the guest reset its machine"),
            End::Error(why) => write!(f, "the guest cannot begin anew: {why}"),
            End::Panic => f.write_str("the guest panicked"),
            End::TripleFault(how) => write!(f, "the guest crashed: {how}"),
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
        let good = [End::Poweroff, End::Halt, End::Reset, End::KeyboardReset, End::Asked];
        for end in [End::Status(0)].into_iter().chain(good) {
            assert_eq!(end.outcome().expect("success"), Outcome::Done, "{end:?}");
        }
        assert_eq!(End::Timeout.outcome().expect("no failure"), Outcome::ConditionNotMet);
        let is_usage = |end: End| {
            let error = end.outcome().expect_err("no success");
            error.downcast_ref::<UsageError>().is_some()
        };
        assert!(is_usage(End::Status(2)));
        let own =
            |end: End| end.outcome().expect_err("no success").downcast_ref::<Coded>().is_some();
        assert!(own(End::Panic) && own(End::TripleFault("so".into())));
        for end in [End::Status(1), End::Status(3), End::Status(u32::MAX), End::Crash("so".into())]
        {
            assert!(!is_usage(end));
        }
    }
}
