//! What a switch is made of in shared memory: layout and atomic access, no policy.

#[cfg(all(test, loom))]
mod exchange_models;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod fdb;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod handles;
pub mod handleset;
pub mod ids;
#[allow(unsafe_code)]
pub mod kring;
#[allow(unsafe_code)]
pub mod owner;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod participants;
#[allow(unsafe_code)]
pub mod place;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod portfile;
#[cfg(not(loom))]
pub mod portfiles;
#[cfg(not(loom))]
pub mod portset;
pub mod repair;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod switch;
#[allow(unsafe_code)]
pub mod txstate;
#[cfg(not(loom))]
pub mod watch;

/// Most ports of one switch (netmap: 255 means no port, 254 broadcast).
pub const MAX_PORTS: usize = 254;
