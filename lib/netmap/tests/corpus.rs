//! Replays the fuzz corpora, so that what fuzzing found once is checked on every machine.
//!
//! One test per harness of `netmap::fuzz`, each with the files in `fuzz/corpus/NAME/` and values
//! chosen by hand: the ends of every range that is checked. A corpus that is not there fails.

mod common;

use std::path::Path;

use netmap::fuzz;

/// Runs `harness` on each file of its corpus and on each of `seeds`.
fn replay(name: &str, harness: fn(&[u8]), seeds: &[Vec<u8>]) {
    common::root();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries =
        dir.read_dir().unwrap_or_else(|e| panic!("the corpus {dir:?} cannot be read: {e}"));
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus {dir:?} is empty");
    for file in files {
        println!("{}", file.display()); // shown if the harness panics
        harness(&std::fs::read(&file).unwrap());
    }
    for seed in seeds {
        println!("{seed:02x?}");
        harness(seed);
    }
}

#[test]
fn corpus_of_names_holds() {
    let long = "x".repeat(5000);
    let names = [
        "",
        ":",
        "vale:",
        "vale:x",
        "valeA:",
        "valeA:x-0",
        "valeA:x-65535",
        "valeA:x-65536",
        "valeA:x^",
        "valeA:x^0",
        "valeA:x*",
        "valeA:x/",
        "valeA:x/xRT@65535@conf:slots=4294967295,rings=65535",
        "valeA:x@65536",
        "valeA:x@conf:",
        "valeA:x@conf:slots=",
        "valeA:x@conf:slots=4294967296",
        "vale12345678901:x",
        "vale123456789012:x",
        "valeA:123456789012345",
        "valeA:1234567890123456",
        "valeA:../x",
        "vale/../x:y",
        "valeA:\u{0}",
        "vale\u{c4}:x",
        "tap:.",
        "tap:..",
        "tap:123456789012345",
        "tap:1234567890123456",
        "netmap:",
        "netmap:eth0.5^",
        "pcap:",
        "pcap:-",
        "pcap:/../\u{7f}",
        "stream:",
        "stream:,server",
        "dgram:a,",
        "null",
        "null:",
        "null:x",
        &long,
    ];
    let mut seeds = names.map(|n| n.as_bytes().to_vec()).to_vec();
    seeds.push(vec![0xff, 0xfe]);
    replay("name", fuzz::name, &seeds);
}

#[test]
fn corpus_of_streams_holds() {
    let ends = [0_u32, 1, 13, 14, 60, 1514, 65599, 65600, 65601, 69631, 69632, 69633, u32::MAX];
    let frame = |length: u32| {
        let bytes = length.min(70_000) as usize;
        [&length.to_be_bytes()[..], &vec![0x5a; bytes]].concat()
    };
    let mut seeds = vec![Vec::new()];
    for piece in [0_u16, 1, 3, 4, 5, 63, 64, 65, 4096, u16::MAX] {
        let [high, low] = piece.to_be_bytes();
        for length in ends {
            seeds.push([&[1, high, low][..], &frame(60), &frame(length), &frame(60)].concat());
        }
    }
    let all: Vec<u8> = ends.iter().flat_map(|&length| frame(length)).collect();
    seeds.extend((0..9).map(|cut| [&[0][..], &all[..all.len() - cut]].concat()));
    replay("stream", fuzz::stream, &seeds);
}

/// A capture with one record whose header says `len`, followed by `data` bytes.
fn capture(magic: u32, seconds: u32, fraction: u32, len: u32, data: usize) -> Vec<u8> {
    let words = [magic, 0x0004_0002, 0, 0, 65535, 1];
    let record = [seconds, fraction, len, len];
    let words = words.iter().chain(&record);
    let mut bytes: Vec<u8> = words.flat_map(|w| w.to_le_bytes()).collect();
    bytes.resize(bytes.len() + data, 0xa5);
    bytes
}

/// A pcapng section with an interface and a packet of two bytes.
fn section(big_endian: bool) -> Vec<u8> {
    let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 0x0001_0001, u32::MAX, u32::MAX, 28];
    let interface = [1, 20, 0x0001_0001, 0, 20];
    let packet = [6, 36, 0, 0, 0, 2, 2, 0xa5a5_0000, 36];
    let words = section.into_iter().chain(interface).chain(packet);
    words.flat_map(|w: u32| if big_endian { w.to_be_bytes() } else { w.to_le_bytes() }).collect()
}

