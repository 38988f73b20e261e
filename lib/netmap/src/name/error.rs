//! Why a port name is refused: the kind of fault, and the character where it was noticed.

use std::fmt;

use nix::errno::Errno;

use super::NAME_MOST;

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// Something is missing here.
    #[error("{0}")]
    Missing(&'static str),
    /// A number is missing here.
    #[error("{0} is missing here")]
    NumberMissing(&'static str),
    /// What is here cannot be here.
    #[error("{0}")]
    Unexpected(&'static str),
    /// An identifier is too long: it would not fit `IFNAMSIZ`.
    #[error("{0} has at most {NAME_MOST} characters")]
    TooLong(&'static str),
    /// A number out of range.
    #[error("{what} must be between {low} and {high}")]
    OutOfRange {
        /// Of what.
        what: &'static str,
        /// The least that it can be.
        low: u32,
        /// The most that it can be.
        high: u32,
    },
    /// It contradicts what the name said before.
    #[error("{0}")]
    Contradiction(&'static str),
    /// No kind of port is named like this.
    #[error("no such kind of port; known are {known}")]
    UnknownKind {
        /// How those begin that there are, in a list.
        known: String,
    },
    /// A pipe of something else than a port of a switch.
    #[error("only ports of switches have pipes, as in valeA:x{{1")]
    Pipe,
    /// An option of netmap that there is not.
    #[error("option `{0}` is not supported yet")]
    Option(&'static str),
    /// A name built field by field that the grammar does not know.
    #[error("these fields do not make a name; it would be read as another one")]
    NotAName,
}

impl NameFault {
    /// The error number that netmap, or its library, gives in this case.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Pipe | Self::Option(_) => Errno::EOPNOTSUPP,
            _ => Errno::EINVAL,
        }
    }
}

/// Why a name was refused, and at which of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    /// The name as it was given.
    pub name: String,
    /// Byte offset of the offending character; the length of the name when something is missing.
    pub at: usize,
    /// What is wrong there, and what would be right.
    pub fault: NameFault,
}

impl std::error::Error for NameError {}

impl fmt::Display for NameError {
    /// Message, then the name, then a caret below the offending character. A long name is cut to
    /// the part around the caret, and control characters are replaced: it goes to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BEFORE: usize = 60;
        const AFTER: usize = 20;
        let (before, after) = self.name.split_at_checked(self.at).unwrap_or((&self.name, ""));
        let skipped = before.chars().count().saturating_sub(BEFORE);
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let left: String = before.chars().skip(skipped).map(shown).collect();
        let right: String = after.chars().take(AFTER).map(shown).collect();
        let (cut_left, cut_right) = (
            if skipped > 0 { "..." } else { "" },
            if after.chars().nth(AFTER).is_some() { "..." } else { "" },
        );
        let column = cut_left.len() + left.chars().count();
        write!(f, "bad port name: {}\n  {cut_left}{left}{right}{cut_right}\n", self.fault)?;
        write!(f, "  {:column$}^", "")
    }
}
