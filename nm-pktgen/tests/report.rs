//! What the report says is what happened: sums agree, drops have reasons, rates refer to the time that was
//! asked about, and silence is explained.

mod rig;

use std::time::{Duration, Instant};

use netmap::Options;
use netmap::control::{self, Switch, SwitchOptions};
use rig::{Rig, number};
use serde_json::Value;

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn intervals_add_up_to_the_totals() {
    let rig = Rig::new();
    for words in ["-R 10k -t 200ms --interval 30ms", "-n 1000 --interval 1h"] {
        let output = rig.run(&format!("-i null: -f tx --json {words}"));
        let text = String::from_utf8(output.stdout).expect("text");
        let objects: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let intervals = objects.iter().filter(|object| object["type"] == "interval");
        let sum: u64 = intervals.map(|object| number(object, "tx_packets")).sum();
        assert_eq!(sum, number(objects.last().expect("some"), "tx_packets"), "{words}");
    }
}

#[test]
fn drops_have_their_reasons_in_words_and_keys() {
    let rig = Rig::new();
    let _deaf = rig.start("-i valeA:r -f rx -C 64,64 -w 1h");
    let sent = rig.end("-i valeA:t -f tx -n 10000");
    assert!(number(&sent, "drops") > 0, "{sent}");
    let reasons: u64 = sent
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(key, _)| key.contains("_drop_"))
        .map(|(_, count)| count.as_u64().expect("a number"))
        .sum();
    assert_eq!(reasons, number(&sent, "drops"), "{sent}");
    let words = String::from_utf8(rig.run("-i valeA:t -f tx -n 10000 -q").stdout).expect("text");
    assert!(words.contains("(tx full 10.00 k)"), "{words}");
}

#[test]
fn rates_refer_to_the_time_that_was_asked_about() {
    let rig = Rig::new();
    let end = rig.end("-i null: -f tx -R 2 -t 900ms");
    let (seconds, pps) = (end["seconds"].as_f64(), end["tx_pps"].as_f64());
    assert!(seconds >= Some(0.9) && pps <= Some(2.3), "{end}");
    let end = rig.end("-i null: -f tx -n 1");
    assert_eq!(end["tx_pps"].as_f64(), Some(0.0), "one packet has no rate: {end}");
    let words = String::from_utf8(rig.run("-i null: -f tx -n 1 -q").stdout).expect("text");
    assert!(
        words.starts_with("Sent 1 packet, 60 bytes in ") && !words.contains("Speed"),
        "{words}"
    );
}

#[test]
fn being_alone_is_said_and_is_a_loss() {
    let rig = Rig::new();
    let output = rig.run("-i valeA:t -f tx -n 10 -q --fail-on-loss");
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no other port is on valeA"), "{}", stderr(&output));
    let output = rig.run("-i valeA:r -f rx -t 10ms -q --fail-on-loss");
    assert_eq!(output.status.code(), Some(3), "nothing came");
    assert!(stderr(&output).contains("nobody can send"), "{}", stderr(&output));
    // Somebody who is there until the end.
    let rx = rig.start("-i valeA:r -f rx");
    let output = rig.run("-i valeA:t -f tx -n 10 -q --fail-on-loss");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    rx.stop();
}

#[test]
fn pause_frames_that_a_switch_keeps_are_counted_as_drops() {
    let rig = Rig::new();
    let rx = rig.start("-i valeA:r -f rx");
    let end = rig.end("-i valeA:t -f tx -n 10 -D 01:80:c2:00:00:01");
    assert_eq!((number(&end, "tx_drop_pause"), number(&end, "drops")), (10, 10), "{end}");
    rx.stop();
}

#[test]
fn a_second_receiver_on_a_port_is_said() {
    let rig = Rig::new();
    let first = rig.start("-i valeA:r -f rx");
    let output = rig.run("-i valeA:r -f rx -t 10ms -q");
    let expected = format!("also open in process {}", first.pid());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    first.stop();
}

#[test]
fn flags_without_effect_are_named() {
    let rig = Rig::new();
    let output = rig.run("-i null: -f rx -t 1ms -l 100 -D 02:00:00:00:00:01 --seed 5");
    let errors = stderr(&output);
    for flag in ["--size", "--dst-mac", "--seed"] {
        assert!(errors.contains(&format!("{flag} has no effect with -f rx")), "{errors}");
    }
    let errors = stderr(&rig.run("-i null: -f tx -n 1 -B --line-rate 1Gbps --wait-mode block"));
    for flag in ["--framing", "--line-rate", "--wait-mode"] {
        assert!(errors.contains(&format!("{flag} has no effect with -f tx")), "{errors}");
    }
    let errors = stderr(&rig.run("-i null: -f tx -n 1 -l 100 -D 02:00:00:00:00:01 -R 50%"));
    assert_eq!(errors, "");
}

