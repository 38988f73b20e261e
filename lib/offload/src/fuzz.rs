//! The harness of the fuzz target: every field of the header and of the frame is the input's.
//!
//! It panics only if what comes out contradicts itself: see [`complete`]. The tests run it on the
//! corpus in `fuzz/corpus`.

use std::vec;
use std::vec::Vec;

use inet_checksum::{fold, sum};

use crate::layers::{Ip, Layers, TCP, UDP, be16};
use crate::{Gso, Header, finish_partial};

/// The input, taken from its front; past its end everything is 0.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A right value, or one of the input's.
    fn or(&mut self, right: u16) -> u16 {
        if self.byte() < 0xe0 { right } else { self.half() }
    }

    fn some(&mut self, most: usize) -> Vec<u8> {
        let len = usize::from(self.byte()) % (most + 1);
        (0..len).map(|_| self.byte()).collect()
    }
}

fn put16(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A frame whose fields are right as long as the input leaves them alone, and the header for it.
fn frame(input: &mut Input<'_>) -> (Header, Vec<u8>) {
    let kind = input.byte();
    let (is_v6, is_udp) = (kind & 1 != 0, kind & 2 != 0);
    let mut frame = vec![2; 12];
    for _ in 0..input.byte() % 11 {
        let tag = if input.byte() & 1 == 0 { 0x8100u16 } else { 0x88a8 };
        frame.extend(tag.to_be_bytes());
        frame.extend(input.half().to_be_bytes());
    }
    let ether_type = input.or(if is_v6 { 0x86dd } else { 0x0800 });
    frame.extend(ether_type.to_be_bytes());
    let network = frame.len();
    let protocol = if is_udp { UDP } else { TCP };
    if is_v6 {
        frame.extend([0x60, 0, 0, 0, 0, 0, protocol, 64]);
        frame.extend((0..32).map(|i| i ^ input.byte()));
        for _ in 0..input.byte() % 4 {
            // Each goes before the last ones.
            let next = std::mem::replace(
                &mut frame[network + 6],
                [0, 43, 60, 44][usize::from(input.byte() % 4)],
            );
            let words = input.or(0).min(20) as u8;
            let rest = vec![1; (usize::from(words) + 1) * 8 - 2];
            let at = network + 40;
            frame.splice(at..at, [next, words].into_iter().chain(rest));
        }
    } else {
        let options = input.some(40);
        let words = (20 + options.len() as u16) / 4;
        frame.extend([0x40 | input.or(words) as u8, 0, 0, 0]);
        frame.extend(input.half().to_be_bytes());
        frame.extend(input.or(0x4000).to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend((0..8).map(|_| input.byte()));
        frame.extend(&options[..options.len() / 4 * 4]);
    }
    let transport = frame.len();
    if is_udp {
        frame.extend([0, 53, 0, 99, 0, 0, 0, 0]);
    } else {
        let options = input.some(40);
        let words = (20 + options.len() as u16) / 4;
        frame.extend([0, 53, 0, 99]);
        frame.extend((0..8).map(|_| input.byte()));
        frame.extend([(input.or(words) as u8) << 4, input.byte(), 1, 1, 0, 0, 0, 7]);
        frame.extend(&options[..options.len() / 4 * 4]);
    }
    let payload = usize::from(input.half()) % 5000;
    frame.extend((0..payload).map(|i| (i * 7) as u8));
    let len = frame.len();
    let ip_len = input.or((len - network - if is_v6 { 40 } else { 0 }) as u16);
    put16(&mut frame, network + if is_v6 { 4 } else { 2 }, ip_len);
    let field = transport + if is_udp { 6 } else { 16 };
    if is_udp {
        let udp_len = input.or((len - transport) as u16);
        put16(&mut frame, transport + 4, udp_len);
    }
    let addresses = if is_v6 { network + 8..network + 40 } else { network + 12..network + 20 };
    let pseudo = sum(&frame[addresses]) + u64::from(protocol) + (len - transport) as u64;
    let partial = input.or(fold(pseudo));
    put16(&mut frame, field, partial);
    frame.extend(input.some(9));
    let cut = usize::from(input.or(0)).min(frame.len());
    frame.truncate(frame.len() - cut);

    let header = Header {
        flags: input.or(Header::NEEDS_CSUM.into()) as u8,
        gso_type: input.byte() & 0x87,
        hdr_len: input.or(0),
        gso_size: input.half(),
        csum_start: input.or(transport as u16),
        csum_offset: input.or((field - transport) as u16),
    };
    (header, frame)
}

/// The frame in a tunnel that the input chooses, or as it is.
fn carried(input: &mut Input<'_>, frame: &[u8]) -> Vec<u8> {
    let (kind, odd) = (input.byte() % 5, input.byte());
    let ip = &frame[frame.len().min(14)..];
    let ether_type = input.or(0x6558).to_be_bytes();
    let options = vec![3; usize::from(odd & 0x3f) * 4];
    let (protocol, header, inner) = match kind {
        1 => (if odd & 1 == 0 { 4 } else { 41 }, vec![], ip),
        2 => {
            let optional = vec![3; 4 * (odd & 0xb0).count_ones() as usize];
            (47, [&[odd, 0][..], &ether_type, &optional].concat(), frame)
        }
        3 => (UDP, vec![8, 0, 0, 0, 0, 0, 7, odd], frame),
        4 => (UDP, [&[odd, 0][..], &ether_type, &[0; 4], &options].concat(), frame),
        _ => return frame.to_vec(),
    };
    let mut whole = vec![2; 12];
    whole.extend([8, 0, 0x45, 0, 0, 0, 0, 7, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    if protocol == UDP {
        let port: u16 = if kind == 3 { 4789 } else { 6081 };
        whole.extend([0, 9]);
        whole.extend(port.to_be_bytes());
        whole.extend(((8 + header.len() + inner.len()) as u16).to_be_bytes());
        whole.extend([0, 0]);
    }
    whole.extend(header);
    whole.extend(inner);
    let len = (whole.len() - 14) as u16;
    put16(&mut whole, 16, len);
    let field = if input.byte() & 1 == 0 { 0 } else { input.half() };
    if protocol == UDP {
        put16(&mut whole, 40, field);
    }
    whole
}

/// Completes a frame that the input chooses, and checks:
/// - of the frames that come out, each is as long as was said, and none is longer than what came in;
/// - segments have right IP lengths and IPv4 checksums, and their payloads are together the payload;
/// - so are the transport's checksums, if the partial one was right;
/// - completing what came out changes nothing;
/// - a partial checksum is filled in once, also in a tunnel, and nothing else but fields of checksums changes.
///
/// # Panics
/// If one of these does not hold.
pub fn complete(data: &[u8]) {
    let input = &mut Input(data);
    let (header, frame) = match input.byte() {
        255 => {
            let header = Header::read(input.0).unwrap_or_default();
            (header, input.0.get(10..).unwrap_or_default().to_vec())
        }
        _ => self::frame(input),
    };
    let whole = carried(input, &frame);
    let mut other = whole.clone();
    if finish_partial(&mut other) {
        let once = other.clone();
        finish_partial(&mut other);
        assert_eq!(once, other, "it was complete already");
        let changed = whole.iter().zip(&once).filter(|(before, after)| before != after).count();
        assert!(changed <= 8, "two bytes for each of four packets");
    } else {
        assert_eq!(whole, other);
    }

    let Ok(mut segments) = crate::complete(&header, &frame) else { return };
    let is_split = segments.count() > 1;
    assert!(segments.count() > 0 && segments.longest() <= frame.len());
    let mut out = vec![0xaa; segments.longest()];
    let mut payload = Vec::new();
    let layers = Layers::of(&frame).ok().flatten();
    let is_right = layers.is_some_and(|layers| has_right_partial(&header, &layers, &frame));
    for number in 0..segments.count() {
        let len = segments.next_into(&mut out).expect("there are so many");
        assert_eq!(len, segments.len_of(number));
        let one = &out[..len];
        let mut again = vec![0; len];
        let plain = crate::complete(&Header::default(), one);
        assert_eq!(plain.expect("it is a frame").next_into(&mut again), Some(len));
        assert_eq!(again, one);
        if is_split {
            check_segment(one, is_right, header.gso() == Ok(Some(Gso::UdpFragments)), &mut payload);
        }
    }
    assert_eq!(segments.next_into(&mut out), None);
    if let (true, Some(layers)) = (is_split, layers) {
        let is_fragments = header.gso() == Ok(Some(Gso::UdpFragments));
        let from = layers.transport + transport_header(&frame, &layers, is_fragments);
        // Of a datagram in fragments, the checksum differs.
        let skip = if is_fragments { 8 } else { 0 };
        assert_eq!(payload[skip..], frame[from + skip..layers.end]);
    }
}

fn has_right_partial(header: &Header, layers: &Layers, frame: &[u8]) -> bool {
    let Some(offset) = layers.checksum_offset() else { return false };
    let pseudo = layers.pseudo(frame) + layers.transport_len() as u64;
    let field = frame.get(layers.transport + offset..).and_then(<[u8]>::first_chunk);
    !header.needs_checksum()
        || field.is_some_and(|&field| u16::from_be_bytes(field) == fold(pseudo))
}

fn transport_header(frame: &[u8], layers: &Layers, is_fragments: bool) -> usize {
    match layers.protocol {
        _ if is_fragments => 0,
        UDP => 8,
        _ => usize::from(frame[layers.transport + 12] >> 4) * 4,
    }
}

/// Checks one of several segments, and collects its payload.
fn check_segment(one: &[u8], is_right: bool, is_fragments: bool, payload: &mut Vec<u8>) {
    let layers = Layers::of(one).expect("as the whole frame's").expect("IP");
    assert_eq!(layers.end, one.len());
    assert_eq!(layers.fragment, is_fragments);
    if layers.ip == Ip::V4 {
        assert_eq!(fold(sum(&one[layers.network..layers.transport])), 0xffff);
    }
    if !is_fragments {
        if is_right {
            let len = layers.transport_len() as u64;
            let all = layers.pseudo(one) + len + sum(&one[layers.transport..]);
            assert_eq!(fold(all), 0xffff);
        }
        if layers.protocol == UDP {
            assert_eq!(usize::from(be16(one, layers.transport + 4)), layers.transport_len());
        }
    }
    let from = layers.transport + transport_header(one, &layers, is_fragments);
    payload.extend(&one[from..]);
}
