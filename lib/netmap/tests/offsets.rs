//! Data that begin within their buffers, where the slots say.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{all_are, beside_a_sender, frame, in_own_root, open, read, slots};
use netmap::error::Errno;
use netmap::{Offsets, Options, Port, SlotFlags};

const PORT: Offsets = Offsets { max: 512, initial: 64, bits: 16, tx_align: 8, min_gap: 0 };

fn with(name: &str, offsets: Offsets) -> Port {
    open(name, &Options { offsets: Some(offsets), ..slots(64) })
}

fn push_at(port: &mut Port, offset: usize, packet: &[u8]) {
    let mut ring = port.tx(0);
    let slot = ring.slot(0);
    slot.frame().write(offset.min(2112 - packet.len()), packet);
    slot.set_offset(offset);
    slot.set(packet.len(), SlotFlags::empty());
    ring.advance(1);
}

/// Offset and data of what has come.
fn read_at(port: &mut Port) -> Vec<(usize, Vec<u8>)> {
    port.rxsync().unwrap();
    let mut ring = port.rx(0);
    let n = ring.available();
    let packets = ring.batch(n).map(|s| (s.offset(), s.frame_at(s.offset()).to_vec())).collect();
    ring.advance(n);
    packets
}

#[test]
fn data_go_from_the_senders_offset_to_the_receivers() {
    let (mut x, mut y) = (with("valeO:x", PORT), with("valeO:y", Offsets { initial: 100, ..PORT }));
    let mut plain = open("valeO:plain", &slots(64));
    for (i, offset) in [0, 1, 64, 511].into_iter().enumerate() {
        push_at(&mut x, offset, &frame(0xff, 1, i as u32, 1000));
    }
    x.txsync().unwrap();
    let want: Vec<_> = (0..4).map(|i| frame(0xff, 1, i, 1000)).collect();
    assert_eq!(read(&mut plain, 0, 9), want);
    assert_eq!(read_at(&mut y), want.iter().map(|f| (100, f.clone())).collect::<Vec<_>>());
    // From a port without offsets, alone and in fragments.
    let long = frame(0xff, 2, 9, 2000);
    assert!(plain.tx(0).push(&long) && plain.tx(0).push(&frame(1, 2, 9, 60)));
    plain.txsync().unwrap();
    assert_eq!(read_at(&mut x), [(64, long.clone()), (64, frame(1, 2, 9, 60))]);
    assert_eq!(read_at(&mut y), [(100, long)]);
    assert_eq!(x.counters().tx_drops() + plain.counters().tx_drops(), 0);
}

#[test]
fn data_beyond_either_buffer_are_dropped_as_bad() {
    let (mut x, mut y) = (with("valeOb:x", PORT), with("valeOb:y", PORT));
    for offset in [1113, 2112, 65535] {
        push_at(&mut x, offset, &frame(0xff, 1, 0, 1000));
    }
    push_at(&mut x, 1112, &frame(0xff, 1, 1, 1000));
    push_at(&mut x, 0, &frame(0xff, 1, 2, 2100)); // 64 + 2100 is more than the receiver's buffer
    push_at(&mut x, 0, &frame(0xff, 1, 3, 2048));
    x.txsync().unwrap();
    assert_eq!(read_at(&mut y), [(64, frame(0xff, 1, 1, 1000)), (64, frame(0xff, 1, 3, 2048))]);
    assert_eq!(x.counters().tx_drop_bad, 4);
}

