//! Peers that write anything anywhere. Everybody else may lose packets; nobody may crash, loop for
//! ever, or read and write outside the mappings.
//!
//! The scribbler maps every file of the switch, as any process on it can, and writes random and
//! chosen values: at random places, and at every word of every control structure. The victims run
//! in the same test process, so that a crash of theirs is a failure of the test.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::rng::Rng;
use common::{frame, in_own_root, open, read, root, slots};
use netmap::control::Switch;
use netmap::{Error, Interest, Options, Port, SlotFlags, Wait};

/// Mostly values at which a check could be off by one.
fn nasty(rng: &mut Rng) -> u32 {
    match rng.below(12) {
        0 => 0,
        1 => 1,
        2 => 63,
        3 => 64,
        4 => 65,
        5 => u32::MAX,
        6 => u32::MAX - 1,
        7 => 0x8000_0000,
        8 => 0x7fff_ffff,
        9 => 2112,
        10 => rng.below(300) as u32,
        _ => rng.next() as u32,
    }
}

/// Where the participants are in the switch's file, 32 bytes each, the generation first.
const PARTICIPANTS: u64 = 86016;

/// Identity of the participant at `index` of a switch.
fn participant(switch: &File, index: u64) -> u64 {
    let mut generation = [0; 8];
    switch.read_exact_at(&mut generation, PARTICIPANTS + 32 * index).unwrap();
    u64::from_le_bytes(generation) << 16 | (index + 1)
}

/// Makes a participant that lives as long as the file returned, and syncs nothing.
fn living_participant(switch: &Path) -> (File, u64) {
    let file = file(&switch.into());
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (1 << 40) + 9,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file.write_all_at(&77u64.to_le_bytes(), PARTICIPANTS + 32 * 9).unwrap();
    let id = participant(&file, 9);
    (file, id)
}

/// Files of one switch with the memory regions of its ports.
fn files(switch: &str) -> Vec<PathBuf> {
    let info = Switch::open(switch).unwrap().info().unwrap();
    let mut files: Vec<PathBuf> =
        info.ports.iter().map(|p| root().join("mem").join(&p.memory)).collect();
    for entry in std::fs::read_dir(root().join(switch)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            files.push(entry.path());
        }
    }
    files
}

fn file(path: &PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Bytes at the start of a file that hold control structures worth aiming at.
fn control_bytes(path: &Path) -> u64 {
    let len = path.metadata().unwrap().len();
    match path.file_name().unwrap().to_str().unwrap() {
        "switch" => PARTICIPANTS + 4096,
        name if name.starts_with("port.") => len,
        // A region: header, then cells from 36864 on, where rings and netmap_ifs come first.
        _ => len.min(36864 + 40 * 2112),
    }
}

/// What victims do all day: send, receive, wait, look. Never panics whatever it sees.
fn exercise(port: &mut Port, n: u32) -> usize {
    let mut seen = 0;
    for i in 0..n {
        let f =
            frame(if i % 3 == 0 { 0xff } else { (i % 7) as u8 }, 1, i, 60 + (i as usize % 5000));
        for r in 0..port.tx_rings() {
            // Indices may be damaged: space says how many slots may be touched.
            port.tx(r).push(&f);
        }
        port.txsync().unwrap();
        port.rxsync().unwrap();
        for r in 0..port.rx_rings() {
            let mut ring = port.rx(r);
            let count = ring.available();
            for slot in ring.batch(count) {
                seen += slot.frame().to_vec().len();
            }
            ring.advance(count);
        }
    }
    let _ = port.wait(Interest::RX | Interest::TX, Wait::Block, Some(Duration::from_millis(1)));
    let _ = port.counters();
    seen
}

/// Writes over the control words of a switch one by one, between syncs of two of its ports.
fn scribble_one_by_one(switch: &str, ports: [&str; 2]) {
    netmap::fuzz::always_warm(true);
    let o = Options { tx_rings: Some(2), rx_rings: Some(2), extra_bufs: 3, ..slots(64) };
    let open = |name: &str, o: &Options| open(&format!("{switch}:{name}"), o);
    let [mut a, mut b] = ports.map(|name| open(name, &o));
    exercise(&mut a, 3);
    exercise(&mut b, 3);
    let mut rng = Rng::new(0x5eed_0001);
    let start = Instant::now();
    for path in files(switch) {
        let f = file(&path);
        let mut at = 0;
        while at < control_bytes(&path) {
            let value = nasty(&mut rng).to_le_bytes();
            f.write_all_at(&value, at).unwrap();
            exercise(&mut a, 1);
            exercise(&mut b, 1);
            // Dense where structures are, sparse in the many equal entries of tables.
            at += if at % 4096 < 1024 { 4 } else { 4 + 4 * (rng.next() % 40) };
            if path.ends_with("switch") && (20480 + 4096..PARTICIPANTS).contains(&at) {
                at = PARTICIPANTS; // the rest of the handles: entries that nobody uses
            }
            assert!(start.elapsed() < Duration::from_secs(300), "stuck at {path:?} {at}");
        }
    }
    // Nothing of this outlives the switch: close, and open again.
    drop((a, b));
    let _ = std::fs::remove_dir_all(root().join(switch));
    let [mut a, mut b] = ports.map(|name| open(name, &slots(64)));
    assert!(a.tx(0).push(&frame(0xff, 1, 0, 60)));
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 9).len(), 1);
}

