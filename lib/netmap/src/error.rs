//! What can go wrong, each with the message that a user of the tools reads and the error number that
//! a program of netmap expects.
//!
//! Invariant: a message says what was wrong with what, and what to do about it; the I/O error that
//! caused it is the `source`, not part of the text.

mod fault;

use std::io;
use std::path::PathBuf;

pub use nix::errno::Errno;

pub use fault::{
    Damage, Feature, InUse, Invalid, Lack, LockHolder, Privilege, RootFault, SharedFile,
};

/// Result of the library's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of ports, switches and memory regions. A variant is what a caller would act on, and an
/// error number ([`Error::errno`]); the kinds of fault within say more.
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
    #[error("{path} cannot hold switches: {fault}")]
    Root {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: RootFault,
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
    #[error("{path} is not usable: {damage}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
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
    #[error("The lock {path} has been held for {seconds} s by {}", fault::held_by(.holder.as_ref()))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long this process waited.
        seconds: u64,
        /// Who, unless the kernel does not show it here.
        holder: Option<LockHolder>,
    },
    /// A port, ring or switch is in use in a way that excludes this one.
    #[error("{name} is busy: {by}")]
    Busy {
        /// The port or switch.
        name: String,
        /// Who uses it.
        by: InUse,
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
    /// What a port is made of is not there.
    #[error("{name}: {lack}")]
    Unavailable {
        /// The port.
        name: String,
        /// What is missing.
        lack: Lack,
    },
    /// Only an administrator may do this.
    #[error("{name}: {privilege}")]
    NotPermitted {
        /// The port.
        name: String,
        /// What was tried.
        privilege: Privilege,
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
    /// A memory region has not enough free buffers for what is to be made in it.
    #[error(
        "{path} is full: that memory region was made for {buffers} buffers. A larger one is made with \
         `@conf:mem-mib=N` behind the name of its first port, or `vale-ctl create --mem-mib N`, up to 528"
    )]
    MemoryFull {
        /// The region's file.
        path: PathBuf,
        /// Buffers that it has room for, rings included.
        buffers: u32,
    },
    /// The port cannot do this at all.
    #[error("{name}: {feature}")]
    Unsupported {
        /// The port.
        name: String,
        /// What it cannot do.
        feature: Feature,
    },
    /// A parameter is out of range or does not fit the port.
    #[error("{name}: {fault}")]
    Invalid {
        /// The port.
        name: String,
        /// What is wrong.
        fault: Invalid,
    },
}

impl Error {
    /// The error number that netmap's calls fail with in this case, or, where netmap has no such case,
    /// the one that the system's calls would: `ENXIO` for what is not there, `ENOMEM` for what there is
    /// no room or place for, `EBUSY` for what is in use, `EINVAL` for what cannot be asked for,
    /// `EOPNOTSUPP` for what is not supported, `EIO` for what is broken.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Name(error) => error.fault.errno(),
            Self::Capture(nm_capture::Error::Io { source, .. }) => of_io(source),
            Self::Capture(nm_capture::Error::LinkType { .. }) => Errno::EOPNOTSUPP,
            // Damaged, or its reader takes nothing and packets are lost.
            Self::Capture(_) => Errno::EIO,
            Self::Io { source, .. } => match of_io(source) {
                // Netmap's ports take memory where ours take space in a file system.
                Errno::ENOSPC | Errno::EDQUOT => Errno::ENOMEM,
                errno => errno,
            },
            Self::Root { fault, .. } => match fault {
                RootFault::NotADirectory => Errno::ENOTDIR,
                RootFault::Foreign { .. } => Errno::EACCES,
                RootFault::NotEmpty { .. } => Errno::ENOTEMPTY,
            },
            Self::Denied { .. } => Errno::EACCES,
            // As for a request of an API version that netmap does not know.
            Self::Damaged { damage: Damage::Version { .. }, .. } => Errno::EINVAL,
            Self::Damaged { .. } => Errno::EIO,
            Self::FileSystem { .. } => Errno::EOPNOTSUPP,
            Self::Locked { .. } | Self::Busy { .. } => Errno::EBUSY,
            Self::Exists { .. } => Errno::EEXIST,
            Self::NotFound { .. } | Self::Unavailable { .. } => Errno::ENXIO,
            Self::NotPermitted { .. } => Errno::EPERM,
            Self::NoSpace { .. } | Self::Limit { .. } | Self::MemoryFull { .. } => Errno::ENOMEM,
            Self::Unsupported { feature, .. } => feature.errno(),
            Self::Invalid { .. } => Errno::EINVAL,
        }
    }

    /// Whether this process or the system has too little of something at this moment: nothing is said about what could not
    /// be opened.
    pub(crate) fn is_shortage(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(of_io(source), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    }

    /// An I/O error on `path`, or a system call's error number, for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source: source.into() }
    }

    /// A parameter of the port `name` that cannot be.
    pub(crate) fn invalid(name: impl ToString, fault: Invalid) -> Self {
        Self::Invalid { name: name.to_string(), fault }
    }

    /// What the port `name` cannot do.
    pub(crate) fn unsupported(name: impl ToString, feature: Feature) -> Self {
        Self::Unsupported { name: name.to_string(), feature }
    }
}

/// The error number behind an I/O error. Those without one come from the standard library.
fn of_io(error: &io::Error) -> Errno {
    use io::ErrorKind as Kind;
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => Errno::from_raw(number),
        (None, Kind::NotFound) => Errno::ENOENT,
        (None, Kind::PermissionDenied) => Errno::EACCES,
        (None, Kind::AlreadyExists) => Errno::EEXIST,
        (None, Kind::WouldBlock) => Errno::EAGAIN,
        (None, Kind::Interrupted) => Errno::EINTR,
        (None, Kind::InvalidInput) => Errno::EINVAL,
        (None, Kind::InvalidFilename) => Errno::ENAMETOOLONG,
        (None, Kind::OutOfMemory) => Errno::ENOMEM,
        (None, Kind::Unsupported) => Errno::EOPNOTSUPP,
        (None, Kind::BrokenPipe) => Errno::EPIPE,
        (None, _) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests;