#[test]
fn offsets_that_cannot_be_are_refused_and_the_ports_own_stay() {
    let x = with("valeOr:x", PORT);
    let refused = |name: &str, offsets| {
        let o = Options { offsets: Some(offsets), ..slots(64) };
        Port::open_with(&name.parse().unwrap(), &o).unwrap_err().errno()
    };
    for bad in [
        Offsets { initial: 513, ..PORT },
        Offsets { max: 2113, ..PORT },
        Offsets { max: 2000, min_gap: 113, ..PORT },
        Offsets { bits: 8, ..PORT },
        Offsets { bits: 65, ..PORT },
        Offsets { tx_align: 3, ..PORT },
    ] {
        assert_eq!(refused("valeOr:new", bad), Errno::EINVAL, "{bad:?}");
    }
    assert_eq!(refused("valeOr:x", Offsets { bits: 17, ..PORT }), Errno::EINVAL);
    let _same = with("valeOr:x", PORT);
    drop(x);
}

#[test]
fn ports_whose_buffers_come_from_others_refuse_offsets() {
    let asked = Options { offsets: Some(PORT), ..Options::default() };
    let _x = open("valeOr:x", &slots(64));
    for name in ["valeOr:x{1", "valeOr:x}1", "valeOr:x/zt", "valeOr:x/zr", "null:"] {
        let e = Port::open_with(&name.parse().unwrap(), &asked).expect_err(name);
        assert!(e.errno() == Errno::EOPNOTSUPP && e.to_string().contains("offsets"), "{e}");
    }
    let info = netmap::control::Switch::open("valeOr").unwrap().info().unwrap();
    assert_eq!(info.ports.len(), 1, "something was made all the same");
    with("valeOr:x/t", PORT);
}

#[test]
fn persistent_port_is_made_with_offsets() {
    common::root();
    let name = "valeOp:x".parse().unwrap();
    let bad = Options { offsets: Some(Offsets { max: 9999, ..PORT }), ..slots(64) };
    assert_eq!(netmap::control::create_port(&name, &bad).unwrap_err().errno(), Errno::EINVAL);
    let asked = Options { offsets: Some(PORT), ..slots(64) };
    netmap::control::create_port(&name, &asked).unwrap();
    let (mut x, mut y) = (open("valeOp:x", &slots(64)), open("valeOp:y", &slots(64)));
    assert!(y.tx(0).push(&frame(0xff, 2, 5, 60)));
    y.txsync().unwrap();
    assert_eq!(read_at(&mut x), [(64, frame(0xff, 2, 5, 60))]);
    netmap::control::delete_port(&name).unwrap_err();
    drop(x);
    netmap::control::delete_port(&name).unwrap();
}

const CHILD: &str = "NM_TEST_OFFSETS";

/// Opens a port in the root that the environment names.
fn there(name: &str, offsets: Option<Offsets>) -> netmap::Result<Port> {
    Port::open_with(&name.parse().unwrap(), &Options { offsets, ..slots(64) })
}

