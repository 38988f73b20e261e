//! `top` and `watch` while ports come, send and go.

#![forbid(unsafe_code)]

mod common;

use std::fs::File;
use std::io::Read;
use std::process::Command;

use common::{Lines, in_own_root, mac, send, text, vale_ctl};
use netmap::Port;

#[test]
fn watch_tells_ports_and_addresses() {
    in_own_root("watch_tells_ports_and_addresses", || {
        let watch = Lines::start(&["watch", "--interval", "20ms"]);
        let mut x = Port::open("valeA:x").expect("opened");
        assert_eq!(watch.next_of("switch-added")["switch"], "valeA");
        let added = watch.next_of("port-added");
        assert_eq!((&added["switch"], &added["port"]), (&"valeA".into(), &"x".into()));

        let mut y = Port::open("valeA:y").expect("opened");
        assert_eq!(watch.next_of("port-added")["port"], "y");
        send(&mut x, mac(99), mac(1));
        let learnt = watch.next_of("fdb-learnt");
        assert_eq!((&learnt["mac"], &learnt["port"]), (&"02:00:00:00:00:01".into(), &"x".into()));
        send(&mut y, mac(99), mac(1));
        let moved = watch.next_of("fdb-moved");
        assert_eq!((&moved["from"], &moved["port"]), (&"x".into(), &"y".into()));

        drop(y);
        assert_eq!(watch.next_of("fdb-forgotten")["mac"], "02:00:00:00:00:01");
        assert_eq!(watch.next_of("port-removed")["port"], "y");
        drop(x);
        assert_eq!(watch.next_of("switch-removed")["switch"], "valeA");
        watch.stop();
    });
}

#[test]
fn watch_notices_a_port_without_waiting_for_the_interval() {
    in_own_root("watch_notices_a_port_without_waiting_for_the_interval", || {
        // The switch is there beforehand: its directory is watched from the start.
        let _x = Port::open("valeA:x").expect("opened");
        let watch = Lines::start(&["watch", "--interval", "1h"]);
        let _y = Port::open("valeA:y").expect("opened");
        assert_eq!(watch.next_of("port-added")["port"], "y");
        watch.stop();
    });
}

#[test]
fn watch_of_one_port_ignores_the_others_and_counts() {
    in_own_root("watch_of_one_port_ignores_the_others_and_counts", || {
        let watch = Lines::start(&["watch", "valeA:y", "-n", "2", "--interval", "20ms"]);
        let _x = Port::open("valeA:x").expect("opened");
        let _y = Port::open("valeA:y").expect("opened");
        assert_eq!(watch.next()["type"], "switch-added");
        assert_eq!(watch.next()["port"], "y");
        assert_eq!(watch.next()["type"], "end");
    });
}

#[test]
fn top_rates_add_up_to_what_was_sent() {
    in_own_root("top_rates_add_up_to_what_was_sent", || {
        let mut x = Port::open("valeA:x").expect("opened");
        let _y = Port::open("valeA:y").expect("opened");
        let top = Lines::start(&["top", "--interval", "20ms"]);
        for _ in 0..200 {
            send(&mut x, mac(99), mac(1));
        }
        let (mut sent, mut received, mut bits) = (0.0, 0.0, 0.0);
        while sent < 199.5 || received < 199.5 {
            let line = top.next_of("interval");
            let seconds = line["seconds"].as_f64().expect("a number");
            let rate = |port: &str, key: &str| {
                seconds * line["rates"][port][key].as_f64().expect("a rate")
            };
            sent += rate("valeA:x", "tx_pps");
            bits += rate("valeA:x", "tx_bps_l2");
            received += rate("valeA:y", "rx_pps");
        }
        assert!((sent - 200.0).abs() < 0.5, "{sent} packets instead of 200");
        assert!((received - 200.0).abs() < 0.5, "{received} packets instead of 200");
        assert!((bits - 200.0 * 480.0).abs() < 1.0, "{bits} bits instead of 96000");
        top.stop();
    });
}

#[test]
fn top_counts_intervals_and_writes_plain_lines_into_a_pipe() {
    in_own_root("top_counts_intervals_and_writes_plain_lines_into_a_pipe", || {
        let _x = Port::open("valeA:x").expect("opened");
        let lines = text(&["top", "-n", "3", "--interval", "10ms"]);
        assert!(!lines.contains('\x1b'), "{lines}");
        assert_eq!(lines.lines().filter(|l| l.starts_with("NAME")).count(), 1, "{lines}");
        assert_eq!(lines.lines().filter(|l| l.starts_with("valeA:x")).count(), 3, "{lines}");
        vale_ctl(&["top", "valeB", "-n", "1"]).assert().code(3);
    });
}

#[test]
fn top_redraws_on_a_terminal() {
    in_own_root("top_redraws_on_a_terminal", || {
        let _x = Port::open("valeA:x").expect("opened");
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let mut child = Command::new(env!("CARGO_BIN_EXE_vale-ctl"))
            .args(["top", "-n", "2", "--interval", "10ms"])
            .env("TERM", "xterm")
            .stdout(pty.slave)
            .spawn()
            .expect("vale-ctl starts");
        assert!(child.wait().expect("ended").success());
        let mut drawn = Vec::new();
        // A terminal whose other end is closed reads as EIO after what was written.
        let end = File::from(pty.master).read_to_end(&mut drawn);
        assert_eq!(end.map_err(|e| e.raw_os_error()), Err(Some(nix::libc::EIO)));
        let drawn = String::from_utf8(drawn).expect("text");
        assert_eq!(drawn.matches("\x1b[2J").count(), 1, "{drawn:?}");
        assert_eq!(drawn.matches("\x1b[H").count(), 2, "{drawn:?}");
        assert!(drawn.contains("valeA:x"), "{drawn:?}");
    });
}
