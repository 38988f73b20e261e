//! What `xdp:` ports do on veth pairs, whose ends are in namespaces of the test's own, wherever the kernel has their packets.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netmap::error::{InUse, Invalid, Lack};
use netmap::{Error, Interest, Link, Memory, Options, Port, SlotFlags, Wait, transfer};

use crate::veth::{Pair, ip};
use crate::{common, prepare};

mod ends;

/// Far beyond anything that works: what takes longer has failed.
pub const FOR_EVER: Duration = Duration::from_secs(20);
const MTU: usize = 1500;

/// A pair for a test; the first one sets the root of this process, too.
pub fn new_pair(test: &str, queues: u32) -> Option<Pair> {
    common::root();
    prepare();
    Pair::new(test, queues)
}

/// A frame of so many bytes, unlike others.
pub fn frame(len: usize, number: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
    frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]); // for experiments: no stack answers it
    frame
}

pub fn send(port: &mut Port, ring: usize, frame: &[u8]) {
    assert!(port.tx(ring).push(frame));
    port.txsync().unwrap();
}

/// The next frame, and the ring that it came on.
pub fn receive(port: &mut Port) -> (usize, Vec<u8>) {
    let ready = port.wait(Interest::RX, Wait::default(), Some(FOR_EVER)).unwrap();
    assert_eq!(ready, Interest::RX, "nothing came");
    let ring = (0..port.rx_rings()).find(|&ring| port.rx(ring).available() > 0).unwrap();
    let mut rx = port.rx(ring);
    let frame = rx.slot(0).frame().to_vec();
    rx.advance(1);
    (ring, frame)
}

/// Whether nothing more comes; what has been sent is there by now.
fn is_silent(port: &mut Port) -> bool {
    port.rxsync().unwrap();
    (0..port.rx_rings()).all(|ring| port.rx(ring).available() == 0)
}

#[test]
fn frames_of_all_sizes_pass_both_ways_and_others_are_counted() {
    let Some(pair) = new_pair("frames_of_all_sizes_pass_both_ways_and_others_are_counted", 1)
    else {
        return;
    };
    let mut ports = [pair.open(0, ""), pair.open(1, "")];
    for [from, to] in [[0, 1], [1, 0]] {
        for len in (14..=MTU + 14).step_by(if from == 0 { 1 } else { 97 }) {
            let sent = frame(len, len);
            send(&mut ports[from], 0, &sent);
            assert_eq!(receive(&mut ports[to]).1, sent, "{len}");
        }
        let before = ports[from].counters();
        send(&mut ports[from], 0, &[0xff; 13]);
        send(&mut ports[from], 0, &frame(MTU + 14 + 4 + 1, 0));
        send(&mut ports[from], 0, &frame(5000, 0));
        let counted = ports[from].counters().since(&before);
        assert_eq!((counted.tx_drop_short, counted.tx_drop_long), (1, 2));
        assert_eq!((counted.tx_packets, ports[from].pending()), (0, 0));
        assert!(is_silent(&mut ports[to]));
    }
}

#[test]
fn packets_in_several_slots_are_sent_as_one_frame() {
    let Some(pair) = new_pair("packets_in_several_slots_are_sent_as_one_frame", 1) else { return };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, ""));
    let whole = frame(1000, 3);
    for cuts in [&[14, 986][..], &[500, 500], &[13, 1, 986], &[1; 1000]] {
        let before = from.counters();
        let mut rest = &whole[..];
        for (i, &len) in cuts.iter().enumerate() {
            let (part, after) = rest.split_at(len);
            let slot = from.tx(0).slot(i);
            slot.frame().write(0, part);
            let more = if after.is_empty() { SlotFlags::empty() } else { SlotFlags::MOREFRAG };
            slot.set(len, more);
            rest = after;
        }
        from.tx(0).advance(cuts.len());
        from.txsync().unwrap();
        if cuts.len() > 64 {
            // netmap's limit.
            assert_eq!(from.counters().since(&before).tx_drop_bad, 1);
        } else {
            assert_eq!(receive(&mut to).1, whole, "{cuts:?}");
        }
        assert_eq!(from.pending(), 0);
    }
    // A chain without an end.
    let slot = from.tx(0).slot(0);
    slot.set(60, SlotFlags::MOREFRAG);
    from.tx(0).advance(1);
    let before = from.counters();
    from.txsync().unwrap();
    assert_eq!(from.counters().since(&before).tx_drop_bad, 1);
    assert!(is_silent(&mut to));
}

/// How many descriptors an epoll set hears.
fn heard(port: &Port) -> usize {
    let fd = port.fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    info.lines().filter(|line| line.starts_with("tfd:")).count()
}

