//! The rules one by one, and random frames against a model that builds each segment by itself.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Fault, Header, complete, finish_partial};

#[path = "../tests/packet/mod.rs"]
mod packet;
use packet::{Packet, naive_sum, plus};

fn all(header: &Header, frame: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut segments = complete(header, frame)?;
    let mut out = vec![0xee; segments.longest()];
    let mut frames = vec![];
    while let Some(len) = segments.next_into(&mut out) {
        frames.push(out[..len].to_vec());
    }
    assert_eq!(frames.len(), segments.count());
    Ok(frames)
}

#[test]
fn plain_frame_passes_as_it_is_whatever_is_in_it() {
    let nonsense = [7; 14];
    let valid = Header { flags: Header::DATA_VALID | 0xf8, ..Header::default() };
    assert_eq!(all(&valid, &nonsense).unwrap(), [nonsense.to_vec()]);
    // Padding stays: nobody asked for anything.
    let mut padded = Packet::default().frame(true);
    padded.extend([1, 2, 3]);
    assert_eq!(all(&Header::default(), &padded).unwrap(), [padded]);
}

#[test]
fn checksum_is_filled_in_and_padding_cut() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let packet = Packet { tcp, v6, tags: vec![0x88a8, 0x8100], ..Packet::default() };
        let mut partial = packet.frame(false);
        partial.extend([0xff; 5]);
        assert_eq!(all(&packet.header(0), &partial).unwrap(), [packet.frame(true)]);
    }
}

#[test]
fn checksum_of_zero_is_written_as_ones() {
    for tcp in [true, false] {
        // A payload word that makes the sum all ones.
        let mut packet = Packet { tcp, payload: vec![0, 0, 1], ..Packet::default() };
        let field = packet.field();
        let check = packet.frame(true)[field..field + 2].to_vec();
        packet.payload[..2].copy_from_slice(&check);
        let out = all(&packet.header(0), &packet.frame(false)).unwrap();
        assert_eq!(out[0][field..field + 2], [0xff, 0xff]);
        // The model knows, also of a segment that is the only one; random packets come to it once in 65536 times.
        assert_eq!(out, [packet.finished()]);
        assert_eq!(all(&packet.header(1000), &packet.frame(false)).unwrap(), packet.segments(1000));
        // Segments of TCP keep the zero: the first one is this packet.
        packet.payload.extend([7; 3]);
        let out = all(&packet.header(3), &packet.frame(false)).unwrap();
        assert_eq!(out, packet.segments(3));
        let zero = if tcp { [0, 0] } else { [0xff, 0xff] };
        assert_eq!(out[0][field..field + 2], zero);
    }
}

#[test]
fn checksum_of_another_protocol_reaches_to_the_end() {
    let mut frame = vec![2; 12];
    frame.extend([0x89, 0x02, 1, 2, 3, 4, 0, 0, 5]);
    let header = Header { flags: 1, csum_start: 14, csum_offset: 4, ..Header::default() };
    let out = all(&header, &frame).unwrap();
    let check = !plus(plus(0x0102, 0x0304), 0x0500);
    assert_eq!(out[0][18..20], check.to_be_bytes());
    let before = Header { csum_start: 13, ..header };
    assert_eq!(all(&before, &frame), Err(Fault::ChecksumPlace));
    let behind = Header { csum_offset: 6, ..header };
    assert_eq!(all(&behind, &frame), Err(Fault::ChecksumPlace));
    // Nor do tags belong to the packet.
    let mut tagged = frame.clone();
    tagged.splice(12..12, [0x81, 0, 0x20, 7, 0x88, 0xa8, 0x20, 7]);
    for start in 14..22 {
        let within = Header { csum_start: start, ..header };
        assert_eq!(all(&within, &tagged), Err(Fault::ChecksumPlace), "{start}");
    }
    let out = all(&Header { csum_start: 22, ..header }, &tagged).unwrap();
    assert_eq!(out[0][26..28], check.to_be_bytes());
}

