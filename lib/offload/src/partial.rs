//! Checksums that a local stack left partial, in frames that come without a header which says so.
//!
//! AF_XDP on a veth hands out such frames. The field then equals the folded sum of the pseudo-header.
//! A complete frame whose field is that by chance has a checksum that computing it anew gives again:
//! what it covers but the field sums up to the negative of twice the field, so the new one is the same.
//!
//! What is partial may be the packet in a tunnel. The tunnel's own checksum, if it has one, is then right for what the inner
//! packet becomes, since the stack knows that a completed packet sums up to the negative of its pseudo-header. So packets are
//! looked at from the inside out, and at most one of them changes.

use inet_checksum::{finish, fold, nonzero, sum};

use crate::layers::{IPV4_TYPE, IPV6_TYPE, Layers, TCP, UDP, be16, link};

/// Packets in one another that are looked at: the frame's, and those in three tunnels.
const LEVELS: usize = 4;

/// Protocol numbers of tunnels.
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const GRE: u8 = 47;
/// Ethernet type of Ethernet, in tunnels.
const ETHERNET_TYPE: u16 = 0x6558;
/// UDP ports: as assigned, and Linux's own choice for those who do not choose.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;

/// Fills the TCP or UDP checksum of a frame whose field holds the sum of its pseudo-header, which is
/// what a local stack leaves in it for a device to complete; also within tunnels: IP in IP, GRE, VXLAN and Geneve. Returns whether
/// it did. All other frames stay as they are, also malformed ones.
pub fn finish_partial(frame: &mut [u8]) -> bool {
    let Ok(Some(outer)) = Layers::of(frame) else { return false };
    let (mut levels, mut count) = ([outer; LEVELS], 1);
    while count < LEVELS
        && let Some(inner) = carried(frame, &levels[count - 1])
    {
        levels[count] = inner;
        count += 1;
    }
    let mut any = false;
    for layers in levels[..count].iter().rev() {
        any |= finish_one(frame, layers);
    }
    any
}

fn finish_one(frame: &mut [u8], layers: &Layers) -> bool {
    if layers.fragment || !matches!(layers.protocol, TCP | UDP) {
        return false;
    }
    let Some(offset) = layers.checksum_offset() else { return false };
    let len = layers.transport_len();
    if len < offset + 2 {
        return false;
    }
    let field = layers.transport + offset;
    let pseudo = layers.pseudo(frame) + len as u64;
    if be16(frame, field) != fold(pseudo) {
        return false;
    }
    let mut check = finish(sum(&frame[layers.transport..layers.end]));
    if layers.protocol == UDP {
        check = nonzero(check);
    }
    frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
    true
}

/// The IP packet that a packet carries, if that is a tunnel's.
fn carried(frame: &[u8], layers: &Layers) -> Option<Layers> {
    if layers.fragment {
        return None;
    }
    let frame = &frame[..layers.end];
    let at = layers.transport;
    let (kind, start) = match layers.protocol {
        IPV4 => (IPV4_TYPE, at),
        IPV6 => (IPV6_TYPE, at),
        GRE => behind_gre(frame, at)?,
        UDP => behind_udp(frame, at)?,
        _ => return None,
    };
    let (kind, start) = match kind {
        ETHERNET_TYPE => link(frame, start).ok()?,
        _ => (kind, start),
    };
    // A header may say that it is longer than the packet.
    if start > frame.len() {
        return None;
    }
    Layers::of_type(frame, kind, start).ok()?
}

/// RFC 2784 and 2890: of what type is what follows, and where.
fn behind_gre(frame: &[u8], at: usize) -> Option<(u16, usize)> {
    let [flags, version, kind @ ..]: [u8; 4] = *frame.get(at..)?.first_chunk()?;
    // Checksum, key and sequence number, each of four bytes. Other bits mean other headers.
    if flags & 0x4f != 0 || version != 0 {
        return None;
    }
    let optional = (flags & 0xb0).count_ones() as usize;
    Some((u16::from_be_bytes(kind), at + 4 + 4 * optional))
}

/// RFC 7348 and 8926, told by the port.
fn behind_udp(frame: &[u8], at: usize) -> Option<(u16, usize)> {
    let [_, _, port @ ..]: [u8; 4] = *frame.get(at..)?.first_chunk()?;
    let start = at + 8;
    let [first, _, kind @ ..]: [u8; 4] = *frame.get(start..)?.first_chunk()?;
    match u16::from_be_bytes(port) {
        // A network's number is there, and what follows is Ethernet.
        port if VXLAN_PORTS.contains(&port) && first == 0x08 => Some((ETHERNET_TYPE, start + 8)),
        // The first version, and as many words of options as the lower bits say.
        GENEVE_PORT if first & 0xc0 == 0 => {
            Some((u16::from_be_bytes(kind), start + 8 + 4 * usize::from(first & 0x3f)))
        }
        _ => None,
    }
}
