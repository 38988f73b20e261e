//! Ports by hand: what opens, what is refused and why, what each option does.

mod common;

use std::time::{Duration, Instant};

use common::{frame, mac, open, read, root, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::{
    Capabilities, Direction, Error, Interest, Memory, Options, Port, SlotFlags, Wait, transfer,
};

fn send(port: &mut Port, f: &[u8]) {
    assert!(port.tx(0).push(f));
    port.txsync().unwrap();
}

#[test]
fn switch_appears_with_its_first_port_and_goes_with_its_last() {
    root();
    let x = Port::open("valeS1:x").unwrap();
    let y = Port::open("valeS1:y").unwrap();
    let info = Switch::open("valeS1").unwrap().info().unwrap();
    assert_eq!(info.ports.len(), 2);
    assert_eq!(info.ports[0].users[0].pid, std::process::id());
    drop(x);
    assert_eq!(Switch::open("valeS1").unwrap().info().unwrap().ports.len(), 1);
    drop(y);
    assert!(matches!(Switch::open("valeS1"), Err(Error::NotFound { .. })));
    assert!(!root().join("valeS1").exists());
    let left: Vec<_> = std::fs::read_dir(root().join("mem"))
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().into_string().ok())
        .collect();
    // Other tests have regions; those of this switch went with its ports.
    assert!(left.iter().all(|f| f.len() <= 16), "{left:?}");
}

#[test]
fn learning_turns_flooding_into_unicast() {
    let (mut a, mut b, mut c) =
        (open("valeL:a", &slots(64)), open("valeL:b", &slots(64)), open("valeL:c", &slots(64)));
    send(&mut a, &frame(2, 1, 0, 60));
    assert_eq!((read(&mut b, 0, 9).len(), read(&mut c, 0, 9).len()), (1, 1));
    send(&mut b, &frame(1, 2, 1, 60));
    assert_eq!(read(&mut a, 0, 9), [frame(1, 2, 1, 60)]);
    assert_eq!(read(&mut c, 0, 9).len(), 0);
    assert_eq!(read(&mut b, 0, 9).len(), 0, "no hairpin");
    // The station moves to another port.
    send(&mut c, &frame(1, 2, 2, 60));
    assert_eq!(read(&mut a, 0, 9).len(), 1);
    send(&mut a, &frame(2, 1, 3, 60));
    assert_eq!((read(&mut b, 0, 9).len(), read(&mut c, 0, 9).len()), (0, 1));
    // A multicast source is not learnt.
    let mut odd = frame(0xff, 9, 4, 60);
    odd[6] = 3;
    send(&mut a, &odd);
    let fdb = Switch::open("valeL").unwrap().fdb().unwrap();
    assert!(fdb.iter().all(|e| e.mac[0] & 1 == 0) && fdb.len() == 2, "{fdb:?}");
}

#[test]
fn addresses_age_and_flush() {
    let (mut a, b) = (open("valeG:a", &slots(64)), open("valeG:b", &slots(64)));
    let switch = Switch::open("valeG").unwrap();
    switch.set_ageing(Some(Duration::from_millis(200))).unwrap();
    send(&mut a, &frame(2, 1, 0, 60));
    let learnt = switch.fdb().unwrap();
    assert_eq!((learnt.len(), learnt[0].mac, learnt[0].port.as_str()), (1, mac(1), "a"));
    let start = Instant::now();
    // Bounded retry: ageing is a matter of time.
    while !switch.fdb().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "never forgotten");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= Duration::from_millis(150), "forgotten too soon");
    switch.set_ageing(None).unwrap();
    for i in 1..=5 {
        send(&mut a, &frame(2, i, 0, 60));
    }
    assert_eq!(switch.fdb_flush(None, Some(mac(3))).unwrap(), 1);
    assert_eq!(switch.fdb_flush(Some("b"), None).unwrap(), 0);
    assert_eq!(switch.fdb_flush(Some("a"), None).unwrap(), 4);
    assert!(matches!(switch.fdb_flush(Some("zz"), None), Err(Error::NotFound { .. })));
    drop(b);
}