#[test]
fn socket_is_in_no_epoll_set_while_its_user_sends() {
    // It would cost each packet that leaves a look at who waits.
    let Some(pair) = new_pair("socket_is_in_no_epoll_set_while_its_user_sends", 1) else {
        return;
    };
    let mut ports = [pair.open(0, ""), pair.open(1, "")];
    send(&mut ports[0], 0, &frame(60, 1));
    let news = heard(&ports[0]); // of the interface
    assert_eq!(ports[0].arm(Interest::RX).unwrap(), Interest::empty());
    assert_eq!(heard(&ports[0]), news + 1);
    // What is sent while it is about to wait does not make it deaf.
    send(&mut ports[0], 0, &frame(60, 2));
    assert_eq!(heard(&ports[0]), news + 1);
    ports[0].disarm();
    send(&mut ports[0], 0, &frame(60, 3));
    assert_eq!(heard(&ports[0]), news);
    send(&mut ports[1], 0, &frame(60, 4));
    assert_eq!(receive(&mut ports[0]).1, frame(60, 4));
}

#[test]
fn each_queue_is_a_ring_pair() {
    let Some(pair) = new_pair("each_queue_is_a_ring_pair", 2) else { return };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, ""));
    assert_eq!((from.tx_rings(), from.rx_rings()), (2, 2));
    for i in 0..20 {
        let sent = frame(60 + i, i);
        send(&mut from, i % 2, &sent);
        assert_eq!(receive(&mut to), (i % 2, sent));
    }
    assert!(from.about().unwrap().contains("queues 0 to 1, native"), "{:?}", from.about());
    drop(to);
    // One queue alone: the stack has the other.
    let mut one = pair.open(1, "-1");
    assert_eq!((one.tx_rings(), one.rx_rings()), (1, 1));
    assert!(one.about().unwrap().contains("queue 1, native"), "{:?}", one.about());
    for i in 0..20 {
        let sent = frame(60 + i, i);
        send(&mut from, i % 2, &sent);
        if i % 2 == 1 {
            assert_eq!(receive(&mut one), (0, sent));
        }
    }
    assert!(is_silent(&mut one));
    drop(one);
    let fewer = pair.open(1, "@conf:rings=1");
    assert_eq!((fewer.tx_rings(), fewer.rx_rings()), (1, 1));
}

#[test]
fn full_ring_is_counted_and_goes_on_when_it_is_read() {
    let Some(pair) = new_pair("full_ring_is_counted_and_goes_on_when_it_is_read", 1) else {
        return;
    };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, "@conf:slots=64"));
    for round in 0..50 {
        let before = to.counters();
        let sent = 40 + 3 * round;
        for i in 0..sent {
            send(&mut from, 0, &frame(60, i));
        }
        let mut got = 0;
        while !is_silent(&mut to) {
            let mut rx = to.rx(0);
            for i in 0..rx.available() {
                assert_eq!(rx.slot(i).frame().to_vec(), frame(60, got), "{round}");
                got += 1;
            }
            let n = rx.available();
            rx.advance(n);
        }
        let counted = to.counters().since(&before);
        // As many as there are buffers, of which one waits in the kernel until the others are read.
        assert_eq!(got, sent.min(64), "{round}");
        assert_eq!(counted.rx_packets as usize, got);
        assert_eq!((counted.rx_drop_full as usize, counted.rx_drop_bad), (sent - got, 0));
    }
}

