//! Tests that run each in a process and a root directory of its own, and what they send and receive there. The root is an
//! environment variable, and a test that changed it under its neighbours' feet would be worse than none.

#![allow(dead_code, reason = "each test binary uses its part of this file")]

use std::process::Command;
use std::time::{Duration, Instant};

use netmap::{Interest, Port, Wait};
use nm_capture::{Options, Reader};

use crate::support::{TIMEOUT, until};

/// Set in the process that runs the body.
const INSIDE: &str = "NM_BRIDGE_TEST_INSIDE";

/// Runs `body` in a fresh process with a fresh root.
pub fn in_fresh_root(name: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let status = Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env("NETMAP_ROOT", root.path())
        .env(INSIDE, "1")
        .status()
        .expect("this test runs again");
    assert!(status.success(), "{name}: {status}");
}

/// Declares tests that run each in a fresh root: the functions of that name in `bodies`.
macro_rules! tests {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            $crate::fresh::in_fresh_root(stringify!($name), bodies::$name);
        }
    )*};
}

pub(crate) use tests;

/// A frame to everybody, with its number, of `len` bytes.
pub fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xee; len];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Sends one packet, whatever it takes.
pub fn send(port: &mut Port, packet: &[u8]) {
    until("room to send", || {
        port.tx(0).push(packet).then_some(()).or_else(|| {
            port.txsync().expect("txsync");
            None
        })
    });
    port.txsync().expect("txsync");
}

/// The next packet, or nothing within `time`.
pub fn receive_within(port: &mut Port, time: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + time;
    port.rxsync().expect("rxsync");
    while port.rx(0).available() == 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        port.wait(Interest::RX, Wait::Block, Some(left)).expect("wait");
    }
    let mut ring = port.rx(0);
    let mut packet = Vec::new();
    for i in 0..ring.available() {
        let slot = ring.slot(i);
        let begin = packet.len();
        packet.resize(begin + slot.len(), 0);
        slot.frame().copy_to(&mut packet[begin..]);
        if !slot.more_frag() {
            ring.advance(i + 1);
            return Some(packet);
        }
    }
    panic!("a packet without an end");
}

pub fn receive(port: &mut Port) -> Vec<u8> {
    receive_within(port, TIMEOUT).expect("a packet")
}

pub fn port(name: &str) -> Port {
    Port::open(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Lets senders on a switch wait where they would lose packets.
pub fn with_backpressure(switch: &str) {
    let switch = netmap::control::Switch::open(switch).expect("it has a port");
    switch.set_backpressure(true).expect("it is ours");
}

/// The packets of a capture.
pub fn frames(path: &std::path::Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(path, Options::default()).expect("a capture");
    let next = || reader.next().expect("readable").map(|packet| packet.data.to_vec());
    std::iter::from_fn(next).collect()
}
