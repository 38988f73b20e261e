//! Taps in real network namespaces, with the kernel at the other end: headers and offloads, queues, MTU, link, moves.

#[path = "../../nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "common/patient.rs"]
mod patient;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netmap::error::{Errno, Error};
use netmap::{Capabilities, Interest, Link, Memory, Options, Port, Wait, transfer};
use netns::Namespace;
use patient::patient;

/// Far beyond anything that works.
const DEADLINE: Duration = Duration::from_secs(20);
const PEER: &str = "10.9.0.2:7";

/// A namespace, or the test is skipped.
fn namespace(test: &str, role: &str) -> Option<Namespace> {
    Namespace::new(role).map_err(|why| skip::skip(test, &why)).ok()
}

fn open(name: &str, options: &Options) -> Port {
    let parsed = name.parse().expect(name);
    patient(|| Port::open_with(&parsed, options)).expect(name)
}

fn with_header(len: u8) -> Options {
    Options { vnet_hdr_len: Some(len), ..Options::default() }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address for the interface `t0`, and a peer that needs no ARP.
fn address(namespace: &Namespace) {
    namespace.ip("addr add 10.9.0.1/24 dev t0");
    namespace.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev t0");
}

/// UDP packets of the namespace's stack: whole packets as the port gives them, of `ring`.
fn udp(port: &mut Port, ring: usize, count: usize) -> Vec<Vec<u8>> {
    let (mut packets, mut packet) = (Vec::new(), Vec::new());
    let end = Instant::now() + DEADLINE;
    while packets.len() < count {
        assert!(Instant::now() < end, "{} of {count} packets", packets.len());
        port.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(100))).unwrap();
        let header = port.vnet_hdr_len() as usize;
        let mut rx = port.rx(ring);
        let n = rx.available();
        for slot in rx.batch(n) {
            packet.extend(slot.frame().to_vec());
            if !slot.more_frag() {
                let whole = std::mem::take(&mut packet);
                // IPv4 and UDP, to our port: the stack says other things, too.
                let frame = &whole[header..];
                if frame[12..14] == [8, 0] && frame[23] == 17 && frame[36..38] == [0, 7] {
                    packets.push(whole);
                }
            }
        }
        rx.advance(n);
    }
    packets
}

/// Lets the stack send 20000 bytes that are to be cut into datagrams of 1000.
fn send_segmented(namespace: &Namespace) {
    let socket = namespace.inside(|| UdpSocket::bind("10.9.0.1:0").expect("bound"));
    const UDP_SEGMENT: i32 = 103;
    let size: i32 = 1000;
    // SAFETY: an open socket, and an int that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(set, 0);
    socket.send_to(&[0x5a; 20_000], PEER).expect("sent");
}

#[test]
fn segmentation_is_left_to_ports_with_headers_only() {
    const NAME: &str = "segmentation_is_left_to_ports_with_headers_only";
    let Some(ns) = namespace(NAME, "seg") else { return };
    let tap = format!("tap:t0@netns:{}", ns.0);
    for header in [0_usize, 10, 12, 0] {
        let mut port = open(&tap, &with_header(header as u8));
        address(&ns);
        send_segmented(&ns);
        if header == 0 {
            let packets = udp(&mut port, 0, 20);
            assert!(packets.iter().all(|packet| packet.len() == 42 + 1000));
            continue;
        }
        let packet = udp(&mut port, 0, 1).remove(0);
        if packet.len() < 2000 {
            skip::skip(NAME, "this kernel's taps know no UDP segmentation");
            return;
        }
        // USO, by 1000 bytes, the checksum from byte 34 on to be written at 6.
        assert_eq!((packet.len(), packet[1]), (header + 42 + 20_000, 5));
        assert_eq!(packet[..10], [1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0]);
        // And back: the kernel takes what it gave, and refuses what makes no sense, which is counted.
        assert!(port.tx(0).push(&packet));
        port.txsync().unwrap();
        for (at, bad) in [(1, 2), (4, 0), (6, 255)] {
            let mut packet = packet.clone();
            packet[at] = bad;
            if at == 4 {
                packet[5] = 0;
            }
            if at == 6 {
                packet[7] = 255;
            }
            assert!(port.tx(0).push(&packet));
        }
        assert!(port.tx(0).push(&packet[..header]));
        port.txsync().unwrap();
        let seen = port.counters();
        assert_eq!((seen.tx_packets, seen.tx_drop_bad), (1, 4), "{seen:?}");
    }
}

