//! One packet, complete with checksums, patched in place field by field.
//!
//! Invariant: after every call the IPv4 header checksum and the UDP checksum are right for the length
//! that was set last (unless frames are too short to hold the headers at all, which pkt-gen allows).

use std::net::IpAddr;

use inet_checksum as checksum;
use nm_cli::mac::Mac;
use nm_stream::{Kind, Mark};

use super::ip::{self, Family};
use super::{eth, udp};

/// A packet behind an optional virtio-net header of zeros.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    family: Family,
    /// Offsets of the headers and the payload.
    eth: usize,
    ip: usize,
    udp: usize,
    payload: usize,
}

/// Which end of the conversation a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender.
    Src,
    /// The receiver.
    Dst,
}

/// Bytes of Ethernet, IP and UDP headers.
pub fn header_bytes(family: Family) -> usize {
    eth::LEN + family.header() + udp::LEN
}

impl Template {
    /// A packet of `len` bytes (without the virtio-net header), with ports 0 and zero addresses of
    /// `family`, behind `vnet` bytes of zero.
    pub fn new(family: Family, vnet: usize, len: usize) -> Template {
        let any = match family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        let ip = vnet + eth::LEN;
        let udp_at = ip + family.header();
        let payload = udp_at + udp::LEN;
        let mut template = Template {
            bytes: vec![0; (vnet + len).max(payload + Mark::LEN)],
            family,
            eth: vnet,
            ip,
            udp: udp_at,
            payload,
        };
        let ether_type = match family {
            Family::V4 => eth::IPV4,
            Family::V6 => eth::IPV6,
        };
        eth::write(&mut template.bytes[vnet..], Mac::BROADCAST, Mac::default(), ether_type);
        let udp_len = udp::LEN;
        ip::write(&mut template.bytes[ip..], family, any, any, udp_len);
        template.bytes[udp_at + udp::LENGTH..][..2]
            .copy_from_slice(&(udp_len as u16).to_be_bytes());
        let sum = ip::pseudo_sum(&template.bytes[ip..], family, udp_len)
            + checksum::sum(&template.bytes[udp_at..payload]);
        template.bytes[udp_at + udp::CHECK..][..2]
            .copy_from_slice(&checksum::nonzero(checksum::finish(sum)).to_be_bytes());
        template.set_len(len);
        template
    }

    /// The whole packet at its greatest length, virtio-net header included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The part that can change from packet to packet: headers and mark.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.payload + Mark::LEN]
    }

    /// Changes a MAC address.
    pub fn set_mac(&mut self, end: End, mac: Mac) {
        let at = self.eth + if end == End::Src { eth::SRC } else { eth::DST };
        self.bytes[at..at + 6].copy_from_slice(&mac.0);
    }

    /// Changes an IP address; one of another family is ignored.
    pub fn set_address(&mut self, end: End, address: IpAddr) {
        if Family::of(address) != self.family {
            return;
        }
        let at = self.ip + if end == End::Src { self.family.src() } else { self.family.dst() };
        let (n, new) = (self.family.address(), ip::octets(address));
        let mut old = [0; 16];
        old[..n].copy_from_slice(&self.bytes[at..at + n]);
        self.bytes[at..at + n].copy_from_slice(&new[..n]);
        if self.family == Family::V4 {
            self.patch_ip_check(&old[..n], &new[..n]);
        }
        self.patch_udp_check(&old[..n], &new[..n]);
    }

    /// Changes a UDP port.
    pub fn set_port(&mut self, end: End, port: u16) {
        let at = self.udp + if end == End::Src { udp::SRC } else { udp::DST };
        let old = self.replace(at, port.to_be_bytes());
        self.patch_udp_check(&old, &port.to_be_bytes());
    }

    /// Changes the mark.
    pub fn set_mark(&mut self, mark: [u8; Mark::LEN]) {
        let old = self.replace(self.payload, mark);
        self.patch_udp_check(&old, &mark);
    }

    /// Changes the frame's length (without the virtio-net header, at most that given to `new`). The
    /// payload behind the mark is zero, so only length fields and checksums change.
    pub fn set_len(&mut self, len: usize) {
        let udp_len = (len.max(header_bytes(self.family)) - eth::LEN - self.family.header()) as u16;
        let old = self.replace(self.udp + udp::LENGTH, udp_len.to_be_bytes());
        // The length counts twice: in the header and in the pseudo-header.
        self.patch_udp_check(&old, &udp_len.to_be_bytes());
        self.patch_udp_check(&old, &udp_len.to_be_bytes());
        match self.family {
            Family::V4 => {
                let total = (udp_len + self.family.header() as u16).to_be_bytes();
                let old = self.replace(self.ip + ip::V4_LENGTH, total);
                self.patch_ip_check(&old, &total);
            }
            Family::V6 => {
                self.replace(self.ip + ip::V6_LENGTH, udp_len.to_be_bytes());
            }
        }
    }

    fn replace<const N: usize>(&mut self, at: usize, new: [u8; N]) -> [u8; N] {
        let mut old = [0; N];
        old.copy_from_slice(&self.bytes[at..at + N]);
        self.bytes[at..at + N].copy_from_slice(&new);
        old
    }

    fn patch_ip_check(&mut self, old: &[u8], new: &[u8]) {
        let at = self.ip + ip::V4_CHECK;
        let check = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&checksum::update(check, old, new).to_be_bytes());
    }

    fn patch_udp_check(&mut self, old: &[u8], new: &[u8]) {
        let at = self.udp + udp::CHECK;
        let check = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2]
            .copy_from_slice(&checksum::nonzero(checksum::update(check, old, new)).to_be_bytes());
    }
}

