//! Waiting as poll(2) does with netmap descriptors among others: the ports are synced, and what is ready is the rings'.
//!
//! ```text
//!   sync       each port                                            ready, or no time? -> look at the others, end
//!   spin       if there are ports only, as long as a sleep costs
//!   (signals that can wait are held back from here on)
//!   +> arm     each port: ask for the bell, sync, look again         ready? -> end
//!   |  sleep   one ppoll on bells and other descriptors, with the program's mask, for LONGEST_SLEEP at most
//!   |  disarm  each port; sync
//!   +--------- nothing, and time is left
//! ```
//!
//! The steps are `netmap::WaitSet`'s, with ports that other threads use at the same time: each is locked for a step, and
//! none is during the sleep. The rules (flags, fences, who rings whom) are `Port::arm` and `Port::disarm`.
//!
//! Invariant: signals have no effect between the steps that they would not have on poll(2). One that arrives before
//! the spin's end has been handled as if it had come before the call; one that arrives later interrupts the sleep,
//! and only that.

use std::time::{Duration, Instant};

use libc::{pollfd, sigset_t};
use netmap::{Interest, WaitSet};
use nix::errno::Errno;
use smallvec::SmallVec;

use crate::handle::{Looked, Tails};
use crate::jumps::{self, Held};
use crate::process::Outside;
use crate::table::Ref;
use crate::{cancel, next};

/// As many descriptors wait without an allocation.
pub const FEW: usize = 16;
/// As `netmap::Wait::default` spins.
const SPIN: Duration = Duration::from_micros(50);
/// Looks for each reading of the clock.
const LOOKS: u32 = 16;

/// A netmap descriptor that is waited for.
#[derive(Debug)]
pub struct Watched {
    /// What is behind it.
    pub at: Ref,
    /// Its number.
    pub fd: i32,
    /// What is waited for.
    pub what: Interest,
    /// Only what has come since `seen` counts.
    pub edge: bool,
    /// What was told last.
    pub seen: Option<Tails>,
    /// What was found.
    pub ready: Interest,
    /// `POLLERR`.
    pub failed: bool,
    /// The rings when it was found.
    pub tails: Tails,
    armed: bool,
}

impl Watched {
    /// Waits for `what` on `fd`, behind which is `at`.
    pub fn new(at: Ref, fd: i32, what: Interest) -> Self {
        let (ready, failed, tails, armed) = (Interest::empty(), false, Tails::default(), false);
        Self { at, fd, what, edge: false, seen: None, ready, failed, tails, armed }
    }

    /// Whether there is something to tell.
    pub fn is_over(&self) -> bool {
        !self.ready.is_empty() || self.failed
    }

    fn step(
        &mut self,
        f: impl FnOnce(&mut crate::handle::Netmap, i32, Interest) -> Looked,
    ) -> bool {
        let (fd, what, edge) = (self.fd, self.what, self.edge);
        if !self.at.is_at(fd) {
            self.failed = true; // closed meanwhile
            return true;
        }
        let looked = self.at.netmap(|netmap| {
            let looked = f(netmap, fd, what);
            let tails = if edge { netmap.tails(fd) } else { Tails::default() };
            (looked, tails)
        });
        // A signal handler that polls what it interrupted finds nothing, and looks again later.
        let Some((Looked { mut ready, failed }, tails)) = looked else { return false };
        if let (true, Some(seen)) = (self.edge, self.seen) {
            ready.set(Interest::RX, ready.contains(Interest::RX) && tails.rx != seen.rx);
            ready.set(Interest::TX, ready.contains(Interest::TX) && tails.tx != seen.tx);
        }
        (self.ready, self.tails) = (ready, tails);
        self.failed |= failed;
        self.is_over()
    }

    fn look(&mut self) -> bool {
        self.step(|netmap, fd, what| netmap.look(fd, what))
    }

