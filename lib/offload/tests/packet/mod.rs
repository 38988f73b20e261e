//! A model of packets with offloads: frames and headers as a host stack makes them, and the segments, each built from
//! nothing. Included by the tests that compare with it; `Header` is the crate's.
#![allow(dead_code, reason = "each test uses its part of this file")]

use std::vec;
use std::vec::Vec;

use super::Header;

/// A TCP or UDP packet, of which the model makes frames: whole ones with a partial checksum, and the
/// segments, each from nothing.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Ethernet types of VLAN tags.
    pub tags: Vec<u16>,
    pub v6: bool,
    /// IPv4 options, or IPv6 extension headers as their kinds.
    pub options: Vec<u8>,
    pub id: u16,
    pub tcp: bool,
    pub seq: u32,
    pub flags: u8,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            tags: vec![],
            v6: false,
            options: vec![],
            id: 0xfffe,
            tcp: true,
            seq: u32::MAX - 1000,
            flags: 0x10,
            tcp_options: vec![],
            payload: (0..3000u32).map(|i| ((i * i) >> 3) as u8).collect(),
        }
    }
}

pub fn plus(sum: u16, word: u16) -> u16 {
    let (sum, carry) = sum.overflowing_add(word);
    sum + u16::from(carry)
}

pub fn naive_sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, word| {
        plus(sum, u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    })
}

impl Packet {
    pub fn udp() -> Self {
        Self { tcp: false, ..Self::default() }
    }

    /// Where the IP header is, and the TCP or UDP header.
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub fn transport(&self) -> usize {
        let ip = if self.v6 { 40 + 16 * self.options.len() } else { 20 + self.options.len() };
        self.network() + ip
    }

    pub fn field(&self) -> usize {
        self.transport() + if self.tcp { 16 } else { 6 }
    }

    pub fn frame(&self, complete: bool) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0x20, 7]);
        }
        let protocol = if self.tcp { 6 } else { 17 };
        let transport_len =
            self.payload.len() + if self.tcp { 20 + self.tcp_options.len() } else { 8 };
        let addresses: Vec<u8> =
            (0..if self.v6 { 32 } else { 8 }).map(|i: u8| i.wrapping_mul(29) + 3).collect();
        if self.v6 {
            let first = self.options.first().copied().unwrap_or(protocol);
            let len = (transport_len + 16 * self.options.len()) as u16;
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 5]);
            frame.extend(len.to_be_bytes());
            frame.extend([first, 64]);
            frame.extend(&addresses);
            for i in 0..self.options.len() {
                let next = self.options.get(i + 1).copied().unwrap_or(protocol);
                frame.extend([next, 1, 1, 12]);
                frame.extend([0; 12]);
            }
        } else {
            let len = (20 + self.options.len() + transport_len) as u16;
            let words = 5 + self.options.len() as u8 / 4;
            let mut ip = vec![0x40 | words, 0];
            ip.extend(len.to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend([0x40, 0, 64, protocol, 0, 0]);
            ip.extend(&addresses);
            ip.extend(&self.options);
            let check = !naive_sum(&ip);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(ip);
        }
        let mut packet = vec![0x12, 0x34, 0x56, 0x78];
        if self.tcp {
            packet.extend(self.seq.to_be_bytes());
            packet.extend([9, 9, 9, 9, (5 + self.tcp_options.len() as u8 / 4) << 4, self.flags]);
            packet.extend([1, 0, 0, 0, 0, 3]);
            packet.extend(&self.tcp_options);
        } else {
            packet.extend((transport_len as u16).to_be_bytes());
            packet.extend([0, 0]);
        }
        packet.extend(&self.payload);
        let mut pseudo = addresses;
        pseudo.extend([0, protocol]);
        pseudo.extend((transport_len as u16).to_be_bytes());
        let mut check = naive_sum(&pseudo);
        if complete {
            check = !plus(check, naive_sum(&packet));
            if !self.tcp && check == 0 {
                check = 0xffff;
            }
        }
        let field = self.field() - self.transport();
        packet[field..field + 2].copy_from_slice(&check.to_be_bytes());
        frame.extend(packet);
        frame
    }

    /// The frame whose checksum alone was left out, complete: all ones for a zero, also in TCP, as who fills it in need not know
    /// the protocol.
    pub fn finished(&self) -> Vec<u8> {
        let (mut frame, field) = (self.frame(true), self.field());
        if frame[field..field + 2] == [0, 0] {
            frame[field..field + 2].fill(0xff);
        }
        frame
    }

    pub fn header(&self, size: usize) -> Header {
        let gso_type = match (self.tcp, self.v6) {
            _ if size == 0 => Header::GSO_NONE,
            (true, false) => Header::GSO_TCPV4,
            (true, true) => Header::GSO_TCPV6,
            (false, _) => Header::GSO_UDP_L4,
        };
        Header {
            flags: Header::NEEDS_CSUM,
            gso_type,
            hdr_len: 0,
            gso_size: size as u16,
            csum_start: self.transport() as u16,
            csum_offset: (self.field() - self.transport()) as u16,
        }
    }

    /// The model: every segment is a packet of its own. A single one is none: nothing is split.
    pub fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<_> = self.payload.chunks(size).collect();
        if chunks.len() == 1 {
            return vec![self.finished()];
        }
        let segment = |(i, chunk): (usize, &&[u8])| {
            let (mut one, last) = (self.clone(), i + 1 == chunks.len());
            one.id = self.id.wrapping_add(i as u16);
            one.seq = self.seq.wrapping_add((i * size) as u32);
            one.flags &= if i == 0 { 0xff } else { !0x80 };
            one.flags &= if last { 0xff } else { !0x09 };
            one.payload = chunk.to_vec();
            one.frame(true)
        };
        chunks.iter().enumerate().map(segment).collect()
    }
}
