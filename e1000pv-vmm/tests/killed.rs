//! Guests are killed at random moments, while they boot, attach, send and forward; those who are left
//! notice nothing: a watched pair of ports exchanges numbered packets without losing one, another
//! guest answers, and the switch is clean afterwards.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netmap::{Interest, Options, Port, Wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[path = "../../lib/netmap/tests/common/rng.rs"]
mod rng;
mod support;
use rng::Rng;
use support::{frame, kvm, output, record, root, stderr, vmm};

const KILLS: u32 = 100;
/// Far beyond anything that works.
const TIMEOUT: Duration = Duration::from_secs(20);
/// No victim lives longer without having sent; those that are killed early boot in this time.
const BOOT: Duration = Duration::from_millis(80);
/// The guest that victims send to.
const ECHO: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Ports of this process.
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PAIR: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]];
/// Packets of the pair under way at most: fewer than a ring takes, so none may be lost.
const WINDOW: u32 = 64;

/// What victims do: every discipline, both ways to transmit, short and long packets, and middleboxes,
/// which are killed while they receive as well.
const VICTIMS: [&[&str]; 5] = [
    &["--driver", "csb", "--guest", "tx dst=02:00:00:00:00:01"],
    &["--driver", "csb", "--netdev", "port=valeF:victim", "--guest", "forward"],
    &["--driver", "plain", "--guest", "tx dst=02:00:00:00:00:01 size=1514"],
    &["--driver", "csb", "--tx-mode", "inline", "--guest", "tx dst=02:00:00:00:00:01 size=600"],
    &["--driver", "combine", "--indirect", "off", "--guest", "tx dst=02:00:00:00:00:01"],
];

/// A root directory for this process as well as for machines.
fn shared_root() -> tempfile::TempDir {
    let root = root();
    // SAFETY: the only test of this program calls this before anything reads the environment.
    unsafe { std::env::set_var("NETMAP_ROOT", root.path()) };
    root
}

fn open(name: &str) -> Port {
    Port::open_with(&name.parse().expect(name), &Options::default()).expect(name)
}

/// Sends a frame; a full ring is retried.
fn send(port: &mut Port, frame: &[u8]) {
    while !port.tx(0).push(frame) {
        port.txsync().expect("the port is ours");
    }
    port.txsync().expect("the port is ours");
}

/// Takes what has come.
fn receive(port: &mut Port, mut each: impl FnMut(&[u8])) {
    port.rxsync().expect("the port is ours");
    let mut ring = port.rx(0);
    let mut taken = 0;
    for slot in ring.batch(usize::MAX) {
        each(&slot.frame().to_vec());
        taken += 1;
    }
    ring.advance(taken);
}

/// Two ports of this process, one of which sends to the other all the time.
struct Pair {
    received: Arc<(Mutex<u32>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Pair {
    fn start() -> Pair {
        let received = Arc::new((Mutex::new(0), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (mut from, mut to) = (open("valeK:from"), open("valeK:to"));
            let (mut sent, mut seen) = (0, 0);
            // The switch learns where both are, so that nothing of this is flooded.
            send(&mut to, &frame::make(PAIR[0], PAIR[1], frame::PING, 0, 60));
            while !stopped.load(Ordering::Relaxed) {
                while sent - seen < WINDOW {
                    let size = 60 + (sent as usize * 37) % 1000;
                    send(&mut from, &frame::make(PAIR[1], PAIR[0], frame::SEQ, sent, size));
                    sent += 1;
                }
                let ready = to.wait(Interest::RX, Wait::Block, Some(TIMEOUT));
                assert_eq!(ready.expect("the port is ours"), Interest::RX, "the pair stands still");
                let before = seen;
                receive(&mut to, |packet| {
                    // Flooded before the switch knew the guest.
                    if packet[..6] != PAIR[1] {
                        return;
                    }
                    let read = frame::read(packet, packet.len()).expect("a whole packet");
                    assert_eq!((read.src, read.seq), (PAIR[0], seen), "lost, again or torn");
                    seen += 1;
                });
                // Those of the other direction are of no interest, but fill the ring.
                receive(&mut from, |_| {});
                if seen != before {
                    *tell.0.lock().expect("nobody panics with it") = seen;
                    tell.1.notify_all();
                }
                // A rate, not a wait: the CPUs are for the victims.
                thread::sleep(Duration::from_micros(200));
            }
        });
        Pair { received, stop, thread }
    }

    /// Waits until whatever was under way now has arrived.
    fn goes_on(&self) {
        let (count, told) = &*self.received;
        let mut count = count.lock().expect("the pair's thread lives");
        let goal = *count + 2 * WINDOW;
        let end = Instant::now() + TIMEOUT;
        while *count < goal {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !self.thread.is_finished(), "the pair stands still");
            count =
                told.wait_timeout(count, left.min(Duration::from_millis(100))).expect("lives").0;
        }
    }

    fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every packet of the pair arrived, once and in order");
        *self.received.0.lock().expect("nobody panics with it")
    }
}