#[test]
fn port_says_what_is_in_its_way() {
    let Some(pair) = new_pair("port_says_what_is_in_its_way", 2) else { return };
    let refused =
        |end: usize, name: &str| pair.within(end, || Port::open(name)).map(drop).expect_err(name);
    let said = |error: &Error, words: &str| {
        let said = error.to_string();
        assert!(said.contains(words), "{said}");
    };
    let none = refused(0, "xdp:v7");
    assert!(matches!(none, Error::Unavailable { lack: Lack::NoInterface, .. }), "{none:?}");
    for (name, asked) in [("xdp:v0-2", 2), ("xdp:v0@conf:rings=3", 2), ("xdp:v0-7", 7)] {
        let error = refused(0, name);
        match &error {
            Error::Invalid { fault: Invalid::NoQueue { asked: found, .. }, .. } => {
                assert_eq!(*found, asked, "{name}");
            }
            error => panic!("{name}: {error:?}"),
        }
        said(&error, "ethtool -L v0");
    }
    let odd = refused(0, "xdp:v0@conf:tx-rings=1,rx-rings=2");
    assert!(matches!(odd, Error::Invalid { fault: Invalid::QueuePairs { tx: 1, rx: 2 }, .. }));

    let holder = pair.open(0, "");
    let error = refused(0, "xdp:v0");
    assert!(
        matches!(&error, Error::Busy { by: InUse::Queue { .. } | InUse::XdpProgram { .. }, .. }),
        "{error:?}"
    );
    drop(holder);
    let holder = pair.open(0, "-0@conf:mode=generic");
    assert!(holder.about().unwrap().contains("generic"), "{:?}", holder.about());
    let error = refused(0, "xdp:v0-1");
    assert!(matches!(&error, Error::Busy { by: InUse::XdpProgram { native: false, .. }, .. }));
    // `xdp off` takes away a driver's program, and is silent about this one.
    said(&error, "ip link set dev v0 xdpgeneric off");
    // Who only sends needs no program, and disturbs none.
    let sender = Options { direction: netmap::Direction::TxOnly, ..Options::default() };
    let sender = pair.within(0, || Port::open_with(&"xdp:v0-1".parse().unwrap(), &sender)).unwrap();
    assert!(sender.about().unwrap().contains("sending only"), "{:?}", sender.about());
    drop((holder, sender));

    pair.within(0, || ip("link set v0 mtu 2095"));
    let error = refused(0, "xdp:v0");
    assert!(matches!(&error, Error::Invalid { fault: Invalid::Mtu { mtu: 2095, .. }, .. }));
    said(&error, "ip link set dev v0 mtu 2094");
    pair.within(0, || ip("link set v0 mtu 2094"));
    pair.within(1, || ip("link set v1 mtu 9000"));
    let error = refused(0, "xdp:v0");
    assert!(matches!(&error, Error::Invalid { fault: Invalid::MtuOfPeer { .. }, .. }), "{error:?}");
    said(&error, "mode=generic");
    drop(pair.open(0, "@conf:mode=generic"));
    let error = pair.within(0, || Port::open("xdp:lo")).map(drop).unwrap_err();
    assert!(matches!(error, Error::Invalid { fault: Invalid::Mtu { .. }, .. }), "{error:?}");
}

/// Whether an XDP program is attached.
fn has_program(pair: &Pair, end: usize) -> bool {
    let shown = pair.within(end, || ip(&format!("link show {}", crate::veth::ENDS[end])));
    String::from_utf8_lossy(&shown.stdout).contains("xdp")
}

#[test]
fn interface_is_as_before_when_the_last_handle_has_gone() {
    let Some(pair) = new_pair("interface_is_as_before_when_the_last_handle_has_gone", 1) else {
        return;
    };
    // A queue whose socket was closed is busy for a moment.
    for _ in 0..5 {
        let (mut tx, rx) = pair.open(0, "").split().unwrap();
        assert!(has_program(&pair, 0));
        drop(rx);
        assert!(has_program(&pair, 0));
        let mut peer = pair.open(1, "");
        send(&mut tx, 0, &frame(60, 1));
        assert_eq!(receive(&mut peer).1, frame(60, 1));
        drop(tx);
        assert!(!has_program(&pair, 0));
    }
}

#[test]
fn halves_are_used_by_threads_of_their_own() {
    let Some(pair) = new_pair("halves_are_used_by_threads_of_their_own", 2) else { return };
    const FRAMES: usize = 20_000;
    let (mut senders, _) = pair.open(0, "").split_rings().unwrap();
    let (_, mut receivers) = pair.open(1, "").split_rings().unwrap();
    std::thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| {
                let mut sent = 0;
                while sent < FRAMES {
                    let n = sender.tx(0).space().min(FRAMES - sent).min(32);
                    for i in 0..n {
                        assert!(sender.tx(0).push(&frame(60, sent + i)));
                    }
                    sent += n;
                    // A receiver that is slower loses some, which is no error here.
                    sender.wait(Interest::SENT, Wait::default(), Some(FOR_EVER)).unwrap();
                }
                assert_eq!((sender.pending(), sender.tx_rings()), (0, 1));
            });
        }
        for receiver in &mut receivers {
            scope.spawn(|| {
                let mut got = 0;
                while receiver.wait(Interest::RX, Wait::Block, Some(FOR_EVER)).unwrap()
                    == Interest::RX
                {
                    let mut rx = receiver.rx(0);
                    let n = rx.available();
                    assert!(rx.batch(n).all(|slot| slot.len() == 60));
                    rx.advance(n);
                    got += n;
                    if got > FRAMES / 10 {
                        return;
                    }
                }
                panic!("only {got} came");
            });
        }
    });
    let sent: u64 = senders.iter().map(|port| port.counters().tx_packets).max().unwrap();
    assert_eq!(sent, 2 * FRAMES as u64, "counters are the whole port's");
}