mod raw {
    nix::ioctl_write_ptr_bad!(
        tunsetiff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        tunsetoffload,
        nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>())
    );
}

/// A tap as a program opens it that knows nothing of us.
fn raw_tap(name: &str, flags: i32, offloads: Option<i32>) -> std::fs::File {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: integers, byte arrays and a nullable pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as i16;
    // SAFETY: an open descriptor and a whole ifreq.
    unsafe { raw::tunsetiff(file.as_raw_fd(), &raw const request) }.expect("attached");
    if let Some(offloads) = offloads {
        // SAFETY: an open descriptor and an integer.
        unsafe { raw::tunsetoffload(file.as_raw_fd(), offloads) }.expect("set");
    }
    file
}

#[test]
fn persistent_tap_is_plain_for_the_next_user_and_whatever_the_last_one_left() {
    const NAME: &str = "persistent_tap_is_plain_for_the_next_user_and_whatever_the_last_one_left";
    let Some(ns) = namespace(NAME, "per") else { return };
    ns.ip("tuntap add mode tap name t0");
    ns.ip("link set t0 up");
    address(&ns);
    let tap = format!("tap:t0@netns:{}", ns.0);
    drop(open(&tap, &with_header(12)));
    let mut file = ns.inside(|| raw_tap("t0", 0, None));
    send_segmented(&ns);
    let mut frame = [0; 70_000];
    let len = loop {
        let len = file.read(&mut frame).unwrap();
        // Ours, and not what the stack has to say by itself.
        if frame[..6] == [2, 0, 0, 0, 0, 2] {
            break len;
        }
    };
    assert_eq!(len, 42 + 1000, "a user without headers gets plain frames");
    drop(file);
    // A user who was killed leaves everything on.
    drop(ns.inside(|| raw_tap("t0", libc::IFF_VNET_HDR, Some(0x0f))));
    let mut port = open(&tap, &Options::default());
    until("the tap is up", || {
        port.rxsync().unwrap();
        port.link() == Link::Up
    });
    send_segmented(&ns);
    assert!(udp(&mut port, 0, 20).iter().all(|packet| packet.len() == 42 + 1000));
    drop(port);
    assert!(ns.ip("link show t0").contains("t0"), "it is persistent");
}

#[test]
fn queues_are_ring_pairs_that_flows_are_spread_over() {
    const NAME: &str = "queues_are_ring_pairs_that_flows_are_spread_over";
    let Some(ns) = namespace(NAME, "mq") else { return };
    let tap = format!("tap:t0@conf:rings=4@netns:{}", ns.0);
    let mut port = open(&tap, &Options::default());
    assert_eq!((port.tx_rings(), port.rx_rings()), (4, 4));
    assert!(port.can(Capabilities::SEVERAL_RINGS));
    address(&ns);
    let flows = || {
        ns.inside(|| {
            for _ in 0..64 {
                let socket = UdpSocket::bind("10.9.0.1:0").expect("bound");
                socket.send_to(&[1; 100], PEER).expect("sent");
            }
        });
    };
    flows();
    let counted = |port: &mut Port| -> Vec<usize> {
        let slots = |i| {
            let mut ring = port.rx(i);
            let n = ring.available();
            let long = ring.batch(n).filter(|slot| slot.len() == 142).count();
            ring.advance(n);
            long
        };
        (0..4).map(slots).collect()
    };
    let mut got = vec![0; 4];
    until("64 packets", || {
        port.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(100))).unwrap();
        got.iter_mut().zip(counted(&mut port)).for_each(|(sum, n)| *sum += n);
        got.iter().sum::<usize>() == 64
    });
    assert!(got.iter().filter(|&&n| n > 0).count() > 1, "{got:?}");
    // Each ring for itself, as threads would have it; and one queue that stays behind is enough to keep the tap.
    for i in 0..4 {
        assert!(port.tx(i).push(&[0xff; 60]));
    }
    port.wait(Interest::SENT, Wait::Block, Some(DEADLINE)).unwrap();
    let (senders, mut receivers) = port.split_rings().unwrap();
    assert_eq!((senders.len(), receivers.len()), (4, 4));
    flows();
    let mut got = 0;
    until("64 more", || {
        for receiver in &mut receivers {
            receiver.rxsync().unwrap();
            let mut ring = receiver.rx(0);
            let n = ring.available();
            got += ring.batch(n).filter(|slot| slot.len() == 142).count();
            ring.advance(n);
        }
        got == 64
    });
    drop(receivers);
    drop(senders);
    // What there is already decides; one queue of several is fine, several of one are not.
    ns.ip("tuntap add mode tap name t1 multi_queue");
    drop(open(&format!("tap:t1@netns:{}", ns.0), &Options::default()));
    ns.ip("tuntap add mode tap name t2");
    let several = format!("tap:t2@conf:rings=2@netns:{}", ns.0);
    let error = Port::open(&several).unwrap_err();
    assert!(error.to_string().contains("one queue"), "{error}");
    let uneven = Port::open("tap:t3@conf:tx-rings=2").unwrap_err();
    assert!(uneven.to_string().contains("pairs of rings"), "{uneven}");
}

