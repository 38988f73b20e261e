//! Files and memory that processes share: how they are made, opened, mapped and locked.
//!
//! Nothing here knows what a port or a switch is.

pub mod bell;
pub mod dir;
pub mod file;
#[allow(unsafe_code)]
pub mod fork;
pub mod identity;
pub mod lock;
#[allow(unsafe_code)]
pub mod map;
#[allow(unsafe_code)]
pub mod mem;
#[allow(unsafe_code)]
pub mod place;
pub mod private;
pub mod spare;
pub mod text;
