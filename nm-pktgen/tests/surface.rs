//! What people and programs see of nm-pktgen: exit codes, signals, JSON, CSV, lines, help. Conventions
//! are those of all tools of the project.

mod rig;

use std::process::Stdio;

use nix::sys::signal::Signal;
use rig::{Guarded, Rig, number};
use serde_json::Value;

#[test]
fn wrong_usage_is_one_clear_error_and_exit_2() {
    let rig = Rig::new();
    for words in [
        "",
        "-i",
        "-i vale",
        "-i valeA:",
        "-i valeA:x/q",
        "-i ../x",
        "-i valeA:x -f fly",
        "-i valeA:x fly",
        "-i valeA:x tx -f rx",
        "-i valeA:x -n many",
        "-i valeA:x -n -1",
        "-i valeA:x tx -R fast",
        "-i valeA:x tx -R -5",
        "-i valeA:x rx -R 1M",
        "-i valeA:x tx -l 10",
        "-i valeA:x tx -l 70000",
        "-i valeA:x tx -l 100-60",
        "-i valeA:x tx -b 0",
        "-i valeA:x tx -b 9999",
        "-i valeA:x tx -p 0",
        "-i valeA:x tx -p 17",
        "-i valeA:x-0 tx -p 2",
        "-i valeA:x tx -s 10.0.0.300",
        "-i valeA:x tx -d 10.0.0.2-10.0.0.1",
        "-i valeA:x tx -D 02:00",
        "-i valeA:x tx -H 11",
        "-i xdp:eth0 tx -H 12",
        "-i valeA:x tx -F 64",
        "-i valeA:x tx -F 40",
        "-i valeA:x tx -M 4",
        "-i valeA:x -T soon",
        "-i valeA:x -T 0",
        "-i valeA:x -t 0",
        "-i valeA:x -w never",
        "-i valeA:x -a x",
        "-i valeA:x -c 2",
        "-i valeA:x -C 1,2,3,4,5",
        "-i valeA:x --wait-mode hope",
        "-i valeA:x tx --pcap-out f",
        "-i valeA:x --json --csv",
        "-i valeA:x --seed x",
        "-i valeA:x --snaplen 60",
        "-i valeA:x --nonsense",
        "-i tap:t0@conf:rings=3 tx -p 2",
        "-i pcap:f tx -p 2",
    ] {
        let output = rig.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {errors}");
        assert!(output.stdout.is_empty(), "{words}");
        assert_eq!(errors.matches("error: ").count(), 1, "{words}: {errors}");
        assert!(!errors.contains("panicked"), "{words}: {errors}");
    }
    assert!(!rig.path("root").exists(), "a mistake must not leave a switch behind");
}

#[test]
fn failure_at_run_time_is_exit_1_with_its_causes() {
    let rig = Rig::new();
    for (words, expected) in [
        ("-i eth0 rx", "opening port netmap:eth0"),
        ("-i valeA:x tx --pcap-in missing.pcap", "missing.pcap"),
        ("-i valeA:x rx --pcap-out no/such/dir.pcap", "no/such/dir.pcap"),
        ("-i null: tx -n 1 -a 1023", "CPU 1023"),
    ] {
        let output = rig.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {errors}");
        assert!(
            errors.starts_with("nm-pktgen: error: ") && errors.contains(expected),
            "{words}: {errors}"
        );
        assert_eq!(errors.matches("error: ").count(), 1, "{words}: {errors}");
    }
    std::fs::write(rig.path("empty.pcap"), b"").expect("write");
    assert_eq!(rig.run("-i valeA:x tx -P empty.pcap").status.code(), Some(1));
    rig.write_pcap("none.pcap", &[]);
    // Without the check this would loop for ever.
    assert_eq!(rig.run("-i valeA:x tx -P none.pcap --pcap-loop 0").status.code(), Some(1));
}

#[test]
fn help_and_version_are_on_stdout() {
    let rig = Rig::new();
    for words in ["--help", "-h", "--version", "-V"] {
        let output = rig.run(words);
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{words}");
    }
    let help = String::from_utf8(rig.run("--help").stdout).expect("text");
    for flag in
        ["--pcap-speed", "--latency-out", "--fail-on-loss", "Exit status:", "-Z, --random-dst"]
    {
        assert!(help.contains(flag), "{flag} is missing");
    }
    assert!(!help.contains("BITS"), "-o is hidden");
}

