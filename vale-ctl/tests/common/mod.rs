//! What the tests of the program share: a root of their own, the program, frames, event lines.
//!
//! Invariant: a test that opens ports does so in a process of its own (the test binary, started
//! again for that one test) with NETMAP_ROOT set for it, because the variable belongs to the whole
//! process and tests run in parallel; it cannot touch the switches of whoever runs it.

#![allow(dead_code)] // each test binary uses a part of it

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use netmap::Port;
use serde_json::Value;

#[path = "../../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
#[allow(unused_imports, reason = "not every test binary skips")]
pub use skipping::skip;

/// Longest that anything may take before it counts as never happening.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `body` in a process whose root is an empty directory. `test` is the calling test's name.
pub fn in_own_root(test: &str, body: impl FnOnce()) {
    const MARK: &str = "NM_TEST_IN_OWN_ROOT";
    if std::env::var_os(MARK).is_some() {
        body();
        return;
    }
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
    let own = std::env::current_exe().expect("the test binary");
    let output = Command::new(own)
        .args([test, "--exact", "--nocapture"])
        .env("NETMAP_ROOT", root.path())
        .env(MARK, "1")
        .output()
        .expect("the test binary runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprint!("{err}");
    assert!(output.status.success(), "{test}: {}\n{out}{err}", output.status);
    assert!(out.contains("1 passed"), "{test} is not the name of the calling test:\n{out}");
}

/// The program.
pub fn vale_ctl(args: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_vale-ctl"));
    command.args(args).timeout(TIMEOUT);
    command
}

/// The object that a successful run prints.
pub fn json(args: &[&str]) -> Value {
    let output = vale_ctl(args).arg("--json").assert().success().get_output().clone();
    let value: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(value["schema"], 1);
    value
}

/// The text that a successful run prints.
pub fn text(args: &[&str]) -> String {
    let output = vale_ctl(args).assert().success().get_output().clone();
    String::from_utf8(output.stdout).expect("text")
}

/// What a run that ends with `code` says on stderr.
pub fn complaint(args: &[&str], code: i32) -> String {
    let output = vale_ctl(args).assert().code(code).get_output().clone();
    assert!(output.stdout.is_empty(), "an error is no result");
    String::from_utf8(output.stderr).expect("text")
}

/// `02:00:00:00:00:NN`.
pub fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// Sends one frame of 60 bytes into the switch.
pub fn send(port: &mut Port, dst: [u8; 6], src: [u8; 6]) {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame[12..14].copy_from_slice(&0x88b5u16.to_be_bytes()); // local experimental EtherType
    assert!(port.tx(0).push(&frame), "no space in the ring");
    port.txsync().expect("txsync");
}

/// A running `vale-ctl` whose JSON lines are read as they come.
pub struct Lines {
    child: Child,
    lines: Receiver<Value>,
}

impl Lines {
    /// Starts it and waits for its first line.
    pub fn start(args: &[&str]) -> Lines {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vale-ctl"))
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .spawn()
            .expect("vale-ctl starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.expect("text");
                if sender.send(serde_json::from_str(&line).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        let lines = Lines { child, lines };
        assert_eq!(lines.next()["type"], "start");
        lines
    }

    /// The next line.
    pub fn next(&self) -> Value {
        let line = self.lines.recv_timeout(TIMEOUT).expect("a line before the timeout");
        assert_eq!(line["schema"], 1);
        line
    }

    /// The next line of this type; others may come before it.
    pub fn next_of(&self, kind: &str) -> Value {
        loop {
            let line = self.next();
            assert_ne!(line["type"], "end", "ended before a line of type {kind}");
            if line["type"] == kind {
                return line;
            }
        }
    }

    /// Asks it to stop and checks that it does so gracefully.
    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        let last = loop {
            let line = self.next();
            if line["type"] == "end" {
                break line;
            }
        };
        assert!(last["seconds"].is_number() || last["events"].is_number());
        assert!(self.child.wait().expect("ended").success());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Already ended in the good case; in the bad one nothing may be left running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