/// A machine, with a record every few milliseconds. Killed when dropped.
struct Machine {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Machine {
    fn start(root: &Path, args: &[&str]) -> Machine {
        let reports = ["--accel", "kvm", "--json", "--interval", "5ms"];
        let mut command: Command = vmm(root, &[&reports, args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("e1000pv-vmm starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Machine { child, out }
    }

    /// Waits until a counter of its first NIC is not 0 any more.
    fn until(&mut self, counter: &str) {
        let end = Instant::now() + TIMEOUT;
        let mut line = String::new();
        while Instant::now() < end {
            line.clear();
            let n = self.out.read_line(&mut line).expect("text");
            assert_ne!(n, 0, "the machine ended before its {counter}");
            let record: Value = serde_json::from_str(&line).expect("a record a line");
            if record["counters"]["nics"][0][counter].as_u64() > Some(0) {
                return;
            }
        }
        panic!("no {counter} within {TIMEOUT:?}: {line}");
    }

    /// Reads on, so that reports don't block the machine; the last one.
    fn drain(mut self) -> JoinHandle<(Machine, Value)> {
        thread::spawn(move || {
            let mut text = String::new();
            self.out.read_to_string(&mut text).expect("text");
            let last = text.lines().last().expect("a record");
            let record = serde_json::from_str(last).expect("JSON");
            (self, record)
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine that runs to the end of the test, and is asked for its record then.
struct Bystander {
    pid: Pid,
    reader: JoinHandle<(Machine, Value)>,
}

impl Bystander {
    fn start(root: &Path, ready: &str, args: &[&str]) -> Bystander {
        let mut machine = Machine::start(root, args);
        machine.until(ready);
        let pid = Pid::from_raw(machine.child.id().cast_signed());
        Bystander { pid, reader: machine.drain() }
    }

    fn finish(self) -> Value {
        kill(self.pid, Signal::SIGTERM).expect("our child");
        let (mut machine, record) = self.reader.join().expect("records");
        let status = machine.child.wait().expect("our child");
        assert_eq!(status.code(), Some(0), "{record}");
        for nic in record["counters"]["nics"].as_array().expect("NICs") {
            for key in ["tx_bad", "rx_bad", "csb_bad", "bad_accesses"] {
                assert_eq!(nic[key], 0, "{key} in {record}");
            }
        }
        record
    }
}

/// Sends pings to the other guest until one is answered: its ring may still be full of what victims
/// sent.
fn guest_answers(asker: &mut Port, seq: &mut u32) {
    let end = Instant::now() + TIMEOUT;
    loop {
        send(asker, &frame::make(ECHO, ASKER, frame::PING, *seq, 60));
        *seq += 1;
        asker
            .wait(Interest::RX, Wait::Block, Some(Duration::from_millis(20)))
            .expect("the port is ours");
        let mut answered = false;
        receive(asker, |packet| {
            answered |= frame::read(packet, 60)
                .is_ok_and(|read| (read.dst, read.kind) == (ASKER, frame::PONG));
        });
        if answered {
            return;
        }
        assert!(Instant::now() < end, "the other guest does not answer");
    }
}

#[test]
fn guest_killed_at_random_moments_disturbs_nobody() {
    if !kvm("guest_killed_at_random_moments_disturbs_nobody") {
        return;
    }
    let root = shared_root();
    let path = root.path();
    let echo = ["--netdev", "port=valeK:echo", "--device", "mac=02:00:00:00:00:01"];
    let echo = [&echo[..], &["--name", "echo", "--guest", "echo"]].concat();
    let echo = Bystander::start(path, "rdt_writes", &echo);
    // What middleboxes forward.
    let feeder = ["--netdev", "port=valeF:feeder", "--name", "feeder", "--guest"];
    let feeder = [&feeder[..], &["tx dst=02:00:00:00:00:01 rate=50k burst=16"]].concat();
    let feeder = Bystander::start(path, "tx_packets", &feeder);
    let (mut asker, mut seq) = (open("valeK:asker"), 0);
    guest_answers(&mut asker, &mut seq);
    let pair = Pair::start();
    let victim = ["--name", "victim", "--netdev", "port=valeK:victim"];

    let mut rng = Rng::random();
    for round in 0..KILLS {
        let what = VICTIMS[round as usize % VICTIMS.len()];
        let mut machine = Machine::start(path, &[&victim[..], what].concat());
        if round % 2 == 0 {
            machine.until("tx_packets");
            thread::sleep(Duration::from_nanos(rng.below(5_000_000)));
        } else {
            thread::sleep(Duration::from_nanos(rng.below(BOOT.as_nanos() as u64)));
        }
        machine.child.kill().expect("our child");
        assert_eq!(machine.child.wait().expect("our child").code(), None, "{what:?} ended before");
        pair.goes_on();
        guest_answers(&mut asker, &mut seq);
    }

    assert!(pair.finish() >= KILLS * 2 * WINDOW);
    let echo = echo.finish();
    assert_eq!(echo["guest"]["bad"], 0, "no torn packet: {echo}");
    assert_eq!(feeder.finish()["guest"]["unsent"], 0);
    // Name and port are free, nothing of the dead is left.
    let last = ["--guest", "tx count=1000", "--json", "--timeout", "20s"];
    let last = output(vmm(path, &[&victim[..], &last].concat()));
    assert_eq!(last.status.code(), Some(0), "{}", stderr(&last));
    assert_eq!(record(&last)["guest"]["packets"], 1000);
    drop(asker);
    drop(open("valeF:victim"));
    for left in ["valeK", "valeF"] {
        assert!(!path.join(left).exists(), "{left} was left behind");
    }
    for left in ["mem", "vm"] {
        let files: Vec<_> = path.join(left).read_dir().expect("a directory").collect();
        assert!(files.is_empty(), "{left}: {files:?}");
    }
}
