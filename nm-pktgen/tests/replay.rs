//! Replays of captures that are live, silent, damaged, empty, packed, or odd in their times: what was
//! counted as sent was sent, nothing waits in silence, and everything can be stopped.

mod rig;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;

use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nm_capture::Writer;
use rig::{Guarded, Rig, number};
use skipping::skip;

/// Rings that hold every packet of a test, so that nothing is dropped however slow the receiver is.
const ROOMY: &str = "-C 4096";

/// Writes a capture of frames of 60 bytes with these times in milliseconds.
fn write_times(rig: &Rig, name: &str, times_ms: &[u64]) {
    let mut writer = Writer::create(rig.path(name), 0).expect("create");
    for ms in times_ms {
        writer.write(Duration::from_millis(*ms), 60, &[0xff; 60]).expect("write");
    }
}

/// Starts a replay of standard input.
fn fed(rig: &Rig, words: &str) -> (Guarded, ChildStdin) {
    let mut child = rig
        .command(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let stdin = child.stdin.take().expect("piped");
    (Guarded(child), stdin)
}

/// The bytes of a capture with `packets` frames, a millisecond apart.
fn bytes(rig: &Rig, packets: usize) -> Vec<u8> {
    rig.write_pcap("bytes.pcap", &vec![vec![0xff; 60]; packets]);
    std::fs::read(rig.path("bytes.pcap")).expect("read")
}

/// Waits for the tool's own end; returns exit code and stderr.
fn ended(mut child: Guarded) -> (Option<i32>, String) {
    let mut errors = String::new();
    child.0.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    (child.0.wait().expect("wait").code(), errors)
}

#[test]
fn packets_of_a_live_stream_arrive_while_it_is_open() {
    let rig = Rig::new();
    for input in ["-", "/dev/stdin"] {
        let mut rx = rig.start(&format!("-i valeA:r -f rx {ROOMY}"));
        let (sender, mut stdin) = fed(&rig, &format!("-i valeA:t -f tx -P {input} -q {ROOMY}"));
        let file = bytes(&rig, 3);
        stdin.write_all(&file[..file.len() - 10]).expect("feed");
        // The stream is open and in the midst of a record: only what is whole can have arrived.
        rx.totals_until(|totals| number(totals, "rx_packets") == 2);
        stdin.write_all(&file[file.len() - 10..]).expect("feed");
        rx.totals_until(|totals| number(totals, "rx_packets") == 3);
        drop(stdin);
        drop(sender);
        rx.stop();
    }
}

#[test]
fn packed_streams_are_live_up_to_their_last_flush() {
    let rig = Rig::new();
    if Command::new("gzip").arg("--version").output().is_err() {
        return skip("packed_streams_are_live_up_to_their_last_flush", "there is no gzip");
    }
    let mut rx = rig.start(&format!("-i valeA:r -f rx {ROOMY}"));
    let (sender, mut stdin) = fed(&rig, &format!("-i valeA:t -f tx -P - -q {ROOMY}"));
    bytes(&rig, 2);
    let packed = Command::new("gzip").args(["-c"]).arg(rig.path("bytes.pcap")).output();
    stdin.write_all(&packed.expect("gzip").stdout).expect("feed");
    // A member has ended, and another may follow.
    rx.totals_until(|totals| number(totals, "rx_packets") == 2);
    drop((stdin, sender));
    rx.stop();
}

#[test]
fn a_silent_stream_obeys_time_limit_and_first_signal() {
    let rig = Rig::new();
    nix::unistd::mkfifo(&rig.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    // A FIFO that nobody writes, as input and as port.
    for words in ["-i null: -f tx -P fifo -t 50ms -q", "-i pcap:fifo -f rx -t 50ms -q"] {
        assert_eq!(rig.run(words).status.code(), Some(0), "{words}");
    }
    for words in ["-i null: -f tx -P fifo", "-i pcap:fifo -f rx", "-i pcap:fifo -f tx -n 1"] {
        let running = rig.start(words);
        running.signal(Signal::SIGINT);
        let (code, end, errors) = running.finish();
        let lost = words.contains("-n 1").then_some(1); // nobody ever read it
        assert_eq!(code, lost.or(Some(0)), "{words}: {errors}");
        assert_eq!(end["type"], "end", "{words}: {errors}");
    }
    for words in ["-i null: -f tx -P - -t 50ms -q", "-i pcap:- -f rx -t 50ms -q"] {
        let (child, _stdin) = fed(&rig, words);
        let (code, errors) = ended(child);
        assert_eq!(code, Some(0), "{words}: {errors}");
    }
}

#[test]
fn a_stalled_reader_of_a_capture_holds_up_nobody() {
    let rig = Rig::new();
    // The pipe is never read; the run ends all the same, and says what became of the rest.
    for words in ["-i pcap:- -f tx -n 1M -t 100ms", "-i pcap:in.pcap -f rx --pcap-out - -t 100ms"] {
        rig.end("-i pcap:in.pcap -f tx -n 100k");
        let (child, _stdin) = fed(&rig, words);
        let (code, errors) = ended(child);
        assert!(code == Some(1) && errors.contains("takes nothing"), "{words}: {code:?} {errors}");
    }
}

#[test]
fn a_cut_record_costs_only_itself() {
    let rig = Rig::new();
    let mut file = bytes(&rig, 10);
    file.truncate(file.len() - 3);
    std::fs::write(rig.path("cut.pcap"), file).expect("write");
    let rx = rig.start(&format!("-i valeA:r -f rx -n 9 {ROOMY}"));
    let output = rig.run(&format!("-i valeA:t -f tx -P cut.pcap --pcap-speed max --json {ROOMY}"));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("57 of its 60 bytes"), "{errors}");
    let sent: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(number(&sent, "tx_packets"), 9);
    let (code, received, errors) = rx.finish();
    assert_eq!((code, number(&received, "rx_packets")), (Some(0), 9), "{errors}");
    // As a port: all that is whole is received, then the error is told.
    let output = rig.run("-i pcap:cut.pcap -f rx --json");
    assert_eq!(output.status.code(), Some(1));
    let received: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(number(&received, "rx_packets"), 9);
}

#[test]
fn records_that_are_no_frames_are_counted_and_said_and_end_a_loop() {
    let rig = Rig::new();
    let odd = [vec![], vec![2; 70_000], vec![0xff; 60]];
    rig.write_pcap("odd.pcap", &odd);
    for words in ["-i null: -f tx -P odd.pcap --pcap-speed max", "-i pcap:odd.pcap -f rx"] {
        let output = rig.run(&format!("{words} --json"));
        assert!(output.status.success(), "{output:?}");
        let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let packets = end["tx_packets"].as_u64().or(end["rx_packets"].as_u64());
        assert_eq!((packets, number(&end, "drops")), (Some(1), 2), "{words}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("1 packet of odd.pcap is left out: no bytes"), "{errors}");
        assert!(errors.contains("1 packet of odd.pcap is left out: longer"), "{errors}");
    }
    rig.write_pcap("empty.pcap", &odd[..1]);
    let output = rig.run("-i null: -f tx -P empty.pcap --pcap-loop 0");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_pass_without_packets_of_a_live_stream_can_be_stopped() {
    let rig = Rig::new();
    rig.write_pcap("empties.pcap", &vec![vec![]; 10]);
    let (child, mut stdin) = fed(&rig, "-i null: -f tx -P - -t 50ms -q");
    stdin.write_all(&std::fs::read(rig.path("empties.pcap")).expect("read")).expect("feed");
    assert_eq!(ended(child).0, Some(0), "while stdin is open");
    drop(stdin);
}

#[test]
fn gaps_are_shortened_and_said() {
    let rig = Rig::new();
    let days = 280 * 24 * 3600 * 1000;
    write_times(&rig, "gap.pcap", &[0, 1, days, days + 1]);
    let output = rig.run("-i null: -f tx -P gap.pcap --pcap-max-gap 10ms --json");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("gap of 9months") && errors.contains("--pcap-max-gap"), "{errors}");
    let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(number(&end, "tx_packets"), 4);
    assert!(end["elapsed_s"].as_f64().expect("a number") >= 0.012, "{end}");
}

#[test]
fn a_clock_that_steps_back_keeps_the_pace() {
    let rig = Rig::new();
    let hour = 3_600_000;
    write_times(&rig, "back.pcap", &[hour, hour + 20, 40, 60, 80]);
    let output = rig.run("-i null: -f tx -P back.pcap --json");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("steps back by 59m 59s"), "{errors}");
    let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(end["elapsed_s"].as_f64().expect("a number") >= 0.08, "four gaps of 20 ms: {end}");
}

#[test]
fn a_packet_in_a_loop_has_a_stated_pace() {
    let rig = Rig::new();
    write_times(&rig, "one.pcap", &[5]);
    let output = rig.run("-i null: -f tx -P one.pcap --pcap-loop 2 --json");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("once every 1s"), "{errors}");
    let end: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(end["elapsed_s"].as_f64().expect("a number") >= 1.0, "{end}");
    // Passes follow each other at the file's pace, not at once.
    write_times(&rig, "three.pcap", &[0, 10, 20]);
    let end = rig.end("-i null: -f tx -P three.pcap --pcap-loop 3");
    assert!(end["elapsed_s"].as_f64().expect("a number") >= 0.08, "eight gaps of 10 ms: {end}");
}

