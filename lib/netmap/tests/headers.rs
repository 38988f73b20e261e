//! Virtio-net headers in front of frames: who gets what, and what is counted.

mod common;

use common::{frame, mac, open, read, root, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::error::Errno;
use netmap::{Direction, Offsets, Options, Port, SlotFlags};
use offload::Header;

fn with_header(name: &str, len: u8) -> Port {
    open(name, &Options { vnet_hdr_len: Some(len), ..slots(128) })
}

fn switch(name: &str, backpressure: bool) {
    root();
    let o = SwitchOptions { backpressure, persistent: true, ageing: None };
    Switch::create(name, &o).unwrap();
}

/// A frame behind a header.
fn behind(header: usize, frame: &[u8]) -> Vec<u8> {
    (0..header as u8).map(|i| 0xe0 | i).chain(frame.iter().copied()).collect()
}

fn send(port: &mut Port, packet: &[u8]) {
    assert!(port.tx(0).push(packet));
    port.txsync().unwrap();
}

/// Queues one packet of these fragments.
fn push_fragments(port: &mut Port, fragments: &[&[u8]]) {
    let mut ring = port.tx(0);
    for (i, fragment) in fragments.iter().enumerate() {
        let slot = ring.slot(i);
        slot.frame().write(0, fragment);
        let last = i + 1 == fragments.len();
        slot.set(fragment.len(), if last { SlotFlags::empty() } else { SlotFlags::MOREFRAG });
    }
    ring.advance(fragments.len());
    port.txsync().unwrap();
}

#[test]
fn frames_pass_with_their_headers_between_ports_with_the_same() {
    for (len, switch) in [(10, "valeH10"), (12, "valeH12")] {
        let port = |name| with_header(&format!("{switch}:{name}"), len);
        let (mut x, mut y, mut z) = (port("x"), port("y"), port("z"));
        assert_eq!(x.vnet_hdr_len(), len);
        let header = len.into();
        send(&mut x, &behind(header, &frame(2, 1, 1, 60)));
        assert_eq!(read(&mut y, 0, 9), [behind(header, &frame(2, 1, 1, 60))]);
        assert_eq!(read(&mut z, 0, 9).len(), 1, "unknown: to everybody");
        // Addresses are learnt behind the header.
        send(&mut y, &behind(header, &frame(1, 2, 2, 1000)));
        assert_eq!(read(&mut x, 0, 9), [behind(header, &frame(1, 2, 2, 1000))]);
        assert!(read(&mut z, 0, 9).is_empty());
        let fdb = Switch::open(switch).unwrap().fdb().unwrap();
        let mut known: Vec<_> = fdb.iter().map(|entry| (entry.mac, entry.port.as_str())).collect();
        known.sort_unstable();
        assert_eq!(known, [(mac(1), "x"), (mac(2), "y")]);
        // A large one, to be cut into segments by whoever gets it: whole.
        let large = behind(header, &frame(2, 1, 3, 65_500));
        send(&mut x, &large);
        assert_eq!(read(&mut y, 0, 9), [large]);
        assert_eq!(x.counters().tx_drop_vnet_hdr + y.counters().tx_drops(), 0);
    }
}

#[test]
fn header_may_be_a_fragment_of_its_own_and_nothing_else_may_be_cut() {
    let mut x = with_header("valeHf:x", 12);
    let mut y = with_header("valeHf:y", 12);
    let whole = behind(12, &frame(2, 1, 1, 60));
    send(&mut y, &behind(12, &frame(0xff, 2, 0, 60)));
    push_fragments(&mut x, &[&whole[..12], &whole[12..]]);
    push_fragments(&mut x, &[&whole[..26], &whole[26..]]);
    assert_eq!(read(&mut y, 0, 9), [whole.clone(), whole.clone()]);
    for cut in [3, 11, 13, 25] {
        push_fragments(&mut x, &[&whole[..cut], &whole[cut..]]);
    }
    send(&mut x, &whole[..12]);
    send(&mut x, &whole[..25]);
    push_fragments(&mut x, &[&whole[..12], &whole[12..20]]);
    assert!(read(&mut y, 0, 9).is_empty());
    assert_eq!(x.counters().tx_drop_short, 7);
}

#[test]
fn headers_are_added_cut_and_lengthened_between_ports_that_differ() {
    for backpressure in [false, true] {
        let name = if backpressure { "valeHb" } else { "valeHd" };
        switch(name, backpressure);
        let port = |port, len| with_header(&format!("{name}:{port}"), len);
        let (mut plain, mut a, mut b, mut c) =
            (port("plain", 0), port("a", 12), port("b", 12), port("c", 10));
        let zeros = |n: usize, frame: &[u8]| [&vec![0; n][..], frame].concat();

        let f = frame(0xff, 9, 0, 60);
        send(&mut plain, &f);
        assert_eq!(read(&mut a, 0, 9), [zeros(12, &f)]);
        assert_eq!(read(&mut b, 0, 9), [zeros(12, &f)]);
        assert_eq!(read(&mut c, 0, 9), [zeros(10, &f)]);

        // What the header says is passed on, and is nothing to a port that has one, too.
        let (f, large) = (frame(0xff, 1, 1, 60), frame(0xff, 1, 2, 65_549));
        for f in [&f, &large] {
            send(&mut a, &behind(12, f));
            assert_eq!(read(&mut b, 0, 9), [behind(12, f)]);
            assert_eq!(read(&mut c, 0, 9), [behind(10, f)]);
        }
        send(&mut c, &behind(10, &f));
        assert_eq!(read(&mut b, 0, 9), [[&behind(10, &[])[..], &[0, 0], &f].concat()]);
        // To a port that has none, it says nonsense: an unknown type of segmentation.
        assert!(read(&mut plain, 0, 9).is_empty());
        assert_eq!(a.counters().tx_drop_vnet_hdr, 2);
        assert_eq!(c.counters().tx_drop_vnet_hdr, 1);

        // To one, in order with what is for everybody.
        for i in 0..10 {
            assert!(a.tx(0).push(&zeros(12, &frame(9, 1, i, 60))));
            assert!(a.tx(0).push(&zeros(12, &frame(0xff, 1, i, 70))));
        }
        a.txsync().unwrap();
        let both = (0..10).flat_map(|i| [frame(9, 1, i, 60), frame(0xff, 1, i, 70)]);
        assert_eq!(read(&mut plain, 0, 99), both.collect::<Vec<_>>());
        assert_eq!((read(&mut b, 0, 99).len(), read(&mut c, 0, 99).len()), (10, 10));
        assert_eq!(a.counters().tx_drops(), 2);

        // The switch is as it was when none has any.
        for port in [&mut a, &mut b, &mut c] {
            port.set_vnet_hdr_len(0).unwrap();
        }
        send(&mut a, &frame(9, 1, 6, 60));
        assert_eq!(read(&mut plain, 0, 99), [frame(9, 1, 6, 60)]);
    }
}

/// A TCP packet over IPv4 from station 1, and a header that leaves its checksum and its division to others.
fn tcp(dst: u8, payload: usize, segment: u16) -> (Header, Vec<u8>) {
    let mut f = [&mac(dst)[..], &mac(1), &[8, 0, 0x45, 0]].concat();
    f.extend((40 + payload as u16).to_be_bytes());
    f.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend([0, 80, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x50, 0x98, 1, 0]);
    // 10.0.0.1, 10.0.0.2, TCP, and the length.
    let sum = 0x0a00u32 + 1 + 0x0a00 + 2 + 6 + 20 + payload as u32;
    f.extend(((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
    f.extend([0, 0]);
    f.extend((0..payload).map(|i| (i * 13) as u8));
    let gso_type = if segment == 0 { Header::GSO_NONE } else { Header::GSO_TCPV4 };
    let flags = Header::NEEDS_CSUM;
    let (csum_start, csum_offset) = (34, 16);
    (Header { flags, gso_type, hdr_len: 54, gso_size: segment, csum_start, csum_offset }, f)
}

/// Behind its header, as a packet of a port.
fn with(len: usize, (header, frame): &(Header, Vec<u8>)) -> Vec<u8> {
    let mut packet = vec![0; len];
    header.write(&mut packet);
    [packet, frame.clone()].concat()
}

/// What it stands for.
fn completed((header, frame): &(Header, Vec<u8>)) -> Vec<Vec<u8>> {
    let mut segments = offload::complete(header, frame).unwrap();
    let mut out = vec![0; segments.longest()];
    std::iter::from_fn(|| segments.next_into(&mut out).map(|len| out[..len].to_vec())).collect()
}

#[test]
fn frame_with_offloads_is_completed_for_a_port_without_them() {
    for len in [10u8, 12] {
        let port = |port: &str, header| with_header(&format!("valeHo{len}:{port}"), header);
        let (mut x, mut y, mut z) = (port("x", len), port("y", 0), port("z", 22 - len));
        // A checksum alone; segments; segments of several buffers each; the longest there is.
        for (payload, segment) in
            [(100, 0), (3000, 1000), (40_000, 9000), (65_495, 1448), (65_495, 65_000)]
        {
            for dst in [0xff, 2] {
                let frame = tcp(dst, payload, segment);
                send(&mut x, &with(len.into(), &frame));
                let received = read(&mut y, 0, 99);
                assert_eq!(received, completed(&frame), "{payload} {segment}");
                let whole = with(usize::from(22 - len), &frame);
                assert_eq!(read(&mut z, 0, 99), if dst == 0xff { vec![whole] } else { vec![] });
                // y gets known, and answers.
                let answer = [&mac(1)[..], &mac(2), &[0x88, 0xb5], &[0; 46]].concat();
                send(&mut y, &answer);
                assert_eq!(read(&mut x, 0, 9), [[vec![0; len.into()], answer].concat()]);
            }
        }
        assert_eq!(x.counters().tx_drops() + y.counters().tx_drops(), 0);
        assert_eq!(y.counters().rx_packets, 2 * (1 + 3 + 5 + 46 + 2));
    }
}

#[test]
fn segments_are_put_all_or_none() {
    for backpressure in [false, true] {
        let name = if backpressure { "valeHs" } else { "valeHt" };
        switch(name, backpressure);
        let mut x = with_header(&format!("{name}:x"), 12);
        let mut y = open(&format!("{name}:y"), &slots(64));
        let (many, few) = (tcp(0xff, 40_000, 1000), tcp(0xff, 100, 0));
        let send_both = |x: &mut Port| {
            assert!(x.tx(0).push(&with(12, &many)) && x.tx(0).push(&with(12, &few)));
            x.txsync().unwrap();
        };
        // 40 and 1, then 40 that do not fit; what comes behind them stays behind them.
        send_both(&mut x);
        send_both(&mut x);
        if backpressure {
            assert!(x.tx(0).pending() > 0);
            assert_eq!(read(&mut y, 0, 99).len(), 41);
            x.txsync().unwrap();
            assert_eq!(x.tx(0).pending(), 0);
            let all = [completed(&many), completed(&few)].concat();
            assert_eq!(read(&mut y, 0, 99), all);
            assert_eq!(x.counters().tx_drops(), 0);
        } else {
            assert_eq!(read(&mut y, 0, 99).len(), 41);
            assert_eq!((x.counters().tx_drop_full, y.counters().rx_drop_full), (2, 2));
        }
        // More than the ring could ever hold: makes way.
        let endless = tcp(0xff, 40_000, 500);
        assert!(x.tx(0).push(&with(12, &endless)) && x.tx(0).push(&with(12, &few)));
        x.txsync().unwrap();
        assert_eq!(x.tx(0).pending(), 0);
        assert_eq!(read(&mut y, 0, 99), completed(&few));
        assert_eq!(x.counters().tx_drop_bad, 1);
    }
}

#[test]
fn frame_that_cannot_be_completed_is_dropped_where_that_would_be_needed() {
    for backpressure in [false, true] {
        let name = if backpressure { "valeHu" } else { "valeHv" };
        switch(name, backpressure);
        let port = |port: &str, header| with_header(&format!("{name}:{port}"), header);
        let (mut x, mut y, mut z) = (port("x", 12), port("y", 0), port("z", 12));
        let good = tcp(0xff, 3000, 1000);
        let (mut silly, mut beyond, mut cut) = (good.clone(), good.clone(), good.clone());
        silly.0.gso_type = 77;
        beyond.0.csum_start = 9999;
        cut.1.truncate(500);
        for frame in [&silly, &good, &beyond, &cut] {
            assert!(x.tx(0).push(&with(12, frame)));
        }
        x.txsync().unwrap();
        assert_eq!(x.tx(0).pending(), 0);
        assert_eq!(read(&mut y, 0, 9), completed(&good));
        assert_eq!(read(&mut z, 0, 9).len(), 4, "it may look at them itself");
        assert_eq!((x.counters().tx_drop_vnet_hdr, x.counters().tx_drops()), (3, 3));
    }
}

#[test]
fn who_watches_sees_what_there_is_to_see() {
    let mut x = with_header("valeHw:x", 12);
    let mut y = with_header("valeHw:y", 0);
    let mut same = with_header("valeHw:same", 12);
    let mut plain = with_header("valeHw:plain", 0);
    let name = |port: &str| format!("valeHw:{port}").parse().unwrap();
    send(&mut y, &frame(0xff, 2, 0, 60));
    for port in [&mut x, &mut same, &mut plain] {
        assert_eq!(read(port, 0, 9).len(), 1);
    }
    let mut sent = open("valeHw:x/t", &slots(128));
    let mut received = open("valeHw:y/r", &slots(128));
    assert_eq!((sent.vnet_hdr_len(), received.vnet_hdr_len()), (12, 0), "their port's");
    control::set_mirror(&name("x"), Some(&name("same"))).unwrap();
    control::set_mirror(&name("y"), Some(&name("plain"))).unwrap();
    let (good, mut bad) = (tcp(2, 3000, 1000), tcp(2, 100, 0));
    bad.0.csum_offset = 17;
    send(&mut x, &with(12, &bad));
    send(&mut x, &with(12, &good));
    assert_eq!(read(&mut y, 0, 9), completed(&good));
    // A mirror is a port as any other, and gets what its headers allow.
    assert_eq!(read(&mut same, 0, 9), [with(12, &bad), with(12, &good)]);
    assert_eq!(read(&mut plain, 0, 9), completed(&good));
    assert_eq!(plain.counters().rx_drop_bad, 1);
    // A monitor sees what is in its port's ring.
    assert_eq!(read(&mut sent, 0, 9), [with(12, &bad), with(12, &good)]);
    assert_eq!(read(&mut received, 0, 9), completed(&good));
}

#[test]
fn data_in_the_programs_memory_are_completed_and_offsets_kept() {
    let mut x = with_header("valeHi:x", 10);
    let offsets = Offsets { max: 60, initial: 60, ..Offsets::default() };
    let mut y = open("valeHi:y", &Options { offsets: Some(offsets), ..slots(128) });
    let frame = tcp(0xff, 30_000, 7000);
    let packet = with(10, &frame);
    // SAFETY: the packet outlives the port's last txsync.
    unsafe { x.allow_indirect(packet.as_ptr(), packet.len()) }.unwrap();
    let parts: Vec<_> =
        [&packet[..10], &packet[10..100]].into_iter().chain(packet[100..].chunks(2000)).collect();
    let mut ring = x.tx(0);
    for (i, part) in parts.iter().enumerate() {
        let more = if i + 1 < parts.len() { SlotFlags::MOREFRAG } else { SlotFlags::empty() };
        ring.slot(i).set_indirect(part.as_ptr(), part.len(), more);
    }
    ring.advance(parts.len());
    x.txsync().unwrap();
    assert_eq!(x.counters().tx_drops(), 0);
    y.rxsync().unwrap();
    let (mut received, mut packet) = (vec![], vec![]);
    for slot in y.rx(0).batch(99) {
        assert_eq!(slot.offset(), 60);
        packet.extend(slot.frame_at(60).to_vec());
        if !slot.more_frag() {
            received.push(std::mem::take(&mut packet));
        }
    }
    assert_eq!(received, completed(&frame));
}

#[test]
fn capture_that_is_told_of_headers_holds_complete_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcap");
    let name = format!("pcap:{}", path.display()).parse().unwrap();
    let o = Options { direction: Direction::TxOnly, vnet_hdr_len: Some(12), ..Options::default() };
    let mut capture = Port::open_with(&name, &o).unwrap();
    assert_eq!(capture.vnet_hdr_len(), 12);
    let (good, mut bad) = (tcp(2, 3000, 1000), tcp(2, 3000, 1000));
    bad.0.gso_type = 2;
    send(&mut capture, &with(12, &bad));
    send(&mut capture, &with(12, &good));
    assert_eq!(capture.counters().tx_drop_bad, 1);
    capture.finish().unwrap();
    let mut reader = nm_capture::Reader::open(&path, nm_capture::Options::default()).unwrap();
    let frames = std::iter::from_fn(|| reader.next().unwrap().map(|packet| packet.data.to_vec()));
    assert_eq!(frames.collect::<Vec<_>>(), completed(&good));
    assert_eq!(capture.set_vnet_hdr_len(11).unwrap_err().errno(), Errno::EINVAL);
    // What comes from one needs nothing.
    let o = Options { direction: Direction::RxOnly, vnet_hdr_len: Some(12), ..Options::default() };
    let mut replay = Port::open_with(&name, &o).unwrap();
    let zeros = |frame: Vec<u8>| [vec![0; 12], frame].concat();
    let all: Vec<_> = completed(&good).into_iter().map(zeros).collect();
    assert_eq!(read(&mut replay, 0, 9), all);
}

#[test]
fn length_is_the_ports_and_goes_with_it() {
    root();
    let name = "valeHp:x".parse().unwrap();
    control::create_port(&name, &Options { vnet_hdr_len: Some(10), ..slots(64) }).unwrap();
    let mut one = Port::open("valeHp:x").unwrap();
    let two = Port::open("valeHp:x").unwrap();
    assert_eq!(two.vnet_hdr_len(), 10);
    one.set_vnet_hdr_len(12).unwrap();
    assert_eq!(two.vnet_hdr_len(), 12);
    let info = Switch::open("valeHp").unwrap().info().unwrap();
    assert_eq!(info.ports[0].vnet_hdr_len, 12);
    // Settings of the switch leave it alone.
    Switch::open("valeHp").unwrap().set_ageing(None).unwrap();
    assert_eq!(two.vnet_hdr_len(), 12);
    for bad in [1, 9, 11, 13, 255] {
        assert_eq!(one.set_vnet_hdr_len(bad).unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(control::set_vnet_hdr_len(&name, bad).unwrap_err().errno(), Errno::EINVAL);
    }
    let e = Port::open("null:").unwrap().set_vnet_hdr_len(12).unwrap_err();
    assert_eq!(e.errno(), Errno::ENXIO);
    // By the name, of a port that is there as well; who watches changes nothing.
    assert_eq!(open("valeHp:x@conf:vnet-hdr=10", &slots(64)).vnet_hdr_len(), 10);
    assert_eq!((one.vnet_hdr_len(), Port::open("valeHp:x").unwrap().vnet_hdr_len()), (10, 10));
    let e = Port::open("valeHp:x/r").unwrap().set_vnet_hdr_len(12).unwrap_err();
    assert_eq!(e.errno(), Errno::ENXIO);
    let mut named: netmap::PortName = "valeHp:y@conf:vnet-hdr=12".parse().unwrap();
    control::create_port(&named, &slots(64)).unwrap();
    assert_eq!(Port::open("valeHp:y").unwrap().vnet_hdr_len(), 12);
    named.conf.vnet_hdr_len = Some(11);
    assert!(Port::open_with(&named, &slots(64)).is_err());
    drop((one, two));
    control::delete_port(&name).unwrap();
    assert_eq!(open("valeHp:x", &slots(64)).vnet_hdr_len(), 0);
}
