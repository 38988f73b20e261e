//! Packet formats against a naive computation, byte by byte: what templates make, what the checker
//! accepts and refuses, what turning around leaves valid. And that nm-pktgen's packets are ours.

#[path = "../../driver/tests/fake/mod.rs"]
mod fake;

use e1000pv_driver::{Buffer, Config, Nic};
use fake::{Bar0, Machine};
use guest_workload::{Addresses, SIZE_MAX, SIZE_MIN, Seen, Template, judge, turn};
use nm_stream::{Kind, Mark};
use proptest::prelude::*;

/// A device, for its buffers.
fn nic() -> Nic<Bar0> {
    let machine = Machine::new(1, &[false], 1 << 20);
    let config = Config { tx_descriptors: 8, rx_descriptors: 8, ..Config::default() };
    let mut dma = machine.clone();
    Nic::new(machine.bar(0), &mut dma, &machine, &config).expect("starts")
}

fn put(buffer: &Buffer, frame: &[u8]) {
    // What an earlier, longer packet left behind must not matter.
    buffer.write(&[0xa5; 2048]);
    for (at, word) in frame.chunks(8).enumerate() {
        let mut bytes = buffer.word(at).to_le_bytes();
        bytes[..word.len()].copy_from_slice(word);
        buffer.set_word(at, u64::from_le_bytes(bytes));
    }
}

fn bytes(buffer: &Buffer, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    buffer.read(&mut frame);
    frame
}

fn be16(frame: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]))
}