#[test]
fn flaps_are_told_and_survived() {
    let Some(pair) = new_pair("flaps_are_told_and_survived", 1) else { return };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, ""));
    for round in 0..10 {
        send(&mut from, 0, &frame(60, round));
        assert_eq!(receive(&mut to).1, frame(60, round));
        pair.within(0, || ip("link set v0 down"));
        // The news wakes who waits.
        while from.link() != Link::Down {
            from.wait(Interest::RX, Wait::Block, Some(FOR_EVER / 100)).unwrap();
        }
        let before = from.counters();
        assert!(from.tx(0).push(&frame(99, round)));
        from.txsync().unwrap();
        assert_eq!((from.pending(), from.counters().since(&before).tx_drop_down), (0, 1));
        pair.within(0, || ip("link set v0 up"));
        while from.link() != Link::Up {
            from.wait(Interest::RX, Wait::Block, Some(FOR_EVER / 100)).unwrap();
        }
        assert!(from.tx(0).push(&frame(61, round)));
        let left = from.wait(Interest::SENT, Wait::default(), Some(FOR_EVER)).unwrap();
        assert_eq!(left, Interest::SENT);
        assert_eq!(receive(&mut to).1, frame(61, round), "nothing old comes");
    }
    pair.within(0, || ip("link set v0 mtu 1000"));
    while from.mtu() != Some(1000) {
        from.wait(Interest::RX, Wait::Block, Some(FOR_EVER / 100)).unwrap();
    }
    let before = from.counters();
    send(&mut from, 0, &frame(1019, 0));
    assert_eq!(from.counters().since(&before).tx_drop_long, 1);
}

#[test]
fn port_opened_with_the_interface_down_sends_nothing_old_when_it_comes_up() {
    const TEST: &str = "port_opened_with_the_interface_down_sends_nothing_old_when_it_comes_up";
    let Some(pair) = new_pair(TEST, 1) else { return };
    pair.within(0, || ip("link set v0 down"));
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, ""));
    assert_eq!(from.link(), Link::Down);
    for number in 0..100 {
        // In two slots, now and then.
        let whole = frame(60 + 3000 * (number % 2), number);
        assert!(from.tx(0).push(&whole));
        from.txsync().unwrap();
    }
    assert_eq!((from.counters().tx_drop_down, from.pending()), (100, 0));
    pair.within(0, || ip("link set v0 up"));
    // A port that only sends sees it, too.
    while from.counters().tx_packets == 0 {
        assert!(from.tx(0).push(&frame(61, 7)));
        from.txsync().unwrap();
    }
    assert_eq!(receive(&mut to).1, frame(61, 7));
}

#[test]
fn host_rings_that_somebody_has_are_refused_by_their_own_name() {
    const NAME: &str = "host_rings_that_somebody_has_are_refused_by_their_own_name";
    let Some(pair) = new_pair(NAME, 1) else { return };
    pair.within(0, || {
        let _first = match Port::open("xdp:v0^") {
            Ok(host) => host,
            Err(why) => return crate::skip::skip(NAME, &why.to_string()),
        };
        let error = Port::open("xdp:v0^").unwrap_err();
        assert!(matches!(error, Error::Busy { by: InUse::HostRings, .. }), "{error:?}");
        assert!(error.to_string().starts_with("xdp:v0^"), "{error}");
    });
}

/// The 16-bit big-endian words of a packet, summed up.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum()
}

