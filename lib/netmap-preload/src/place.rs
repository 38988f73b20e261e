//! Where the library's own descriptors are: high, out of the way of the program's, and not open as far as the program
//! can tell.
//!
//! Invariant: a descriptor that the library keeps is in the table as private from the moment that it has its place
//! until the library closes it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{next, table};

/// The highest that descriptors are put: the kernel's table of a process grows with its highest number.
const HIGHEST: u64 = 1 << 16;
/// Numbers below the highest that are for the library.
const ROOM: u64 = 512;

/// Gives a descriptor its place. Where there is none (all numbers are in use), it stays where it is.
pub fn kept(fd: OwnedFd) -> OwnedFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid for writing.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let top = limit.rlim_cur.min(HIGHEST);
    let from = top.saturating_sub(ROOM).max(top / 2);
    // SAFETY: a new descriptor.
    let high =
        unsafe { next::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from as usize as *mut _) };
    let kept = if high < 0 {
        fd
    } else {
        // SAFETY: it is ours. `fd` is closed.
        unsafe { OwnedFd::from_raw_fd(high) }
    };
    table::hide(kept.as_raw_fd());
    kept
}
