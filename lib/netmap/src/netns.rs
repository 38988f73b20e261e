//! Named network namespaces, as `ip netns` keeps them: doing something in one.
//!
//! Invariant: no thread of the program changes its namespace. What is to happen elsewhere happens on a thread that was
//! made for it and ends with it.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Lack, Privilege, Result};

/// Where they have their names.
const NAMES: &str = "/run/netns";

/// The namespace `netns`, as a descriptor. `port` is for whose sake.
///
/// # Errors
/// There is no such namespace, or no permission to look.
pub fn open(netns: &str, port: &str) -> Result<File> {
    let path = Path::new(NAMES).join(netns);
    File::open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Unavailable { name: port.to_owned(), lack: Lack::Namespace },
        ErrorKind::PermissionDenied => may_not_enter(port),
        _ => Error::io("open", &path)(error),
    })
}

/// The name of a namespace in which something was opened that keeps it alive, a socket for one. Whoever deletes the name
/// means the namespace, with all in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
    /// Device and inode of what has the name.
    id: (u64, u64),
}

impl Home {
    /// Of the namespace `netns`, open as `namespace`.
    pub fn of(netns: &str, namespace: &File) -> Option<Self> {
        let there = namespace.metadata().ok()?;
        Some(Self { path: Path::new(NAMES).join(netns), id: (there.dev(), there.ino()) })
    }

    /// Whether it has the name still.
    pub fn is_there(&self) -> bool {
        self.path.metadata().is_ok_and(|there| (there.dev(), there.ino()) == self.id)
    }
}

/// Does it in the namespace that a descriptor names.
///
/// # Errors
/// No permission to be there, or no thread; and what `act` returns.
pub fn inside<T: Send>(
    namespace: impl AsFd + Sync,
    port: &str,
    act: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let there = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => may_not_enter(port),
            // A file that is none, as of a namespace that `ip netns` has given up.
            Errno::EINVAL => Error::Unavailable { name: port.to_owned(), lack: Lack::Namespace },
            _ => Error::io("enter the network namespace of", port)(errno),
        })?;
        act()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, there)
            .map_err(Error::io("start a thread for", port))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn may_not_enter(port: &str) -> Error {
    Error::NotPermitted { name: port.to_owned(), privilege: Privilege::EnterNamespace }
}