#[test]
fn inner_checksum_of_a_tunnel_is_filled_in() {
    let inner = Packet { payload: vec![1, 2, 3], ..Packet::default() };
    let with = |complete| Packet { payload: inner.frame(complete), ..Packet::udp() };
    // The outer checksum stays the sender's.
    let (outer, done) = (with(false), with(true));
    let start = outer.transport() + 8 + inner.transport();
    let header = Header { csum_start: start as u16, ..inner.header(0) };
    assert_eq!(all(&header, &outer.frame(false)).unwrap(), [done.frame(false)]);
}

#[test]
fn numbers_wrap_and_flags_stand_where_they_belong() {
    let packet = Packet { flags: 0xff, ..Packet::default() };
    let out = all(&packet.header(1000), &packet.frame(false)).unwrap();
    let (ip, tcp) = (packet.network(), packet.transport());
    let ids: Vec<_> = out.iter().map(|f| [f[ip + 4], f[ip + 5]]).collect();
    assert_eq!(ids, [[0xff, 0xfe], [0xff, 0xff], [0, 0]]);
    let numbers: Vec<_> = out.iter().map(|f| f[tcp + 4..tcp + 8].to_vec()).collect();
    let seqs = [u32::MAX - 1000, u32::MAX, 999].map(|seq| seq.to_be_bytes().to_vec());
    assert_eq!(numbers, seqs);
    let flags: Vec<_> = out.iter().map(|f| f[tcp + 13]).collect();
    assert_eq!(flags, [0xf6, 0x76, 0x7f]);
    assert_eq!(out, packet.segments(1000));
}

#[test]
fn header_length_is_no_help_and_must_be_possible() {
    let packet = Packet::default();
    let frame = packet.frame(false);
    for hdr_len in [0, 14, 54, 2000, frame.len() as u16] {
        let header = Header { hdr_len, ..packet.header(1000) };
        assert_eq!(all(&header, &frame).unwrap(), packet.segments(1000));
    }
    for hdr_len in [1, 13, frame.len() as u16 + 1] {
        let header = Header { hdr_len, ..Header::default() };
        assert_eq!(all(&header, &frame), Err(Fault::HeaderLength));
    }
}

#[test]
fn payload_of_one_segment_is_not_split() {
    for packet in [Packet::default(), Packet::udp()] {
        let header = packet.header(packet.payload.len());
        assert_eq!(all(&header, &packet.frame(false)).unwrap(), [packet.frame(true)]);
        let less = packet.header(packet.payload.len() - 1);
        assert_eq!(all(&less, &packet.frame(false)).unwrap().len(), 2);
    }
}

#[test]
fn tcp_that_says_nothing_of_its_checksum_is_completed() {
    for v6 in [false, true] {
        let packet = Packet { v6, ..Packet::default() };
        let mut frame = packet.frame(false);
        frame[packet.field()] ^= 0x55;
        let header = Header { flags: 0, csum_start: 9999, ..packet.header(1448) };
        assert_eq!(all(&header, &frame).unwrap(), packet.segments(1448));
    }
}

#[test]
fn ufo_makes_fragments_of_one_datagram() {
    let packet = Packet::udp();
    let header = Header { gso_type: Header::GSO_UDP, ..packet.header(1483) };
    let out = all(&header, &packet.frame(false)).unwrap();
    let (ip, udp) = (packet.network(), packet.transport());
    let fields: Vec<_> = out.iter().map(|f| f[ip + 4..ip + 8].to_vec()).collect();
    let more = [[0xff, 0xfe, 0x20, 0], [0xff, 0xfe, 0x20, 185], [0xff, 0xfe, 0x01, 114]];
    assert_eq!(fields, more.map(|f| f.to_vec()));
    let together: Vec<u8> = out.iter().flat_map(|f| f[udp..].to_vec()).collect();
    assert_eq!(together, packet.frame(true)[udp..]);
    assert!(out.iter().all(|f| naive_sum(&f[ip..udp]) == 0xffff));

    let tiny = Header { gso_size: 7, ..header };
    assert_eq!(all(&tiny, &packet.frame(false)), Err(Fault::GsoSize));
    let v6 = Packet { v6: true, ..packet };
    let header = Header { gso_type: Header::GSO_UDP, ..v6.header(1480) };
    assert_eq!(all(&header, &v6.frame(false)), Err(Fault::Protocol));
}

