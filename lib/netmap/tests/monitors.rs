//! Monitors: who opens `valeA:x/t`, `/r` or `/tr` sees what x's program sends, receives, or both, and disturbs
//! nobody.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{frame, in_own_root, mac, number, open, read, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::{Capabilities, Error, Interest, Options, Port, SlotFlags, Wait};
use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// A packet that a monitor saw: its bytes, and whether it was seen on transmission.
type Seen = (Vec<u8>, bool);

/// Reads the packets that a ring of a monitor has seen.
fn seen(monitor: &mut Port, ring: usize) -> Vec<Seen> {
    monitor.rxsync().expect("synced");
    let mut rx = monitor.rx(ring);
    let (mut packets, mut packet) = (Vec::new(), Vec::new());
    let n = rx.available();
    for slot in rx.batch(n) {
        packet.extend(slot.frame().to_vec());
        if !slot.more_frag() {
            let sent = slot.flags().contains(SlotFlags::TXMON);
            packets.push((std::mem::take(&mut packet), sent));
        }
    }
    assert!(packet.is_empty(), "half a packet");
    rx.advance(n);
    monitor.rxsync().expect("synced");
    packets
}

/// Numbers of the packets seen, those seen on transmission negative.
fn numbers(monitor: &mut Port, ring: usize) -> Vec<i64> {
    let sign = |(packet, sent): Seen| i64::from(number(&packet)) * if sent { -1 } else { 1 };
    seen(monitor, ring).into_iter().map(sign).collect()
}

fn send(port: &mut Port, ring: usize, packets: &[Vec<u8>]) {
    for packet in packets {
        assert!(port.tx(ring).push(packet), "no room");
    }
    port.txsync().expect("synced");
}

/// Two ports of a switch that know each other's addresses, 1 and 2.
fn pair(switch: &str, options: &Options) -> (Port, Port) {
    let mut x = open(&format!("{switch}:x"), options);
    let mut y = open(&format!("{switch}:y"), options);
    send(&mut x, 0, &[frame(0xff, 1, 0, 60)]);
    send(&mut y, 0, &[frame(0xff, 2, 0, 60)]);
    assert_eq!(read(&mut x, 0, 9).len() + read(&mut y, 0, 9).len(), 2);
    (x, y)
}

#[test]
fn every_combination_of_letters_sees_its_directions_in_order() {
    for (i, zero_copy) in ["", "z"].into_iter().enumerate() {
        for (j, letters) in ["t", "r", "tr"].into_iter().enumerate() {
            let switch = format!("valeL{i}{j}");
            let (mut x, mut y) = pair(&switch, &slots(128));
            let mut monitor =
                open(&format!("{switch}:x/{zero_copy}{letters}"), &Options::default());
            assert_eq!((monitor.tx_rings(), monitor.rx_rings()), (0, 1));
            // Short and long packets, in both directions in turn.
            let lengths = [60, 2112, 5000, 61];
            let mut expected = Vec::new();
            for round in 0..20u32 {
                let there: Vec<_> =
                    lengths.iter().map(|&len| frame(2, 1, round * 10 + 1, len)).collect();
                let back: Vec<_> =
                    lengths.iter().map(|&len| frame(1, 2, round * 10 + 2, len)).collect();
                send(&mut x, 0, &there);
                assert_eq!(read(&mut y, 0, 99), there);
                send(&mut y, 0, &back);
                assert_eq!(read(&mut x, 0, 99), back);
                x.rxsync().expect("released");
                if letters.contains('t') {
                    expected.extend(there.into_iter().map(|p| (p, true)));
                }
                if letters.contains('r') {
                    expected.extend(back.into_iter().map(|p| (p, false)));
                }
                assert_eq!(seen(&mut monitor, 0), std::mem::take(&mut expected), "{letters}");
            }
            let own = |packets| if letters == "tr" { 2 * packets } else { packets };
            assert_eq!(monitor.counters().rx_packets, own(80));
            assert_eq!(x.counters().tx_drops() + y.counters().tx_drops(), 0);
        }
    }
}

