//! Where the bytes of a capture come from: a file, a FIFO, standard input.
//!
//! Invariant: a read never blocks. Anything but a regular file is polled before it is read, and returns
//! `WouldBlock` if nothing is there, so that the reader can be stopped. `O_NONBLOCK` would not do: it belongs
//! to the open file description, and that of standard input is shared with other processes.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// True for the names of standard input.
#[must_use]
pub fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

/// True for the names of standard output.
#[must_use]
pub fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// An open input.
#[derive(Clone, Debug)]
pub struct Source {
    file: Arc<File>,
    live: bool,
}

impl Source {
    /// Opens a file. A FIFO without a writer is opened at once and has nothing to read yet.
    pub fn open(path: &Path) -> io::Result<Source> {
        let file = if is_stdin(path) {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            // A blocking open(2) of a FIFO would wait for a writer, and signals do not interrupt it
            // (SA_RESTART).
            OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?
        };
        let live = !file.metadata()?.is_file();
        Ok(Source { file: Arc::new(file), live })
    }

    /// What to poll: readable when there may be more, which a regular file always is.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // Until a FIFO has had a writer, poll reports nothing; after the last one left, a hang-up.
        if self.live
            && poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)?
                == 0
        {
            return Err(ErrorKind::WouldBlock.into());
        }
        (&*self.file).read(bytes)
    }
}
