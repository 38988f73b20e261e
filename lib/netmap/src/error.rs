//! What can go wrong, each with the message that a user of the tools reads.
//!
//! Invariant: a message says what was wrong with what, and what to do about it; the I/O error that
//! caused it is the `source`, not part of the text.

use std::io;
use std::path::PathBuf;

/// Result of the library's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of ports, switches and memory regions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port name does not follow the grammar.
    #[error(transparent)]
    Name(#[from] crate::name::NameError),
    /// A capture file behind a `pcap:` port.
    #[error(transparent)]
    Capture(#[from] nm_capture::Error),
    /// An operating-system call failed.
    #[error("Cannot {what} {path}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The root directory is not safe to use.
    #[error("{path} cannot hold switches: {why}")]
    Root {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// Switches that another user keeps to themselves.
    #[error(
        "No permission to look at {}{} in {root}",
        .switches,
        if *.switches == 1 { " switch" } else { " switches" }
    )]
    Denied {
        /// How many.
        switches: usize,
        /// The root directory.
        root: PathBuf,
    },
    /// A shared file is not what it should be.
    #[error("{path} is not usable: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The file system has no room for a region.
    #[error(
        "No room for {bytes} bytes in {path}: free memory or enlarge that file system, \
         or ask for fewer slots or rings"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        bytes: u64,
        /// The system's own error.
        source: io::Error,
    },
    /// The file system lacks a service that switches are built on.
    #[error(
        "The file system of {path} has no {lacks}, which switches need: \
         set NETMAP_ROOT to a directory on a tmpfs, such as one below /dev/shm"
    )]
    FileSystem {
        /// A file on it.
        path: PathBuf,
        /// The service.
        lacks: &'static str,
        /// The system's own error.
        source: io::Error,
    },
    /// Another process holds the root's lock for longer than any operation takes.
    #[error("The lock {path} has been held for {seconds} s by {holder}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long this process waited.
        seconds: u64,
        /// Who, as the kernel tells, and what to do about it.
        holder: String,
    },
    /// A port, ring or switch is in use in a way that excludes this one.
    #[error("{name} is busy: {why}")]
    Busy {
        /// The port or switch.
        name: String,
        /// Who uses it.
        why: String,
    },
    /// Something to be created is there already.
    #[error("{name} exists already")]
    Exists {
        /// The port or switch.
        name: String,
    },
    /// Something named is not there.
    #[error("There is no {name}")]
    NotFound {
        /// The port or switch.
        name: String,
    },
    /// A limit of the switch or region has been reached.
    #[error("{name}: {what} (the limit is {limit})")]
    Limit {
        /// The port or switch.
        name: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A parameter is out of range or does not fit the port.
    #[error("{name}: {why}")]
    Invalid {
        /// The port.
        name: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl Error {
    /// An I/O error on `path`, for `map_err`.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// As `io`, from a system-call error number.
    pub(crate) fn errno(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(nix::errno::Errno) -> Self {
        let path = path.into();
        move |e| Self::Io { what, path, source: e.into() }
    }
}
