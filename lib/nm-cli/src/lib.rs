//! The surface that all tools share, so that nm-pktgen, nm-bridge and vale-ctl speak with one voice:
//! the same flag names, units, JSON conventions, exit codes and signals.
//!
//! This crate knows nothing of netmap: it parses what people type and formats numbers.
//! Conventions kept here, once for all:
//!
//! * stdout is data, stderr is talk ([`say!`], which cannot fail); no colour and no progress bar unless stderr is a terminal.
//! * SI prefixes (k = 1000) for counts and rates; `--exact` prints integers instead.
//! * L2 bits are frames without CRC; L1 adds 24 bytes a frame and pads short ones to 60 ([`units`]).
//! * JSON objects carry `"type"` and `"schema":1`; numbers unscaled, the unit is in the key ([`report`]).
//! * exit 0, 1, 2, 3 and 130/143 ([`exit`]), signals ([`signal`]).
//! * `--help` and `-V/--version` exit 0 on stdout; `--help` ends with [`exit::HELP`], so that every
//!   man page has the same EXIT STATUS. Put it in with `#[command(after_long_help = exit::HELP)]`.
#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

pub mod addr;
pub mod args;
pub mod complete;
pub mod cpulist;
pub mod digits;
pub mod duration;
pub mod every;
pub mod exit;
pub mod latency;
pub mod live;
pub mod mac;
pub mod machine;
pub mod output;
pub mod report;
pub mod ring_config;
pub mod say;
pub mod signal;
pub mod table;
pub mod units;
pub mod wait;
