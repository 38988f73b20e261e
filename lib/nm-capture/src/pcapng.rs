//! pcapng: sections that consist of blocks, of which those with packets are passed on.
//!
//! Invariant: what a block says of its own size is checked before it is believed, and again at its end; an
//! error names the byte where the block begins. Blocks that hold no packets are skipped without
//! being kept in memory, whatever their size.
//!
//! Follows `draft-ietf-opsawg-pcapng`. Interfaces are numbered within a section; each has a link type, a
//! time unit and a frame check sequence of its own.

use crate::MAX_SNAPLEN;
use crate::damage::{Corruption, Damage, Part};
use crate::feed::{Feed, Fill};
use crate::link::LinkType;
use crate::record::{Found, Record, Trouble, damaged, u16_at, u32_at};

/// Section header, the first block of a file, the same in both byte orders.
pub const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The packet block of 2004, obsolete and still written in old files.
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const VERSION: u16 = 1;
/// Type and length in front of each block, and the length again behind it.
const HEAD_BYTES: usize = 8;
const TAIL_BYTES: usize = 4;
/// Longest block that is kept: libpcap's limit, too.
const MAX_BLOCK: u32 = 16 << 20;
/// Most interfaces of a section. Packet blocks could refer to more, but no real capture does, and a file that
/// consists of nothing but interfaces must not fill the memory.
const MAX_INTERFACES: usize = 65_536;

const OPTION_TSRESOL: u16 = 9;
const OPTION_FCSLEN: u16 = 13;
const OPTION_TSOFFSET: u16 = 14;
const OPTION_PACKET_FLAGS: u16 = 2;

/// What packets of one interface have in common.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    snaplen: u32,
    /// Time units in a second.
    units: u128,
    offset_s: i64,
    fcs_bytes: u32,
}

/// A block that is being skipped.
#[derive(Clone, Copy, Debug)]
struct Passing {
    at: u64,
    total: u32,
    left: u32,
}

/// A file of this format.
#[derive(Debug, Default)]
pub struct Ng {
    big_endian: bool,
    /// Where the section begins.
    section_at: u64,
    interfaces: Vec<Interface>,
    passing: Option<Passing>,
}

impl Ng {
    /// The capture length that the first interface announces; 0 is no limit.
    pub fn snaplen(&self) -> u32 {
        self.interfaces.first().map_or(0, |interface| interface.snaplen)
    }

