//! Capture files, read and written record by record, as streams that may be live. This crate does not know
//! what a port or a ring is.
//!
//! ```text
//!   file, FIFO, stdin -> source -> unpack -> feed -> pcap    -> link -> Reader
//!                        no waits  gzip,     bytes   pcapng     to Ethernet
//!                                  zstd, xz
//!   Writer -> output -> file, FIFO, stdout
//! ```
//!
//! How and why: `docs/design/captures.md`.
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod damage;
mod error;
mod feed;
#[doc(hidden)]
pub mod fuzz;
mod link;
mod notes;
mod output;
mod pcap;
mod pcapng;
mod reader;
mod record;
mod source;
mod unpack;
mod writer;

pub use damage::{Corruption, Damage, Part};
pub use error::{Error, Result};
pub use link::{Addresses, LinkType};
pub use notes::Notes;
pub use reader::{Next, Options, Packet, Reader};
pub use source::{is_stdin, is_stdout};
pub use unpack::Packing;
pub use writer::{Times, Writer};

/// Longest record that is read or written: libpcap's `MAXIMUM_SNAPLEN`.
pub const MAX_SNAPLEN: u32 = 262_144;

/// Longest frame that the tools move: what a slot's length and 64 slots of a packet can say.
pub const MAX_FRAME: usize = 65_535;
