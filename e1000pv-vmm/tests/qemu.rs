//! The bench guest on QEMU's e1000: our driver against a device model that nobody of us wrote.
//!
//! The far end of QEMU's network is this test, by a pair of datagram sockets, one of which is QEMU's
//! stdin; so every frame is seen, in both directions. Emulated code (TCG) does: rates are not the
//! point, and firmware boots faster there than on software KVM.

use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

mod support;
use support::frame::{self, Read};
use support::skip;

const QEMU: &str = "qemu-system-x86_64";
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 2];
const TEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SOMEBODY_ELSE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Far beyond anything that works.
const TIMEOUT: Duration = Duration::from_secs(60);
/// As typed, and as it is on a device without CSB.
const DRIVERS: [(&str, &str); 3] = [("plain", "plain"), ("combine", "combine"), ("csb", "plain")];
/// Frames without CRC: the shortest, one of an odd size, the longest.
const SIZES: [usize; 3] = [60, 333, 1514];
/// Several times around the smallest ring here.
const COUNT: u32 = 1000;

/// QEMU's exit code when its guest writes this to the exit port.
const fn exit_code(status: u32) -> i32 {
    (status << 1 | 1).cast_signed()
}

/// Whether QEMU is installed. If not, says so.
fn installed(test: &str) -> bool {
    let why = match Command::new(QEMU).arg("--version").stdout(Stdio::null()).status() {
        Ok(status) if status.success() => return true,
        Ok(status) => format!("{QEMU} --version: {status}"),
        Err(error) => format!("{QEMU}: {error}"),
    };
    skip(test, &why);
    false
}

macro_rules! need_qemu {
    ($name:literal) => {
        if !installed($name) {
            return;
        }
    };
}

/// A guest in QEMU. Killed when dropped.
struct Guest {
    qemu: Child,
    console: BufReader<ChildStdout>,
    net: UnixDatagram,
    _image: tempfile::NamedTempFile,
}