#[test]
fn ping_counts_and_ends_as_ping() {
    let rig = Rig::new();
    let output = rig.run("-i valeA:ping -f ping -n 1 -q");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "nobody answered");
    assert!(text.contains("lost 1") && text.contains("100.0 % loss"), "{text}");
    let pong = rig.start("-i valeA:pong -f pong");
    let end = rig.end("-i valeA:ping -f ping -t 100ms");
    let count = |key: &str| number(&end, key);
    assert_eq!(count("tx_packets"), count("rx_packets") + count("lost"), "{end}");
    pong.stop();
}

#[test]
fn lines_fit_a_terminal() {
    let rig = Rig::new();
    let _rx = rig.start("-i valeA:r -f rx -C 64,64");
    let pong = rig.start("-i valeA:pong -f pong");
    for words in [
        "-i valeA:t -f tx -t 200ms",
        "-i valeA:t -f tx -t 200ms -A",
        "-i valeA:ping -f ping -t 200ms -A",
        "-i valeA:r2 -f rxseq -t 200ms -N",
    ] {
        let text = String::from_utf8(rig.run(&format!("{words} -T 20")).stdout).expect("text");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  ")).collect();
        assert!(!lines.is_empty(), "{text}");
        for line in lines {
            assert!(line.chars().count() <= 80, "{words}: {line}");
        }
    }
    pong.stop();
}

#[test]
fn csv_is_flat() {
    let rig = Rig::new();
    for function in ["tx", "rx", "pong", "txseq", "rxseq"] {
        let output = rig.run(&format!("-i valeA:x -f {function} -t 5ms --csv"));
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['{', '[', '"']), "{text}");
    }
}

#[test]
fn a_receiver_of_a_file_ends_with_it() {
    let rig = Rig::new();
    rig.end("-i pcap:a.pcap -f txseq -n 5000");
    for (function, mode) in [("rx", "busy"), ("rxseq", "block"), ("rx", "adaptive")] {
        let end = rig.end(&format!("-i pcap:a.pcap -f {function} --wait-mode {mode}"));
        assert_eq!(number(&end, "rx_packets"), 5000);
    }
}

#[test]
fn port_that_holds_up_a_sender_is_named() {
    rig::within("port_that_holds_up_a_sender_is_named", |rig| {
        let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeA", &options).expect("create");
        // A port that nobody reads.
        let name = "valeA:deaf".parse().expect("a name");
        control::create_port(&name, &Options::default()).expect("create");
        let sent = rig.run("-i valeA:t -f tx -q -t 4s");
        let words = stderr(&sent);
        let line = "valeA:t waits for valeA:deaf, which is full and does not read";
        assert_eq!(words.matches(line).count(), 1, "{words}");
    });
}

#[test]
fn sender_that_waits_for_more_space_than_there_is_sleeps() {
    rig::within("sender_that_waits_for_more_space_than_there_is_sleeps", |rig| {
        let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        Switch::create("valeA", &options).expect("create");
        let name = "valeA:deaf".parse().expect("a name");
        control::create_port(&name, &Options::default()).expect("create");
        // Some slots are free: too few for a packet of several, or all that are needed, and what is
        // queued has yet to leave.
        for words in ["-l 9000", "-n 1500"] {
            let mut sender = rig.start(&format!("-i valeA:t -f tx {words}"));
            let mut last = None;
            let mut stuck = 0;
            sender.totals_until(|totals| {
                let sent = Some(number(totals, "tx_packets"));
                stuck = if std::mem::replace(&mut last, sent) == sent { stuck + 1 } else { 0 };
                stuck > 10
            });
            let (begin, before) = (Instant::now(), (sender.cpu_ticks(), sender.sleeps()));
            // Nothing can be waited for when nothing is to happen.
            std::thread::sleep(Duration::from_millis(1500));
            let used = Duration::from_millis(10) * (sender.cpu_ticks() - before.0) as u32;
            assert!(used < begin.elapsed() / 2, "{words}: {used:?} of {:?}", begin.elapsed());
            // Some 10 a second: the library's longest sleep.
            let sleeps = sender.sleeps() - before.1;
            assert!(sleeps < 1000, "{words}: woke {sleeps} times to look");
            sender.stop();
        }
    });
}
