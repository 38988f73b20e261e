//! poll(2), ppoll(2), select(2) and pselect(2) with netmap descriptors among others.
//!
//! Invariant: what is told of ordinary descriptors comes from the kernel, and so does every error.

use std::time::Duration;

use libc::{POLLERR, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM, pollfd, sigset_t};
use nix::errno::Errno;
use smallvec::SmallVec;

use crate::epoll;
use crate::events::{events, interest};
use crate::table::{self, Kind};
use crate::wait::{self, FEW, Timeout, Watched};

/// Whether there is a descriptor among these that is not ordinary.
#[inline]
pub fn concerns(fds: &[pollfd]) -> bool {
    fds.iter().any(|fd| matches!(table::kind(fd.fd), Kind::Netmap | Kind::Set))
}

/// poll(2): the number of descriptors that are told of.
///
/// # Errors
/// As poll(2).
pub fn poll(fds: &mut [pollfd], timeout: Timeout, mask: Option<&sigset_t>) -> Result<usize, Errno> {
    let mut watched: SmallVec<[Watched; FEW]> = SmallVec::new();
    // Entry of `fds` for which each is watched.
    let mut of: SmallVec<[usize; FEW]> = SmallVec::new();
    let mut kernel: SmallVec<[pollfd; FEW]> = SmallVec::from_slice(fds);
    let mut unbound: SmallVec<[usize; FEW]> = SmallVec::new();
    for (i, fd) in fds.iter_mut().enumerate() {
        fd.revents = 0;
        kernel[i].revents = 0;
        let Some(at) = table::find(fd.fd) else { continue };
        match at.kind() {
            Kind::Set => {
                let members = epoll::watched(&at).watched;
                if fd.events & (POLLIN | POLLRDNORM) != 0 {
                    of.extend(std::iter::repeat_n(i, members.len()));
                    watched.extend(members);
                }
            }
            _ if at.netmap(|netmap| netmap.is_bound()).unwrap_or(true) => {
                kernel[i].fd = -1;
                of.push(i);
                watched.push(Watched::new(at, fd.fd, interest(fd.events)));
            }
            _ => unbound.push(i), // what stands in for it is in error
        }
    }
    wait::wait(&mut watched, &mut kernel, timeout, mask)?;
    for (fd, kernel) in fds.iter_mut().zip(&kernel) {
        fd.revents |= kernel.revents;
    }
    for &i in &unbound {
        fds[i].revents &= POLLERR | POLLNVAL;
    }
    for (found, &i) in watched.iter().zip(&of).filter(|(found, _)| found.is_over()) {
        if found.fd != fds[i].fd {
            fds[i].revents |= fds[i].events & (POLLIN | POLLRDNORM); // a set with something to tell
            continue;
        }
        fds[i].revents |= events(found.ready, fds[i].events);
        if found.failed {
            fds[i].revents |= POLLERR;
        }
    }
    Ok(fds.iter().filter(|fd| fd.revents != 0).count())
}

/// Between two looks at descriptors that select(2) has nothing to tell of.
const PAUSE: Duration = Duration::from_millis(10);

/// The bits of a `fd_set`, which may be longer than the type is.
#[derive(Debug)]
pub struct Bits<'a>(pub Option<&'a mut [u64]>);

impl Bits<'_> {
    fn has(&self, fd: usize) -> bool {
        self.0.as_ref().is_some_and(|words| words[fd / 64] & 1 << (fd % 64) != 0)
    }

    fn clear(&mut self, fd: usize) {
        if let Some(words) = &mut self.0 {
            words[fd / 64] &= !(1 << (fd % 64));
        }
    }
}

/// Whether there is a descriptor among these that is not ordinary.
pub fn select_concerns(n: usize, sets: &[Bits<'_>; 3]) -> bool {
    let wanted = |fd: usize| sets.iter().any(|set| set.has(fd));
    (0..n).any(|fd| matches!(table::kind(fd as i32), Kind::Netmap | Kind::Set) && wanted(fd))
}

/// select(2): the number of bits that are set afterwards.
///
/// # Errors
/// As select(2); the sets are unchanged then.
pub fn select(
    n: usize,
    sets: &mut [Bits<'_>; 3],
    timeout: Timeout,
    mask: Option<&sigset_t>,
) -> Result<usize, Errno> {
    const ASKED: [i16; 3] = [POLLIN, POLLOUT, POLLPRI];
    // What counts as ready in each set.
    const TOLD: [i16; 3] = [
        POLLIN | POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | POLLERR,
        POLLOUT | POLLWRNORM | libc::POLLWRBAND | POLLERR,
        POLLPRI,
    ];
    let mut fds: SmallVec<[pollfd; FEW]> = SmallVec::new();
    for fd in 0..n {
        let asked = (0..3).filter(|&i| sets[i].has(fd)).fold(0, |all, i| all | ASKED[i]);
        if asked != 0 {
            fds.push(pollfd { fd: fd as i32, events: asked, revents: 0 });
        }
    }
    let is_told = |fd: &pollfd| {
        (0..3).any(|i| sets[i].has(fd.fd as usize) && fd.revents & (TOLD[i] | POLLNVAL) != 0)
    };
    let deadline = timeout.deadline();
    loop {
        poll(&mut fds, deadline.left(), mask)?;
        let over = deadline.left() == Timeout::After(Duration::ZERO);
        if over || fds.iter().any(is_told) || fds.iter().all(|fd| fd.revents == 0) {
            break;
        }
        // Of descriptors that have hung up or failed, poll(2) tells always, and select(2) not to who waits for something else:
        // these are looked at now and then.
        let mut others = fds.clone();
        others.iter_mut().filter(|fd| fd.revents != 0).for_each(|fd| fd.fd = -1);
        poll(&mut others, deadline.left().min(Timeout::After(PAUSE)), mask)?;
    }
    if fds.iter().any(|fd| fd.revents & POLLNVAL != 0) {
        return Err(Errno::EBADF);
    }
    let mut told = 0;
    for fd in &fds {
        for (i, set) in sets.iter_mut().enumerate() {
            if !set.has(fd.fd as usize) {
                continue;
            }
            if fd.revents & TOLD[i] != 0 {
                told += 1;
            } else {
                set.clear(fd.fd as usize);
            }
        }
    }
    Ok(told)
}