impl Guest {
    /// `exits`: with an exit port. QEMU then ends at once, with what it has not sent yet; a guest
    /// without one goes to sleep.
    fn start(line: &str, exits: bool) -> Guest {
        let image = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(image.path(), e1000pv_vmm::guest::image::bytes())
            .expect("room for the image");
        let (net, theirs) = UnixDatagram::pair().expect("a pair of sockets");
        net.set_read_timeout(Some(TIMEOUT)).expect("not zero");
        net.set_write_timeout(Some(TIMEOUT)).expect("not zero");
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-M", "pc", "-m", "64", "-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "file:/dev/stdout"]);
        command.args(["-netdev", "dgram,id=n,local.type=fd,local.str=0"]);
        command.args(["-device", "e1000,romfile=,netdev=n,mac=02:00:00:00:00:02"]);
        command.arg("-kernel").arg(image.path()).args(["-append", line]);
        if exits {
            command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        }
        let theirs = OwnedFd::from(theirs);
        let mut qemu = command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // it warns of what TCG does not emulate
            .spawn()
            .expect("QEMU starts");
        let console = BufReader::new(qemu.stdout.take().expect("piped"));
        let guest = Guest { qemu, console, net, _image: image };
        // QEMU takes one packet in before its device can receive, and loses it when it resets that
        // device. These are for the receive filter: what follows arrives.
        for seq in 0..8 {
            guest.send(&frame::make(SOMEBODY_ELSE, TEST, frame::SEQ, seq, 60));
        }
        guest
    }

    /// Sends a frame; waits while the guest cannot take it yet.
    fn send(&self, frame: &[u8]) {
        self.net.send(frame).expect("QEMU takes packets");
    }

    /// Waits for a frame, and reads it.
    fn receive(&self, size: usize) -> Read {
        let mut buffer = [0; 2048];
        let len = match self.net.recv(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("no packet in {TIMEOUT:?}"),
            other => other.expect("QEMU is there"),
        };
        frame::read(&buffer[..len], size).expect("a sound packet")
    }

    /// Waits for the guest's result.
    fn result(&mut self) -> Value {
        let mut seen = String::new();
        loop {
            let begin = seen.len();
            let n = self.console.read_line(&mut seen).expect("text");
            assert_ne!(n, 0, "no result: {seen}");
            if let Ok(result) = serde_json::from_str(&seen[begin..]) {
                return result;
            }
        }
    }

    fn code(mut self) -> Option<i32> {
        self.qemu.wait().expect("our child").code()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[test]
fn what_every_driver_sends_comes_out_of_qemu_whole_and_in_order() {
    need_qemu!("what_every_driver_sends_comes_out_of_qemu_whole_and_in_order");
    for ((driver, becomes), size) in DRIVERS.into_iter().zip(SIZES) {
        let line = format!(
            "driver={driver} ring=64 tx dst=02:00:00:00:00:01 size={size} count={COUNT} burst=50"
        );
        let mut guest = Guest::start(&line, false);
        for seq in 0..COUNT {
            let read = guest.receive(size);
            assert_eq!(read, Read { dst: TEST, src: GUEST, kind: frame::SEQ, seq }, "{driver}");
        }
        let result = guest.result();
        assert_eq!(result["driver"], becomes, "{result}");
        assert_eq!(result["packets"], COUNT, "{result}");
        assert_eq!(result["bytes"], u64::from(COUNT) * size as u64, "{result}");
    }
}

#[test]
fn what_qemu_delivers_every_driver_receives_once() {
    need_qemu!("what_qemu_delivers_every_driver_receives_once");
    for ((driver, becomes), size) in DRIVERS.into_iter().zip(SIZES) {
        let line = format!("driver={driver} ring=64 rx count={COUNT}");
        let mut guest = Guest::start(&line, true);
        for seq in 0..COUNT {
            guest.send(&frame::make(GUEST, TEST, frame::SEQ, seq, size));
        }
        let result = guest.result();
        assert_eq!(result["driver"], becomes, "{result}");
        assert_eq!(result["packets"], COUNT, "{driver}: {result}");
        for key in ["lost", "bad", "duplicated", "reordered", "foreign"] {
            assert_eq!(result[key], 0, "{driver}: {key} in {result}");
        }
        assert_eq!(guest.code(), Some(exit_code(0)));
    }
}

/// So that the test above can fail.
#[test]
fn packets_that_are_damaged_lost_or_sent_again_are_noticed() {
    need_qemu!("packets_that_are_damaged_lost_or_sent_again_are_noticed");
    let mut guest = Guest::start("driver=plain ring=64 rx count=100", true);
    let mut packets: Vec<_> =
        (0..100).map(|seq| frame::make(GUEST, TEST, frame::SEQ, seq, 333)).collect();
    packets[40][200] ^= 0x10;
    packets[60] = packets[59].clone();
    packets.iter().for_each(|packet| guest.send(packet));
    // The damaged one is none of the hundred.
    guest.send(&frame::make(GUEST, TEST, frame::SEQ, 100, 333));
    let result = guest.result();
    assert_eq!((&result["bad"], &result["duplicated"]), (&1.into(), &1.into()), "{result}");
    assert_eq!(result["lost"], 2, "{result}");
    assert_eq!(guest.code(), Some(exit_code(1)));
}

#[test]
fn echo_answers_one_by_one() {
    need_qemu!("echo_answers_one_by_one");
    for (driver, _) in DRIVERS {
        let mut guest = Guest::start(&format!("driver={driver} ring=8 echo count=200"), false);
        // Each waits for the one before: no interrupt may be lost, nobody would be there to help.
        for seq in 0..200 {
            guest.send(&frame::make(GUEST, TEST, frame::PING, seq, 60));
            let read = guest.receive(60);
            assert_eq!(read, Read { dst: TEST, src: GUEST, kind: frame::PONG, seq }, "{driver}");
        }
        let result = guest.result();
        assert_eq!((&result["packets"], &result["bad"]), (&200.into(), &0.into()), "{result}");
    }
}