#[test]
fn every_control_word_scribbled_one_by_one() {
    scribble_one_by_one("valeC1", ["a", "b"]);
}

#[test]
fn every_control_word_of_a_pipe_scribbled_one_by_one() {
    scribble_one_by_one("valeP1", ["x{1", "x}1"]);
}

/// Writes over a switch's files while its ports, and a guest that comes and goes, work.
fn scribble_meanwhile(switch: &str, ports: &[&str], guest: &str) {
    netmap::fuzz::always_warm(true);
    let o = Options { tx_rings: Some(2), rx_rings: Some(2), ..slots(64) };
    let mut ports: Vec<Port> =
        ports.iter().map(|name| open(&format!("{switch}:{name}"), &o)).collect();
    for port in &mut ports {
        exercise(port, 3);
    }
    let targets: Vec<(memmap2::MmapRaw, u64)> = files(switch)
        .iter()
        .map(|p| (memmap2::MmapOptions::new().map_raw(&file(p)).unwrap(), control_bytes(p)))
        .collect();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for port in &mut ports {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    exercise(port, 5);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A user that comes and goes, and one that looks at everything.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Either works or says what is wrong.
                if let Ok(mut port) = Port::open(&format!("{switch}:{guest}")) {
                    exercise(&mut port, 2);
                }
                if let Ok(switch) = Switch::open(switch) {
                    let _ = switch.info();
                    let _ = switch.fdb();
                }
            }
        });
        let mut rng = Rng::new(0x5eed_0002);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let (map, control) = &targets[(rng.next() % targets.len() as u64) as usize];
            let anywhere = rng.next().is_multiple_of(4);
            let words = if anywhere { map.len() as u64 } else { *control } / 4;
            let at = (rng.next() % words) as usize;
            let word = map.as_mut_ptr().cast::<u32>().wrapping_add(at);
            // SAFETY: `at` lies within the mapping, which outlives this; an atomic like those of
            // the library.
            let word = unsafe { AtomicU32::from_ptr(word) };
            word.store(nasty(&mut rng), Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(rounds.load(Ordering::Relaxed) > 30, "the victims stood still");
}

#[test]
fn random_scribbling_while_everybody_works() {
    scribble_meanwhile("valeC2", &["p0", "p1", "p2"], "guest@conf:slots=64");
}

#[test]
fn random_scribbling_while_pipes_work() {
    // Of three handles on two ends, one that is opened again and again, and who sees them.
    scribble_meanwhile("valeP2", &["x{1", "x}1", "x{1", "x}1/tr", "x{1/t"], "x}1");
}

