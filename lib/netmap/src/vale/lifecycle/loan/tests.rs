//! Loans: what the dead leave of them, and what peers make up.

use super::*;
use crate::options::{Options, PerDirection};
use crate::shm::mem::Cell;
use crate::vale::lifecycle::open::{Handle, open};
use crate::vale::lifecycle::persist;
use crate::vale::lifecycle::reap::reap;
use crate::vale::lifecycle::root::Root;
use crate::vale::state::ids::HandleIndex;

/// A switch with persistent ports `x` and `y`, and a handle on `x`.
fn rig() -> (tempfile::TempDir, Root, Handle) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    let options = Options { tx_slots: Some(64), rx_slots: Some(64), ..Options::default() };
    for port in ["x", "y"] {
        persist::create_persistent(&root, "valeA", port, &options).unwrap();
    }
    let all = |_: &_| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
    let handle = open(&root, "valeA", "x", &options, all).unwrap();
    (temp, root, handle)
}

fn borrow(handle: &Handle, len: u8) -> Result<()> {
    let at = &handle.at;
    lend(&at.switch, &at.port, at.id, &at.bound, len)
}

fn loan_at(switch: &Switch, index: HandleIndex) -> Option<Loan> {
    switch.handles().get(index).unwrap().loan
}

/// An entry at 9 that somebody left who died with that loan on `port`.
fn dead(switch: &Switch, root: &Root, port: PortIndex, loan: Loan) {
    let lock = root.lock().unwrap();
    switch.handles().forge_dead(9, port, Cell(0));
    switch.handles().lend(&lock, HandleIndex(9), Some(loan));
}

#[test]
fn loan_of_a_dead_handle_keeps_nobody_out_and_ends_before_the_next_begins() {
    for len in [0, 10, 12] {
        let (_temp, root, handle) = rig();
        let (switch, x) = (&handle.at.switch, handle.at.port.file.shape.index);
        dead(switch, &root, x, Loan { before: 0, lent: 12 });
        switch.set_header(&root.lock().unwrap(), x, 12);
        borrow(&handle, len).unwrap();
        assert_eq!(switch.header_of(x), len);
        assert_eq!(loan_at(switch, handle.at.id.index), Some(Loan { before: 0, lent: len }));
        // Whoever dies in the middle leaves one change to be taken back, not two.
        let left = loan_at(switch, HandleIndex(9));
        assert_eq!(left, (len == 12).then_some(Loan { before: 0, lent: 12 }));
        let switch = switch.clone();
        drop(handle);
        reap(&switch, &root.lock().unwrap()).unwrap();
        assert_eq!(switch.header_of(x), 0);
    }
}

#[test]
fn loans_of_other_ports_and_handles_are_not_touched() {
    let (_temp, root, handle) = rig();
    let (switch, x) = (&handle.at.switch, handle.at.port.file.shape.index);
    let y = switch.find("y").unwrap().index;
    let of_y = Loan { before: 0, lent: 10 };
    dead(switch, &root, y, of_y);
    borrow(&handle, 12).unwrap();
    let lock = root.lock().unwrap();
    choose(switch, &lock, x, None, 12).unwrap();
    assert_eq!(loan_at(switch, handle.at.id.index), Some(Loan { before: 12, lent: 12 }));
    choose(switch, &lock, x, Some(handle.at.id), 10).unwrap();
    assert_eq!(loan_at(switch, handle.at.id.index), None, "it has chosen");
    assert_eq!(loan_at(switch, HandleIndex(9)), Some(of_y));
}

#[test]
fn handle_that_is_no_more_borrows_nothing() {
    let (_temp, root, handle) = rig();
    let (switch, x) = (&handle.at.switch, handle.at.port.file.shape.index);
    switch.handles().free(&root.lock().unwrap(), handle.at.id.index);
    assert!(matches!(borrow(&handle, 12), Err(Error::NotFound { .. })));
    assert_eq!(switch.header_of(x), 0);
}

#[test]
fn loans_that_nobody_made_are_cleared_away_and_change_nothing() {
    let (_temp, root, handle) = rig();
    let (switch, x) = (&handle.at.switch, handle.at.port.file.shape.index);
    persist::set_vnet_hdr_len(&root, "valeA", "x", None, 10).unwrap();
    for (port, before) in [(x, 77), (PortIndex(MAX_PORTS as u8), 12), (PortIndex(255), 12)] {
        dead(switch, &root, port, Loan { before, lent: 0 });
        reap(switch, &root.lock().unwrap()).unwrap();
        assert_eq!((switch.handles().get(HandleIndex(9)), switch.header_of(x)), (None, 10));
    }
}
