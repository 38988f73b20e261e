//! A peer on the switch writes over the rings of a running nm-pktgen, and leaves rings full: packets may be
//! lost, the tool goes on and ends when it is told to.

mod rig;
#[path = "../../lib/netmap/tests/common/rng.rs"]
mod rng;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use netmap::control::{self, Switch, SwitchOptions};
use netmap::{Options, PortName};
use nix::sys::signal::Signal;
use rig::{Rig, number};
use rng::Rng;

/// Slots of the rings: few, so that indices mean something often.
const SLOTS: u32 = 64;
/// Where a ring's header has what identifies it, and its indices (netmap.h, `struct netmap_ring`).
const NUM_SLOTS: usize = 8;
const BUF_SIZE: usize = 12;
const HEAD: u64 = 20;
const TAIL: u64 = 28;
/// Where its slots begin.
const FIRST_SLOT: u64 = 256;

/// The memory files below the rig's root, and where rings begin in each.
fn rings(rig: &Rig) -> Vec<(File, Vec<u64>)> {
    let dir = rig.path("root").join("mem");
    let paths: Vec<PathBuf> = dir
        .read_dir()
        .expect("there is memory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    let mut found = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).expect("read");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let begins: Vec<u64> = (0..bytes.len().saturating_sub(256))
            .step_by(64)
            .filter(|at| word(at + NUM_SLOTS) == SLOTS && word(at + BUF_SIZE) > 1000)
            .map(|at| at as u64)
            .collect();
        let file = File::options().write(true).open(&path).expect("open");
        found.push((file, begins));
    }
    assert!(found.iter().map(|(_, begins)| begins.len()).sum::<usize>() >= 2, "no rings found");
    found
}

#[test]
fn rings_that_a_peer_scribbles_over_end_nothing() {
    for words in [
        "-f tx",
        "-f tx -l 9000",
        "-f tx -l 60-3000 -F 3",
        "-f txseq -R 100k",
        "-f ping -b 4",
        "-f rx",
        "-f rxseq -n 1G",
        "-f pong",
    ] {
        let rig = Rig::new();
        let peer = if words.contains("rx") || words.contains("pong") { "tx" } else { "rx" };
        let config = "-C 64,64 --wait-mode busy";
        let _other = rig.start(&format!("-i valeA:peer -f {peer} {config}"));
        let victim = rig.start(&format!("-i valeA:victim {words} {config}"));
        let rings = rings(&rig);
        let mut rng = Rng::new(0x5eed);
        for _ in 0..200_000 {
            let (file, begins) = &rings[(rng.next() % rings.len() as u64) as usize];
            let ring = begins[(rng.next() % begins.len() as u64) as usize];
            // Mostly indices within the ring, which checks let pass, at the wrong moment.
            let value = match rng.next() % 8 {
                0 => rng.next() as u32,
                1 => SLOTS,
                _ => (rng.next() % u64::from(SLOTS)) as u32,
            };
            let at = match rng.next() % 4 {
                0 => ring + FIRST_SLOT + rng.next() % (16 * u64::from(SLOTS)) / 4 * 4,
                _ => ring + HEAD + rng.next() % ((TAIL - HEAD) / 4 + 1) * 4,
            };
            file.write_all_at(&value.to_le_bytes(), at).expect("write");
        }
        victim.signal(Signal::SIGINT);
        let (code, end, errors) = victim.finish();
        // A ping whose answers were lost ends with 1.
        assert!(matches!(code, Some(0 | 1)), "{words}: {code:?} {errors}");
        assert!(!errors.contains("panicked"), "{words}: {errors}");
        assert_eq!(end["type"], "end", "{words}: {errors}");
    }
}

#[test]
fn a_ring_that_is_full_at_the_start_is_waited_for() {
    rig::within("a_ring_that_is_full_at_the_start_is_waited_for", full_ring);
}

fn full_ring(rig: Rig) {
    let options = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
    Switch::create("valeA", &options).expect("create");
    let name: PortName = "valeA:x".parse().expect("a name");
    control::create_port(&name, &Options::default()).expect("create");
    let mut rx = rig.start("-i valeA:r -f rx");
    rx.signal(Signal::SIGSTOP);
    // It fills the receiver's ring and its own, with packets that do not die with it, and dies.
    let mut filler = rig.start("-i valeA:x -f tx -l 60 --no-indirect");
    let mut last = u64::MAX;
    filler.totals_until(|totals| {
        let sent = number(totals, "tx_packets");
        std::mem::replace(&mut last, sent) == sent && sent > 0
    });
    filler.signal(Signal::SIGKILL);
    filler.finish();
    let mut tx = rig.start("-i valeA:x -f tx -l 9000");
    rx.signal(Signal::SIGCONT);
    tx.totals_until(|totals| number(totals, "tx_packets") > 10);
    let sent = tx.stop();
    assert_eq!(number(&sent, "drops"), 0);
    rx.totals_until(|totals| number(totals, "rx_bytes") > 9000 * 10);
    rx.stop();
}
