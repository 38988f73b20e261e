//! Opening: who keeps whom out, and what an opening that fails leaves.

use super::*;
use crate::options::PerDirection;
use crate::vale::lifecycle::persist;

fn rig() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    (temp, root)
}

fn options(exclusive: bool) -> Options {
    let (tx_slots, rx_slots) = (Some(64), Some(64));
    Options {
        tx_slots,
        rx_slots,
        tx_rings: Some(2),
        rx_rings: Some(2),
        exclusive,
        ..Options::default()
    }
}

/// Opens `valeA:x` with ring pair `pair`.
fn open_pair(root: &Root, pair: u8, exclusive: bool) -> Result<Handle> {
    let pair = RingNumber(pair);
    let bound = |_: &Shape| Ok(BoundRings { tx: vec![pair], rx: vec![pair] });
    open(root, "valeA", "x", &options(exclusive), bound)
}

#[test]
fn exclusive_handle_shares_no_ring_and_other_rings_are_free() {
    let (_temp, root) = rig();
    let first = open_pair(&root, 0, true).unwrap();
    for exclusive in [false, true] {
        let error = open_pair(&root, 0, exclusive).unwrap_err();
        let by = |error| matches!(error, Error::Busy { by: InUse::Exclusively { .. }, .. });
        assert!(exclusive || by(error));
    }
    let second = open_pair(&root, 1, false).unwrap();
    let error = open_pair(&root, 1, true).unwrap_err();
    assert!(matches!(error, Error::Busy { by: InUse::Open { .. }, .. }), "{error}");
    let third = open_pair(&root, 1, false).unwrap();
    assert_eq!(third.at.bound.count(), PerDirection { tx: 1, rx: 1 });
    drop(first);
    open_pair(&root, 0, true).unwrap();
    drop((second, third));
}

#[test]
fn opening_that_fails_leaves_no_port_no_switch_and_no_memory() {
    let (temp, root) = rig();
    let refused = |_: &Shape| Err(Error::NotFound { name: "ring".into() });
    open(&root, "valeA", "x", &options(false), refused).unwrap_err();
    assert!(!temp.path().join("valeA").exists());
    assert_eq!(temp.path().join("mem").read_dir().unwrap().count(), 0);
}

#[test]
fn opening_that_fails_leaves_a_port_that_was_there_as_it_was() {
    let (_temp, root) = rig();
    persist::create_persistent(&root, "valeA", "x", &options(false)).unwrap();
    let Handle { at, bell: _bell } = open_pair(&root, 0, false).unwrap();
    let free = at.port.region.free();
    open_pair(&root, 0, true).unwrap_err();
    let refused = |_: &Shape| Err(Error::NotFound { name: "ring".into() });
    open(&root, "valeA", "x", &options(false), refused).unwrap_err();
    assert_eq!(at.port.region.free(), free);
    assert_eq!(at.switch.look_at_handles().alive.len(), 1);
    assert!(at.switch.listed(at.port.file.shape.index).unwrap().persistent);
}

#[test]
fn descriptor_of_a_bell_is_its_handle_and_no_other_file_is() {
    let (temp, root) = rig();
    let Handle { bell, at } = open_pair(&root, 1, false).unwrap();
    let passed = bell.into_fd();
    let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
    let Handle { bell: again, at: heir } = adopt(copy(&passed)).unwrap();
    assert_eq!((heir.id, &heir.bound, heir.if_cell), (at.id, &at.bound, at.if_cell));
    // It has the bell's name, and is not the one whose owner lives.
    let path = temp.path().join("valeA").join(at.bell());
    let other = std::fs::File::options().read(true).write(true).open(path).unwrap();
    assert!(adopt(other.into()).is_err());
    for file in ["valeA/switch", "valeA/port.x", "."] {
        let file = std::fs::File::open(temp.path().join(file)).unwrap();
        assert!(matches!(adopt(file.into()), Err(Error::Unavailable { .. })));
    }
    // A peer says that it binds a ring that the port does not have.
    let lock = root.lock().unwrap();
    at.switch.handles().bind(
        &lock,
        at.index(),
        &BoundRings { tx: vec![RingNumber(9)], rx: vec![] },
    );
    drop(lock);
    assert!(matches!(adopt(copy(&passed)), Err(Error::Damaged { .. })));
    drop((again, heir));
}