#[test]
fn full_destination_drops_the_surplus_and_counts_it_on_both_sides() {
    let (mut a, mut b) = (open("valeF:a", &slots(256)), open("valeF:b", &slots(64)));
    send(&mut b, &frame(0xff, 2, 0, 60));
    for i in 0..200 {
        assert!(a.tx(0).push(&frame(2, 1, i, 60)));
    }
    a.txsync().unwrap();
    assert_eq!(a.tx(0).space(), 255, "VALE: the sender's ring is free after txsync");
    assert_eq!(read(&mut b, 0, 999).len(), 63);
    assert_eq!((a.counters().tx_drop_full, b.counters().rx_drop_full), (137, 137));
    assert_eq!((a.counters().tx_packets, b.counters().rx_packets), (200, 63));
}

#[test]
fn backpressure_loses_nothing_and_wakes_the_sender() {
    let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    root();
    let switch = Switch::create("valeP", &options).unwrap();
    let (mut a, mut b, mut c) =
        (open("valeP:a", &slots(128)), open("valeP:b", &slots(64)), open("valeP:c", &slots(256)));
    const N: u32 = 20_000;
    let sender = std::thread::spawn(move || {
        for i in 0..N {
            // To everybody: the batch stops where any destination is full.
            while !a.tx(0).push(&frame(0xff, 1, i, 60)) {
                let r = a.wait(Interest::TX, Wait::Block, Some(Duration::from_secs(20))).unwrap();
                assert!(r.contains(Interest::TX), "the sender was not woken");
            }
        }
        while a.tx(0).pending() > 0 {
            a.wait(Interest::TX, Wait::Block, Some(Duration::from_millis(20))).unwrap();
        }
        a.counters()
    });
    let reader = |port: &mut Port| {
        let mut next = 0;
        while next < N {
            port.wait(Interest::RX, Wait::Block, Some(Duration::from_secs(20))).unwrap();
            for f in read(port, 0, usize::MAX) {
                assert_eq!(f, frame(0xff, 1, next, 60), "lost, doubled or out of order");
                next += 1;
            }
        }
    };
    let other = std::thread::spawn(move || reader(&mut c));
    reader(&mut b);
    other.join().unwrap();
    let c = sender.join().unwrap();
    // Sleeps are cut short after 100 ms anyway, so that alone would pass: the bell was rung, too.
    assert!(b.counters().doorbells_rung > 0, "the sender only woke by its timer");
    assert_eq!((c.tx_packets, c.tx_drops()), (u64::from(N), 0));
    drop(b);
    switch.set_backpressure(false).unwrap();
    switch.delete().unwrap();
}

#[test]
fn backpressure_does_not_wait_for_a_destination_that_has_gone() {
    root();
    let options = SwitchOptions { backpressure: true, persistent: false, ageing: None };
    let (mut a, mut b) = (open("valeQ:a", &slots(64)), open("valeQ:b", &slots(64)));
    Switch::create("valeQ", &options).unwrap();
    send(&mut b, &frame(0xff, 2, 0, 60));
    while a.tx(0).push(&frame(2, 1, 0, 60)) {
        a.txsync().unwrap();
    }
    let ready = a.wait(Interest::TX, Wait::Block, Some(Duration::from_millis(30))).unwrap();
    assert!(ready.is_empty(), "nobody reads, so there is no space");
    drop(b);
    let ready = a.wait(Interest::TX, Wait::Block, Some(Duration::from_secs(10))).unwrap();
    assert!(ready.contains(Interest::TX));
}

