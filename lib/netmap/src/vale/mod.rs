//! VALE: a learning switch in shared memory whose ports forward for themselves.

pub mod attach;
pub mod deliver;
pub mod fdb;
pub mod forward;
pub mod inner;
pub mod lookup;
pub mod peer;
pub mod port;
pub mod portfile;
pub mod reap;
pub mod root;
pub mod switch;

/// Most ports of one switch (netmap: 255 means no port, 254 broadcast).
pub const MAX_PORTS: usize = 254;
/// Most ring pairs of one port.
pub const MAX_RINGS: u16 = 16;
/// Fewest and most slots of a ring.
pub const SLOTS: std::ops::RangeInclusive<u32> = 64..=4096;
/// Slots of a ring unless asked otherwise.
pub const DEFAULT_SLOTS: u32 = 1024;

/// Whether a name is an identifier of the port grammar, and so safe as a file name.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
