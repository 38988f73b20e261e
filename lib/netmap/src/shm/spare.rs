//! A descriptor kept for the moment when a process has used up all it may have (RLIMIT_NOFILE).
//!
//! Bells are opened for the moment of ringing, and the files of a port while they are mapped. A process
//! that cannot do that would be dumb and deaf to others, in silence. So one descriptor is kept, and
//! given up for such a moment.
//!
//! Invariant: nobody waits for it. A thread that takes it does so for a short time, and what it opened is
//! closed soon after.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::shm::fork;
use crate::shm::place::Kept;

static SPARE: Mutex<Option<Kept>> = Mutex::new(None);

/// What `open` opens, in place of the spare descriptor if there is no other left.
pub fn or_spare(open: impl Fn() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    let _section = fork::section();
    let opened = open();
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    match opened {
        Err(Errno::EMFILE) => {
            drop(spare.take());
            open()
        }
        opened => {
            keep(&mut spare);
            opened
        }
    }
}

/// Keeps one again, if it was given up and what took its place has been closed. Returns whether there is
/// one: if not, nothing may stay open for longer than it must.
pub fn restore() -> bool {
    let _section = fork::section();
    keep(&mut SPARE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn keep(spare: &mut Option<Kept>) -> bool {
    if spare.is_none() {
        // Anything will do that is always there.
        *spare = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok().map(Kept::new);
    }
    spare.is_some()
}