#[test]
fn blocking_wait_ends_with_a_packet_and_poll_sees_the_doorbell() {
    let (mut a, mut b) = (open("valeW:a", &slots(64)), open("valeW:b", &slots(64)));
    assert!(b.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(5))).unwrap().is_empty());
    let waiter = std::thread::spawn(move || {
        let ready = b.wait(Interest::RX, Wait::Block, Some(Duration::from_secs(20))).unwrap();
        (ready, b)
    });
    send(&mut a, &frame(0xff, 1, 0, 60));
    let (ready, mut b) = waiter.join().unwrap();
    assert_eq!(ready, Interest::RX);
    assert_eq!(read(&mut b, 0, 9).len(), 1);
    // With somebody else's poll: not readable, armed, rung, readable, disarmed, quiet.
    let polled = |b: &Port| {
        let mut fds = [nix::poll::PollFd::new(b.fd(), b.events(Interest::RX))];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap()
    };
    assert_eq!(polled(&b), 0);
    send(&mut a, &frame(0xff, 1, 1, 60));
    assert_eq!(polled(&b), 0, "nobody asked, so nobody rang");
    assert_eq!(b.arm(Interest::RX).unwrap(), Interest::RX, "looked again and saw it");
    b.disarm();
    assert_eq!(read(&mut b, 0, 9).len(), 1);
    assert!(b.arm(Interest::RX).unwrap().is_empty());
    send(&mut a, &frame(0xff, 1, 2, 60));
    send(&mut a, &frame(0xff, 1, 3, 60));
    assert_eq!(polled(&b), 1);
    b.disarm();
    assert_eq!(polled(&b), 0);
    assert_eq!(read(&mut b, 0, 9).len(), 2);
    let c = a.counters();
    assert!(c.doorbells_suppressed >= 2, "{c:?}");
}

#[test]
fn several_rings_bind_one_by_one_and_together() {
    root();
    let o = Options { tx_rings: Some(4), rx_rings: Some(4), ..slots(64) };
    let mut all = open("valeR:m", &o);
    let mut one = Port::open("valeR:m-2").unwrap();
    let mut x = open("valeR:x@conf:rings=4,slots=64", &Options::default());
    assert_eq!((all.rx_rings(), one.rx_rings(), x.tx_rings()), (4, 1, 4));
    send(&mut all, &frame(0xff, 7, 0, 60));
    assert_eq!(read(&mut x, 0, 9).len(), 1);
    for r in 0..4 {
        assert!(x.tx(r).push(&frame(7, 8, r as u32, 60)));
    }
    x.txsync().unwrap();
    assert_eq!(read(&mut one, 0, 9), [frame(7, 8, 2, 60)]);
    assert_eq!(read(&mut all, 1, 9), [frame(7, 8, 1, 60)]);
    let mut rx_only = Port::open("valeR:m/R").unwrap();
    assert_eq!((rx_only.tx_rings(), rx_only.rx_rings()), (0, 4));
    assert!(rx_only.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(1))).is_ok());
    let o = Options { direction: Direction::TxOnly, ..Options::default() };
    assert_eq!(open("valeR:m", &o).rx_rings(), 0);
    let e = Port::open("valeR:m-4").unwrap_err().to_string();
    assert!(e.contains("no ring 4") && e.contains("has 4"), "{e}");
    let e = Port::open("valeR:m@conf:slots=128").unwrap_err().to_string();
    assert!(e.contains("64 tx slots, not 128"), "{e}");
}

#[test]
fn exclusive_excludes_both_ways() {
    root();
    let x = Port::open("valeE:x/x").unwrap();
    let e = Port::open("valeE:x").unwrap_err();
    assert!(matches!(e, Error::Busy { .. }), "{e}");
    assert!(e.to_string().contains(&format!("process {}", std::process::id())), "{e}");
    drop(x);
    let x = Port::open("valeE:x").unwrap();
    let again = Port::open("valeE:x").unwrap();
    assert!(matches!(Port::open("valeE:x/x"), Err(Error::Busy { .. })));
    drop((x, again));
    Port::open("valeE:x/x").unwrap();
}

