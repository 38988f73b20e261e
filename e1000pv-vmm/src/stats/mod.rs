//! The counters of running machines, and how other processes find them.

pub mod commands;
pub mod counters;
pub mod machines;
