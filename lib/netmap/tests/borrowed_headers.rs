//! Virtio-net headers that a port has for the sake of a handle: they end with it, and nothing is ever read or sent
//! in a form that nobody asked for.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{all_are, beside_a_sender, frame, in_own_root, read, slots};
use netmap::control::{self, PortInfo, Switch};
use netmap::error::InUse;
use netmap::{Error, Options, Port};

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
fn last_of_several_borrowers_gives_back_what_was_there_before_the_first() {
    in_own_root("last_of_several_borrowers_gives_back_what_was_there_before_the_first", |_| {
        let ten = Options { vnet_hdr_len: Some(10), ..slots(64) };
        control::create_port(&name("valeB:x"), &ten).expect("made");
        let mut one = open("valeB:x", &Options::default());
        let mut other = open("valeB:x", &Options::default());
        one.borrow_vnet_hdr_len(12).expect("lent");
        other.borrow_vnet_hdr_len(12).expect("lent");
        drop(one);
        assert_eq!(other.vnet_hdr_len(), 12, "the other one goes on");
        // Halves of a handle have what the whole had.
        let (tx, rx) = other.split().expect("halves");
        drop(tx);
        assert_eq!(rx.vnet_hdr_len(), 12);
        drop(rx);
        assert_eq!(info("valeB", "x").vnet_hdr_len, 10);
    });
}

#[test]
fn length_that_is_lent_is_nobody_elses_to_change() {
    in_own_root("length_that_is_lent_is_nobody_elses_to_change", |_| {
        let x = name("valeB:x");
        control::create_port(&x, &slots(64)).expect("made");
        let mut other = open("valeB:y", &slots(64));
        // Also of one that is as before: its user counts on it.
        for lent in [0, 12] {
            let mut user = open("valeB:x", &Options::default());
            let mut second = open("valeB:x", &Options::default());
            user.borrow_vnet_hdr_len(lent).expect("lent");
            send(&mut other, &frame(0xff, 2, 1, 60));
            let at_open = Options { vnet_hdr_len: Some(10), ..Options::default() };
            for refused in [
                control::set_vnet_hdr_len(&x, 10),
                second.borrow_vnet_hdr_len(10),
                second.set_vnet_hdr_len(10),
                Port::open_with(&x, &at_open).map(drop),
            ] {
                let e = refused.expect_err("it is lent");
                let by = InUse::Headers { pid: std::process::id(), lent };
                assert!(
                    matches!(&e, Error::Busy { by: found, name } if *found == by && name == "valeB:x"),
                    "{e}"
                );
            }
            assert_eq!((user.vnet_hdr_len(), second.vnet_hdr_len()), (lent, lent));
            let packet = [&vec![0; lent.into()][..], &frame(0xff, 2, 1, 60)].concat();
            assert_eq!(read(&mut user, 0, 9), [packet], "nothing was discarded");
            drop((user, second));
            assert_eq!(info("valeB", "x").vnet_hdr_len, 0);
        }
        // The same can be chosen, and stays.
        let mut user = open("valeB:x", &Options::default());
        user.borrow_vnet_hdr_len(12).expect("lent");
        control::set_vnet_hdr_len(&x, 12).expect("set");
        control::set_vnet_hdr_len(&x, 10).expect_err("it is lent as before");
        drop(user);
        assert_eq!(info("valeB", "x").vnet_hdr_len, 12);
        // Whoever borrowed it changes its mind.
        let mut user = open("valeB:x", &Options::default());
        user.borrow_vnet_hdr_len(0).expect("lent");
        user.borrow_vnet_hdr_len(10).expect("lent");
        user.set_vnet_hdr_len(0).expect("set");
        control::set_vnet_hdr_len(&x, 10).expect("nobody has it on loan");
        assert_eq!(user.vnet_hdr_len(), 10);
    });
}

#[test]
fn nothing_is_discarded_where_the_length_stays_or_somebody_else_reads() {
    in_own_root("nothing_is_discarded_where_the_length_stays_or_somebody_else_reads", |_| {
        control::create_port(&name("valeB:x"), &slots(64)).expect("made");
        let mut other = open("valeB:y", &slots(64));
        let mut user = open("valeB:x", &Options::default());
        send(&mut other, &frame(0xff, 2, 1, 60));
        user.borrow_vnet_hdr_len(0).expect("lent");
        drop(user);
        let mut next = open("valeB:x", &Options::default());
        assert_eq!(
            read(&mut next, 0, 9),
            [frame(0xff, 2, 1, 60)],
            "the port had no headers before"
        );
        // Who has it open beside a borrower reads its length, and what came with it.
        let mut borrower = open("valeB:x", &Options::default());
        borrower.borrow_vnet_hdr_len(12).expect("lent");
        send(&mut other, &frame(0xff, 2, 2, 60));
        next.borrow_vnet_hdr_len(12).expect("lent");
        next.set_vnet_hdr_len(12).expect("the same"); // which ends that loan
        control::set_vnet_hdr_len(&name("valeB:x"), 12).expect("the same");
        let with_header = [&[0; 12][..], &frame(0xff, 2, 2, 60)].concat();
        assert_eq!(read(&mut next, 0, 9), [with_header]);
        borrower.set_vnet_hdr_len(0).expect("nobody else has it on loan");
        borrower.borrow_vnet_hdr_len(12).expect("lent");
        let with_header = [&[0; 12][..], &frame(0xff, 2, 3, 60)].concat();
        send(&mut other, &frame(0xff, 2, 3, 60));
        drop(borrower);
        assert_eq!(next.vnet_hdr_len(), 0);
        assert_eq!(read(&mut next, 0, 9), [with_header]);
    });
}