#[test]
fn corpus_of_captures_holds() {
    let (micros, nanos) = (0xa1b2_c3d4_u32, 0xa1b2_3c4d_u32);
    let mut seeds = vec![Vec::new(), b"\n\r\r\n".to_vec()];
    for magic in [micros, nanos, micros.swap_bytes(), nanos.swap_bytes(), 0] {
        seeds.push(capture(magic, 1, 2, 60, 60));
    }
    let whole = capture(nanos, 0, 0, 14, 14);
    seeds.extend((0..whole.len()).map(|cut| whole[..cut].to_vec()));
    for len in [0, 1, 262_143, 262_144, 262_145, u32::MAX] {
        seeds.push(capture(micros, u32::MAX, u32::MAX, len, 262_145));
    }
    for section in [section(false), section(true)] {
        seeds.extend((0..=section.len()).map(|cut| section[..cut].to_vec()));
    }
    replay("pcap", fuzz::pcap, &seeds);
}

/// A patch of the file of port a (0), of port b (1), of the switch (2) or of b's region (3).
fn patch(file: u8, at: u16, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len().is_multiple_of(4) && at.is_multiple_of(4));
    let mut patch = vec![file | (bytes.len() as u8 / 4) << 2];
    patch.extend((at / 4).to_le_bytes());
    patch.extend(bytes);
    patch
}

#[test]
fn corpus_of_headers_holds() {
    let mut seeds = vec![Vec::new()];
    for file in 0..4 {
        for value in [0, 1, 65, 255, 100_000, 1 << 31, u32::MAX] {
            // The header, word by word, and all of it.
            let word = u32::to_le_bytes(value);
            seeds.extend((0..36).map(|i| patch(file, i * 4, &word)));
            seeds.push(patch(file, 0, &word.repeat(15)));
            seeds.push(patch(file, 4096, &word.repeat(15)));
        }
    }
    // Names that would leave the root, and the region of another port.
    for (file, at) in [(0, 40), (1, 40), (2, 4112), (2, 4136)] {
        for name in [b"../../../../tmp\0", b"65501\0\0\0\0\0\0\0\0\0\0\0"] {
            seeds.push(patch(file, at, name));
        }
    }
    replay("headers", fuzz::headers, &seeds);
}

/// Actions of `fuzz::slots` on ring 0 of a port: 0 is x, 1 is y, 2 is z.
mod act {
    const RX: u8 = 0x40;
    const OTHER: u8 = 0x80;

    pub fn slot(port: u8, rx: bool, at: u8, buf_idx: u32, len: u16, flags: u16) -> Vec<u8> {
        let mut a = vec![port << 3 | if rx { RX } else { 0 }, at];
        a.extend(buf_idx.to_le_bytes());
        a.extend(len.to_le_bytes());
        a.extend(flags.to_le_bytes());
        a
    }

    /// As `slot`, with a buffer counted from the region's end.
    pub fn slot_at_end(port: u8, rx: bool, at: u8, buffer: i8, len: u16) -> Vec<u8> {
        let how = port << 3 | if rx { RX } else { 0 } | OTHER;
        let [low, high] = len.to_le_bytes();
        vec![how, at, buffer as u8, low, high, 0, 0]
    }

    /// An indirect slot whose data begin `distance` after the allowed window's start.
    pub fn indirect(port: u8, at: u8, len: u16, distance: i16) -> Vec<u8> {
        let mut a = vec![1 | port << 3, at];
        a.extend(len.to_le_bytes());
        a.extend(distance.to_le_bytes());
        a
    }

    /// head (1), cur (2) and tail (4), those in `which`, become `value`.
    pub fn index(port: u8, rx: bool, which: u8, value: u32) -> Vec<u8> {
        let mut a = vec![2 | port << 3 | if rx { RX } else { 0 } | OTHER, which];
        a.extend(value.to_le_bytes());
        a
    }

    pub fn push(port: u8, len: u16, dst: u8, src: u8) -> Vec<u8> {
        let [low, high] = len.to_le_bytes();
        vec![4 | port << 3, low, high, dst, src]
    }

    pub fn txsync(port: u8) -> Vec<u8> {
        vec![5 | port << 3]
    }

    pub fn rxsync(port: u8, read: u8) -> Vec<u8> {
        vec![6 | port << 3, read]
    }

