//! Streams between two network namespaces through a switch, with and without offloads, hashed at both ends; and what is left
//! when interfaces, namespaces and bridges come to their end under traffic.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod support;
use netns::Namespace;
use skipping::skip;
use support::{Bridge, nm_bridge, until};

const BYTES: usize = 48 << 20;
const FLAGS: [&[&str]; 2] = [&[], &["--no-offload"]];

fn namespaces(test: &str, roles: [&str; 2]) -> Option<[Namespace; 2]> {
    let [a, b] = roles.map(Namespace::new);
    let both = a.and_then(|a| b.map(|b| [a, b]));
    both.map_err(|why| skip(test, &why)).ok()
}

fn bridge(root: &Path, port: &str, namespace: &Namespace, flags: &[&str]) -> Bridge {
    let tap = format!("tap:t0@netns:{}", namespace.0);
    let mut command = nm_bridge(&[&[port, &tap][..], flags].concat());
    command.env("NETMAP_ROOT", root);
    Bridge::start(command)
}

fn addresses(namespaces: &[Namespace; 2]) {
    for (namespace, host) in namespaces.iter().zip(1..) {
        namespace.ip(&format!("addr add 10.78.0.{host}/24 dev t0"));
        namespace.ip(&format!("addr add fd78::{host}/64 dev t0 nodad"));
    }
}

/// FNV-1a, by words.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Sends `BYTES` from one namespace to the other; both ends must have seen the same.
fn stream(from: &Namespace, to: &Namespace, address: &str) {
    let listener = to.inside(|| TcpListener::bind((address, 0)).expect("bound"));
    let port = listener.local_addr().expect("it has one").port();
    let data: Vec<u8> = (0..BYTES as u64 / 8)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accepted");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("read");
            got
        });
        let mut stream =
            until("a connection", || from.inside(|| TcpStream::connect((address, port)).ok()));
        stream.write_all(&data).expect("written");
        drop(stream);
        receiver.join().expect("no panic")
    });
    assert_eq!(received.len(), data.len(), "to {address}");
    assert_eq!(hash(7, &received), hash(7, &data), "to {address}");
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
    for flags in FLAGS {
        let [a, b] = &both;
        let left = bridge(root.path(), "valeO:a", a, flags);
        let right = bridge(root.path(), "valeO:b", b, flags);
        addresses(&both);
        for address in ["10.78.0.2", "fd78::2"] {
            stream(a, b, address);
        }
        for address in ["10.78.0.1", "fd78::1"] {
            stream(b, a, address);
        }
        // By the size of frames: with offloads, many segments are one.
        let (bytes, frames) = (kernel_counter(a, "tx_bytes"), kernel_counter(a, "tx_packets"));
        let mean = bytes / frames;
        if flags.is_empty() {
            assert!(mean > 2000, "{mean} bytes a frame");
        } else {
            assert!(mean <= 1514, "{mean} bytes a frame");
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
