//! What the monitor needs from its own process and from the host system.

pub mod clock;
#[allow(unsafe_code)]
pub mod event;
pub mod keys;
pub mod load;
#[allow(unsafe_code)]
pub mod memory;
#[cfg_attr(test, allow(unsafe_code))]
pub mod sandbox;
#[allow(unsafe_code)]
pub mod terminal;
pub mod thread;
pub mod wire;
