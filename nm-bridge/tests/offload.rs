//! Streams between two network namespaces through a switch, with and without offloads, hashed at both ends; and what is left
//! when interfaces, namespaces and bridges come to their end under traffic.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod stacks;
mod support;
use netns::Namespace;
use stacks::{ADDRESSES, addresses, namespaces, stream};
use support::{Bridge, nm_bridge, until};

const BYTES: usize = 24 << 20;
const FLAGS: [&[&str]; 2] = [&[], &["--no-offload"]];

fn bridge(root: &Path, port: &str, namespace: &Namespace, flags: &[&str]) -> Bridge {
    let tap = format!("tap:t0@netns:{}", namespace.0);
    let mut command = nm_bridge(&[&[port, &tap][..], flags].concat());
    command.env("NETMAP_ROOT", root);
    Bridge::start(command)
}

fn kernel_counter(namespace: &Namespace, counter: &str) -> u64 {
    let path = format!("cat /sys/class/net/t0/statistics/{counter}");
    let mut words = path.split(' ');
    let mut cat = Command::new(words.next().expect("cat"));
    let said = namespace.exec(cat.args(words)).output().expect("ip runs").stdout;
    String::from_utf8_lossy(&said).trim().parse().expect("a number")
}

#[test]
fn streams_arrive_whole_with_and_without_offloads() {
    const NAME: &str = "streams_arrive_whole_with_and_without_offloads";
    let Some(both) = namespaces(NAME, ["oa", "ob"]) else { return };
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    for [one, other] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        let [a, b] = &both;
        let left = bridge(root.path(), "valeO:a", a, FLAGS[one]);
        let right = bridge(root.path(), "valeO:b", b, FLAGS[other]);
        addresses(&both);
        let sent = |from| ["tx_bytes", "tx_packets"].map(|counter| kernel_counter(from, counter));
        for (from, to, addresses, flags) in [(a, b, ADDRESSES[1], one), (b, a, ADDRESSES[0], other)]
        {
            let before = sent(from);
            addresses.iter().for_each(|address| stream(from, to, address, BYTES));
            let [bytes, frames] = sent(from);
            // By the size of frames: with offloads, many segments are one, whatever the other end has.
            let mean = (bytes - before[0]) / (frames - before[1]);
            let fits = if flags == 0 { mean > 2000 } else { mean <= 1514 };
            assert!(fits, "{mean} bytes a frame with {:?}", FLAGS[flags]);
        }
        for bridge in [left, right] {
            assert!(bridge.start["zero_copy"].as_bool().expect("a word"), "buffers are swapped");
            let (status, end) = bridge.stop();
            assert!(status.success(), "{status}: {end}");
        }
        assert!(!a.try_ip("link show t0").status.success(), "the tap is left");
    }
}

/// Sends datagrams until they fail.
fn flood(namespace: &Namespace) -> impl FnOnce() + Send + use<> {
    let socket = namespace.inside(|| UdpSocket::bind("10.78.0.1:0").expect("bound"));
    move || while socket.send_to(&[1; 1000], "10.78.0.2:9").is_ok() {}
}

#[test]
fn interface_or_namespace_that_is_deleted_under_traffic_ends_the_bridge_with_a_word() {
    const NAME: &str =
        "interface_or_namespace_that_is_deleted_under_traffic_ends_the_bridge_with_a_word";
    for whole in [false, true] {
        let Some(both) = namespaces(NAME, ["da", "db"]) else { return };
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
        let [a, b] = both;
        let tap = format!("tap:t0@netns:{}", a.0);
        let mut command = nm_bridge(&["valeO:a", &tap, "-q"]);
        command.env("NETMAP_ROOT", root.path()).stderr(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().expect("nm-bridge starts");
        let _right = bridge(root.path(), "valeO:b", &b, &[]);
        until("the tap", || a.try_ip("link show t0").status.success().then_some(()));
        let both = [a, b];
        addresses(&both);
        both[0].ip("neigh add 10.78.0.2 lladdr 02:00:00:00:00:02 dev t0");
        let sender = std::thread::spawn(flood(&both[0]));
        until("traffic", || (kernel_counter(&both[0], "tx_packets") > 1000).then_some(()));
        let [a, b] = both;
        if whole {
            // The sender's socket would keep the namespace; without its interface it ends.
            a.ip("link set t0 down");
            sender.join().expect("no panic");
            drop(a);
        } else {
            a.ip("link del t0");
            sender.join().expect("no panic");
        }
        let output = child.wait_with_output().expect("our child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("somebody deleted the interface"), "{said}");
        drop(b);
    }
}

#[test]
fn killed_bridge_leaves_no_tap_and_no_port() {
    const NAME: &str = "killed_bridge_leaves_no_tap_and_no_port";
    let Some(both) = namespaces(NAME, ["ka", "kb"]) else { return };
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let [a, _b] = &both;
    let killed = bridge(root.path(), "valeO:a", a, &[]);
    a.ip("link show t0");
    killed.signal(Signal::SIGKILL);
    until("the tap's end", || (!a.try_ip("link show t0").status.success()).then_some(()));
    // The port is cleared away by whoever comes next, and its memory with it, and all can be had again.
    let again = bridge(root.path(), "valeO:a", a, &[]);
    let (status, end) = again.stop();
    assert!(status.success(), "{status}: {end}");
    let left: Vec<_> = walk(root.path());
    assert!(left.iter().all(|name| !name.contains("valeO")), "{left:?}");
}

fn walk(below: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(below).expect("a directory").flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

#[test]
fn tap_of_ones_own_needs_no_root_and_of_another_one_says_so_in_a_line() {
    const NAME: &str = "tap_of_ones_own_needs_no_root_and_of_another_one_says_so_in_a_line";
    const NOBODY: &str = "65534";
    let Some([ns, _]) = namespaces(NAME, ["ua", "ub"]) else { return };
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    std::os::unix::fs::chown(root.path(), Some(65534), None).expect("root may");
    let as_nobody = |port: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"]);
        command.args(["--", env!("CARGO_BIN_EXE_nm-bridge"), port, "valeO:x", "--duration", "1s"]);
        command.env("NETMAP_ROOT", root.path());
        ns.exec(&command).output().expect("ip runs")
    };
    let version = as_nobody("null:");
    let said = String::from_utf8_lossy(&version.stderr);
    if !version.status.success() {
        return skipping::skip(NAME, &format!("nobody cannot run the program: {}", said.trim()));
    }
    for (name, line) in [
        ("t1", "mode tap user 65534 name t1"),
        ("t2", "mode tap group 65534 name t2"),
        ("t3", "mode tap user 12345 name t3"),
    ] {
        ns.ip(&format!("tuntap add {line}"));
        ns.ip(&format!("link set {name} up"));
    }
    for own in ["tap:t1", "tap:t2"] {
        let output = as_nobody(own);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{own}: {said}");
    }
    // Another one's, one that is to be made, and one's own that is down.
    ns.ip("link set t1 down");
    for other in ["tap:t3", "tap:t4", "tap:t1"] {
        let output = as_nobody(other);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{other}: {said}");
        assert!(said.contains(other) && said.contains("CAP_NET_ADMIN"), "{said}");
    }
}
