//! Packets on the wire: Ethernet II, IPv4 (RFC 791) or IPv6 (RFC 8200), UDP (RFC 768), and in the
//! payload the [`nm_stream::Mark`] of txseq and ping. All multi-byte fields are big-endian.
//!
//! ```text
//! | Ethernet 14 | IPv4 20 or IPv6 40 | UDP 8 | mark 16 | zeros ... |
//! ```
//! The rest of the payload is zero, so that a change of length does not change its checksum.

pub mod cut;
pub mod eth;
pub mod ip;
pub mod range;
pub mod rng;
pub mod source;
pub mod template;
pub mod udp;