#[test]
fn floods_are_seen_by_monitors_of_who_gets_them_and_nobody_gets_more_for_it() {
    let (mut x, mut y) = pair("valeF", &slots(64));
    let mut z = open("valeF:z", &slots(64));
    let mut of_x = open("valeF:x/r", &Options::default());
    let mut of_y = open("valeF:y/tr", &Options::default());
    send(&mut y, 0, &[frame(0xff, 2, 7, 60), frame(9, 2, 8, 60), frame(1, 2, 9, 60)]);
    assert_eq!(numbers(&mut of_x, 0), [7, 8, 9]);
    assert_eq!(numbers(&mut of_y, 0), [-7, -8, -9]);
    assert_eq!(read(&mut x, 0, 9).len(), 3);
    assert_eq!(read(&mut z, 0, 9).len(), 2);
    // What goes nowhere was sent all the same: to its own port, and too short for an address.
    send(&mut y, 0, &[frame(2, 2, 10, 60)]);
    assert_eq!(numbers(&mut of_y, 0), [-10]);
    assert!(y.tx(0).push(&[1, 2, 3]));
    y.txsync().expect("synced");
    assert_eq!(seen(&mut of_y, 0), [(vec![1, 2, 3], true)]);
}

#[test]
fn monitor_of_one_ring_sees_that_ring_only() {
    let two = Options { tx_rings: Some(2), rx_rings: Some(2), ..slots(64) };
    let (mut x, mut y) = pair("valeR", &two);
    let mut only = open("valeR:x-1/tr", &Options::default());
    let mut all = open("valeR:x/tr", &Options::default());
    assert_eq!((only.rx_rings(), all.rx_rings()), (1, 2));
    send(&mut x, 0, &[frame(2, 1, 1, 60)]);
    send(&mut x, 1, &[frame(2, 1, 2, 60)]);
    send(&mut y, 1, &[frame(1, 2, 3, 60)]);
    send(&mut y, 0, &[frame(1, 2, 4, 60)]);
    send(&mut y, 1, &[frame(0xff, 2, 5, 60)]); // floods go to ring 0
    assert_eq!(numbers(&mut only, 0), [-2, 3]);
    assert_eq!(numbers(&mut all, 0), [-1, 4, 5]);
    assert_eq!(numbers(&mut all, 1), [-2, 3]);
    let none = Port::open("valeR:x-2/r").expect_err("there are two rings");
    assert_eq!(none.errno(), Errno::EINVAL, "{none}");
}

#[test]
fn slow_monitor_loses_and_is_counted_while_the_port_loses_nothing() {
    for (backpressure, letters) in
        [(false, "t"), (true, "t"), (true, "r"), (true, "zt"), (true, "zr")]
    {
        let switch = format!("valeS{letters}{backpressure}");
        let options = SwitchOptions { backpressure, persistent: false, ..SwitchOptions::default() };
        Switch::create(&switch, &options).expect("made");
        let (mut x, mut y) = pair(&switch, &slots(256));
        let mut monitor = open(&format!("{switch}:x/{letters}"), &slots(64));
        let sent = 1000u32;
        for first in (0..sent).step_by(100) {
            let to_x = letters.contains('r');
            let (from, to) = if to_x { (&mut y, &mut x) } else { (&mut x, &mut y) };
            let (dst, src) = if to_x { (1, 2) } else { (2, 1) };
            let packets: Vec<_> = (first..first + 100).map(|n| frame(dst, src, n, 60)).collect();
            send(from, 0, &packets);
            assert_eq!(from.tx(0).pending(), 0, "it is held up");
            assert_eq!(read(to, 0, 999), packets);
        }
        let first: Vec<i64> = numbers(&mut monitor, 0).into_iter().map(i64::abs).collect();
        assert_eq!(first, (0..63).collect::<Vec<i64>>(), "{switch}");
        let counted = monitor.counters();
        assert_eq!((counted.rx_packets, counted.rx_drop_full), (63, u64::from(sent) - 63));
        assert_eq!(x.counters().tx_drops() + y.counters().tx_drops(), 0);
        assert_eq!(x.counters().rx_drops() + y.counters().rx_drops(), 0);
    }
}

