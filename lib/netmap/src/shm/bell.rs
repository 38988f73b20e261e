//! A bell: a named pipe on which a handle sleeps, by which it is found, and by which the kernel tells
//! whether it lives.
//!
//! Whoever holds a copy of the owner's descriptor, in whatever process, holds the handle: a lock of that
//! open file description (`file::mark_alive`) ends with the last copy, in whatever way that ends. Others
//! open the pipe by its name, ring or look, and close it.
//!
//! Invariant: ringing never blocks and never fails visibly: a full pipe means that the sleeper has
//! plenty to wake up for. When to ring is decided by one rule only, in `kring`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::error::Result;
use crate::shm::dir::Dir;
use crate::shm::file;
use crate::shm::place::Kept;

/// The only lock of a bell.
const HELD: u32 = 0;

/// A bell, held by its owner or open for ringing.
#[derive(Debug)]
pub struct Bell(Kept);

impl Bell {
    /// Makes a bell and holds it; `None` if one of that name is held by somebody.
    ///
    /// # Errors
    /// The directory cannot be written, something in the way cannot be removed, or the file system has no
    /// locks.
    pub fn create(dir: &Dir, name: &str) -> Result<Option<Self>> {
        if Self::is_held(dir, name) {
            return Ok(None);
        }
        // A new one: what is left of an earlier one may be open elsewhere.
        file::remove(dir, name)?;
        let bell = file::make_fifo(dir, name)?;
        let held =
            file::mark_alive(&bell, HELD).map_err(|e| file::not_marked(&dir.join(name), e))?;
        Ok(held.then_some(Self(bell))) // else a peer was as quick, and means ill
    }

    /// Opens a bell to hear it: it is not held by this.
    ///
    /// # Errors
    /// There is none, or it must not be opened.
    pub fn listen(dir: &Dir, name: &str) -> Result<Self> {
        file::fifo_to_keep(dir, name).map(Self)
    }

    /// Opens a bell to ring it.
    ///
    /// # Errors
    /// There is none, or it must not be opened.
    pub fn open(dir: &Dir, name: &str) -> Result<Self> {
        file::fifo(dir, name).map(|fifo| Self(Kept::new(fifo)))
    }

    /// What somebody passed on, if it is a copy of the descriptor of the owner of the bell of that name.
    #[must_use]
    pub fn of_owner(fd: OwnedFd, dir: &Dir, name: &str) -> Option<Self> {
        let (passed, there) = (File::from(fd), file::fifo(dir, name).ok()?);
        // The kernel does not tell a description of its own locks, only of others'.
        let owner = file::id(&passed) == file::id(&there)
            && file::is_alive(&there, HELD)
            && !file::is_alive(&passed, HELD);
        owner.then(|| Self(Kept::new(passed)))
    }

    /// Whether somebody holds the bell of that name. What cannot be told counts as held.
    #[must_use]
    pub fn is_held(dir: &Dir, name: &str) -> bool {
        match dir.open_briefly(name) {
            Ok(there) => file::is_alive(&there, HELD),
            // A peer that takes permissions away cannot make a handle immortal.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => dir.has_our_mode(name),
            // Nothing, a directory, a link, a socket.
            Err(e) => !matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::EISDIR | libc::ELOOP | libc::ENXIO)
            ),
        }
    }

    /// Wakes whoever sleeps on it.
    pub fn ring(&self) {
        let _ = (&*self.0).write(&[1]); // EAGAIN: rung often enough already
    }

    /// Takes back all rings so far, so that the next sleep is a sleep. Bounded: somebody who rings
    /// without end keeps its owner awake, not stuck here. `dir` and `name` are those that it was made with.
    pub fn clear(&self, dir: &Dir, name: impl FnOnce() -> String) {
        let mut bytes = [0; 4096];
        // Whoever has a copy of the descriptor may have made it wait.
        let flags = fcntl(&self.0, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        if flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK)) {
            let _ = (&*self.0).read(&mut bytes); // EAGAIN: not rung
        } else if let Ok(own) = file::fifo(dir, &name()) {
            let _ = (&own).read(&mut bytes);
        }
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_owned()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn dir() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        (temp, dir)
    }

    fn create(dir: &Dir) -> Option<Bell> {
        Bell::create(dir, "bell.0").unwrap()
    }

    fn is_rung(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn bell_is_held_until_the_last_copy_of_its_descriptor_is_closed() {
        let (_temp, dir) = dir();
        assert!(!Bell::is_held(&dir, "bell.0"));
        let bell = create(&dir).unwrap();
        assert!(Bell::is_held(&dir, "bell.0") && create(&dir).is_none());
        let copy = bell.as_fd().try_clone_to_owned().unwrap();
        drop(bell);
        assert!(Bell::is_held(&dir, "bell.0"));
        let again = Bell::of_owner(copy, &dir, "bell.0").expect("it is a copy");
        drop(again);
        assert!(!Bell::is_held(&dir, "bell.0") && create(&dir).is_some());
    }

    #[test]
    fn what_is_not_a_copy_of_the_owners_descriptor_is_no_handle() {
        let (_temp, dir) = dir();
        let of = |file: File| Bell::of_owner(file.into(), &dir, "bell.0").is_some();
        assert!(!of(tempfile::tempfile().unwrap()));
        let bell = create(&dir).unwrap();
        assert!(!of(tempfile::tempfile().unwrap()));
        assert!(!of(dir.open_rw("bell.0").unwrap()), "another description of the same pipe");
        drop(bell);
        assert!(!of(dir.open_rw("bell.0").unwrap()), "nobody holds it");
    }

    #[test]
    fn clearing_never_waits_whatever_the_descriptor_was_told() {
        let (_temp, dir) = dir();
        let bell = create(&dir).unwrap();
        for flags in [OFlag::O_NONBLOCK, OFlag::empty()] {
            fcntl(&bell, FcntlArg::F_SETFL(flags)).unwrap();
            bell.clear(&dir, || "bell.0".into()); // would wait for ever
            assert!(!is_rung(&bell));
            Bell::open(&dir, "bell.0").unwrap().ring();
            assert!(is_rung(&bell));
            bell.clear(&dir, || "bell.0".into());
            assert!(!is_rung(&bell));
        }
    }
}
