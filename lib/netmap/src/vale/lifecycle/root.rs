//! The root directory: one folder per switch, one for memory regions, one lock.
//!
//! ```text
//!  ROOT/.lock            held while switches, ports or handles come and go (lib: shm::lock)
//!  ROOT/mem/ID           memory regions (lib: shm::mem)
//!  ROOT/valeA/switch     port table, handles, learning table (lib: vale::state::switch)
//!  ROOT/valeA/port.x     rings' state and counters of port x (lib: vale::state::portfile)
//!  ROOT/valeA/bell.0     bell of the handle at index 0 (lib: shm::bell)
//!  ROOT/.aside.N         what was in the way of a switch and is not ours to delete
//! ```
//!
//! Invariant: the directory belongs to the user or was chosen by them. It is opened once; everything
//! below it is reached through that descriptor (lib: shm::dir), so nothing escapes it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::FileStat;

use crate::error::{Damage, Error, Result, RootFault};
use crate::name::{valid_entry, valid_name};
use crate::shm::dir::Dir;
use crate::shm::fork;
use crate::shm::lock::{self, RootLock};
use crate::vale::state::MAX_PORTS;
use crate::vale::state::handles::bell_index;
use crate::vale::state::handleset::HANDLES;

/// Environment variable that names the root directory.
pub const ENV: &str = "NETMAP_ROOT";

/// Name of the directory of memory regions.
const MEMORY: &str = "mem";

/// The root directory.
#[derive(Clone, Debug)]
pub struct Root {
    dir: Dir,
    memory: Option<Dir>,
}

impl Root {
    /// Where the root is, whether it exists or not.
    #[must_use]
    pub fn locate() -> PathBuf {
        match chosen() {
            Some(path) => path,
            None => format!("/dev/shm/netmap-{}", nix::unistd::geteuid()).into(),
        }
    }

