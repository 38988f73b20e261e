//! `--wait-mode`: what a tool does while there is nothing to do.

use clap::ValueEnum;

/// What an idle tool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitMode {
    /// Look again and again: shortest latency, a whole CPU.
    Busy,
    /// Look for a moment, then sleep until a doorbell rings.
    Adaptive,
    /// Sleep at once.
    Block,
}