/// Offset of the mark in a frame, if the frame is UDP over IPv4 without options or over IPv6 and long
/// enough: what our templates are. `be16` and `byte` read the frame.
pub fn mark_offset(
    len: usize,
    be16: impl Fn(usize) -> u16,
    byte: impl Fn(usize) -> u8,
) -> Option<(Family, usize)> {
    if len < header_bytes(Family::V4) + Mark::LEN {
        return None;
    }
    let (family, protocol) = match be16(eth::TYPE) {
        eth::IPV4 if byte(eth::LEN) == 0x45 => (Family::V4, byte(eth::LEN + 9)),
        eth::IPV6 => (Family::V6, byte(eth::LEN + 6)),
        _ => return None,
    };
    let at = header_bytes(family);
    (protocol == udp::PROTOCOL && len >= at + Mark::LEN).then_some((family, at))
}

/// Turns a ping into its pong in place: exchanges MAC addresses, IP addresses and ports, and changes
/// the kind in the mark at `at`. No checksum changes but UDP's, by the kind.
pub fn turn(frame: &mut [u8], family: Family, at: usize) {
    let (dst, rest) = frame.split_at_mut(eth::SRC);
    dst.swap_with_slice(&mut rest[..6]);
    let (src, dst, n) = (eth::LEN + family.src(), eth::LEN + family.dst(), family.address());
    let (low, high) = frame.split_at_mut(dst);
    low[src..src + n].swap_with_slice(&mut high[..n]);
    let udp_at = at - udp::LEN;
    let (low, high) = frame.split_at_mut(udp_at + udp::DST);
    low[udp_at..].swap_with_slice(&mut high[..2]);
    let old = [frame[at + 6], frame[at + 7]];
    frame[at + 6] = Kind::Pong as u8;
    let new = [frame[at + 6], frame[at + 7]];
    let check = u16::from_be_bytes([frame[udp_at + udp::CHECK], frame[udp_at + udp::CHECK + 1]]);
    // A sender that computed no checksum gets none back.
    if check != 0 {
        frame[udp_at + udp::CHECK..][..2]
            .copy_from_slice(&checksum::nonzero(checksum::update(check, &old, &new)).to_be_bytes());
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The naive check: sums everything anew, as a receiver does.
    pub fn assert_valid(frame: &[u8]) {
        let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let family = if be16(eth::TYPE) == eth::IPV4 { Family::V4 } else { Family::V6 };
        let header = &frame[eth::LEN..][..family.header()];
        let udp_len = match family {
            Family::V4 => {
                assert_eq!(checksum::finish(checksum::sum(header)), 0, "IPv4 header checksum");
                be16(eth::LEN + ip::V4_LENGTH) as usize - 20
            }
            Family::V6 => be16(eth::LEN + ip::V6_LENGTH) as usize,
        };
        let datagram = &frame[eth::LEN + family.header()..];
        assert_eq!(udp_len, datagram.len(), "length fields");
        assert_eq!(be16(eth::LEN + family.header() + udp::LENGTH) as usize, udp_len);
        let sum = ip::pseudo_sum(header, family, udp_len) + checksum::sum(datagram);
        assert_eq!(checksum::finish(sum), 0, "UDP checksum");
        assert_ne!(datagram[udp::CHECK..udp::CHECK + 2], [0, 0], "zero means no checksum");
    }

    proptest! {
        #[test]
        fn every_patch_keeps_the_checksums_right(
            v6 in any::<bool>(), src in any::<u128>(), dst in any::<u128>(),
            ports in any::<(u16, u16)>(), value in any::<u64>(), len in 78usize..2000, vnet in 0usize..2,
        ) {
            let vnet = vnet * 12;
            let family = if v6 { Family::V6 } else { Family::V4 };
            let address = |bits: u128| match family {
                Family::V4 => IpAddr::from((bits as u32).to_be_bytes()),
                Family::V6 => IpAddr::from(bits.to_be_bytes()),
            };
            let mut template = Template::new(family, vnet, 2000);
            template.set_address(End::Src, address(src));
            template.set_len(len);
            template.set_address(End::Dst, address(dst));
            template.set_port(End::Src, ports.0);
            template.set_port(End::Dst, ports.1);
            let mark = Mark { seq: value as u32, run: 9, kind: Kind::Ping, thread: 1, value };
            template.set_mark(mark.encode());
            assert_valid(&template.bytes()[vnet..vnet + len]);
            prop_assert!(template.bytes()[..vnet].iter().all(|&byte| byte == 0));

            let mut frame = template.bytes()[vnet..vnet + len].to_vec();
            let read = frame.clone();
            let found = mark_offset(len, |at| u16::from_be_bytes([read[at], read[at + 1]]), |at| read[at]);
            prop_assert_eq!(found, Some((family, header_bytes(family))));
            turn(&mut frame, family, header_bytes(family));
            assert_valid(&frame);
            prop_assert_eq!(&frame[..6], &read[6..12]);
        }
    }

    #[test]
    fn checksum_of_zero_is_sent_as_ones() {
        let mut template = Template::new(Family::V4, 0, 60);
        // Among all source ports, one makes the sum come out as zero.
        for port in 0..=u16::MAX {
            template.set_port(End::Src, port);
            assert_ne!(template.bytes()[40..42], [0, 0]);
        }
        assert_valid(&template.bytes()[..60]);
    }
}
