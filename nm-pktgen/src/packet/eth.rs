//! Ethernet II header (IEEE 802.3 clause 3, EtherTypes of RFC 9542).

use nm_cli::mac::Mac;

/// Length of the header.
pub const LEN: usize = 14;
/// Offset of the destination address.
pub const DST: usize = 0;
/// Offset of the source address.
pub const SRC: usize = 6;
/// Offset of the EtherType.
pub const TYPE: usize = 12;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Writes a header at the beginning of `frame`.
pub fn write(frame: &mut [u8], dst: Mac, src: Mac, ether_type: u16) {
    frame[DST..SRC].copy_from_slice(&dst.0);
    frame[SRC..TYPE].copy_from_slice(&src.0);
    frame[TYPE..LEN].copy_from_slice(&ether_type.to_be_bytes());
}