#[test]
fn received_is_what_found_room_in_the_ring() {
    let (mut x, mut y) = pair("valeN", &slots(64));
    let mut monitor = open("valeN:x/r", &slots(256));
    for first in [0, 50] {
        let packets: Vec<_> = (first..first + 50).map(|n| frame(1, 2, n, 60)).collect();
        send(&mut y, 0, &packets);
    }
    let found = numbers(&mut monitor, 0);
    let got: Vec<i64> = read(&mut x, 0, 99).iter().map(|p| number(p).into()).collect();
    assert_eq!(got, (0..63).collect::<Vec<i64>>());
    assert_eq!(found, got);
}

#[test]
fn several_monitors_of_one_port_see_the_same() {
    for (i, letters) in ["tr", "ztr"].into_iter().enumerate() {
        let switch = format!("valeM{i}");
        let (mut x, mut y) = pair(&switch, &slots(64));
        let name = format!("{switch}:x/{letters}");
        let mut monitors = [(); 3].map(|()| open(&name, &Options::default()));
        let mut copies = open(&format!("{switch}:x/tr"), &Options::default());
        for round in 0..50u32 {
            send(&mut x, 0, &[frame(2, 1, 2 * round, 60), frame(2, 1, 2 * round, 3000)]);
            send(&mut y, 0, &[frame(1, 2, 2 * round + 1, 1514)]);
            assert_eq!((read(&mut x, 0, 9).len(), read(&mut y, 0, 9).len()), (1, 2));
            let expected = seen(&mut copies, 0);
            assert_eq!(expected.len(), 3);
            for monitor in &mut monitors {
                assert_eq!(seen(monitor, 0), expected);
            }
        }
        drop(monitors);
        let info = Switch::open(&switch).expect("there").info().expect("read");
        assert_eq!(info.ports.iter().filter(|p| p.monitor.is_some()).count(), 1);
    }
}

#[test]
fn monitor_whose_port_goes_has_ended_once_it_has_read_all() {
    for (i, letters) in ["t", "zt"].into_iter().enumerate() {
        let switch = format!("valeE{i}");
        let (mut x, _y) = pair(&switch, &slots(64));
        let mut monitor = open(&format!("{switch}:x/{letters}"), &Options::default());
        send(&mut x, 0, &[frame(2, 1, 5, 60)]);
        assert!(!monitor.ended());
        std::thread::scope(|scope| {
            scope.spawn(move || drop(x));
            let ready = monitor.wait(Interest::RX, Wait::default(), None).expect("waited");
            assert_eq!(ready, Interest::RX);
        });
        assert!(!monitor.ended(), "there is something to read");
        assert_eq!(numbers(&mut monitor, 0), [-5]);
        assert!(monitor.ended());
        // Another port of that name is another one.
        let mut x = open(&format!("{switch}:x"), &slots(64));
        send(&mut x, 0, &[frame(2, 1, 6, 60)]);
        let ready = monitor.wait(Interest::RX, Wait::default(), Some(Duration::ZERO));
        assert_eq!(ready.expect("waited"), Interest::empty());
        assert!(monitor.ended() && numbers(&mut monitor, 0).is_empty());
        let info = Switch::open(&switch).expect("there").info().expect("read");
        let listed = info.ports.iter().find_map(|p| p.monitor.clone()).expect("a monitor");
        assert_eq!(listed.of, None);
    }
}

