//! A directory held open, whose entries are reached through its descriptor, one name at a time.
//!
//! Others may write the directories below a root: all members of a group do, and so does whoever owns
//! a root that another user was told to use. A path that is walked twice may lead to two places, and a
//! link in it leads anywhere. So every directory is opened once, no link is followed, and what is
//! done is done relative to the descriptor: create, open, change the mode, rename, remove.
//!
//! Invariant: a name is a single component. Nothing here reaches outside of the directory, waits for
//! the other end of a pipe, or creates a file that is open to more users than its directory is.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir as Listing;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat, mode_t};
use nix::unistd::{UnlinkatFlags, mkfifoat, symlinkat, unlinkat};

use crate::shm::place::Kept;

/// What every open has: no link is followed, nothing is waited for, nothing is inherited.
const FLAGS: OFlag =
    OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// How the names begin under which things are made that others are not to meet half made. What has one
/// while nobody makes anything is a leftover.
pub const TEMPORARY: &str = ".new.";
/// How the names begin of what was in the way.
pub const ASIDE: &str = ".aside.";

/// An open directory. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Dir {
    fd: Arc<Kept>,
    /// Where it was when it was opened: for messages only.
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`. Links in the path are followed, as the path is the user's own
    /// choice; one in its last place only if `follow` says so.
    ///
    /// # Errors
    /// It is not there, is no directory, or must not be read.
    pub fn open(path: &Path, follow: bool) -> io::Result<Self> {
        let flags = if follow { FLAGS.difference(OFlag::O_NOFOLLOW) } else { FLAGS };
        let fd = nix::fcntl::open(path, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Self { fd: Arc::new(Kept::new(fd)), path: path.into() })
    }

    /// Where it was when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of an entry, for messages.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Owner, mode and the like of the directory itself.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn stat(&self) -> io::Result<FileStat> {
        Ok(fstat(self)?)
    }

    /// Owner, mode and the like of an entry; of a link itself, not of what it leads to.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn stat_at(&self, name: &str) -> io::Result<FileStat> {
        Ok(fstatat(self, plain(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Opens a directory in it.
    ///
    /// # Errors
    /// As openat(2); `NotADirectory` for a link.
    pub fn subdir(&self, name: &str) -> io::Result<Self> {
        let fd = openat(self, plain(name)?, FLAGS | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Self { fd: Arc::new(Kept::new(fd)), path: self.join(name) })
    }

    /// Makes a directory in it with the permissions of this one, or opens the one that is there, whose
    /// permissions are nobody's to change. It is seen by others only when it is complete.
    ///
    /// # Errors
    /// As mkdirat(2) and `subdir`.
    pub fn make_subdir(&self, name: &str) -> io::Result<Self> {
        match self.subdir(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mode = Mode::from_bits_truncate(self.stat()?.st_mode & 0o7777);
        match self.appear(name, |temporary| {
            mkdirat(self, temporary, Mode::S_IRWXU)?;
            let made = self.subdir(temporary)?;
            // Should a peer have put another directory in its place, that is not opened to others.
            // In a private directory there is no such peer, and the new one has its own name
            // already: another process of this user may be using it.
            let ours = || -> io::Result<bool> {
                Ok(made.stat()?.st_mode & 0o777 == 0o700 && made.names(1)?.is_empty())
            };
            if temporary != name && !ours()? {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            Ok(fchmod(&made, mode)?)
        }) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.subdir(name),
            Err(e) => Err(e),
            Ok(()) => self.subdir(name),
        }
    }

    /// Creates a file for reading and writing; there must be none of that name. It is never open to
    /// more users than the directory's mode says, not even at first, and never to fewer.
    ///
    /// # Errors
    /// As openat(2); `AlreadyExists`.
    #[expect(clippy::missing_panics_doc, reason = "what appeared was made")]
    pub fn create(&self, name: &str) -> io::Result<File> {
        let mode = self.file_mode()?;
        let mut made = None;
        self.appear(name, |temporary| {
            let flags = FLAGS | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
            let file = openat(self, temporary, flags, mode)?;
            // The umask does not narrow what the directory's owner decided to share.
            fchmod(&file, mode)?;
            made = Some(file);
            Ok(())
        })?;
        Ok(made.expect("it appeared").into())
    }

    /// Lets `make` make something under a temporary name, then gives it its own, if that is free: what
    /// has its mode set in a second step is not met by others in between, nor left so by who dies. In
    /// a directory that nobody else can enter, it has its own name at once.
    fn appear(&self, name: &str, make: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
        plain(name)?;
        if self.stat()?.st_mode & 0o077 == 0 {
            if self.stat_at(name).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            return make(name);
        }
        let temporary = format!("{TEMPORARY}{:016x}", crate::random::random());
        let made = make(&temporary).and_then(|()| {
            let flags = RenameFlags::RENAME_NOREPLACE;
            Ok(renameat2(self, temporary.as_str(), self, name, flags)?)
        });
        if made.is_err() {
            let _ = self.remove(&temporary); // the first error is the one to report
        }
        made
    }

    /// Opens what is there for reading and writing.
    ///
    /// # Errors
    /// As openat(2); a link is an error.
    pub fn open_rw(&self, name: &str) -> io::Result<File> {
        Ok(openat(self, plain(name)?, FLAGS | OFlag::O_RDWR, Mode::empty())?.into())
    }

    /// As `open_rw`, for what is closed again soon: a process that has no descriptor left uses the one that
    /// is kept for that.
    ///
    /// # Errors
    /// As `open_rw`.
    pub fn open_briefly(&self, name: &str) -> io::Result<File> {
        let name = plain(name)?;
        let open = || openat(self, name, FLAGS | OFlag::O_RDWR, Mode::empty());
        Ok(crate::shm::spare::or_spare(open)?.into())
    }

    /// Opens what is there for reading.
    ///
    /// # Errors
    /// As openat(2); a link is an error.
    pub fn open_read(&self, name: &str) -> io::Result<File> {
        Ok(openat(self, plain(name)?, FLAGS | OFlag::O_RDONLY, Mode::empty())?.into())
    }

    /// Makes a named pipe, with the mode that `create` gives to files. What is there is kept.
    ///
    /// # Errors
    /// As mkfifoat(2) and openat(2).
    pub fn make_fifo(&self, name: &str) -> io::Result<()> {
        let mode = self.file_mode()?;
        let made = self.appear(name, |temporary| {
            mkfifoat(self, temporary, mode)?;
            let fifo = self.open_rw(temporary)?;
            // Should a peer have put another file in its place, that is not opened to others.
            if !fifo.metadata()?.file_type().is_fifo() {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            Ok(fchmod(&fifo, mode)?)
        });
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As symlinkat(2); `AlreadyExists`.
    pub fn make_link(&self, target: &Path, name: &str) -> io::Result<()> {
        Ok(symlinkat(target, self, plain(name)?)?)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub fn read_link(&self, name: &str) -> io::Result<PathBuf> {
        Ok(readlinkat(self, plain(name)?)?.into())
    }

    /// Removes whatever has that name, if it is no directory with something in it.
    ///
    /// # Errors
    /// As unlinkat(2); none if there is nothing of that name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        use nix::errno::Errno::{EISDIR, ENOENT};
        let unlink = |flags| unlinkat(self, name, flags);
        plain(name)?;
        let removed = match unlink(UnlinkatFlags::NoRemoveDir) {
            Err(EISDIR) => unlink(UnlinkatFlags::RemoveDir),
            other => other,
        };
        match removed {
            Err(e) if e != ENOENT => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Makes sure that nothing has that name: what cannot be removed, as a directory with something in
    /// it, is moved aside in one step, however much it is.
    ///
    /// # Errors
    /// As `remove` and `rename`.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        match self.remove(name) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => self.set_aside(name),
            other => other,
        }
    }

    /// Gives an entry a name under which it is in nobody's way.
    ///
    /// # Errors
    /// As renameat(2); none if there is nothing of that name.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        let aside = format!("{ASIDE}{:016x}", crate::random::random());
        match self.rename(name, &aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Gives an entry another name.
    ///
    /// # Errors
    /// As renameat(2).
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(self, plain(from)?, self, plain(to)?)?)
    }

    /// Names of the entries, in no order, without `.` and `..`; at most `limit`.
    ///
    /// # Errors
    /// As getdents(2).
    pub fn names(&self, limit: usize) -> io::Result<Vec<OsString>> {
        let flags = FLAGS | OFlag::O_DIRECTORY;
        let mut listing = Listing::openat(self, ".", flags, Mode::empty())?;
        let entries = listing.iter().filter_map(Result::ok);
        let names = entries.map(|e| OsString::from_vec(e.file_name().to_bytes().to_vec()));
        Ok(names.filter(|n| n != "." && n != "..").take(limit).collect())
    }

    /// Whether an entry has the permissions that this gives to files: nobody took any away.
    #[must_use]
    pub fn has_our_mode(&self, name: &str) -> bool {
        let mode = self.file_mode().map(|mode| mode.bits());
        let there = self.stat_at(name).map(|there| there.st_mode);
        matches!((mode, there), (Ok(mode), Ok(there)) if there & mode == mode)
    }

    /// Mode of a new file: whoever may write the directory may use the file.
    fn file_mode(&self) -> io::Result<Mode> {
        let dir = self.stat()?.st_mode;
        let mut mode: mode_t = 0o600;
        if dir & 0o020 != 0 {
            mode |= 0o060;
        }
        if dir & 0o002 != 0 {
            mode |= 0o006;
        }
        Ok(Mode::from_bits_truncate(mode))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names come from grammars that know no slash; should one slip through, it must not get far.
fn plain(name: &str) -> io::Result<&str> {
    let escapes = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
    if escapes { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        (temp, dir)
    }

    #[test]
    fn names_with_more_than_one_component_are_refused() {
        let (_temp, dir) = dir();
        for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\0b"] {
            assert!(dir.create(name).is_err(), "{name:?}");
            assert!(dir.open_rw(name).is_err(), "{name:?}");
            assert!(dir.subdir(name).is_err(), "{name:?}");
            assert!(dir.remove(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn links_are_not_followed_by_any_operation() {
        let (temp, dir) = dir();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "data").unwrap();
        std::fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o711)).unwrap();
        std::os::unix::fs::symlink(outside.path(), temp.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("kept"), temp.path().join("f")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("new"), temp.path().join("n")).unwrap();
        assert!(dir.subdir("d").is_err() && dir.make_subdir("d").is_err());
        assert!(dir.open_rw("f").is_err() && dir.open_read("f").is_err());
        assert!(dir.create("n").is_err());
        dir.make_fifo("f").unwrap(); // something is there: kept as it is
        for name in ["d", "f", "n"] {
            dir.remove(name).unwrap();
        }
        assert_eq!(std::fs::read(outside.path().join("kept")).unwrap(), b"data");
        assert_eq!(outside.path().metadata().unwrap().mode() & 0o777, 0o711);
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn directory_that_was_moved_away_is_still_the_one_that_is_used() {
        let (temp, dir) = dir();
        let sub = dir.make_subdir("d").unwrap();
        std::fs::rename(temp.path().join("d"), temp.path().join("e")).unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        sub.create("f").unwrap();
        assert!(temp.path().join("e/f").exists() && !temp.path().join("d/f").exists());
    }

    #[test]
    fn directory_that_two_make_at_once_serves_both() {
        for mode in [0o700, 0o2770] {
            let (temp, dir) = dir();
            std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(mode)).unwrap();
            for round in 0..300 {
                let name = format!("d{round}");
                let both = std::sync::Barrier::new(2);
                std::thread::scope(|scope| {
                    for file in ["a", "b"] {
                        let (dir, name, both) = (&dir, &name, &both);
                        scope.spawn(move || {
                            both.wait();
                            dir.make_subdir(name).unwrap().create(file).unwrap();
                        });
                    }
                });
                assert_eq!(dir.subdir(&name).unwrap().names(9).unwrap().len(), 2);
            }
        }
    }

    #[test]
    fn files_are_never_open_to_more_users_than_the_directory() {
        for (mode, file) in [(0o700, 0o600), (0o755, 0o600), (0o2770, 0o660), (0o777, 0o666)] {
            let (temp, dir) = dir();
            std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(mode)).unwrap();
            let made = dir.create("f").unwrap();
            assert_eq!(made.metadata().unwrap().mode() & 0o777, file, "in {mode:o}");
            dir.make_fifo("p").unwrap();
            assert_eq!(dir.stat_at("p").unwrap().st_mode & 0o777, file, "in {mode:o}");
            let sub = dir.make_subdir("d").unwrap();
            assert_eq!(sub.stat().unwrap().st_mode & 0o7777, mode, "in {mode:o}");
        }
    }

    #[test]
    fn pipe_in_the_way_is_not_waited_for() {
        let (temp, dir) = dir();
        nix::unistd::mkfifo(&temp.path().join("p"), Mode::S_IRWXU).unwrap();
        drop(dir.open_read("p"));
        drop(dir.open_rw("p"));
    }
}
