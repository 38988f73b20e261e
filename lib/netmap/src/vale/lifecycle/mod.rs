//! How roots, switches, ports and handles come and go.
//!
//! Everything that changes them runs under the root's lock and may die at any instruction: the lock
//! goes with the process, and every state that it may leave behind is one that `reap` cleans up.

pub mod alive;
pub mod bells;
pub mod loan;
pub mod lodging;
pub mod make;
pub mod memory;
pub mod named;
pub mod offsets;
pub mod open;
pub mod persist;
pub mod pipe;
pub mod reap;
pub mod root;
pub mod shared;
pub mod switch;
pub mod users;
