//! A unix socket as the other end of the guest's serial line.
//!
//! Invariants: one peer is served at a time; when it leaves, the next may come. Without one, what the guest prints is lost.
//! Who cannot be taken, for want of a descriptor or of memory, waits and wakes nobody meanwhile.
//! At the socket's path only a socket that nobody listens to is replaced, and only what was made is removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::clock::timeout;

/// Until peers are looked for again after one could not be taken. It stays in the queue, so the listener is readable, and
/// who polled it would wake up again and again.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket.
#[derive(Debug)]
pub struct Wire {
    listener: Option<Listener>,
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    peer: Option<Arc<UnixStream>>,
    /// Nobody is looked for before.
    resumes: Option<Instant>,
}

#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of what was made there.
    made: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// The longest path that a socket may have: an address holds 108 bytes, the last of which is zero.
const PATH_MAX_BYTES: usize = 107;

fn check_length(path: &Path) -> anyhow::Result<()> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_MAX_BYTES {
        bail!(
            "its path has {bytes} bytes, and that of a socket at most {PATH_MAX_BYTES}: make it shorter"
        );
    }
    Ok(())
}

/// Makes room where something is: a socket that nobody listens to any more goes.
fn clear(path: &Path) -> anyhow::Result<()> {
    use io::ErrorKind::{ConnectionRefused, PermissionDenied};
    let there = path.symlink_metadata()?;
    let connected = UnixStream::connect(path).map_err(|why| why.kind());
    match (there.file_type().is_socket(), connected) {
        (true, Err(ConnectionRefused)) => std::fs::remove_file(path).with_context(|| {
            let user = there.uid();
            format!("removing what a dead process of user {user} left; take another path if it may not be removed")
        }),
        (true, Err(PermissionDenied)) => bail!(
            "a socket of user {} is there already, which may be in use: have it removed, or take another path",
            there.uid()
        ),
        _ => bail!("something is there already, and in use or no socket: take another path"),
    }
}

impl Wire {
    /// A socket that others connect to.
    ///
    /// # Errors
    /// Something is in the way.
    pub fn listen(path: &Path) -> anyhow::Result<Wire> {
        check_length(path)?;
        let socket = match UnixListener::bind(path) {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
                clear(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        socket.set_nonblocking(true)?;
        let made = identity(path).context("it is gone already")?;
        let listener = Some(Listener { socket, path: path.to_path_buf(), made });
        Ok(Wire { listener, ends: Mutex::default() })
    }

    /// A connection to a socket of another.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> anyhow::Result<Wire> {
        check_length(path)?;
        let peer = UnixStream::connect(path).map_err(|why| {
            use io::ErrorKind::{ConnectionRefused, NotFound};
            match why.kind() {
                ConnectionRefused | NotFound => anyhow!(
                    "nobody listens there; with `,server` behind the path others may connect to it"
                ),
                _ => why.into(),
            }
        })?;
        peer.set_nonblocking(true)?;
        let ends = Ends { peer: Some(Arc::new(peer)), resumes: None };
        Ok(Wire { listener: None, ends: Mutex::new(ends) })
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a first peer, or until one of the other descriptors is readable or the time has come, which returns false.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn wait(&self, others: &[BorrowedFd<'_>], end: Option<Instant>) -> anyhow::Result<bool> {
        if self.listener.is_none() {
            return Ok(true);
        }
        let now = Instant::now();
        let listener = self.listener(now);
        let all = others.iter().copied().chain(listener);
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let until = [end, self.resumes(now)].into_iter().flatten().min();
        match poll(&mut fds, until.map_or(PollTimeout::NONE, |at| timeout(at, now))) {
            Ok(_) => {
                let has_come = listener.and(fds.last()).is_some_and(|fd| fd.any() == Some(true));
                Ok(has_come && self.accept().is_some())
            }
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(why) => Err(why).context("waiting for a connection"),
        }
    }

    /// Who is connected.
    pub fn peer(&self) -> Option<Arc<UnixStream>> {
        self.ends().peer.clone()
    }

    /// What to poll for the next peer, if one can be taken now.
    pub fn listener(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        let listener = self.listener.as_ref().filter(|_| self.resumes(now).is_none());
        listener.map(|listener| listener.socket.as_fd())
    }

    /// When peers are looked for again, if not now.
    pub fn resumes(&self, now: Instant) -> Option<Instant> {
        self.ends().resumes.filter(|at| *at > now)
    }

    /// The next peer, if one has come and can be taken.
    pub fn accept(&self) -> Option<Arc<UnixStream>> {
        let peer = match self.listener.as_ref()?.socket.accept() {
            Ok((peer, _)) => Arc::new(peer),
            Err(why) => {
                use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
                if !matches!(why.kind(), WouldBlock | Interrupted | ConnectionAborted) {
                    self.ends().resumes = Some(Instant::now() + PAUSE);
                }
                return None;
            }
        };
        // Not by the request that std makes of it, which the sandbox has not.
        fcntl(&peer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        self.ends().peer = Some(Arc::clone(&peer));
        Some(peer)
    }

    /// The peer has left.
    pub fn left(&self, who: &Arc<UnixStream>) {
        self.ends().peer.take_if(|peer| Arc::ptr_eq(peer, who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_to_is_replaced_and_only_ours_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("serial");
        drop(UnixListener::bind(&path).expect("a socket, which stays"));
        let wire = Wire::listen(&path).expect("it is left over");
        assert!(wire.accept().is_none() && wire.peer().is_none());
        assert!(Wire::listen(&path).is_err(), "it is in use");
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "a user's").expect("a file");
        drop(wire);
        assert!(path.exists(), "not ours any more");
        assert!(Wire::listen(&path).is_err(), "no socket");
        std::fs::remove_file(&path).expect("it is there");
        drop(Wire::listen(&path).expect("nothing is in the way"));
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_a_socket_of_ours_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let why = |wire: anyhow::Result<Wire>| format!("{:#}", wire.expect_err("refused"));
        let long = dir.path().join("x".repeat(PATH_MAX_BYTES));
        for refused in [Wire::listen(&long), Wire::connect(&long)] {
            let text = why(refused);
            assert!(text.contains("at most 107"), "{text}");
        }
        let left_over = dir.path().join("left");
        drop(UnixListener::bind(&left_over).expect("a socket, which stays"));
        for path in [left_over, dir.path().join("none")] {
            let text = why(Wire::connect(&path));
            assert!(text.contains("`,server`"), "{text}");
        }
        // A user's whom this one may not ask: the test may run as root, whom nothing stops, so on a thread that is nobody.
        let (denied, nobody) = (dir.path().join("denied"), nix::unistd::Uid::from_raw(65534));
        let _other = UnixListener::bind(&denied).expect("a socket");
        let mode = |path: &Path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("it is ours");
        };
        mode(dir.path(), 0o755);
        mode(&denied, if nix::unistd::geteuid().is_root() { 0o755 } else { 0 });
        let as_nobody = || {
            nix::unistd::setfsuid(nobody);
            why(Wire::listen(&denied))
        };
        let text = std::thread::scope(|scope| scope.spawn(as_nobody).join().expect("no panic"));
        assert!(text.contains("may be in use"), "{text}");
        let longest =
            dir.path().join("x".repeat(PATH_MAX_BYTES - dir.path().as_os_str().len() - 1));
        Wire::listen(&longest).expect("as long as it may be");
    }
}