#[test]
fn pkt_gens_short_flags_all_have_a_meaning() {
    let rig = Rig::new();
    let words = "-i null: -f tx -n 10 -l 200 -l 100 -b 4 -4 -d 10.1.0.1:5-10.1.0.3:6 -s 10.0.0.1:1 \
                 -D 02:00:00:00:00:02 -S 02:00:00:00:00:01 -a 0 -c 1 -p 1 -T 500 -w 0 -R 100000 -N -A -B -v \
                 -C 256,256,1,1 -H 0 -F 2 -M 64 -o 15";
    let output = rig.run(words);
    assert!(output.status.success(), "{output:?}");
    assert!(rig.run("-i null: -f tx -n 3 -r -X -z -Z").status.success());
}

#[test]
fn first_signal_stops_and_reports() {
    let rig = Rig::new();
    for (signal, words) in [
        (Signal::SIGINT, "-i valeA:x -f rx --wait-mode block"),
        (Signal::SIGTERM, "-i valeA:x -f rx --wait-mode busy"),
        (Signal::SIGINT, "-i valeA:x -f tx"),
        (Signal::SIGTERM, "-i valeA:x -f tx -R 1"),
        (Signal::SIGTERM, "-i valeA:x -f pong"),
        (Signal::SIGINT, "-i valeA:x -f ping"),
        (Signal::SIGINT, "-i valeA:x -f rx -w 1h"),
    ] {
        let running = rig.start(words);
        running.signal(signal);
        let (code, end, errors) = running.finish();
        // A ping that was sent before the signal came has had no answer.
        let unanswered = words.ends_with("ping") && number(&end, "tx_packets") > 0;
        let expected = (Some(i32::from(unanswered)), &Value::from("end"));
        assert_eq!((code, &end["type"]), expected, "{words}: {errors}");
    }
}

#[test]
fn second_signal_right_behind_the_first_costs_no_report() {
    // As timeout(1) does it: first the process, then its group.
    let rig = Rig::new();
    let running = rig.start("-i valeA:x -f rx --wait-mode block");
    // Both are pending when the process goes on, so that nothing lies between them.
    for signal in [Signal::SIGSTOP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCONT] {
        running.signal(signal);
    }
    let (code, last, errors) = running.finish();
    assert_eq!((code, &last["type"]), (Some(0), &Value::from("end")), "{errors}");
    // The switch is as good as before.
    assert_eq!(number(&rig.end("-i valeA:x -f tx -n 10"), "tx_packets"), 10);
}

#[test]
fn usr1_prints_totals_and_goes_on() {
    let rig = Rig::new();
    let mut tx = rig.start("-i null: -f tx -R 10k");
    let first = tx.totals_until(|totals| number(totals, "tx_packets") > 0);
    let second =
        tx.totals_until(|totals| number(totals, "tx_packets") > number(&first, "tx_packets"));
    let end = tx.stop();
    assert!(number(&end, "tx_packets") >= number(&second, "tx_packets"));
}

#[test]
fn reader_that_leaves_is_no_failure() {
    let rig = Rig::new();
    let command = rig
        .command("-i null: -f tx -R 1k --json --interval 5ms")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut child = Guarded(command);
    drop(child.0.stdout.take());
    assert_eq!(child.0.wait().expect("wait").code(), Some(0));
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.0.stderr.take().expect("piped"), &mut errors)
        .expect("text");
    assert_eq!(errors, "");
}

#[test]
fn json_lines_carry_type_and_schema_and_end_with_the_end() {
    let rig = Rig::new();
    let output = rig.run("-i null: -f tx -R 10k -t 500ms --json --interval 10ms -A");
    let text = String::from_utf8(output.stdout).expect("text");
    let objects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> =
        objects.iter().map(|object| object["type"].as_str().expect("a type")).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("start", "end"));
    assert!(
        kinds.len() > 2 && kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "interval"),
        "{kinds:?}"
    );
    assert!(objects.iter().all(|object| object["schema"] == 1));
    assert!(objects[1]["pps_mean"].is_f64() && objects[1]["space"].is_u64());
    let sum: u64 =
        objects[1..objects.len() - 1].iter().map(|object| number(object, "tx_packets")).sum();
    assert!(sum <= number(&objects[objects.len() - 1], "tx_packets"));
}

