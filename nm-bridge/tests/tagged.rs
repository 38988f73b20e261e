//! Streams with VLAN tags through a switch, between ends with and without offloads, hashed at both ends.
//!
//! ```text
//!   namespace A                                     tagged frames                             namespace B
//!   stack - t0 = nm-bridge = valeL:a . valeL:t = tagger = valeT:l ... valeT:r = tagger = valeR:t . valeR:b = nm-bridge = t0 - stack
//! ```
//!
//! The kernel need not know 802.1Q for that. What the one end leaves to be done and the other will not do, the switch in the
//! middle completes with the tag in between.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netmap::{Interest, Options, Port, Wait};

#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod stacks;
mod support;
use netns::Namespace;
use support::{Bridge, nm_bridge};

const BYTES: usize = 4 << 20;
const TAG: [u8; 4] = [0x81, 0, 0, 42];
/// Of a virtio-net header: the checksum is partial.
const NEEDS_CSUM: u8 = 1;
const INSIDE: &str = "NM_TAGGED_INSIDE";

fn open(name: &str, header: u8) -> Port {
    let options = Options {
        vnet_hdr_len: Some(header),
        rx_slots: Some(4096),
        tx_slots: Some(4096),
        ..Options::default()
    };
    Port::open_with(&name.parse().expect("a name"), &options).expect(name)
}

/// Adds to a word of a header, little endian.
fn add(packet: &mut [u8], at: usize, by: i16) {
    let word = u16::from_le_bytes([packet[at], packet[at + 1]]).wrapping_add_signed(by);
    packet[at..at + 2].copy_from_slice(&word.to_le_bytes());
}

/// Puts a tag in, or takes it out: false if there is none.
fn retag(packet: &mut Vec<u8>, header: usize, tags: bool) -> bool {
    let at = header + 12;
    let by = if tags {
        packet.splice(at..at, TAG);
        4
    } else {
        if packet.get(at..at + 4) != Some(&TAG) {
            return false;
        }
        packet.drain(at..at + 4);
        -4
    };
    if header > 0 && packet[0] & NEEDS_CSUM != 0 {
        add(packet, 2, by); // hdr_len
        add(packet, 6, by); // csum_start
    }
    true
}

/// Whole packets from one port to the other.
fn pass(from: &mut Port, to: &mut Port, tags: bool) {
    let header = usize::from(from.vnet_hdr_len());
    from.rxsync().expect("synced");
    let (mut rx, mut packet, mut used) = (from.rx(0), Vec::new(), 0);
    for (i, slot) in rx.batch(usize::MAX).enumerate() {
        packet.extend(slot.frame().to_vec());
        if slot.more_frag() {
            continue;
        }
        used = i + 1;
        let mut whole = std::mem::take(&mut packet);
        assert!(retag(&mut whole, header, tags), "a frame came without its tag");
        while !to.tx(0).push(&whole) {
            to.txsync().expect("synced");
        }
    }
    rx.advance(used);
    to.txsync().expect("synced");
}

/// Passes packets until it is told to stop.
fn tagger(mut plain: Port, mut tagged: Port, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        pass(&mut plain, &mut tagged, true);
        pass(&mut tagged, &mut plain, false);
        if plain.rx(0).available() + tagged.rx(0).available() == 0 {
            let time = Some(Duration::from_millis(1));
            plain.wait(Interest::RX, Wait::Block, time).expect("it can wait");
        }
    }
}

fn bridge(port: &str, namespace: &Namespace, offload: bool) -> Bridge {
    let tap = format!("tap:t0@netns:{}", namespace.0);
    let flags: &[&str] = if offload { &[] } else { &["--no-offload"] };
    Bridge::start(nm_bridge(&[&[port, &tap][..], flags].concat()))
}

#[test]
fn tagged_streams_arrive_whole_between_ends_with_and_without_offloads() {
    const NAME: &str = "tagged_streams_arrive_whole_between_ends_with_and_without_offloads";
    if std::env::var_os(INSIDE).is_none() {
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
        return again(NAME, root.path());
    }
    let Some(both) = stacks::namespaces(NAME, ["ga", "gb"]) else { return };
    for offloads in [[true, true], [true, false], [false, true], [false, false]] {
        let header = offloads.map(|yes| if yes { 12 } else { 0 });
        let ends = [["valeL:t", "valeT:l"], ["valeR:t", "valeT:r"]];
        let ports = [0, 1].map(|end| ends[end].map(|name| open(name, header[end])));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for [plain, tagged] in ports {
                scope.spawn(|| tagger(plain, tagged, &stop));
            }
            // A failure in here ends the others, too.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&stop);
            let _left = bridge("valeL:a", &both[0], offloads[0]);
            let _right = bridge("valeR:b", &both[1], offloads[1]);
            stacks::addresses(&both);
            stacks::streams(&both, BYTES);
        });
    }
}

/// The root is an environment variable, so the test runs in a process of its own.
fn again(name: &str, root: &Path) {
    let mut test = Command::new(std::env::current_exe().expect("this test"));
    test.args([name, "--exact", "--nocapture"]).env("NETMAP_ROOT", root).env(INSIDE, "1");
    let status = test.status().expect("this test runs again");
    assert!(status.success(), "{name}: {status}");
}