/// Where the table of ports is in the switch's file: 64 bytes an entry, place and flags first.
const ENTRIES: usize = 4096;

/// Flags of an entry, mostly of a monitor of one of the first ports (docs/design/memory-layout.md).
fn entry_flags(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => rng.next(),
        1 => 0,
        2 => u64::MAX,
        _ => rng.below(4) << 1 | rng.below(10) << 16 | rng.below(256) << 24,
    }
}

/// What is written over entries of monitors, for some time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scribble {
    /// What they see, and whether somebody looks for them.
    Flags,
    /// Also their generation and state.
    Places,
}

fn scribble_over_entries(
    switch: &memmap2::MmapRaw,
    what: Scribble,
    monitors: std::ops::Range<u64>,
) {
    let mut rng = Rng::new(0x5eed_0003);
    let word = |at: usize| {
        assert!(at + 8 <= switch.len() && at.is_multiple_of(8));
        let word = switch.as_mut_ptr().wrapping_add(at).cast::<u64>();
        // SAFETY: within the mapping and aligned, as asserted; an atomic like those of the library.
        unsafe { AtomicU64::from_ptr(word) }
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        let entry = monitors.start + rng.below(monitors.end - monitors.start);
        let entry = ENTRIES + 64 * entry as usize;
        match rng.below(64) {
            // Copies, exchanges, headers, offsets: are they to be looked for?
            0..8 => word(8).store(rng.below(16) << 34 | 4, Ordering::Relaxed),
            8..16 => word(88).store(rng.below(256), Ordering::Relaxed),
            16..18 if what == Scribble::Places => word(entry).store(rng.next(), Ordering::Relaxed),
            18 if what == Scribble::Places => {
                word(entry).fetch_xor(1 << rng.below(12), Ordering::Relaxed);
            }
            _ => word(entry + 8).store(entry_flags(&mut rng), Ordering::Relaxed),
        }
        std::thread::yield_now();
    }
}

#[test]
fn entries_of_monitors_scribbled_over_while_packets_are_seen() {
    const MONITORS: [&str; 5] = ["x/tr", "x/ztr", "x-1/zt", "x-0/zr", "y/r"];
    in_own_root("entries_of_monitors_scribbled_over_while_packets_are_seen", |_| {
        let descriptors = || -> Vec<PathBuf> {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path());
            // One is that of the directory itself, which has gone.
            let mut names: Vec<PathBuf> =
                all.filter_map(|fd| std::fs::read_link(fd).ok()).collect();
            names.sort();
            names
        };
        for _ in 0..2 {
            drop(open("valeM1:x", &slots(64))); // the root is made, then kept
        }
        let before = descriptors();
        for what in [Scribble::Flags, Scribble::Places] {
            let o = Options { tx_rings: Some(2), rx_rings: Some(2), ..slots(64) };
            let mut ports: Vec<Port> =
                ["x", "y"].map(|name| open(&format!("valeM1:{name}"), &o)).into();
            let monitors =
                MONITORS.map(|name| open(&format!("valeM1:{name}"), &Options::default()));
            ports.extend(monitors);
            let path = root().join("valeM1/switch");
            let switch = memmap2::MmapOptions::new().map_raw(&file(&path)).unwrap();
            let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for port in &mut ports {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            exercise(port, 5);
                            let _ = (port.ended(), port.vnet_hdr_len());
                            rounds.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                // One that comes and goes, and looks at everything.
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(mut port) = Port::open("valeM1:x/ztr") {
                            exercise(&mut port, 2);
                        }
                        if let Ok(switch) = Switch::open("valeM1") {
                            let _ = switch.info();
                        }
                    }
                });
                let entries = 2..2 + MONITORS.len() as u64 + 1;
                scribble_over_entries(&switch, what, entries);
                stop.store(true, Ordering::Relaxed);
            });
            assert!(rounds.load(Ordering::Relaxed) > 30, "the victims stood still");
            drop((ports, switch));
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            assert!(!maps.contains("valeM1"), "{what:?}: something stays mapped\n{maps}");
            // What was made persistent stays, by what the peer wrote.
            let _ = std::fs::remove_dir_all(root().join("valeM1"));
        }
        assert_eq!(descriptors(), before, "descriptors were left open");
        let [mut a, mut b] = ["a", "b"].map(|name| open(&format!("valeM1:{name}"), &slots(64)));
        assert!(a.tx(0).push(&frame(0xff, 1, 0, 60)));
        a.txsync().unwrap();
        assert_eq!(read(&mut b, 0, 9).len(), 1);
    });
}

