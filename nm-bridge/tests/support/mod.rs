//! What the tests of this tool share: a root directory of their own, bridges as child processes that
//! never outlive the test, and packets that can be told apart.

#![allow(dead_code, reason = "each test binary uses its part of this file")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far beyond anything that works: a test that waits longer has failed.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A bridge that has opened its ports. Killed when dropped.
pub struct Bridge {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Its first record.
    pub start: serde_json::Value,
}

impl Bridge {
    /// Starts `command`, which must be an nm-bridge or run one in its place, with JSON records, and
    /// waits for the first of them: the ports are open then.
    pub fn start(mut command: Command) -> Bridge {
        let mut child = command
            .args(["--json", "--interval", "1h"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nm-bridge starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let start = record(&mut stdout).unwrap_or_else(|| {
            let _ = child.wait();
            panic!("nm-bridge ended before it had opened its ports (see its stderr)");
        });
        assert_eq!(start["type"], "start");
        Bridge { child, stdout, start }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("the bridge is our child");
    }

    /// What it says beside its results, if that is piped.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the kernel tells of the process, from its state on.
    fn stat(&self) -> Vec<String> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the bridge runs");
        // The command name, in parentheses, is the only field that may hold a space.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        fields.split(' ').map(str::to_owned).collect()
    }

    /// Stops it while it sleeps; SIGCONT has it go on.
    pub fn stop_in_its_sleep(&self) {
        until("its sleep", || (self.stat()[0] == "S").then_some(()));
        self.signal(Signal::SIGSTOP);
        until("it to stop", || (self.stat()[0] == "T").then_some(()));
    }

    /// CPU time it has used, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let fields = self.stat();
        [11, 12].iter().map(|&i: &usize| fields[i].parse::<u64>().expect("ticks")).sum()
    }

    /// Its next record.
    pub fn record(&mut self) -> serde_json::Value {
        record(&mut self.stdout).expect("another record")
    }

    /// Stops it in good order: exit status and its last record.
    pub fn stop(self) -> (ExitStatus, serde_json::Value) {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end: exit status and its last record.
    pub fn wait(mut self) -> (ExitStatus, serde_json::Value) {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("its output is text");
        let last = text.lines().last().expect("a bridge ends with a record");
        let end = serde_json::from_str(last).expect("JSON");
        (self.child.wait().expect("our child"), end)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(from: &mut impl BufRead) -> Option<serde_json::Value> {
    let mut line = String::new();
    from.read_line(&mut line).expect("its output is text");
    (!line.is_empty()).then(|| serde_json::from_str(&line).expect("JSON"))
}

/// An nm-bridge with these arguments.
pub fn nm_bridge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nm-bridge"));
    command.args(args);
    command
}

/// Tries until it works; for what has no event to wait for.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
