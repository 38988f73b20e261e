//! Virtio-net headers that a port has for the sake of a handle: they end with it, and nothing is ever read or sent
//! in a form that nobody asked for.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{frame, in_own_root, read, slots};
use netmap::control::{self, PortInfo, Switch};
use netmap::{Options, Port};

const CHILD: &str = "NM_TEST_BORROWS";

fn name(port: &str) -> netmap::PortName {
    port.parse().expect(port)
}

fn open(port: &str, options: &Options) -> Port {
    Port::open_with(&name(port), options).expect(port)
}

fn info(switch: &str, port: &str) -> PortInfo {
    let info = Switch::open(switch).expect("there").info().expect("read");
    info.ports.into_iter().find(|found| found.name == port).expect(port)
}

fn send(port: &mut Port, packet: &[u8]) {
    assert!(port.tx(0).push(packet));
    port.txsync().expect("synced");
}

#[test]
fn headers_of_a_killed_borrower_are_not_the_next_ones() {
    if std::env::var_os(CHILD).is_some() {
        let mut port = Port::open("valeB:x").expect("opened");
        port.borrow_vnet_hdr_len(12).expect("lent");
        assert!(port.tx(0).push(&[&[0; 12][..], &frame(9, 1, 7, 60)].concat()), "queued, not sent");
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    const NAME: &str = "headers_of_a_killed_borrower_are_not_the_next_ones";
    in_own_root(NAME, |_| {
        control::create_port(&name("valeB:x"), &slots(64)).expect("made");
        let mut other = open("valeB:y", &slots(64));
        for round in 0..2 {
            let mut child = Command::new(std::env::current_exe().expect("the test binary"))
                .args([NAME, "--exact", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            assert!(lines.any(|line| line.expect("text").contains("ready")));
            assert_eq!(info("valeB", "x").vnet_hdr_len, 12);
            send(&mut other, &frame(0xff, 2, 1, 60)); // into its ring, with a header
            child.kill().expect("killed");
            child.wait().expect("gone");
            let mut next = open("valeB:x", &Options::default());
            assert_eq!(next.vnet_hdr_len(), 0);
            send(&mut other, &frame(0xff, 2, 2, 60));
            assert_eq!(read(&mut next, 0, 9), [frame(0xff, 2, 2, 60)], "round {round}");
            send(&mut next, &frame(0xff, 1, 3, 60));
            assert_eq!(read(&mut other, 0, 9), [frame(0xff, 1, 3, 60)], "round {round}");
        }
    });
}

#[test]
fn what_was_queued_before_headers_were_borrowed_is_not_read_with_them() {
    in_own_root("what_was_queued_before_headers_were_borrowed_is_not_read_with_them", |_| {
        control::create_port(&name("valeB:x"), &slots(64)).expect("made");
        let mut other = open("valeB:y", &slots(64));
        send(&mut other, &frame(0xff, 2, 1, 60));
        let mut borrower = open("valeB:x", &Options::default());
        assert!(borrower.tx(0).push(&frame(0xff, 1, 2, 60)));
        borrower.borrow_vnet_hdr_len(12).expect("lent");
        borrower.txsync().expect("synced");
        assert!(read(&mut other, 0, 9).is_empty());
        send(&mut other, &frame(0xff, 2, 3, 60));
        let with_header = [&[0; 12][..], &frame(0xff, 2, 3, 60)].concat();
        assert_eq!(read(&mut borrower, 0, 9), [with_header]);
        // A ring that was full has room again, all of it.
        for number in 0..63 {
            send(&mut other, &frame(0xff, 2, number, 60));
        }
        drop(borrower);
        let mut next = open("valeB:x", &Options::default());
        for number in 0..63 {
            send(&mut other, &frame(0xff, 2, number, 60));
        }
        assert_eq!(read(&mut next, 0, 99).len(), 63);
        assert_eq!(info("valeB", "x").rx_slots, 64);
    });
}

#[test]
fn last_of_several_borrowers_gives_back_unless_a_length_was_chosen_meanwhile() {
    in_own_root(
        "last_of_several_borrowers_gives_back_unless_a_length_was_chosen_meanwhile",
        |_| {
            for (port, chosen, left) in [("valeB:x", None, 10), ("valeB:z", Some(0), 0)] {
                let mut options = slots(64);
                options.vnet_hdr_len = Some(10);
                control::create_port(&name(port), &options).expect("made");
                let mut one = open(port, &Options::default());
                let mut other = open(port, &Options::default());
                one.borrow_vnet_hdr_len(12).expect("lent");
                other.borrow_vnet_hdr_len(12).expect("lent");
                drop(one);
                assert_eq!(other.vnet_hdr_len(), 12, "the other one goes on");
                if let Some(len) = chosen {
                    control::set_vnet_hdr_len(&name(port), len).expect("set");
                }
                // Halves of a handle have what the whole had.
                let (tx, rx) = other.split().expect("halves");
                drop(tx);
                assert_eq!(rx.vnet_hdr_len(), chosen.unwrap_or(12));
                drop(rx);
                assert_eq!(info("valeB", &port[6..]).vnet_hdr_len, left, "{port}");
            }
        },
    );
}