#[test]
fn truncated_files_cost_packets_not_lives() {
    let (mut a, mut b) = (open("valeC3:a", &slots(64)), open("valeC3:b", &slots(64)));
    exercise(&mut a, 3);
    exercise(&mut b, 3);
    for path in files("valeC3") {
        let f = file(&path);
        let len = f.metadata().unwrap().len();
        for cut in [len - 1, len / 2, 4096, 100, 0] {
            f.set_len(cut).unwrap();
            exercise(&mut a, 2);
            exercise(&mut b, 2);
        }
    }
    let e = Port::open("valeC3:c").map(drop);
    // The switch's own file is gone: with the old users still there the error says so.
    assert!(matches!(e, Err(Error::Damaged { .. })), "{e:?}");
    drop((a, b));
    let port = Port::open("valeC3:c").expect("with nobody on it, the leftovers are replaced");
    drop(port);
}

#[test]
fn program_that_breaks_its_indices_gets_its_ring_reset_and_goes_on() {
    let (mut a, mut b) = (open("valeC4:a", &slots(64)), open("valeC4:b", &slots(64)));
    let region = Switch::open("valeC4").unwrap().info().unwrap().ports[1].memory.clone();
    let f = file(&root().join("mem").join(region));
    let at = rx_ring_at(&f, 64); // netmap_ring: head at 20, cur at 24
    for (head, cur) in [(64u32, 64u32), (5, 3), (u32::MAX, 0), (9, 9), (0, 63)] {
        assert!(a.tx(0).push(&frame(0xff, 1, head, 60)));
        a.txsync().unwrap();
        let before = b.counters().reinits;
        f.write_all_at(&head.to_le_bytes(), at + 20).unwrap();
        f.write_all_at(&cur.to_le_bytes(), at + 24).unwrap();
        b.rxsync().unwrap();
        assert_eq!(b.counters().reinits, before + 1, "head {head} cur {cur}");
        assert_eq!(read(&mut b, 0, 9), [frame(0xff, 1, head, 60)]);
    }
}

#[test]
fn things_in_the_way_are_named() {
    root();
    std::fs::create_dir(root().join("valeO1")).unwrap();
    std::fs::write(root().join("valeO1/switch"), b"not a switch").unwrap();
    drop(Port::open("valeO1:x").expect("a leftover without users is replaced"));
    std::fs::create_dir_all(root().join("valeO2/switch/in/the/way")).unwrap();
    drop(Port::open("valeO2:x").expect("whatever has the file's name, nobody is on it"));
    std::os::unix::fs::symlink("/etc", root().join("valeO3")).unwrap();
    let port = Port::open("valeO3:x").expect("a link out of the root is replaced, not followed");
    assert!(!root().join("valeO3").is_symlink() && !std::path::Path::new("/etc/switch").exists());
    drop(port);
    for bad in ["vale../x:y", "valeA:../../etc", "valeA:a/b/c", "vale/x:y"] {
        assert!(matches!(Port::open(bad), Err(Error::Name(_))), "{bad}");
    }
}

/// Where the RX ring of a port's private region is, in bytes from the start of the file: known by its
/// num_slots, nr_buf_size and direction.
fn rx_ring_at(f: &File, slots: u32) -> u64 {
    let found = (2..130u64).step_by(2).map(|cell| 36864 + cell * 2112).find(|&at| {
        let mut header = [0u8; 20];
        f.read_exact_at(&mut header, at).unwrap();
        header[8..12] == slots.to_le_bytes() && header[12..16] == [0x40, 8, 0, 0] && header[18] == 1
    });
    found.expect("the RX ring is in the region")
}

