//! Checks a received frame as a whole: lengths, IPv4 header checksum, UDP checksum over every byte, mark.
//!
//! Invariant: a frame counts as sound only if what it says about itself is true; what is not ours (ARP,
//! IPv6, TCP) is foreign, not bad.

use e1000pv_driver::Buffer;
use inet_checksum::{fold, fold_wide};
use nm_stream::Mark;

use crate::packet::{HEADER_BYTES, SIZE_MIN, decode_mark};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// UDP over IPv4, sound, with a mark.
    Marked(Mark),
    /// UDP over IPv4, sound, without one.
    Plain,
    /// Something else.
    Foreign,
    /// UDP over IPv4 with a wrong length or checksum.
    Bad,
}

/// EtherType of IPv4, version 4 and five words of header, no type of service: bytes 12 to 14 (and 15, 0).
const IPV4: u64 = 0x45_0008;
/// Don't fragment is no fragment; more fragments, or an offset, are.
const FRAGMENT: u64 = 0xff3f << 32;

/// Judges a frame of `len` bytes.
///
/// Always inlined: a result that goes through memory is written by narrow stores and read back by wide
/// loads, which defeats store forwarding. That was half of the receive loop's time (guest-driver.md).
#[inline(always)]
pub fn judge(buffer: &Buffer, len: usize) -> Seen {
    let words = buffer.words();
    let word = |at: usize| u64::from_le(words[at].load(core::sync::atomic::Ordering::Relaxed));
    if len < HEADER_BYTES {
        return Seen::Foreign;
    }
    let (w1, w2, w3, w4) = (word(1), word(2), word(3), word(4));
    if w1 >> 32 & 0xff_ffff != IPV4 || w2 >> 56 != 17 || w2 & FRAGMENT != 0 {
        return Seen::Foreign;
    }
    let ip_bytes = usize::from((w2 as u16).swap_bytes());
    let udp_bytes = usize::from(((w4 >> 48) as u16).swap_bytes());
    let end = 14 + ip_bytes;
    // A short packet may have been padded to Ethernet's minimum.
    let fits = end == len || (end < len && len == SIZE_MIN);
    if !fits || ip_bytes < 28 || udp_bytes != ip_bytes - 20 {
        return Seen::Bad;
    }
    let header = u128::from(w1 >> 48) + u128::from(w2) + u128::from(w3) + u128::from(w4 & 0xffff);
    if fold(fold_wide(header)) != 0xffff {
        return Seen::Bad;
    }
    let w5 = word(5);
    if w5 & 0xffff != 0 && !udp_sound(buffer, (w3, w4), end, udp_bytes) {
        return Seen::Bad;
    }
    if udp_bytes < 8 + Mark::LEN {
        return Seen::Plain;
    }
    decode_mark(w5, word(6), word(7) & 0xffff).map_or(Seen::Plain, Seen::Marked)
}

/// Sums addresses, UDP header, payload up to `end`, and the rest of the pseudo-header.
#[inline]
fn udp_sound(buffer: &Buffer, (w3, w4): (u64, u64), end: usize, udp_bytes: usize) -> bool {
    let relaxed = core::sync::atomic::Ordering::Relaxed;
    let pseudo = (17 << 8) + u64::from((udp_bytes as u16).swap_bytes());
    // Carries go into the upper half: an addition and an addition with carry for each word, neither of
    // which waits for the other's last result.
    let mut sum = u128::from(w3 & !0xffff) + u128::from(w4) + u128::from(pseudo);
    let (whole, rest) = (end / 8, end % 8);
    // `end` is at most the frame's length, which is at most the buffer's.
    let Some(words) = buffer.words().get(5..whole) else {
        return false;
    };
    for word in words {
        sum += u128::from(u64::from_le(word.load(relaxed)));
    }
    if rest > 0 {
        let mask = u64::MAX >> (64 - 8 * rest);
        sum += u128::from(buffer.word(whole) & mask);
    }
    fold(fold_wide(sum)) == 0xffff
}