#[test]
fn handles_of_one_process_share_what_is_open_and_outlive_each_other() {
    const NAME: &str = "handles_of_one_process_share_what_is_open_and_outlive_each_other";
    common::in_own_root(NAME, |_| {
        let open = |name: &str| Port::open(name).expect(name);
        let entries = |path: &str| std::fs::read_dir(path).expect("procfs").count();
        let mappings =
            || std::fs::read_to_string("/proc/self/maps").expect("procfs").lines().count();
        let (first, mut y) = (open("valeA:x"), open("valeA:y"));
        let before = (entries("/proc/self/fd"), mappings());
        let mut others: Vec<Port> = (0..30).map(|_| open("valeA:x")).collect();
        // Each knows the other port once it has sent to it.
        for (i, port) in (1..).zip(&mut others) {
            assert!(port.tx(0).push(&frame(0xff, 1, i, 60)));
            port.txsync().expect("synced");
        }
        assert_eq!(read(&mut y, 0, 100).len(), 30);
        let after = (entries("/proc/self/fd"), mappings());
        assert_eq!(after.0, before.0 + 30, "a handle on an open port has its bell, and no more");
        assert!(after.1 <= before.1 + 4, "{} mappings more", after.1 - before.1);
        let users = || {
            let info = Switch::open("valeA").expect("there").info().expect("read");
            info.ports.iter().find(|port| port.name == "x").map(|port| port.users.len())
        };
        assert_eq!(users(), Some(31), "siblings are not taken for dead");
        drop(first);
        others.truncate(2);
        assert_eq!(users(), Some(2));
        assert!(others[1].tx(0).push(&frame(0xff, 1, 99, 60)));
        others[1].txsync().expect("synced");
        assert_eq!(read(&mut y, 0, 100).len(), 1);
        drop(others);
        assert_eq!(users(), None);
    });
}

#[test]
fn what_a_kind_cannot_do_is_refused_where_it_is_asked_for() {
    static PACKET: [u8; 60] = [0; 60];
    let mut null = Port::open("null:").unwrap();
    assert!(!null.can(Capabilities::INDIRECT) && !null.can(Capabilities::RECEIVE));
    let error = null.allow_indirect_static(&PACKET).unwrap_err().to_string();
    assert!(error.contains("null:") && error.contains("without indirect"), "{error}");
    assert!(null.memory().is_none());
    for name in ["null:-1", "null:^", "null:/z"] {
        let refused = name.parse().is_ok_and(|n| Port::open_with(&n, &Options::default()).is_err());
        assert!(refused, "{name}");
    }
}

#[test]
fn limits_are_errors_that_name_them() {
    root();
    let e = Port::open("valeN:x@conf:slots=63").unwrap_err().to_string();
    assert!(e.contains("64 to 4096"), "{e}");
    let e = Port::open("valeN:x@conf:rings=17").unwrap_err().to_string();
    assert!(e.contains("1 to 16"), "{e}");
    assert!(matches!(Port::open("valeN:"), Err(Error::Name(_))));
    let ports: Vec<Port> = (0..254).map(|i| open(&format!("valeN:p{i}"), &slots(64))).collect();
    let e = Port::open("valeN:one_more").unwrap_err().to_string();
    assert!(e.contains("254"), "{e}");
    drop(ports);
    assert!(!root().join("valeN").exists());
}

#[test]
fn every_port_of_254_hears_a_broadcast() {
    let mut ports: Vec<Port> = (0..254).map(|i| open(&format!("valeB:p{i}"), &slots(64))).collect();
    send(&mut ports[200], &frame(0xff, 1, 5, 60));
    for (i, port) in ports.iter_mut().enumerate() {
        assert_eq!(read(port, 0, 9).len(), usize::from(i != 200), "port {i}");
    }
    send(&mut ports[3], &frame(1, 2, 6, 60));
    assert_eq!(read(&mut ports[200], 0, 9), [frame(1, 2, 6, 60)]);
}

#[test]
fn persistent_port_stays_with_its_packets_and_is_deleted_on_request() {
    root();
    let name = "valeK:k@conf:slots=64".parse().unwrap();
    control::create_port(&name, &Options::default()).unwrap();
    assert!(matches!(control::create_port(&name, &Options::default()), Err(Error::Exists { .. })));
    let mut a = open("valeK:a", &slots(64));
    send(&mut a, &frame(0xff, 1, 1, 60));
    drop(a);
    let mut k = Port::open("valeK:k").unwrap();
    assert_eq!(read(&mut k, 0, 9).len(), 1, "received while nobody had it open");
    assert!(matches!(control::delete_port(&name), Err(Error::Busy { .. })));
    drop(k);
    control::delete_port(&name).unwrap();
    assert!(matches!(control::delete_port(&name), Err(Error::NotFound { .. })));
    assert!(!root().join("valeK").exists());
}

