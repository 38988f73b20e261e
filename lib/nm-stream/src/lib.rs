//! Numbered packet streams, as nm-pktgen and the bench guest send and check them. Because either end may be
//! in a guest, the crate needs no std and allocates nothing.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod mark;
mod streams;
mod tracker;

pub use mark::{Kind, Mark};
pub use streams::Streams;
pub use tracker::{SequenceStats, Tracker, WINDOW};
