//! Offloads against an independent checksum, byte by byte, and hand-made packets.

use proptest::prelude::*;

use super::*;

const ETHER: usize = 14;

/// RFC 1071 as simply as can be.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for (i, b) in bytes.iter().enumerate() {
        sum += u32::from(*b) << if i % 2 == 0 { 8 } else { 0 };
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header(protocol: u8, length: usize) -> Vec<u8> {
    let mut p = vec![10, 0, 0, 1, 10, 0, 0, 2, 0, protocol];
    p.extend_from_slice(&(length as u16).to_be_bytes());
    p
}

/// Ethernet, IPv4 and TCP or UDP with checksums of 0.
fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let transport = if protocol == IPPROTO_TCP { 20 } else { 8 };
    let total = 20 + transport + payload.len();
    let mut p = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    p.extend_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8, 0x12, 0x34, 0x40, 0, 64]);
    p.extend_from_slice(&[protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    if protocol == IPPROTO_TCP {
        p.extend_from_slice(&[0, 80, 1, 0, 0xFF, 0xFF, 0xFF, 0xF0, 0, 0, 0, 9]);
        p.extend_from_slice(&[0x50, TCP_FIN | TCP_PSH | 0x10, 2, 0, 0, 0, 0, 0]);
    } else {
        let length = (8 + payload.len()) as u16;
        p.extend_from_slice(&[0, 53, 1, 0]);
        p.extend_from_slice(&length.to_be_bytes());
        p.extend_from_slice(&[0, 0]);
    }
    p.extend_from_slice(payload);
    p
}

fn context(protocol: u8) -> ContextTx {
    let tcp = protocol == IPPROTO_TCP;
    ContextTx {
        ipcss: 14,
        ipcso: 24,
        ipcse: 33,
        tucss: 34,
        tucso: if tcp { 50 } else { 40 },
        tucse: 0,
        paylen: 0,
        tucmd: TxCmd::DEXT | TxCmd::IP | if tcp { TxCmd::TCP } else { TxCmd::empty() },
        status: Default::default(),
        hdrlen: if tcp { 54 } else { 42 },
        mss: 100,
    }
}

fn assert_valid(packet: &[u8]) {
    let ip = &packet[ETHER..];
    assert_eq!(reference(&ip[..20]), 0xFFFF, "IP checksum");
    assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len(), "total length");
    let mut all = pseudo_header(ip[9], ip.len() - 20);
    all.extend_from_slice(&ip[20..]);
    assert_eq!(reference(&all), 0xFFFF, "transport checksum");
}

/// As a driver leaves it: the pseudo header's sum in the checksum field.
fn with_pseudo(mut packet: Vec<u8>, length: usize) -> Vec<u8> {
    let protocol = packet[ETHER + 9];
    let c = context(protocol);
    let sum = reference(&pseudo_header(protocol, length));
    assert!(write16(&mut packet, usize::from(c.tucso), sum));
    packet
}

#[test]
fn context_checksums_make_a_packet_valid() {
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        let p = packet(protocol, b"odd payload");
        let length = p.len() - 34;
        let mut p = with_pseudo(p, length);
        assert!(checksums(&mut p, &context(protocol), Popts::IXSM | Popts::TXSM));
        assert_valid(&p);
    }
}

#[test]
fn legacy_checksum_covers_the_rest_of_the_packet() {
    let p = packet(IPPROTO_UDP, &[7; 33]);
    let mut p = with_pseudo(p, 41);
    let d = LegacyTx { css: 34, cso: 40, ..LegacyTx::default() };
    assert!(legacy_checksum(&mut p, &d));
    let mut all = pseudo_header(IPPROTO_UDP, 41);
    all.extend_from_slice(&p[34..]);
    assert_eq!(reference(&all), 0xFFFF);
}

#[test]
fn udp_checksum_of_zero_is_sent_as_ones() {
    let mut p = vec![0_u8; 60];
    p[42..44].copy_from_slice(&[0xFF, 0xFF]);
    assert!(checksums(&mut p, &context(IPPROTO_UDP), Popts::TXSM));
    assert_eq!(p[40..42], [0xFF, 0xFF]);
    p[50..52].fill(0);
    assert!(checksums(&mut p, &context(IPPROTO_TCP), Popts::TXSM));
    assert_ne!(p[50..52], [0xFF, 0xFF], "TCP has no such rule");
}

