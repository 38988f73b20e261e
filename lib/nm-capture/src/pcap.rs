//! The classic format: a file header, then records.
//!
//! Invariant: a record is handed on whole, or the error names the byte where it begins.
//!
//! Follows `draft-ietf-opsawg-pcap`: microseconds and nanoseconds in both byte orders, and the words that
//! old programs wrote differently, as libpcap reads them: Kuznetzov's "modified" records with eight bytes
//! more, and the two lengths exchanged before version 2.4.

use crate::MAX_SNAPLEN;
use crate::damage::{Damage, Part};
use crate::feed::{Feed, Fill};
use crate::link::LinkType;
use crate::record::{Found, Record, Trouble, damaged, u16_at, u32_at};

/// Timestamps in microseconds, the original format.
pub const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
/// Timestamps in nanoseconds.
pub const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// Microseconds, and records that also say on which interface.
pub const MAGIC_MODIFIED: u32 = 0xa1b2_cd34;
/// Version that is written.
pub const VERSION: (u16, u16) = (2, 4);
/// Bytes in front of the first record.
pub const FILE_HEADER_BYTES: usize = 24;
/// Bytes in front of a record's data, in all formats but the modified one.
pub const RECORD_HEADER_BYTES: usize = 16;
const MODIFIED_HEADER_BYTES: usize = 24;

/// The link-type word: type, a flag that the length of the frame check sequence is known, and that length
/// in 16-bit words.
const LINK_TYPE: u32 = 0x03ff_ffff;
const FCS_KNOWN: u32 = 0x0400_0000;
const FCS_WORDS_SHIFT: u32 = 28;

/// A file of this format.
#[derive(Clone, Copy, Debug)]
pub struct Classic {
    big_endian: bool,
    nanos: bool,
    header_bytes: usize,
    minor: u16,
    /// The capture length that the file announces.
    pub snaplen: u32,
    /// What its packets are.
    pub link: LinkType,
    fcs_bytes: u32,
}

impl Classic {
    /// The variant of the classic format that a file with these first bytes has, if it has one.
    pub fn of(magic: [u8; 4]) -> Option<Classic> {
        let kinds = [MAGIC_MICROS, MAGIC_NANOS, MAGIC_MODIFIED];
        let found = [false, true].into_iter().find_map(|big_endian| {
            let magic = u32_at(&magic, 0, big_endian);
            kinds.contains(&magic).then_some((magic, big_endian))
        });
        let (magic, big_endian) = found?;
        Some(Classic {
            big_endian,
            nanos: magic == MAGIC_NANOS,
            header_bytes: match magic {
                MAGIC_MODIFIED => MODIFIED_HEADER_BYTES,
                _ => RECORD_HEADER_BYTES,
            },
            minor: VERSION.1,
            snaplen: 0,
            link: LinkType(0),
            fcs_bytes: 0,
        })
    }

    /// Takes the file header; false if it is not there yet.
    pub fn begin(&mut self, feed: &mut Feed) -> Result<bool, Trouble> {
        match feed.need(FILE_HEADER_BYTES)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(false),
            Fill::Short(bytes) => return damaged(Damage::Short { bytes }),
        }
        let header = feed.bytes();
        let big = self.big_endian;
        let major = u16_at(header, 4, big);
        if major != VERSION.0 {
            let known = VERSION.0;
            return damaged(Damage::Version { format: "pcap", at: 0, found: major, known });
        }
        self.minor = u16_at(header, 6, big);
        self.snaplen = u32_at(header, 16, big);
        let word = u32_at(header, 20, big);
        self.link = LinkType(word & LINK_TYPE);
        if word & FCS_KNOWN != 0 {
            self.fcs_bytes = 2 * (word >> FCS_WORDS_SHIFT);
        }
        feed.take(FILE_HEADER_BYTES);
        Ok(true)
    }

    /// The next record.
    pub fn next(&self, feed: &mut Feed) -> Result<Found, Trouble> {
        let (at, header_bytes, big) = (feed.offset(), self.header_bytes, self.big_endian);
        match feed.need(header_bytes)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(Found::Pending),
            Fill::Short(0) => return Ok(Found::End),
            Fill::Short(got) => {
                return damaged(Damage::cut(Part::RecordHeader, at, got, header_bytes));
            }
        }
        let word = |offset| u32_at(feed.bytes(), offset, big);
        let (seconds, fraction, mut len, mut orig_len) = (word(0), word(4), word(8), word(12));
        if self.minor < 3 || (self.minor == 3 && len > orig_len) {
            std::mem::swap(&mut len, &mut orig_len);
        }
        if len > MAX_SNAPLEN {
            return damaged(Damage::too_long(Part::Record, at, len, MAX_SNAPLEN));
        }
        let total = header_bytes + len as usize;
        match feed.need(total)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(Found::Pending),
            Fill::Short(got) => {
                let got = got - header_bytes;
                return damaged(Damage::cut(Part::Record, at, got, len as usize));
            }
        }
        let nanos = if self.nanos { fraction.into() } else { u64::from(fraction) * 1000 };
        Ok(Found::Record(Record {
            at: Some(u128::from(seconds) * 1_000_000_000 + u128::from(nanos)),
            odd_fraction: nanos >= 1_000_000_000,
            orig_len,
            link: self.link,
            fcs_bytes: self.fcs_bytes,
            data: header_bytes..total,
            total,
        }))
    }
}
