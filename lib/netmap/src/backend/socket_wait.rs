//! What a port of unix sockets waits at: one descriptor for its sockets and for a timer that says when to look for a
//! peer again.
//!
//! Invariant: the timer runs only while there is something to be looked for, so that nobody wakes for nothing.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;

/// How often a peer is looked for.
pub const RETRY: Duration = Duration::from_millis(200);

/// The descriptor, which is readable for whatever it was asked for.
#[derive(Debug)]
pub struct SocketWait {
    epoll: Epoll,
    timer: TimerFd,
}

impl SocketWait {
    /// For the timer alone, which does not run.
    pub fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { epoll, timer })
    }

    /// Waits for a socket, too.
    pub fn add(&self, socket: impl AsFd, events: EpollFlags) -> nix::Result<()> {
        self.epoll.add(socket, EpollEvent::new(events, 0))
    }

    /// Waits for other events of a socket.
    pub fn change(&self, socket: impl AsFd, events: EpollFlags) -> nix::Result<()> {
        self.epoll.modify(socket, &mut EpollEvent::new(events, 0))
    }

    /// Waits for a socket no more.
    pub fn remove(&self, socket: impl AsFd) -> nix::Result<()> {
        self.epoll.delete(socket)
    }

    /// Lets the timer run, or not.
    pub fn retry(&self, yes: bool) -> nix::Result<()> {
        if yes {
            self.timer.set(Expiration::Interval(RETRY.into()), TimerSetTimeFlags::empty())
        } else {
            self.timer.unset()
        }
    }

    /// Whether the timer has struck since the last call.
    pub fn is_time(&self) -> bool {
        matches!(read(&self.timer, &mut [0; 8]), Ok(_) | Err(Errno::EINTR))
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
