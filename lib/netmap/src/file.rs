//! Shared files: created with their space reserved, opened with suspicion, locked so that the
//! kernel tells who is alive.
//!
//! Invariant: a file that `create` returns has every byte of its length allocated, so that no
//! later access can run out of space; a lock taken here vanishes with the process that took it,
//! however it dies.

use std::fs::{File, FileType};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, OFlag};

use crate::error::{Error, Result};

const FLAGS: i32 = OFlag::O_NOFOLLOW.bits() | OFlag::O_CLOEXEC.bits() | OFlag::O_NONBLOCK.bits();

/// Permissions of a new file in a directory of mode `dir`: whoever may write the directory may
/// use the file.
fn file_mode(path: &Path) -> u32 {
    let dir = path.parent().and_then(|p| p.metadata().ok()).map_or(0o700, |m| m.mode());
    let mut mode = 0o600;
    if dir & 0o020 != 0 {
        mode |= 0o060;
    }
    if dir & 0o002 != 0 {
        mode |= 0o006;
    }
    mode
}

/// The umask must not narrow what the directory's owner decided to share.
fn set_mode(file: &File, path: &Path) -> Result<()> {
    let mode = nix::sys::stat::Mode::from_bits_truncate(file_mode(path));
    nix::sys::stat::fchmod(file.as_fd(), mode).map_err(Error::errno("set the mode of", path))
}

/// Creates a file of `len` zero bytes, all of them allocated. Replaces nothing.
pub fn create(path: &Path, len: u64) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(FLAGS)
        .open(path)
        .map_err(Error::io("create", path))?;
    let made = set_mode(&file, path).and_then(|()| reserve(&file, path, len));
    if let Err(e) = made {
        let _ = std::fs::remove_file(path); // best effort: the first error is the one to report
        return Err(e);
    }
    Ok(file)
}

/// Extends `file` to `len` bytes, all of them allocated. On failure the length is unchanged.
pub fn reserve(file: &File, path: &Path, len: u64) -> Result<()> {
    let old = file.metadata().map_err(Error::io("inspect", path))?.len();
    if len <= old {
        return Ok(());
    }
    let bytes = len - old;
    loop {
        let r = nix::fcntl::fallocate(file, FallocateFlags::empty(), old as i64, bytes as i64);
        match r {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                let _ = file.set_len(old); // gives back what a partial allocation took
                let source = io::Error::from(e);
                return Err(match e {
                    nix::errno::Errno::ENOSPC | nix::errno::Errno::ENOMEM => {
                        Error::NoSpace { path: path.into(), bytes, source }
                    }
                    _ => Error::Io { what: "reserve space in", path: path.into(), source },
                });
            }
        }
    }
}

/// Opens an existing regular file for reading and writing; follows no link.
pub fn open(path: &Path) -> Result<File> {
    open_kind(path, "a regular file", FileType::is_file)
}

/// Opens what exists at `path`, if it is of the kind that is wanted.
fn open_kind(path: &Path, kind: &str, is_kind: impl Fn(&FileType) -> bool) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(FLAGS)
        .open(path)
        .map_err(Error::io("open", path))?;
    if !is_kind(&file.metadata().map_err(Error::io("inspect", path))?.file_type()) {
        let why = format!("it is not {kind}; remove it");
        return Err(Error::Damaged { path: path.into(), why });
    }
    Ok(file)
}

