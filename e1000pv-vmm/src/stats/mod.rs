//! The counters of running machines, and how other processes find them.

pub mod counters;
pub mod machines;
