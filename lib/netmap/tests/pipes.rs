//! Pipes feature by feature: names, both ends, whose buffer is where, what waits, who goes when.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{frame, in_own_root, number, read, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::error::Errno;
use netmap::{Capabilities, Interest, Memory, Options, Port, SlotFlags, Wait, transfer};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn open(name: &str) -> Port {
    Port::open(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn open_with(name: &str, options: &Options) -> Port {
    Port::open_with(&name.parse().expect(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A small pipe of port `x`, both ends: 64 slots.
fn pipe() -> (Port, Port) {
    let master = open_with("valeA:x{1", &slots(64));
    (master, open("valeA:x}1"))
}

fn send(port: &mut Port, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert!(port.tx(0).push(&frame(9, 1, number, 60)), "no room for {number}");
    }
    port.txsync().expect("synced");
}

fn numbers(port: &mut Port, max: usize) -> Vec<u32> {
    read(port, 0, max).iter().map(|packet| number(packet)).collect()
}

fn ports_of(switch: &str) -> Vec<String> {
    let Ok(switch) = Switch::open(switch) else { return Vec::new() };
    let ports = switch.info().expect("read").ports;
    let mut names: Vec<String> = ports.into_iter().map(|port| port.name).collect();
    names.sort();
    names
}

fn left_in_memory(root: &Path) -> usize {
    std::fs::read_dir(root.join("mem")).expect("the directory of regions").count()
}

#[test]
fn packets_go_both_ways_without_a_copy_and_nothing_is_left_afterwards() {
    in_own_root("packets_go_both_ways_without_a_copy_and_nothing_is_left_afterwards", |root| {
        let (mut a, mut b) = pipe();
        assert_eq!(ports_of("valeA"), ["x", "x{1", "x}1"]);
        for (from, to) in [(true, 0u32), (false, 100)] {
            let (tx, rx) = if from { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let buffer = tx.tx(0).slot(0).buf_idx();
            send(tx, to..to + 10);
            rx.rxsync().expect("synced");
            assert_eq!(rx.rx(0).slot(0).buf_idx(), buffer, "the very buffer");
            assert_eq!(numbers(rx, 64), (to..to + 10).collect::<Vec<_>>());
            let (sent, got) = (tx.counters(), rx.counters());
            assert_eq!((sent.tx_packets, sent.tx_bytes, sent.tx_drops()), (10, 600, 0));
            assert_eq!((got.rx_packets, got.rx_bytes, got.rx_drops()), (10, 600, 0));
        }
        assert!(a.same_memory(&b) && a.same_memory(&open("valeA:x")));
        drop(a);
        assert_eq!(ports_of("valeA"), ["x", "x{1", "x}1"], "one end keeps all");
        drop(b);
        assert!(ports_of("valeA").is_empty());
        assert_eq!(left_in_memory(root), 0);
    });
}

#[test]
fn nothing_is_lost_and_room_comes_back_when_the_reader_releases() {
    in_own_root("nothing_is_lost_and_room_comes_back_when_the_reader_releases", |_| {
        let (mut a, mut b) = pipe();
        send(&mut a, 0..63);
        assert_eq!((a.tx(0).space(), a.tx(0).pending()), (0, 63));
        assert_eq!(a.held_up_by().as_deref(), Some("valeA:x}1"));
        assert_eq!(a.tx(0).withdraw(), 0, "what was sent is the reader's");
        assert!(!a.tx(0).push(&frame(9, 1, 99, 60)));
        assert_eq!(numbers(&mut b, 20), (0..20).collect::<Vec<_>>());
        a.txsync().expect("synced");
        assert_eq!((a.tx(0).space(), a.tx(0).pending()), (20, 43));
        send(&mut a, 63..83);
        assert_eq!(numbers(&mut b, 64), (20..83).collect::<Vec<_>>());
        a.txsync().expect("synced");
        assert_eq!((a.tx(0).space(), a.held_up_by()), (63, None));
    });
}

#[test]
fn what_is_sent_before_the_other_end_is_open_waits_for_it() {
    in_own_root("what_is_sent_before_the_other_end_is_open_waits_for_it", |_| {
        let mut slave = open_with("valeA:x}p_1", &slots(64));
        send(&mut slave, 0..40);
        let mut master = open("valeA:x{p_1");
        assert_eq!(numbers(&mut master, 64), (0..40).collect::<Vec<_>>());
        send(&mut slave, 40..50);
        drop(master); // with 10 packets that it has not read
        send(&mut slave, 50..60);
        assert_eq!(numbers(&mut open("valeA:x{p_1"), 64), (40..60).collect::<Vec<_>>());
    });
}

#[test]
fn buffer_that_the_reader_exchanges_goes_to_the_senders_slot_and_no_other_does() {
    in_own_root(
        "buffer_that_the_reader_exchanges_goes_to_the_senders_slot_and_no_other_does",
        |_| {
            let (mut a, mut b) = pipe();
            let mut base = open_with("valeA:x", &Options { extra_bufs: 1, ..Options::default() });
            let extra = base.extra_buffers()[0];
            let before: Vec<u32> = (0..63).map(|i| a.tx(0).slot(i).buf_idx()).collect();
            send(&mut a, 0..63);
            b.rxsync().expect("synced");
            let taken = b.rx(0).slot(5).swap_buffer(extra);
            assert_eq!(taken, before[5]);
            b.rx(0).advance(63);
            b.rxsync().expect("synced");
            a.txsync().expect("synced");
            // Once round: slot 63, then 0 to 61.
            send(&mut a, 100..101);
            assert_eq!(numbers(&mut b, 1), [100]);
            a.txsync().expect("synced");
            let after: Vec<u32> = (0..62).map(|i| a.tx(0).slot(i).buf_idx()).collect();
            let mut expected = before[..62].to_vec();
            expected[5] = extra;
            assert_eq!(after, expected);
            // And the other way: a buffer that the sender exchanges arrives.
            let old = a.tx(0).slot(0).swap_buffer(taken);
            send(&mut a, 7..8);
            b.rxsync().expect("synced");
            assert_eq!((b.rx(0).slot(0).buf_idx(), old), (taken, before[0]));
            assert!(!b.rx(0).slot(0).flags().contains(SlotFlags::BUF_CHANGED));
            assert_eq!(numbers(&mut b, 1), [7]);
            base.txsync().expect("synced");
        },
    );
}

#[test]
fn packets_are_published_whole() {
    in_own_root("packets_are_published_whole", |_| {
        let (mut a, mut b) = pipe();
        let long = frame(9, 1, 1, 5000); // three slots
        assert!(a.tx(0).push(&frame(9, 1, 0, 60)));
        for part in 0..2 {
            let mut tx = a.tx(0);
            let bytes = &long[part * 2112..(part + 1) * 2112];
            tx.slot(0).frame().write(0, bytes);
            tx.slot(0).set(bytes.len(), SlotFlags::MOREFRAG);
            tx.advance(1);
            a.txsync().expect("synced");
            let mut seen = read(&mut b, 0, 9);
            assert_eq!(seen.pop().map(|p| number(&p)), (part == 0).then_some(0));
        }
        assert_eq!(a.tx(0).pending(), 2, "they wait for the third");
        let mut tx = a.tx(0);
        tx.slot(0).frame().write(0, &long[2 * 2112..]);
        tx.slot(0).set(5000 - 2 * 2112, SlotFlags::REPORT);
        tx.advance(1);
        a.txsync().expect("synced");
        b.rxsync().expect("synced");
        assert!(b.rx(0).slot(2).flags().contains(SlotFlags::REPORT), "as the sender set it");
        assert_eq!(read(&mut b, 0, 9), [long]);
        assert_eq!((a.counters().tx_packets, a.counters().tx_bytes), (2, 5060));
    });
}

#[test]
fn packet_without_its_end_goes_with_whom_queued_it() {
    in_own_root("packet_without_its_end_goes_with_whom_queued_it", |_| {
        let (mut a, mut b) = pipe();
        assert!(a.tx(0).push(&frame(9, 1, 0, 60)), "whole, and not sent");
        a.tx(0).slot(0).set(100, SlotFlags::MOREFRAG);
        a.tx(0).advance(1);
        drop(a);
        let mut a = open("valeA:x{1");
        send(&mut a, 1..2);
        assert_eq!(numbers(&mut b, 9), [0, 1]);
    });
}

#[test]
fn shape_is_the_openers_or_the_parents_and_mirrored_at_the_other_end() {
    in_own_root("shape_is_the_openers_or_the_parents_and_mirrored_at_the_other_end", |_| {
        let _base = open("valeA:x@conf:tx-slots=128,rx-slots=256");
        let a = open("valeA:x}1@conf:tx-rings=2,rx-rings=3");
        let b = open("valeA:x{1");
        let shape = |p: &Port| (p.tx_rings(), p.rx_rings(), p.slots().tx, p.slots().rx);
        assert_eq!(shape(&a), (2, 3, 128, 256));
        assert_eq!(shape(&b), (3, 2, 256, 128));
        let one = open("valeA:x{1-2/T");
        assert_eq!((one.tx_rings(), one.rx_rings()), (1, 0));
        let misfit = Port::open("valeA:x{1@conf:rings=4").unwrap_err();
        assert_eq!(misfit.errno(), Errno::EINVAL);
        let one_pair = open("valeA:x{2");
        assert_eq!(shape(&one_pair), (1, 1, 128, 256));
        for bad in
            ["valeA:x{3@conf:rings=17", "valeA:x{3@conf:slots=4097", "valeA:x{3^", "valeA:x{1-3"]
        {
            assert_eq!(Port::open(bad).unwrap_err().errno(), Errno::EINVAL, "{bad}");
        }
        let full = Port::open("valeA:x{4@conf:rings=16,slots=4096").unwrap_err();
        assert_eq!(full.errno(), Errno::ENOMEM, "the base's memory is too small: {full}");
        let most = open("valeA:y{4@conf:rings=16,slots=4096"); // memory of that size is made
        assert_eq!(shape(&most), (16, 16, 4096, 4096));
    });
}

#[test]
fn ends_are_opened_twice_or_exclusively_as_other_ports() {
    in_own_root("ends_are_opened_twice_or_exclusively_as_other_ports", |_| {
        let (mut a, mut b) = pipe();
        let mut again = open("valeA:x{1");
        send(&mut a, 0..3);
        send(&mut again, 3..5);
        assert_eq!(numbers(&mut b, 9), [0, 1, 2, 3, 4]);
        assert_eq!(Port::open("valeA:x}1/x").unwrap_err().errno(), Errno::EBUSY);
        drop(b);
        let exclusive = open("valeA:x}1/x");
        assert_eq!(Port::open("valeA:x}1").unwrap_err().errno(), Errno::EBUSY);
        drop(exclusive);
        drop(open("valeA:x}1"));
    });
}

#[test]
fn port_has_64_pipes_and_no_more() {
    in_own_root("port_has_64_pipes_and_no_more", |root| {
        let pipes: Vec<Port> =
            (0..64).map(|i| open_with(&format!("valeA:x{{{i}"), &slots(64))).collect();
        let full = Port::open("valeA:x}64").unwrap_err();
        assert_eq!(full.errno(), Errno::ENOMEM, "{full}");
        drop(open("valeA:x}63"));
        drop(open_with("valeA:y}64", &slots(64))); // another port's
        drop(pipes);
        assert_eq!((ports_of("valeA"), left_in_memory(root)), (vec![], 0));
    });
}

#[test]
fn base_outlives_its_users_with_its_pipes_and_gets_nothing_meanwhile() {
    in_own_root("base_outlives_its_users_with_its_pipes_and_gets_nothing_meanwhile", |_| {
        let lossless =
            SwitchOptions { backpressure: true, persistent: false, ..SwitchOptions::default() };
        let base = open_with("valeA:x", &slots(64));
        Switch::create("valeA", &lossless).expect("set");
        let pipe = open("valeA:x{1");
        drop(base);
        // With backpressure, a port that nobody reads would hold up all who flood.
        let (mut sender, mut other) = (open("valeA:s"), open("valeA:o"));
        for round in 0..10 {
            send(&mut sender, round * 50..(round + 1) * 50);
            assert_eq!(numbers(&mut other, 64).len(), 50);
        }
        assert_eq!(sender.tx(0).pending(), 0);
        let mut base = open("valeA:x");
        send(&mut sender, 1000..1001);
        assert_eq!(numbers(&mut base, 9), [1000]);
        drop(pipe);
        assert_eq!(ports_of("valeA"), ["o", "s", "x"]);
    });
}

#[test]
fn pipes_are_no_ports_to_forward_to_to_mirror_or_to_keep() {
    in_own_root("pipes_are_no_ports_to_forward_to_to_mirror_or_to_keep", |_| {
        let (a, mut b) = pipe();
        let mut sender = open("valeA:s");
        send(&mut sender, 0..10); // to everybody
        assert_eq!(numbers(&mut b, 9), []);
        let (pipe, port) = ("valeA:x{1".parse().unwrap(), "valeA:s".parse().unwrap());
        let refused = [
            control::create_port(&pipe, &Options::default()),
            control::delete_port(&pipe),
            control::set_mirror(&pipe, Some(&port)),
            control::set_mirror(&port, Some(&pipe)),
        ];
        for refusal in refused {
            assert_eq!(refusal.unwrap_err().errno(), Errno::EINVAL);
        }
        assert!(!a.can(Capabilities::PERSISTENT) && !a.can(Capabilities::INDIRECT));
        let info = Switch::open("valeA").unwrap().info().unwrap();
        let end = info.ports.iter().find(|port| port.name == "x}1").expect("listed");
        assert_eq!(end.pipe_of.as_deref(), Some("x"));
        assert_eq!((end.users.len(), end.tx_slots), (1, 64));
    });
}

#[test]
fn buffers_are_exchanged_between_a_port_its_pipes_and_whatever_shares_their_memory() {
    const NAME: &str =
        "buffers_are_exchanged_between_a_port_its_pipes_and_whatever_shares_their_memory";
    in_own_root(NAME, |_| {
        let mut base = open_with("valeA:x", &slots(64));
        let with = Options { memory: Memory::With(base.memory().unwrap()), ..slots(64) };
        let (mut a, mut b) = pipe();
        let mut out = open_with("valeB:out", &with);
        let (mut source, mut sink) = (open("valeA:source"), open("valeB:sink"));
        for round in 0..50 {
            send(&mut source, round * 30..(round + 1) * 30);
            base.rxsync().expect("synced");
            let first = base.rx(0).slot(0).buf_idx();
            assert_eq!(transfer(&mut base.rx(0), &mut a.tx(0), 64, true).packets, 30);
            a.txsync().expect("synced");
            b.rxsync().expect("synced");
            assert_eq!(b.rx(0).slot(0).buf_idx(), first);
            assert_eq!(transfer(&mut b.rx(0), &mut out.tx(0), 64, true).packets, 30);
            out.txsync().expect("synced");
            b.rxsync().expect("synced");
            let expected: Vec<u32> = (round * 30..(round + 1) * 30).collect();
            assert_eq!(numbers(&mut sink, 64), expected);
        }
    });
}

#[test]
fn receiver_that_sleeps_is_woken_by_packets_and_sender_by_room() {
    in_own_root("receiver_that_sleeps_is_woken_by_packets_and_sender_by_room", |_| {
        const PACKETS: u32 = 20_000;
        let (mut a, mut b) = pipe();
        let start = Instant::now();
        let got = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut got = Vec::new();
                while got.len() < PACKETS as usize {
                    let ready = b.wait(Interest::RX, Wait::Block, LONG).expect("waited");
                    assert_eq!(ready, Interest::RX, "after {}", got.len());
                    got.extend(numbers(&mut b, 64));
                }
                got
            });
            let mut next = 0;
            while next < PACKETS {
                while next < PACKETS && a.tx(0).push(&frame(9, 1, next, 60)) {
                    next += 1;
                }
                let ready = a.wait(Interest::SPACE, Wait::Block, LONG).expect("waited");
                assert_eq!(ready, Interest::SPACE, "at {next}");
            }
            assert_eq!(a.wait(Interest::SENT, Wait::Block, LONG).expect("waited"), Interest::SENT);
            reader.join().expect("the reader")
        });
        assert_eq!(got, (0..PACKETS).collect::<Vec<_>>());
        // 300 rings full of packets, each of which would take a tenth of a second if nobody rang.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert!(a.counters().wakeups + b.counters().wakeups > 0);
    });
}

#[test]
fn handles_of_a_pipe_are_split_and_passed_on() {
    in_own_root("handles_of_a_pipe_are_split_and_passed_on", |_| {
        let (a, b) = pipe();
        let (mut tx, mut rx) = a.split().expect("split");
        let mut b = Port::from_fd(b.into_fd().expect("passable")).expect("it names the handle");
        assert_eq!(b.name().to_string(), "valeA:x}1");
        send(&mut tx, 0..5);
        assert_eq!(numbers(&mut b, 9), [0, 1, 2, 3, 4]);
        send(&mut b, 5..6);
        assert_eq!(numbers(&mut rx, 9), [5]);
    });
}

#[test]
fn sender_is_told_which_slots_got_another_buffer_from_the_reader() {
    in_own_root("sender_is_told_which_slots_got_another_buffer_from_the_reader", |_| {
        let (mut a, mut b) = pipe();
        let mut spare = open_with("valeA:x", &Options { extra_bufs: 1, ..Options::default() })
            .extra_buffers()[0];
        let buffers: Vec<u32> = (0..63).map(|i| a.tx(0).slot(i).buf_idx()).collect();
        send(&mut a, 0..3);
        b.rxsync().expect("synced");
        // The reader keeps the second packet, as a bridge that passes buffers on does.
        spare = b.rx(0).slot(1).swap_buffer(spare);
        b.rx(0).advance(3);
        b.rxsync().expect("synced");
        a.txsync().expect("synced");
        // A sender that goes round meets the three slots again.
        for number in 3..64 {
            send(&mut a, number..number + 1);
            assert_eq!(numbers(&mut b, 9), [number]);
            a.txsync().expect("synced");
        }
        let changed: Vec<bool> = (0..3).map(|i| a.tx(0).slot(i).buf_changed()).collect();
        assert_eq!(changed, [false, true, false]);
        assert_ne!(a.tx(0).slot(1).buf_idx(), buffers[1]);
        assert_eq!(spare, buffers[1]);
        // Said once.
        send(&mut a, 64..67);
        assert_eq!(numbers(&mut b, 9), [64, 65, 66]);
        a.txsync().expect("synced");
        assert!((0..63).all(|i| !a.tx(0).slot(i).buf_changed()));
    });
}

/// Numbers of the packets that a monitor has seen, those seen on transmission negative, with their slots.
fn seen(monitor: &mut Port) -> Vec<(i64, usize)> {
    monitor.rxsync().expect("synced");
    let mut rx = monitor.rx(0);
    let (mut packets, mut bytes, mut slots) = (Vec::new(), Vec::new(), 0);
    let n = rx.available();
    for slot in rx.batch(n) {
        bytes.extend(slot.frame().to_vec());
        slots += 1;
        if !slot.more_frag() {
            let sign = if slot.flags().contains(SlotFlags::TXMON) { -1 } else { 1 };
            let number = number(&std::mem::take(&mut bytes));
            packets.push((i64::from(number) * sign, std::mem::take(&mut slots)));
        }
    }
    rx.advance(n);
    monitor.rxsync().expect("synced");
    packets
}

#[test]
fn monitors_of_an_end_see_what_it_sends_and_receives() {
    in_own_root("monitors_of_an_end_see_what_it_sends_and_receives", |_| {
        let (mut a, mut b) = pipe();
        let mut of =
            ["{1/t", "{1/r", "{1/tr", "}1/tr", "}1/r"].map(|end| open(&format!("valeA:x{end}")));
        assert_eq!(of[0].name().to_string(), "valeA:x{1/t");
        for round in 0..20u32 {
            let number = |i: u32| 10 * round + i;
            // The second has three slots, of which the last is queued later.
            assert!(a.tx(0).push(&frame(9, 1, number(1), 60)));
            let long = frame(9, 1, number(2), 5000);
            for (i, part) in long.chunks(2112).enumerate() {
                let more = if i < 2 { SlotFlags::MOREFRAG } else { SlotFlags::empty() };
                if i == 2 {
                    a.txsync().expect("synced");
                    assert_eq!(
                        seen(&mut of[1 + 3]),
                        [(number(1).into(), 1)],
                        "half a packet was seen"
                    );
                }
                let mut tx = a.tx(0);
                tx.slot(0).frame().write(0, part);
                tx.slot(0).set(part.len(), more);
                tx.advance(1);
            }
            a.txsync().expect("synced");
            send(&mut b, number(3)..number(4));
            let [one, two, three] = [1, 2, 3].map(|i| i64::from(number(i)));
            let expected: [&[(i64, usize)]; 5] = [
                &[(-one, 1), (-two, 3)],
                &[(three, 1)],
                &[(-one, 1), (-two, 3), (three, 1)],
                &[(one, 1), (two, 3), (-three, 1)],
                &[(two, 3)],
            ];
            for (monitor, expected) in of.iter_mut().zip(expected) {
                assert_eq!(seen(monitor), expected, "{}", monitor.name());
            }
            // The receivers get the same, with their own buffers.
            assert_eq!(numbers(&mut b, 9), [number(1), number(2)]);
            assert_eq!(numbers(&mut a, 9), [number(3)]);
            a.txsync().expect("synced");
            b.txsync().expect("synced");
        }
        assert_eq!(a.counters().tx_drops() + b.counters().tx_drops(), 0);
        // They keep neither the pipe nor its base, and end with it.
        drop((a, b));
        assert!(of.iter().all(Port::ended));
        assert!(ports_of("valeA").iter().all(|name| name.contains('#')), "{:?}", ports_of("valeA"));
        drop(of);
        assert!(ports_of("valeA").is_empty());
    });
}

#[test]
fn slow_monitors_of_a_pipe_lose_and_the_pipe_does_not() {
    in_own_root("slow_monitors_of_a_pipe_lose_and_the_pipe_does_not", |_| {
        let (mut a, mut b) = pipe();
        let mut slow = open("valeA:x{1/t");
        for number in 0..500 {
            send(&mut a, number..number + 1);
            assert_eq!(numbers(&mut b, 9), [number]);
            a.txsync().expect("synced");
        }
        assert_eq!(seen(&mut slow).len(), 63);
        let counted = slow.counters();
        assert_eq!((counted.rx_packets, counted.rx_drop_full), (63, 500 - 63));
        assert_eq!(a.counters().tx_drops() + b.counters().rx_drops(), 0);
    });
}

#[test]
fn monitors_of_pipes_get_copies_only_and_have_names_of_any_length() {
    in_own_root("monitors_of_pipes_get_copies_only_and_have_names_of_any_length", |_| {
        let end = "valeA:port_of_15_char{pipe_of_15_char";
        let (_pipe, monitor) = (open(end), open(&format!("{end}/t")));
        for zero_copy in ["zt", "zr", "ztr"].map(|letters| format!("{end}/{letters}")) {
            let e = Port::open(&zero_copy).expect_err("it has no buffers to give");
            assert_eq!(e.errno(), Errno::EOPNOTSUPP, "{zero_copy}: {e}");
        }
        let passed = Port::from_fd(monitor.into_fd().expect("it has one")).expect("taken over");
        assert_eq!(passed.name().to_string(), format!("{end}/t"));
        assert_eq!(ports_of("valeA").len(), 4);
        drop(passed);
        assert_eq!(ports_of("valeA").len(), 3);
    });
}

#[test]
fn damaged_slots_are_counted_when_they_go_and_not_at_each_sync() {
    in_own_root("damaged_slots_are_counted_when_they_go_and_not_at_each_sync", |_| {
        let (mut a, _b) = pipe();
        a.tx(0).slot(0).swap_buffer(u32::MAX);
        a.tx(0).slot(0).set(60, SlotFlags::MOREFRAG);
        a.tx(0).advance(1);
        for _ in 0..5 {
            a.txsync().expect("synced");
        }
        assert_eq!(a.counters().tx_drop_bad, 0, "its packet is not complete");
        a.tx(0).slot(0).set(60, SlotFlags::empty());
        a.tx(0).advance(1);
        a.txsync().expect("synced");
        assert_eq!(a.counters().tx_drop_bad, 1);
    });
}