#[test]
fn sleeper_whose_ring_was_damaged_sleeps_until_a_packet_comes() {
    let (mut a, mut b) = (open("valeC5:a", &slots(64)), open("valeC5:b", &slots(64)));
    let region = Switch::open("valeC5").unwrap().info().unwrap().ports[1].memory.clone();
    let ring = file(&root().join("mem").join(region));
    let at = rx_ring_at(&ring, 64);
    let state = file(&root().join("valeC5/port.b"));
    for (number, wild) in [64u32, 65, 0x8000_0000, u32::MAX].into_iter().enumerate() {
        // The receive ring's hwtail (in the port's file, after the lock word) and the program's tail.
        state.write_all_at(&wild.to_le_bytes(), 4096 + 64).unwrap();
        ring.write_all_at(&wild.to_le_bytes(), at + 28).unwrap();
        let ready = b.wait(Interest::RX, Wait::Block, Some(Duration::from_millis(20))).unwrap();
        assert!(ready.is_empty(), "told to read, with nothing to read: tail {wild}");
        assert!(a.tx(0).push(&frame(0xff, 1, number as u32, 60)));
        a.txsync().unwrap();
        let ready = b.wait(Interest::RX, Wait::Block, None).unwrap();
        assert!(ready.contains(Interest::RX));
        assert_eq!(read(&mut b, 0, 9), [frame(0xff, 1, number as u32, 60)], "tail {wild}");
    }
}

#[test]
fn rings_held_by_a_stopped_peer_cost_one_budget_per_txsync_not_one_each() {
    const PORTS: usize = 200;
    let o = slots(64);
    let mut a = open("valeC6:a", &o);
    let others: Vec<Port> = (0..PORTS).map(|i| open(&format!("valeC6:p{i}"), &o)).collect();
    let (_alive, identity) = living_participant(&root().join("valeC6/switch"));
    for i in 0..PORTS {
        let state = file(&root().join(format!("valeC6/port.p{i}")));
        state.write_all_at(&identity.to_le_bytes(), 4096).unwrap();
    }
    assert!(a.tx(0).push(&frame(0xff, 1, 0, 60)));
    let start = Instant::now();
    a.txsync().unwrap();
    // 200 times 20 ms before; 40 ms now. The bound is loose, as the machine may be busy.
    assert!(start.elapsed() < Duration::from_secs(2), "waited {:?}", start.elapsed());
    assert_eq!(a.counters().tx_drop_busy, PORTS as u64);
    drop(others);
}

#[test]
fn rings_of_monitors_held_by_a_stopped_peer_cost_one_budget_per_sync_not_one_each() {
    const MONITORS: u64 = 110;
    let mut x = open("valeC12:x@conf:mem-mib=128,slots=64", &Options::default());
    let mut y = open("valeC12:y", &slots(64));
    let monitors: Vec<Port> =
        (0..MONITORS).map(|_| open("valeC12:x/ztr", &Options::default())).collect();
    let (_alive, identity) = living_participant(&root().join("valeC12/switch"));
    for i in 2..2 + MONITORS {
        let state = file(&root().join(format!("valeC12/port.x#{i}")));
        state.write_all_at(&identity.to_le_bytes(), 4096).unwrap();
    }
    assert!(x.tx(0).push(&frame(0xff, 1, 0, 60)) && y.tx(0).push(&frame(0xff, 2, 0, 60)));
    y.txsync().unwrap();
    x.rxsync().unwrap();
    x.rx(0).advance(1);
    // 110 times 20 ms before; 40 ms now. The bound is loose, as the machine may be busy.
    for sync in [Port::txsync, Port::rxsync] {
        let start = Instant::now();
        sync(&mut x).unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "waited {:?}", start.elapsed());
    }
    drop(monitors);
}

