//! The bench guest in its machine: two of them on one switch, on every step of the ladder, on KVM and
//! in threads. What is judged is correctness; rates are `scripts/bench`'s.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod support;
use support::{kvm, output, record, root, stderr, vmm};

/// Far beyond anything that works.
const TIMEOUT: Duration = Duration::from_secs(20);
const RECEIVER: &str = "02:00:00:00:00:01";

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a machine in the background; its record is its only output.
fn start(mut command: Command) -> Running {
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    Running(command.spawn().expect("e1000pv-vmm starts"))
}

fn finish(mut running: Running) -> (Option<i32>, Value) {
    let mut text = String::new();
    let mut out = running.0.stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut out, &mut text).expect("text");
    let last = text.lines().last().expect("a record");
    (running.0.wait().expect("our child").code(), serde_json::from_str(last).expect("JSON"))
}

/// Waits until the guest of `name` has given receive buffers to all of its NICs.
fn ready(root: &Path, name: &str) {
    let end = Instant::now() + TIMEOUT;
    loop {
        let stats = output(vmm(root, &["--stats", name, "--json"]));
        if stats.status.success() {
            let nics = record(&stats)["counters"]["nics"].clone();
            let nics = nics.as_array().expect("NICs").clone();
            if nics.iter().all(|nic| nic["rdt_writes"] != 0) {
                return;
            }
        }
        assert!(Instant::now() < end, "{name} is not ready within {TIMEOUT:?}");
    }
}

/// A sender for a while, a receiver until it is quiet; the records of both.
fn exchange(step: &[&str]) -> (Value, Value) {
    let root = root();
    let mac = format!("mac={RECEIVER}");
    let common = ["--json", "--timeout", "30s"];
    let rx =
        ["--netdev", "port=valeT:rx", "--device", &mac, "--guest", "rx idle=500ms wait_first=20s"];
    let rx = start(vmm(root.path(), &[&common[..], &rx, &["--name", "rx"], step].concat()));
    ready(root.path(), "rx");
    let work = format!("tx dst={RECEIVER} duration=400ms");
    let tx = ["--netdev", "port=valeT:tx", "--guest", &work];
    let tx = output(vmm(root.path(), &[&common[..], &tx, step].concat()));
    assert_eq!(tx.status.code(), Some(0), "{step:?}: {}", stderr(&tx));
    let (code, received) = finish(rx);
    assert_eq!(code, Some(0), "{step:?}: {received}");
    (record(&tx), received)
}

fn check(step: &[&str]) -> (Value, Value) {
    let (sent, received) = exchange(step);
    let number = |of: &Value, key: &str| of["guest"][key].as_u64().expect(key);
    assert!(number(&sent, "packets") > 0, "{step:?}: {sent}");
    assert!(number(&received, "packets") > 0, "{step:?}: {received}");
    for key in ["bad", "duplicated", "reordered"] {
        assert_eq!(number(&received, key), 0, "{step:?}: {key} in {received}");
    }
    let counted = &sent["counters"]["nics"][0];
    assert_eq!(counted["tx_packets"], sent["guest"]["packets"], "{step:?}: {sent}");
    for key in ["tx_bad", "csb_bad", "rx_bad"] {
        assert_eq!(counted[key], 0, "{step:?}: {sent}");
    }
    (sent, received)
}

#[test]
fn steps_of_the_ladder_in_threads() {
    for step in [
        &["--driver", "plain", "--moderation", "off"][..],
        &["--driver", "combine"],
        &["--driver", "csb", "--more", "off", "--indirect", "off", "--ring", "256"],
        &["--driver", "csb", "--tx-mode", "inline"],
        &["--driver", "csb", "--notify", "block,wake=first", "--no-sandbox"],
        &["--driver", "plain", "--rx-limit", "auto", "--irq-pace", "50us"],
    ] {
        let (sent, _) = check(&[&["--accel", "thread"], step].concat());
        assert_eq!(sent["accel"], "thread");
        assert_eq!(sent["counters"]["exits"], 0);
    }
}

#[test]
fn steps_of_the_ladder_on_kvm() {
    if !kvm("steps_of_the_ladder_on_kvm") {
        return;
    }
    for step in [
        &["--driver", "plain", "--moderation", "off"][..],
        &["--driver", "plain", "--idle", "halt"],
        &["--driver", "plain", "--idle", "halt", "--irq", "irqfd"],
        &["--driver", "plain", "--idle", "halt", "--rx-limit", "auto", "--irq-pace", "50us"],
        &["--driver", "combine", "--idle", "halt"],
        &["--driver", "csb", "--idle", "halt", "--irq", "irqfd"],
        &["--driver", "csb", "--tx-mode", "inline"],
        &["--driver", "csb"],
    ] {
        let (sent, received) = check(&[&["--accel", "kvm"], step].concat());
        assert_eq!(sent["accel"], "kvm");
        // A NIC's interrupts were raised, and those that halt took them by the handler.
        assert_ne!(received["counters"]["nics"][0]["interrupts"], 0, "{step:?}: {received}");
    }
}

#[test]
fn csb_that_is_not_offered_leaves_a_plain_device() {
    if !kvm("csb_that_is_not_offered_leaves_a_plain_device") {
        return;
    }
    let (sent, _) = check(&["--csb", "off"]);
    assert_eq!(sent["guest"]["driver"], "plain");
    assert_eq!(sent["counters"]["nics"][0]["kicks"], 0);
}

#[test]
fn middlebox_forwards_between_its_nics() {
    if !kvm("middlebox_forwards_between_its_nics") {
        return;
    }
    let root = root();
    let mac = format!("mac={RECEIVER}");
    let common = ["--json", "--timeout", "30s"];
    let rx =
        ["--netdev", "port=valeR:rx", "--device", &mac, "--guest", "rx idle=500ms wait_first=20s"];
    let rx = start(vmm(root.path(), &[&common[..], &rx, &["--name", "rx"]].concat()));
    ready(root.path(), "rx");
    let forward = [
        "--netdev",
        "port=valeL:box",
        "--netdev",
        "port=valeR:box",
        "--guest",
        "forward idle=1s wait_first=20s",
    ];
    let forward = start(vmm(root.path(), &[&common[..], &forward, &["--name", "box"]].concat()));
    ready(root.path(), "box");
    let work = format!("tx dst={RECEIVER} duration=500ms");
    let tx = ["--netdev", "port=valeL:tx", "--guest", &work];
    let tx = output(vmm(root.path(), &[&common[..], &tx].concat()));
    assert_eq!(tx.status.code(), Some(0), "{}", stderr(&tx));
    let (code, received) = finish(rx);
    assert_eq!(code, Some(0), "{received}");
    assert_ne!(received["guest"]["packets"], 0, "{received}");
    let (code, forwarded) = finish(forward);
    assert_eq!(code, Some(0), "{forwarded}");
    assert_ne!(forwarded["counters"]["nics"][1]["tx_packets"], 0, "{forwarded}");
}