    /// Opens the root, making it (private to the user) if it is not there.
    pub fn open() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = Self::locate();
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create the root directory", path)(e)),
        }
        let mut root = match Self::existing()? {
            Some(root) => root,
            None => Self::make(&path)?,
        };
        if root.memory.is_none() {
            // Under the lock: nobody else meets it half made.
            let _lock = root.lock()?;
            let made = root.dir.make_subdir(MEMORY);
            root.memory = Some(made.map_err(|e| not_a_directory(&root.dir, MEMORY, e))?);
        }
        Ok(root)
    }

    /// Makes a root of a directory that is none yet. It must be empty: in a root, what is in the way
    /// of a switch is moved aside, and nobody's own files shall be.
    fn make(path: &Path) -> Result<Self> {
        let Some(dir) = Self::open_dir()? else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io("open the root directory", path)(gone));
        };
        let names = dir.names(usize::MAX).map_err(Error::io("list", path))?;
        // Somebody else may be making the same root at this moment.
        let of_a_root = |name: &str| {
            name == lock::NAME || name == MEMORY || name.starts_with(crate::shm::dir::TEMPORARY)
        };
        // What tells a root is there before any switch: then somebody else was faster.
        if let Some(other) = names.iter().find(|name| !name.to_str().is_some_and(of_a_root))
            && dir.stat_at(lock::NAME).is_err()
        {
            let fault = RootFault::NotEmpty { found: other.into() };
            return Err(Error::Root { path: path.into(), fault });
        }
        drop(RootLock::acquire(&dir)?); // makes the file that tells a root
        let memory = Self::open_memory(&dir)?;
        Ok(Self { dir, memory })
    }

    /// Opens the root if it is there; makes nothing.
    pub fn existing() -> Result<Option<Self>> {
        // All handles of the process share the descriptors of the root that was opened last.
        static LAST: Mutex<Option<Root>> = Mutex::new(None);
        let _section = fork::section();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|root| !root.is_current()) {
            *last = Self::open_dir()?.map(Self::of_dir).transpose()?.flatten();
        }
        Ok(last.clone())
    }

    /// Opens the root at `path`, which the environment may not name, if it is one.
    pub fn existing_at(path: &Path) -> Result<Option<Self>> {
        if path == Self::locate() {
            return Self::existing();
        }
        let dir = Dir::open(path, false).map_err(Error::io("open the root directory", path))?;
        Self::of_dir(dir)
    }

    /// Whether only this process's user can write the switches in it.
    pub fn is_private(&self) -> bool {
        let (others, me) = (0o077, nix::unistd::geteuid().as_raw());
        self.dir.stat().is_ok_and(|stat| stat.st_mode & others == 0 && stat.st_uid == me)
    }

    /// Whether the root is complete and still the directory that its name leads to.
    fn is_current(&self) -> bool {
        let there = nix::sys::stat::stat(&Self::locate());
        let same = |dir: &Dir, there: FileStat| {
            dir.stat().is_ok_and(|s| (s.st_dev, s.st_ino) == (there.st_dev, there.st_ino))
        };
        let memory = self.memory.as_ref().zip(self.dir.stat_at(MEMORY).ok());
        self.dir.path() == Self::locate()
            && there.is_ok_and(|there| same(&self.dir, there))
            && self.dir.stat_at(lock::NAME).is_ok()
            && memory.is_some_and(|(memory, there)| same(memory, there))
    }

    fn of_dir(dir: Dir) -> Result<Option<Self>> {
        match dir.stat_at(lock::NAME) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None), // no root
            Err(e) => return Err(Error::io("inspect", dir.join(lock::NAME))(e)),
        }
        let memory = Self::open_memory(&dir)?;
        Ok(Some(Self { dir, memory }))
    }

    fn open_dir() -> Result<Option<Dir>> {
        let (path, chosen) = (Self::locate(), chosen().is_some());
        // The default place lies in a directory where anybody may create names.
        let dir = match Dir::open(&path, chosen) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                return Err(Error::Root { path, fault: RootFault::NotADirectory });
            }
            Err(e) => return Err(Error::io("open the root directory", path)(e)),
        };
        let owner = dir.stat().map_err(Error::io("inspect the root directory", &path))?.st_uid;
        if !chosen && owner != nix::unistd::geteuid().as_raw() {
            return Err(Error::Root { path, fault: RootFault::Foreign { owner } });
        }
        Ok(Some(dir))
    }

    fn open_memory(dir: &Dir) -> Result<Option<Dir>> {
        match dir.subdir(MEMORY) {
            Ok(memory) => Ok(Some(memory)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // Its owner keeps us out: whoever needs it will be told.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(e) => Err(not_a_directory(dir, MEMORY, e)),
        }
    }

    /// A root in a directory of a test.
    #[cfg(test)]
    pub fn at(path: &std::path::Path) -> Self {
        let dir = Dir::open(path, false).expect("a directory of the test");
        drop(RootLock::acquire(&dir).expect("it can be written"));
        let memory = Some(dir.make_subdir(MEMORY).expect("it can be written"));
        Self { dir, memory }
    }

    /// Takes the root's lock.
    pub fn lock(&self) -> Result<RootLock> {
        RootLock::acquire(&self.dir)
    }

    /// Default roots of other users beside a default root: switches of the same names may be there.
    pub fn others() -> Vec<PathBuf> {
        let path = Self::locate();
        let user = |path: &Path| -> Option<u32> {
            path.file_name()?.to_str()?.strip_prefix("netmap-")?.parse().ok()
        };
        if user(&path).is_none() {
            return Vec::new();
        }
        let beside = path.parent().and_then(|parent| parent.read_dir().ok());
        let mut others: Vec<PathBuf> = beside
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|other| *other != path && user(other).is_some() && other.is_dir())
            .collect();
        others.sort();
        others
    }

    /// Whether its files are only in memory. On a disk everything works, but the kernel writes
    /// packets back to it without end.
    pub fn is_in_memory(&self) -> bool {
        use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC};
        const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
        let kind = nix::sys::statfs::fstatfs(&self.dir).map(|fs| fs.filesystem_type());
        kind.is_ok_and(|kind| [TMPFS_MAGIC, HUGETLBFS_MAGIC, RAMFS_MAGIC].contains(&kind))
    }

    /// Whether both are the same directory.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |root: &Self| root.dir.stat().map(|s| (s.st_dev, s.st_ino)).ok();
        id(self).is_some() && id(self) == id(other)
    }

    /// Takes the root's lock if it is free now.
    pub fn try_lock(&self) -> Result<Option<RootLock>> {
        RootLock::try_acquire(&self.dir)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Directory of memory regions.
    pub fn memory(&self) -> Result<&Dir> {
        self.memory.as_ref().ok_or_else(|| {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            Error::io("open", self.dir.join(MEMORY))(missing)
        })
    }

    /// Directory of a switch, if there is one; something else of that name counts as none.
    pub fn switch_dir(&self, switch: &str) -> Result<Option<Dir>> {
        debug_assert!(valid_name(switch));
        match self.dir.subdir(switch) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => Ok(None),
            Err(e) => Err(Error::io("open", self.dir.join(switch))(e)),
        }
    }

    /// Names of the switches that have a directory.
    pub fn switches(&self) -> Result<Vec<String>> {
        let names = self.dir.names(usize::MAX).map_err(Error::io("list", self.dir.path()))?;
        let mut names: Vec<String> = names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|n| n.starts_with("vale") && valid_name(n))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes what is left of a switch's directory, if nothing but a switch's files is in it. Returns
    /// whether it did.
    pub fn remove_empty(&self, _lock: &RootLock, switch: &str) -> Result<bool> {
        let Some(dir) = self.switch_dir(switch)? else { return Ok(false) };
        let failed = |e| Error::io("remove", self.dir.join(switch))(e);
        let names = dir.names(MOST_FILES + 1).map_err(failed)?;
        if !names.iter().all(|name| name.to_str().is_some_and(|name| is_ours(&dir, name))) {
            return Ok(false);
        }
        for name in names {
            dir.remove(&name.to_string_lossy()).map_err(failed)?;
        }
        self.dir.remove(switch).map_err(failed)?;
        Ok(true)
    }

    /// Makes sure that nothing has the name of a switch. The files of a switch are removed; whatever
    /// else is found there, such as a tree of directories, is moved aside, in one step however much
    /// it is.
    pub fn clear_away(&self, _lock: &RootLock, switch: &str) -> Result<()> {
        let failed = |e| Error::io("remove", self.dir.join(switch))(e);
        let Some(dir) = self.switch_dir(switch)? else {
            return self.dir.set_aside(switch).map_err(failed); // a file, a link, or nothing
        };
        for name in dir.names(MOST_FILES).map_err(failed)? {
            if let Some(name) = name.to_str().filter(|name| is_ours(&dir, name)) {
                let _ = dir.remove(name); // what stays shows when the directory is to go
            }
        }
        self.dir.clear(switch).map_err(failed)
    }

    /// Removes what was half made under a temporary name by somebody who died.
    pub fn remove_temporary(&self, _lock: &RootLock) {
        for dir in std::iter::once(&self.dir).chain(&self.memory) {
            for name in dir.names(MOST_FILES).unwrap_or_default() {
                if let Some(name) =
                    name.to_str().filter(|n| n.starts_with(crate::shm::dir::TEMPORARY))
                {
                    let _ = dir.remove(name); // not ours, or used at this moment by another program
                }
            }
        }
    }
}

/// The root that the environment names.
fn chosen() -> Option<PathBuf> {
    std::env::var_os(ENV).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Most files that a switch has.
const MOST_FILES: usize = 1 + MAX_PORTS + HANDLES;

/// Whether an entry of a switch's directory has a name that the library gives, and is what it makes
/// under that name.
fn is_ours(dir: &Dir, name: &str) -> bool {
    let wanted = if name == "switch" || name.strip_prefix("port.").is_some_and(valid_entry) {
        libc::S_IFREG
    } else if bell_index(name).is_some() {
        libc::S_IFIFO
    } else {
        return name.starts_with(crate::shm::dir::TEMPORARY);
    };
    dir.stat_at(name).is_ok_and(|found| found.st_mode & libc::S_IFMT == wanted)
}

fn not_a_directory(dir: &Dir, name: &str, e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => {
            let damage = Damage::Kind { expected: "a directory" };
            Error::Damaged { path: dir.join(name), damage }
        }
        _ => Error::io("open", dir.join(name))(e),
    }
}
