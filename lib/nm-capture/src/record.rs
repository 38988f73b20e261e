//! What a format's parser returns to the reader: a record in the feed, or why there is none.

use std::ops::Range;

use crate::damage::Damage;
use crate::link::LinkType;

/// What a format found in the feed.
#[derive(Debug)]
pub(crate) enum Found {
    Record(Record),
    Other,
    Pending,
    End,
}

/// A record that lies in the feed as a whole.
#[derive(Debug)]
pub(crate) struct Record {
    /// Nanoseconds since the epoch, if the record knows.
    pub at: Option<u128>,
    pub odd_fraction: bool,
    pub orig_len: u32,
    pub link: LinkType,
    pub fcs_bytes: u32,
    pub data: Range<usize>,
    /// Bytes of the feed that it takes.
    pub total: usize,
}

/// Why there is no record.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(std::io::Error),
    Damaged(Damage),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

pub(crate) fn damaged<T>(damage: Damage) -> std::result::Result<T, Trouble> {
    Err(Trouble::Damaged(damage))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let word = [bytes[at], bytes[at + 1]];
    if big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}