#[test]
fn queues_that_somebody_has_are_left_alone() {
    const NAME: &str = "queues_that_somebody_has_are_left_alone";
    let Some(ns) = namespace(NAME, "mb") else { return };
    let tap = format!("tap:t0@conf:rings=2@netns:{}", ns.0);
    let mut port = open(&tap, &with_header(12));
    address(&ns);
    for other in [&tap, &format!("tap:t0@netns:{}", ns.0)] {
        let error = Port::open(other).unwrap_err();
        assert!(error.to_string().contains("another program has it open"), "{error}");
    }
    // Headers of another length would be taken for the begin of a frame.
    let socket = ns.inside(|| UdpSocket::bind("10.9.0.1:0").expect("bound"));
    socket.send_to(&[7; 100], PEER).expect("sent");
    let mut got = 0;
    until("the packet", || {
        port.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(100))).unwrap();
        for ring in 0..2 {
            let mut rx = port.rx(ring);
            let n = rx.available();
            got += rx.batch(n).filter(|slot| slot.len() == 12 + 142).count();
            rx.advance(n);
        }
        got > 0
    });
}

#[test]
fn frames_beyond_the_mtu_are_counted_and_the_mtu_is_followed() {
    const NAME: &str = "frames_beyond_the_mtu_are_counted_and_the_mtu_is_followed";
    let Some(ns) = namespace(NAME, "mtu") else { return };
    let mut port = open(&format!("tap:t0@netns:{}", ns.0), &Options::default());
    assert_eq!(port.mtu(), Some(1500));
    let mut send = |len: usize, mtu: u32, longer: u64| {
        until("the MTU", || {
            port.txsync().unwrap();
            port.mtu() == Some(mtu)
        });
        let before = port.counters();
        assert!(port.tx(0).push(&vec![0xff; len]));
        port.txsync().unwrap();
        let counted = port.counters().since(&before);
        assert_eq!((counted.tx_packets, counted.tx_drop_long), (1 - longer, longer), "{len}");
    };
    send(1518, 1500, 0);
    send(1519, 1500, 1);
    ns.ip("link set t0 mtu 9000");
    send(9018, 9000, 0);
    send(9019, 9000, 1);
    // And what the kernel sends then comes whole.
    address(&ns);
    let socket = ns.inside(|| UdpSocket::bind("10.9.0.1:0").expect("bound"));
    socket.send_to(&[7; 8000], PEER).expect("sent");
    assert_eq!(udp(&mut port, 0, 1)[0].len(), 8042);
}

#[test]
fn link_is_followed_down_up_to_another_namespace_and_to_the_end() {
    const NAME: &str = "link_is_followed_down_up_to_another_namespace_and_to_the_end";
    let Some(ns) = namespace(NAME, "la") else { return };
    let Some(other) = namespace(NAME, "lb") else { return };
    let mut port = open(&format!("tap:t0@netns:{}", ns.0), &Options::default());
    let see = |port: &mut Port, link: Link| {
        until("the link's new state", || {
            let synced = port.rxsync();
            assert!(link == Link::Gone || synced.is_ok(), "{synced:?}");
            port.link() == link
        });
    };
    see(&mut port, Link::Up);
    ns.ip("link set t0 down");
    see(&mut port, Link::Down);
    assert!(port.tx(0).push(&[0xff; 60]));
    port.txsync().unwrap();
    assert_eq!(port.counters().tx_drop_down, 1);
    ns.ip("link set t0 up");
    see(&mut port, Link::Up);
    ns.ip(&format!("link set t0 netns {} name eth9", other.0));
    see(&mut port, Link::Down);
    other.ip("link set eth9 up mtu 1400");
    see(&mut port, Link::Up);
    assert_eq!(port.mtu(), Some(1400));
    assert!(port.tx(0).push(&[0xff; 60]));
    port.txsync().unwrap();
    assert_eq!(port.counters().tx_packets, 1);
    drop(other); // and all that is in it
    see(&mut port, Link::Gone);
    let error = port.rxsync().unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("somebody deleted the interface"), "{error}");
    assert_eq!(error.errno(), Errno::ENXIO);
}