/// Ones-complement sum of big-endian halves, as RFC 1071 defines it.
fn sum(parts: &[&[u8]]) -> u16 {
    let all = parts.concat();
    let mut sum: u32 = all
        .chunks(2)
        .map(|half| u32::from(half[0]) << 8 | half.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The naive receiver: true if lengths and checksums are right.
fn valid(frame: &[u8]) -> bool {
    let ip_bytes = be16(frame, 16);
    let udp_bytes = be16(frame, 38);
    let padded = frame.len() == 60 && 14 + ip_bytes < 60;
    if !(14 + ip_bytes == frame.len() || padded) || ip_bytes < 28 || udp_bytes != ip_bytes - 20 {
        return false;
    }
    let end = 34 + udp_bytes;
    let length = (udp_bytes as u16).to_be_bytes();
    let udp_sum = sum(&[&frame[26..34], &[0, 17], &length, &frame[34..end]]);
    sum(&[&frame[14..34]]) == 0xffff && (be16(frame, 40) == 0 || udp_sum == 0xffff)
}

fn addresses(n: u128) -> Addresses {
    let b = n.to_be_bytes();
    Addresses {
        src_mac: [2, b[0], b[1], b[2], b[3], b[4]],
        dst_mac: [4, b[5], b[6], b[7], b[8], b[9]],
        src_ip: [b[10], b[11], b[12], b[13]],
        dst_ip: [b[14], b[15], b[0], b[1]],
        src_port: u16::from_be_bytes([b[2], b[3]]),
        dst_port: u16::from_be_bytes([b[4], b[5]]),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Seq), Just(Kind::Ping), Just(Kind::Pong)]
}

proptest! {
    #[test]
    fn stamped_packets_are_valid_and_carry_their_mark(
        n: u128, size in SIZE_MIN..=SIZE_MAX, run: u16, kind in kinds(), thread: u8,
        seqs in proptest::collection::vec(any::<u64>(), 1..5),
    ) {
        let nic = nic();
        let slot = nic.tx_slot(0);
        let mark = Mark { seq: 0, run, kind, thread, value: 0 };
        let template = Template::new(&addresses(n), size, mark);
        template.lay(slot.buffer());
        // One buffer, several packets, as in a ring.
        for seq in seqs {
            template.stamp(slot.buffer(), seq as u32, seq);
            let frame = bytes(slot.buffer(), size);
            prop_assert!(valid(&frame));
            prop_assert_ne!(be16(&frame, 40), 0, "zero would say that there is no checksum");
            prop_assert_eq!(&frame[..6], &addresses(n).dst_mac);
            prop_assert_eq!(&frame[26..30], &addresses(n).src_ip);
            prop_assert_eq!(be16(&frame, 36), usize::from(addresses(n).dst_port));
            prop_assert_eq!(&frame[42..46], &(seq as u32).to_be_bytes());
            prop_assert_eq!(&frame[46..48], &run.to_be_bytes());
            prop_assert_eq!((frame[48], frame[49]), (kind as u8, thread));
            prop_assert_eq!(&frame[50..58], &seq.to_be_bytes());
            prop_assert!(frame[58..].iter().all(|&byte| byte == 0));
            let seen = Mark { seq: seq as u32, value: seq, ..mark };
            prop_assert_eq!(judge(slot.buffer(), size), Seen::Marked(seen));
        }
    }

    #[test]
    fn judge_agrees_with_the_naive_receiver_on_damaged_frames(
        n: u128, size in SIZE_MIN..=SIZE_MAX, seq: u64, damage in proptest::collection::vec((0usize..1514, any::<u8>()), 0..3),
        cut in prop_oneof![4 => Just(0usize), 1 => 1usize..60], none: bool,
    ) {
        let nic = nic();
        let buffer = nic.tx_slot(0).buffer();
        let mark = Mark { seq: 0, run: 1, kind: Kind::Seq, thread: 0, value: 0 };
        let template = Template::new(&addresses(n), size, mark);
        template.lay(buffer);
        template.stamp(buffer, seq as u32, seq);
        let mut frame = bytes(buffer, size - cut);
        if none && frame.len() >= 42 {
            frame[40..42].fill(0);
        }
        for (at, byte) in damage {
            let at = at % frame.len();
            frame[at] ^= byte;
        }
        put(buffer, &frame);
        let seen = judge(buffer, frame.len());
        let ours = frame.len() >= 42
            && frame[12..15] == [0x08, 0x00, 0x45]
            && frame[23] == 17
            && frame[20] & 0x3f == 0
            && frame[21] == 0;
        if !ours {
            prop_assert_eq!(seen, Seen::Foreign);
        } else {
            prop_assert_eq!(seen != Seen::Bad, valid(&frame), "{:?}", seen);
        }
    }

    #[test]
    fn any_frame_of_any_length_is_judged(
        frame in proptest::collection::vec(any::<u8>(), 0..2048), len in 0usize..=2048,
    ) {
        let nic = nic();
        let buffer = nic.tx_slot(0).buffer();
        put(buffer, &frame);
        let _ = judge(buffer, len);
        // The same with a header that leads further.
        let mut frame = frame;
        frame.resize(frame.len().max(24), 0);
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[20..22].fill(0);
        frame[23] = 17;
        put(buffer, &frame);
        let _ = judge(buffer, len);
    }

    #[test]
    fn turned_packets_are_valid_and_go_back(n: u128, size in SIZE_MIN..=SIZE_MAX, time: u64, none: bool) {
        let nic = nic();
        let buffer = nic.tx_slot(0).buffer();
        let (there, mark) = (addresses(n), Mark { seq: 9, run: 3, kind: Kind::Ping, thread: 2, value: time });
        let template = Template::new(&there, size, mark);
        template.lay(buffer);
        template.stamp(buffer, 9, time);
        if none {
            buffer.set_word(5, buffer.word(5) & !0xffff);
        }
        turn(buffer, Some(mark));
        let back = bytes(buffer, size);
        prop_assert!(valid(&back));
        prop_assert_eq!(be16(&back, 40) == 0, none);
        prop_assert_eq!(judge(buffer, size), Seen::Marked(Mark { kind: Kind::Pong, ..mark }));
        let answer = Addresses {
            src_mac: there.dst_mac,
            dst_mac: there.src_mac,
            src_ip: there.dst_ip,
            dst_ip: there.src_ip,
            src_port: there.dst_port,
            dst_port: there.src_port,
        };
        let template = Template::new(&answer, size, Mark { kind: Kind::Pong, ..mark });
        template.lay(buffer);
        template.stamp(buffer, 9, time);
        let expected = bytes(buffer, size);
        prop_assert_eq!(&back[..40], &expected[..40]);
        prop_assert_eq!(&back[42..], &expected[42..]);
    }
}

#[test]
fn packet_of_nm_pktgen_is_understood() {
    // The last of nm-pktgen -f txseq -n 6 -S 02:00:00:00:00:02 -D 02:00:00:00:00:01.
    let frame: [u8; 60] = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x08, 0x00, 0x45,
        0x00, 0x00, 0x2e, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x26, 0xbd, 0x0a, 0x00, 0x00, 0x01,
        0x0a, 0x01, 0x00, 0x01, 0x04, 0xd2, 0x04, 0xd2, 0x00, 0x1a, 0x73, 0xe8, 0x00, 0x00, 0x00,
        0x05, 0xc9, 0x20, 0xa5, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00,
    ];
    let nic = nic();
    let buffer = nic.tx_slot(0).buffer();
    put(buffer, &frame);
    let mark = Mark { seq: 5, run: 0xc920, kind: Kind::Seq, thread: 0, value: 5 };
    assert_eq!(judge(buffer, 60), Seen::Marked(mark));
}

#[test]
fn padded_and_foreign_frames_are_not_bad() {
    let nic = nic();
    let buffer = nic.tx_slot(0).buffer();
    let mark = Mark { seq: 0, run: 0, kind: Kind::Seq, thread: 0, value: 0 };
    Template::new(&addresses(7), 60, mark).lay(buffer);
    let mut frame = bytes(buffer, 60);
    // A datagram of 4 bytes without checksum, padded to 60.
    frame[16..18].copy_from_slice(&32u16.to_be_bytes());
    frame[38..40].copy_from_slice(&12u16.to_be_bytes());
    frame[24..26].fill(0);
    let check = !sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    put(buffer, &frame);
    assert_eq!(judge(buffer, 60), Seen::Plain);
    assert_eq!(judge(buffer, 61), Seen::Bad, "only the shortest frame may be padded");
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    put(buffer, &frame);
    assert_eq!(judge(buffer, 60), Seen::Foreign);
}