#[test]
fn offsets_outside_the_packet_change_nothing() {
    let before = packet(IPPROTO_TCP, &[]);
    for c in [
        ContextTx { tucss: 255, ..context(IPPROTO_TCP) },
        ContextTx { tucso: 53, ..context(IPPROTO_TCP) },
        ContextTx { tucse: 50, ..context(IPPROTO_TCP) },
        ContextTx { tucse: 20, ..context(IPPROTO_TCP) },
    ] {
        let mut p = before.clone();
        assert!(!checksums(&mut p, &c, Popts::TXSM), "{c:?}");
        assert_eq!(p, before);
    }
}

#[test]
fn end_behind_the_packet_is_its_end() {
    let p = packet(IPPROTO_TCP, &[1, 2, 3]);
    let ends = [0, 56, 57, u16::MAX].map(|tucse| {
        let mut p = p.clone();
        assert!(checksums(&mut p, &ContextTx { tucse, ..context(IPPROTO_TCP) }, Popts::TXSM));
        p
    });
    assert!(ends.iter().all(|end| *end == ends[0]));
}

fn segments(c: ContextTx, p: &[u8]) -> Vec<Vec<u8>> {
    let mut s = Segments::new(c, Popts::IXSM | Popts::TXSM, p.len()).unwrap();
    let mut out = Vec::new();
    let mut one = Vec::new();
    while s.next(p, &mut one) {
        assert!(one.len() <= s.longest());
        out.push(one.clone());
    }
    out
}

#[test]
fn segments_are_valid_packets_that_join_to_the_original() {
    let payload: Vec<u8> = (0..250).map(|i| i as u8).collect();
    let p = with_pseudo(packet(IPPROTO_TCP, &payload), 0);
    let made = segments(context(IPPROTO_TCP), &p);
    assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), [154, 154, 104]);
    let mut joined = Vec::new();
    for (i, s) in made.iter().enumerate() {
        assert_valid(s);
        let word = |at: usize| u32::from_be_bytes(s[at..at + 4].try_into().unwrap());
        assert_eq!(word(38), 0xFFFF_FFF0_u32.wrapping_add(100 * i as u32), "sequence number");
        assert_eq!(u16::from_be_bytes([s[18], s[19]]), 0x1234 + i as u16, "identification");
        let last = i == 2;
        assert_eq!(s[47], 0x10 | if last { TCP_FIN | TCP_PSH } else { 0 }, "flags");
        joined.extend_from_slice(&s[54..]);
    }
    assert_eq!(joined, payload);
}

#[test]
fn udp_segments_have_their_own_lengths() {
    let p = with_pseudo(packet(IPPROTO_UDP, &[1; 150]), 0);
    let made = segments(context(IPPROTO_UDP), &p);
    assert_eq!(made.len(), 2);
    for s in &made {
        assert_valid(s);
        assert_eq!(usize::from(u16::from_be_bytes([s[38], s[39]])), s.len() - 34);
    }
}

#[test]
fn ipv6_segments_have_their_payload_length() {
    let mut p = vec![0_u8; 14 + 40 + 20 + 130];
    p[12..14].copy_from_slice(&[0x86, 0xDD]);
    let c = ContextTx {
        tucss: 54,
        tucso: 70,
        hdrlen: 74,
        tucmd: TxCmd::DEXT | TxCmd::TCP,
        ..context(IPPROTO_TCP)
    };
    let mut s = Segments::new(c, Popts::TXSM, p.len()).unwrap();
    let mut one = Vec::new();
    assert!(s.next(&p, &mut one));
    assert_eq!(one[18..20], [0, 120]);
    assert!(s.next(&p, &mut one));
    assert_eq!(one[18..20], [0, 50]);
    assert!(!s.next(&p, &mut one));
}

#[test]
fn packet_without_payload_is_one_segment() {
    let p = with_pseudo(packet(IPPROTO_TCP, &[]), 0);
    let made = segments(context(IPPROTO_TCP), &p);
    assert_eq!(made.len(), 1);
    assert_valid(&made[0]);
}

#[test]
fn impossible_segmentation_is_refused() {
    let c = context(IPPROTO_TCP);
    for (c, bytes) in [
        (ContextTx { mss: 0, ..c }, 100),
        (ContextTx { hdrlen: 0, ..c }, 100),
        (ContextTx { hdrlen: 13, ..c }, 100),
        (ContextTx { hdrlen: 101, ..c }, 100),
    ] {
        assert!(Segments::new(c, Popts::empty(), bytes).is_none(), "{c:?}");
    }
}