#[test]
fn ring_lock_with_the_senders_own_identity_costs_one_budget_and_a_packet() {
    let (mut a, _b) = (open("valeC8:a", &slots(64)), open("valeC8:b", &slots(64)));
    // For all that the sender knows it is another thread of its own process.
    let identity = participant(&file(&root().join("valeC8/switch")), 0);
    file(&root().join("valeC8/port.b")).write_all_at(&identity.to_le_bytes(), 4096).unwrap();
    assert!(a.tx(0).push(&frame(0xff, 1, 7, 60)));
    let start = Instant::now();
    a.txsync().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "waited {:?}", start.elapsed());
    assert_eq!(a.counters().tx_drop_busy, 1);
}

#[test]
fn counters_that_a_peer_has_scribbled_over_add_up_without_a_panic() {
    let a = open("valeC7:a", &slots(64));
    let state = file(&root().join("valeC7/port.a"));
    for offset in [4096 + 256, 4096 + 16 * 512 + 256] {
        state.write_all_at(&[0xff; 256], offset).unwrap();
    }
    let info = Switch::open("valeC7").unwrap().info().unwrap();
    let c = info.counters + a.counters();
    let _ = (c.tx_drops(), c.rx_drops(), c.since(&a.counters()));
}

#[test]
fn sets_that_say_that_all_handles_sleep_cost_a_bounded_number_of_rings() {
    const FORGED: u32 = 1500;
    let (mut a, _b) = (open("valeC9:a", &slots(64)), open("valeC9:b", &slots(64)));
    let dir = root().join("valeC9");
    // Entries of handles on b (port 1), each with a bell of its own.
    let switch = file(&dir.join("switch"));
    for i in 2..FORGED {
        nix::unistd::mkfifo(&dir.join(format!("bell.{i}")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        switch.write_all_at(&2u32.to_le_bytes(), 20480 + 32 * u64::from(i) + 8).unwrap();
    }
    let state = file(&dir.join("port.b"));
    for round in 1..=3 {
        state.write_all_at(&[0xff; 256], 4096 + 256).unwrap();
        state.write_all_at(&[0xff; 4], 4096 + 132).unwrap();
        assert!(a.tx(0).push(&frame(0xff, 1, round, 60)));
        a.txsync().unwrap();
        let rung = a.counters().doorbells_rung;
        assert!(rung <= 1024 * u64::from(round), "{rung} bells rung in {round} syncs");
        assert!(rung >= 1000, "{rung} bells rung: the sets were not read");
    }
}

/// Addresses of all kinds in the slots of a port that may send from anywhere: no crash, and all slots are done.
#[test]
fn slots_that_point_anywhere_cost_no_more_than_their_packets() {
    in_own_root("slots_that_point_anywhere_cost_no_more_than_their_packets", |_| {
        std::fs::set_permissions(root(), PermissionsExt::from_mode(0o700)).unwrap();
        let (mut a, mut b) = (open("valeC11:a", &slots(1024)), open("valeC11:b", &slots(1024)));
        a.allow_indirect_anywhere().unwrap();
        let mut rng = Rng::new(0x1ad);
        let here = frame(0xff, 1, 7, 2048);
        for _ in 0..100 {
            while a.tx(0).space() > 0 {
                let address = match rng.below(6) {
                    0 => 0,
                    1 => u64::MAX - rng.below(4096),
                    2 => rng.next(),
                    3 => 0xffff_8000_0000_0000 + rng.below(1 << 30),
                    4 => (1 << 47) - rng.below(8192), // where a process's addresses end
                    _ => here.as_ptr() as u64,
                };
                let flags = SlotFlags::from_bits_retain(rng.next() as u16);
                let mut ring = a.tx(0);
                let data = std::ptr::without_provenance(address as usize);
                ring.slot(0).set_indirect(data, rng.below(2049) as usize, flags);
                ring.advance(1);
            }
            a.txsync().unwrap();
            assert_eq!(a.tx(0).space(), 1023);
            read(&mut b, 0, 2000);
        }
        assert!(a.counters().tx_packets > 0 && a.counters().tx_drop_bad > 0);
    });
}
