//! epoll with netmap descriptors in the set.
//!
//! Invariant: what is told of ordinary members comes from the kernel's set, untouched. What is told of netmap members
//! is what poll(2) tells, at once (level), once for what came since (edge), or once (`EPOLLONESHOT`).

use std::time::{Duration, Instant};

use libc::{epoll_event, pollfd, sigset_t};
use netmap::Interest;
use nix::errno::Errno;
use smallvec::SmallVec;

use crate::events::{self, interest};
use crate::next;
use crate::set::{self, Set};
use crate::table::{self, Kind, Object as _, Ref};
use crate::wait::{self, FEW, Timeout, Watched};

/// epoll_ctl(2) for a netmap descriptor.
pub fn ctl(set: i32, op: i32, fd: i32, event: Option<epoll_event>) -> Result<(), Errno> {
    let mut hidden = event;
    if let Some(event) = &mut hidden {
        event.events = set::hide(event.events);
    }
    let hidden = hidden.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: the event is ours.
    Errno::result(unsafe { next::epoll_ctl(set, op, fd, hidden) })?;
    let (Some(at), Some(held)) = (table::find_netmap(fd), held(set)) else {
        // SAFETY: takes back what was added; nobody could be told of it.
        unsafe { next::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
        return Err(Errno::ENOMEM);
    };
    held.set(|set| match event {
        Some(event) if op != libc::EPOLL_CTL_DEL => set.put(fd, at, event.events, event.u64),
        _ => set.remove(fd),
    });
    Ok(())
}

/// The set at a descriptor, made known if it was not.
fn held(set: i32) -> Option<Ref> {
    if table::kind(set) == Kind::Ordinary && !table::add(set, Set::default()) {
        return None;
    }
    table::find(set).filter(|found| found.kind() == Kind::Set)
}

/// Members that are waited for: bound ones. Others are in the kernel's set, and in error there.
pub fn watched(set: &Ref) -> SmallVec<[Watched; FEW]> {
    let of = |set: &mut Set| {
        set.tidy();
        set.members
            .iter()
            .filter(|member| !member.fired)
            .map(|member| {
                let what = interest(member.events as i16);
                let mut watched = Watched::new(member.at.clone(), member.fd, what);
                (watched.edge, watched.seen) = (member.is_edge(), member.seen);
                watched
            })
            .collect::<SmallVec<[Watched; FEW]>>()
    };
    let mut watched = set.set(of).unwrap_or_default();
    watched.retain(|w| w.at.netmap(|netmap| netmap.is_bound()).unwrap_or(false));
    watched
}

/// epoll_wait(2) and its kin.
///
/// # Errors
/// As theirs.
pub fn wait(
    fd: i32,
    set: &Ref,
    events: &mut [epoll_event],
    timeout: Timeout,
    mask: Option<&sigset_t>,
) -> Result<usize, Errno> {
    let start = Instant::now();
    let mut timeout = timeout;
    let whole = timeout;
    loop {
        let mut watched = watched(set);
        let mut kernel = [pollfd { fd, events: libc::POLLIN, revents: 0 }];
        wait::wait(&mut watched, &mut kernel, timeout, mask)?;
        let turn = set.set(Set::take_turn).unwrap_or(false);
        let mut n = 0;
        if turn {
            n = ours(set, &watched, events);
        }
        if kernel[0].revents != 0 && n < events.len() {
            n += theirs(fd, &mut events[n..])?;
        }
        if !turn {
            n += ours(set, &watched, &mut events[n..]);
        }
        // Another thread may have been quicker: then there is time left.
        if let Timeout::After(time) = whole {
            timeout = Timeout::After(time.saturating_sub(start.elapsed()));
        }
        if n > 0 || timeout == Timeout::After(Duration::ZERO) {
            return Ok(n);
        }
    }
}

/// What the kernel has to tell.
fn theirs(fd: i32, events: &mut [epoll_event]) -> Result<usize, Errno> {
    let most = events.len().min(i32::MAX as usize) as i32;
    // SAFETY: room for `most`.
    Errno::result(unsafe { next::epoll_wait(fd, events.as_mut_ptr(), most, 0) }).map(|n| n as usize)
}

/// What is told of netmap members.
fn ours(set: &Ref, watched: &[Watched], events: &mut [epoll_event]) -> usize {
    let tell = |set: &mut Set| {
        let mut n = 0;
        for found in watched.iter().filter(|found| found.is_over()) {
            let member = set.members.iter_mut().find(|m| m.fd == found.fd && !m.fired);
            let (Some(member), true) = (member, n < events.len()) else { continue };
            // Two threads that wait for one edge: it is told once.
            if member.is_edge() && !found.failed && member.seen != found.seen {
                continue;
            }
            let mut told = events::events(found.ready, member.events as i16) as u16 as u32;
            if found.failed {
                told |= libc::EPOLLERR as u32;
            }
            if told == 0 {
                continue;
            }
            // What is not ready now is news when it is.
            let mut seen = found.tails;
            let before = member.seen.unwrap_or_default();
            if !found.ready.contains(Interest::RX) {
                seen.rx = before.rx;
            }
            if !found.ready.contains(Interest::TX) {
                seen.tx = before.tx;
            }
            member.seen = Some(seen);
            member.fired = member.is_once();
            events[n] = epoll_event { events: told, u64: member.data };
            n += 1;
        }
        n
    };
    set.set(tell).unwrap_or(0)
}

/// What is behind a netmap descriptor was replaced, which the kernel's sets take for closed: it is added again.
pub fn rebound(at: &Ref) {
    for (fd, set) in table::known().filter_map(|fd| Some((fd, table::find(fd)?))) {
        if set.kind() != Kind::Set {
            continue;
        }
        set.set(|set| {
            for member in set.members.iter().filter(|member| member.at.is_same(at)) {
                let mut event = epoll_event { events: set::hide(member.events), u64: member.data };
                // SAFETY: the event is ours. Of a copy of the set, the first call was enough.
                unsafe { next::epoll_ctl(fd, libc::EPOLL_CTL_ADD, member.fd, &raw mut event) };
            }
        });
    }
}
