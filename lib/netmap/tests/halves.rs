//! Ports that are split: into a sending and a receiving half, or into rings, each for a thread of its own.

mod common;

use std::time::Duration;

use common::{frame, in_own_root, number, numbers, ports_of, read, send, slots};
use netmap::control::{Switch, SwitchOptions};
use netmap::{Interest, Port, Wait};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

#[test]
fn halves_of_a_port_work_in_threads_of_their_own() {
    in_own_root("halves_of_a_port_work_in_threads_of_their_own", |_| {
        const PACKETS: u32 = 20_000;
        let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeA", &lossless).expect("made");
        let split = |name: &str| Port::open(name).expect(name).split().expect("split");
        let ((a_tx, a_rx), (b_tx, b_rx)) = (split("valeA:a"), split("valeA:b"));
        assert_eq!((a_tx.tx_rings(), a_tx.rx_rings()), (1, 0));
        assert_eq!((a_rx.tx_rings(), a_rx.rx_rings()), (0, 1));
        let send = |mut port: Port| {
            let mut next = 0;
            while next < PACKETS {
                while next < PACKETS && port.tx(0).push(&frame(0xff, 1, next, 60)) {
                    next += 1;
                }
                port.wait(Interest::TX, Wait::default(), LONG).expect("waited");
            }
            while port.tx(0).pending() > 0 {
                port.txsync().expect("synced");
                std::thread::yield_now();
            }
            port
        };
        let receive = |mut port: Port| {
            let mut next = 0;
            while next < PACKETS {
                let ready = port.wait(Interest::RX, Wait::default(), LONG).expect("waited");
                assert!(!ready.is_empty(), "nothing came after {next} packets");
                for number in numbers(&mut port) {
                    assert_eq!(number, next);
                    next += 1;
                }
            }
            port
        };
        let ports = std::thread::scope(|scope| {
            let threads = [
                scope.spawn(|| send(a_tx)),
                scope.spawn(|| send(b_tx)),
                scope.spawn(|| receive(a_rx)),
                scope.spawn(|| receive(b_rx)),
            ];
            threads.map(|thread| thread.join().expect("a thread"))
        });
        assert_eq!(ports_of("valeA"), ["a", "b"]);
        drop(ports);
        assert_eq!(ports_of("valeA"), Vec::<String>::new(), "halves close what they share");
    });
}

#[test]
fn port_splits_into_its_rings() {
    in_own_root("port_splits_into_its_rings", |_| {
        let options = netmap::Options { tx_rings: Some(3), rx_rings: Some(2), ..slots(64) };
        let port = Port::open_with(&"valeA:x".parse().unwrap(), &options).expect("opened");
        let mut receiver = Port::open_with(&"valeA:r".parse().unwrap(), &options).expect("opened");
        let (mut tx, rx) = port.split_rings().expect("split");
        assert_eq!((tx.len(), rx.len()), (3, 2));
        for (i, port) in (0..).zip(&mut tx) {
            assert_eq!((port.tx_rings(), port.rx_rings()), (1, 0));
            send(port, i);
        }
        drop(rx);
        let mut seen: Vec<u32> = Vec::new();
        receiver.rxsync().expect("synced");
        for ring in 0..2 {
            seen.extend(read(&mut receiver, ring, 9).iter().map(|p| number(p)));
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        drop(tx.split_off(1));
        send(&mut tx[0], 9);
        assert_eq!(ports_of("valeA"), ["r", "x"]);
    });
}

#[test]
fn halves_of_ports_on_no_switch_share_their_device() {
    in_own_root("halves_of_ports_on_no_switch_share_their_device", |_| {
        let temp = tempfile::tempdir().expect("a directory");
        let pcap = format!("pcap:{}", temp.path().join("f.pcap").display());
        let options = netmap::Options { direction: netmap::Direction::TxOnly, ..slots(64) };
        let port = Port::open_with(&pcap.parse().unwrap(), &options).expect("opened");
        let (mut tx, rx) = port.split().expect("split");
        assert_eq!((tx.tx_rings(), tx.rx_rings(), rx.tx_rings(), rx.rx_rings()), (1, 0, 0, 1));
        let writer = std::thread::spawn(move || {
            (0..500).for_each(|number| send(&mut tx, number));
            tx.finish().expect("written");
            tx.counters().tx_packets
        });
        assert_eq!(writer.join().expect("a thread"), 500);
        assert_eq!(rx.counters().tx_packets, 500, "they are one port");
        drop(rx);
        let (_, mut rx) = Port::open(&pcap).expect("opened").split().expect("split");
        let mut seen = Vec::new();
        while !rx.ended() {
            rx.wait(Interest::RX, Wait::Block, LONG).expect("waited");
            seen.extend(numbers(&mut rx));
        }
        assert_eq!(seen, (0..500).collect::<Vec<u32>>());

        let (mut tx, mut rx) = Port::open("null:").expect("opened").split().expect("split");
        send(&mut tx, 1);
        rx.rxsync().expect("synced");
        assert_eq!((tx.counters().tx_packets, rx.rx(0).available()), (1, 0));
    });
}