#[test]
fn sleeping_monitor_is_told_that_its_port_goes() {
    let (x, _y) = pair("valeW", &slots(64));
    let mut monitor = open("valeW:x/tr", &Options::default());
    assert_eq!(monitor.arm(Interest::RX).expect("armed"), Interest::empty());
    drop(x);
    let mut fds = [PollFd::new(monitor.fd(), monitor.events(Interest::RX))];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).expect("polled"), 1, "nobody rang");
    monitor.disarm();
    assert!(monitor.ended());
}

#[test]
fn monitors_are_no_ports_of_the_switch() {
    let (mut x, y) = pair("valeP", &slots(64));
    let mut monitor = open("valeP:x/r", &Options::default());
    assert_eq!(monitor.name().to_string(), "valeP:x/r");
    assert!(!monitor.can(Capabilities::INDIRECT) && monitor.can(Capabilities::RECEIVE));
    // Nothing is flooded to it: with two ports everybody is the other one.
    send(&mut x, 0, &[frame(0xff, 1, 1, 60)]);
    assert!(numbers(&mut monitor, 0).is_empty());
    assert_eq!(x.counters().flooded, 2);
    let names = || -> Vec<String> {
        let info = Switch::open("valeP").expect("there").info().expect("read");
        info.ports.into_iter().map(|p| p.name).collect()
    };
    assert_eq!(names(), ["x", "y", "x#2"]);
    assert!("valeP:x#2".parse::<netmap::PortName>().is_err());
    // It keeps the switch, as anybody who has it open, and not its port.
    drop((x, y));
    assert_eq!(names(), ["x#2"]);
    assert!(monitor.ended());
    drop(monitor);
    assert!(matches!(Switch::open("valeP"), Err(Error::NotFound { .. })));
}

#[test]
fn what_cannot_be_monitored_is_refused() {
    let _x = open("valeQ:x", &Options { exclusive: true, ..slots(64) });
    let refused = |name: &str| Port::open(name).expect_err(name).errno();
    assert_eq!(refused("valeQ:y/t"), Errno::ENXIO);
    assert_eq!(refused("valeQ2:x/t"), Errno::ENXIO);
    assert!(matches!(Switch::open("valeQ2"), Err(Error::NotFound { .. })));
    assert_eq!(refused("valeQ:x/z"), Errno::EINVAL);
    assert_eq!(refused("valeQ:x/zt@7"), Errno::EINVAL);
    assert_eq!(refused("null:/t"), Errno::EOPNOTSUPP);
    assert_eq!(refused("tap:t0/t"), Errno::EOPNOTSUPP);
    // An exclusive port can be monitored, as monitors do not share its rings.
    let mut monitor = open("valeQ:x/tr", &Options::default());
    monitor.txsync().expect("nothing to do");
    let shared = Options { memory: netmap::Memory::Id(7), ..Options::default() };
    assert_eq!(open("valeQ:x/t", &shared).memory().expect("it has some").to_string(), "7");
}

#[test]
fn names_of_monitors_control_nothing() {
    let _x = open("valeU:x", &slots(64));
    let name = |name: &str| -> netmap::PortName { name.parse().expect("a name") };
    for monitor in ["valeU:x/t", "valeU:x/r", "valeU:x/zt"].map(name) {
        let other = name("valeU:y");
        for refused in [
            control::create_port(&monitor, &Options::default()),
            control::delete_port(&monitor),
            control::set_mirror(&monitor, None),
            control::set_mirror(&other, Some(&monitor)),
            control::set_vnet_hdr_len(&monitor, 12),
        ] {
            let e = refused.expect_err("it is no port");
            assert!(e.errno() == Errno::EINVAL && e.to_string().contains("monitor"), "{e}");
        }
    }
}

