//! Packets as nm-pktgen makes them, so that either end may be one of the host's tools: Ethernet II,
//! IPv4 (RFC 791) without options, UDP (RFC 768), and at the payload's beginning a mark.
//!
//! ```text
//! byte 0       14        34     42    46    48     49       50      58
//!      | Ethernet | IPv4  | UDP  | seq | run | kind | thread | value | zeros ...
//! word 0       1   2   3  |4      5           6                7
//! ```
//! `seq` is the low half of the sequence number; `value` is the whole of it, or a ping's time, which its
//! pong brings back. All in network order.
//!
//! Frames are seen as words of eight bytes, the first byte least significant. Internet checksums do not
//! care (RFC 1071, section 2B): sums of little-endian words give the checksum in the order in which a
//! little-endian store writes it.

use e1000pv_driver::{BUFFER_WORDS, Buffer};
use inet_checksum as checksum;
use nm_stream::{Kind, Mark};

/// Bytes in front of the mark.
pub const HEADER_BYTES: usize = 42;
/// Shortest frame, without CRC.
pub const SIZE_MIN: usize = 60;
/// Longest frame, without CRC.
pub const SIZE_MAX: usize = 1514;
/// Words of the longest frame.
const WORDS: usize = SIZE_MAX.div_ceil(8);

/// Reads a mark from the frame's words 5, 6 and 7. Always inlined, as its caller `judge` is.
#[inline(always)]
pub fn decode_mark(word5: u64, word6: u64, word7: u64) -> Option<Mark> {
    let first = word5 >> 16 | word6 << 48;
    let value = word6 >> 16 | word7 << 48;
    Mark::decode(first.swap_bytes(), value.swap_bytes())
}

/// Both ends of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Sender's MAC address.
    pub src_mac: [u8; 6],
    /// Receiver's MAC address.
    pub dst_mac: [u8; 6],
    /// Sender's IPv4 address.
    pub src_ip: [u8; 4],
    /// Receiver's IPv4 address.
    pub dst_ip: [u8; 4],
    /// Sender's UDP port.
    pub src_port: u16,
    /// Receiver's UDP port.
    pub dst_port: u16,
}

/// A packet of which only the mark changes.
#[derive(Clone, Debug)]
pub struct Template {
    words: [u64; WORDS],
    size: usize,
    /// Word 5 without checksum and sequence number; word 6 without value.
    word5: u64,
    word6: u64,
    /// Sum of all that the UDP checksum covers and that does not change.
    sum: u64,
}

impl Template {
    /// A packet of `size` bytes from [`SIZE_MIN`] to [`SIZE_MAX`]; `mark` gives run, kind and thread.
    pub fn new(addresses: &Addresses, size: usize, mark: Mark) -> Template {
        let size = size.clamp(SIZE_MIN, SIZE_MAX);
        let mut bytes = [0u8; WORDS * 8];
        bytes[..6].copy_from_slice(&addresses.dst_mac);
        bytes[6..12].copy_from_slice(&addresses.src_mac);
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        bytes[14] = 0x45;
        bytes[16..18].copy_from_slice(&((size - 14) as u16).to_be_bytes());
        bytes[20] = 0x40; // don't fragment
        bytes[22] = 64; // time to live
        bytes[23] = 17; // UDP
        bytes[26..30].copy_from_slice(&addresses.src_ip);
        bytes[30..34].copy_from_slice(&addresses.dst_ip);
        bytes[34..36].copy_from_slice(&addresses.src_port.to_be_bytes());
        bytes[36..38].copy_from_slice(&addresses.dst_port.to_be_bytes());
        bytes[38..40].copy_from_slice(&((size - 34) as u16).to_be_bytes());
        bytes[46..48].copy_from_slice(&mark.run.to_be_bytes());
        bytes[48] = mark.kind as u8;
        bytes[49] = mark.thread;
        let header = checksum::finish(checksum::sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&header.to_be_bytes());
        // The pseudo-header beside the addresses: protocol and length.
        let covered = checksum::sum(&bytes[26..HEADER_BYTES + Mark::LEN]) + 17 + (size - 34) as u64;
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        let (word5, word6) = (words[5], words[6]);
        // In the order of the words that `stamp` adds to it.
        let sum = u64::from(checksum::fold(covered).swap_bytes());
        Template { words, size, word5, word6, sum }
    }

    /// Bytes of the frame.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the whole packet but for its sequence number and checksum: [`Template::stamp`] follows.
    pub fn lay(&self, buffer: &Buffer) {
        for (at, &word) in self.words[..self.size.div_ceil(8)].iter().enumerate() {
            buffer.set_word(at, word);
        }
    }

    /// Completes a packet that lies in the buffer already: sequence number, value, checksum.
    #[inline]
    pub fn stamp(&self, buffer: &Buffer, seq: u32, value: u64) {
        let words: &[_; BUFFER_WORDS] = buffer.words();
        let (seq, value) = (u64::from(seq.swap_bytes()), value.swap_bytes());
        let halves = |word: u64| (word & 0xffff) + (word >> 16 & 0xffff);
        let sum = self.sum + halves(seq) + halves(value) + halves(value >> 32);
        let check = u64::from(checksum::nonzero(checksum::finish(sum)));
        let relaxed = core::sync::atomic::Ordering::Relaxed;
        words[5].store((self.word5 | seq << 16 | check).to_le(), relaxed);
        words[6].store((self.word6 | value << 16).to_le(), relaxed);
        words[7].store((value >> 48).to_le(), relaxed);
    }
}

/// Turns a packet around in place: exchanges MAC addresses, IP addresses and ports; a ping becomes its
/// pong. No checksum changes but UDP's, by the kind.
pub fn turn(buffer: &Buffer, mark: Option<Mark>) {
    const MAC: u64 = (1 << 48) - 1;
    let [w0, w1, w3, w4] = [0, 1, 3, 4].map(|at| buffer.word(at));
    let (dst, src) = (w0 & MAC, w0 >> 48 | (w1 & 0xffff_ffff) << 16);
    buffer.set_word(0, src | dst << 48);
    buffer.set_word(1, w1 >> 32 << 32 | dst >> 16);
    let (src_ip, dst_ip) = (w3 >> 16 & 0xffff_ffff, w3 >> 48 | (w4 & 0xffff) << 16);
    buffer.set_word(3, w3 & 0xffff | dst_ip << 16 | src_ip << 48);
    let (src_port, dst_port) = (w4 >> 16 & 0xffff, w4 >> 32 & 0xffff);
    buffer.set_word(4, w4 >> 48 << 48 | src_port << 32 | dst_port << 16 | src_ip >> 16);
    if mark.is_some_and(|mark| mark.kind == Kind::Ping) {
        let (w5, w6) = (buffer.word(5), buffer.word(6));
        buffer.set_word(6, w6 & !0xff | Kind::Pong as u64);
        let check = w5 as u16;
        // RFC 1624, equation 3. A sender that computed no checksum gets none back.
        if check != 0 {
            let sum = u64::from(!check) + u64::from(!(w6 as u16)) + u64::from(w6 as u16 + 1);
            let check = checksum::nonzero(checksum::finish(sum));
            buffer.set_word(5, w5 & !0xffff | u64::from(check));
        }
    }
}
