//! What to wait for, and how to pass the time meanwhile.

use std::str::FromStr;
use std::time::Duration;

bitflags::bitflags! {
    /// Directions to wait for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// Packets to read.
        const RX = 1;
        /// Space to write.
        const TX = 2;
    }
}

/// How to pass the time until something is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Look again and again: the shortest latency, a whole core.
    Busy,
    /// Look for a while, then sleep.
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

impl FromStr for Wait {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "busy" => Ok(Self::Busy),
            "adaptive" => Ok(Self::default()),
            "block" => Ok(Self::Block),
            _ => Err(format!("unknown way to wait {s:?}; use busy, adaptive or block")),
        }
    }
}
