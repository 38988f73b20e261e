//! Sizes of frames, in bytes (8254x manual, section 3.2, and IEEE 802.3).

/// The addresses and the type.
pub const ETHER_HEADER: usize = 14;
/// The CRC. No port carries it: four zeros stand for it in a guest's buffer unless it is stripped (SECRC).
pub const CRC_BYTES: usize = 4;
/// Shortest frame without CRC; shorter ones are padded.
pub const MIN_FRAME: usize = 60;
/// Longest frame without CRC and tag that is no long packet (1522 bytes with both).
pub const MAX_FRAME: usize = 1514;
