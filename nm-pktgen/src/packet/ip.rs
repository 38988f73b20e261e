//! IPv4 and IPv6 headers without options or extensions: offsets, writing, and the pseudo-header sum that
//! UDP checks (RFC 768, RFC 8200 section 8.1).

use std::net::IpAddr;

use inet_checksum as checksum;

use super::udp;

/// Internet protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Offset of IPv4's total length.
pub const V4_LENGTH: usize = 2;
/// Offset of IPv4's header checksum.
pub const V4_CHECK: usize = 10;
/// Offset of IPv6's payload length.
pub const V6_LENGTH: usize = 4;

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Length of the header.
    pub fn header(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Length of an address.
    pub fn address(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Offset of the source address in the header; the destination follows it.
    pub fn src(self) -> usize {
        match self {
            Family::V4 => 12,
            Family::V6 => 8,
        }
    }

    /// Offset of the destination address in the header.
    pub fn dst(self) -> usize {
        self.src() + self.address()
    }
}

/// The address's octets at the front of an array.
pub fn octets(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// Writes a header for `payload` bytes of UDP at the beginning of `header`. Both addresses have the
/// family's kind.
pub fn write(header: &mut [u8], family: Family, src: IpAddr, dst: IpAddr, payload: usize) {
    header[..family.header()].fill(0);
    let (src, dst, n) = (octets(src), octets(dst), family.address());
    header[family.src()..family.dst()].copy_from_slice(&src[..n]);
    header[family.dst()..family.dst() + n].copy_from_slice(&dst[..n]);
    match family {
        Family::V4 => {
            header[0] = 0x45;
            header[V4_LENGTH..4]
                .copy_from_slice(&((family.header() + payload) as u16).to_be_bytes());
            header[6] = 0x40; // don't fragment
            header[8] = 64; // time to live
            header[9] = udp::PROTOCOL;
            let check = checksum::finish(checksum::sum(&header[..20]));
            header[V4_CHECK..V4_CHECK + 2].copy_from_slice(&check.to_be_bytes());
        }
        Family::V6 => {
            header[0] = 0x60;
            header[V6_LENGTH..6].copy_from_slice(&(payload as u16).to_be_bytes());
            header[6] = udp::PROTOCOL;
            header[7] = 64; // hop limit
        }
    }
}

/// Sum of the pseudo-header in front of `length` bytes of UDP.
pub fn pseudo_sum(header: &[u8], family: Family, length: usize) -> u64 {
    let addresses = &header[family.src()..family.dst() + family.address()];
    checksum::sum(addresses) + u64::from(udp::PROTOCOL) + length as u64
}
