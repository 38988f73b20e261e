//! An epoll set with netmap descriptors in it, or with sets that have such: what of them it waits for.
//!
//! The kernel's set has them, too, for events that a bell never has (`RDBAND` for `EPOLLIN`, `WRBAND` for `EPOLLOUT`): so the
//! kernel judges what may be added, changed and removed, keeps the list across execve(2), where it is read from
//! /proc/self/fdinfo, and reports nothing of its own. Sets within a set it has as they are: of their ordinary members it tells.
//!
//! Invariant: a member counts as long as its descriptor leads to the handle that was added.

use crate::handle::Tails;
use crate::table::{self, Kind, Object, Ref};

const IN: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
const OUT: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONCE: u32 = libc::EPOLLONESHOT as u32;
const HIDDEN_IN: u32 = libc::EPOLLRDBAND as u32;
const HIDDEN_OUT: u32 = libc::EPOLLWRBAND as u32;

/// A netmap descriptor in a set, or a set.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub fd: i32,
    /// What was behind it.
    pub at: Ref,
    /// Events as the program asked for them.
    pub events: u32,
    /// What it gets back.
    pub data: u64,
    /// What it was told last: a descriptor that is reported at edges is told of what came since.
    pub seen: Option<Tails>,
    /// It was to be told once, and was.
    pub fired: bool,
}

impl Member {
    /// Whether it is reported at edges.
    pub fn is_edge(&self) -> bool {
        self.events & EDGE != 0
    }

    /// Whether it is a set itself.
    pub fn is_set(&self) -> bool {
        self.at.kind() == Kind::Set
    }

    /// Whether it is waited for to have something to tell.
    pub fn is_in(&self) -> bool {
        self.events & IN != 0
    }

    /// Whether it is reported once.
    pub fn is_once(&self) -> bool {
        self.events & ONCE != 0
    }
}

/// A set.
#[derive(Debug, Default)]
pub struct Set {
    /// Its members that are netmap's.
    pub members: Vec<Member>,
    /// Who is told first, when there is not room for all.
    pub turn: bool,
}

/// What the kernel's set is told of a netmap member.
#[must_use]
pub fn hide(events: u32) -> u32 {
    let mut hidden = events & (EDGE | ONCE);
    if events & IN != 0 {
        hidden |= HIDDEN_IN;
    }
    if events & OUT != 0 {
        hidden |= HIDDEN_OUT;
    }
    hidden
}

/// What the program had asked for, as far as it is needed; of what was never hidden, that.
#[must_use]
pub fn unhide(hidden: u32) -> u32 {
    if hidden & (IN | OUT) != 0 {
        return hidden;
    }
    let mut events = hidden & (EDGE | ONCE);
    if hidden & HIDDEN_IN != 0 {
        events |= libc::EPOLLIN as u32;
    }
    if hidden & HIDDEN_OUT != 0 {
        events |= libc::EPOLLOUT as u32;
    }
    events
}

impl Set {
    /// Whether netmap members are told of first, this time. Of a set within it the kernel's word comes first, so that it is told
    /// of once.
    pub fn take_turn(&mut self) -> bool {
        self.turn = !self.turn && !self.members.iter().any(Member::is_set);
        self.turn
    }

    /// Adds a member, or changes it.
    pub fn put(&mut self, fd: i32, at: Ref, events: u32, data: u64) {
        self.remove(fd);
        self.members.push(Member { fd, at, events, data, seen: None, fired: false });
    }

    /// Removes a member.
    pub fn remove(&mut self, fd: i32) {
        self.members.retain(|member| member.fd != fd);
    }

    /// The members that the kernel's set at `fd` has, by its own account, as far as they are known.
    pub fn of_kernel(fd: i32) -> Self {
        let mut set = Self::default();
        for entry in entries(fd) {
            if let Some(at) = table::find(entry.fd) {
                let events =
                    if at.kind() == Kind::Set { entry.events } else { unhide(entry.events) };
                set.put(entry.fd, at, events, entry.data);
            }
        }
        set
    }
}

/// A member as the kernel's set has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number when it was added.
    pub fd: i32,
    /// As the kernel was told.
    pub events: u32,
    /// What is told with them.
    pub data: u64,
}

/// The members of the kernel's set at `fd`; none, if it is no set.
pub fn entries(fd: i32) -> Vec<Entry> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    info.lines().filter_map(entry).collect()
}

impl Object for Set {
    fn kind(&self) -> Kind {
        Kind::Set
    }

    /// In a child of fork(2), a list that another thread was changing is lost.
    fn look_after_forks(&mut self, abandoned: bool) {
        if abandoned {
            std::mem::forget(std::mem::take(&mut self.members));
        }
    }

    /// Members whose descriptors were closed go.
    fn tidy(&mut self) {
        self.members.retain(|member| member.at.is_at(member.fd));
    }
}

impl Ref {
    /// As `with`, for a set.
    pub fn set<R>(&self, f: impl FnOnce(&mut Set) -> R) -> Option<R> {
        self.with(f)
    }
}

/// `tfd: 5 events: 19 data: ffffffff ...`: number, events and data.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let mut field = |name: &str| (words.next() == Some(name)).then(|| words.next()).flatten();
    let fd = field("tfd:")?.parse().ok()?;
    let events = u32::from_str_radix(field("events:")?, 16).ok()?;
    let data = u64::from_str_radix(field("data:")?, 16).ok()?;
    Some(Entry { fd, events, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_fdinfo_is_read() {
        let line =
            "tfd:        5 events:       8000001f data: deadbeef00000005  pos:0 ino:2b sdev:d";
        let read = Entry { fd: 5, events: 0x8000_001f, data: 0xdead_beef_0000_0005 };
        assert_eq!(entry(line), Some(read));
        for other in ["", "pos:\t0", "flags:\t02", "tfd: x events: 1 data: 2", "tfd: 1 events: 1"] {
            assert_eq!(entry(other), None, "{other}");
        }
    }

    #[test]
    fn events_that_are_hidden_come_back() {
        for events in [libc::EPOLLIN, libc::EPOLLOUT, libc::EPOLLIN | libc::EPOLLOUT] {
            for mode in [0, libc::EPOLLET, libc::EPOLLONESHOT] {
                let events = (events | mode) as u32;
                assert_eq!(unhide(hide(events)), events);
                assert_eq!(unhide(events), events);
                assert_eq!(hide(events) & (IN | OUT), 0, "a bell has these");
            }
        }
    }
}
