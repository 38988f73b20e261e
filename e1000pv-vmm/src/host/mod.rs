//! What the monitor needs of its own process and the system below it.

pub mod clock;
#[allow(unsafe_code)]
pub mod event;
#[allow(unsafe_code)]
pub mod memory;
#[cfg_attr(test, allow(unsafe_code))]
pub mod sandbox;
#[allow(unsafe_code)]
pub mod terminal;
pub mod thread;