#[test]
fn headers_are_those_of_the_port_that_is_seen_and_its_to_change() {
    let mut x = open("valeV:x", &Options { vnet_hdr_len: Some(12), ..slots(64) });
    let mut monitor = open("valeV:x/t", &Options::default());
    assert_eq!(monitor.vnet_hdr_len(), 12);
    let e = monitor.set_vnet_hdr_len(0).expect_err("it sees and changes nothing");
    assert_eq!(e.errno(), Errno::ENXIO, "{e}");
    let asked = Options { vnet_hdr_len: Some(10), ..Options::default() };
    assert!(Port::open_with(&"valeV:x/r".parse().expect("a name"), &asked).is_err());
    assert_eq!((x.vnet_hdr_len(), monitor.vnet_hdr_len()), (12, 12));
    x.set_vnet_hdr_len(10).expect("set");
    assert_eq!(monitor.vnet_hdr_len(), 10);
}

#[test]
fn monitor_is_passed_on_and_split_like_other_handles() {
    let (mut x, mut y) = pair("valeT", &Options { tx_rings: Some(2), ..slots(64) });
    let monitor = open("valeT:x-1/t", &Options::default());
    let mut passed = Port::from_fd(monitor.into_fd().expect("it has one")).expect("taken over");
    assert_eq!(passed.name().to_string(), "valeT:x-1/t");
    send(&mut x, 1, &[frame(2, 1, 3, 60)]);
    assert_eq!(numbers(&mut passed, 0), [-3]);
    assert_eq!(read(&mut y, 0, 9).len(), 1);
    drop(passed);
    let info = Switch::open("valeT").expect("there").info().expect("read");
    assert!(info.ports.iter().all(|p| p.monitor.is_none()));
}

#[test]
fn persistent_port_is_monitored_before_and_after_its_users() {
    let name = "valeK:x".parse().expect("a name");
    control::create_port(
        &{
            common::root();
            name
        },
        &slots(64),
    )
    .expect("made");
    let mut monitor = open("valeK:x/tr", &Options::default());
    let mut y = open("valeK:y", &slots(64));
    for round in 0..3 {
        let mut x = open("valeK:x", &Options::default());
        send(&mut x, 0, &[frame(0xff, 1, round, 60)]);
        send(&mut y, 0, &[frame(1, 2, round, 60)]);
        drop(x);
        assert_eq!(numbers(&mut monitor, 0), [-i64::from(round), i64::from(round)]);
        assert!(!monitor.ended());
    }
    drop(monitor);
    control::delete_port(&"valeK:x".parse().expect("a name")).expect("deleted");
}

#[test]
fn killed_monitors_leave_nothing_behind() {
    const NAME: &str = "killed_monitors_leave_nothing_behind";
    const CHILD: &str = "NM_TEST_MONITOR";
    if let Some(name) = std::env::var_os(CHILD) {
        let mut monitor = Port::open(name.to_str().expect("text")).expect("opened");
        println!("ready");
        loop {
            monitor.wait(Interest::RX, Wait::default(), None).expect("waited");
            seen(&mut monitor, 0);
        }
    }
    in_own_root(NAME, |_| {
        let (mut x, mut y) = pair("valeD", &slots(256));
        let mut next = 0u32;
        for round in 0..20u64 {
            let letters = ["t", "r", "tr", "zt", "zr", "ztr"][round as usize % 6];
            let mut child = std::process::Command::new(std::env::current_exe().expect("it runs"))
                .args([NAME, "--exact", "--nocapture"])
                .env(CHILD, format!("valeD:x/{letters}"))
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a monitor starts");
            let out = std::io::BufReader::new(child.stdout.take().expect("piped"));
            let mut lines = std::io::BufRead::lines(out);
            assert!(lines.any(|line| line.expect("text").contains("ready")));
            let end = std::time::Instant::now() + Duration::from_micros(500 + 97 * round);
            let mut exchange = || {
                let there: Vec<_> = (0..20).map(|i| frame(2, 1, next + i, 60)).collect();
                send(&mut x, 0, &there);
                assert_eq!(read(&mut y, 0, 99), there);
                let back: Vec<_> = (0..20).map(|i| frame(1, 2, next + i, 60)).collect();
                send(&mut y, 0, &back);
                assert_eq!(read(&mut x, 0, 99), back);
                next += 20;
            };
            while std::time::Instant::now() < end {
                exchange();
            }
            child.kill().expect("killed");
            child.wait().expect("gone");
            exchange();
            let info = Switch::open("valeD").expect("there").info().expect("read");
            assert_eq!(info.ports.len(), 2, "{letters}: the monitor is still there");
        }
        assert_eq!(x.counters().tx_drops() + y.counters().tx_drops(), 0);
        // What is left of the shared memory is what the two ports have.
        drop((x, y));
        let left =
            |dir: &str| std::fs::read_dir(control::root().join(dir)).map_or(0, Iterator::count);
        assert_eq!((left("mem"), left("valeD")), (0, 0));
    });
}

