//! Ports by the calls that every kind has: who shares memory with whom, and what a kind refuses.

use super::*;
use crate::options::{BoundRings, Memory, PerDirection};
use crate::vale::lifecycle::open;
use crate::vale::lifecycle::root::Root;
use crate::vale::port::ValePort;

fn vale(root: &Root, name: &str, memory: Memory) -> Port {
    let options = Options { tx_slots: Some(64), rx_slots: Some(64), memory, ..Options::default() };
    let bound = |_: &_| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
    let at = open::open(root, "valeA", name, &options, bound).unwrap();
    Port::of(format!("valeA:{name}").parse().unwrap(), Box::new(ValePort::new(at)))
}

#[test]
fn buffers_can_be_exchanged_within_one_region_and_nowhere_else() {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    let x = vale(&root, "x", Memory::Private);
    let same = vale(&root, "x", Memory::Private);
    let with = vale(&root, "w", Memory::With(x.memory().unwrap()));
    let other = vale(&root, "y", Memory::Private);
    assert!(x.same_memory(&same) && x.same_memory(&with) && with.same_memory(&same));
    assert!(!x.same_memory(&other) && !other.same_memory(&with));
    let null = || Port::open("null:").unwrap();
    assert!(!null().same_memory(&null()) && !x.same_memory(&null()));
    assert_eq!((x.layout().is_some(), null().layout().is_some()), (true, false));
}

#[test]
fn what_a_kind_cannot_do_is_refused_where_it_is_asked_for() {
    let mut null = Port::open("null:").unwrap();
    assert!(!null.can(Capabilities::INDIRECT));
    let refused = |result: Result<()>| matches!(result, Err(Error::Unsupported { .. }));
    assert!(refused(null.allow_indirect_static(b"somewhere")));
    assert!(refused(null.allow_indirect_anywhere()));
    assert!(refused(null.set_vnet_hdr_len(12)));
    assert_eq!(null.vnet_hdr_len(), 0);
}

#[test]
fn what_was_queued_is_pending_until_it_is_sent_or_withdrawn() {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    let (mut x, mut y) = (vale(&root, "x", Memory::Private), vale(&root, "y", Memory::Private));
    let frame = [0xff; 60];
    assert!(x.tx(0).push(&frame) && x.tx(0).push(&frame));
    assert_eq!((x.pending(), x.tx(0).space()), (2, 61));
    assert_eq!(x.tx(0).withdraw(), 2);
    assert!(x.tx(0).push(&frame));
    x.txsync().unwrap();
    assert_eq!((x.pending(), x.tx(0).space()), (0, 63));
    y.rxsync().unwrap();
    assert_eq!((y.rx(0).available(), y.counters().rx_packets, x.counters().tx_packets), (1, 1, 1));
}
