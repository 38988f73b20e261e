//! Unix sockets by their paths: bound where nobody lives, connected to where somebody does, removed at the end.
//!
//! Invariants: a socket that somebody lives on is never taken away; what a dead process left is. A socket has its
//! name only once it can be connected to, so that nobody takes a newborn for a dead one. Whatever is done to a name
//! is done in the directory that was opened for it, and a name is removed only while it is still this socket's.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, stat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::error::{Damage, Error, InUse, Result};
use crate::random::random;
use crate::shm::file::FileId;

/// Clients that may wait while one is served.
const BACKLOG: i32 = 8;
/// A name that others take and leave again and again is fought for so often.
const TRIES: usize = 16;

/// The name of a bound socket, which goes with it.
#[derive(Debug)]
pub struct SocketFile {
    dir: OwnedFd,
    name: PathBuf,
    /// Device and inode.
    id: FileId,
}

/// A directory, and the name in it that `path` leads to.
fn place(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok((open(dir, flags, Mode::empty())?, name))
}

/// How that name is written in an address, which has no place for a directory's descriptor, nor for long paths.
fn address(dir: BorrowedFd<'_>, name: &Path) -> io::Result<UnixAddr> {
    let through = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
    address_of(&through.join(name))
}

/// A path as an address.
pub fn address_of(path: &Path) -> io::Result<UnixAddr> {
    UnixAddr::new(path).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => io::Error::new(
            io::ErrorKind::InvalidFilename,
            "it is too long for the address of a socket, which holds 107 bytes; take a shorter one",
        ),
        _ => errno.into(),
    })
}

fn unbound(kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, kind, flags, None)?)
}

fn connect_in(dir: BorrowedFd<'_>, name: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let socket = unbound(kind)?;
    connect(socket.as_raw_fd(), &address(dir, name)?)?;
    Ok(socket)
}

