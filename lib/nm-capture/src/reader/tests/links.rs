//! Tests of packets that get an Ethernet header.

use super::*;

/// Reads packets of a link type as Ethernet.
fn as_ethernet(link: u32, packets: &[&[u8]]) -> (Vec<Vec<u8>>, Notes) {
    let mut file = file(packets);
    file[20..24].copy_from_slice(&link.to_le_bytes());
    let addresses = Addresses { src: [2; 6], dst: [4; 6] };
    let (seen, notes, end) = read_with(Cursor::new(file), Options::frames(Some(addresses)));
    end.unwrap();
    (seen.into_iter().map(|seen| seen.2).collect(), notes)
}

#[test]
fn raw_ip_becomes_ethernet() {
    let mut v4 = [0x45; 20];
    v4[16..20].copy_from_slice(&[10, 0, 0, 1]);
    let mut group = v4;
    group[16..20].copy_from_slice(&[239, 129, 2, 3]);
    let mut v6 = [0x60; 40];
    v6[24..40].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb]);
    let frame =
        |dst: [u8; 6], protocol: [u8; 2], ip: &[u8]| [&dst[..], &[2; 6], &protocol, ip].concat();
    let expected = [
        frame([4; 6], [8, 0], &v4),
        frame([1, 0, 0x5e, 1, 2, 3], [8, 0], &group),
        frame([0x33, 0x33, 0, 0, 0, 0xfb], [0x86, 0xdd], &v6),
    ];
    for link in [12, 14, 101, 228, 229] {
        let (frames, notes) = as_ethernet(link, &[&v4, &group, &v6, &[0; 20]]);
        assert_eq!(frames, expected, "link type {link}");
        assert_eq!((notes.converted, notes.unconvertible), (3, 1));
    }
    for link in [0, 108] {
        let family = |ip: &[u8]| [&[2, 0, 0, 0], ip].concat();
        let (frames, _) =
            as_ethernet(link, &[&family(&v4), &family(&group), &family(&v6), &[0; 3]]);
        assert_eq!(frames, expected, "link type {link}");
    }
}

#[test]
fn linux_cooked_becomes_ethernet() {
    let mut ip = [0x45; 20];
    ip[16..20].copy_from_slice(&[10, 0, 0, 1]);
    let sll =
        |packet_type: u8, hardware: u8, address_len: u8, protocol: [u8; 2], payload: &[u8]| {
            let head = [0, packet_type, 0, hardware, 0, address_len, 6, 6, 6, 6, 6, 6, 0, 0];
            [&head[..], &protocol, payload].concat()
        };
    let sll2 = |packet_type: u8, protocol: [u8; 2], payload: &[u8]| {
        let head = [0, 0, 0, 0, 0, 3, 0, 1, packet_type, 6, 6, 6, 6, 6, 6, 6, 0, 0];
        [&protocol, &head[..], payload].concat()
    };
    let frame = |dst: [u8; 6], src: [u8; 6], word: [u8; 2], payload: &[u8]| {
        [&dst[..], &src, &word, payload].concat()
    };
    let (frames, notes) = as_ethernet(
        113,
        &[
            &sll(0, 1, 6, [8, 0], &ip),
            &sll(1, 1, 6, [8, 6], &[9; 28]),
            &sll(4, 1, 0, [8, 0], &ip), // from the loopback interface: no address
            &sll(0, 1, 6, [0, 4], b"LLC"), // an 802.2 frame: its length
            &sll(0, 1, 6, [0, 0x0c], b"CAN"),
            b"short",
        ],
    );
    assert_eq!(
        frames,
        [
            frame([4; 6], [6; 6], [8, 0], &ip),
            frame([0xff; 6], [6; 6], [8, 6], &[9; 28]),
            frame([4; 6], [2; 6], [8, 0], &ip),
            frame([4; 6], [6; 6], [0, 3], b"LLC"),
        ]
    );
    assert_eq!((notes.converted, notes.unconvertible), (4, 2));
    let (frames, _) = as_ethernet(276, &[&sll2(0, [8, 0], &ip), &sll2(1, [8, 6], &[9; 28])]);
    assert_eq!(
        frames,
        [frame([4; 6], [6; 6], [8, 0], &ip), frame([0xff; 6], [6; 6], [8, 6], &[9; 28])]
    );
}
