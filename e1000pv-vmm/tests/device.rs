//! The device from a guest's side: the guest of `nic/guest.c` tries what the manual defines and drivers rarely do, on
//! this monitor and, where QEMU is a reference, on QEMU's e1000. What both send must be the same, byte by byte.
//!
//! Three differences are QEMU's (7.2): the payload length of an IPv6 segment counts the IPv6 header, too; a payload
//! that is whole segments is followed by one without payload; and a segment has the tag of whatever descriptor was read
//! last, not of its packet's first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod support;
use support::{kvm, output, record, root, skip, stderr, stdout, vmm};

/// Far beyond anything that works.
const TIMEOUT: &str = "60s";

/// Builds the guest. `None`: this machine's compiler cannot, which is said.
fn guest(test: &str, dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nic");
    let (small, image) = (dir.join("guest32.elf"), dir.join("guest.elf"));
    let mut compiler = Command::new("cc");
    compiler.args(["-m32", "-Os", "-march=i686", "-mno-sse", "-ffreestanding", "-fno-pic"]);
    compiler.args(["-fno-stack-protector", "-fcf-protection=none", "-Wall", "-Werror"]);
    compiler.args(["-nostdlib", "-static", "-Wl,--build-id=none,-n,-z,noseparate-code"]);
    compiler
        .arg("-Wl,--no-warn-rwx-segments")
        .arg(format!("-Wl,-T,{}", source.join("guest.ld").display()));
    compiler.arg("-o").arg(&small).arg(source.join("guest.c"));
    // A 64-bit image around 32-bit code, which is what PVH enters.
    let mut convert = Command::new("objcopy");
    convert.args(["-O", "elf64-x86-64"]).arg(&small).arg(&image);
    for mut command in [compiler, convert] {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.output() {
            Ok(done) if done.status.success() => {}
            Ok(done) if stderr(&done).contains("-m32") => {
                skip(test, "the compiler makes no 32-bit code");
                return None;
            }
            Ok(done) => panic!("{name}: {}", stderr(&done)),
            Err(why) => {
                skip(test, &format!("{name}: {why}"));
                return None;
            }
        }
    }
    Some(image)
}

/// The frames of a capture.
fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(capture).expect("a capture");
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// Runs a part of the guest here; returns what it sent.
fn ours(image: &Path, part: &str, more: &[&str]) -> Vec<Vec<u8>> {
    let root = root();
    let capture = root.path().join("sent.pcap");
    let port = format!("port=pcap:{}", capture.display());
    let image = image.to_str().expect("text");
    let machine = ["--kernel", image, "--cmdline", part, "--netdev", &port, "--timeout", TIMEOUT];
    let got = output(vmm(root.path(), &[&machine, more].concat()));
    assert_eq!(got.status.code(), Some(0), "{part} {more:?}: {}{}", stdout(&got), stderr(&got));
    frames(&capture)
}

/// Runs it on QEMU. `None`: it is not installed, which is said.
fn qemus(test: &str, image: &Path, part: &str) -> Option<Vec<Vec<u8>>> {
    const QEMU: &str = "qemu-system-x86_64";
    let dir = tempfile::tempdir().expect("a directory");
    let capture = dir.path().join("sent.pcap");
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(image).args(["-append", part]);
    qemu.args(["-netdev", "hubport,hubid=0,id=n", "-device", "e1000,romfile=,netdev=n", "-object"]);
    qemu.arg(format!("filter-dump,id=f,netdev=n,file={}", capture.display()));
    match qemu.stdin(Stdio::null()).output() {
        Err(why) => {
            skip(test, &format!("{QEMU}: {why}"));
            None
        }
        Ok(got) => {
            // What its exit port makes of 0.
            assert_eq!(got.status.code(), Some(1), "{part}: {}{}", stdout(&got), stderr(&got));
            Some(frames(&capture))
        }
    }
}

/// Ways to transmit: the outcome is the same.
const WAYS: [&[&str]; 4] =
    [&[], &["--tx-mode", "inline"], &["--csb", "off"], &["--more", "off", "--indirect", "off"]];

