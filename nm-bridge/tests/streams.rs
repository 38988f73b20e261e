//! Captures and streams as ends of a bridge: live, whole, counted, and stopped by the first signal.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nm_capture::Writer;

#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod support;
use skipping::skip;
use support::{Bridge, nm_bridge};

/// A capture of frames of these lengths.
fn capture(lens: &[usize]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut writer = Writer::create(file.path(), 0).expect("created");
    for &len in lens {
        writer.write(Duration::ZERO, len as u32, &vec![2; len]).expect("written");
    }
    writer.finish().expect("written");
    fs::read(file.path()).expect("read")
}

/// Runs a bridge to its end with this on its stdin.
fn run(args: &[&str], input: &[u8]) -> Output {
    let root = tempfile::tempdir_in("/dev/shm").expect("a root");
    let mut child = nm_bridge(args)
        .env("NETMAP_ROOT", root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nm-bridge starts");
    // The input fits the pipe.
    child.stdin.take().expect("piped").write_all(input).expect("written");
    child.wait_with_output().expect("it ends")
}

fn record(text: &[u8]) -> serde_json::Value {
    let text = std::str::from_utf8(text).expect("text");
    serde_json::from_str(text.lines().last().expect("a record")).expect("JSON")
}

#[test]
fn stdin_as_a_port_is_read_to_its_end() {
    for name in ["pcap:-", "pcap:/dev/stdin"] {
        let output = run(&["-i", name, "-i", "null:", "--json"], &capture(&[60, 60, 60]));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(record(&output.stdout)["a_to_b_packets"], 3, "{name}");
    }
}

#[test]
fn capture_on_stdout_holds_no_word_of_a_report() {
    let input = capture(&[60, 1514]);
    for args in [
        ["-i", "pcap:-", "-i", "null:", "--pcap-out", "/dev/stdout"],
        ["-i", "pcap:-", "-i", "null:", "--pcap-out", "-"],
        ["-i", "pcap:-", "-i", "pcap:-", "--json", "--stats"],
        ["-i", "pcap:-", "-i", "pcap:/dev/stdout", "-v", "-v"],
    ] {
        let output = run(&args, &input);
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(output.stdout.len(), input.len(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}: the report is on stderr");
    }
}

#[test]
fn packets_before_a_cut_record_are_sent_and_counted() {
    let mut input = capture(&[60; 10]);
    input.truncate(input.len() - 7);
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.pcap");
    let to = format!("pcap:{}", out.display());
    let output = run(&["-i", "pcap:-", "-i", &to, "--json"], &input);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(record(&output.stdout)["a_to_b_packets"], 9);
    assert_eq!(fs::read(&out).expect("written").len(), capture(&[60; 9]).len());
}

#[test]
fn records_that_are_no_frames_are_drops_and_said() {
    let output = run(&["-i", "pcap:-", "-i", "null:", "--json"], &capture(&[65_536, 0, 60]));
    let end = record(&output.stdout);
    assert_eq!((&end["a_to_b_packets"], &end["a_to_b_bytes"]), (&1.into(), &60.into()), "{end}");
    assert_eq!(end["a_to_b_drops"], 2, "{end}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn silent_stdin_does_not_hold_off_the_first_signal() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a root");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("sh");
    // `Bridge` closes stdin; the pipe comes by another number.
    command
        .args(["-c", "exec \"$@\" 0<&2 2>/dev/null", "sh", env!("CARGO_BIN_EXE_nm-bridge")])
        .args(["-i", "pcap:-", "-i", "null:"])
        .env("NETMAP_ROOT", root.path())
        .stderr(reader);
    let bridge = Bridge::start(command);
    bridge.signal(Signal::SIGINT);
    let (status, end) = bridge.wait();
    assert!(status.success() && end["type"] == "end", "{status} {end}");
    drop(writer);
}

#[test]
fn capture_of_a_busy_bridge_is_live() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a root");
    let dir = tempfile::tempdir().expect("a directory");
    let input = dir.path().join("in");
    nix::unistd::mkfifo(&input, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut bridge = nm_bridge(&["-i", &format!("pcap:{}", input.display()), "-i", "null:"])
        .args(["--busy-poll", "--pcap-out", "-", "-q"])
        .env("NETMAP_ROOT", root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("nm-bridge starts");
    let bytes = capture(&[60]);
    let mut to = fs::File::options().write(true).open(&input).expect("the bridge reads");
    to.write_all(&bytes).expect("written");
    // Comes while the bridge goes on spinning: its input stays open.
    let mut seen = vec![0; bytes.len()];
    bridge.stdout.as_mut().expect("piped").read_exact(&mut seen).expect("a packet");
    assert_eq!(seen[40..], bytes[40..], "the packet itself");
    drop(to);
    assert!(bridge.wait().expect("it ends").success());
}

#[test]
fn csv_rows_of_intervals_add_up() {
    let input = capture(&[60; 5]);
    let output = run(&["-i", "pcap:-", "-i", "null:", "--csv", "--interval", "1h"], &input);
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 2, "a header and the part of an interval:\n{text}");
    let column = rows[0].iter().position(|name| *name == "a_to_b_packets").expect("a column");
    assert_eq!(rows[1][column], "5", "{text}");
    assert_eq!(rows[0].len(), rows[1].len());
}

#[test]
fn two_ports_of_one_switch_are_refused_without_loop() {
    let output = run(&["-i", "valeA:x", "-i", "valeA:y", "--duration", "10ms"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--loop"));
    let output = run(&["--loop", "-i", "valeA:x", "-i", "valeA:y", "--duration", "10ms"], &[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn cpu_outside_of_those_of_the_process_is_an_error_that_says_so() {
    const NAME: &str = "cpu_outside_of_those_of_the_process_is_an_error_that_says_so";
    let mine = nm_cli::cpulist::allowed();
    let Ok(taskset) = Command::new("taskset").arg("--version").output() else {
        return skip(NAME, "taskset is not installed");
    };
    assert!(taskset.status.success());
    let other = if mine.len() > 1 { mine[1] } else { mine[0] + 1 };
    let output = Command::new("taskset")
        .args(["-c", &mine[0].to_string(), env!("CARGO_BIN_EXE_nm-bridge")])
        .args(["-i", "null:", "-i", "valeA:x", "--cpu", &other.to_string()])
        .output()
        .expect("taskset runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("CPU {other}")) && said.contains("taskset"), "{said}");
}