    /// What a producer left on a port's receive ring: an exchange of two slots, and its hint.
    pub fn left(port: u8, a: u8, b: u8, buf_idx: u16, hint: u64) -> Vec<u8> {
        let mut act = vec![3 | port << 3 | RX | OTHER, 2, a, b];
        act.extend(hint.to_le_bytes());
        act.extend(buf_idx.to_le_bytes());
        act
    }

    /// From y's ring to z's, which share a region.
    pub fn exchange_buffers(most: u8) -> Vec<u8> {
        vec![7 | 1 << 3 | RX | OTHER, 2, most]
    }
}

#[test]
fn corpus_of_slots_holds() {
    use act::{exchange_buffers, index, indirect, left, push, rxsync, slot, slot_at_end, txsync};
    let edges = [0, 1, 2, 40, 127, 128, 129, 1 << 31, u32::MAX];
    let mut scripts: Vec<Vec<Vec<u8>>> = Vec::new();
    for edge in edges {
        for len in [0, 13, 14, 2111, 2112, 2113, 65535] {
            // One packet from such a slot into such a slot.
            scripts.push(vec![
                slot(0, false, 0, edge, len, 0),
                slot(1, true, 0, edge, len, 0),
                index(0, false, 3, 1),
                txsync(0),
                rxsync(1, 1),
                exchange_buffers(64),
                txsync(2),
            ]);
        }
        for which in 1..8 {
            scripts.push(vec![
                push(0, 5000, 9, 1),
                index(0, false, which, edge),
                txsync(0),
                index(1, true, which, edge),
                rxsync(1, 0),
                exchange_buffers(64),
                txsync(2),
            ]);
        }
    }
    for (len, distance) in [(60, 0), (60, 4036), (60, 4037), (60, -1), (2113, 0), (14, -9999)] {
        scripts.push(vec![
            indirect(0, 0, len, distance),
            index(0, false, 3, 1),
            txsync(0),
            rxsync(1, 1),
        ]);
    }
    for buffer in [-1, 0, 1] {
        for len in [60, 2112, 65535] {
            scripts.push(vec![
                slot_at_end(0, false, 0, buffer, len),
                slot_at_end(1, true, 0, buffer, len),
                index(0, false, 3, 1),
                txsync(0),
                slot_at_end(1, true, 0, buffer, 65535), // once more, behind the sender's back
                rxsync(1, 0),
                exchange_buffers(64),
            ]);
        }
    }
    for edge in [127, 128, 129] {
        // Where rings have gone some way round.
        scripts.push(vec![
            push(0, 9000, 9, 1),
            txsync(0),
            rxsync(1, 3),
            index(0, false, 1, edge),
            index(0, false, 2, 0),
            txsync(0),
            index(1, true, 1, edge),
            index(1, true, 2, 0),
            rxsync(1, 0),
        ]);
    }
    for (a, b) in [(0, 0), (0, 127), (127, 0), (3, 90)] {
        for buf_idx in [0, 1, 2, 300, u16::MAX] {
            for hint in [0, u64::MAX, 0x0001_0010_0010_0020, 0x0020_0040_0000_0001] {
                let long = || [push(0, 1514, 9, 1), push(0, 1514, 9, 1), txsync(0)].concat();
                let again = |n: usize| std::iter::repeat_with(long).take(n);
                let made_up = left(1, a, b, buf_idx, hint);
                let mut script: Vec<_> = again(3).chain([rxsync(1, 2), made_up]).collect();
                script.extend(again(20).chain([rxsync(1, 9), rxsync(1, 0), long()]));
                scripts.push(script);
            }
        }
    }
    // Chains without an end, and more than any ring holds.
    let mut chain: Vec<Vec<u8>> = (0..127).map(|i| slot(0, false, i, 40, 60, 0x20)).collect();
    chain.extend([index(0, false, 3, 127), txsync(0), rxsync(1, 0)]);
    scripts.push(chain);
    let burst = |port| (0..130).map(move |_| push(port, 60, 9, 1)).chain([txsync(port)]);
    scripts.push(burst(0).chain(burst(0)).chain([rxsync(1, 0), exchange_buffers(99)]).collect());
    scripts.push(vec![push(0, 65535, 9, 1), txsync(0), rxsync(1, 0), exchange_buffers(99)]);

    let seeds = scripts.iter().flat_map(|s| {
        let script = s.concat();
        // Dropping at full rings, then waiting for space.
        [0u8, 1].map(|backpressure| [&[backpressure], &script[..]].concat())
    });
    replay("slots", fuzz::slots, &seeds.collect::<Vec<_>>());
}
