//! Shared files: created with their space reserved, opened with suspicion, locked so that the
//! kernel tells who is alive.
//!
//! Invariant: a file that `create` returns has every byte of its length allocated, and so has what
//! `reserve` was called for, so that no later access can run out of space; a lock taken here vanishes with the process that took it,
//! however it dies.

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::fcntl::FallocateFlags;

use crate::error::{Damage, Error, Result};
use crate::shm::dir::Dir;
pub use crate::shm::identity::{FileId, id};
use crate::shm::place::Kept;

/// Creates a file of `len` zero bytes, all of them allocated. Replaces nothing.
pub fn create(dir: &Dir, name: &str, len: u64) -> Result<File> {
    let path = dir.join(name);
    let file = dir.create(name).map_err(Error::io("create", &path))?;
    if let Err(e) = reserve(&file, &path, 0, len) {
        let _ = dir.remove(name); // best effort: the first error is the one to report
        return Err(e);
    }
    Ok(file)
}

/// Takes memory for the bytes from `from` to `to` of `file`, which is at least that long afterwards. On
/// failure nothing is taken, and a new file is as it was.
pub fn reserve(file: &File, path: &Path, from: u64, to: u64) -> Result<()> {
    let bytes = to.saturating_sub(from);
    if bytes == 0 {
        return Ok(());
    }
    loop {
        let r = nix::fcntl::fallocate(file, FallocateFlags::empty(), from as i64, bytes as i64);
        match r {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                let source = io::Error::from(e);
                return Err(match e {
                    nix::errno::Errno::ENOSPC | nix::errno::Errno::ENOMEM => {
                        Error::NoSpace { path: path.into(), bytes, source }
                    }
                    nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS => {
                        Error::FileSystem { path: path.into(), lacks: "fallocate", source }
                    }
                    _ => Error::Io { what: "reserve space in", path: path.into(), source },
                });
            }
        }
    }
}

/// Opens an existing regular file for reading and writing, for a moment; follows no link.
pub fn open(dir: &Dir, name: &str) -> Result<File> {
    open_kind(dir, name, "a regular file", FileType::is_file, Dir::open_briefly)
}

/// As `open`, for a file that stays open.
pub fn open_to_keep(dir: &Dir, name: &str) -> Result<Kept> {
    open_kind(dir, name, "a regular file", FileType::is_file, Dir::open_rw).map(Kept::new)
}

/// Opens what is there, if it is of the kind that is wanted.
fn open_kind(
    dir: &Dir,
    name: &str,
    expected: &'static str,
    is_kind: impl Fn(&FileType) -> bool,
    open: impl Fn(&Dir, &str) -> io::Result<File>,
) -> Result<File> {
    let path = dir.join(name);
    let not_that_kind = || Error::Damaged { path: path.clone(), damage: Damage::Kind { expected } };
    let file = match open(dir, name) {
        Ok(file) => file,
        // A directory, a link, a socket.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EISDIR | libc::ELOOP | libc::ENXIO)) => {
            return Err(not_that_kind());
        }
        Err(e) => return Err(Error::io("open", &path)(e)),
    };
    let found = file.metadata().map_err(Error::io("inspect", &path))?.file_type();
    if is_kind(&found) { Ok(file) } else { Err(not_that_kind()) }
}

/// A file without a name, of `len` zero bytes, for what no other process is meant to see.
pub fn anonymous(len: u64) -> Result<File> {
    let path = Path::new("private memory");
    let fd = nix::sys::memfd::memfd_create(c"netmap", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(Error::io("create", path))?;
    let file = File::from(fd);
    reserve(&file, path, 0, len)?;
    Ok(file)
}

/// Length of the file now.
pub fn len(file: &File) -> u64 {
    file.metadata().map_or(0, |m| m.len())
}

/// Makes a named pipe, unless there is one, and opens both ends.
pub fn make_fifo(dir: &Dir, name: &str) -> Result<Kept> {
    dir.make_fifo(name).map_err(Error::io("create", dir.join(name)))?;
    fifo_to_keep(dir, name)
}

/// Opens both ends of a named pipe that stays open.
pub fn fifo_to_keep(dir: &Dir, name: &str) -> Result<Kept> {
    open_kind(dir, name, "a named pipe", FileType::is_fifo, Dir::open_rw).map(Kept::new)
}

/// Opens both ends of a named pipe, for a moment.
pub fn fifo(dir: &Dir, name: &str) -> Result<File> {
    open_kind(dir, name, "a named pipe", FileType::is_fifo, Dir::open_briefly)
}

/// Makes sure that there is no file of that name, nor anything else.
pub fn remove(dir: &Dir, name: &str) -> Result<()> {
    dir.clear(name).map_err(Error::io("remove", dir.join(name)))
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

/// Declares `index` alive for as long as `file` stays open in some process. False: somebody else
/// has that mark.
pub fn mark_alive(file: &File, index: u32) -> nix::Result<bool> {
    let lock = lock_spec(libc::F_WRLCK, LOCK_BASE + i64::from(index), 1);
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The error of a mark that could not be made on the file at `path`.
pub fn not_marked(path: &Path, e: nix::errno::Errno) -> Error {
    use nix::errno::Errno::{EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP};
    match e {
        EINVAL | ENOLCK | ENOSYS | EOPNOTSUPP => Error::FileSystem {
            path: path.into(),
            lacks: "open-file-description locks (F_OFD_SETLK)",
            source: e.into(),
        },
        _ => Error::io("lock", path)(e),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn dir(place: &str) -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir_in(place).unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        (temp, dir)
    }

    #[test]
    fn alive_seen_by_others_until_closed() {
        let (_temp, dir) = dir("/tmp");
        let mine = create(&dir, "f", 4096).unwrap();
        let other = open(&dir, "f").unwrap();
        assert!(!is_alive(&other, 3) && !anyone_alive(&other));
        assert!(mark_alive(&mine, 3).unwrap());
        assert!(is_alive(&other, 3) && anyone_alive(&other));
        assert!(!is_alive(&other, 4));
        assert!(!mark_alive(&other, 3).unwrap());
        drop(mine);
        assert!(!is_alive(&other, 3));
    }

    #[test]
    fn create_reserves_every_block() {
        let (_temp, dir) = dir("/dev/shm");
        let file = create(&dir, "f", 1 << 20).unwrap();
        let m = file.metadata().unwrap();
        assert_eq!(m.len(), 1 << 20);
        assert!(m.blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn open_of_link_directory_pipe_or_socket_is_refused_with_a_reason() {
        let (temp, dir) = dir("/tmp");
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join("link")).unwrap();
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(temp.path().join("socket")).unwrap());
        make_fifo(&dir, "pipe").unwrap();
        for name in ["link", "dir", "socket", "pipe"] {
            let e = open(&dir, name).unwrap_err().to_string();
            assert!(e.contains("not a regular file; remove it"), "{name}: {e}");
        }
        for name in ["link", "dir", "socket"] {
            let e = fifo(&dir, name).unwrap_err().to_string();
            assert!(e.contains("not a named pipe; remove it"), "{name}: {e}");
        }
    }
}
