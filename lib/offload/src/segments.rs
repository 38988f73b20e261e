//! The frames that one frame with offloads stands for.
//!
//! The checks of [`complete`] follow the order of the header's fields, then the frame's layers. What
//! they let through can be written without a further one: [`Segments`] holds offsets that lie within
//! the frame, which is cut at the IP packet's end.

use inet_checksum::{finish, nonzero, sum};

use crate::layers::{Ip, Layers, TCP, UDP, be16, link};
use crate::{Fault, Gso, Header};

/// As many datagrams as the Linux kernel makes of one with USO.
const MOST_DATAGRAMS: usize = 128;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const MORE_FRAGMENTS: u16 = 0x2000;

/// What is to be done for each frame.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// There is one, and it is complete.
    Whole,
    /// There is one, whose checksum covers all from `start`, with its field at `field`.
    Checksum {
        start: usize,
        field: usize,
    },
    Tcp(Split),
    Udp(Split),
    Fragments(Split, u16),
}

/// How payload is divided.
#[derive(Clone, Copy, Debug)]
struct Split {
    layers: Layers,
    /// Where the payload begins that is divided; before that are the headers, which all have.
    payload: usize,
    /// Payload of each frame but the last, which has the rest.
    size: usize,
    /// Sum of the pseudo-header, without its length.
    pseudo: u64,
}

/// The frames that one frame with offloads stands for, in order. Made by [`complete`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    /// The frame up to the packet's end.
    frame: &'a [u8],
    work: Work,
    /// Number of the next one.
    next: usize,
    count: usize,
}

/// The frames (no header, complete checksums) that `frame` under `header` stands for.
///
/// # Errors
/// Why it cannot be completed. Such a frame is to be dropped.
pub fn complete<'a>(header: &Header, frame: &'a [u8]) -> Result<Segments<'a>, Fault> {
    if frame.len() < 14 {
        return Err(Fault::Short);
    }
    // As in the kernel: a checksum's place counts as well, where one is given.
    let within_ethernet = !header.needs_checksum() && matches!(header.hdr_len, 1..14);
    if within_ethernet || usize::from(header.hdr_len) > frame.len() {
        return Err(Fault::HeaderLength);
    }
    let gso = header.gso()?;
    let checksum = header.needs_checksum().then(|| {
        let start = usize::from(header.csum_start);
        (start, start + usize::from(header.csum_offset))
    });
    if checksum.is_some_and(|(_, field)| field + 2 > frame.len()) {
        return Err(Fault::ChecksumPlace);
    }
    if let Some(gso) = gso {
        return split(gso, usize::from(header.gso_size), checksum, frame);
    }
    match checksum {
        None => Ok(Segments::one(frame, Work::Whole)),
        Some((start, field)) => one_checksum(start, field, frame),
    }
}

/// A frame of which only the checksum is missing.
fn one_checksum(start: usize, field: usize, frame: &[u8]) -> Result<Segments<'_>, Fault> {
    let Some(layers) = Layers::of(frame)? else {
        // Another protocol's packet: the header is all that is known of it, but that it begins behind the tags.
        let outside = start < link(frame, 0)?.1;
        return if outside {
            Err(Fault::ChecksumPlace)
        } else {
            Ok(Segments::one(frame, Work::Checksum { start, field }))
        };
    };
    if layers.fragment {
        return Err(Fault::Fragment);
    }
    // What is tunnelled has its checksum further behind.
    let wrong_field = start == layers.transport
        && layers.checksum_offset().is_some_and(|offset| start + offset != field);
    if start < layers.transport || field + 2 > layers.end || wrong_field {
        return Err(Fault::ChecksumPlace);
    }
    Ok(Segments::one(&frame[..layers.end], Work::Checksum { start, field }))
}