fn valid(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let p = packet(protocol, payload);
    let length = p.len() - 34;
    let mut p = with_pseudo(p, length);
    assert!(checksums(&mut p, &context(protocol), Popts::IXSM | Popts::TXSM));
    p
}

fn both() -> Rxcsum {
    Rxcsum::IPOFLD | Rxcsum::TUOFLD
}

#[test]
fn received_packets_are_checked_and_damage_is_told() {
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        let mut p = valid(protocol, b"payload");
        p.resize(64, 0); // what pads a short frame is no part of the packet
        let good = received(&p, both());
        assert_eq!(good.status, RxStatus::IPCS | RxStatus::TCPCS);
        assert_eq!(good.errors, RxErrors::empty());
        p[36] ^= 1;
        assert_eq!(received(&p, both()).errors, RxErrors::TCPE);
        p[22] ^= 1;
        assert_eq!(received(&p, both()).errors, RxErrors::TCPE | RxErrors::IPE);
        assert_eq!(received(&p, Rxcsum::IPOFLD).errors, RxErrors::IPE);
        assert_eq!(received(&p, Rxcsum::empty()), Received::NOTHING);
    }
}

#[test]
fn packets_that_cannot_be_checked_say_so() {
    let ixsm = |p: &[u8]| received(p, both()).status;
    assert_eq!(ixsm(&[0; 60]), RxStatus::IXSM);
    assert_eq!(ixsm(&[]), RxStatus::IXSM);
    let mut udp = packet(IPPROTO_UDP, b"no checksum");
    assert!(checksums(&mut udp, &context(IPPROTO_UDP), Popts::IXSM));
    assert_eq!(ixsm(&udp), RxStatus::IPCS);
    let mut fragment = packet(IPPROTO_TCP, &[1; 40]);
    fragment[20] = 0x20;
    assert!(checksums(&mut fragment, &context(IPPROTO_TCP), Popts::IXSM));
    assert_eq!(ixsm(&fragment), RxStatus::IPCS);
}

#[test]
fn tagged_packet_is_checked_behind_its_tag() {
    let p = valid(IPPROTO_TCP, b"x");
    let mut tagged = p[..12].to_vec();
    tagged.extend_from_slice(&[0x81, 0, 0, 5]);
    tagged.extend_from_slice(&p[12..]);
    assert_eq!(received(&tagged, both()).status, RxStatus::IPCS | RxStatus::TCPCS);
}

#[test]
fn packet_checksum_starts_at_pcss() {
    let p = valid(IPPROTO_UDP, b"abc");
    let rxcsum = both() | Rxcsum::from_bits_retain(14);
    assert_eq!(received(&p, rxcsum).checksum, reference(&p[14..]));
}

proptest! {
    #[test]
    fn sum_agrees_with_the_simple_one(bytes: Vec<u8>) {
        // 0 and 0xFFFF are the same number here.
        let same = |a: u16, b: u16| a == b || a % 0xFFFF == b % 0xFFFF;
        prop_assert!(same(fold(sum(&bytes)), reference(&bytes)));
    }

    #[test]
    fn no_descriptor_makes_an_offload_panic(
        mut p in proptest::collection::vec(any::<u8>(), 0..300),
        bytes: [u8; 16],
        popts: u8,
        rxcsum: u32,
    ) {
        let (c, popts) = (ContextTx::from_bytes(bytes), Popts::from_bits_retain(popts));
        let rxcsum = Rxcsum::from_bits_retain(rxcsum);
        let _ = received(&p, rxcsum);
        if let Some(mut s) = Segments::new(c, popts, p.len()) {
            let mut one = Vec::new();
            let (mut payload, mut count) = (0, 0);
            while s.next(&p, &mut one) {
                payload += one.len() - usize::from(c.hdrlen);
                count += 1;
            }
            prop_assert_eq!(payload, p.len() - usize::from(c.hdrlen));
            prop_assert_eq!(count, payload.div_ceil(usize::from(c.mss)).max(1));
        }
        let before = p.len();
        checksums(&mut p, &c, popts);
        legacy_checksum(&mut p, &LegacyTx::from_bytes(bytes));
        prop_assert_eq!(p.len(), before);
    }

    #[test]
    fn any_bytes_can_be_received(p: Vec<u8>, rxcsum: u32) {
        let _ = received(&p, Rxcsum::from_bits_retain(rxcsum));
    }
}
