//! The root directory: one folder per switch, one for memory regions, one lock.
//!
//! ```text
//!  ROOT/.lock            held while switches, ports or handles come and go
//!  ROOT/mem/ID           memory regions (lib: mem)
//!  ROOT/valeA/switch     port table, handles, learning table (lib: vale::switch)
//!  ROOT/valeA/port.x     rings' state and counters of port x (lib: vale::portfile)
//!  ROOT/valeA/bell.x.0   doorbell of ring 0 of port x
//! ```
//!
//! Invariant: the directory belongs to the user or was chosen by them; every path below it is made
//! of names that passed the grammar, so nothing escapes it.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file::RootLock;

/// Environment variable that names the root directory.
pub const ENV: &str = "NETMAP_ROOT";

/// The root directory.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Where the root is, whether it exists or not.
    #[must_use]
    pub fn locate() -> PathBuf {
        match std::env::var_os(ENV) {
            Some(path) if !path.is_empty() => path.into(),
            _ => format!("/dev/shm/netmap-{}", nix::unistd::geteuid()).into(),
        }
    }

    /// Opens the root, making it (private to the user) if it is not there.
    pub fn open() -> Result<Self> {
        let path = Self::locate();
        let chosen = std::env::var_os(ENV).is_some_and(|p| !p.is_empty());
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create the root directory", path)(e)),
        }
        let meta = if chosen { path.metadata() } else { path.symlink_metadata() };
        let meta = meta.map_err(Error::io("inspect the root directory", &path))?;
        if !meta.is_dir() {
            let why = format!("it is not a directory; remove it or set {ENV}");
            return Err(Error::Root { path, why });
        }
        // The default place lies in a directory where anybody may create names.
        if !chosen && meta.uid() != nix::unistd::geteuid().as_raw() {
            let why = format!("it belongs to user {}; set {ENV} to another directory", meta.uid());
            return Err(Error::Root { path, why });
        }
        let root = Self { path };
        root.make_dir(&root.memory_dir())?;
        Ok(root)
    }

    /// Makes a directory with the root's own permissions, also if a process that died in between
    /// left it without them.
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", path)(e));
            }
            _ => {}
        }
        let made = path.metadata().map_err(Error::io("inspect", path))?;
        let root = self.path.metadata().map_err(Error::io("inspect", &self.path))?;
        let wants = root.mode() & 0o7777;
        // Somebody else's directory is as they made it.
        let own = made.uid() == nix::unistd::geteuid().as_raw();
        if made.mode() & 0o7777 == wants || !own {
            return Ok(());
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(wants))
            .map_err(Error::io("set the mode of", path))
    }

    /// Takes the root's lock.
    pub fn lock(&self) -> Result<RootLock> {
        RootLock::acquire(&self.path.join(".lock"))
    }

    /// Takes the root's lock if it is free now.
    pub fn try_lock(&self) -> Result<Option<RootLock>> {
        RootLock::try_acquire(&self.path.join(".lock"))
    }

    /// Directory of a switch.
    #[must_use]
    pub fn switch_dir(&self, switch: &str) -> PathBuf {
        debug_assert!(crate::vale::valid_name(switch));
        self.path.join(switch)
    }

    /// Directory of memory regions.
    #[must_use]
    pub fn memory_dir(&self) -> PathBuf {
        self.path.join("mem")
    }

    /// Names of the switches that have a directory.
    pub fn switches(&self) -> Result<Vec<String>> {
        let dir = std::fs::read_dir(&self.path).map_err(Error::io("list", &self.path))?;
        let mut names: Vec<String> = dir
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| n.starts_with("vale") && crate::vale::valid_name(n))
            .collect();
        names.sort();
        Ok(names)
    }
}