/// A frame that is to be split, if it is longer than a segment.
fn split(
    gso: Gso,
    size: usize,
    checksum: Option<(usize, usize)>,
    frame: &[u8],
) -> Result<Segments<'_>, Fault> {
    // The largest value means something else inside Linux, which refuses it here, too.
    if size == 0 || size == 0xffff {
        return Err(Fault::GsoSize);
    }
    let layers = Layers::of(frame)?.ok_or(Fault::Protocol)?;
    let (protocol, version) = match gso {
        Gso::Tcp4 => (TCP, Some(Ip::V4)),
        Gso::Tcp6 => (TCP, Some(Ip::V6)),
        Gso::Udp => (UDP, None),
        // An identification of IPv6 fragments would have to be invented.
        Gso::UdpFragments => (UDP, Some(Ip::V4)),
    };
    if layers.protocol != protocol || version.is_some_and(|version| version != layers.ip) {
        return Err(if layers.fragment { Fault::Fragment } else { Fault::Protocol });
    }
    if layers.fragment {
        return Err(Fault::Fragment);
    }
    let header_len = transport_header_len(&layers, frame)?;
    let offset = layers.checksum_offset().expect("TCP and UDP have one");
    let field = layers.transport + offset;
    if checksum.is_some_and(|place| place != (layers.transport, field)) {
        return Err(Fault::ChecksumPlace);
    }
    if checksum.is_none() && protocol == UDP {
        return Err(Fault::ChecksumMissing);
    }
    let frame = &frame[..layers.end];
    let len = layers.transport_len();
    let pseudo = match checksum {
        // What the field holds, less its length: right for routing headers as well, under which the
        // destination that counts is another than the header's.
        Some(_) => u64::from(be16(frame, field)) + u64::from(!(len as u16)),
        None => layers.pseudo(frame),
    };
    let payload = layers.transport + header_len;
    let split = Split { layers, payload, size, pseudo };
    let one = || match checksum {
        Some((start, field)) => Segments::one(frame, Work::Checksum { start, field }),
        // As of a frame without a header.
        None => Segments::one(frame, Work::Whole),
    };
    match gso {
        Gso::UdpFragments => {
            // Offsets count units of 8 bytes; the datagram's header is part of what is divided.
            let size = size & !7;
            if size == 0 {
                return Err(Fault::GsoSize);
            }
            if len <= size {
                return Ok(one());
            }
            // Here the kernel computes it from nothing.
            let without = u64::from(!be16(frame, field));
            let whole = layers.pseudo(frame) + len as u64 + sum(&frame[layers.transport..]);
            let check = nonzero(finish(whole + without));
            let split = Split { payload: layers.transport, size, ..split };
            Ok(Segments::many(frame, Work::Fragments(split, check), len.div_ceil(size)))
        }
        _ if frame.len() - payload <= size => Ok(one()),
        Gso::Udp => {
            let count = (frame.len() - payload).div_ceil(size);
            if count > MOST_DATAGRAMS {
                return Err(Fault::Segments);
            }
            Ok(Segments::many(frame, Work::Udp(split), count))
        }
        Gso::Tcp4 | Gso::Tcp6 => {
            let count = (frame.len() - payload).div_ceil(size);
            Ok(Segments::many(frame, Work::Tcp(split), count))
        }
    }
}

/// The length of a whole TCP or UDP header, whose own length field is right.
fn transport_header_len(layers: &Layers, frame: &[u8]) -> Result<usize, Fault> {
    let packet = &frame[layers.transport..layers.end];
    if layers.protocol == UDP {
        let header: &[u8; 8] = packet.first_chunk().ok_or(Fault::Transport)?;
        let len = usize::from(be16(header, 4));
        return if len == packet.len() { Ok(8) } else { Err(Fault::Length) };
    }
    let header: &[u8; 20] = packet.first_chunk().ok_or(Fault::Transport)?;
    let len = usize::from(header[12] >> 4) * 4;
    if len < 20 || len > packet.len() { Err(Fault::Transport) } else { Ok(len) }
}

impl<'a> Segments<'a> {
    const fn one(frame: &'a [u8], work: Work) -> Self {
        Self::many(frame, work, 1)
    }

    const fn many(frame: &'a [u8], work: Work, count: usize) -> Self {
        Self { frame, work, next: 0, count }
    }

