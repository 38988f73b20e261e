//! UDP header (RFC 768).

/// UDP's number in IP headers.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub const LEN: usize = 8;
/// Offset of the source port.
pub const SRC: usize = 0;
/// Offset of the destination port.
pub const DST: usize = 2;
/// Offset of the length, header included.
pub const LENGTH: usize = 4;
/// Offset of the checksum.
pub const CHECK: usize = 6;
