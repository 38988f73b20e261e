//! What is counted of running machines, and how others find it.

pub mod counters;
pub mod machines;
