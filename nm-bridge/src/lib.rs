//! nm-bridge joins two ports and moves packets both ways: by swapping buffers where both ports live
//! in one memory region, by copying elsewhere. Netmap's `bridge` with statistics, signals and JSON.
//!
//! * [`cli`] is what may be typed;
//! * [`plan`] is which two ports that means;
//! * [`headers`] is which virtio-net headers both have;
//! * [`forward`] is one batch in one direction;
//! * [`idle`] is sleeping on both ports without losing a wake-up;
//! * [`capture`] is `--pcap-out`;
//! * [`stats`] is what is counted and printed;
//! * `service` is what `vale-ctl attach`, which starts bridges, is told;
//! * [`run`] is the loop that joins them.
#![forbid(unsafe_code)]
// They panic where the output fails: nm_cli::say!, and writes whose errors are looked at.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod capture;
pub mod cli;
pub mod forward;
pub mod headers;
pub mod idle;
pub mod plan;
mod run;
mod service;
pub mod stats;

pub use run::run;
