//! The virtio-net header: 10 bytes, or 12 with the number of receive buffers (VIRTIO 1.2, section
//! 5.1.6), little endian.

use crate::Fault;

/// The header in front of a frame with offloads. Its 12-byte form ends with `num_buffers`, which only
/// guests' rings use: it is written as zero and not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`Self::NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the types of segmentation, perhaps with [`Self::ECN`].
    pub gso_type: u8,
    /// Length of all headers. A hint, and often a wrong one: only its bounds are checked.
    pub hdr_len: u16,
    /// Payload of each segment: what is behind the TCP or UDP header.
    pub gso_size: u16,
    /// Where the checksum's coverage begins, counted from the frame's first byte.
    pub csum_start: u16,
    /// Where the checksum's field is, counted from there.
    pub csum_offset: u16,
}

/// A type of segmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A UDP datagram that IP splits into fragments.
    UdpFragments,
    /// Several UDP datagrams.
    Udp,
}

impl Header {
    /// Length of the form without `num_buffers`.
    pub const SHORT: usize = 10;
    /// Length of the form with `num_buffers`.
    pub const LONG: usize = 12;

    /// The checksum is left out.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified.
    pub const DATA_VALID: u8 = 2;

    /// No segmentation.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP, to be fragmented by IP (UFO).
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP, to be split into datagrams (USO).
    pub const GSO_UDP_L4: u8 = 5;
    /// Of TCP: CWR is set in the first segment. It says nothing that the packet does not say.
    pub const ECN: u8 = 0x80;

    /// Reads the header in front of `bytes`. None if they are too short for one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; Self::SHORT] = bytes.first_chunk()?;
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Some(Self {
            flags: header[0],
            gso_type: header[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        })
    }

    /// Writes the header to `out`: as much of it as fits, and zeros in what is behind it.
    pub fn write(&self, out: &mut [u8]) {
        let mut header = [0; Self::SHORT];
        header[0] = self.flags;
        header[1] = self.gso_type;
        let halves = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (to, half) in header[2..].chunks_exact_mut(2).zip(halves) {
            to.copy_from_slice(&half.to_le_bytes());
        }
        out.fill(0);
        let len = out.len().min(header.len());
        out[..len].copy_from_slice(&header[..len]);
    }

    /// Whether the checksum is left out.
    #[must_use]
    pub const fn needs_checksum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether a frame behind this header is complete already, as one without a header is.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        !self.needs_checksum() && self.gso_type == Self::GSO_NONE
    }

    /// The type of segmentation, if there is any.
    ///
    /// # Errors
    /// [`Fault::GsoType`] if there is no such type.
    pub const fn gso(&self) -> Result<Option<Gso>, Fault> {
        const TCP4_ECN: u8 = Header::GSO_TCPV4 | Header::ECN;
        const TCP6_ECN: u8 = Header::GSO_TCPV6 | Header::ECN;
        Ok(Some(match self.gso_type {
            Self::GSO_NONE => return Ok(None),
            Self::GSO_TCPV4 | TCP4_ECN => Gso::Tcp4,
            Self::GSO_TCPV6 | TCP6_ECN => Gso::Tcp6,
            Self::GSO_UDP => Gso::UdpFragments,
            Self::GSO_UDP_L4 => Gso::Udp,
            _ => return Err(Fault::GsoType),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_and_written_in_both_forms() {
        let bytes = [1, 0x84, 66, 0, 0xa8, 5, 34, 0, 16, 0, 7, 7];
        let header = Header::read(&bytes).unwrap();
        let same = Header {
            flags: Header::NEEDS_CSUM,
            gso_type: Header::GSO_TCPV6 | Header::ECN,
            hdr_len: 66,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(header, same);
        assert_eq!(header.gso(), Ok(Some(Gso::Tcp6)));

        let mut long = [9; 12];
        header.write(&mut long);
        assert_eq!((&long[..10], &long[10..]), (&bytes[..10], &[0, 0][..]));
        let mut short = [9; 10];
        header.write(&mut short);
        assert_eq!(short, bytes[..10]);
        assert_eq!(Header::read(&bytes[..9]), None);
    }

    #[test]
    fn types_that_do_not_exist_are_refused() {
        for gso_type in [2, 6, 0x80, 0x83, 0x85, 0x20, 0x21, 0x41, 0xff] {
            assert_eq!(Header { gso_type, ..Header::default() }.gso(), Err(Fault::GsoType));
        }
        assert_eq!(Header::default().gso(), Ok(None));
        assert!(Header::default().is_plain());
    }
}
