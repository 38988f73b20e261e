//! Which process is the bridge of an attached port.
//!
//! Invariant: a process is signalled only if the kernel shows it to be such a bridge, as a process of
//! this user's alone with the command line with which `attach` started it, and only through a
//! descriptor of that very process. What the shared files say about a port's users is not
//! sufficient: every process on the switch can write them, and could name any process of this user. Nor is the
//! command line alone, which every process on the machine can choose freely. A process of this user that
//! imitates a bridge deceives only its owner.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use netmap::control;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use super::PROGRAM;
use crate::cli::{BridgeOptions, Target};

/// A bridge, held so that its number cannot become another process's.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    fd: OwnedFd,
    was: Was,
}

/// What a bridge does.
#[derive(Clone, Debug, PartialEq)]
pub struct Was {
    /// Name of the port at its other end.
    pub far: String,
    /// How it runs.
    pub options: BridgeOptions,
}

/// The first arguments of a bridge.
pub fn arguments(name: &Target, far: &str) -> [String; 4] {
    ["-i".to_owned(), name.to_string(), "-i".to_owned(), far.to_owned()]
}

/// The bridges of a port in the root that this process uses, as far as this user started them.
pub fn find(name: &Target) -> anyhow::Result<Vec<Running>> {
    let Ok(root) = control::root().metadata() else { return Ok(Vec::new()) };
    let us = geteuid().as_raw();
    let ours = |pid| {
        // Checked before the command line is read. That is memory of the process, and the path in it is looked
        // up: a process of another user could make either block.
        let status = std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
        if !runs_as(&status, us) {
            return None;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        what_of(&line, name, (root.dev(), root.ino()))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("looking for the bridge")? {
        let file = entry.context("looking for the bridge")?.file_name();
        let Some(pid) = file.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if ours(pid.as_raw_pid()).is_none() {
            continue;
        }
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Again: between the two, the number may have become another process's.
            Ok(fd) => found.extend(ours(pid.as_raw_pid()).map(|was| Running { pid, fd, was })),
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error).context("looking at the bridge"),
        }
    }
    Ok(found)
}

/// Whether a process with this status has one user in every respect, and which: the owner of its
/// directory in /proc does not suffice, being root for every process that may not be dumped, nor does the
/// effective user, being root for setuid programs that any user runs.
fn runs_as(status: &[u8], uid: u32) -> bool {
    let status = String::from_utf8_lossy(status);
    let Some(uids) = status.lines().find_map(|line| line.strip_prefix("Uid:")) else {
        return false;
    };
    let uids: Vec<&str> = uids.split_whitespace().collect();
    // Real, effective, saved, of the file system.
    uids.len() == 4 && uids.iter().all(|word| word.parse() == Ok(uid))
}

/// What a bridge of `name` does, if a command line is that of such a bridge in the root with this device and number.
fn what_of(line: &[u8], name: &Target, root: (u64, u64)) -> Option<Was> {
    let mut words = line.split(|&byte| byte == 0);
    let program = words.next().unwrap_or_default();
    if Path::new(OsStr::from_bytes(program)).file_name() != Some(OsStr::new(PROGRAM)) {
        return None;
    }
    let first: Vec<_> = words.by_ref().take(4).map(String::from_utf8_lossy).collect();
    let is_interface = |far: &str| far.starts_with("tap:") || far.starts_with("xdp:");
    let far = first.get(3).filter(|far| is_interface(far))?.clone().into_owned();
    let is_bridge = first == arguments(name, &far)
        && words.next() == Some(b"--attached")
        && words.next().is_some_and(|dir| {
            let there = Path::new(OsStr::from_bytes(dir)).metadata();
            there.is_ok_and(|dir| (dir.dev(), dir.ino()) == root)
        });
    let mut options = BridgeOptions::default();
    while let Some(word) = words.next() {
        match word {
            b"--busy-poll" => options.busy_poll = true,
            b"--no-offload" => options.no_offload = true,
            b"--cpu" => {
                let cpu = words.next().map(String::from_utf8_lossy);
                options.cpu = cpu.and_then(|cpu| cpu.parse().ok());
            }
            _ => {}
        }
    }
    is_bridge.then_some(Was { far, options })
}

impl Running {
    /// Its number, for messages.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// What it does.
    pub fn was(&self) -> &Was {
        &self.was
    }

    /// Readable once it has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Asks it to end.
    pub fn terminate(&self) -> anyhow::Result<()> {
        match pidfd_send_signal(&self.fd, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => Ok(()), // it has ended by itself
            Err(error) => {
                Err(error).with_context(|| format!("ending the bridge (process {})", self.pid()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_a_user_in_every_respect_runs_as_that_user() {
        let is = |uids: &str| runs_as(format!("Name:\tnm-bridge\nUid:\t{uids}\n").as_bytes(), 0);
        assert!(is("0\t0\t0\t0"));
        for other in ["", "0", "2000\t0\t0\t0", "0\t2000\t0\t0", "2000\t2000\t2000\t2000"] {
            assert!(!is(other), "{other:?}");
        }
        assert!(!runs_as(b"", 0));
    }

    #[test]
    fn only_the_line_that_attach_gives_is_a_bridges() {
        let name = Target { switch: "valeA".into(), port: Some("t0".into()) };
        let shm = Path::new("/dev/shm").metadata().expect("a directory");
        let root = (shm.dev(), shm.ino());
        let what = |line: &str| what_of(line.replace(' ', "\0").as_bytes(), &name, root);
        let is = |line: &str| what(line).is_some();
        assert!(is("/usr/bin/nm-bridge -i valeA:t0 -i tap:t0 --attached /dev/shm --ready-fd 5 "));
        let elsewhere = "nm-bridge -i valeA:t0 -i tap:eth0@netns:c --attached /dev/shm";
        let options = BridgeOptions::default();
        assert_eq!(what(elsewhere), Some(Was { far: "tap:eth0@netns:c".into(), options }));
        let line = "--attached /dev/shm --ready-fd 5 --with 3 --busy-poll --no-offload --cpu 2 ";
        let options = BridgeOptions { busy_poll: true, no_offload: true, cpu: Some(2) };
        let was = Was { far: "xdp:t0".into(), options };
        assert_eq!(what(&format!("nm-bridge -i valeA:t0 -i xdp:t0 {line}")), Some(was));
        for other in [
            "",
            "nm-bridge",
            "nm-bridge -i valeA:t0 -i tap:t0",
            "nm-bridge -i valeA:t0 -i tap:t0 --attached /tmp",
            "nm-bridge -i valeA:t1 -i tap:t1 --attached /dev/shm",
            "nm-bridge -i valeA:t0 -i valeB:t0 --attached /dev/shm",
            "vi nm-bridge -i valeA:t0 -i tap:t0 --attached /dev/shm",
        ] {
            assert!(!is(other), "{other}");
        }
    }
}
