//! Names of the ends of a pipe: `x{1` is the master's end of pipe `1` of the port `x`, `x}1` the slave's.
//!
//! Invariant: an end is known by its name alone: so are the other end, and the base, the port that both
//! belong to.

use std::fmt;

use super::{NAME_MOST, valid_name};

/// Which end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PipeEnd {
    /// `{`
    Master,
    /// `}`
    Slave,
}

impl PipeEnd {
    /// The character in a name.
    pub(super) fn mark(self) -> char {
        match self {
            Self::Master => '{',
            Self::Slave => '}',
        }
    }

    /// The end that a character names.
    pub(super) fn of_mark(mark: u8) -> Option<Self> {
        match mark {
            b'{' => Some(Self::Master),
            b'}' => Some(Self::Slave),
            _ => None,
        }
    }
}

/// An end of a pipe by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipeName<'a> {
    /// The port that the pipe belongs to, without the switch: `x`.
    pub base: &'a str,
    /// Which end.
    pub end: PipeEnd,
    /// What tells the pipes of a port apart.
    pub id: &'a str,
}

impl<'a> PipeName<'a> {
    /// What the name of a port says, if it is an end of a pipe; a monitor of one (`x{1#3`) is none.
    #[must_use]
    pub fn of(port: &'a str) -> Option<Self> {
        if port.contains('#') {
            return None;
        }
        let at = port.find(['{', '}'])?;
        let end = PipeEnd::of_mark(port.as_bytes()[at])?;
        Some(Self { base: &port[..at], end, id: &port[at + 1..] })
    }

    /// The other end.
    #[must_use]
    pub fn peer(self) -> Self {
        let end = match self.end {
            PipeEnd::Master => PipeEnd::Slave,
            PipeEnd::Slave => PipeEnd::Master,
        };
        Self { end, ..self }
    }
}

impl fmt::Display for PipeName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.base, self.end.mark(), self.id)
    }
}

/// Whether a name is one that a port of a switch can have, and so safe as part of a file name.
#[must_use]
pub(crate) fn valid_port(name: &str) -> bool {
    let part = |part: &str| valid_name(part) && part.len() <= NAME_MOST;
    match PipeName::of(name) {
        Some(pipe) => part(pipe.base) && part(pipe.id),
        None => valid_name(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_pipe_is_known_by_its_name() {
        let pipe = PipeName::of("x{12").unwrap();
        assert_eq!(pipe, PipeName { base: "x", end: PipeEnd::Master, id: "12" });
        assert_eq!(pipe.to_string(), "x{12");
        assert_eq!(pipe.peer().to_string(), "x}12");
        assert_eq!(pipe.peer().peer(), pipe);
        assert_eq!(PipeName::of("x"), None);
        assert_eq!(PipeName::of("x{12#3"), None);
    }

    #[test]
    fn names_that_no_file_may_have_are_none() {
        for good in ["x", "x{1", "port_of_15_char}pipe_of_15_char"] {
            assert!(valid_port(good), "{good}");
        }
        for bad in
            ["", "x{", "{1", "x{1{2", "x}1}", "x{../y", "../x{1", "x{1/2", "x{pipe_of_16_chars"]
        {
            assert!(!valid_port(bad), "{bad}");
        }
    }
}
