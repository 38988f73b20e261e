//! epoll with netmap descriptors in the set.
//!
//! Invariant: what is told of ordinary members comes from the kernel's set, untouched. What is told of netmap members
//! is what poll(2) tells, at once (level), once for what came since (edge), or once (`EPOLLONESHOT`). A set within a set is told of
//! if the kernel tells of it, or any netmap member of it has something to tell, however deep: once.

use std::time::{Duration, Instant};

use libc::{epoll_event, pollfd, sigset_t};
use netmap::Interest;
use nix::errno::Errno;
use smallvec::SmallVec;

use crate::events::{self, interest};
use crate::handle::Tails;
use crate::next;
use crate::set::{self, Member, Set};
use crate::table::{self, Kind, Object as _, Ref};
use crate::wait::{self, FEW, Timeout, Watched};

/// Sets within sets, as deep as the kernel allows.
const DEEPEST: u32 = 5;

/// epoll_ctl(2) for a netmap descriptor, or for a set that has such.
pub fn ctl(set: i32, op: i32, fd: i32, event: Option<epoll_event>) -> Result<(), Errno> {
    let mut told = event;
    if let Some(told) = &mut told
        && table::kind(fd) == Kind::Netmap
    {
        told.events = set::hide(told.events);
    }
    let told = told.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: the event is ours.
    Errno::result(unsafe { next::epoll_ctl(set, op, fd, told) })?;
    let (Some(at), Some(held)) = (table::find(fd), held(set)) else {
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

/// The set at a descriptor, made known if it was not, with those that have it.
fn held(set: i32) -> Option<Ref> {
    let is_new = table::kind(set) == Kind::Ordinary;
    if is_new && !table::add(set, Set::default()) {
        return None;
    }
    let found = table::find(set).filter(|found| found.kind() == Kind::Set);
    if let (true, Some(found)) = (is_new, &found) {
        adopt(set, found);
    }
    found
}

/// What was just made known is a member of sets that have it already.
pub fn adopt(fd: i32, at: &Ref) {
    let Ok(names) = std::fs::read_dir("/proc/self/fd") else { return };
    let sets = names.filter_map(|name| {
        let name = name.ok()?;
        let link = std::fs::read_link(name.path()).ok()?;
        let is_set = link.as_os_str() == "anon_inode:[eventpoll]";
        is_set.then(|| name.file_name().to_str()?.parse::<i32>().ok()).flatten()
    });
    // All of them first: the directory is being read.
    for set in sets.collect::<Vec<_>>() {
        for entry in set::entries(set).into_iter().filter(|entry| entry.fd == fd) {
            let Some(held) = held(set) else { continue };
            held.set(|set| set.put(fd, at.clone(), set::unhide(entry.events), entry.data));
            if at.kind() == Kind::Netmap {
                let mut event =
                    epoll_event { events: set::hide(set::unhide(entry.events)), u64: entry.data };
                // SAFETY: the event is ours. If it has gone meanwhile, there is nothing to hide.
                unsafe { next::epoll_ctl(set, libc::EPOLL_CTL_MOD, fd, &raw mut event) };
            }
        }
    }
}

/// What is waited for in a set.
#[derive(Debug, Default)]
pub struct All {
    /// Netmap descriptors.
    pub watched: SmallVec<[Watched; FEW]>,
    /// Of which member of the set each is told.
    of: SmallVec<[i32; FEW]>,
}

/// Members that are waited for: bound ones. Others are in the kernel's set, and in error there.
pub fn watched(set: &Ref) -> All {
    let mut all = All::default();
    collect(set, None, 0, &mut all);
    all
}

fn collect(set: &Ref, within: Option<(i32, bool)>, depth: u32, all: &mut All) {
    let of = |set: &mut Set| {
        set.tidy();
        let waits = set.members.iter().filter(|member| !member.fired);
        waits.cloned().collect::<SmallVec<[Member; FEW]>>()
    };
    for member in set.set(of).unwrap_or_default() {
        let (of, is_edge) = within.unwrap_or((member.fd, member.is_edge()));
        if member.is_set() {
            if depth < DEEPEST && member.is_in() {
                collect(&member.at, Some((of, is_edge)), depth + 1, all);
            }
        } else if member.at.netmap(|netmap| netmap.is_bound()).unwrap_or(false) {
            let what = interest(member.events as i16);
            let mut watched = Watched::new(member.at.clone(), member.fd, what);
            (watched.edge, watched.seen) = (is_edge || member.is_edge(), member.seen);
            all.watched.push(watched);
            all.of.push(of);
        }
    }
}

impl All {
    /// Those of a member of the set.
    fn of(&self, fd: i32) -> impl Iterator<Item = &Watched> {
        self.watched.iter().zip(&self.of).filter(move |&(_, &of)| of == fd).map(|(found, _)| found)
    }
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
        let mut all = watched(set);
        let mut kernel = [pollfd { fd, events: libc::POLLIN, revents: 0 }];
        wait::wait(&mut all.watched, &mut kernel, timeout, mask)?;
        let turn = set.set(Set::take_turn).unwrap_or(false);
        let mut n = 0;
        if turn {
            n = ours(fd, set, &all, events, 0);
        }
        if kernel[0].revents != 0 && n < events.len() {
            n += theirs(fd, set, &mut events[n..])?;
        }
        if !turn {
            n = ours(fd, set, &all, events, n);
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
fn theirs(fd: i32, set: &Ref, events: &mut [epoll_event]) -> Result<usize, Errno> {
    let most = events.len().min(i32::MAX as usize) as i32;
    // SAFETY: room for `most`.
    let told = unsafe { next::epoll_wait(fd, events.as_mut_ptr(), most, 0) };
    let n = Errno::result(told)? as usize;
    // Of sets that are told of once, that was it.
    set.set(|set| {
        let once = set.members.iter_mut().filter(|member| member.is_set() && member.is_once());
        for member in once {
            let data = member.data;
            member.fired |= events[..n].iter().any(|event| event.u64 == data);
        }
    });
    Ok(n)
}

/// What is told of netmap members, behind the `told` events that are there. How many that makes.
fn ours(fd: i32, set: &Ref, all: &All, events: &mut [epoll_event], told: usize) -> usize {
    let (mut n, room) = (told, events.len());
    set.set(|set| {
        for member in set.members.iter_mut().filter(|member| !member.fired) {
            let bits = if member.is_set() { inner(member, all) } else { outer(member, all) };
            if bits == 0 {
                continue;
            }
            let data = member.data;
            let known =
                events[..told].iter_mut().find(|event| member.is_set() && event.u64 == data);
            match known {
                Some(event) => event.events |= bits,
                None if n == room => break,
                None => {
                    events[n] = epoll_event { events: bits, u64: data };
                    n += 1;
                }
            }
            seen(member, all);
            member.fired = member.is_once();
            if member.fired && member.is_set() {
                let mut event = epoll_event { events: libc::EPOLLONESHOT as u32, u64: data };
                // SAFETY: the event is ours. The kernel is not to tell of it, either.
                unsafe { next::epoll_ctl(fd, libc::EPOLL_CTL_MOD, member.fd, &raw mut event) };
            }
        }
    });
    n
}

/// The events of a netmap member that are told.
fn outer(member: &Member, all: &All) -> u32 {
    let Some(found) = all.of(member.fd).find(|found| found.is_over()) else { return 0 };
    // Two threads that wait for one edge: it is told once.
    if member.is_edge() && !found.failed && member.seen != found.seen {
        return 0;
    }
    let failed = if found.failed { libc::EPOLLERR as u32 } else { 0 };
    u32::from(events::events(found.ready, member.events as i16) as u16) | failed
}

/// The events of a member that is a set.
fn inner(member: &Member, all: &All) -> u32 {
    let is_over = all.of(member.fd).any(Watched::is_over);
    if !is_over || member.is_edge() && member.seen == Some(sum(member.fd, all)) {
        return 0;
    }
    member.events & (libc::EPOLLIN | libc::EPOLLRDNORM) as u32
}

/// Another value means that something was added, to any of those in a set.
fn sum(fd: i32, all: &All) -> Tails {
    all.of(fd).fold(Tails::default(), |sum, found| Tails {
        rx: sum.rx.wrapping_add(found.tails.rx),
        tx: sum.tx.wrapping_add(found.tails.tx),
    })
}

/// What was told is news no more; what is not ready now is news when it is.
fn seen(member: &mut Member, all: &All) {
    if member.is_set() {
        member.seen = Some(sum(member.fd, all));
        return;
    }
    let before = member.seen.unwrap_or_default();
    if let Some(found) = all.of(member.fd).next() {
        let mut seen = found.tails;
        if !found.ready.contains(Interest::RX) {
            seen.rx = before.rx;
        }
        if !found.ready.contains(Interest::TX) {
            seen.tx = before.tx;
        }
        member.seen = Some(seen);
    }
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
