//! Files and memory that processes share: how they are made, opened, mapped and locked.
//!
//! Nothing here knows what a port or a switch is.

pub mod bell;
pub mod dir;
pub mod file;
pub mod lock;
pub mod map;
pub mod mem;
pub mod text;
