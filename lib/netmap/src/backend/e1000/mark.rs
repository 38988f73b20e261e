//! The mark of a device that was taken from the kernel: a file with a lock.
//!
//! Invariant: the file stands before anything is taken, and its holder removes it when the kernel has everything back. So one
//! without a holder is that of a killed program, and who takes the lock finishes what that one had begun.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Error, InUse, Privilege, Result};
use crate::name::PciAddress;

/// A mark, held.
#[derive(Debug)]
pub struct Mark {
    directory: OwnedFd,
    name: String,
    /// A killed program had left it, and its device has not been reset since: it stays.
    is_left: bool,
    file: Flock<File>,
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // Under its lock. What stays is found by whoever takes the device next.
        let _ = unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// The name of a device's mark.
fn file_name(address: PciAddress) -> String {
    format!("vale-e1000-{address}")
}

impl Mark {
    /// Whether the directory has a mark of the device, whoever holds it.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn is_there(directory: impl AsFd, address: PciAddress) -> io::Result<bool> {
        let name = file_name(address);
        match fstatat(directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the mark of the device or takes over what a killed program left. `port` is for messages, `privilege` what who
    /// may not do that lacks.
    ///
    /// # Errors
    /// Somebody holds it; no permission.
    pub fn open(
        port: &str,
        directory: OwnedFd,
        address: PciAddress,
        privilege: Privilege,
    ) -> Result<Self> {
        let name = file_name(address);
        let failed = || Error::io::<io::Error>("mark as taken", port);
        let open = |more: OFlag| {
            let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | more;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            openat(&directory, name.as_str(), flags, mode).map(File::from)
        };
        let opened = match open(OFlag::O_CREAT | OFlag::O_EXCL) {
            Err(Errno::EEXIST) => open(OFlag::empty()).map(|file| (file, true)),
            made => made.map(|file| (file, false)),
        };
        let (file, is_left) = opened.map_err(|errno| match errno {
            Errno::EACCES | Errno::EPERM => {
                Error::NotPermitted { name: port.to_owned(), privilege }
            }
            errno => failed()(errno.into()),
        })?;
        let busy = || {
            let by = InUse::Nic;
            Error::Busy { name: port.to_owned(), by }
        };
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => busy(),
            errno => failed()(errno.into()),
        })?;
        let metadata = lock.metadata().map_err(failed())?;
        // Its last holder may have removed it between our two calls.
        if metadata.nlink() == 0 {
            return Err(busy());
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(failed()(Errno::EPERM.into()));
        }
        Ok(Self { directory, name, is_left, file: lock })
    }

    /// Whether a killed program had left it.
    pub fn is_left(&self) -> bool {
        self.is_left
    }

    /// The device has been reset, and whoever has it now gives it back.
    pub fn settle(&mut self) {
        self.is_left = false;
    }

    /// The file, which only its holder uses.
    pub fn file(&self) -> &File {
        self.file.deref()
    }
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::*;
    use crate::kinds;

    /// The mark of the device 0000:00:03.0 in a directory, which is the only thing of its kind there.
    pub fn mark_in(directory: &Path) -> Result<Mark> {
        let address = kinds::parse("e1000:00:03.0").unwrap().pci().unwrap();
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(directory, flags, Mode::empty()).unwrap();
        Mark::open("e1000:x", fd, address, Privilege::PhysicalAddresses)
    }

    /// Where it is.
    pub const MARK: &str = "vale-e1000-0000:00:03.0";

    #[test]
    fn mark_has_one_holder_and_tells_whether_it_was_left() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = || mark_in(directory.path());
        let mark = open().unwrap();
        assert!(!mark.is_left);
        let busy = open().unwrap_err();
        assert!(matches!(busy, Error::Busy { by: InUse::Nic, .. }), "{busy}");
        drop(mark);
        assert!(!directory.path().join(MARK).exists());
        // What a killed program leaves: a file without a lock.
        std::fs::write(directory.path().join(MARK), b"").unwrap();
        // Who cannot take the device either leaves it as it is.
        drop(open().unwrap());
        let mut mark = open().unwrap();
        assert!(mark.is_left);
        mark.settle();
        drop(mark);
        assert!(!directory.path().join(MARK).exists());
    }
}