    fn arm(&mut self) -> bool {
        let mut armed = false;
        let over = self.step(|netmap, fd, what| {
            armed = true;
            netmap.arm(fd, what)
        });
        self.armed = armed;
        over
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.at.netmap(crate::handle::Netmap::disarm);
        }
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timeout {
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

impl Timeout {
    /// Of poll(2): milliseconds, negative for ever.
    pub fn of_ms(ms: i32) -> Self {
        u64::try_from(ms).map_or(Self::Never, |ms| Self::After(Duration::from_millis(ms)))
    }

    /// When that is over.
    pub fn deadline(self) -> Deadline {
        Deadline(match self {
            Self::Never => None,
            Self::After(Duration::ZERO) => Some(Instant::now()),
            Self::After(time) => Instant::now().checked_add(time),
        })
    }

    /// Of a time that the program gives.
    ///
    /// # Errors
    /// `EINVAL`: it is none.
    pub fn of_parts(secs: i64, nanos: i64) -> Result<Self, Errno> {
        match (u64::try_from(secs), u32::try_from(nanos)) {
            (Ok(secs), Ok(nanos)) if nanos < 1_000_000_000 => {
                Ok(Self::After(Duration::new(secs, nanos)))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// When a wait ends; `None`: never.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// How long that is from now.
    pub fn left(self) -> Timeout {
        let left = |at: Instant| Timeout::After(at.saturating_duration_since(Instant::now()));
        self.0.map_or(Timeout::Never, left)
    }

    fn is_over(self) -> bool {
        self.left() == Timeout::After(Duration::ZERO)
    }
}

/// Waits until one of the netmap descriptors or of the others is ready, or the time is over. `fds` is as for poll(2);
/// those that are not to be polled have a negative number.
///
/// # Errors
/// `EINTR`, and those of poll(2); `ECANCELED`: the thread was, and is to end.
pub fn wait(
    watched: &mut [Watched],
    fds: &mut [pollfd],
    timeout: Timeout,
    mask: Option<&sigset_t>,
) -> Result<(), Errno> {
    let others = fds.iter().any(|fd| fd.fd >= 0);
    let mut over = look(watched);
    if over {
        // As poll(2), a call that finds something is not interrupted.
        let looked = if others { poll_now(fds, None) } else { Ok(()) };
        return if looked == Err(Errno::EINTR) { Ok(()) } else { looked };
    }
    if timeout == Timeout::After(Duration::ZERO) {
        return poll_now(fds, mask);
    }
    let start = Instant::now();
    let deadline = timeout.deadline();
    if !others {
        over = spin(watched, start, deadline);
        if over {
            return Ok(());
        }
    }
    let held = Held::begin();
    let program = jumps::program_mask().unwrap_or(*held.before());
    let mask = mask.unwrap_or(&program);
    let n = fds.len();
    let mut all: SmallVec<[pollfd; FEW]> = SmallVec::from_slice(fds);
    // In the places of those that are not polled: more of them than a process may have open are refused.
    let mut free = (0..n).filter(|&i| fds[i].fd < 0);
    for w in watched.iter().filter(|w| !w.what.is_empty()) {
        let bell = pollfd { fd: w.fd, events: libc::POLLIN, revents: 0 };
        match free.next() {
            Some(i) => all[i] = bell,
            None => all.push(bell),
        }
    }
    while !over {
        over = arm(watched);
        let mut slept = Ok(());
        if !over {
            let longest = WaitSet::LONGEST_SLEEP;
            let sleep = match deadline.left() {
                Timeout::After(left) => left.min(longest),
                Timeout::Never => longest,
            };
            slept = ppoll(&mut all, Some(sleep), Some(mask));
        }
        watched.iter_mut().for_each(Watched::disarm);
        slept?;
        if cancel::is_asked() {
            return Err(Errno::ECANCELED);
        }
        let found = fds.iter().zip(&all).any(|(fd, now)| fd.fd >= 0 && now.revents != 0);
        over = look(watched) || found || deadline.is_over();
        if !over {
            // Rung for nothing, and a signal interrupts no sleep that somebody cuts short again and again.
            poll_now(&mut [], Some(mask))?;
        }
        if over && !found {
            break;
        }
        let polled = fds.iter_mut().zip(&all).filter(|(fd, _)| fd.fd >= 0);
        polled.for_each(|(fd, now)| fd.revents = now.revents);
    }
    // Those found beside a ready port, too: what is told is of one moment.
    if others && !fds.iter().any(|fd| fd.fd >= 0 && fd.revents != 0) {
        return poll_now(fds, None);
    }
    Ok(())
}

fn look(watched: &mut [Watched]) -> bool {
    watched.iter_mut().fold(false, |over, w| w.look() | over)
}

fn arm(watched: &mut [Watched]) -> bool {
    watched.iter_mut().fold(false, |over, w| w.arm() | over)
}

/// Looks again and again, as long as a sleep and a wake-up would take.
fn spin(watched: &mut [Watched], start: Instant, deadline: Deadline) -> bool {
    loop {
        for _ in 0..LOOKS {
            let news = |w: &Watched| w.at.netmap(|netmap| netmap.has_news()).unwrap_or(false);
            if watched.iter().any(|w| w.what.contains(Interest::RX) && news(w)) {
                if look(watched) {
                    return true;
                }
                break;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= SPIN || deadline.is_over() {
            return false;
        }
    }
}

fn ppoll(fds: &mut [pollfd], time: Option<Duration>, mask: Option<&sigset_t>) -> Result<(), Errno> {
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mask = mask.map_or(std::ptr::null(), std::ptr::from_ref);
    let _outside = Outside::begin();
    // SAFETY: as many entries as there are; time and mask live for the call.
    Errno::result(unsafe { next::ppoll(fds.as_mut_ptr(), fds.len() as u64, time, mask) }).map(drop)
}

/// What is ready now of other descriptors.
fn poll_now(fds: &mut [pollfd], mask: Option<&sigset_t>) -> Result<(), Errno> {
    ppoll(fds, Some(Duration::ZERO), mask)
}