/// A file without a name, of `len` zero bytes, for what no other process is meant to see.
pub fn anonymous(len: u64) -> Result<File> {
    let path = Path::new("private memory");
    let fd = nix::sys::memfd::memfd_create(c"netmap", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(Error::errno("create", path))?;
    let file = File::from(fd);
    reserve(&file, path, len)?;
    Ok(file)
}

/// Length of the file now.
pub fn len(file: &File) -> u64 {
    file.metadata().map_or(0, |m| m.len())
}

/// Makes a named pipe, or keeps the one that is there, and opens both its ends.
pub fn fifo(path: &Path, create: bool) -> Result<File> {
    let mut made = false;
    if create {
        let mode = nix::sys::stat::Mode::from_bits_truncate(file_mode(path));
        match nix::unistd::mkfifo(path, mode) {
            Ok(()) => made = true,
            Err(nix::errno::Errno::EEXIST) => {} // perhaps another user's: its mode is theirs
            Err(e) => return Err(Error::errno("create", path)(e)),
        }
    }
    let file = open_kind(path, "a named pipe", FileType::is_fifo)?;
    if made {
        set_mode(&file, path)?;
    }
    Ok(file)
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// First byte of the lock area: beyond any content, so that locks and data never meet.
const LOCK_BASE: i64 = 1 << 40;
/// Bytes in the lock area.
const LOCK_LEN: i64 = 1 << 20;

fn lock_spec(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0, // demanded of open-file-description locks
    }
}

/// Declares `index` alive for as long as `file` stays open in some process.
pub fn mark_alive(file: &File, index: u32) -> io::Result<()> {
    let lock = lock_spec(libc::F_WRLCK, LOCK_BASE + i64::from(index), 1);
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// Takes the mark back, so that the index can be used again at once.
pub fn mark_dead(file: &File, index: u32) {
    let lock = lock_spec(libc::F_UNLCK, LOCK_BASE + i64::from(index), 1);
    // Unlocking what is ours cannot fail; should it, closing the file does the same.
    let _ = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock));
}

/// Whether another open file description holds the mark `index`. An error counts as alive: the
/// caller must never take a live owner for a dead one.
pub fn is_alive(file: &File, index: u32) -> bool {
    probe(file, LOCK_BASE + i64::from(index), 1)
}

/// Whether anybody else at all is alive on this file.
pub fn anyone_alive(file: &File) -> bool {
    probe(file, LOCK_BASE, LOCK_LEN)
}

fn probe(file: &File, start: i64, len: i64) -> bool {
    let mut lock = lock_spec(libc::F_WRLCK, start, len);
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
        Err(_) => true,
    }
}

/// The root's lock, held by whoever changes the set of switches, ports or handles. Released by
/// drop, and by the kernel when the holder dies.
#[derive(Debug)]
pub struct RootLock {
    _flock: nix::fcntl::Flock<File>,
}

/// How long an operation waits for the root's lock before it reports the holder.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl RootLock {
    /// Waits for the lock, at most `PATIENCE`.
    pub fn acquire(path: &Path) -> Result<Self> {
        let start = std::time::Instant::now();
        // A blocking flock(2) could wait for ever on a stopped process and could not say whose
        // turn it is, so this polls, at a pace far below the length of an operation.
        let mut pause = std::time::Duration::from_micros(20);
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Locked {
                    path: path.into(),
                    seconds: PATIENCE.as_secs(),
                    holder: holder(path),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(std::time::Duration::from_millis(2));
        }
    }

    /// Takes the lock if it is free.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(FLAGS)
            .open(path)
            .map_err(Error::io("open", path))?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(flock) => {
                // The mode is for other users of a shared root; the owner's is right already.
                let _ = set_mode(&flock, path);
                let _ = write_holder(&flock);
                Ok(Some(Self { _flock: flock }))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) => Ok(None),
            Err((_, e)) => Err(Error::errno("lock", path)(e)),
        }
    }
}

fn write_holder(file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.write_all_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0)
}

fn holder(path: &Path) -> String {
    let pid = std::fs::read_to_string(path).unwrap_or_default();
    match pid.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_seen_by_others_until_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mine = create(&path, 4096).unwrap();
        let other = open(&path).unwrap();
        assert!(!is_alive(&other, 3) && !anyone_alive(&other));
        mark_alive(&mine, 3).unwrap();
        assert!(is_alive(&other, 3) && anyone_alive(&other));
        assert!(!is_alive(&other, 4));
        assert!(mark_alive(&other, 3).is_err());
        drop(mine);
        assert!(!is_alive(&other, 3));
    }

    #[test]
    fn create_reserves_every_block() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = create(&dir.path().join("f"), 1 << 20).unwrap();
        let m = file.metadata().unwrap();
        assert_eq!(m.len(), 1 << 20);
        assert!(m.blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn open_of_link_or_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("l");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(open(&link).is_err());
        assert!(open(dir.path()).is_err());
        assert!(fifo(&link, false).is_err());
    }

    #[test]
    fn root_lock_excludes_and_is_released_by_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = RootLock::acquire(&path).unwrap();
        assert!(RootLock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(RootLock::try_acquire(&path).unwrap().is_some());
    }
}