#[test]
fn a_stopped_sender_goes_on_at_its_pace_and_says_so() {
    let rig = Rig::new();
    // 3 s at 100 packets a second, of which the process sleeps more than one.
    write_times(&rig, "paced.pcap", &(0..300).map(|n| n * 10).collect::<Vec<u64>>());
    for words in ["-i null: -f tx -P paced.pcap", "-i null: -f tx -R 100 -n 300"] {
        let mut tx = rig.start(words);
        let before = tx.totals_until(|totals| number(totals, "tx_packets") > 0);
        tx.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1500)); // time itself is what is tested
        tx.signal(Signal::SIGCONT);
        let sent = number(&before, "tx_packets");
        let after = tx.totals_until(|totals| {
            totals["elapsed_s"].as_f64() > Some(1.5) && number(totals, "tx_packets") > sent
        });
        let burst = number(&after, "tx_packets") - sent;
        let ran = after["elapsed_s"].as_f64().expect("a number")
            - before["elapsed_s"].as_f64().expect("a number");
        assert!(burst as f64 <= (ran - 1.4) * 100.0 + 3.0, "{words}: {before} {after}");
        tx.signal(Signal::SIGINT);
        let (_, _, errors) = tx.finish();
        assert!(errors.contains("s behind"), "{words}: {errors}");
    }
}

