//! Where the bytes of a capture go: a file, a FIFO, standard output.
//!
//! Invariant: [`Output::push`] never blocks. A FIFO is written only as far as poll(2) promises, because a
//! writer that blocks on a reader that has stalled could not be stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{ENXIO, O_NONBLOCK, PIPE_BUF};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::source::is_stdout;

/// A writable pipe accepts this much without blocking: PIPE_BUF, pipe(7).
const CHUNK_BYTES: usize = PIPE_BUF;

/// An open output.
#[derive(Debug)]
pub enum Output {
    /// A regular file, which accepts everything at once.
    File(File),
    /// A FIFO or pipe, which accepts what its reader makes room for.
    Live(File),
    /// A FIFO that has no reader yet.
    Unread(PathBuf),
}

impl Output {
    /// Creates or replaces a file, or opens what is there if it is none.
    pub fn create(path: &Path) -> io::Result<Output> {
        if is_stdout(path) {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(if file.metadata()?.is_file() {
                Output::File(file)
            } else {
                Output::Live(file)
            });
        }
        if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            return Ok(Output::Unread(path.to_owned()));
        }
        let file = File::create(path)?;
        Ok(if file.metadata()?.is_file() { Output::File(file) } else { Output::Live(file) })
    }

    /// Writes as much of `bytes` as goes without waiting; returns how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Output::Unread(path) = self {
            // A blocking open(2) would wait for a reader, and signals do not interrupt it (SA_RESTART).
            match OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path) {
                Ok(file) => *self = Output::Live(file),
                Err(error) if error.raw_os_error() == Some(ENXIO) => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let file = match self {
            Output::File(file) => return file.write_all(bytes).map(|()| bytes.len()),
            Output::Live(file) => file,
            Output::Unread(_) => return Ok(0),
        };
        let mut done = 0;
        while done < bytes.len() {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(0) => break,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            let end = bytes.len().min(done + CHUNK_BYTES);
            match file.write(&bytes[done..end]) {
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The descriptor to poll for room; `None` if polling it would say nothing.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Output::Live(file) => Some(file.as_fd()),
            Output::File(_) | Output::Unread(_) => None,
        }
    }
}