/// A change to a frame and its header.
type Break = fn(&Packet, &mut Header, &mut Vec<u8>);

#[test]
fn each_fault_is_found() {
    let tcp: &[(Fault, Break)] = &[
        (Fault::Short, |_, h, f| {
            *h = Header::default();
            f.truncate(13);
        }),
        (Fault::GsoType, |_, h, _| h.gso_type = 2),
        (Fault::GsoType, |_, h, _| h.gso_type = 0x80),
        (Fault::GsoSize, |_, h, _| h.gso_size = 0),
        (Fault::GsoSize, |_, h, _| h.gso_size = 0xffff),
        (Fault::ChecksumPlace, |_, h, f| h.csum_start = f.len() as u16 - 17),
        (Fault::ChecksumPlace, |_, h, _| h.csum_start = 0xffff),
        (Fault::ChecksumPlace, |_, h, _| h.csum_start += 2),
        (Fault::ChecksumPlace, |_, h, _| h.csum_offset = 6),
        (Fault::ChecksumPlace, |p, h, _| {
            *h = p.header(0);
            h.csum_offset = 18;
        }),
        (Fault::ChecksumPlace, |p, h, _| {
            *h = p.header(0);
            h.csum_start = p.network() as u16 + 12;
        }),
        (Fault::Tags, |_, h, f| {
            h.flags = 0;
            f[12..14].copy_from_slice(&[0x81, 0]);
            f.truncate(15);
        }),
        (Fault::Protocol, |_, _, f| f[12..14].copy_from_slice(&[0x89, 2])),
        (Fault::Protocol, |_, h, _| h.gso_type = Header::GSO_TCPV6),
        (Fault::Protocol, |_, h, _| h.gso_type = Header::GSO_UDP_L4),
        (Fault::Protocol, |p, _, f| f[p.network() + 9] = 132),
        (Fault::Ip, |p, _, f| f[p.network()] = 0x55),
        (Fault::Ip, |p, _, f| f[p.network()] = 0x44),
        (Fault::Length, |p, _, f| f[p.network() + 2..][..2].fill(0)),
        (Fault::Length, |p, _, f| f[p.network() + 2..][..2].copy_from_slice(&[0, 19])),
        (Fault::Length, |_, _, f| f.truncate(f.len() - 1)),
        (Fault::Fragment, |p, _, f| f[p.network() + 6] = 0x20),
        (Fault::Fragment, |p, _, f| f[p.network() + 7] = 1),
        (Fault::Fragment, |p, h, f| {
            *h = p.header(0);
            f[p.network() + 7] = 1;
        }),
        (Fault::Transport, |p, _, f| f[p.transport() + 12] = 0x40),
        (Fault::Transport, |p, h, f| {
            f[p.network() + 3] = 39;
            f[p.network() + 2] = 0;
            h.flags = 0;
        }),
    ];
    let udp: &[(Fault, Break)] = &[
        (Fault::GsoType, |_, h, _| h.gso_type |= Header::ECN),
        (Fault::ChecksumMissing, |_, h, _| h.flags = 0),
        (Fault::ChecksumMissing, |_, h, _| (h.flags, h.gso_type) = (0, Header::GSO_UDP)),
        (Fault::Segments, |_, h, _| h.gso_size = 23),
        (Fault::Length, |p, _, f| f[p.transport() + 5] ^= 1),
    ];
    let v6: &[(Fault, Break)] = &[
        (Fault::Ip, |p, _, f| f[p.network()] = 0x45),
        (Fault::Ip, |_, h, f| {
            *h = Header { csum_start: 14, csum_offset: 0, ..*h };
            f.truncate(53);
        }),
        (Fault::Ip, |p, _, f| f[p.network() + 41] = 255),
        (Fault::Length, |p, _, f| f[p.network() + 4..][..2].fill(0)),
        (Fault::Length, |_, _, f| f.truncate(f.len() - 1)),
        (Fault::Fragment, |p, _, f| f[p.network() + 6] = 44),
        (Fault::Protocol, |p, _, f| f[p.network() + 6] = 51),
        (Fault::Protocol, |_, h, _| h.gso_type = Header::GSO_TCPV4),
    ];
    let packets = [
        (Packet::default(), tcp),
        (Packet::udp(), udp),
        (Packet { v6: true, options: vec![60], payload: vec![0; 1500], ..Packet::default() }, v6),
    ];
    for (packet, faults) in packets {
        assert!(all(&packet.header(1000), &packet.frame(false)).is_ok());
        for (i, (fault, make)) in faults.iter().enumerate() {
            let (mut header, mut frame) = (packet.header(1000), packet.frame(false));
            make(&packet, &mut header, &mut frame);
            assert_eq!(all(&header, &frame), Err(*fault), "number {i} of {fault}");
        }
    }
}