#[test]
fn what_a_port_that_goes_sent_last_has_the_headers_that_it_had() {
    in_own_root("what_a_port_that_goes_sent_last_has_the_headers_that_it_had", |_| {
        let _neighbour = open("valeB:y", &slots(64));
        for lent in [false, true] {
            let own = if lent { 0 } else { 12 };
            let options = Options { vnet_hdr_len: Some(own), ..slots(64) };
            let mut port = open("valeB:x", &options);
            // Whoever sees it need not have looked since.
            let mut monitor = open("valeB:x/t", &Options::default());
            if lent {
                port.borrow_vnet_hdr_len(12).expect("lent");
            }
            let packet = [&[0; 12][..], &frame(0xff, 1, 1, 60)].concat();
            send(&mut port, &packet);
            drop(port);
            assert_eq!(monitor.vnet_hdr_len(), 12, "lent: {lent}");
            assert_eq!(read(&mut monitor, 0, 9), [packet]);
            // Another port of that name, or of that place, is none of its business.
            let _next = open("valeB:x", &slots(64));
            assert_eq!(monitor.vnet_hdr_len(), 12, "lent: {lent}");
        }
    });
}

#[test]
fn what_a_killed_process_sent_last_has_the_headers_that_its_port_had() {
    const NAME: &str = "what_a_killed_process_sent_last_has_the_headers_that_its_port_had";
    if std::env::var_os(CHILD).is_some() {
        let mut port = Port::open("valeB:x").expect("opened");
        println!("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("the monitor is there");
        port.borrow_vnet_hdr_len(12).expect("lent");
        send(&mut port, &[&[0; 12][..], &frame(0xff, 1, 1, 60)].concat());
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    in_own_root(NAME, |_| {
        let _neighbour = open("valeB:y", &slots(64));
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut ready = || lines.any(|line| line.expect("text").contains("ready"));
        assert!(ready());
        let mut monitor = open("valeB:x/t", &Options::default());
        child.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
        assert!(ready());
        child.kill().expect("killed");
        child.wait().expect("gone");
        let _next = open("valeB:x", &slots(64)); // clears it away
        assert_eq!(monitor.vnet_hdr_len(), 12);
        let packet = [&[0; 12][..], &frame(0xff, 1, 1, 60)].concat();
        assert_eq!(read(&mut monitor, 0, 9), [packet]);
    });
}

#[test]
fn what_neighbours_send_meanwhile_comes_in_the_form_that_is_lent() {
    in_own_root("what_neighbours_send_meanwhile_comes_in_the_form_that_is_lent", |_| {
        let (mut port, bare) = (open("valeB:x", &slots(1024)), frame(0xff, 2, 7, 60));
        beside_a_sender(open("valeB:y", &slots(1024)), &bare, || {
            for round in 0..500 {
                let lent = [12, 0][round % 2];
                port.borrow_vnet_hdr_len(lent).expect("lent");
                let packet = [&vec![0; lent.into()][..], &bare].concat();
                all_are(&packet, 1500, &format!("round {round}"), || read(&mut port, 0, 64));
            }
        });
    });
}

#[test]
fn nothing_that_came_before_a_length_was_chosen_is_read_with_it() {
    in_own_root("nothing_that_came_before_a_length_was_chosen_is_read_with_it", |_| {
        control::create_port(&name("valeB:stays"), &slots(1024)).expect("made");
        let bare = frame(0xff, 2, 7, 60);
        beside_a_sender(open("valeB:y", &slots(1024)), &bare, || {
            for round in 0..100 {
                let len = [12, 0][round / 2 % 2];
                let options = Options { vnet_hdr_len: Some(len), ..slots(1024) };
                let mut port = open(["valeB:stays", "valeB:new"][round % 2], &options);
                let packet = [&vec![0; len.into()][..], &bare].concat();
                all_are(&packet, 1500, &format!("round {round}"), || read(&mut port, 0, 64));
            }
        });
    });
}
