//! Real processes over a switch of their own: each test has its own root directory, so that tests run
//! side by side, and what a test started is gone when it ends, whatever the outcome.
#![allow(dead_code, reason = "each test binary uses another part of the rig")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use assert_cmd::cargo::CommandCargoExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nm_capture as pcap;
use serde_json::Value;
use tempfile::TempDir;

/// A directory for switches and files.
pub struct Rig {
    root: TempDir,
}

/// Set in a process that runs one test, whose own root is that of the test's rig.
const MARK: &str = "NM_TEST_RIG";

/// Runs `body` in a process (this binary, started again for the test of that name) that uses the same
/// switches as the tools of the rig: the root belongs to a whole process, and tests run in parallel.
pub fn within(test: &str, body: impl FnOnce(Rig)) {
    if let Some(dir) = std::env::var_os(MARK) {
        return body(Rig { root: tempfile::tempdir_in(dir).expect("a directory") });
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let own = std::env::current_exe().expect("the test binary");
    let output = Command::new(own)
        .args([test, "--exact", "--nocapture"])
        .env("NETMAP_ROOT", dir.path().join("root"))
        .env(MARK, dir.path())
        .output()
        .expect("the test binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {output:?}");
}

impl Rig {
    pub fn new() -> Rig {
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        Rig { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The root of the switches.
    fn switches(&self) -> PathBuf {
        match std::env::var_os(MARK) {
            Some(dir) => Path::new(&dir).join("root"),
            None => self.path("root"),
        }
    }

    /// The tool with arguments given as one line of words.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::cargo_bin("nm-pktgen").expect("the binary was built");
        command
            .args(words.split_whitespace())
            .env("NETMAP_ROOT", self.switches())
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the tool to its end.
    pub fn run(&self, words: &str) -> Output {
        self.command(words).output().expect("run")
    }

    /// Runs the tool to its successful end; returns its last JSON object.
    pub fn end(&self, words: &str) -> Value {
        let output = self.run(&format!("{words} --json"));
        assert!(output.status.success(), "{words}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
    }

    /// Starts the tool with JSON lines and returns when its port is open.
    pub fn start(&self, words: &str) -> Running {
        // Intervals are long: what is waited for are events, not reports.
        let mut child = self
            .command(&format!("{words} --json --interval 1h"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut running = Running { child: Guarded(child), lines };
        let start = running.next();
        assert_eq!(start["type"], "start", "{words}");
        running
    }

    /// Writes a capture of packets that are a millisecond apart.
    pub fn write_pcap(&self, name: &str, packets: &[Vec<u8>]) {
        let mut writer = pcap::Writer::create(self.path(name), 0).expect("create");
        for (n, packet) in packets.iter().enumerate() {
            let ts = Duration::from_millis(n as u64);
            writer.write(ts, packet.len() as u32, packet).expect("write");
        }
        writer.flush().expect("flush");
    }

    pub fn read_pcap(&self, name: &str) -> Vec<Vec<u8>> {
        read_pcap(&self.path(name))
    }
}

pub fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = pcap::Reader::open(path, pcap::Options::default()).expect("open");
    let mut packets = Vec::new();
    while let Some(packet) = reader.next().expect("a whole file") {
        packets.push(packet.data.to_vec());
    }
    packets
}

/// A process that does not outlive the test: killed when dropped, unless it ended before.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A started tool.
pub struct Running {
    child: Guarded,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.0.id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there");
    }

    /// CPU time it has used, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("it runs");
        // The command name, in parentheses, is the only field that may hold a space.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let fields: Vec<&str> = fields.split(' ').collect();
        [11, 12].iter().map(|&i: &usize| fields[i].parse::<u64>().expect("ticks")).sum()
    }

    /// How often its threads went to sleep.
    pub fn sleeps(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let sleeps = |task: std::io::Result<std::fs::DirEntry>| {
            let status = task.expect("a thread").path().join("status");
            let status = std::fs::read_to_string(status).expect("it runs");
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.expect("in every status").trim().parse::<u64>().expect("a number")
        };
        tasks.map(sleeps).sum()
    }

    /// The next JSON line; null at the end.
    pub fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        if line.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"))
    }

    /// Asks for totals until they satisfy `enough`. Each answer is an event; nothing is timed.
    pub fn totals_until(&mut self, mut enough: impl FnMut(&Value) -> bool) -> Value {
        loop {
            self.signal(Signal::SIGUSR1);
            let totals = self.next();
            assert_eq!(totals["type"], "totals", "{totals}");
            if enough(&totals) {
                return totals;
            }
            std::thread::yield_now();
        }
    }

    /// Waits for the process's own end; returns exit code, last JSON object and stderr.
    pub fn finish(mut self) -> (Option<i32>, Value, String) {
        let mut last = Value::Null;
        loop {
            match self.next() {
                Value::Null => break,
                value => last = value,
            }
        }
        let mut errors = String::new();
        let mut stderr = self.child.0.stderr.take().expect("piped");
        stderr.read_to_string(&mut errors).expect("text");
        let status = self.child.0.wait().expect("wait");
        (status.code(), last, errors)
    }

    /// Stops the process and returns its last JSON object.
    pub fn stop(self) -> Value {
        self.signal(Signal::SIGINT);
        let (code, end, errors) = self.finish();
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(end["type"], "end");
        end
    }

    /// Closes our end of its stdout.
    pub fn close_stdout(self) -> Guarded {
        self.child
    }
}

/// A number of a JSON object.
pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} is not a number in {value}"))
}
