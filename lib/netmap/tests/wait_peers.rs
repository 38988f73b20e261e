//! Waiting while peers in other processes ring, or ring without end.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Lines, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{frame, in_own_root, read};
use netmap::{Interest, Port, Wait, WaitSet, Watch, WatchFd};
use nix::poll::PollFlags;

/// Far beyond anything that works: what takes longer has failed.
const FOR_EVER: Duration = Duration::from_secs(20);

const PEER: &str = "NM_TEST_PEER";

/// Another process, that sends what it is told to.
struct Peer {
    child: Child,
    ask: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts one. `test` is the calling test, which begins with `if obeyed() { return }`.
    fn start(test: &str) -> Peer {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args([test, "--exact", "--nocapture"])
            .env(PEER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        Peer { ask: child.stdin.take(), child, answers }
    }

    /// Lets it send a packet on that port.
    fn send(&mut self, port: &str) {
        writeln!(self.ask.as_ref().expect("open"), "{port}").expect("told");
        // The harness talks, too, and not always in lines of its own.
        while !self.answers.next().expect("an answer").expect("text").ends_with("sent") {}
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.child.wait();
    }
}

/// In the other process: does as it is told until nothing more comes.
fn obeyed() -> bool {
    if std::env::var_os(PEER).is_none() {
        return false;
    }
    let mut ports = HashMap::new();
    for name in std::io::stdin().lines() {
        let name = name.expect("text");
        let port = ports.entry(name.clone()).or_insert_with(|| Port::open(&name).expect("opened"));
        assert!(port.tx(0).push(&frame(0xff, 1, 0, 60)));
        port.txsync().expect("synced");
        println!("sent");
    }
    true
}

/// Each of two ports and a pipe ends the wait in its turn, and is the one that is said to be ready. Packets
/// come from another process.
#[test]
fn several_ports_and_a_descriptor_are_told_apart() {
    const NAME: &str = "several_ports_and_a_descriptor_are_told_apart";
    if obeyed() {
        return;
    }
    in_own_root(NAME, |_| {
        let (mut a, mut b) = (Port::open("valeA:r").expect("a"), Port::open("valeB:r").expect("b"));
        let mut peer = Peer::start(NAME);
        let (mut from, mut to) = pipe().expect("a pipe");
        for (round, how) in
            [Wait::Busy, Wait::default(), Wait::Block].into_iter().cycle().take(36).enumerate()
        {
            let mut ports = [Watch::new(&mut a, Interest::RX), Watch::new(&mut b, Interest::RX)];
            let mut fds = [WatchFd::new(from.as_fd(), PollFlags::POLLIN)];
            let mut set = WaitSet::new(&mut ports, &mut fds);
            let timeout = if round % 4 == 3 { Duration::from_millis(3) } else { FOR_EVER };
            let waited = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| set.wait(how, Some(timeout)).expect("waited"));
                match round % 4 {
                    0 => peer.send("valeA:s"),
                    1 => peer.send("valeB:s"),
                    2 => to.write_all(b"!").expect("written"),
                    _ => {}
                }
                waiter.join().expect("it ends")
            });
            let ready = [&ports[0], &ports[1]].map(|port| port.ready() == Interest::RX);
            let all = [ready[0], ready[1], fds[0].ready() == PollFlags::POLLIN];
            assert_eq!(waited.ready, round % 4 < 3, "{round}");
            assert_eq!(all, [0, 1, 2].map(|i| i == round % 4), "{round}");
            match round % 4 {
                0 => assert_eq!(read(&mut a, 0, 9).len(), 1),
                1 => assert_eq!(read(&mut b, 0, 9).len(), 1),
                2 => from.read_exact(&mut [0]).expect("one"),
                _ => {}
            }
        }
    });
}

/// The named pipes below a directory: all the bells.
fn bells(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("read").flatten() {
        let kind = entry.file_type().expect("there");
        if kind.is_dir() {
            found.extend(bells(&entry.path()));
        } else if kind.is_fifo() {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn bell_that_never_stops_ringing_keeps_nothing_from_ending_a_wait() {
    in_own_root("bell_that_never_stops_ringing_keeps_nothing_from_ending_a_wait", |root| {
        let mut port = Port::open("valeB:r").expect("opened");
        let stop = AtomicBool::new(false);
        let (from, mut to) = pipe().expect("a pipe");
        std::thread::scope(|scope| {
            let open = |bell| {
                let mut how = std::fs::File::options();
                how.write(true).custom_flags(libc::O_NONBLOCK).open(bell).expect("opened")
            };
            let mut bells: Vec<_> = bells(root).into_iter().map(open).collect();
            assert!(!bells.is_empty());
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for bell in &mut bells {
                        let _ = bell.write(&[1; 64]); // a full one rings as well
                    }
                }
            });
            let start = Instant::now();
            let timeout = Duration::from_millis(20);
            let mut wait = |timeout| {
                let mut ports = [Watch::new(&mut port, Interest::RX)];
                let mut fds = [WatchFd::new(from.as_fd(), PollFlags::POLLIN)];
                let mut set = WaitSet::new(&mut ports, &mut fds);
                let waited = set.wait(Wait::Block, Some(timeout)).expect("waited");
                (waited.ready, fds[0].ready())
            };
            let seen = wait(timeout);
            let took = start.elapsed();
            to.write_all(b"!").expect("written");
            let noticed = wait(FOR_EVER);
            stop.store(true, Ordering::Relaxed);
            assert!(!seen.0 && took >= timeout, "{seen:?} after {took:?}");
            assert_eq!(noticed, (true, PollFlags::POLLIN));
        });
    });
}