#[test]
fn seven_tags_are_followed_and_no_more() {
    let packet = |n| Packet { tags: vec![0x8100; n], ..Packet::default() };
    let seven = packet(7);
    assert_eq!(all(&seven.header(500), &seven.frame(false)).unwrap(), seven.segments(500));
    assert_eq!(all(&packet(8).header(500), &packet(8).frame(false)), Err(Fault::Tags));
}

#[test]
fn partial_checksum_is_known_by_its_value() {
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        let packet = Packet { tcp, v6, tags: vec![0x8100], ..Packet::default() };
        let mut frame = packet.frame(false);
        frame.extend([9; 3]);
        let mut done = packet.frame(true);
        done.extend([9; 3]);
        assert!(finish_partial(&mut frame));
        assert_eq!(frame, done);
        // A complete one stays, and a wrong one, too.
        assert!(!finish_partial(&mut frame));
        frame[packet.field()] ^= 1;
        let wrong = frame.clone();
        assert!(!finish_partial(&mut frame));
        assert_eq!(frame, wrong);
        // Nor is a fragment touched, nor anything short.
        for len in 0..packet.frame(false).len() - packet.payload.len() {
            assert!(!finish_partial(&mut packet.frame(false)[..len]));
        }
    }
    let packet = Packet::default();
    let mut fragment = packet.frame(false);
    fragment[packet.network() + 6] = 0x20;
    assert!(!finish_partial(&mut fragment));
}