#[test]
fn ports_in_one_region_exchange_buffers() {
    let mut a = open("valeZ:a", &slots(64));
    let o = Options { memory: Memory::With(a.memory().unwrap()), extra_bufs: 5, ..slots(64) };
    let mut b = open("valeZz:b", &o);
    let (mut src, mut dst) = (open("valeZ:src", &slots(64)), open("valeZz:dst", &slots(64)));
    assert!(a.same_memory(&b) && !a.same_memory(&src));
    let extra = b.extra_buffers();
    assert_eq!(extra.len(), 5);
    for round in 0..5u32 {
        for i in 0..20 {
            assert!(src.tx(0).push(&frame(0xff, 1, round * 50 + i, 60 + 200 * i as usize)));
        }
        src.txsync().unwrap();
        a.rxsync().unwrap();
        let before = a.rx(0).slot(0).buf_idx();
        let moved = transfer(&mut a.rx(0), &mut b.tx(0), usize::MAX, true);
        assert!(moved.packets == 20 && moved.slots > moved.packets, "{moved:?}");
        b.txsync().unwrap();
        assert_ne!(before, 0);
        let got = read(&mut dst, 0, usize::MAX);
        let want: Vec<_> = (0..moved.packets as u32)
            .map(|i| frame(0xff, 1, round * 50 + i, 60 + 200 * i as usize))
            .collect();
        assert_eq!(got, want);
        a.rxsync().unwrap();
    }
    // A buffer can be kept back by putting an extra one in its place.
    assert!(src.tx(0).push(&frame(0xff, 1, 0, 60)));
    src.txsync().unwrap();
    a.rxsync().unwrap();
    let mut slot = a.rx(0).slot(0);
    let kept = slot.swap_buffer(extra[0]);
    assert_eq!(a.rx(0).slot(0).buf_idx(), extra[0]);
    assert_ne!(kept, extra[0]);
    // The region outlives the port that made it.
    drop(a);
    send(&mut b, &frame(0xff, 1, 9, 60));
    assert_eq!(read(&mut dst, 0, 9).len(), 1);
}

#[test]
fn memory_id_is_shared_by_name() {
    root();
    let a = Port::open("valeI:a@7").unwrap();
    let b = Port::open("valeIb:b@7").unwrap();
    assert!(a.same_memory(&b));
    drop(a);
    drop(b);
    assert!(!root().join("mem/7").exists(), "a region goes with its last port");
}

#[test]
fn transfer_between_regions_copies_whatever_was_asked() {
    let (mut src, mut a) = (open("valeT:src", &slots(64)), open("valeT:a", &slots(64)));
    let (mut b, mut dst) = (open("valeTt:b", &slots(64)), open("valeTt:dst", &slots(64)));
    send(&mut src, &frame(0xff, 1, 0, 5000));
    a.rxsync().unwrap();
    // Less room than the packet needs: it stays whole where it is.
    assert_eq!(transfer(&mut a.rx(0), &mut b.tx(0), 2, true).packets, 0);
    assert_eq!(transfer(&mut a.rx(0), &mut b.tx(0), 3, true).bytes, 5000);
    b.txsync().unwrap();
    assert_eq!(read(&mut dst, 0, 9), [frame(0xff, 1, 0, 5000)]);
}