#[test]
fn offsets_of_a_killed_user_are_not_the_next_ones() {
    const NAME: &str = "offsets_of_a_killed_user_are_not_the_next_ones";
    if let Some(name) = std::env::var_os(CHILD) {
        let mut port = there(name.to_str().expect("a name"), Some(PORT)).unwrap();
        push_at(&mut port, 77, &frame(0xff, 1, 9, 60)); // queued, not sent
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    in_own_root(NAME, |_| {
        let create = |name: &str, offsets| {
            let options = Options { offsets, ..slots(64) };
            netmap::control::create_port(&name.parse().unwrap(), &options).unwrap();
        };
        create("valeOk:x", None);
        create("valeOk:made", Some(PORT));
        let mut y = there("valeOk:y", None).unwrap();
        let mut send = |number| {
            assert!(y.tx(0).push(&frame(0xff, 2, number, 60)));
            y.txsync().unwrap();
            read(&mut y, 0, 99)
        };
        for round in 0..2 {
            for (number, name) in [(1, "valeOk:x"), (2, "valeOk:made")] {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args([NAME, "--exact", "--nocapture"])
                    .env(CHILD, name)
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                assert!(lines.any(|line| line.unwrap().contains("ready")));
                send(number); // to both; at the user's offset, and not read
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let mut x = there("valeOk:x", None).unwrap();
            let mut made = there("valeOk:made", None).unwrap();
            send(3);
            // What came after the first user's death is in nobody's form but the port's own.
            let came = read(&mut x, 0, 99);
            assert_eq!(came, [2, 3].map(|number| frame(0xff, 2, number, 60)), "round {round}");
            assert!(x.tx(0).push(&frame(0xff, 1, 4, 60)));
            x.txsync().unwrap();
            assert_eq!(send(5), [frame(0xff, 1, 4, 60)], "round {round}");
            // Those that the port was made with are its own.
            let came: Vec<_> = read_at(&mut made).into_iter().map(|(at, _)| at).collect();
            assert_eq!(came, [64; 5], "round {round}");
        }
        // The same at an orderly end, and then it may be other ones; not while somebody has the port open.
        let user = there("valeOk:x", Some(PORT)).unwrap();
        let plain = there("valeOk:x", None).unwrap();
        let ask = || there("valeOk:x", Some(Offsets { bits: 17, ..PORT }));
        drop(user);
        assert_eq!(ask().unwrap_err().errno(), Errno::EINVAL);
        drop(plain);
        ask().unwrap();
    });
}

#[test]
fn monitor_of_a_port_with_offsets_sees_what_found_room_and_not_what_did_not() {
    let mut x = with("valeOm:x", Offsets { initial: 100, max: 1500, ..PORT });
    let mut monitor = open("valeOm:x/r", &slots(64));
    let mut y = open("valeOm:y", &slots(64));
    // The second is too long for where its data would have to be, so that the third has its slot.
    let packets: Vec<_> =
        [60, 2100, 61, 2101, 62].map(|len| frame(0xff, 2, len as u32, len)).into();
    for packet in &packets {
        assert!(y.tx(0).push(packet));
    }
    y.txsync().unwrap();
    assert_eq!(y.counters().tx_drop_bad, 2);
    let fit = [0, 2, 4].map(|i| packets[i].clone());
    assert_eq!(read_at(&mut x), fit.clone().map(|packet| (100, packet)));
    assert_eq!(read(&mut monitor, 0, 9), fit);
}

#[test]
fn what_came_before_there_were_offsets_is_not_read_with_them() {
    in_own_root("what_came_before_there_were_offsets_is_not_read_with_them", |_| {
        netmap::control::create_port(&"valeOw:x".parse().unwrap(), &slots(64)).unwrap();
        let mut y = there("valeOw:y", None).unwrap();
        let mut send = |number| {
            assert!(y.tx(0).push(&frame(0xff, 2, number, 60)));
            y.txsync().unwrap();
        };
        send(1);
        let mut x = there("valeOw:x", Some(PORT)).unwrap();
        assert_eq!(read_at(&mut x), []);
        send(2);
        assert_eq!(read_at(&mut x), [(64, frame(0xff, 2, 2, 60))]);
    });
}

#[test]
fn what_neighbours_send_meanwhile_is_where_the_slots_say() {
    in_own_root("what_neighbours_send_meanwhile_is_where_the_slots_say", |_| {
        let ports: [netmap::PortName; 2] =
            ["valeOn:stays", "valeOn:new"].map(|p| p.parse().unwrap());
        netmap::control::create_port(&ports[0], &slots(1024)).unwrap();
        let name = "valeOn:neighbour".parse().unwrap();
        let neighbour = Port::open_with(&name, &slots(1024)).unwrap();
        let packet = frame(0xff, 2, 7, 60);
        beside_a_sender(neighbour, &packet, || {
            for round in 0..200 {
                let offsets = Offsets { initial: 64 + round / 2 % 2 * 64, ..PORT };
                let options = Options { offsets: Some(offsets), ..slots(1024) };
                let mut port = Port::open_with(&ports[round as usize % 2], &options).unwrap();
                let read = || read_at(&mut port).into_iter().map(|(_, packet)| packet).collect();
                all_are(&packet, 1500, &format!("round {round}"), read);
            }
        });
    });
}
