//! The eventfds of a loop: by which the program wakes it, and by which it wakes the program.
//!
//! Invariant: they are copies of the program's, and so stay what they are as long as the loop has them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::pollfd;
use nix::errno::Errno;

use crate::abi::KickFds;
use crate::{next, place};

/// A copy of an eventfd of the program's.
#[derive(Debug)]
struct Event(Option<OwnedFd>);

impl Event {
    /// `EBADF`: it is not open; `EINVAL`: it is no eventfd.
    fn copy(fd: i32) -> Result<Self, Errno> {
        // SAFETY: a new descriptor.
        let copy = unsafe { next::fcntl(fd, libc::F_DUPFD_CLOEXEC, std::ptr::null_mut()) };
        // SAFETY: it is ours.
        let copy = unsafe { OwnedFd::from_raw_fd(Errno::result(copy)?) };
        let link = std::fs::read_link(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        if !link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventfd]") {
            return Err(Errno::EINVAL);
        }
        Ok(Self(Some(place::keep(copy))))
    }

    fn number(&self) -> i32 {
        self.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Adds one.
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes.
        unsafe { libc::write(self.number(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes all. There is something, and nobody else takes it, or this waits until there is more.
    fn clear(&self) {
        let mut all = [0; 8];
        // SAFETY: room for eight bytes.
        unsafe { libc::read(self.number(), all.as_mut_ptr().cast(), all.len()) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        place::let_go(self.number());
    }
}

/// Those of all rings, in the order of the tables.
#[derive(Debug, Default)]
pub struct Kicks(Vec<(Option<Event>, Option<Event>)>);

impl Kicks {
    /// Copies them; a number below 0 is none.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`: one is no eventfd.
    pub fn new(fds: &[KickFds]) -> Result<Self, Errno> {
        let event = |fd: i32| (fd >= 0).then(|| Event::copy(fd)).transpose();
        let both = |fds: &KickFds| Ok((event(fds.ioeventfd)?, event(fds.irqfd)?));
        fds.iter().map(both).collect::<Result<_, _>>().map(Self)
    }

    /// Whether every ring's program wakes the loop: then it can sleep until something happens.
    pub fn wake_for_all(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(wakes, _)| wakes.is_some())
    }

    /// Wakes the program that waits for a ring, if it can be woken.
    pub fn ring(&self, ring: u64) {
        if let Some((_, Some(event))) = self.0.get(ring as usize) {
            event.ring();
        }
    }

    /// Whether the program can be woken that waits for a ring.
    pub fn can_ring(&self, ring: u64) -> bool {
        self.0.get(ring as usize).is_some_and(|(_, event)| event.is_some())
    }

    /// Sleeps until the program rings, `bell` does, or so many milliseconds are over, or a signal comes.
    pub fn sleep(&self, bell: i32, ms: i32) {
        let of = |fd| pollfd { fd, events: libc::POLLIN, revents: 0 };
        let events = self.0.iter().map(|(wakes, _)| wakes.as_ref().map_or(-1, Event::number));
        let mut fds: Vec<pollfd> = std::iter::once(bell).chain(events).map(of).collect();
        // SAFETY: as many as there are.
        if unsafe { next::poll(fds.as_mut_ptr(), fds.len() as u64, ms) } <= 0 {
            return;
        }
        for (fd, (wakes, _)) in fds[1..].iter().zip(&self.0) {
            if let (Some(wakes), true) = (wakes, fd.revents & libc::POLLIN != 0) {
                wakes.clear();
            }
        }
    }
}
