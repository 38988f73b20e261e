//! Numbered packet streams, as nm-pktgen and the bench guest send and check them: either end may be on
//! the host or in a guest. no_std, and nothing is allocated.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod mark;
mod streams;
mod tracker;

pub use mark::{Kind, Mark};
pub use streams::Streams;
pub use tracker::{SequenceStats, Tracker, WINDOW};
