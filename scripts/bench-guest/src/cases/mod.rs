//! The cases of `scripts/bench guest`. Each measures, prints a table, writes JSON lines and perhaps a
//! chart.

pub mod boot;
pub mod consumer;
pub mod idle;
pub mod ladder;
pub mod latency;
pub mod livelock;
pub mod other;
pub mod qemu;
pub mod sockets;