    /// The next block: a packet, or something else.
    pub fn next(&mut self, feed: &mut Feed) -> Result<Found, Trouble> {
        if let Some(passing) = self.passing {
            return self.pass(feed, passing);
        }
        let at = feed.offset();
        match feed.need(HEAD_BYTES)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(Found::Pending),
            Fill::Short(0) => return Ok(Found::End),
            Fill::Short(got) => {
                return damaged(Damage::cut(Part::BlockHeader, at, got, HEAD_BYTES));
            }
        }
        let kind = u32_at(feed.bytes(), 0, self.big_endian);
        if kind == SECTION && !self.turn(feed, at)? {
            return Ok(Found::Pending);
        }
        let total = u32_at(feed.bytes(), 4, self.big_endian);
        let least = match kind {
            SECTION => 28,
            INTERFACE => 20,
            OLD_PACKET | ENHANCED_PACKET => 32,
            SIMPLE_PACKET => 16,
            _ => 12,
        };
        if total < least || !total.is_multiple_of(4) {
            let what = Corruption::Length { block_type: kind, claimed: total };
            return damaged(Damage::corrupt(Part::Block, at, what));
        }
        if !matches!(kind, SECTION | INTERFACE | OLD_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
            feed.take(HEAD_BYTES);
            self.passing =
                Some(Passing { at, total, left: total - (HEAD_BYTES + TAIL_BYTES) as u32 });
            return Ok(Found::Other);
        }
        if total > MAX_BLOCK {
            return damaged(Damage::too_long(Part::Block, at, total, MAX_BLOCK));
        }
        match feed.need(total as usize)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(Found::Pending),
            Fill::Short(got) => {
                return damaged(Damage::cut(Part::Block, at, got, total as usize));
            }
        }
        let block = &feed.bytes()[..total as usize];
        self.check_tail(&block[total as usize - TAIL_BYTES..], at, total)?;
        let body = &block[..total as usize - TAIL_BYTES];
        match kind {
            SECTION => self.section(body, at)?,
            INTERFACE => {
                let interface = self.interface(body, at)?;
                if self.interfaces.len() == MAX_INTERFACES {
                    let what = Corruption::Interfaces(MAX_INTERFACES);
                    return damaged(Damage::corrupt(Part::Section, self.section_at, what));
                }
                self.interfaces.push(interface);
            }
            _ => return self.packet(kind, body, at).map(Found::Record),
        }
        feed.take(total as usize);
        Ok(Found::Other)
    }

    /// Takes the byte order of a section from its header; false if that is not there yet.
    fn turn(&mut self, feed: &mut Feed, at: u64) -> Result<bool, Trouble> {
        match feed.need(HEAD_BYTES + 4)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(false),
            Fill::Short(got) => {
                return damaged(Damage::cut(Part::SectionHeader, at, got, HEAD_BYTES + 4));
            }
        }
        let order = |big_endian| u32_at(feed.bytes(), HEAD_BYTES, big_endian);
        self.big_endian = match (order(false), order(true)) {
            (BYTE_ORDER, _) => false,
            (_, BYTE_ORDER) => true,
            (_, word) => {
                let what = Corruption::ByteOrder(word);
                return damaged(Damage::corrupt(Part::SectionHeader, at, what));
            }
        };
        Ok(true)
    }

    fn pass(&mut self, feed: &mut Feed, mut passing: Passing) -> Result<Found, Trouble> {
        let Passing { at, total, left } = passing;
        let least = if left > 0 { 1 } else { TAIL_BYTES };
        match feed.need(least)? {
            Fill::Enough => {}
            Fill::Pending => return Ok(Found::Pending),
            Fill::Short(got) => {
                let got = (total - left) as usize - TAIL_BYTES + got;
                return damaged(Damage::cut(Part::Block, at, got, total as usize));
            }
        }
        if left == 0 {
            self.check_tail(feed.bytes(), at, total)?;
            feed.take(TAIL_BYTES);
            self.passing = None;
            return Ok(Found::Other);
        }
        let step = feed.bytes().len().min(left as usize);
        feed.take(step);
        passing.left -= step as u32;
        self.passing = Some(passing);
        Ok(Found::Other)
    }

    fn check_tail(&self, tail: &[u8], at: u64, total: u32) -> Result<(), Trouble> {
        let behind = u32_at(tail, 0, self.big_endian);
        if behind == total {
            return Ok(());
        }
        let what = Corruption::Lengths { front: total, behind };
        damaged(Damage::corrupt(Part::Block, at, what))
    }

    fn section(&mut self, body: &[u8], at: u64) -> Result<(), Trouble> {
        let major = u16_at(body, 12, self.big_endian);
        if major != VERSION {
            let (format, known) = ("pcapng", VERSION);
            return damaged(Damage::Version { format, at, found: major, known });
        }
        self.section_at = at;
        self.interfaces.clear();
        Ok(())
    }

    fn interface(&self, body: &[u8], at: u64) -> Result<Interface, Trouble> {
        let big = self.big_endian;
        let mut interface = Interface {
            link: LinkType(u16_at(body, 8, big).into()),
            snaplen: u32_at(body, 12, big),
            units: 1_000_000,
            offset_s: 0,
            fcs_bytes: 0,
        };
        for (code, value) in options(&body[16..], big) {
            match (code, value) {
                (OPTION_TSRESOL, &[exponent]) => {
                    let (base, power) = if exponent & 0x80 == 0 {
                        (10u128, exponent)
                    } else {
                        (2, exponent & 0x7f)
                    };
                    // Time stamps have 64 bits, so a finer unit could not even count one second.
                    let units = base.checked_pow(power.into()).filter(|n| *n <= u64::MAX.into());
                    let Some(units) = units else {
                        let what = Corruption::TimeUnit { base, power };
                        return damaged(Damage::corrupt(Part::Interface, at, what));
                    };
                    interface.units = units;
                }
                (OPTION_TSOFFSET, value) if value.len() == 8 => {
                    let (a, b) = (u32_at(value, 0, big), u32_at(value, 4, big));
                    let (high, low) = if big { (a, b) } else { (b, a) };
                    interface.offset_s = (u64::from(high) << 32 | u64::from(low)).cast_signed();
                }
                // The current draft counts bytes; that of 2004 counted bits.
                (OPTION_FCSLEN, &[len]) => {
                    interface.fcs_bytes = u32::from(if len >= 16 { len / 8 } else { len });
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn packet(&self, kind: u32, body: &[u8], at: u64) -> Result<Record, Trouble> {
        let big = self.big_endian;
        let word = |offset| u32_at(body, offset, big);
        let number = match kind {
            ENHANCED_PACKET => word(8),
            OLD_PACKET => u16_at(body, 8, big).into(),
            _ => 0,
        };
        let Some(interface) = self.interfaces.get(number as usize) else {
            let what = Corruption::NoInterface { number, described: self.interfaces.len() };
            return damaged(Damage::corrupt(Part::Packet, at, what));
        };
        let total = body.len() + TAIL_BYTES;
        let (begin, len, orig_len, time) = if kind == SIMPLE_PACKET {
            let (begin, orig_len) = (12, word(8));
            let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
            (begin, orig_len.min(limit).min((body.len() - begin) as u32), orig_len, None)
        } else {
            let ticks = u128::from(word(12)) << 32 | u128::from(word(16));
            (28, word(20), word(24), Some(interface.time(ticks)))
        };
        if len as usize > body.len() - begin || len > MAX_SNAPLEN {
            let what = Corruption::Overlong { claimed: len, block: total };
            return damaged(Damage::corrupt(Part::Packet, at, what));
        }
        let end = begin + len as usize;
        let mut fcs_bytes = interface.fcs_bytes;
        let after = body.get(end.next_multiple_of(4)..).unwrap_or_default();
        if kind == ENHANCED_PACKET {
            for (code, value) in options(after, big) {
                if let (OPTION_PACKET_FLAGS, 4) = (code, value.len()) {
                    let known = u32_at(value, 0, big) >> 5 & 0xf;
                    fcs_bytes = if known > 0 { known } else { fcs_bytes };
                }
            }
        }
        Ok(Record {
            at: time,
            odd_fraction: false,
            orig_len,
            link: interface.link,
            fcs_bytes,
            data: begin..end,
            total,
        })
    }
}

impl Interface {
    /// Nanoseconds since the epoch; times before it are the epoch itself.
    fn time(&self, ticks: u128) -> u128 {
        let (seconds, part) = (ticks / self.units, ticks % self.units);
        let seconds = i128::try_from(seconds).unwrap_or(i128::MAX) + i128::from(self.offset_s);
        // This cannot overflow: `part` is below `units`, which has at most 64 bits, and a billion has 30.
        u128::try_from(seconds).unwrap_or(0) * 1_000_000_000 + part * 1_000_000_000 / self.units
    }
}

/// The options, each as code and value, up to the first that is incomplete.
fn options(bytes: &[u8], big_endian: bool) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.get(..4)?;
        let (code, len) = (u16_at(head, 0, big_endian), usize::from(u16_at(head, 2, big_endian)));
        if code == 0 {
            return None;
        }
        let value = rest.get(4..4 + len)?;
        rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}
