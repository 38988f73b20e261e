//! Peers that write anything anywhere. Everybody else may lose packets; nobody may crash, loop for
//! ever, or read and write outside the mappings.
//!
//! The scribbler maps every file of the switch, as any process on it can, and writes random and
//! chosen values: at random places, and at every word of every control structure. The victims run
//! in the same test process, so that a crash of theirs is a failure of the test.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{frame, open, read, root, slots};
use netmap::control::Switch;
use netmap::{Error, Interest, Options, Port, Wait};

/// A small generator: the tests must be repeatable, not random in a strong sense.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly values at which a check could be off by one.
    fn nasty(&mut self) -> u32 {
        match self.next() % 12 {
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
            10 => (self.next() % 300) as u32,
            _ => self.next() as u32,
        }
    }
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
        "switch" => 20480 + 4096,
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

#[test]
fn every_control_word_scribbled_one_by_one() {
    let o = Options { tx_rings: Some(2), rx_rings: Some(2), extra_bufs: 3, ..slots(64) };
    let mut a = open("valeC1:a", &o);
    let mut b = open("valeC1:b", &o);
    exercise(&mut a, 3);
    exercise(&mut b, 3);
    let mut rng = Rng(0x5eed_0001);
    let start = Instant::now();
    for path in files("valeC1") {
        let f = file(&path);
        let mut at = 0;
        while at < control_bytes(&path) {
            let value = rng.nasty().to_le_bytes();
            f.write_all_at(&value, at).unwrap();
            exercise(&mut a, 1);
            exercise(&mut b, 1);
            // Dense where structures are, sparse in the many equal entries of tables.
            at += if at % 4096 < 1024 { 4 } else { 4 + 4 * (rng.next() % 40) };
            assert!(start.elapsed() < Duration::from_secs(300), "stuck at {path:?} {at}");
        }
    }
    // Nothing of this outlives the switch: close, and open again.
    drop((a, b));
    let _ = std::fs::remove_dir_all(root().join("valeC1"));
    let (mut a, mut b) = (open("valeC1:a", &slots(64)), open("valeC1:b", &slots(64)));
    assert!(a.tx(0).push(&frame(0xff, 1, 0, 60)));
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 9).len(), 1);
}

#[test]
fn random_scribbling_while_everybody_works() {
    let o = Options { tx_rings: Some(2), rx_rings: Some(2), ..slots(64) };
    let mut ports: Vec<Port> = (0..3).map(|i| open(&format!("valeC2:p{i}"), &o)).collect();
    for port in &mut ports {
        exercise(port, 3);
    }
    let targets: Vec<(memmap2::MmapRaw, u64)> = files("valeC2")
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
                if let Ok(mut port) = Port::open("valeC2:guest@conf:slots=64") {
                    exercise(&mut port, 2);
                }
                if let Ok(switch) = Switch::open("valeC2") {
                    let _ = switch.info();
                    let _ = switch.fdb();
                }
            }
        });
        let mut rng = Rng(0x5eed_0002);
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
            word.store(rng.nasty(), Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(rounds.load(Ordering::Relaxed) > 30, "the victims stood still");
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
    // netmap_ring: head at 20, cur at 24. The RX ring is at some even cell: known by its
    // num_slots, nr_buf_size and dir.
    let mut ring = None;
    for cell in (2..130u64).step_by(2) {
        let at = 36864 + cell * 2112;
        let mut header = [0u8; 20];
        f.read_exact_at(&mut header, at).unwrap();
        if header[8..16] == [64, 0, 0, 0, 0x40, 8, 0, 0] && header[18] == 1 {
            ring = Some(at);
        }
    }
    let at = ring.expect("the RX ring is in the region");
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
    std::fs::create_dir_all(root().join("valeO2/switch")).unwrap();
    let e = Port::open("valeO2:x").unwrap_err().to_string();
    assert!(e.contains("valeO2/switch"), "{e}");
    std::os::unix::fs::symlink("/etc", root().join("valeO3")).unwrap();
    let port = Port::open("valeO3:x").expect("a link out of the root is replaced, not followed");
    assert!(!root().join("valeO3").is_symlink() && !std::path::Path::new("/etc/switch").exists());
    drop(port);
    for bad in ["vale../x:y", "valeA:../../etc", "valeA:a/b/c", "vale/x:y"] {
        assert!(matches!(Port::open(bad), Err(Error::Name(_))), "{bad}");
    }
}