#[test]
fn jumbo_packets_up_to_64_kib_arrive_whole() {
    let (mut a, mut b) = (open("valeJ:a", &slots(128)), open("valeJ:b", &slots(128)));
    for len in [2112, 2113, 9000, 65535] {
        send(&mut a, &frame(0xff, 1, 3, len));
        b.rxsync().unwrap();
        let n = b.rx(0).available();
        assert_eq!(n, usize::div_ceil(len, 2112));
        assert!(b.rx(0).batch(n).all(|s| s.flags().rfrags() == n));
        assert_eq!(read(&mut b, 0, 9), [frame(0xff, 1, 3, len)]);
    }
    // One that no ring of the destination can hold is dropped, and does not block the others.
    let (mut big, mut small) = (open("valeJ2:a", &slots(256)), open("valeJ2:b", &slots(64)));
    let long = vec![0xff; 2112];
    for i in 0..64 {
        let mut ring = big.tx(0);
        let slot = ring.slot(i);
        slot.frame().write(0, &long);
        slot.set(2112, if i < 63 { SlotFlags::MOREFRAG } else { SlotFlags::empty() });
    }
    big.tx(0).advance(64);
    assert!(big.tx(0).push(&frame(0xff, 1, 1, 60)));
    big.txsync().unwrap();
    assert_eq!(read(&mut small, 0, 9), [frame(0xff, 1, 1, 60)]);
}

#[test]
fn indirect_slots_are_copied_from_allowed_memory_only() {
    let (mut a, mut b) = (open("valeD:a", &slots(64)), open("valeD:b", &slots(64)));
    let memory = frame(0xff, 1, 77, 300);
    let outside = frame(0xff, 1, 78, 300);
    // SAFETY: `memory` outlives the port's use of it.
    unsafe { a.allow_indirect(memory.as_ptr(), memory.len()) }.unwrap();
    a.tx(0).slot(0).set_indirect(memory.as_ptr(), 300, SlotFlags::empty());
    a.tx(0).slot(1).set_indirect(outside.as_ptr(), 300, SlotFlags::empty());
    a.tx(0).slot(2).set_indirect(memory[1..].as_ptr(), 300, SlotFlags::empty());
    a.tx(0).slot(3).set_indirect(memory.as_ptr(), 60, SlotFlags::empty());
    a.tx(0).advance(4);
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 9), [memory.clone(), memory[..60].to_vec()]);
    assert_eq!(a.counters().tx_drop_bad, 2);
}

#[test]
fn runs_of_indirect_and_of_plain_slots_keep_order_and_exact_lengths() {
    let (mut a, mut b) = (open("valeD:c", &slots(256)), open("valeD:d", &slots(256)));
    let memory = frame(0xff, 1, 77, 4096);
    // SAFETY: `memory` outlives the port's use of it.
    unsafe { a.allow_indirect(memory.as_ptr(), memory.len()) }.unwrap();
    let lengths = [60, 14, 63, 64, 65, 128, 1514, 2048];
    let mut want = Vec::new();
    for i in 0..200 {
        let len = lengths[i % lengths.len()];
        // Runs of either kind, and of length one.
        if i % 40 < 23 || i % 3 == 0 {
            a.tx(0).slot(0).set_indirect(memory.as_ptr(), len, SlotFlags::empty());
            a.tx(0).advance(1);
            want.push(memory[..len].to_vec());
        } else {
            want.push(frame(0xff, 1, i as u32, len));
            assert!(a.tx(0).push(want.last().unwrap()));
        }
    }
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 300), want);
}

#[test]
fn withdrawn_slots_are_not_sent() {
    let (mut a, mut b) = (open("valeD:e", &slots(64)), open("valeD:f", &slots(64)));
    assert!(a.tx(0).push(&frame(0xff, 1, 1, 60)) && a.tx(0).push(&frame(0xff, 1, 2, 60)));
    assert_eq!(a.tx(0).withdraw(), 2);
    assert_eq!((a.tx(0).withdraw(), a.tx(0).pending()), (0, 0));
    assert!(a.tx(0).push(&frame(0xff, 1, 3, 60)));
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 9), [frame(0xff, 1, 3, 60)]);
}

#[test]
fn null_port_counts_and_discards() {
    let mut p = Port::open("null:").unwrap();
    for i in 0..100 {
        assert!(p.tx(0).push(&frame(1, 2, i, 60)));
    }
    p.txsync().unwrap();
    assert_eq!(p.counters().tx_packets, 100);
    assert!(p.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(2))).unwrap().is_empty());
}
