//! What a switch is made of in shared memory: layout and atomic access, no policy.

#[cfg(not(loom))]
pub mod fdb;
pub mod kring;
pub mod owner;
pub mod place;
#[cfg(not(loom))]
pub mod portfile;
#[cfg(not(loom))]
pub mod portfiles;
#[cfg(not(loom))]
pub mod switch;
pub mod txstate;

/// Most ports of one switch (netmap: 255 means no port, 254 broadcast).
pub const MAX_PORTS: usize = 254;
