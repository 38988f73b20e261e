//! What the integration tests share: a root directory of their own, frames, and reading ports.
#![allow(dead_code)] // each test file uses a part

use netmap::control::Switch;
use netmap::{Interest, Options, Port, Wait};

pub mod rng;

/// A fresh root for this test process. Tests in one file share it and use switches of their own.
pub fn root() -> &'static std::path::Path {
    use std::sync::OnceLock;
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = ROOT.get_or_init(|| {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written");
        // SAFETY: nothing in these tests reads the environment while this first call runs: every
        // test begins with it, and OnceLock makes the others wait.
        unsafe { std::env::set_var("NETMAP_ROOT", dir.path()) };
        dir
    });
    dir.path()
}

/// Runs `body` in a process of its own, whose root is not there
/// yet. `test` is the calling test's name.
pub fn in_own_root(test: &str, body: impl FnOnce(&std::path::Path)) {
    const MARK: &str = "NM_TEST_IN_OWN_ROOT";
    if std::env::var_os(MARK).is_some() {
        return body(std::path::Path::new(&std::env::var_os("NETMAP_ROOT").expect("it is set")));
    }
    let temp = tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written");
    let output = std::process::Command::new(std::env::current_exe().expect("the test binary"))
        .args([test, "--exact", "--nocapture"])
        .env("NETMAP_ROOT", temp.path().join("root"))
        .env(MARK, "1")
        .output()
        .expect("the test binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{test}: {}\n{out}{err}", output.status);
    assert!(out.contains("1 passed"), "{test} is not the name of the calling test:\n{out}");
}

/// Address of a station.
pub fn mac(station: u8) -> [u8; 6] {
    if station == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, station] }
}

/// A frame of `len` bytes from one station to another with a number in it.
pub fn frame(dst: u8, src: u8, number: u32, len: usize) -> Vec<u8> {
    let mut f: Vec<u8> = (0..len).map(|i| (i as u32 ^ number) as u8).collect();
    let header: Vec<u8> = mac(dst)
        .into_iter()
        .chain(mac(src))
        .chain([0x88, 0xb5])
        .chain(number.to_le_bytes())
        .collect();
    let n = header.len().min(len);
    f[..n].copy_from_slice(&header[..n]);
    f
}

/// Opens a port.
pub fn open(name: &str, options: &Options) -> Port {
    root();
    Port::open_with(&name.parse().expect(name), options).expect(name)
}

/// Options with that many slots in both directions.
pub fn slots(n: u32) -> Options {
    Options { tx_slots: Some(n), rx_slots: Some(n), ..Options::default() }
}

/// Reads whole packets from ring `r`, at most `max`.
pub fn read(port: &mut Port, r: usize, max: usize) -> Vec<Vec<u8>> {
    port.rxsync().expect("rxsync");
    let mut ring = port.rx(r);
    let mut packets = Vec::new();
    let mut packet = Vec::new();
    let mut used = 0;
    for (i, slot) in ring.batch(usize::MAX).enumerate() {
        if packets.len() == max {
            break;
        }
        packet.extend(slot.frame().to_vec());
        if !slot.more_frag() {
            packets.push(std::mem::take(&mut packet));
            used = i + 1;
        }
    }
    ring.advance(used);
    port.rxsync().expect("rxsync");
    packets
}

/// The number in a frame.
pub fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[14..18].try_into().expect("four bytes"))
}

/// Numbers of all packets that have come on ring 0.
pub fn numbers(port: &mut Port) -> Vec<u32> {
    read(port, 0, usize::MAX).iter().map(|p| number(p)).collect()
}

/// Names of a switch's ports, sorted; none if there is no such switch.
pub fn ports_of(switch: &str) -> Vec<String> {
    let Ok(switch) = Switch::open(switch) else { return Vec::new() };
    let ports = switch.info().expect("read").ports;
    let mut names: Vec<String> = ports.into_iter().map(|port| port.name).collect();
    names.sort();
    names
}

/// Sends a packet to station 9.
pub fn send(port: &mut Port, number: u32) {
    assert!(port.tx(0).push(&frame(9, 1, number, 60)));
    port.txsync().expect("synced");
}

/// Does something while a neighbour sends that packet all the time, as many in a sync as its ring has room for.
pub fn beside_a_sender(mut neighbour: Port, packet: &[u8], work: impl FnOnce()) {
    use std::sync::atomic::{AtomicBool, Ordering};
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                while neighbour.tx(0).push(packet) {}
                neighbour.txsync().expect("synced");
            }
        });
        let _end = End(&done); // also if the work fails
        work();
    });
}

/// Takes so many packets at least from `read`, each of which is to be `packet`. `what` is told else.
pub fn all_are(packet: &[u8], least: usize, what: &str, mut read: impl FnMut() -> Vec<Vec<u8>>) {
    let mut seen = 0;
    while seen < least {
        for found in read() {
            assert_eq!(found, packet, "{what}, packet {seen}");
            seen += 1;
        }
    }
}

/// Sends numbered packets from one station to another until this process is killed.
pub fn send_for_ever(mut port: Port, from: u32) -> ! {
    let mut next = from;
    println!("ready");
    loop {
        while port.tx(0).push(&frame(9, 1, next, 60)) {
            next += 1;
        }
        port.txsync().expect("synced");
        if port.tx(0).space() == 0 {
            port.wait(Interest::SPACE, Wait::default(), None).expect("waited");
        }
    }
}
