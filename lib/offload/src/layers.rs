//! Where the headers of a frame are: Ethernet with VLAN tags, IPv4 or IPv6 with the extension headers
//! that do not hide what follows, and the protocol behind them.
//!
//! Invariant: all offsets of [`Layers`] lie within the frame, in this order:
//! `network + header <= transport <= end`.

use core::ops::Range;

use inet_checksum::sum;

use crate::Fault;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Ethernet type of IPv4.
pub const IPV4_TYPE: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const IPV6_TYPE: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// As many as the Linux kernel follows.
const MOST_TAGS: usize = 7;

/// The two versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

/// Where the headers of an IP packet are, from the frame's first byte.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    pub ip: Ip,
    /// The IP header.
    pub network: usize,
    /// What is behind it and its extension headers.
    pub transport: usize,
    /// What that is.
    pub protocol: u8,
    /// The packet's end. Bytes behind it are padding.
    pub end: usize,
    /// Whether the packet is a fragment.
    pub fragment: bool,
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..).and_then(<[u8]>::first_chunk).copied().map(u16::from_be_bytes)
}

/// The 16 bits at `at`, which is known to lie within the frame.
pub fn be16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The Ethernet type behind all tags of the Ethernet header that begins at `start`, and where what is of that type
/// begins: at the frame's end at most.
pub fn link(frame: &[u8], start: usize) -> Result<(u16, usize), Fault> {
    let mut at = start + 12;
    let mut kind = half(frame, at).ok_or(Fault::Short)?;
    for _ in 0..MOST_TAGS {
        if !is_tag(kind) {
            break;
        }
        at += 4;
        kind = half(frame, at).ok_or(Fault::Tags)?;
    }
    if is_tag(kind) { Err(Fault::Tags) } else { Ok((kind, at + 2)) }
}

impl Layers {
    /// The layers of `frame`, or None if it is not IP.
    pub fn of(frame: &[u8]) -> Result<Option<Self>, Fault> {
        let (kind, network) = link(frame, 0)?;
        Self::of_type(frame, kind, network)
    }

    /// The layers of what is of an Ethernet type and begins at `start`, in the frame at most; None if it is not IP.
    pub fn of_type(frame: &[u8], kind: u16, start: usize) -> Result<Option<Self>, Fault> {
        match kind {
            IPV4_TYPE => Self::of_v4(frame, start).map(Some),
            IPV6_TYPE => Self::of_v6(frame, start).map(Some),
            _ => Ok(None),
        }
    }

    fn of_v4(frame: &[u8], network: usize) -> Result<Self, Fault> {
        let header: &[u8; 20] = frame[network..].first_chunk().ok_or(Fault::Ip)?;
        let header_len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || header_len < 20 || frame.len() - network < header_len {
            return Err(Fault::Ip);
        }
        let len = usize::from(be16(header, 2));
        if len < header_len || len > frame.len() - network {
            return Err(Fault::Length);
        }
        Ok(Self {
            ip: Ip::V4,
            network,
            transport: network + header_len,
            protocol: header[9],
            end: network + len,
            // More fragments, or an offset.
            fragment: be16(header, 6) & 0x3fff != 0,
        })
    }

    fn of_v6(frame: &[u8], network: usize) -> Result<Self, Fault> {
        let header: &[u8; 40] = frame[network..].first_chunk().ok_or(Fault::Ip)?;
        if header[0] >> 4 != 6 {
            return Err(Fault::Ip);
        }
        let len = usize::from(be16(header, 4));
        let end = network + 40 + len;
        // A length of 0 is a jumbogram's (RFC 2675), whose offloads no header can describe.
        if len == 0 || end > frame.len() {
            return Err(Fault::Length);
        }
        let mut protocol = header[6];
        let mut transport = network + 40;
        // Hop-by-hop options, routing, destination options: each at least 8 bytes, so this ends.
        while matches!(protocol, 0 | 43 | 60) {
            let options = &frame[transport..end];
            let (next, len) = match options {
                [next, len, ..] => (*next, (usize::from(*len) + 1) * 8),
                _ => return Err(Fault::Ip),
            };
            if len > options.len() {
                return Err(Fault::Ip);
            }
            protocol = next;
            transport += len;
        }
        let fragment = protocol == FRAGMENT;
        Ok(Self { ip: Ip::V6, network, transport, protocol, end, fragment })
    }

    /// Where the two addresses are.
    fn addresses(&self) -> Range<usize> {
        match self.ip {
            Ip::V4 => self.network + 12..self.network + 20,
            Ip::V6 => self.network + 8..self.network + 40,
        }
    }

    /// The sum of the pseudo-header, without its length.
    pub fn pseudo(&self, frame: &[u8]) -> u64 {
        sum(&frame[self.addresses()]) + u64::from(self.protocol)
    }

    /// Length of what the transport's checksum covers.
    pub const fn transport_len(&self) -> usize {
        self.end - self.transport
    }

    /// Where the protocol has its checksum, counted from its header; None for one that has none at a
    /// fixed place, or is not known here.
    pub const fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP | ICMPV6 => Some(2),
            _ => None,
        }
    }
}

const fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8)
}
