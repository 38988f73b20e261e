//! A switch's file: its settings, and how ports come and go in its table.

use std::os::unix::fs::FileExt;

use super::*;

fn rig() -> (tempfile::TempDir, Dir, RootLock) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = Dir::open(temp.path(), false).unwrap();
    let lock = RootLock::acquire(&dir).unwrap();
    (temp, dir, lock)
}

fn scribble(temp: &tempfile::TempDir, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(temp.path().join(FILE)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Makes a port, as far as its entry goes.
fn add(switch: &SwitchFile, lock: &RootLock, name: &str) -> PortIndex {
    let (index, _) = switch.reserve_port(lock, &NewName::Port(name), "1").unwrap();
    switch.list_port(lock, index);
    switch.activate_port(lock, index);
    index
}

#[test]
fn bad_file_is_an_error_while_somebody_is_on_it_and_else_a_leftover() {
    for (at, bytes) in [(0, &[0][..]), (8, &[99])] {
        let (temp, dir, _lock) = rig();
        assert!(SwitchFile::open(&dir, "valeA").unwrap().is_none(), "there is no file yet");
        let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
        switch.me().unwrap();
        assert!(SwitchFile::open(&dir, "valeA").unwrap().is_some() && switch.is_whole());
        scribble(&temp, at, bytes);
        assert!(!switch.is_whole());
        assert!(matches!(SwitchFile::open(&dir, "valeA"), Err(Error::Damaged { .. })));
        drop(switch);
        assert!(SwitchFile::open(&dir, "valeA").unwrap().is_none());
    }
}

#[test]
fn port_is_listed_when_it_is_complete_and_its_place_is_free_when_its_files_are_gone() {
    let (_temp, dir, lock) = rig();
    let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
    let (index, generation) = switch.reserve_port(&lock, &NewName::Port("x"), "r").unwrap();
    assert_eq!((switch.find("x"), switch.port_generation(index)), (None, Generation::NONE));
    let id = PortId { index, generation };
    assert!(switch.is_there(id) && !switch.active().contains(index));
    switch.list_port(&lock, index);
    switch.activate_port(&lock, index);
    let listed = switch.find("x").unwrap();
    assert_eq!((listed.index, listed.generation, &*listed.region), (index, generation, "r"));
    assert!(switch.active().contains(index) && switch.epoch() >= generation);
    // What a sender remembers of it ends with the list; the next one waits for the files.
    switch.unlist_port(&lock, index);
    assert_eq!(switch.port_generation(index), Generation::NONE);
    assert!(!switch.active().contains(index) && switch.is_there(id));
    assert_eq!(switch.ports_but(&lock, PortSet::ALL), [index]);
    let other = add(&switch, &lock, "y");
    assert_ne!(other, index);
    switch.free_port(&lock, index);
    assert!(!switch.is_there(id));
    let (again, later) = switch.reserve_port(&lock, &NewName::Port("x"), "r").unwrap();
    assert_eq!(again, index);
    assert!(later > generation, "a life has a number of its own");
}

#[test]
fn table_that_is_full_says_so() {
    let (_temp, dir, lock) = rig();
    let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
    let all: Vec<PortIndex> =
        (0..MAX_PORTS).map(|i| add(&switch, &lock, &format!("p{i}"))).collect();
    assert_eq!((switch.ports_used(), all), (MAX_PORTS, PortIndex::all().collect::<Vec<_>>()));
    let error = switch.reserve_port(&lock, &NewName::Port("x"), "1").unwrap_err();
    assert!(matches!(error, Error::Limit { limit, .. } if limit == MAX_PORTS as u64));
}

#[test]
fn what_a_port_is_and_has_does_not_change_with_the_rest() {
    let (_temp, dir, lock) = rig();
    let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
    let [x, y] = ["x", "y"].map(|name| add(&switch, &lock, name));
    switch.set_port_persistent(&lock, x, true);
    switch.set_mirror(&lock, x, Some(y));
    switch.set_header(&lock, x, 12);
    switch.set_offset_bits(&lock, x, 10);
    let settings = Settings { persistent: true, backpressure: true, ageing_ms: 5 };
    switch.set(&lock, settings);
    let has = || {
        let persistent = switch.listed(x).unwrap().persistent;
        (persistent, switch.mirror_of(x), switch.header_of(x), switch.offset_mask_of(x))
    };
    assert_eq!(has(), (true, Some(y), 12, (1 << 10) - 1));
    let Modes { backpressure, headers, offsets, copies, exchanges } = switch.modes();
    assert!(backpressure && headers && offsets && copies && !exchanges);
    assert_eq!(switch.settings(), settings);
    // One after the other goes, and the rest stays.
    switch.set_header(&lock, x, 0);
    assert_eq!(has(), (true, Some(y), 0, (1 << 10) - 1));
    switch.unlist_port(&lock, y);
    assert_eq!(has(), (true, None, 0, (1 << 10) - 1));
    switch.set_port_persistent(&lock, x, false);
    switch.set_offset_bits(&lock, x, 0);
    assert_eq!(has(), (false, None, 0, 0));
    let Modes { headers, offsets, copies, .. } = switch.modes();
    assert!(!(headers || offsets || copies), "senders have nothing to look for");
}

#[test]
fn monitor_has_the_headers_of_what_it_saw_until_it_goes() {
    let (_temp, dir, lock) = rig();
    let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
    let x = add(&switch, &lock, "x");
    let watch = Watch { of: Some(x), ring: None, tx: true, rx: true, zero_copy: false };
    let (monitor, _) = switch.reserve_port(&lock, &NewName::MonitorOf("x", watch), "1").unwrap();
    switch.list_port(&lock, monitor);
    switch.activate_port(&lock, monitor);
    for len in [12, 0, 10] {
        switch.set_header(&lock, x, len);
        assert_eq!(switch.header_seen(monitor), len);
    }
    switch.unlist_port(&lock, x);
    assert_eq!(switch.header_seen(monitor), 10);
    assert!(!switch.modes().headers, "nobody sends or gets any");
    switch.free_port(&lock, x);
    assert_eq!(add(&switch, &lock, "y"), x, "the place is another's");
    switch.set_header(&lock, x, 12);
    assert_eq!(switch.header_seen(monitor), 10);
    switch.unlist_port(&lock, monitor);
    assert_eq!(switch.header_of(monitor), 0);
}

#[test]
fn words_that_a_peer_scribbled_over_are_taken_for_what_they_can_be() {
    let (temp, dir, lock) = rig();
    let switch = SwitchFile::create(&dir, "valeA", 1, 2).unwrap();
    let x = add(&switch, &lock, "x");
    scribble(&temp, 16, &[0xff; 8]);
    assert_eq!(switch.ageing_ms(), 1 << 40, "times can be multiplied");
    let entry = (PORTS_OFF + x.at() * size_of::<PortEntry>()) as u64;
    scribble(&temp, entry + 8, &[0xff; 8]);
    assert_eq!((switch.header_of(x), switch.offset_mask_of(x)), (0, u64::MAX));
    scribble(&temp, entry + 16, b"a/b\0");
    assert_eq!((switch.listed(x), switch.name_at(x)), (None, None));
    let beyond = PortIndex(MAX_PORTS as u8);
    assert_eq!((switch.listed(beyond), switch.header_of(beyond)), (None, 0));
    assert_eq!(switch.port_generation(beyond), Generation::NONE);
}