#[test]
fn buffers_of_a_zero_copy_monitor_are_exchanged_and_never_in_two_slots() {
    let (mut x, mut y) = pair("valeZ", &slots(64));
    let mut monitor = open("valeZ:x/ztr", &slots(64));
    assert!(monitor.same_memory(&x));
    let before: Vec<u32> = buffers(&mut x);
    // A buffer that was seen is the one that was sent.
    let first = x.tx(0).slot(0).buf_idx();
    send(&mut x, 0, &[frame(2, 1, 1, 60)]);
    monitor.rxsync().expect("synced");
    assert_eq!(monitor.rx(0).slot(0).buf_idx(), first);
    assert!(!buffers(&mut x).contains(&first));
    assert_ne!(before, buffers(&mut x));
    read(&mut y, 0, 9);
    numbers(&mut monitor, 0);
    let mut rng = common::rng::Rng::new(11);
    for round in 0..500u32 {
        let there: Vec<_> =
            (0..rng.below(12)).map(|_| frame(2, 1, round, 60 + rng.below(4000) as usize)).collect();
        let back: Vec<_> =
            (0..rng.below(12)).map(|_| frame(1, 2, round, 60 + rng.below(4000) as usize)).collect();
        send(&mut x, 0, &there);
        send(&mut y, 0, &back);
        assert_eq!(read(&mut y, 0, 99), there);
        assert_eq!(read(&mut x, 0, 99), back);
        // Each buffer that can be seen is in one place.
        let mut named = buffers(&mut x);
        monitor.rxsync().expect("synced");
        let rx = monitor.rx(0);
        named.extend((0..rx.available()).map(|i| rx.slot(i).buf_idx()));
        let mut once: BTreeMap<u32, u32> = BTreeMap::new();
        named.iter().for_each(|&buffer| *once.entry(buffer).or_default() += 1);
        assert!(once.values().all(|&n| n == 1), "round {round}: {once:?}");
        if rng.below(2) == 0 {
            for (packet, sent) in seen(&mut monitor, 0) {
                let (dst, src) = if sent { (2, 1) } else { (1, 2) };
                assert_eq!(packet, frame(dst, src, number(&packet), packet.len()));
            }
        }
    }
    assert!(monitor.counters().rx_drop_full > 0, "it was slow at times");
    assert_eq!(x.counters().tx_drops() + y.counters().tx_drops(), 0);
    assert_eq!(mac(1), [2, 0, 0, 0, 0, 1]);
}

/// Buffers that the free slots of a port's ring name: all but one.
fn buffers(port: &mut Port) -> Vec<u32> {
    let mut tx = port.tx(0);
    (0..tx.space()).map(|i| tx.slot(i).buf_idx()).collect()
}

/// Buffers of the slots received on a port's ring.
fn held(port: &mut Port) -> Vec<u32> {
    port.rxsync().expect("synced");
    let rx = port.rx(0);
    (0..rx.available()).map(|i| rx.slot(i).buf_idx()).collect()
}

