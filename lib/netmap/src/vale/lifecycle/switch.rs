//! A switch in its directory: found, made, removed.

use std::ops::Deref;
use std::sync::{Mutex, Weak};

use nix::sys::stat::{FileStat, fstat};

use crate::error::{Error, Result};
use crate::random::random;
use crate::shm::dir::Dir;
use crate::shm::lock::RootLock;
use crate::vale::lifecycle::bells::Bells;
use crate::vale::lifecycle::root::Root;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::{HandleIndex, PortIndex};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::{FILE, SwitchFile};

/// How a switch was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was there.
    Found,
    /// It was made.
    Made,
    /// It was made in place of what was there and was of no use: half made, of another version, damaged.
    Replaced,
}

/// A switch: its file, and where that is.
#[derive(Debug)]
pub struct Switch {
    file: SwitchFile,
    dir: Dir,
    root: Root,
    /// Its ports that this process has open.
    ports: Mutex<Vec<Weak<PortFiles>>>,
    bells: Bells,
}

impl Deref for Switch {
    type Target = SwitchFile;

    fn deref(&self) -> &SwitchFile {
        &self.file
    }
}

impl Switch {
    /// Opens the switch, making it if there is none.
    pub fn open_or_create(root: &Root, lock: &RootLock, name: &str) -> Result<(Self, Opened)> {
        if let Some(switch) = Self::open_existing(root, name)? {
            return Ok((switch, Opened::Found));
        }
        let replaces = root.dir().stat_at(name).is_ok();
        // Whatever is there is what a dead creator or remover left, or a peer has put in the way.
        root.clear_away(lock, name)?;
        let dir =
            root.dir().make_subdir(name).map_err(Error::io("create", root.dir().join(name)))?;
        let file = SwitchFile::create(&dir, name, random(), random())?;
        let switch = Self {
            file,
            dir,
            root: root.clone(),
            ports: Mutex::default(),
            bells: Bells::default(),
        };
        Ok((switch, if replaces { Opened::Replaced } else { Opened::Made }))
    }

    /// Opens the switch if there is one.
    pub fn open_existing(root: &Root, name: &str) -> Result<Option<Self>> {
        let Some(dir) = root.switch_dir(name)? else { return Ok(None) };
        let file = SwitchFile::open(&dir, name)?;
        Ok(file.map(|file| Self {
            file,
            dir,
            root: root.clone(),
            ports: Mutex::default(),
            bells: Bells::default(),
        }))
    }

    /// The root it lives in.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its ports that this process has open: see `shared`.
    pub fn ports(&self) -> &Mutex<Vec<Weak<PortFiles>>> {
        &self.ports
    }

    /// The switch's directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Directory of memory regions.
    pub fn memory(&self) -> Result<&Dir> {
        self.root.memory()
    }

    /// Rings a handle, if it is there and, with `port`, on that port.
    pub fn ring(&self, handle: HandleIndex, port: Option<PortIndex>) -> Rung {
        match self.handles().port_of(handle) {
            Some((of, id)) if port.is_none_or(|port| u32::from(port.0) == of) => {
                self.bells.ring(&self.dir, id)
            }
            _ => Rung::Nobody,
        }
    }

    /// Whether the file is still the one that the name leads to. Otherwise somebody removed the
    /// directory, and what is there now is another switch.
    pub fn is_current(&self) -> bool {
        let same = |there: std::io::Result<FileStat>, open: std::io::Result<FileStat>| matches!((there, open), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino));
        same(self.root.dir().stat_at(self.name()), self.dir.stat())
            && same(self.dir.stat_at(FILE), fstat(self.file.file()).map_err(Into::into))
    }

    /// Removes the switch's directory. The caller has seen that nobody is on it.
    pub fn remove(&self, lock: &RootLock) -> Result<()> {
        self.root.clear_away(lock, self.name())
    }
}
