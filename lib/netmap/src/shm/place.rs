//! Where the descriptors go that the library keeps open for longer than a call.
//!
//! A program that runs on netmap by preloading does not know of the library, closes descriptors that it did
//! not open, and takes the lowest number for its own. So whoever hosts the library in such a program may
//! choose another number for each, and knows them all.
//!
//! Invariant: every descriptor that outlives the call that made it has gone through `kept`.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

static PLACE: OnceLock<fn(OwnedFd) -> OwnedFd> = OnceLock::new();

/// From now on, `place` is given each descriptor that the library is to keep, and returns it or a copy in
/// another place. The first call counts.
pub fn place_descriptors(place: fn(OwnedFd) -> OwnedFd) {
    let _ = PLACE.set(place);
}

/// A descriptor that is to be kept.
pub(crate) fn kept(fd: OwnedFd) -> OwnedFd {
    match PLACE.get() {
        Some(place) => place(fd),
        None => fd,
    }
}
