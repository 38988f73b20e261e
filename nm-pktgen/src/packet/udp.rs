//! UDP header (RFC 768). A computed checksum of zero is sent as all ones; zero means "none".

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

/// What stands in the field for a computed checksum.
pub fn field(check: u16) -> [u8; 2] {
    if check == 0 { [0xff; 2] } else { check.to_be_bytes() }
}
