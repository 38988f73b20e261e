//! Where the library's own descriptors are: high, out of the way of the program's, and not open as far as the program
//! can tell.
//!
//! Invariant: a descriptor that the library keeps is in the table as private from the moment that it has its place
//! until the library lets it go; and nothing else is kept from the program: a number behind which the program has put something of its own
//! (by system calls that nobody sees) is the program's.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::process::Inside;
use crate::table::{self, Kind};
use crate::{next, process};

/// The highest that descriptors are put: the kernel's table of a process grows with its highest number.
const HIGHEST: u64 = 1 << 16;
/// Numbers below the highest that are for the library.
const ROOM: u64 = 512;
const NONE: i32 = -1;

/// A descriptor that is kept, and what is behind it.
struct Place {
    fd: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

static PLACES: [Place; ROOM as usize] = [const {
    Place { fd: AtomicI32::new(NONE), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
}; ROOM as usize];

/// What tells files apart, of a descriptor that is open. Async-signal-safe.
pub fn identity(fd: i32) -> Option<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: valid for writing.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: fstat has written it.
    let stat = unsafe { stat.assume_init() };
    Some((stat.st_dev, stat.st_ino))
}

fn place(fd: i32) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.fd.load(Ordering::Acquire) == fd)
}

/// Gives a descriptor its place. Where there is none (all numbers are in use), it stays where it is.
pub fn keep(fd: OwnedFd) -> OwnedFd {
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
    let number = kept.as_raw_fd();
    let free = |place: &&Place| {
        let relaxed = Ordering::Relaxed;
        place.fd.compare_exchange(NONE, NONE - 1, relaxed, relaxed).is_ok()
    };
    let (device, inode) = identity(number).unwrap_or_default();
    // The number may have been another's, who lost it.
    let_go(number);
    // One more than there is room for is hidden for good.
    if let Some(place) = PLACES.iter().find(free) {
        place.device.store(device, Ordering::Relaxed);
        place.inode.store(inode, Ordering::Relaxed);
        place.fd.store(number, Ordering::Release);
    }
    table::hide(number);
    kept
}

/// A number is no longer the library's.
pub fn let_go(fd: i32) {
    if table::kind(fd) == Kind::Private {
        table::forget(fd);
    }
    if let Some(place) = place(fd) {
        place.fd.store(NONE, Ordering::Release);
    }
}

/// Whether a descriptor is the library's, and so not open as far as the program can tell. Async-signal-safe.
#[inline]
pub fn is_hidden(fd: i32) -> bool {
    table::kind(fd) == Kind::Private && is_here(fd)
}

/// As `is_hidden`, of a call that the library makes itself, too.
#[inline]
pub fn is_hidden_from_caller(fd: i32) -> bool {
    table::kind(fd) == Kind::Private && !Inside::is() && is_here(fd)
}

#[cold]
fn is_here(fd: i32) -> bool {
    let Some(place) = place(fd) else { return true };
    let id = (place.device.load(Ordering::Relaxed), place.inode.load(Ordering::Relaxed));
    if identity(fd) == Some(id) {
        return true;
    }
    // A child of vfork(2) has descriptors of its own, and its parent's table.
    if !process::is_borrowed() {
        let_go(fd);
    }
    false
}