#[test]
fn checksums_that_a_stack_leaves_partial_within_a_tunnel_are_completed() {
    let test = "checksums_that_a_stack_leaves_partial_within_a_tunnel_are_completed";
    let Some(pair) = new_pair(test, 1) else { return };
    let mut port = pair.open(0, "");
    for outer in ["udpcsum", "noudpcsum"] {
        let lacks = pair.within(1, || {
            ip("addr flush dev v1");
            ip("addr add 10.9.0.2/24 dev v1");
            ip("neigh replace 10.9.0.1 lladdr 02:00:00:00:00:01 dev v1");
            let words =
                format!("link add x0 type vxlan id 7 dstport 4789 remote 10.9.0.1 dev v1 {outer}");
            let words = words.split_whitespace();
            let made = std::process::Command::new("ip").args(words).output().unwrap();
            if !made.status.success() {
                return Some(String::from_utf8_lossy(&made.stderr).trim().to_owned());
            }
            ip("addr add 10.8.0.2/24 dev x0");
            ip("link set x0 up");
            ip("neigh add 10.8.0.1 lladdr 02:00:00:00:00:03 dev x0");
            let address = "10.8.0.1:80".parse().unwrap();
            let connected = TcpStream::connect_timeout(&address, Duration::from_millis(1));
            assert!(connected.is_err(), "nobody is there");
            ip("link del x0");
            None
        });
        if let Some(why) = lacks {
            return crate::skip::skip(test, &why);
        }
        // Ethernet, IP and UDP to 4789; VXLAN, Ethernet, IP, and the segment that begins a connection.
        let found = loop {
            let frame = receive(&mut port).1;
            if frame.len() > 104
                && frame[23] == 17
                && frame[36..38] == [0x12, 0xb5]
                && frame[73] == 6
            {
                break frame;
            }
        };
        let tcp = &found[84..];
        let inner = sum(&found[76..84]) + 6 + tcp.len() as u64 + sum(tcp);
        assert_eq!(inner % 0xffff, 0, "{outer}: {found:02x?}");
        if outer == "udpcsum" {
            assert_ne!(found[40..42], [0, 0]);
            let udp = &found[34..];
            let outer = sum(&found[26..34]) + 17 + udp.len() as u64 + sum(udp);
            assert_eq!(outer % 0xffff, 0, "{found:02x?}");
        }
    }
}

#[test]
fn memory_of_a_switch_is_shared_and_gets_back_what_was_taken() {
    const TEST: &str = "memory_of_a_switch_is_shared_and_gets_back_what_was_taken";
    let Some(pair) = new_pair(TEST, 1) else { return };
    let mut peer = pair.open(0, "");
    let mut switch = Port::open("valeM:x@conf:mem-mib=16").unwrap();
    let mut reader = Port::open("valeM:y").unwrap();
    // Each time it takes a quarter of that memory.
    for round in 0..20 {
        let memory = Memory::With(switch.memory().unwrap());
        let options = Options { memory, ..Options::default() };
        let nic = pair.within(1, || Port::open_with(&"xdp:v1".parse().unwrap(), &options));
        let mut nic = nic.unwrap();
        assert!(nic.same_memory(&switch));
        for i in 0..40 {
            send(&mut peer, 0, &frame(60, round + i));
            nic.wait(Interest::RX, Wait::default(), Some(FOR_EVER)).unwrap();
            let moved = transfer(&mut nic.rx(0), &mut switch.tx(0), 64, true);
            assert_eq!((moved.slots, moved.bytes), (1, 60));
            switch.txsync().unwrap();
            nic.rxsync().unwrap();
            assert_eq!(receive(&mut reader).1, frame(60, round + i));
            // And back.
            send(&mut reader, 0, &frame(61, i));
            switch.rxsync().unwrap();
            transfer(&mut switch.rx(0), &mut nic.tx(0), 64, true);
            nic.txsync().unwrap();
            switch.rxsync().unwrap();
            assert_eq!(receive(&mut peer).1, frame(61, i));
        }
        assert_eq!(nic.counters().rx_drop_bad + nic.counters().tx_drop_bad, 0);
        // Now and then the port of the switch goes first; before that, even half of what was taken would have been too much.
        if round % 10 == 9 {
            drop(switch);
            switch = Port::open("valeM:x@conf:mem-mib=16").unwrap();
        }
    }
    // Two NICs share memory, too.
    drop(peer);
    let one = pair.open(0, "");
    let options = Options { memory: Memory::With(one.memory().unwrap()), ..Options::default() };
    let other = pair.within(1, || Port::open_with(&"xdp:v1".parse().unwrap(), &options)).unwrap();
    assert!(one.same_memory(&other) && !one.same_memory(&switch));
}

#[test]
fn names_have_modes_and_busy_polling() {
    for name in ["xdp:eth0@conf:mode=generic", "xdp:eth0-2@conf:mode=native,busy-poll-us=20"] {
        assert_eq!(name.parse::<netmap::PortName>().unwrap().to_string(), name);
    }
    for name in ["xdp:eth0@conf:mode=other", "tap:t0@conf:mode=native", "xdp:e@conf:busy-poll-us=0"]
    {
        name.parse::<netmap::PortName>().expect_err(name);
    }
    let Some(pair) = new_pair("names_have_modes_and_busy_polling", 1) else { return };
    let (mut from, mut to) =
        (pair.open(0, "@conf:mode=native"), pair.open(1, "@conf:busy-poll-us=20"));
    for i in 0..100 {
        send(&mut from, 0, &frame(60, i));
        assert_eq!(receive(&mut to).1, frame(60, i));
    }
}
