//! `xdp:` ports as in zero-copy mode: their packets are in memory of their queues' own, although it is the kernel that
//! copies there, since no veth has that mode. `scripts/guest-helper-test zerocopy` has drivers that do.

#![cfg(not(loom))]

mod common;
mod nic;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;
mod veth;

use netmap::{SlotFlags, transfer};

use nic::{frame, new_pair, receive, send};

fn prepare() {
    netmap::fuzz::pretend_zero_copy();
}

#[test]
fn who_sends_alone_has_it_only_if_he_asks() {
    let Some(pair) = new_pair("who_sends_alone_has_it_only_if_he_asks", 1) else { return };
    for (name, says) in [
        ("", "native XDP, zero-copy mode"),
        ("@conf:mode=zerocopy", "native XDP, zero-copy mode"),
        ("@conf:mode=native", "native XDP, the kernel copies"),
        ("/T", "sending only: the stack receives as before, the kernel copies"),
        ("/T@conf:mode=zerocopy", "native XDP, zero-copy mode"),
    ] {
        let port = pair.open(0, name);
        assert_eq!(port.about(), Some(format!("queue 0, {says}")), "{name}");
    }
}

/// Whatever a program does with its slots' buffers, the kernel has others.
#[test]
fn buffers_are_the_programs_alone() {
    let Some(pair) = new_pair("buffers_are_the_programs_alone", 1) else { return };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, "@conf:slots=64"));
    let first = from.tx(0).slot(0).buf_idx();
    for (k, number) in [first, 0, 1, u32::MAX, 1_000_000].into_iter().enumerate() {
        let before = from.counters();
        for i in 0..2 {
            from.tx(0).slot(i).frame().write(0, &frame(60, k));
            from.tx(0).slot(i).set(60, SlotFlags::empty());
        }
        let twice = from.tx(0).slot(0).buf_idx();
        let own = from.tx(0).slot(1).swap_buffer(if k == 0 { twice } else { number });
        from.tx(0).advance(2);
        from.txsync().unwrap();
        // The same buffer twice is two packets; what is none is dropped.
        let good = if k == 0 { 2 } else { 1 };
        for _ in 0..good {
            assert_eq!(receive(&mut to).1, frame(60, k));
        }
        let counted = from.counters().since(&before);
        assert_eq!((counted.tx_packets, counted.tx_drop_bad), (good, 2 - good), "{number}");
        let n = from.tx(0).num_slots();
        for _ in 0..n - 2 {
            send(&mut from, 0, &frame(60, 0));
            receive(&mut to);
        }
        from.tx(0).slot(1).swap_buffer(own);
        send(&mut from, 0, &frame(60, 0));
        send(&mut from, 0, &frame(60, 0));
        receive(&mut to);
        receive(&mut to);
    }
    // A slot that is given back without a buffer: its next packet is nobody's, and all others serve on.
    send(&mut from, 0, &frame(60, 0));
    let ready = to.wait(netmap::Interest::RX, netmap::Wait::default(), Some(nic::FOR_EVER));
    assert_eq!(ready.unwrap(), netmap::Interest::RX);
    to.rx(0).slot(0).swap_buffer(u32::MAX);
    to.rx(0).advance(1);
    to.rxsync().unwrap();
    for i in 0..200 {
        send(&mut from, 0, &frame(61, i));
        let got = receive(&mut to).1;
        assert_eq!(got.len(), 61);
        assert!(i % 64 == 63 || got == frame(61, i), "{i}");
    }
}

/// Buffers are exchanged between two ports in one memory, as a bridge does it, while the NICs have chunks.
#[test]
fn buffers_are_exchanged_with_a_port_of_a_switch() {
    let Some(pair) = new_pair("buffers_are_exchanged_with_a_port_of_a_switch", 1) else { return };
    let mut far = pair.open(1, "");
    let mut near = netmap::Port::open("valeZ:nic").unwrap();
    let mut peer = netmap::Port::open("valeZ:peer").unwrap();
    let memory = netmap::Memory::With(near.memory().unwrap());
    let options = netmap::Options { memory, ..netmap::Options::default() };
    let name = "xdp:v0".parse().unwrap();
    let mut nic = pair.within(0, || netmap::Port::open_with(&name, &options)).unwrap();
    assert!(nic.same_memory(&near));
    for i in 0..3000 {
        let sent = frame(60 + i % 1400, i);
        send(&mut far, 0, &sent);
        nic.wait(netmap::Interest::RX, netmap::Wait::default(), Some(nic::FOR_EVER)).unwrap();
        let moved = transfer(&mut nic.rx(0), &mut near.tx(0), 64, true);
        assert_eq!((moved.packets, moved.bytes), (1, sent.len()));
        near.txsync().unwrap();
        assert_eq!(receive(&mut peer).1, sent);
        send(&mut peer, 0, &sent);
        near.wait(netmap::Interest::RX, netmap::Wait::default(), Some(nic::FOR_EVER)).unwrap();
        assert_eq!(transfer(&mut near.rx(0), &mut nic.tx(0), 64, true).packets, 1);
        nic.txsync().unwrap();
        assert_eq!(receive(&mut far).1, sent);
    }
}
