//! What to wait for, and how to pass the time meanwhile.

use std::str::FromStr;
use std::time::Duration;

bitflags::bitflags! {
    /// What to wait for, and what has come.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// Packets to read.
        const RX = 1;
        /// Any free slot, as in netmap. It may have been there all the time, and be too little.
        const TX = 2;
        /// More free slots than when the wait began, or nothing was queued then.
        const SPACE = 4;
        /// Nothing is queued any more.
        const SENT = 8;
    }
}

impl Interest {
    /// All that come true when queued packets move.
    const ROOM: Self = Self::TX.union(Self::SPACE).union(Self::SENT);

    /// Whether it can come true by queued packets moving.
    pub(crate) fn wants_room(self) -> bool {
        self.intersects(Self::ROOM)
    }

    /// What a kind of port is asked for. It tells in one way that packets move, whoever waits for how much
    /// of that.
    pub(crate) fn for_adapter(self) -> Self {
        let room = if self.wants_room() { Self::TX } else { Self::empty() };
        self.intersection(Self::RX).union(room)
    }
}

/// How to pass the time until something is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Look again and again: the shortest latency, a whole core.
    Busy,
    /// Look for a while, then sleep. Ports that can be looked at by system calls only (taps) are slept for at once.
    Adaptive {
        /// How long to look.
        spin: Duration,
    },
    /// Sleep at once.
    Block,
}

impl Default for Wait {
    /// Adaptive: about as long as a sleep and a wake-up take.
    fn default() -> Self {
        Self::Adaptive { spin: Duration::from_micros(50) }
    }
}

/// What was asked for is not the name of a `Wait`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown wait mode {asked:?}; use busy, adaptive or block")]
pub struct UnknownWait {
    /// The name.
    pub asked: String,
}

impl FromStr for Wait {
    type Err = UnknownWait;

    fn from_str(s: &str) -> Result<Self, UnknownWait> {
        match s {
            "busy" => Ok(Self::Busy),
            "adaptive" => Ok(Self::default()),
            "block" => Ok(Self::Block),
            _ => Err(UnknownWait { asked: s.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_is_known_by_its_name_and_others_are_told_the_names() {
        assert_eq!("busy".parse(), Ok(Wait::Busy));
        assert_eq!("block".parse(), Ok(Wait::Block));
        assert_eq!("adaptive".parse(), Ok(Wait::default()));
        let error = "Busy".parse::<Wait>().unwrap_err();
        assert!(error.to_string().contains("\"Busy\"; use busy, adaptive or block"), "{error}");
    }
}
