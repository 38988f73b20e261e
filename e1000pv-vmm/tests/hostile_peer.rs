//! A peer on the switch that writes nonsense to everything it can: monitors live, and report when they are told to end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

#[path = "../../lib/netmap/tests/common/rng.rs"]
mod rng;
mod support;
use rng::Rng;
use support::running::Running;
use support::{output, record, root, stderr, vmm};

fn start(root: &Path, name: &str, more: &[&str]) -> Running {
    let port = format!("port=valeH:{name}");
    let args = ["--accel", "thread", "--name", name, "--netdev", &port];
    Running::start(vmm(root, &[&args[..], more].concat()))
}

/// SIGTERM; the last record.
fn end(machine: Running) -> Value {
    machine.signal(Signal::SIGTERM);
    let (status, rest) = machine.end();
    assert!(status.code().is_some_and(|code| code <= 1), "{status}: {rest}");
    let last = rest.lines().last().unwrap_or_else(|| panic!("no report; {status}"));
    serde_json::from_str(last).expect("a record")
}

fn nic(root: &Path, name: &str) -> Value {
    let got = output(vmm(root, &["--stats", name, "--json"]));
    assert_eq!(got.status.code(), Some(0), "{}", stderr(&got));
    record(&got)["counters"]["nics"][0].clone()
}

/// Regular files below a directory.
fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// What is written there: indices at the ends of rings and outside of them, and the numbers that mean something.
const WORDS: [u32; 8] = [0, 1, 3, 1023, 4095, 5000, i32::MAX as u32, u32::MAX];
/// How much of each file is written over: all control words and the rings, and some buffers.
const PART: usize = 1 << 20;

#[test]
fn nonsense_in_shared_memory_ends_no_monitor_without_its_report() {
    for seed in 1..8u64 {
        let root = root();
        let rx = start(root.path(), "rx", &["--guest", "rx"]);
        let work = ["--guest", "tx dst=ff:ff:ff:ff:ff:ff", "--indirect", "off"];
        let tx = start(root.path(), "tx", &work);
        let deadline = Instant::now() + Duration::from_secs(20);
        while nic(root.path(), "rx")["rx_packets"] == 0 {
            assert!(Instant::now() < deadline, "nothing arrives");
        }
        let mut found = Vec::new();
        files(root.path(), &mut found);
        assert!(found.len() >= 3, "{found:?}");
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut word = || WORDS[rng.below(WORDS.len() as u64) as usize];
        let nonsense: Vec<u8> = (0..PART / 4).flat_map(|_| word().to_le_bytes()).collect();
        let damage = || {
            // Those of a port that was closed meanwhile are gone.
            for file in found.iter().filter_map(|path| File::options().write(true).open(path).ok())
            {
                let len = usize::try_from(file.metadata().expect("a size").len()).expect("small");
                file.write_all_at(&nonsense[..len.min(PART)], 0).expect("room");
            }
        };
        damage();
        end(tx);
        // The sender has mended some of it.
        damage();
        let end = end(rx);
        // A guest that found a packet twice in what was made of its ring has ended by itself.
        assert!(["stopped", "status"].contains(&end["end"].as_str().expect("text")), "{end}");
    }
}
