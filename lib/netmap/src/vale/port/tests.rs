//! Handles on ports of a switch below a root of its own.

mod monitors;

use super::*;
use crate::options::{BoundRings, Options};
use crate::ring::{RxRing, TxRing};
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::{open, reap};
use crate::vale::state::handleset::Taken;
use crate::vale::state::ids::{Generation, HandleIndex, PortIndex, RingNumber};
use crate::vale::state::owner;
use crate::vale::state::portfile::Shape;

/// Opens a port below a root of its own.
fn open(root: &Root, name: &str) -> ValePort {
    let bound = |_: &Shape| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
    let at = open::open(root, "valeA", name, &Options::default(), bound).expect("opened");
    ValePort::new(at)
}

fn root() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    (temp, root)
}

fn queue(port: &ValePort, numbers: std::ops::Range<u8>) {
    for number in numbers {
        let frame: [u8; 60] = std::array::from_fn(|i| if i < 6 { 0xff } else { number });
        assert!(TxRing::new(port.tx(0)).push(&frame));
    }
}

fn received(port: &mut ValePort) -> Vec<u8> {
    port.rxsync().unwrap();
    let mut ring = RxRing::new(port.rx(0));
    let n = ring.available();
    let numbers = ring.batch(n).map(|slot| slot.frame().u8_at(59)).collect();
    ring.advance(n);
    numbers
}

/// An identity that nobody alive has.
fn dead() -> ParticipantId {
    ParticipantId::new(6, Generation(1 << 24))
}

#[test]
fn ring_of_a_handle_that_died_while_it_published_goes_on_behind_its_batch() {
    let (_temp, root) = root();
    let (mut heir, mut receiver) = (open(&root, "t"), open(&root, "r"));
    queue(&heir, 0..10);
    let state = heir.at.port.file.tx_state(RingNumber::FIRST);
    assert!(state.begin(dead(), |_| false).is_some());
    state.claim(4); // and no more was heard of it
    heir.txsync().unwrap();
    assert_eq!(received(&mut receiver), [4, 5, 6, 7, 8, 9]);
    assert_eq!(heir.counters().tx_drop_dead, 4);
    queue(&heir, 10..12);
    heir.txsync().unwrap();
    assert_eq!(received(&mut receiver), [10, 11]);
    assert_eq!(heir.counters().tx_drop_dead, 4);
}

#[test]
fn handle_that_could_not_be_closed_is_dead_all_the_same() {
    let (temp, root) = root();
    let (a, b) = (open(&root, "a"), open(&root, "b"));
    let lock = temp.path().join(crate::shm::lock::NAME);
    std::fs::rename(&lock, temp.path().join("away")).unwrap();
    std::fs::create_dir(&lock).unwrap();
    drop(a); // the root's lock cannot be had
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename(temp.path().join("away"), &lock).unwrap();
    assert!(b.at.switch.find("a").is_some());
    reap::reap(&b.at.switch, &root.lock().unwrap()).unwrap();
    assert!(b.at.switch.find("a").is_none(), "its sibling kept it alive");
    assert!(b.at.switch.find("b").is_some());
}

#[test]
fn what_was_taken_back_is_not_sent_by_the_heir_of_the_dead() {
    let (_temp, root) = root();
    let (mut heir, mut receiver) = (open(&root, "t"), open(&root, "r"));
    queue(&heir, 0..10);
    let state = heir.at.port.file.tx_state(RingNumber::FIRST);
    assert!(state.begin(dead(), |_| false).is_some());
    state.claim(10);
    assert_eq!(TxRing::new(heir.tx(0)).withdraw(), 10);
    heir.txsync().unwrap();
    queue(&heir, 20..23);
    heir.txsync().unwrap();
    queue(&heir, 23..25);
    heir.txsync().unwrap();
    let numbers = received(&mut receiver);
    // Of the first three as many are lost as the dead one may have sent of their slots.
    assert!(numbers == [23, 24] || numbers == [20, 21, 22, 23, 24], "{numbers:?}");
}

#[test]
fn ring_that_another_handle_syncs_is_skipped() {
    let (_temp, root) = root();
    let (mut one, other, mut receiver) = (open(&root, "t"), open(&root, "t"), open(&root, "r"));
    let me = one.at.switch.me().unwrap(); // threads of one process exclude each other, too
    queue(&one, 0..3);
    assert!(other.at.port.file.tx_state(RingNumber::FIRST).begin(me, |_| false).is_some());
    one.txsync().unwrap();
    assert_eq!(received(&mut receiver), []);
    assert_eq!(other.at.port.file.tx_state(RingNumber::FIRST).end(me), None);
    one.txsync().unwrap();
    assert_eq!(received(&mut receiver), [0, 1, 2]);
    // The same for the reader's side.
    queue(&one, 3..4);
    one.txsync().unwrap();
    let kring = receiver.at.port.file.kring(RingNumber::FIRST);
    assert_eq!(kring.reader.take(me, |_| false), owner::Taken::Free);
    assert_eq!(received(&mut receiver), []);
    receiver.at.port.file.kring(RingNumber::FIRST).reader.give(me);
    assert_eq!(received(&mut receiver), [3]);
}

#[test]
fn handle_that_sleeps_while_another_syncs_its_ring_is_rung_at_the_end() {
    let (_temp, root) = root();
    let (mut one, other) = (open(&root, "t"), open(&root, "t"));
    queue(&one, 0..3);
    let state = other.at.port.file.tx_state(RingNumber::FIRST);
    let me = one.at.switch.me().unwrap();
    assert!(state.begin(me, |_| false).is_some());
    one.arm(Interest::TX);
    one.txsync().unwrap(); // skipped
    assert!(one.is_armed(), "the other one will ring");
    let told: Vec<HandleIndex> = state.end(me).into_iter().flat_map(Taken::handles).collect();
    assert_eq!(told, [one.at.index()]);
    // Too late to be told: look again instead.
    assert!(!one.is_armed());
    one.txsync().unwrap();
    assert!(one.is_armed());
}

#[test]
fn reader_that_died_holds_up_nobody() {
    let (_temp, root) = root();
    let (mut sender, mut receiver) = (open(&root, "t"), open(&root, "r"));
    queue(&sender, 0..3);
    sender.txsync().unwrap();
    assert_eq!(
        receiver.at.port.file.kring(RingNumber::FIRST).reader.take(dead(), |_| false),
        owner::Taken::Free
    );
    assert_eq!(received(&mut receiver), [0, 1, 2]);
}

#[test]
fn stall_that_a_peer_made_up_is_none() {
    let (_temp, root) = root();
    let mut port = open(&root, "t");
    for (port_of, ring) in [(255, 0), (0, 255), (255, 255), (3, 16)] {
        let stall = Stall { port: PortIndex(port_of), ring: RingNumber(ring) };
        port.at.port.file.tx_state(RingNumber::FIRST).set_stall(Some(stall));
        port.arm(Interest::TX);
        let _ = (port.is_armed(), port.held_up_by());
        port.disarm(true);
    }
}
