//! A doorbell: a named pipe, so that any process on the switch can ring it by name and its owner
//! can sleep on it with poll, select or epoll.
//!
//! Invariant: ringing never blocks and never fails visibly: a full pipe means that the sleeper has
//! plenty to wake up for. When to ring is decided by one rule only, in `kring`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::Result;
use crate::shm::dir::Dir;
use crate::shm::file;

/// One end of a doorbell; both ends are the same.
#[derive(Debug)]
pub struct Bell(File);

impl Bell {
    /// Makes a doorbell, or takes over the one that is there.
    pub fn create(dir: &Dir, name: &str) -> Result<Self> {
        file::fifo(dir, name, true).map(Self)
    }

    /// Opens the doorbell of a peer.
    pub fn open(dir: &Dir, name: &str) -> Result<Self> {
        file::fifo(dir, name, false).map(Self)
    }

    /// Wakes whoever sleeps on it.
    pub fn ring(&self) {
        let _ = (&self.0).write(&[1]); // EAGAIN: rung often enough already
    }

    /// Takes back all rings so far, so that the next sleep is a sleep. Bounded: somebody who rings
    /// without end keeps its owner awake, not stuck here.
    pub fn clear(&self) {
        let mut bytes = [0; 4096];
        let _ = (&self.0).read(&mut bytes); // EAGAIN: not rung
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
