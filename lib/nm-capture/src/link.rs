//! Link types: what the packets of a capture are, in words, and how those that carry IP without Ethernet
//! get an Ethernet header.
//!
//! Numbers are those of <https://www.tcpdump.org/linktypes.html>.

use std::fmt;

/// A link type by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u32);

/// MAC addresses for packets that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The sender's.
    pub src: [u8; 6],
    /// The receiver's. IP multicast goes to its own address all the same.
    pub dst: [u8; 6],
}

impl Default for Addresses {
    /// From a locally administered address to everybody.
    fn default() -> Self {
        Self { src: [0x02, 0, 0, 0, 0, 0x01], dst: BROADCAST }
    }
}

const BROADCAST: [u8; 6] = [0xff; 6];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// From here on a number behind the addresses is a protocol, below it a length (IEEE 802.3).
const LEAST_ETHERTYPE: u16 = 0x0600;

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: LinkType = LinkType(1);
    const NULL: LinkType = LinkType(0);
    const LOOP: LinkType = LinkType(108);
    const SLL: LinkType = LinkType(113);
    const IPV4: LinkType = LinkType(228);
    const IPV6: LinkType = LinkType(229);
    const SLL2: LinkType = LinkType(276);

    /// Raw IP: the number in files, and those that BSD systems wrote.
    fn is_raw_ip(self) -> bool {
        matches!(self.0, 12 | 14 | 101) || self == Self::IPV4 || self == Self::IPV6
    }

    /// Whether [`LinkType::to_ethernet`] knows it.
    #[must_use]
    pub fn becomes_ethernet(self) -> bool {
        [Self::NULL, Self::LOOP, Self::SLL, Self::SLL2].contains(&self) || self.is_raw_ip()
    }

    /// Makes an Ethernet frame of a packet, in `frame`; false if the packet has no such form.
    #[must_use]
    pub fn to_ethernet(self, packet: &[u8], addresses: Addresses, frame: &mut Vec<u8>) -> bool {
        let found = match self {
            Self::SLL => cooked(packet, addresses, &SLL_LAYOUT),
            Self::SLL2 => cooked(packet, addresses, &SLL2_LAYOUT),
            // The address family in the byte order of whoever captured; the packet itself knows better.
            Self::NULL | Self::LOOP => packet.get(4..).and_then(|ip| bare(ip, addresses)),
            _ if self.is_raw_ip() => bare(packet, addresses),
            _ => None,
        };
        let Some((addresses, word, payload)) = found else {
            return false;
        };
        frame.clear();
        frame.extend_from_slice(&addresses.dst);
        frame.extend_from_slice(&addresses.src);
        frame.extend_from_slice(&word.to_be_bytes());
        frame.extend_from_slice(payload);
        true
    }
}

/// Addresses, protocol or length, and what follows them.
type Parts<'a> = (Addresses, u16, &'a [u8]);

/// An IP packet without anything in front.
fn bare(ip: &[u8], addresses: Addresses) -> Option<Parts<'_>> {
    let protocol = match ip.first()? >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => return None,
    };
    let dst = group_address(protocol, ip).unwrap_or(addresses.dst);
    Some((Addresses { dst, ..addresses }, protocol, ip))
}

/// The MAC address of an IP multicast group (RFC 1112, RFC 2464).
fn group_address(protocol: u16, ip: &[u8]) -> Option<[u8; 6]> {
    match protocol {
        IPV4 => match *ip.get(16..20)? {
            [224..=239, a, b, c] => Some([0x01, 0x00, 0x5e, a & 0x7f, b, c]),
            [255, 255, 255, 255] => Some(BROADCAST),
            _ => None,
        },
        IPV6 => match *ip.get(24..40)? {
            [0xff, .., a, b, c, d] => Some([0x33, 0x33, a, b, c, d]),
            _ => None,
        },
        _ => None,
    }
}

/// Where Linux's cooked headers have their fields.
struct Cooked {
    header_bytes: usize,
    protocol: usize,
    hardware: usize,
    packet_type: usize,
    address_len: usize,
    address: usize,
}

/// LINKTYPE_LINUX_SLL; the packet type is a word, of which the low byte counts.
const SLL_LAYOUT: Cooked = Cooked {
    header_bytes: 16,
    protocol: 14,
    hardware: 2,
    packet_type: 1,
    address_len: 5,
    address: 6,
};
/// LINKTYPE_LINUX_SLL2.
const SLL2_LAYOUT: Cooked = Cooked {
    header_bytes: 20,
    protocol: 0,
    hardware: 8,
    packet_type: 10,
    address_len: 11,
    address: 12,
};

/// Hardware types whose protocol field is no EtherType: netlink, 802.11 with radiotap, GRE, frame relay.
const NO_ETHERTYPE: [u16; 4] = [824, 803, 778, 770];
/// Packet type of what was sent to everybody.
const TO_BROADCAST: u8 = 1;
/// "Protocols" of 802.3 frames with a length: Novell's without, and IEEE's with an 802.2 header.
const WITH_LENGTH: [u16; 2] = [0x0001, 0x0004];

fn cooked<'a>(packet: &'a [u8], addresses: Addresses, at: &Cooked) -> Option<Parts<'a>> {
    let payload = packet.get(at.header_bytes..)?;
    let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if NO_ETHERTYPE.contains(&half(at.hardware)) {
        return None;
    }
    let word = match half(at.protocol) {
        word if word >= LEAST_ETHERTYPE => word,
        word if WITH_LENGTH.contains(&word) => {
            u16::try_from(payload.len()).ok().filter(|len| *len < LEAST_ETHERTYPE)?
        }
        _ => return None,
    };
    let src = match packet[at.address_len] {
        6 => std::array::from_fn(|i| packet[at.address + i]),
        _ => addresses.src,
    };
    let dst = match packet[at.packet_type] {
        TO_BROADCAST => BROADCAST,
        _ => group_address(word, payload).unwrap_or(addresses.dst),
    };
    Some((Addresses { src, dst }, word, payload))
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 | 108 => "BSD loopback packets, as of `tcpdump -i lo0`",
            1 => "Ethernet frames",
            6 => "Token Ring frames",
            7 => "ARCNET packets",
            8 => "SLIP packets",
            9 | 50 => "PPP packets",
            10 => "FDDI frames",
            12 | 14 | 101 | 228 | 229 => "raw IP packets, as of a tun interface",
            51 => "PPPoE packets",
            104 => "Cisco HDLC frames",
            105 | 119 | 127 | 163 => "Wi-Fi (802.11) frames",
            107 => "Frame Relay frames",
            113 => "a Linux cooked capture, as of `tcpdump -i any`",
            117 => "OpenBSD pflog records",
            147..=162 => "of a type that its users agree on",
            187 | 201 | 254 => "Bluetooth packets",
            189 | 220 | 249 | 266 => "USB transfers",
            192 => "PPI packets (usually Wi-Fi)",
            195 | 215 | 230 | 283 => "802.15.4 frames",
            197 => "ERF records",
            227 => "CAN frames",
            239 => "Linux netfilter log records",
            253 => "netlink messages",
            276 => "a Linux cooked capture (version 2), as of `tcpdump -i any`",
            _ => "of a type that is unknown here",
        };
        write!(f, "{name} (link type {})", self.0)
    }
}