/// A frame with a tunnel's header of its own protocol, or of UDP to that port, and all of `inner` behind `header`. The checksum of
/// UDP is right for `done`, which `inner` is to become; none is needed.
fn tunnel(v6: bool, kind: Tunnel, header: &[u8], inner: &[u8], done: Option<&[u8]>) -> Vec<u8> {
    let carried = |inner: &[u8]| [header, inner].concat();
    let with = |payload: Vec<u8>, port: u16| {
        let packet = Packet { v6, tcp: false, payload, ..Packet::default() };
        let mut frame = packet.frame(true);
        let at = packet.transport() + 2;
        let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
        frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
        let field = packet.field();
        let check = u16::from_be_bytes([frame[field], frame[field + 1]]);
        let check = !plus(plus(!check, !old), port);
        frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
        (packet, frame)
    };
    match kind {
        Tunnel::Udp(port) => {
            let (packet, mut frame) = with(carried(inner), port);
            let check = match done {
                Some(done) => with(carried(done), port).1[packet.field()..][..2].to_vec(),
                None => vec![0, 0],
            };
            frame[packet.field()..][..2].copy_from_slice(&check);
            frame
        }
        Tunnel::Protocol(protocol) => {
            let packet = Packet { v6, tcp: false, payload: carried(inner), ..Packet::default() };
            let mut frame = packet.frame(true);
            let (network, transport) = (packet.network(), packet.transport());
            frame.drain(transport..transport + 8);
            let len = (frame.len() - network - if v6 { 40 } else { 0 }) as u16;
            let at = network + if v6 { 4 } else { 2 };
            frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
            frame[network + if v6 { 6 } else { 9 }] = protocol;
            frame
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Tunnel {
    Udp(u16),
    Protocol(u8),
}

#[test]
fn partial_checksum_within_a_tunnel_is_filled_in_and_the_tunnels_own_stays() {
    use Tunnel::{Protocol, Udp};
    for (outer_v6, v6, tcp) in (0..8).map(|i| (i & 1 != 0, i & 2 != 0, i & 4 != 0)) {
        let packet = Packet { v6, tcp, payload: vec![5; 201], ..Packet::default() };
        let (partial, done) = (packet.frame(false), packet.frame(true));
        let ip = packet.network();
        let kind = [partial[ip - 2], partial[ip - 1]];
        let gre = |flags: u8, kind: [u8; 2], optional: usize| {
            [vec![flags, 0, kind[0], kind[1]], vec![3; 4 * optional]].concat()
        };
        let geneve = |words: u8, kind: [u8; 2]| {
            [vec![words, 0, kind[0], kind[1], 0, 0, 7, 0], vec![3; 4 * usize::from(words)]].concat()
        };
        let vxlan = vec![8, 0, 0, 0, 0, 0, 7, 0];
        const ETHERNET: [u8; 2] = [0x65, 0x58];
        for (tunnel_kind, header, from) in [
            (Protocol(if v6 { 41 } else { 4 }), vec![], ip),
            (Protocol(47), gre(0, kind, 0), ip),
            (Protocol(47), gre(0xb0, ETHERNET, 3), 0),
            (Protocol(47), gre(0x20, kind, 1), ip),
            (Udp(4789), vxlan.clone(), 0),
            (Udp(8472), vxlan.clone(), 0),
            (Udp(6081), geneve(0, ETHERNET), 0),
            (Udp(6081), geneve(3, kind), ip),
        ] {
            let (partial, done) = (&partial[from..], &done[from..]);
            for sum in [None, Some(done)] {
                let make = |inner| tunnel(outer_v6, tunnel_kind, &header, inner, sum);
                let mut frame = make(partial);
                frame.extend([9; 3]); // padding
                assert!(finish_partial(&mut frame), "{tunnel_kind:?} {header:?}");
                assert_eq!(frame[..frame.len() - 3], make(done), "{tunnel_kind:?} {header:?}");
                assert!(!finish_partial(&mut frame));
                // One in the other.
                let mut twice = tunnel(false, Udp(4789), &vxlan, &make(partial), None);
                assert!(finish_partial(&mut twice));
                assert_eq!(twice, tunnel(false, Udp(4789), &vxlan, &make(done), None));
                // Cut anywhere, it is survived.
                let whole = make(partial);
                for len in 0..whole.len() - 200 {
                    assert!(!finish_partial(&mut whole[..len].to_vec()));
                }
            }
            // What only looks so, on another port or behind another header.
            let other = match tunnel_kind {
                Udp(_) => tunnel(outer_v6, Udp(4788), &header, partial, None),
                Protocol(_) => tunnel(outer_v6, Protocol(50), &header, partial, None),
            };
            assert!(!finish_partial(&mut other.clone()));
            // A fragment behind the first has the middle of a packet, whatever that looks like.
            if !outer_v6 {
                let mut fragment = tunnel(outer_v6, tunnel_kind, &header, partial, None);
                fragment[14 + 7] = 1;
                assert!(!finish_partial(&mut fragment), "{tunnel_kind:?}");
            }
        }
        for (tunnel_kind, header) in [
            (Protocol(47), gre(0x40, kind, 1)),
            (Protocol(47), vec![0, 1, kind[0], kind[1]]),
            (Protocol(47), vec![0, 0, 8, 6]),
            (Udp(4789), vec![0; 8]),
            (Udp(6081), geneve(0x40, kind)),
            // Options beyond the end.
            (Udp(6081), [vec![0x3f], geneve(0, kind)[1..].to_vec()].concat()),
        ] {
            let mut frame = tunnel(outer_v6, tunnel_kind, &header, &partial[ip..], None);
            assert!(!finish_partial(&mut frame), "{tunnel_kind:?} {header:?}");
        }
    }
}

/// A complete frame whose field equals the pseudo-header's sum by chance.
#[test]
fn complete_checksum_that_looks_partial_stays() {
    for tcp in [true, false] {
        let mut packet = Packet { tcp, payload: vec![0, 0], ..Packet::default() };
        let at = packet.field();
        let field = |frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (partial, check) = (field(&packet.frame(false)), field(&packet.frame(true)));
        // check = !(rest + payload) has to become `partial`.
        let payload = plus(!partial, check);
        packet.payload = payload.to_be_bytes().to_vec();
        let mut frame = packet.frame(true);
        assert_eq!(field(&frame), partial);
        assert!(finish_partial(&mut frame));
        assert_eq!(frame, packet.frame(true));
    }
}

/// The tunnel's own checksum is right for the completed packet, and equals its own pseudo-header's sum by chance: so the packet
/// within has to be completed first.
#[test]
fn tunnels_checksum_that_looks_partial_stays_and_what_is_within_is_filled_in() {
    let packet = Packet { payload: vec![5; 40], ..Packet::default() };
    let (partial, done) = (packet.frame(false), packet.frame(true));
    let with = |network: u16, inner: &[u8]| {
        let [high, low] = network.to_be_bytes();
        tunnel(false, Tunnel::Udp(4789), &[8, 0, 0, 0, high, low, 0, 0], inner, Some(&done))
    };
    let mut looks_partial = 0;
    for network in 0..=u16::MAX {
        let complete = with(network, &done);
        let mut again = complete.clone();
        if finish_partial(&mut again) {
            assert_eq!(again, complete);
            let mut frame = with(network, &partial);
            assert!(finish_partial(&mut frame));
            assert_eq!(frame, complete);
            looks_partial += 1;
        }
    }
    assert!(looks_partial > 0, "one of all networks makes it so");
}

fn words(most: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..=most).prop_flat_map(|words| proptest::collection::vec(1..=255u8, words * 4))
}

fn packets() -> impl Strategy<Value = Packet> {
    let tags = proptest::collection::vec(prop_oneof![Just(0x8100), Just(0x88a8)], 0..4);
    let extensions = proptest::collection::vec(prop_oneof![Just(0), Just(43), Just(60)], 0..4);
    let ip = (any::<bool>(), words(10), extensions, any::<u16>());
    let tcp = (any::<bool>(), any::<u32>(), any::<u8>(), words(10));
    let payload = proptest::collection::vec(any::<u8>(), 1..4000);
    (tags, ip, tcp, payload).prop_map(|(tags, ip, tcp, payload)| {
        let (v6, v4_options, extensions, id) = ip;
        let (tcp, seq, flags, tcp_options) = tcp;
        let options = if v6 { extensions } else { v4_options };
        Packet { tags, v6, options, id, tcp, seq, flags, tcp_options, payload }
    })
}

#[test]
fn corpus_of_the_fuzz_target_holds() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/complete");
    let mut files: Vec<_> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus {dir:?} is empty");
    for file in files {
        std::println!("{}", file.display()); // shown if the harness panics
        crate::fuzz::complete(&std::fs::read(&file).unwrap());
    }
}

proptest! {
    #[test]
    fn segments_are_what_the_model_builds(packet in packets(), size in 40usize..3000, behind in 0usize..9) {
        let mut frame = packet.frame(false);
        frame.extend(vec![0xbb; behind]);
        prop_assert_eq!(all(&packet.header(size), &frame).unwrap(), packet.segments(size));
        prop_assert_eq!(all(&packet.header(0), &frame).unwrap(), [packet.finished()]);
    }

    #[test]
    fn harness_holds_for_any_input(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzz::complete(&data);
    }
}
