//! A veth pair for a test: each end in a network namespace that has no name and ends with the test, however that
//! ends.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output};

use netmap::{Error, Port};
use nix::sched::{CloneFlags, setns, unshare};

use crate::skip::skip;

#[path = "../common/patient.rs"]
mod patient;

use patient::patient;

/// The names of the two ends.
pub const ENDS: [&str; 2] = ["v0", "v1"];

/// A network namespace. Its interfaces go with the last who uses it.
pub struct Namespace(File);

fn here() -> File {
    File::open("/proc/thread-self/ns/net").expect("a namespace")
}

fn enter(namespace: &File) {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("it is there");
}

impl Namespace {
    /// A new one.
    pub fn new() -> nix::Result<Self> {
        let home = here();
        unshare(CloneFlags::CLONE_NEWNET)?;
        let new = here();
        enter(&home);
        Ok(Self(new))
    }

    /// Does something in it: opens ports, starts programs.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let home = here();
        enter(&self.0);
        let done = work();
        enter(&home);
        done
    }

    /// What ip(8) calls it.
    pub fn place(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs ip(8) in the namespace of this thread.
pub fn ip(line: &str) -> Output {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Two namespaces, in each an end of the pair, both up.
pub struct Pair {
    ends: [Namespace; 2],
}

impl Pair {
    /// A pair with so many queues of each kind at either end; none where there can be none, which is said.
    pub fn new(test: &str, queues: u32) -> Option<Self> {
        match Self::try_new(queues) {
            Ok(pair) => Some(pair),
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    fn try_new(queues: u32) -> Result<Self, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".into());
        }
        if Command::new("ip").arg("-V").output().is_err() {
            return Err("ip is not installed".into());
        }
        let namespace = || {
            Namespace::new().map_err(|why| format!("no network namespace can be made here: {why}"))
        };
        let pair = Self { ends: [namespace()?, namespace()?] };
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
        match pair.within(0, || Port::open("xdp:v0")) {
            Ok(_) => Ok(pair),
            Err(why @ (Error::NotPermitted { .. } | Error::Unavailable { .. })) => {
                Err(format!("AF_XDP does not work here: {why}"))
            }
            Err(why) => panic!("{why}"),
        }
    }

    /// Does something in the namespace of an end.
    pub fn within<T>(&self, end: usize, work: impl FnOnce() -> T) -> T {
        self.ends[end].within(work)
    }

    /// What ip(8) calls the namespace of an end.
    pub fn place(&self, end: usize) -> String {
        self.ends[end].place()
    }

    /// Opens an end, with that behind its name.
    pub fn open(&self, end: usize, rest: &str) -> Port {
        let name = format!("xdp:{}{rest}", ENDS[end]);
        self.within(end, || patient(|| Port::open(&name))).unwrap_or_else(|why| panic!("{why}"))
    }
}
