//! What a call of the reaper clears away, what it leaves to the next, and what it must not touch.

use super::*;
use crate::abi::RawIf;
use crate::options::{BoundRings, Memory, Options, PerDirection};
use crate::sync::core_atomic::{AtomicU32, Ordering};
use crate::vale::lifecycle::persist;
use crate::vale::state::ids::{ParticipantId, RingNumber};
use crate::vale::state::portfile::Shape;
use crate::vale::state::repair::Numbered;

const EXTRA: u32 = 3000;
const HANDLES: u32 = 1900;

/// A switch with one persistent port `x` in the shared region 1, and another port `y` there.
fn rig() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = Root::at(temp.path());
    for port in ["x", "y"] {
        let options = Options {
            memory: Memory::Id(1),
            tx_slots: Some(64),
            rx_slots: Some(64),
            ..Options::default()
        };
        persist::create_persistent(&root, "valeA", port, &options).unwrap();
    }
    (temp, root)
}

/// Lets a sweep remove the dead handles.
fn sweep_handles(sweep: &mut Sweep<'_>, switch: &Switch, lock: &RootLock) -> bool {
    let handles = switch.look_at_handles();
    sweep.handles(lock, handles.dead, switch.needed_ports(&handles.alive).kept)
}

fn dead(switch: &Switch) -> usize {
    switch.look_at_handles().dead.len()
}

fn open(root: &Root) -> (Switch, Region) {
    let switch = Switch::open_existing(root, "valeA").unwrap().unwrap();
    let region = Region::open(root.memory().unwrap(), "1").unwrap();
    (switch, region)
}

/// A netmap_if whose chain of extra buffers begins at `head`.
fn netmap_if(region: &Region, head: Cell) -> Cell {
    let cell = region.take_run(1).unwrap();
    let nif: &RawIf = region.at(cell, 0).unwrap();
    nif.ni_bufs_head.store(head.0, Ordering::Relaxed);
    cell
}

fn chain_up(region: &Region, cells: &[Cell]) {
    for pair in cells.windows(2) {
        region.at::<AtomicU32>(pair[0], 0).unwrap().store(pair[1].0, Ordering::Relaxed);
    }
    let last = *cells.last().unwrap();
    region.at::<AtomicU32>(last, 0).unwrap().store(0, Ordering::Relaxed);
}

#[test]
fn forged_dead_handles_with_one_long_chain_cost_one_walk() {
    let (_temp, root) = rig();
    let (switch, region) = open(&root);
    let lock = root.lock().unwrap();
    let extra = region.take(EXTRA).unwrap();
    chain_up(&region, &extra);
    for i in 0..HANDLES {
        let if_cell = netmap_if(&region, extra[i as usize % 7]);
        switch.handles().forge_dead(i, PortIndex(0), if_cell);
    }
    let mut sweep = Sweep::new(&switch);
    assert!(sweep_handles(&mut sweep, &switch, &lock));
    let walked = LINKS - sweep.links;
    assert!(walked <= EXTRA, "{walked} links of {EXTRA} cells were followed");
    assert!((dead(&switch) == 0) && sweep.unfinished.is_empty());
    // All of it is free again, and was given back once.
    let again = region.take(EXTRA + HANDLES).unwrap();
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), again.len());
}

#[test]
fn forged_dead_handles_with_chains_of_their_own_cost_one_look_at_the_rings() {
    let (_temp, root) = rig();
    let (switch, region) = open(&root);
    let lock = root.lock().unwrap();
    for (i, &cell) in region.take(500).unwrap().iter().enumerate() {
        chain_up(&region, &[cell]);
        switch.handles().forge_dead(i as u32, PortIndex(0), netmap_if(&region, cell));
    }
    let mut sweep = Sweep::new(&switch);
    assert!(sweep_handles(&mut sweep, &switch, &lock));
    let looked_at = SLOTS - sweep.slots;
    assert_eq!(looked_at, 4 * 64, "two ports with two rings of 64 slots");
    assert!((dead(&switch) == 0));
}

#[test]
fn ports_beyond_the_bound_are_removed_by_later_calls() {
    let (_temp, root) = rig();
    let (switch, _region) = open(&root);
    let lock = root.lock().unwrap();
    let port = switch.find("y").unwrap().index;
    switch.set_port_persistent(&lock, port, false);
    let mut sweep = Sweep::new(&switch);
    sweep.slots = 100;
    assert!(!sweep.remove_port(&lock, port).unwrap());
    assert_eq!(switch.name_at(port).as_deref(), Some("y"));
    assert!(reap(&switch, &lock).unwrap().is_empty());
    assert_eq!(switch.name_at(port), None);
}

/// Lets a dead handle on `x` have a list of one buffer.
fn dead_list(switch: &Switch, region: &Region, buffer: Cell) {
    let x = switch.find("x").unwrap().index;
    switch.handles().forge_dead(0, x, netmap_if(region, buffer));
}