#[test]
fn end_object_has_the_promised_keys() {
    let rig = Rig::new();
    let keys = |words: &str| -> Vec<String> {
        rig.end(words).as_object().expect("an object").keys().cloned().collect()
    };
    let has = |words: &str, wanted: &[&str]| {
        let found = keys(words);
        for key in wanted {
            assert!(found.iter().any(|one| one == key), "{words}: no {key} in {found:?}");
        }
    };
    has(
        "-i null: -f tx -n 1",
        &["tx_packets", "tx_pps", "tx_bps_l2", "tx_bps_l1", "drops", "seconds"],
    );
    rig.end("-i pcap:a.pcap -f txseq -n 2");
    has("-i pcap:a.pcap -f rx -n 2", &["rx_packets", "rx_pps", "drops", "seconds"]);
    has(
        "-i pcap:a.pcap -f rxseq -n 2",
        &["rx_packets", "rx_pps", "drops", "lost", "reordered", "duplicated", "seconds"],
    );
    let pong = rig.start("-i valeA:pong -f pong");
    has(
        "-i valeA:ping -f ping -n 1",
        &["tx_packets", "rx_packets", "tx_pps", "rx_pps", "lost", "drops", "rtt_p999_ns"],
    );
    pong.stop();
}

#[test]
fn human_output_has_lines_or_only_the_result() {
    let rig = Rig::new();
    let loud =
        String::from_utf8(rig.run("-i null: -f tx -R 10k -t 500ms -T 20").stdout).expect("text");
    assert!(loud.contains("  tx ") && loud.contains("L1") && loud.contains("Sent "), "{loud}");
    let quiet = String::from_utf8(rig.run("-i null: -f tx -n 20000 -q").stdout).expect("text");
    assert!(quiet.starts_with("Sent 20000 packets, 1200000 bytes in "), "{quiet}");
    let exact = String::from_utf8(rig.run("-i null: -f tx -n 2M -q -N").stdout).expect("text");
    assert!(!exact.contains("Mpps") && !exact.contains("Gbps"), "{exact}");
    let nothing = String::from_utf8(rig.run("-i valeA:x -f rx -t 1ms -q").stdout).expect("text");
    assert!(nothing.starts_with("Received nothing."), "{nothing}");
}

#[test]
fn csv_is_a_header_and_rows() {
    let rig = Rig::new();
    let text = String::from_utf8(rig.run("-i null: -f tx -n 5 --csv").stdout).expect("text");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert_eq!(rows[0].len(), rows[1].len());
    let column = rows[0].iter().position(|key| *key == "tx_packets").expect("a column");
    assert_eq!(rows[1][column], "5");
}

#[test]
fn hexdump_shows_packets_and_json_stays_json() {
    let rig = Rig::new();
    let text = String::from_utf8(rig.run("-i null: -f tx -n 2 -X -q").stdout).expect("text");
    assert_eq!(text.matches("tx, 60 bytes").count(), 2, "{text}");
    let output = rig.run("-i null: -f tx -n 2 -X --json");
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("tx, 60 bytes").count(), 2);
}

#[test]
fn capture_on_stdout_leaves_reports_to_stderr() {
    let rig = Rig::new();
    rig.end("-i pcap:a.pcap -f tx -n 3");
    let output = rig.run("-i pcap:a.pcap -f rx -n 3 --pcap-out - --json");
    assert!(output.status.success());
    std::fs::write(rig.path("out.pcap"), &output.stdout).expect("write");
    assert_eq!(rig.read_pcap("out.pcap"), rig.read_pcap("a.pcap"));
    let end: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(number(&end, "rx_packets"), 3);
}

#[test]
fn latencies_are_not_kept_for_a_fifo_that_nobody_reads() {
    let rig = Rig::new();
    nix::unistd::mkfifo(&rig.path("latencies"), nix::sys::stat::Mode::S_IRWXU).expect("room");
    let mut command = rig.command("-i valeA:t -f ping -n 5 --latency-out latencies");
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("start its reader first"), "{said}");
}

#[test]
fn report_that_cannot_be_printed_costs_no_latencies_and_no_capture() {
    let rig = Rig::new();
    let frames = vec![vec![2; 60]; 5];
    rig.write_pcap("in.pcap", &frames);
    let pong = rig.start("-i valeA:p -f pong");
    for form in ["-q", "--json", "--csv"] {
        let full = || std::fs::File::options().write(true).open("/dev/full").expect("a device");
        let failed = |words: &str| {
            let mut command = rig.command(&format!("{words} {form}"));
            let output = command.stdout(full()).output().expect("run");
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        };
        failed("-i valeA:t -f ping -n 5 --latency-out latencies");
        let latencies = std::fs::read_to_string(rig.path("latencies")).expect("written");
        assert!(latencies.contains("Total count"), "{form}: {latencies:?}");
        failed("-i pcap:in.pcap -f rx --pcap-out out.pcap");
        assert_eq!(rig.read_pcap("out.pcap"), frames, "{form}");
        for file in ["latencies", "out.pcap"] {
            std::fs::remove_file(rig.path(file)).expect("there");
        }
    }
    pong.stop();
}