#[test]
fn captures_of_other_kinds_are_replayed_or_named() {
    let rig = Rig::new();
    let data = |name: &str| format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    for (name, packets) in [("one.pcapng", 1), ("three.pcap.gz", 3), ("fcs.pcap", 2)] {
        let path = data(name);
        let end = rig.end(&format!("-i pcap:out.pcap -f tx -P {path} --pcap-speed max"));
        assert_eq!(number(&end, "tx_packets"), packets, "{name}");
        assert!(rig.read_pcap("out.pcap").iter().all(|packet| packet.len() == 60), "{name}");
        let end = rig.end(&format!("-i pcap:{path} -f rx"));
        assert_eq!(number(&end, "rx_packets"), packets, "{name} as a port");
    }
    let sll = data("sll.pcap");
    let both = [format!("-i null: -f tx -P {sll}"), format!("-i pcap:{sll} -f rx")];
    for words in both {
        let output = rig.run(&words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            errors.contains("Linux cooked") && errors.contains("--link-to-ethernet"),
            "{errors}"
        );
        assert!(rig.run(&format!("{words} --link-to-ethernet")).status.success());
    }
    rig.end(&format!("-i pcap:out.pcap -f tx -P {sll} --link-to-ethernet -D 02:00:00:00:00:07"));
    assert_eq!(rig.read_pcap("out.pcap")[0][..6], [2, 0, 0, 0, 0, 7]);
}

#[test]
fn a_mistyped_input_leaves_nothing_behind() {
    let rig = Rig::new();
    for words in ["-i pcap:missing.pcap -f rx", "-i valeA:x -f tx -P missing.pcap"] {
        let output = rig.run(words);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(!rig.path("missing.pcap").exists() && !rig.path("root").exists(), "{words}");
    }
    assert_eq!(rig.run("-i pcap:a.pcap -f ping").status.code(), Some(2), "nobody answers there");
}

#[test]
fn captures_on_stdout_are_captures_by_any_name() {
    let rig = Rig::new();
    rig.end("-i pcap:a.pcap -f tx -n 3");
    for words in [
        "-i pcap:- -f tx -n 3",
        "-i pcap:/dev/stdout -f tx -n 3 -X",
        "-i pcap:a.pcap -f rx --pcap-out /dev/stdout",
    ] {
        let output = rig.run(words);
        assert!(output.status.success(), "{words}: {output:?}");
        std::fs::write(rig.path("out.pcap"), &output.stdout).expect("write");
        assert_eq!(rig.read_pcap("out.pcap").len(), 3, "{words}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Faults:"), "{words}");
    }
}

#[test]
fn captures_are_flushed_in_every_wait_mode() {
    let rig = Rig::new();
    for mode in ["busy", "adaptive", "block"] {
        let rx =
            rig.start(&format!("-i valeA:r -f rx --wait-mode {mode} --pcap-out live.pcap {ROOMY}"));
        rig.end(&format!("-i valeA:t -f tx -n 1 {ROOMY}"));
        // The receiver runs on; its file has the packet.
        while rig.read_pcap("live.pcap").is_empty() {
            std::thread::yield_now();
        }
        rx.stop();
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let rig = Rig::new();
    std::fs::write(rig.path("text"), "GET / HTTP/1.1\r\n\r\n").expect("write");
    let (child, mut stdin) = fed(&rig, "-i null: -f tx -P -");
    stdin.write_all(b"BZh9").expect("feed");
    drop(stdin);
    let (code, errors) = ended(child);
    assert!(code == Some(1) && errors.contains("bzip2 -dc"), "{errors}");
    let output = rig.run("-i null: -f tx -P text");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pcap or pcapng file"));
}
