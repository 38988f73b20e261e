//! Checksums and TCP segmentation: what the device does to packets in the guest's stead (8254x
//! manual, sections 3.2.9, 3.4 and 3.5).
//!
//! Everything here works on a private copy of a packet. Offsets come from the guest's descriptors:
//! one that lies outside the packet switches its part of the work off.

use e1000pv::bits::Rxcsum;
use e1000pv::desc::{ContextTx, LegacyTx, Popts, RxErrors, RxStatus, TxCmd};
use inet_checksum::{finish, fold, sum};

use crate::sizes::ETHER_HEADER;
use crate::state;

fn read16(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// False: the place lies outside the packet.
fn write16(packet: &mut [u8], at: usize, value: u16) -> bool {
    match packet.get_mut(at..at + 2) {
        Some(place) => {
            place.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}

/// Puts the checksum of `start..end` at `offset`, which lies before that end. The field itself is part of the sum:
/// drivers leave the pseudo header's sum there.
fn insert(packet: &mut [u8], start: usize, offset: usize, end: usize, zero: u16) -> bool {
    let Some(range) = packet.get(start..end).filter(|_| offset + 2 <= end) else {
        return false;
    };
    let check = match finish(sum(range)) {
        0 => zero,
        check => check,
    };
    write16(packet, offset, check)
}

/// The end that a context descriptor's inclusive end means; 0 is the end of the packet, and so is one behind it.
fn end(inclusive: u16, packet: &[u8]) -> usize {
    if inclusive == 0 { packet.len() } else { packet.len().min(usize::from(inclusive) + 1) }
}

/// What a legacy descriptor with IC asks for. False: its offsets lie outside the packet.
pub fn legacy_checksum(packet: &mut [u8], descriptor: &LegacyTx) -> bool {
    let (start, offset) = (usize::from(descriptor.css), usize::from(descriptor.cso));
    let end = packet.len();
    insert(packet, start, offset, end, 0)
}

/// What POPTS asks for, with the offsets of the context. False: some of them lie
/// outside the packet.
pub fn checksums(packet: &mut [u8], context: &ContextTx, popts: Popts) -> bool {
    let mut whole = true;
    if popts.contains(Popts::IXSM) {
        let (start, offset) = (usize::from(context.ipcss), usize::from(context.ipcso));
        let end = end(context.ipcse, packet);
        whole &= insert(packet, start, offset, end, 0);
    }
    if popts.contains(Popts::TXSM) {
        let (start, offset) = (usize::from(context.tucss), usize::from(context.tucso));
        let end = end(context.tucse, packet);
        // In UDP a checksum of 0 means that there is none (RFC 768).
        let zero = if context.tucmd.contains(TxCmd::TCP) { 0 } else { u16::MAX };
        whole &= insert(packet, start, offset, end, zero);
    }
    whole
}

/// The segments of one packet, made one at a time, so that whoever sends them may stop between two
/// and go on later.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    context: ContextTx,
    popts: Popts,
    /// Bytes of payload that are done.
    done: usize,
    /// Segments that are done.
    count: u16,
    /// Bytes of payload, in all segments.
    payload: usize,
}

impl Segments {
    /// `None`: the context asks for the impossible: headers that are less than Ethernet's or longer than the
    /// packet of `bytes`, or no payload per segment. So every segment is a frame, and has the place
    /// where a VLAN tag goes.
    #[must_use]
    pub fn new(context: ContextTx, popts: Popts, bytes: usize) -> Option<Self> {
        let headers = usize::from(context.hdrlen);
        let possible = context.mss != 0 && (ETHER_HEADER..=bytes).contains(&headers);
        possible.then(|| Self { context, popts, done: 0, count: 0, payload: bytes - headers })
    }

    /// Bytes of payload, in all segments.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// How many there were.
    #[must_use]
    pub fn progress(&self) -> state::Segments {
        state::Segments { done: self.done as u64, count: self.count }
    }

    /// The same segments, so many of which were made.
    #[must_use]
    pub fn at(self, progress: &state::Segments) -> Self {
        Self { done: progress.done as usize, count: progress.count, ..self }
    }

    /// Bytes that a segment can have.
    #[must_use]
    pub fn longest(&self) -> usize {
        usize::from(self.context.hdrlen) + usize::from(self.context.mss)
    }

    /// Writes the next segment of `packet` to `segment`. False: there was none.
    ///
    /// # Panics
    /// If `packet` is shorter than `new` was told.
    pub fn next(&mut self, packet: &[u8], segment: &mut Vec<u8>) -> bool {
        let headers = usize::from(self.context.hdrlen);
        let (prototype, payload) = packet.split_at(headers);
        let Some(rest) = payload.get(self.done..).filter(|r| !r.is_empty() || self.done == 0)
        else {
            return false;
        };
        let length = rest.len().min(usize::from(self.context.mss));
        segment.clear();
        segment.extend_from_slice(prototype);
        segment.extend_from_slice(&rest[..length]);
        self.headers(segment, length == rest.len());
        // The ends of a context with segmentation are those of the headers: payload follows.
        checksums(segment, &self.context, self.popts);
        self.done += length;
        self.count = self.count.wrapping_add(1);
        // A packet without payload is one segment; `done` past the end tells that it was made.
        self.done += usize::from(payload.is_empty());
        true
    }

    /// Makes the headers' copy this segment's own (section 3.5.7).
    fn headers(&self, segment: &mut [u8], last: bool) {
        let c = &self.context;
        let (ip, transport) = (usize::from(c.ipcss), usize::from(c.tucss));
        let all = segment.len();
        if c.tucmd.contains(TxCmd::IP) {
            write16(segment, ip + 2, all.saturating_sub(ip) as u16);
            if let Some(id) = read16(segment, ip + 4) {
                write16(segment, ip + 4, id.wrapping_add(self.count));
            }
        } else {
            write16(segment, ip + 4, all.saturating_sub(ip + 40) as u16);
        }
        let length = all.saturating_sub(transport);
        if c.tucmd.contains(TxCmd::TCP) {
            if let Some(place) = segment.get_mut(transport + 4..transport + 8) {
                let sequence = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                let sequence = sequence.wrapping_add(self.done as u32);
                place.copy_from_slice(&sequence.to_be_bytes());
            }
            if let Some(flags) = segment.get_mut(transport + 13).filter(|_| !last) {
                *flags &= !(TCP_FIN | TCP_PSH);
            }
        } else {
            write16(segment, transport + 4, length as u16);
        }
        if self.popts.contains(Popts::TXSM) {
            // The driver's pseudo header has no length, because it differs between segments.
            let at = usize::from(c.tucso);
            if let Some(pseudo) = read16(segment, at) {
                write16(segment, at, fold(u64::from(pseudo) + length as u64));
            }
        }
    }
}

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// What a receive descriptor tells of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The packet checksum: the plain sum from RXCSUM.PCSS on, not inverted.
    pub checksum: u16,
    /// IXSM, or what was calculated.
    pub status: RxStatus,
    /// What was wrong.
    pub errors: RxErrors,
}

impl Received {
    /// Nothing was calculated: software does it all.
    pub const NOTHING: Self =
        Self { checksum: 0, status: RxStatus::IXSM, errors: RxErrors::empty() };
}

/// Whether RXCSUM asks for anything: without, no byte of a packet needs to be looked at.
#[inline]
#[must_use]
pub fn checks(rxcsum: Rxcsum) -> bool {
    rxcsum.intersects(Rxcsum::IPOFLD.union(Rxcsum::TUOFLD))
}

/// Checks a received frame of IPv4, without its VLAN tag if that was taken out.
#[must_use]
pub fn received(frame: &[u8], rxcsum: Rxcsum) -> Received {
    if !checks(rxcsum) {
        return Received::NOTHING;
    }
    let mut result = Received::NOTHING;
    let start = frame.len().min(rxcsum.start() as usize);
    result.checksum = fold(sum(&frame[start..]));
    if let Some((status, errors)) = check_ipv4(frame, rxcsum)
        && !status.is_empty()
    {
        (result.status, result.errors) = (status, errors);
    }
    result
}

/// `None`: not a whole IPv4 packet.
fn check_ipv4(frame: &[u8], rxcsum: Rxcsum) -> Option<(RxStatus, RxErrors)> {
    let mut at = 12;
    while read16(frame, at)? == 0x8100 && at < 20 {
        at += 4;
    }
    if read16(frame, at)? != 0x0800 {
        return None;
    }
    let ip = &frame[at + 2..];
    let header = usize::from(ip.first()? & 0x0F) * 4;
    let total = usize::from(read16(ip, 2)?);
    if ip[0] >> 4 != 4 || header < 20 || total < header || total > ip.len() {
        return None;
    }
    let (mut status, mut errors) = (RxStatus::empty(), RxErrors::empty());
    if rxcsum.contains(Rxcsum::IPOFLD) {
        status |= RxStatus::IPCS;
        errors.set(RxErrors::IPE, fold(sum(&ip[..header])) != 0xFFFF);
    }
    let fragment = read16(ip, 6)? & 0x3FFF != 0;
    let payload = &ip[header..total];
    let protocol = ip[9];
    // What carries the checksum: a whole TCP segment, or a UDP datagram that has one.
    let transport = match protocol {
        IPPROTO_TCP => payload.len() >= 20,
        IPPROTO_UDP => payload.len() >= 8 && read16(payload, 6)? != 0,
        _ => false,
    };
    if rxcsum.contains(Rxcsum::TUOFLD) && transport && !fragment {
        let pseudo = u64::from(protocol) + payload.len() as u64 + sum(&ip[12..20]);
        status |= RxStatus::TCPCS;
        errors.set(RxErrors::TCPE, fold(pseudo + sum(payload)) != 0xFFFF);
    }
    Some((status, errors))
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