/// A socket connected to the one at `path`. `ConnectionRefused` and `NotFound`: nobody lives there; `WouldBlock`:
/// somebody does, who has no time.
pub fn connect_to(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let (dir, name) = place(path)?;
    let connected = connect_in(dir.as_fd(), name.as_ref(), kind);
    // What is no socket refuses as one does on which nobody lives.
    let is_refused =
        matches!(&connected, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    if is_refused && fstatat(&dir, name, AtFlags::empty()).is_ok_and(|there| !is_socket(&there)) {
        return Err(Errno::ENOTSOCK.into());
    }
    connected
}

/// Why a port cannot be, whose peer cannot be connected to.
pub fn no_peer(path: &Path, error: io::Error) -> Error {
    if error.raw_os_error() == Some(Errno::ENOTSOCK as i32) {
        return no_socket(path);
    }
    let error = match stat(path) {
        Ok(there) if error.kind() == io::ErrorKind::PermissionDenied && is_socket(&there) => {
            denied(format!(
                "who may write a socket may connect to it, and this one is user {}'s, with mode {:o}; let that user \
                 connect, or give it to yours (chown, chgrp, chmod)",
                there.st_uid,
                there.st_mode & 0o7777
            ))
        }
        _ => error,
    };
    Error::io("connect to", path)(error)
}

/// The same in words, for a port that is there already and looks for its peer again and again. `None`: nobody is there, or has no
/// time, which is no fault of anybody's.
pub fn why_no_peer(path: &Path, error: io::Error) -> Option<String> {
    if is_vacant(&error) || error.kind() == io::ErrorKind::WouldBlock {
        return None;
    }
    let error = no_peer(path, error);
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    Some(format!("{error}{}", cause.unwrap_or_default()))
}

fn denied(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn no_socket(path: &Path) -> Error {
    Error::Damaged { path: path.into(), damage: Damage::NoSocket }
}

fn is_socket(there: &FileStat) -> bool {
    SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

/// Whether an error of `connect_to` says that nobody lives there.
pub fn is_vacant(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Whether an error of `connect_to` says that a peer refuses another one because it has one.
pub fn is_connected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EPERM as i32)
}

/// A name that nobody has.
fn temporary() -> PathBuf {
    format!(".nm.{:016x}", random()).into()
}

impl SocketFile {
    /// A socket bound to `path`, which listens if it is one of streams. `port` is the port's name.
    pub fn bind(path: &Path, kind: SockType, port: &str) -> Result<(OwnedFd, Self)> {
        let failed = |error| Error::io("make the socket", path)(error);
        let (dir, name) = place(path).map_err(failed)?;
        let socket = unbound(kind).map_err(failed)?;
        let mut own = Self { dir, name: name.into(), id: FileId::default() };
        let named = match kind {
            SockType::Stream => own.name_listener(&socket),
            _ => own.name_receiver(&socket, path),
        };
        match named {
            Ok(true) => {
                let there = own.stat(&own.name).map_err(|errno| failed(errno.into()))?;
                own.id = FileId::from(&there);
                Ok((socket, own))
            }
            Ok(false) => Err(Error::Busy { name: port.into(), by: InUse::Socket }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(no_socket(path)),
            Err(error) => Err(failed(error)),
        }
    }

    /// It must have some name before it listens, and shall have its own only afterwards.
    fn name_listener(&self, socket: &OwnedFd) -> io::Result<bool> {
        // Under a name that no address holds nobody could connect to it.
        address(self.dir.as_fd(), &self.name)?;
        let temporary = temporary();
        bind(socket.as_raw_fd(), &address(self.dir.as_fd(), &temporary)?)?;
        listen(socket, Backlog::new(BACKLOG)?)?;
        let named = self.take_name(SockType::Stream, || {
            linkat(&self.dir, &temporary, &self.dir, &self.name, AtFlags::empty())
        });
        unlinkat(&self.dir, &temporary, UnlinkatFlags::NoRemoveDir)?;
        named
    }

    /// It receives as soon as it is bound. The path of that is what others see as the sender's.
    fn name_receiver(&self, socket: &OwnedFd, path: &Path) -> io::Result<bool> {
        let address = address_of(&std::path::absolute(path)?)?;
        self.take_name(SockType::Datagram, || bind(socket.as_raw_fd(), &address))
    }

    fn stat(&self, name: &Path) -> nix::Result<FileStat> {
        fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Tries to take the name by `take`, which fails if it is taken. False: somebody lives there. `AlreadyExists`:
    /// it is of something else than a socket.
    fn take_name(&self, kind: SockType, take: impl Fn() -> nix::Result<()>) -> io::Result<bool> {
        for _ in 0..TRIES {
            match take() {
                Ok(()) => return Ok(true),
                Err(Errno::EEXIST | Errno::EADDRINUSE) => {}
                Err(errno) => return Err(errno.into()),
            }
            let there = match self.stat(&self.name) {
                Ok(there) => there,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if !is_socket(&there) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let owner = there.st_uid;
            match connect_in(self.dir.as_fd(), &self.name, kind) {
                Err(error) if is_vacant(&error) => match self.clear(FileId::from(&there)) {
                    Err(Errno::EPERM | Errno::EACCES) => {
                        return Err(denied(format!(
                            "there is one already, which a dead process of user {owner} left, and this user may not \
                             remove it; let that user remove it, or take another path"
                        )));
                    }
                    done => done?,
                },
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied && !is_connected(&error) =>
                {
                    return Err(denied(format!(
                        "there is one of user {owner} already, and this user may not ask it whether its program lives; \
                         let that user end the program, or remove what it left, or take another path"
                    )));
                }
                // Somebody takes connections there, has no time, or is of another kind.
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Removes what was seen to be dead. Another one may have taken the name since: it is put aside first, and
    /// looked at.
    fn clear(&self, dead: FileId) -> nix::Result<()> {
        let aside = temporary();
        match nix::fcntl::renameat(&self.dir, &self.name, &self.dir, &aside) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        if FileId::from(&self.stat(&aside)?) != dead {
            // It gets its name back, unless that was given to yet another.
            let _ = linkat(&self.dir, &aside, &self.dir, &self.name, AtFlags::empty());
        }
        unlinkat(&self.dir, &aside, UnlinkatFlags::NoRemoveDir)
    }
}

impl SocketFile {
    /// Whether that path leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        stat(path).is_ok_and(|there| FileId::from(&there) == self.id)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.stat(&self.name).is_ok_and(|there| FileId::from(&there) == self.id) {
            // Whoever removed it meanwhile did our work.
            let _ = unlinkat(&self.dir, &self.name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;
    use crate::backend::nobody::as_nobody;
    use crate::backend::skip::skip;

    fn bind(path: &Path) -> Result<(OwnedFd, SocketFile)> {
        SocketFile::bind(path, SockType::Stream, "stream:x")
    }

    fn names(dir: &Path) -> Vec<String> {
        dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn socket_can_be_connected_to_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        connect_to(&path, SockType::Stream).unwrap();
        assert_eq!(names(dir.path()), ["s"]);
        drop(bound);
        assert!(names(dir.path()).is_empty());
        assert!(is_vacant(&connect_to(&path, SockType::Stream).unwrap_err()));
    }

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, Error::Busy { by: InUse::Socket, .. }), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(live); // its file stays
        let bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(names(dir.path()), ["s"]);
        drop(bound);
    }

    #[test]
    fn socket_of_another_at_the_name_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        std::fs::write(&file, "kept").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&file, &link] {
            let error = bind(path).unwrap_err().to_string();
            assert!(error.contains("not a socket"), "{error}");
        }
        for path in [&file, &dir.path().into()] {
            let error = connect_to(path, SockType::Stream).unwrap_err();
            assert!(!is_vacant(&error), "{error}");
            let error = no_peer(path, error).to_string();
            assert!(error.contains("not a socket"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn name_that_no_address_holds_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s".repeat(108));
        for kind in [SockType::Stream, SockType::Datagram] {
            let bound = SocketFile::bind(&path, kind, "x").unwrap_err();
            let connected = no_peer(&path, connect_to(&path, kind).unwrap_err());
            for error in [bound, connected] {
                assert_eq!(error.errno(), Errno::ENAMETOOLONG, "{error}");
                let Error::Io { source, .. } = error else { panic!("{error}") };
                assert!(source.to_string().contains("take a shorter one"), "{source}");
            }
        }
        assert!(names(dir.path()).is_empty());
    }

    /// The directory is one like /tmp.
    #[test]
    fn sockets_of_other_users_are_told_with_what_to_do() {
        let test = "sockets_of_other_users_are_told_with_what_to_do";
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
        let path = |name: &str| dir.path().join(name);
        let (live, dead, open) = (path("live"), path("dead"), path("open"));
        let live_one = UnixListener::bind(&live).unwrap();
        drop([UnixListener::bind(&dead).unwrap(), UnixListener::bind(&open).unwrap()]);
        drop(UnixDatagram::bind(path("datagrams")).unwrap());
        for (name, mode) in
            [("live", 0o755), ("dead", 0o755), ("open", 0o777), ("datagrams", 0o777)]
        {
            std::fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        }
        let said = as_nobody(|| {
            let text = |error: Error| {
                assert_eq!(error.errno(), Errno::EACCES, "{error}");
                let Error::Io { source, .. } = error else { panic!("{error}") };
                source.to_string()
            };
            let bound = |path: &Path, kind| text(SocketFile::bind(path, kind, "x").unwrap_err());
            let to = |path: &Path| no_peer(path, connect_to(path, SockType::Stream).unwrap_err());
            bind(&path("new")).unwrap();
            [
                bound(&live, SockType::Stream),
                bound(&dead, SockType::Stream),
                bound(&open, SockType::Stream),
                bound(&path("datagrams"), SockType::Datagram),
                text(to(&live)),
            ]
        });
        let Some([live_there, dead_there, open_there, datagrams, connected]) = said else {
            return skip(test, "this user cannot become another");
        };
        for said in [&live_there, &dead_there] {
            assert!(said.contains("of user 0 already") && said.contains("may not ask"), "{said}");
        }
        for said in [&open_there, &datagrams] {
            assert!(said.contains("dead process of user 0"), "{said}");
        }
        assert!(connected.contains("user 0's, with mode 755"), "{connected}");
        assert_eq!(names(dir.path()).len(), 4);
        drop(live_one);
    }

    #[test]
    fn long_directories_and_other_kinds_are_fine() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("s");
        let _bound = bind(&path).unwrap();
        connect_to(&path, SockType::Stream).unwrap();
        let path = dir.path().join("s");
        let _bound = bind(&path).unwrap();
        let error = SocketFile::bind(&path, SockType::Datagram, "dgram:x").unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
    }
}
