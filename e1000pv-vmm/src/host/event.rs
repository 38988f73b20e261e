//! Eventfds: how threads of a machine wake each other.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use anyhow::Context;
use vmm_sys_util::eventfd::EventFd;

/// A new one that does not block in read(2).
pub fn event() -> anyhow::Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).context("creating an eventfd")
}

/// One as a descriptor to poll.
pub fn owned(event: EventFd) -> OwnedFd {
    // SAFETY: the descriptor is open, and `into_raw_fd` gave up its ownership.
    unsafe { OwnedFd::from_raw_fd(event.into_raw_fd()) }
}