fn half(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The ones' complement sum of words.
fn sum(bytes: &[u8], begin: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum = bytes.chunks(2).map(word).sum::<u32>() + begin;
    (sum % 0xffff) as u16
}

/// Whether lengths and checksums of a packet, without its tag, are those of its bytes.
fn assert_sound(frame: &[u8], which: usize) {
    let is_v6 = half(frame, 12) == 0x86dd;
    let ip = &frame[14..];
    let (header, addresses, protocol, total) = match is_v6 {
        true => (40, &ip[8..40], ip[6], usize::from(half(ip, 4)) + 40),
        false => (20, &ip[12..20], ip[9], usize::from(half(ip, 2))),
    };
    assert_eq!(total, ip.len(), "{which}: length");
    assert!(is_v6 || sum(&ip[..20], 0) == 0, "{which}: header checksum");
    let rest = &ip[header..];
    let pseudo = u32::from(sum(addresses, u32::from(protocol))) + rest.len() as u32;
    assert_eq!(sum(rest, pseudo), 0, "{which}: checksum");
    assert!(protocol == 6 || usize::from(half(rest, 4)) == rest.len(), "{which}: UDP length");
}

#[test]
fn offloads_are_right_and_the_same_as_qemus() {
    let test = "offloads_are_right_and_the_same_as_qemus";
    let dir = tempfile::tempdir().expect("a directory");
    let Some(image) = guest(test, dir.path()) else { return };
    if !kvm(test) {
        return;
    }
    let sent = ours(&image, "o", &[]);
    assert_eq!(sent.len(), 103);
    // The last three have tags: segments that of their packet's first descriptor, the other that of its last.
    let (plain, tagged) = sent.split_at(100);
    let tags: Vec<u16> = tagged.iter().map(|frame| half(frame, 14)).collect();
    assert_eq!(tags, [5, 5, 8]);
    let untagged = tagged.iter().map(|frame| [&frame[..12], &frame[16..]].concat());
    for (which, frame) in plain.iter().cloned().chain(untagged).enumerate() {
        assert_sound(&frame, which);
    }
    for more in WAYS {
        assert!(ours(&image, "o", more) == sent, "{more:?}");
    }
    let Some(mut reference) = qemus(test, &image, "o") else { return };
    // Headers of UDP or TCP over IPv4 or IPv6, and nothing behind them.
    reference.retain(|frame| ![42, 54, 62, 74].contains(&frame.len()));
    assert_eq!(reference.len(), sent.len());
    for (which, (ours, theirs)) in sent.iter().zip(reference).enumerate() {
        let mut theirs = theirs;
        if half(ours, 12) == 0x86dd && half(&theirs, 18) == half(ours, 18) + 40 {
            theirs[18..20].copy_from_slice(&ours[18..20]);
        }
        if half(ours, 12) == 0x8100 && [half(ours, 14), half(&theirs, 14)] == [5, 6] {
            theirs[14..16].copy_from_slice(&ours[14..16]);
        }
        assert_eq!(ours.len(), theirs.len(), "frame {which}");
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "frame {which}: the first place that differs");
    }
}

#[test]
fn interrupt_causes_and_ring_lengths_keep_what_they_have_on_both() {
    let test = "interrupt_causes_and_ring_lengths_keep_what_they_have_on_both";
    let dir = tempfile::tempdir().expect("a directory");
    let Some(image) = guest(test, dir.path()) else { return };
    qemus(test, &image, "c");
    if kvm(test) {
        ours(&image, "c", &[]);
    }
}

#[test]
fn loopback_tails_overruns_and_the_bus_behave_and_nothing_leaves_the_port() {
    let test = "loopback_tails_overruns_and_the_bus_behave_and_nothing_leaves_the_port";
    let dir = tempfile::tempdir().expect("a directory");
    let Some(image) = guest(test, dir.path()) else { return };
    if !kvm(test) {
        return;
    }
    for part in ["l", "t", "r"] {
        for more in WAYS {
            assert_eq!(ours(&image, part, more), [[0; 0]; 0], "{part} {more:?}");
        }
    }
    for more in WAYS {
        assert_eq!(ours(&image, "p", more).len(), 1, "sent once the bus allows it, {more:?}");
    }
}

#[test]
fn operator_takes_links_down_and_up() {
    let root = root();
    let receiver =
        ["--name", "taker", "--netdev", "port=valeC:a", "--device", "mac=02:00:00:00:00:01"];
    let guest =
        ["--accel", "thread", "--guest", "rx count=50 wait_first=60s", "--timeout", TIMEOUT];
    let machine =
        support::running::Running::start(vmm(root.path(), &[&receiver[..], &guest].concat()));
    let ctl = |words: &str| {
        let args = ["--ctl", "taker"].into_iter().chain(words.split(' ')).collect::<Vec<_>>();
        let got = output(vmm(root.path(), &args));
        (got.status.code(), stderr(&got))
    };
    let send = || {
        let sender = ["--netdev", "port=valeC:b", "--accel", "thread", "--timeout", TIMEOUT, "-q"];
        let work = ["--guest", "tx dst=02:00:00:00:00:01 count=50"];
        assert_eq!(output(vmm(root.path(), &[&sender[..], &work].concat())).status.code(), Some(0));
    };
    assert_eq!(ctl("link down").0, Some(0));
    send();
    let stats = record(&output(vmm(root.path(), &["--stats", "taker", "--json"])));
    assert_eq!(stats["counters"]["nics"][0]["rx_packets"], 0, "{stats}");
    let (code, text) = ctl("link up 1");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("no such NIC"), "{text}");
    assert_eq!(ctl("link sideways").0, Some(2));
    assert_eq!(ctl("link up 0").0, Some(0));
    send();
    let (status, rest) = machine.end();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(rest.contains("\"packets\":50"), "{rest}");
    let (code, text) = ctl("link up");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("no machine named taker runs"), "{text}");
}
