//! Virtio-net headers in front of frames: who gets what, and what is counted.

mod common;

use common::{frame, mac, open, read, root, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::error::Errno;
use netmap::{Options, Port, SlotFlags};

fn with_header(name: &str, len: u8) -> Port {
    open(name, &Options { vnet_hdr_len: Some(len), ..slots(128) })
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
fn ports_that_differ_exchange_nothing_and_it_is_counted() {
    for backpressure in [false, true] {
        let name = if backpressure { "valeHb" } else { "valeHd" };
        root();
        let o = SwitchOptions { backpressure, persistent: false, ageing: None };
        let plain = open(&format!("{name}:plain"), &slots(128));
        Switch::create(name, &o).unwrap();
        let port = |port, len| with_header(&format!("{name}:{port}"), len);
        let (mut a, mut b, mut c) = (port("a", 12), port("b", 12), port("c", 10));
        let mut plain = plain;
        send(&mut plain, &frame(0xff, 9, 0, 60));
        assert_eq!(plain.counters().tx_drop_vnet_hdr, 3, "a copy for each of the others");
        // To all: those with the same get it, the others are counted.
        send(&mut a, &behind(12, &frame(0xff, 1, 1, 60)));
        assert_eq!(a.counters().tx_drop_vnet_hdr, 2);
        // To one that differs: none gets it.
        for i in 0..10 {
            assert!(a.tx(0).push(&behind(12, &frame(9, 1, i, 60))));
            assert!(a.tx(0).push(&behind(12, &frame(0xff, 1, i, 60))));
        }
        a.txsync().unwrap();
        assert_eq!(a.counters().tx_drop_vnet_hdr, 2 + 10 + 20);
        assert_eq!(a.tx(0).pending(), 0, "nothing is held up");
        assert_eq!(read(&mut b, 0, 99).len(), 11);
        assert!(read(&mut c, 0, 99).is_empty() && read(&mut plain, 0, 99).is_empty());
        // The other one gets what it is sent once it has the same, and the switch is as it was when none has any.
        c.set_vnet_hdr_len(12).unwrap();
        send(&mut a, &behind(12, &frame(0xff, 1, 5, 60)));
        assert_eq!(read(&mut c, 0, 99).len(), 1);
        for port in [&mut a, &mut b, &mut c] {
            port.set_vnet_hdr_len(0).unwrap();
        }
        let before = a.counters().tx_drop_vnet_hdr;
        send(&mut a, &frame(9, 1, 6, 60));
        assert_eq!(read(&mut plain, 0, 99), [frame(9, 1, 6, 60)]);
        assert_eq!(a.counters().tx_drop_vnet_hdr, before);
    }
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
    drop((one, two));
    control::delete_port(&name).unwrap();
    assert_eq!(open("valeHp:x", &slots(64)).vnet_hdr_len(), 0);
}

#[test]
fn mirror_gets_only_what_has_its_headers() {
    let mut a = with_header("valeHm:a", 12);
    let mut b = with_header("valeHm:b", 12);
    let mut same = with_header("valeHm:same", 12);
    let mut other = with_header("valeHm:other", 0);
    let name = |port: &str| format!("valeHm:{port}").parse().unwrap();
    send(&mut b, &behind(12, &frame(0xff, 2, 0, 60)));
    read(&mut same, 0, 9);
    control::set_mirror(&name("a"), Some(&name("same"))).unwrap();
    control::set_mirror(&name("b"), Some(&name("other"))).unwrap();
    send(&mut a, &behind(12, &frame(2, 1, 1, 60)));
    assert_eq!(read(&mut same, 0, 9), [behind(12, &frame(2, 1, 1, 60))]);
    assert!(read(&mut other, 0, 9).is_empty());
}
