//! What can be wrong with the bytes of a capture.
//!
//! Invariant: the text of each kind continues a sentence that begins with the file's name, and names the byte
//! at which the damaged part begins.

use std::fmt;

/// What is wrong with a capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// There is nothing in it.
    #[error("it is empty: it ends after 0 bytes")]
    Empty,
    /// It ends before its first record.
    #[error("it ends after {bytes} bytes, too few for a capture")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// It is something else.
    #[error("{}", of_magic(*.magic))]
    NoCapture {
        /// What it begins with.
        magic: [u8; 4],
    },
    /// A version that is not known.
    #[error("{format} version {found} at byte {at} is unknown, {known} is expected")]
    Version {
        /// Of which format.
        format: &'static str,
        /// Where it begins.
        at: u64,
        /// Its major version.
        found: u16,
        /// The version that is read.
        known: u16,
    },
    /// It ends in the middle of a record or block: its writer was interrupted, or is still writing.
    #[error("it is cut off: the {part} at byte {at} has {got} of its {of} bytes")]
    Cut {
        /// Of what.
        part: Part,
        /// Where that begins.
        at: u64,
        /// How much of it there is.
        got: u64,
        /// How long it should be.
        of: u64,
    },
    /// It contradicts itself or the format. Nothing after this point can be trusted.
    #[error("the {part} at byte {at} {what}")]
    Corrupt {
        /// In what.
        part: Part,
        /// Where that begins.
        at: u64,
        /// What is wrong there.
        what: Corruption,
    },
}

/// A part of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what the formats call them")]
pub enum Part {
    RecordHeader,
    Record,
    BlockHeader,
    Block,
    SectionHeader,
    Section,
    Interface,
    Packet,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::RecordHeader => "record header",
            Part::Record => "record",
            Part::BlockHeader => "block header",
            Part::Block => "block",
            Part::SectionHeader => "section header",
            Part::Section => "section",
            Part::Interface => "interface",
            Part::Packet => "packet",
        })
    }
}

/// How a part of a capture contradicts itself, or the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// It claims to be longer than such a part ever is.
    #[error(
        "claims {claimed} bytes; more than {most} is never written, so the file is corrupt from here on"
    )]
    TooLong {
        /// The length that it claims.
        claimed: u32,
        /// The limit.
        most: u32,
    },
    /// A length that a block of this type cannot have.
    #[error(
        "claims a length of {claimed} bytes, which a block of type {block_type:#x} cannot have; the file \
         is corrupt from here on"
    )]
    Length {
        /// The block's type.
        block_type: u32,
        /// The length that it claims.
        claimed: u32,
    },
    /// The two lengths of a block.
    #[error(
        "has a length of {front} bytes in front and of {behind} behind; the file is corrupt from here on"
    )]
    Lengths {
        /// The one in front.
        front: u32,
        /// The one behind.
        behind: u32,
    },
    /// A packet claims to be longer than the block that contains it, or than any packet is.
    #[error("claims {claimed} bytes in a block of {block}; the file is corrupt from here on")]
    Overlong {
        /// The length that it claims.
        claimed: u32,
        /// The block's length.
        block: usize,
    },
    /// The mark of the byte order.
    #[error("has the byte order {0:#010x}, which is none")]
    ByteOrder(u32),
    /// The unit of time stamps.
    #[error("counts time in units of {base}^-{power} s, which is too fine")]
    TimeUnit {
        /// 2 or 10.
        base: u128,
        /// The power.
        power: u8,
    },
    /// A packet of an interface that was not described.
    #[error("is of interface {number}, but the section has described {described} so far")]
    NoInterface {
        /// Its number.
        number: u32,
        /// How many were described.
        described: usize,
    },
    /// More interfaces than any real capture has.
    #[error("has more than {0} interfaces")]
    Interfaces(usize),
}

impl Damage {
    pub(crate) fn corrupt(part: Part, at: u64, what: Corruption) -> Damage {
        Damage::Corrupt { part, at, what }
    }

    pub(crate) fn too_long(part: Part, at: u64, claimed: u32, most: u32) -> Damage {
        Damage::corrupt(part, at, Corruption::TooLong { claimed, most })
    }

    /// Part of a record or block has been read: `got` of its `of` bytes.
    pub(crate) fn cut(part: Part, at: u64, got: usize, of: usize) -> Damage {
        Damage::Cut { part, at, got: got as u64, of: of as u64 }
    }
}

/// What a file that begins like this is, in words, and what to do about it.
fn of_magic(magic: [u8; 4]) -> String {
    let known = match &magic {
        [b'B', b'Z', b'h', _] => Some("compressed by bzip2; unpack it with `bzip2 -dc`"),
        [0x04, 0x22, 0x4d, 0x18] => Some("compressed by lz4; unpack it with `lz4 -dc`"),
        b"PK\x03\x04" => Some("a zip archive; unpack it first"),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] => {
            Some("compressed twice; unpack it once")
        }
        b"snoo" => Some("a snoop capture; convert it with `editcap -F nsecpcap IN OUT`"),
        b"RTSS" | b"GMBU" => {
            Some("a Network Monitor capture; convert it with `editcap -F nsecpcap IN OUT`")
        }
        b"TRSN" | b"XCP\0" => {
            Some("a Sniffer capture; convert it with `editcap -F nsecpcap IN OUT`")
        }
        _ => None,
    };
    match known {
        Some(known) => format!("it is {known}"),
        None => {
            let magic = u32::from_be_bytes(magic);
            format!(
                "it is no pcap or pcapng file, plain or compressed by gzip, zstd or xz: it begins \
                 with {magic:#010x}"
            )
        }
    }
}