#[test]
fn buffers_of_ports_that_are_not_cleared_away_yet_or_damaged_are_in_use() {
    for damaged in [false, true] {
        let (_temp, root) = rig();
        let (switch, region) = open(&root);
        let lock = root.lock().unwrap();
        let file = PortFile::open(switch.dir(), &port_file("y")).unwrap();
        let buffer = file.shape.rings.buffers(&region).next().unwrap();
        region.at::<AtomicU32>(buffer, 0).unwrap().store(0, Ordering::Relaxed);
        dead_list(&switch, &region, buffer);
        if damaged {
            let path = switch.dir().join(&port_file("y"));
            std::fs::write(path, vec![0; 36864]).unwrap();
        } else {
            switch.unlist_port(&lock, switch.find("y").unwrap().index);
        }
        let mut sweep = Sweep::new(&switch);
        assert!(sweep_handles(&mut sweep, &switch, &lock));
        assert!(region.used(buffer), "damaged: {damaged}");
    }
}

#[test]
fn reaping_goes_on_where_its_bound_stopped_it() {
    let (_temp, root) = rig();
    let (switch, region) = open(&root);
    let lock = root.lock().unwrap();
    let extra = region.take(300).unwrap();
    let port = switch.find("y").unwrap().index;
    switch.set_port_persistent(&lock, port, false);
    for (i, part) in extra.chunks(100).enumerate() {
        chain_up(&region, part);
        switch.handles().forge_dead(i as u32, port, netmap_if(&region, part[0]));
    }
    for left in [2, 1, 0] {
        let mut sweep = Sweep::new(&switch);
        sweep.links = 150;
        sweep_handles(&mut sweep, &switch, &lock);
        assert_eq!(dead(&switch), left);
        // A port is not removed while its handles have memory to give back.
        assert_eq!(sweep.unfinished.contains(&port), left > 0);
    }
    assert!(reap(&switch, &lock).unwrap().is_empty());
    assert!(switch.find("y").is_none() && switch.find("x").is_some());
    let again = region.take(300).unwrap();
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), 300);
}

#[test]
fn sender_takes_a_dead_port_off_the_list_and_leaves_the_rest_to_others() {
    let (_temp, root) = rig();
    let (switch, _region) = open(&root);
    let port = {
        let lock = root.lock().unwrap();
        let port = switch.find("y").unwrap().index;
        switch.set_port_persistent(&lock, port, false);
        switch.handles().forge_dead(0, port, Cell(u32::MAX));
        port
    };
    unlist_if_dead(&switch, port).unwrap();
    assert!(switch.find("y").is_none());
    let lock = root.lock().unwrap();
    assert_eq!(dead(&switch), 1, "that is work for who opens or lists");
    assert!(reap(&switch, &lock).unwrap().is_empty());
    assert!((dead(&switch) == 0) && switch.name_at(port).is_none());
}

#[test]
fn port_whose_handle_dies_while_others_are_looked_at_waits_for_the_next_look() {
    let (_temp, root) = rig();
    let one = PerDirection { tx: 1, rx: 1 };
    let bound = |_: &Shape| Ok(BoundRings::all(one));
    let crate::vale::lifecycle::open::Handle { bell, at } =
        crate::vale::lifecycle::open::open(&root, "valeA", "z", &Options::default(), bound)
            .unwrap();
    let (switch, lock) = (at.switch.clone(), root.lock().unwrap());
    let handles = switch.look_at_handles();
    drop(bell); // it is dead now, and its entry is there
    let kept = switch.needed_ports(&handles.alive).kept;
    Sweep::new(&switch).handles(&lock, handles.dead, kept);
    let index = switch.find("z").unwrap().index;
    assert!(!switch.ports_but(&lock, kept).contains(&index), "an entry names that index");
    assert!(reap(&switch, &lock).unwrap().is_empty());
    assert!(switch.find("z").is_none() && dead(&switch) == 0);
}

/// An identity that no living handle has.
const DEAD: ParticipantId = ParticipantId::new(6, Generation(1 << 24));

#[test]
fn buffer_that_a_dead_sender_left_in_no_slot_goes_back_with_its_port() {
    for stores in 0..=3 {
        let (_temp, root) = rig();
        let (switch, region) = open(&root);
        let lock = root.lock().unwrap();
        let file = PortFile::open(switch.dir(), &port_file("y")).unwrap();
        let buffers: HashSet<Cell> = file.shape.rings.buffers(&region).collect();
        // A sender to `y` is killed while it exchanges two buffers.
        let (kring, ring) = (
            file.kring(RingNumber::FIRST),
            file.shape.rings.rx_ring(&region, RingNumber::FIRST).unwrap(),
        );
        assert_eq!(kring.hold(DEAD, |_| OnHeld::GiveUp), Held::Fresh);
        let word = |i: u32| Numbered::new(i, &ring.slots[i as usize].word);
        kring.exchange.swap_and_die(word(3), word(60), stores);
        switch.set_port_persistent(&lock, switch.find("y").unwrap().index, false);
        assert!(reap(&switch, &lock).unwrap().is_empty());
        // All its cells are free: they are given out again before any that never were.
        let (end, mut again) = (region.end_of_given(), HashSet::new());
        while region.end_of_given() == end {
            again.extend(region.take(1).unwrap());
        }
        assert!(again.is_superset(&buffers), "a buffer was lost after {stores} stores");
    }
}

#[test]
fn regions_of_no_port_are_removed_and_others_stay() {
    let (_temp, root) = rig();
    let memory = root.memory().unwrap();
    drop(Region::create(memory, "p0123", 99).unwrap());
    remove_orphans(&root, &root.lock().unwrap()).unwrap();
    assert_eq!(memory.names(9).unwrap(), ["1"]);
}
