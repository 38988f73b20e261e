//! A veth pair for a test: each end in a network namespace that has no name and ends with the test, however that
//! ends.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output};

use netmap::Port;
use nix::sched::{CloneFlags, setns, unshare};

use crate::skip::skip;

/// The names of the two ends.
pub const ENDS: [&str; 2] = ["v0", "v1"];

/// Two namespaces, in each an end of the pair, both up.
pub struct Pair {
    /// Of the threads of this process that are in none of the two.
    home: File,
    ends: [File; 2],
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").expect("a namespace")
}

fn new_namespace() -> nix::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).map(|()| here())
}

/// Runs ip(8) in the namespace of this thread.
pub fn ip(line: &str) -> Output {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Pair {
    /// A pair with so many queues of each kind at either end; none where there can be none, which is said.
    pub fn new(test: &str, queues: u32) -> Option<Self> {
        let unable = |why: &str| skip(test, why);
        if !nix::unistd::Uid::effective().is_root() {
            unable("network namespaces need root");
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            unable("ip is not installed");
            return None;
        }
        let home = here();
        let ends = match new_namespace().and_then(|one| Ok([one, new_namespace()?])) {
            Ok(ends) => ends,
            Err(why) => {
                unable(&format!("no network namespace can be made here: {why}"));
                return None;
            }
        };
        let pair = Self { home, ends };
        let place = pair.place(1);
        pair.within(0, || {
            let of_each = format!("numtxqueues {queues} numrxqueues {queues}");
            let (one, other) = (ENDS[0], ENDS[1]);
            ip(&format!(
                "link add {one} {of_each} type veth peer name {other} {of_each} netns {place}"
            ));
        });
        for end in [0, 1] {
            pair.within(end, || {
                // Else the stacks greet each other while a test listens.
                let quiet = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", ENDS[end]);
                let _ = std::fs::write(quiet, "1");
                ip(&format!("link set {} up", ENDS[end]));
            });
        }
        if let Err(why) = pair.within(0, || Port::open("xdp:v0")) {
            unable(&format!("AF_XDP does not work here: {why}"));
            return None;
        }
        Some(pair)
    }

    /// What ip(8) calls the namespace of an end.
    pub fn place(&self, end: usize) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.ends[end].as_raw_fd())
    }

    /// Does something in the namespace of an end.
    pub fn within<T>(&self, end: usize, work: impl FnOnce() -> T) -> T {
        setns(self.ends[end].as_fd(), CloneFlags::CLONE_NEWNET).expect("it is there");
        let done = work();
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET).expect("it is there");
        done
    }

    /// Opens an end, with that behind its name.
    pub fn open(&self, end: usize, rest: &str) -> Port {
        let name = format!("xdp:{}{rest}", ENDS[end]);
        self.within(end, || Port::open(&name)).unwrap_or_else(|why| panic!("{why}"))
    }
}