fn assert_distinct(round: u32, buffers: &[u32]) {
    let once: std::collections::BTreeSet<u32> = buffers.iter().copied().collect();
    assert_eq!(once.len(), buffers.len(), "round {round}: a buffer is in two slots");
}

#[test]
fn heirs_of_killed_programs_and_their_zero_copy_monitors_share_no_buffer() {
    const NAME: &str = "heirs_of_killed_programs_and_their_zero_copy_monitors_share_no_buffer";
    const CHILD: &str = "NM_TEST_SEEN";
    const SLOTS: usize = 128;
    match std::env::var(CHILD).as_deref() {
        Ok("sender") => common::send_for_ever(Port::open("valeI:t").expect("opened"), 1),
        Ok(_) => {
            let mut reader = Port::open("valeI:r").expect("opened");
            println!("ready");
            loop {
                read(&mut reader, 0, usize::MAX);
            }
        }
        Err(_) => {}
    }
    in_own_root(NAME, |_| {
        let options = slots(SLOTS as u32);
        let (mut t, mut r) = (open("valeI:t", &options), open("valeI:r", &options));
        let mut of_t = open("valeI:t/zt", &Options::default());
        let mut of_r = open("valeI:r/zr", &Options::default());
        for round in 0..60u32 {
            let role = if round % 2 == 0 { "sender" } else { "reader" };
            let mut child = std::process::Command::new(std::env::current_exe().expect("it runs"))
                .args([NAME, "--exact", "--nocapture"])
                .env(CHILD, role)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            let out = std::io::BufReader::new(child.stdout.take().expect("piped"));
            let mut lines = std::io::BufRead::lines(out);
            assert!(lines.any(|line| line.expect("text").contains("ready")));
            let end =
                std::time::Instant::now() + Duration::from_micros(1500 + u64::from(round) * 41);
            while std::time::Instant::now() < end {
                if role == "sender" {
                    read(&mut r, 0, usize::MAX);
                } else {
                    while t.tx(0).push(&frame(9, 1, 1, 60)) {}
                    t.txsync().expect("synced");
                }
                drop((seen(&mut of_t, 0), seen(&mut of_r, 0)));
            }
            child.kill().expect("killed");
            child.wait().expect("gone");
            // Its heir takes over what it had, and mends that.
            while t.tx(0).push(&frame(9, 1, 2, 60)) {}
            t.txsync().expect("synced");
            read(&mut r, 0, usize::MAX);
            drop((seen(&mut of_t, 0), seen(&mut of_r, 0)));
            // Then each full ring, and each full one of a monitor, names buffers of its own.
            let full = SLOTS - 1;
            for (from, number) in [(round * 1000, 1), (round * 1000 + 500, 2)] {
                let packets: Vec<_> = (0..full as u32).map(|i| frame(9, 1, from + i, 60)).collect();
                send(&mut t, 0, &packets);
                let at_r = held(&mut r);
                assert_eq!((at_r.len(), held(&mut of_t).len()), (full, full));
                assert_distinct(round, &[buffers(&mut t), held(&mut of_t)].concat());
                assert_distinct(round, &[at_r, held(&mut of_r)].concat());
                if number == 1 {
                    assert_eq!(read(&mut r, 0, usize::MAX), packets);
                    let sent: Vec<_> = packets.iter().map(|p| (p.clone(), true)).collect();
                    assert_eq!(seen(&mut of_t, 0), sent);
                    assert_eq!(held(&mut of_r).len(), full);
                }
            }
            let first: Vec<i64> = numbers(&mut of_r, 0);
            assert_eq!(
                first,
                (0..full as i64).map(|i| i64::from(round * 1000) + i).collect::<Vec<_>>()
            );
            read(&mut r, 0, usize::MAX);
            drop((seen(&mut of_t, 0), seen(&mut of_r, 0)));
        }
    });
}