    /// How many frames there are, also those that were written already.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    const fn split(&self) -> Option<&Split> {
        match &self.work {
            Work::Whole | Work::Checksum { .. } => None,
            Work::Tcp(split) | Work::Udp(split) | Work::Fragments(split, _) => Some(split),
        }
    }

    /// Length of the frame with this number, from 0.
    #[must_use]
    pub fn len_of(&self, number: usize) -> usize {
        let Some(split) = self.split() else { return self.frame.len() };
        let from = (split.payload + number * split.size).min(self.frame.len());
        split.payload + split.size.min(self.frame.len() - from)
    }

    /// Length of the longest frame, which is the first.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.len_of(0)
    }

    /// Writes the next frame to the front of `out`, and returns its length; None after the last.
    ///
    /// # Panics
    /// If `out` is shorter than the frame. [`Self::longest`] is enough for all.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.next == self.count {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let len = self.len_of(number);
        let out = &mut out[..len];
        let last = self.next == self.count;
        match &self.work {
            Work::Whole => out.copy_from_slice(self.frame),
            &Work::Checksum { start, field } => {
                out.copy_from_slice(self.frame);
                // As the kernel, which does not look at the protocol here: all ones in TCP as well.
                let check = nonzero(finish(sum(&out[start..])));
                put16(out, field, check);
            }
            Work::Tcp(split) => {
                let from = split.copy(self.frame, number, out);
                split.tcp(out, from, number == 0, last);
            }
            Work::Udp(split) => {
                split.copy(self.frame, number, out);
                split.udp(out);
            }
            Work::Fragments(split, check) => {
                let from = split.copy(self.frame, number, out);
                if number == 0 {
                    put16(out, split.payload + 6, *check);
                }
                split.fragment(out, from, last);
            }
        }
        if let Some(split) = self.split() {
            let id = if matches!(self.work, Work::Fragments(..)) { 0 } else { number };
            split.network(out, id);
        }
        Some(len)
    }
}

impl Split {
    /// Writes headers and payload of the frame with this number. Returns how much payload is before.
    fn copy(&self, frame: &[u8], number: usize, out: &mut [u8]) -> usize {
        let before = number * self.size;
        let from = self.payload + before;
        let (headers, payload) = out.split_at_mut(self.payload);
        headers.copy_from_slice(&frame[..self.payload]);
        payload.copy_from_slice(&frame[from..from + payload.len()]);
        before
    }

    /// The IP header: lengths, identification, checksum.
    fn network(&self, out: &mut [u8], number: usize) {
        let ip = self.layers.network;
        let len = out.len() - ip;
        match self.layers.ip {
            Ip::V4 => {
                put16(out, ip + 2, len as u16);
                let id = be16(out, ip + 4).wrapping_add(number as u16);
                put16(out, ip + 4, id);
                put16(out, ip + 10, 0);
                let header_len = usize::from(out[ip] & 15) * 4;
                let check = finish(sum(&out[ip..ip + header_len]));
                put16(out, ip + 10, check);
            }
            Ip::V6 => put16(out, ip + 4, (len - 40) as u16),
        }
    }

    /// The checksum of what is behind the IP header, whose field at `offset` is counted as zero.
    fn transport_sum(&self, out: &mut [u8], offset: usize) -> u16 {
        let from = self.layers.transport;
        put16(out, from + offset, 0);
        let packet = &out[from..];
        finish(self.pseudo + packet.len() as u64 + sum(packet))
    }

    fn tcp(&self, out: &mut [u8], before: usize, first: bool, last: bool) {
        let tcp = self.layers.transport;
        let seq = &mut out[tcp + 4..tcp + 8];
        let number =
            u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]).wrapping_add(before as u32);
        seq.copy_from_slice(&number.to_be_bytes());
        if !first {
            out[tcp + 13] &= !CWR;
        }
        if !last {
            out[tcp + 13] &= !(FIN | PSH);
        }
        let check = self.transport_sum(out, 16);
        put16(out, tcp + 16, check);
    }

    fn udp(&self, out: &mut [u8]) {
        let udp = self.layers.transport;
        let len = out.len() - udp;
        put16(out, udp + 4, len as u16);
        let check = nonzero(self.transport_sum(out, 6));
        put16(out, udp + 6, check);
    }

    fn fragment(&self, out: &mut [u8], before: usize, last: bool) {
        let ip = self.layers.network;
        // Also if the datagram was not to be fragmented: its sender asked for it here.
        let more = if last { 0 } else { MORE_FRAGMENTS };
        put16(out, ip + 6, more | (before / 8) as u16);
    }
}

fn put16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
