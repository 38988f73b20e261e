//! The subcommands, one file each: `run` takes the parsed arguments and prints the result.

pub mod attach;
pub mod create;
pub mod delete;
pub mod detach;
pub mod fdb;
pub mod list;
pub mod mirror;
pub mod poll;
pub mod set;
pub mod show;
pub mod stats;
pub mod top;
pub mod watch;
