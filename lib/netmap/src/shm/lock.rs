//! The root's lock: held by whoever changes the set of switches, ports or handles.
//!
//! Invariant: it is released by drop, and by the kernel when its holder dies. Nobody waits for it
//! longer than `LONGEST_WAIT`, nor for what a peer has put in the file's place, and nothing in the file is
//! ever read: who holds it is asked of the kernel, which no peer can make lie.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, LockHolder, Result};
use crate::shm::dir::Dir;
use crate::shm::file;

/// Name of the file. A directory with one is a root.
pub const NAME: &str = ".lock";
/// How long an operation waits for the lock before it reports the holder.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The lock, held.
#[derive(Debug)]
pub struct RootLock {
    _flock: Flock<File>,
}

impl RootLock {
    /// Waits for the lock of `root`, at most `LONGEST_WAIT`.
    pub fn acquire(root: &Dir) -> Result<Self> {
        let start = Instant::now();
        // A blocking flock(2) could wait for ever on a stopped process and could not say whose
        // turn it is, so this polls, at a pace far below the length of an operation.
        let mut pause = Duration::from_micros(20);
        let mut file = Some(open(root)?);
        while let Some(unlocked) = file.take() {
            match Flock::lock(unlocked, FlockArg::LockExclusiveNonblock) {
                Ok(flock) => return Ok(Self { _flock: flock }),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                    if start.elapsed() > LONGEST_WAIT {
                        return Err(Error::Locked {
                            path: root.join(NAME),
                            seconds: LONGEST_WAIT.as_secs(),
                            holder: holder(&back),
                        });
                    }
                    file = Some(back);
                }
                Err((_, e)) => return Err(Error::io("lock", root.join(NAME))(e)),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        unreachable!("the file comes back from each attempt that does not return")
    }

    /// Takes the lock if it is free.
    pub fn try_acquire(root: &Dir) -> Result<Option<Self>> {
        match Flock::lock(open(root)?, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => Ok(Some(Self { _flock: flock })),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
            Err((_, e)) => Err(Error::io("lock", root.join(NAME))(e)),
        }
    }
}

/// Opens the file, making it if it is missing.
fn open(root: &Dir) -> Result<File> {
    let missing = |e: &Error| match e {
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    match file::open(root, NAME) {
        Err(e) if missing(&e) => match root.create(NAME) {
            Ok(file) => Ok(file),
            // Somebody else was as quick.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => file::open(root, NAME),
            Err(e) => Err(Error::io("create", root.join(NAME))(e)),
        },
        other => other,
    }
}

/// Who holds the lock, by the kernel's own list.
fn holder(file: &File) -> Option<LockHolder> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let m = file.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(m.dev()), nix::sys::stat::minor(m.dev()));
    let pid = holder_of(&locks, &format!("{major:02x}:{minor:02x}:{}", m.ino()))?;
    Some(LockHolder { pid, command: crate::process::command(pid) })
}

/// The process that holds the flock(2) lock on the file `wanted` (major:minor:inode), according to
/// the text of /proc/locks. Processes of other PID namespaces are not in there, or as 0.
fn holder_of(locks: &str, wanted: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some("FLOCK") {
            return None; // also those who wait: `1: -> FLOCK ...`
        }
        let (pid, file) = (words.nth(2)?, words.next()?);
        (file == wanted).then(|| pid.parse().ok().filter(|&pid| pid > 0))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        (temp, dir)
    }

    #[test]
    fn root_lock_excludes_and_is_released_by_drop() {
        let (_temp, dir) = root();
        let held = RootLock::acquire(&dir).unwrap();
        assert!(RootLock::try_acquire(&dir).unwrap().is_none());
        drop(held);
        assert!(RootLock::try_acquire(&dir).unwrap().is_some());
    }

    #[test]
    fn holder_is_known_from_the_kernel_whatever_the_file_says() {
        let (temp, dir) = root();
        let _held = RootLock::acquire(&dir).unwrap();
        std::fs::write(temp.path().join(NAME), "1\n").unwrap();
        let told = holder(&open(&dir).unwrap());
        // Where the kernel's list is hidden, nobody is named.
        let Some(told) = told else { return };
        assert_eq!(told.pid, std::process::id());
        assert!(!told.command.is_empty());
    }

    #[test]
    fn holder_of_reads_the_kernels_list() {
        let locks = "1: FLOCK  ADVISORY  WRITE 16588 fe:00:539 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 7 00:1a:5 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 00:1a:6 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 9 00:1a:6 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 77 00:1a:5 0 EOF\n";
        assert_eq!(holder_of(locks, "fe:00:539"), Some(16588));
        assert_eq!(holder_of(locks, "00:1a:5"), Some(77));
        assert_eq!(holder_of(locks, "00:1a:6"), None);
        assert_eq!(holder_of("", "00:1a:6"), None);
    }

    #[test]
    fn what_a_peer_puts_in_place_of_the_lock_is_neither_waited_for_nor_read() {
        let (temp, dir) = root();
        let path = temp.path().join(NAME);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let e = RootLock::acquire(&dir).unwrap_err().to_string();
        assert!(e.contains("not a regular file; remove it"), "{e}");
        std::fs::remove_file(&path).unwrap();
        // Sparse: reading it whole would take all memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let _held = RootLock::acquire(&dir).unwrap();
        assert!(holder(&open(&dir).unwrap()).is_none_or(|told| told.pid == std::process::id()));
    }
}