#[test]
fn namespace_that_is_not_there_is_one_clear_line() {
    const NAME: &str = "namespace_that_is_not_there_is_one_clear_line";
    if namespace(NAME, "no").is_none() {
        return;
    }
    let error = Port::open("tap:t0@netns:nm-no-such").unwrap_err();
    assert!(error.to_string().contains("no network namespace of this name"), "{error}");
}

#[test]
fn more_news_than_the_kernel_keeps_do_not_end_a_port() {
    let Some(ns) = namespace("more_news_than_the_kernel_keeps_do_not_end_a_port", "news") else {
        return;
    };
    let mut port = open(&format!("tap:t0@netns:{}", ns.0), &Options::default());
    for (mtu, last, link) in [(1400, "up", Link::Up), (1300, "down", Link::Down)] {
        // Ours is among what gets lost.
        let many = (0..2000).map(|n| format!("link set lo mtu {}\n", 60_000 + n));
        let own = format!("link set t0 mtu {mtu}\nlink set t0 {last}\n");
        let changes: String = many.chain([own]).collect();
        let mut ip = Command::new("ip")
            .args(["-n", &ns.0, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("started");
        ip.stdin.take().expect("a pipe").write_all(changes.as_bytes()).expect("written");
        assert!(ip.wait().expect("ended").success());
        until("the link and MTU to be seen", || {
            port.rxsync().expect("the interface is there");
            port.txsync().expect("the interface is there");
            (port.link(), port.mtu()) == (link, Some(mtu))
        });
    }
}

/// A bridge between two interfaces of the host has their rings in one memory of its own, and exchanges buffers.
#[test]
fn two_taps_share_memory_and_exchange_buffers() {
    const NAME: &str = "two_taps_share_memory_and_exchange_buffers";
    let Some(ns) = namespace(NAME, "xa") else { return };
    let Some(far) = namespace(NAME, "xb") else { return };
    let mut a = open(&format!("tap:t0@netns:{}", ns.0), &Options::default());
    let with = |port: &Port| Options {
        memory: Memory::With(port.memory().unwrap()),
        ..Options::default()
    };
    let mut b = open(&format!("tap:t0@netns:{}", far.0), &with(&a));
    assert!(a.same_memory(&b));
    // Room is for two.
    let third: Result<Port, Error> =
        Port::open_with(&format!("tap:t1@netns:{}", ns.0).parse().unwrap(), &with(&a));
    assert!(third.is_err());
    address(&ns);
    far.ip("addr add 10.9.0.2/24 dev t0");
    far.ip("link set dev t0 address 02:00:00:00:00:02");
    let receiver = far.inside(|| UdpSocket::bind(PEER).expect("bound"));
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let sender = ns.inside(|| UdpSocket::bind("10.9.0.1:0").expect("bound"));
    let mut buffers: Vec<u32> = (0..a.rx(0).num_slots()).map(|_| 0).collect();
    // More than either ring has slots.
    for number in 0..3000_u32 {
        let sent: Vec<u8> = number.to_le_bytes().repeat(1 + number as usize % 300);
        sender.send_to(&sent, PEER).expect("sent");
        let mut got = [0; 2048];
        loop {
            a.wait(Interest::RX, Wait::Block, Some(DEADLINE)).unwrap();
            let slot = a.rx(0).slot(0);
            let (frame, at) = (slot.frame().to_vec(), number as usize % buffers.len());
            buffers[at] = slot.buf_idx();
            assert_eq!(transfer(&mut a.rx(0), &mut b.tx(0), 1, true).packets, 1);
            b.txsync().unwrap();
            // IPv4 and UDP: the stack says other things, too.
            if frame[12..14] == [8, 0] && frame[23] == 17 {
                break;
            }
        }
        let len = receiver.recv(&mut got).expect("the datagram");
        assert_eq!(&got[..len], &sent[..], "{number}");
    }
    // They went from the one to the other: what has been received is in slots of the other's ring now.
    let n = b.tx(0).num_slots();
    let sent: Vec<u32> = (0..n - 1).map(|i| b.tx(0).slot(i).buf_idx()).collect();
    assert!(buffers.iter().filter(|buffer| sent.contains(buffer)).count() > buffers.len() / 2);
    // The memory is there as long as either.
    drop(a);
    assert!(b.tx(0).push(&[0xff; 60]));
    b.txsync().unwrap();
    assert_eq!(b.pending(), 0);
}
