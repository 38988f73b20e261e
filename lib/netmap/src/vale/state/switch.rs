//! The file of a switch: who is on it, who is alive, and the learning table.
//!
//! ```text
//!  0       | header: identity, settings, set of active ports
//!  4096    | 254 ports:   place (state and generation), flags, name, region
//!  20480   | 2048 handles: generation, port, pid, netmap_if
//!  86016   | learning table (fdb)
//! ```
//!
//! Who writes what: everything except the learning table by the holder of the root's lock (the
//! functions that take a `&RootLock`). Senders read ports and the active set without a lock.
//!
//! Invariants. A port exists while it is persistent or some live handle refers to it. A handle is
//! alive while the kernel holds the open-file-description lock on its byte of this file, so death
//! is known exactly and at once, whatever killed the process. Every state that a holder of the
//! root's lock may die in is one that `reap` cleans up, and every operation begins with `reap`.
//! Generations never repeat, so that something that was remembered is recognised as gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::name::valid_name;
use crate::shm::dir::Dir;
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::map::{Map, Shared};
use crate::shm::text::{load_text, store_text};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::time::now_ms;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::fdb::{self, Fdb};
use crate::vale::state::place::Place;
use crate::vale::state::portset::PortSet;

/// Name of the file in the switch's directory.
pub const FILE: &str = "switch";
const MAGIC: u64 = u64::from_le_bytes(*b"NMVALE\0\0");
const VERSION: u32 = 2;
const PORTS_OFF: usize = 4096;
const HANDLES: usize = 2048;
const HANDLES_OFF: usize = PORTS_OFF + 256 * size_of::<PortEntry>();
const FDB_OFF: usize = HANDLES_OFF + HANDLES * size_of::<HandleEntry>();
const BYTES: usize = FDB_OFF + fdb::BYTES;
const _: () = assert!(FDB_OFF == 86016);

/// Ageing time of a new switch.
pub const DEFAULT_AGEING_MS: u64 = 300_000;

const PERSISTENT: u32 = 1;
const BACKPRESSURE: u32 = 2;
/// Some port has a mirror.
const MIRRORS: u32 = 4;
/// Where in a port's flags the index of its mirror is, plus one; 0: none.
const MIRROR_SHIFT: u32 = 8;

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    flags: AtomicU32,
    ageing_ms: AtomicU64,
    last_sweep_ms: AtomicU64,
    seed: AtomicU64,
    next_generation: AtomicU64,
    active: [AtomicU64; 4],
    fdb_changes: AtomicU64,
}
// SAFETY: atomics only.
unsafe impl Shared for Header {}

/// A port's place in the table.
#[repr(C)]
#[derive(Debug)]
struct PortEntry {
    place: Place,
    flags: AtomicU64,
    name: [AtomicU64; 3],
    region: [AtomicU64; 3],
}
// SAFETY: atomics only.
unsafe impl Shared for PortEntry {}

/// An open handle. `port`: index + 1, 0 if the entry is free.
#[repr(C)]
#[derive(Debug)]
struct HandleEntry {
    generation: AtomicU64,
    port: AtomicU32,
    pid: AtomicU32,
    if_cell: AtomicU32,
    flags: AtomicU32,
    _pad: u64,
}
// SAFETY: atomics and padding.
unsafe impl Shared for HandleEntry {}

/// Flag of a handle: nobody else may bind the port.
pub const EXCLUSIVE: u32 = 1;

/// Identity of an open handle, never 0 and never used twice: generation above 16 bits of index + 1.
pub type HandleId = u64;

/// Index in the table of the handle with that identity.
pub fn index_of(id: HandleId) -> u32 {
    u32::from(id as u16).wrapping_sub(1)
}

/// Holder of the rings of a removed port: nobody may write there any more.
pub const RETIRED: HandleId = u64::MAX;

/// A port as the table lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Index in the table.
    pub index: u8,
    /// Number of the port's life.
    pub generation: u64,
    /// Name without the switch.
    pub name: String,
    /// File name of its memory region.
    pub region: String,
    /// Stays when its last handle closes.
    pub persistent: bool,
}

/// A live handle as the table lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedHandle {
    /// Index in the table.
    pub index: u32,
    /// Port it belongs to.
    pub port: u8,
    /// Process that opened it, in that process's PID namespace.
    pub pid: u32,
    /// `EXCLUSIVE` or 0.
    pub flags: u32,
    /// Cell of its netmap_if.
    pub if_cell: u32,
}

/// Settings of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The switch stays when its last port goes.
    pub persistent: bool,
    /// Senders wait at full destinations instead of dropping.
    pub backpressure: bool,
    /// Time after which an address that was not seen is forgotten; 0: never.
    pub ageing_ms: u64,
}

/// What the senders on a switch have to heed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// They wait at full destinations instead of dropping.
    pub backpressure: bool,
    /// Some port has a mirror.
    pub mirrors: bool,
}

/// A switch's file, mapped.
#[derive(Debug)]
pub struct SwitchFile {
    map: Map,
    file: File,
    path: PathBuf,
    name: String,
    /// Handles of this process: the kernel does not tell a file of its own locks.
    own: Mutex<BTreeMap<u32, HandleId>>,
}

impl SwitchFile {
    // ---- opening ----

    /// Makes the file of a new switch called `name`. `seed` and `generation` are random, so that
    /// addresses do not collide on purpose, and what was remembered of a switch of the same name
    /// before is not mistaken.
    pub fn create(dir: &Dir, name: &str, seed: u64, generation: u64) -> Result<Self> {
        let file = file::create(dir, FILE, BYTES as u64)?;
        let switch = Self::mapped(dir, file, name)?;
        let h = switch.header();
        h.version.store(VERSION, Ordering::Relaxed);
        h.ageing_ms.store(DEFAULT_AGEING_MS, Ordering::Relaxed);
        h.last_sweep_ms.store(now_ms(), Ordering::Relaxed);
        h.seed.store(seed, Ordering::Relaxed);
        h.next_generation.store(generation >> 24 | 1, Ordering::Relaxed);
        h.magic.store(MAGIC, Ordering::Release);
        Ok(switch)
    }

    /// Opens the file of a switch, if there is a whole one. What a dead process left half made counts
    /// as none.
    pub fn open(dir: &Dir, name: &str) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let file = match file::open(dir, FILE) {
            Ok(file) => file,
            // No file, or something that is none: nobody can be on it.
            Err(Error::Damaged { .. }) => return Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let alive = file::anyone_alive(&file);
        let damaged = |why: String| {
            // With nobody on it, a bad file is a leftover: it is replaced.
            if alive {
                let why = format!("{why}; end the programs on the switch and try again");
                Err(Error::Damaged { path: path.clone(), why })
            } else {
                Ok(None)
            }
        };
        if file::len(&file) < BYTES as u64 {
            return damaged("it is shorter than a switch's file (truncated?)".into());
        }
        let switch = Self::mapped(dir, file, name)?;
        let h = switch.header();
        if h.magic.load(Ordering::Acquire) != MAGIC {
            return damaged("it does not begin as a switch's file does".into());
        }
        let version = h.version.load(Ordering::Relaxed);
        if version != VERSION {
            return damaged(format!("layout version {version}, this program knows {VERSION}"));
        }
        Ok(Some(switch))
    }

    fn mapped(dir: &Dir, file: File, name: &str) -> Result<Self> {
        let path = dir.join(FILE);
        let map = Map::new(&file, BYTES).map_err(Error::io("map", &path))?;
        Ok(Self { map, file, path, name: name.into(), own: Mutex::default() })
    }

    /// Whether the file is still whole.
    pub fn is_whole(&self) -> bool {
        let h = self.header();
        file::len(&self.file) >= BYTES as u64
            && h.magic.load(Ordering::Acquire) == MAGIC
            && h.version.load(Ordering::Relaxed) == VERSION
    }

    /// The open file: it keeps the handle alive.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn header(&self) -> &Header {
        self.map.at(0).expect("the mapping is longer than the header")
    }

    fn ports(&self) -> &[PortEntry] {
        self.map.slice(PORTS_OFF, MAX_PORTS).expect("within the file's fixed length")
    }

    fn handles(&self) -> &[HandleEntry] {
        self.map.slice(HANDLES_OFF, HANDLES).expect("within the file's fixed length")
    }

    // ---- reading, without a lock ----

    /// Full name, such as `valeA`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The learning table.
    #[inline]
    pub fn fdb(&self) -> Fdb<'_> {
        let seed = self.header().seed.load(Ordering::Relaxed);
        Fdb::new(&self.map, FDB_OFF, seed, &self.header().fdb_changes)
            .expect("within the file's fixed length")
    }

    /// Settings now.
    pub fn settings(&self) -> Settings {
        let flags = self.header().flags.load(Ordering::Relaxed);
        Settings {
            persistent: flags & PERSISTENT != 0,
            backpressure: flags & BACKPRESSURE != 0,
            ageing_ms: self.ageing_ms(),
        }
    }

    /// Generations up to this one have been given out: a port of a later one was made later.
    #[inline]
    pub fn epoch(&self) -> u64 {
        // Pairs with the Release in `next_generation`.
        self.header().next_generation.load(Ordering::Acquire)
    }

    /// What senders have to heed, read in one go.
    #[inline]
    pub fn modes(&self) -> Modes {
        let flags = self.header().flags.load(Ordering::Relaxed);
        Modes { backpressure: flags & BACKPRESSURE != 0, mirrors: flags & MIRRORS != 0 }
    }

    /// The port that gets copies of what the port at `index` sends and receives.
    pub fn mirror_of(&self, index: u8) -> Option<u8> {
        let flags = self.ports().get(usize::from(index))?.flags.load(Ordering::Relaxed);
        ((flags >> MIRROR_SHIFT) as u8).checked_sub(1)
    }

    /// Ageing time in milliseconds, 0: never. Bounded, whatever a peer wrote, so that times can be
    /// multiplied.
    #[inline]
    pub fn ageing_ms(&self) -> u64 {
        self.header().ageing_ms.load(Ordering::Relaxed).min(1 << 40)
    }

    /// Time of the last sweep of the learning table.
    pub fn last_sweep_ms(&self) -> &AtomicU64 {
        &self.header().last_sweep_ms
    }

    /// The active ports.
    #[inline]
    pub fn active(&self) -> PortSet {
        let words = std::array::from_fn(|i| self.header().active[i].load(Ordering::Acquire));
        PortSet(words).and(PortSet::ALL)
    }

    /// Generation of the port at `index`, 0 if there is none.
    #[inline]
    pub fn port_generation(&self, index: u8) -> u64 {
        match self.ports().get(usize::from(index)) {
            Some(p) => p.place.active_generation(),
            None => 0,
        }
    }

    /// The port at `index`, if it is active and its entry makes sense.
    pub fn listed(&self, index: u8) -> Option<Listed> {
        let p = self.ports().get(usize::from(index))?;
        let generation = p.place.active_generation();
        if generation == 0 {
            return None;
        }
        Some(Listed {
            index,
            generation,
            name: load_text(&p.name).filter(|n| valid_name(n))?,
            region: load_text(&p.region).filter(|n| valid_name(n))?,
            persistent: p.flags.load(Ordering::Relaxed) & u64::from(PERSISTENT) != 0,
        })
    }

    /// All active ports.
    pub fn list(&self) -> Vec<Listed> {
        (0..MAX_PORTS as u8).filter_map(|i| self.listed(i)).collect()
    }

    /// The active port of that name.
    pub fn find(&self, name: &str) -> Option<Listed> {
        self.list().into_iter().find(|p| p.name == name)
    }

    /// Handles that are alive, this one among them.
    pub fn live_handles(&self) -> Vec<ListedHandle> {
        let used = self.handles().iter().enumerate().filter_map(|(i, h)| {
            let port = h.port.load(Ordering::Relaxed);
            let port = u8::try_from(port).ok().and_then(|p| p.checked_sub(1))?;
            Some(ListedHandle {
                index: i as u32,
                port,
                pid: h.pid.load(Ordering::Relaxed),
                flags: h.flags.load(Ordering::Relaxed),
                if_cell: h.if_cell.load(Ordering::Relaxed),
            })
        });
        used.filter(|h| self.is_alive(h.index)).collect()
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<u32, HandleId>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self, handle: u32) -> bool {
        self.own().contains_key(&handle) || file::is_alive(&self.file, handle)
    }

    /// Whether the handle with that identity no longer exists. Exact for identities that this
    /// switch gave out; a made-up one counts as dead, `RETIRED` never.
    #[cold]
    pub fn is_dead(&self, id: HandleId) -> bool {
        if id == RETIRED {
            return false;
        }
        let Some(index) = (id as u16).checked_sub(1) else {
            return true;
        };
        match self.handles().get(usize::from(index)) {
            Some(h) if h.generation.load(Ordering::Relaxed) == id >> 16 => {
                !self.is_alive(index.into())
            }
            _ => true,
        }
    }

    /// Whether a port has a live handle or is persistent.
    #[cold]
    pub fn port_is_kept(&self, index: u8) -> bool {
        self.listed(index).is_some_and(|p| p.persistent)
            || self.handles().iter().enumerate().any(|(i, h)| {
                h.port.load(Ordering::Relaxed) == u32::from(index) + 1 && self.is_alive(i as u32)
            })
    }

    // ---- changing, under the root's lock ----

    /// Chooses settings.
    pub fn set(&self, _lock: &RootLock, settings: Settings) {
        let h = self.header();
        let mut flags = h.flags.load(Ordering::Relaxed) & MIRRORS;
        if settings.persistent {
            flags |= PERSISTENT;
        }
        if settings.backpressure {
            flags |= BACKPRESSURE;
        }
        h.flags.store(flags, Ordering::Relaxed);
        if h.ageing_ms.load(Ordering::Relaxed) != settings.ageing_ms {
            h.ageing_ms.store(settings.ageing_ms, Ordering::Relaxed);
            let now = now_ms();
            self.fdb().restamp(&fdb::Clock::new(now, settings.ageing_ms));
            h.last_sweep_ms.store(now, Ordering::Relaxed);
        }
    }

    fn next_generation(&self) -> u64 {
        let g = &self.header().next_generation;
        // Kept below 48 bits: it shares a word with a handle's index.
        let next = g.load(Ordering::Relaxed).wrapping_add(1) & ((1 << 48) - 1);
        // Pairs with the Acquire in `epoch`.
        g.store(next.max(1), Ordering::Release);
        next.max(1)
    }

    /// Reserves a place for a port that is about to be made. It is not listed yet; if the caller
    /// dies, `reap` frees it again.
    pub fn reserve_port(&self, _lock: &RootLock, name: &str, region: &str) -> Result<(u8, u64)> {
        let free = self.ports().iter().position(|p| p.place.is_free());
        let Some(index) = free else {
            return Err(Error::Limit {
                name: self.name.clone(),
                what: "the switch has no free port",
                limit: MAX_PORTS as u64,
            });
        };
        let p = &self.ports()[index];
        let generation = self.next_generation();
        store_text(&p.name, name);
        store_text(&p.region, region);
        p.flags.store(0, Ordering::Relaxed);
        p.place.reserve(generation);
        Ok((index as u8, generation))
    }

    /// Lists a port whose files are complete.
    pub fn activate_port(&self, _lock: &RootLock, index: u8) {
        self.ports()[usize::from(index)].place.activate();
        self.header().active[usize::from(index / 64)]
            .fetch_or(1 << (index % 64), Ordering::Release);
    }

    /// Makes a port stay after its last handle, or not.
    pub fn set_port_persistent(&self, _lock: &RootLock, index: u8, persistent: bool) {
        let flags = &self.ports()[usize::from(index)].flags;
        let others = flags.load(Ordering::Relaxed) & !u64::from(PERSISTENT);
        flags.store(others | if persistent { u64::from(PERSISTENT) } else { 0 }, Ordering::Relaxed);
    }

    /// Chooses the port that gets copies of what the port at `index` sends and receives, or none.
    pub fn set_mirror(&self, _lock: &RootLock, index: u8, to: Option<u8>) {
        let flags = &self.ports()[usize::from(index)].flags;
        let others = flags.load(Ordering::Relaxed) & !(0xff << MIRROR_SHIFT);
        // The largest index is 253, so that one more fits a byte.
        let to = to.map_or(0, |to| u64::from(to) + 1);
        flags.store(others | to << MIRROR_SHIFT, Ordering::Relaxed);
        let any = (0..MAX_PORTS as u8).any(|i| self.mirror_of(i).is_some());
        let h = self.header();
        let others = h.flags.load(Ordering::Relaxed) & !MIRRORS;
        h.flags.store(others | if any { MIRRORS } else { 0 }, Ordering::Relaxed);
    }

    /// Enters a handle of this process; it lives until it is removed, or as long as this file is open.
    pub fn add_handle(
        &self,
        _lock: &RootLock,
        port: u8,
        if_cell: u32,
        flags: u32,
    ) -> Result<HandleId> {
        let mut free = None;
        let mut own = self.own();
        for (i, h) in self.handles().iter().enumerate() {
            // An entry whose last owner left a copy of its file in a child that lives on stays
            // marked: the next one will do.
            if h.port.load(Ordering::Relaxed) == 0
                && !own.contains_key(&(i as u32)) // should a peer have cleared the entry of our own
                && file::mark_alive(&self.file, i as u32).map_err(|e| self.no_locks(e))?
            {
                free = Some(i);
                break;
            }
        }
        let Some(index) = free else {
            return Err(Error::Limit {
                name: self.name.clone(),
                what: "the switch has too many open handles",
                limit: HANDLES as u64,
            });
        };
        let generation = self.next_generation();
        let id = generation << 16 | (index as u64 + 1);
        own.insert(index as u32, id);
        let h = &self.handles()[index];
        h.generation.store(generation, Ordering::Relaxed);
        h.pid.store(std::process::id(), Ordering::Relaxed);
        h.if_cell.store(if_cell, Ordering::Relaxed);
        h.flags.store(flags, Ordering::Relaxed);
        h.port.store(u32::from(port) + 1, Ordering::Release);
        Ok(id)
    }

    fn no_locks(&self, e: nix::errno::Errno) -> Error {
        use nix::errno::Errno::{EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP};
        let path = self.path.clone();
        match e {
            EINVAL | ENOLCK | ENOSYS | EOPNOTSUPP => Error::FileSystem {
                path,
                lacks: "open-file-description locks (F_OFD_SETLK)",
                source: e.into(),
            },
            _ => Error::errno("lock", path)(e),
        }
    }

    /// Enters a handle as a process would leave it that was killed, or a peer that forges one.
    #[cfg(test)]
    pub fn forge_dead_handle(&self, index: u32, port: u8, if_cell: u32) {
        let h = &self.handles()[index as usize];
        h.if_cell.store(if_cell, Ordering::Relaxed);
        h.port.store(u32::from(port) + 1, Ordering::Relaxed);
    }

    /// Frees the entry of a handle.
    pub fn remove_handle(&self, _lock: &RootLock, index: u32) {
        if let Some(h) = self.handles().get(index as usize) {
            h.port.store(0, Ordering::Release);
        }
        if self.own().remove(&index).is_some() {
            file::mark_dead(&self.file, index);
        }
    }

    /// Lets a handle of this process be dead, whose entry could not be freed: for the next reaper.
    pub fn abandon(&self, id: HandleId) {
        let mut own = self.own();
        if own.get(&index_of(id)) == Some(&id) {
            own.remove(&index_of(id));
            file::mark_dead(&self.file, index_of(id));
        }
    }

    /// Entries of handles whose process is gone.
    pub fn dead_handles(&self, _lock: &RootLock) -> Vec<ListedHandle> {
        let used = self.handles().iter().enumerate().filter_map(|(i, h)| {
            let port = h.port.load(Ordering::Relaxed).checked_sub(1)?;
            Some(ListedHandle {
                index: i as u32,
                // A scribbled port number makes the handle one of no port; it is freed all the same.
                port: u8::try_from(port).unwrap_or(u8::MAX),
                pid: h.pid.load(Ordering::Relaxed),
                flags: h.flags.load(Ordering::Relaxed),
                if_cell: h.if_cell.load(Ordering::Relaxed),
            })
        });
        used.filter(|h| !self.is_alive(h.index)).collect()
    }

    /// Ports that are kept by a live handle or because they are persistent.
    pub fn kept_ports(&self) -> PortSet {
        let live = self.live_handles().into_iter().map(|h| h.port);
        let persistent = self.list().into_iter().filter(|l| l.persistent).map(|l| l.index);
        let mut kept = PortSet::default();
        live.chain(persistent).for_each(|port| kept.insert(port));
        kept
    }

    /// Ports that nobody keeps: listed, half made or half removed.
    pub fn abandoned_ports(&self, _lock: &RootLock) -> Vec<u8> {
        let kept = self.kept_ports();
        (0..MAX_PORTS as u8)
            .filter(|&i| {
                let place = &self.ports()[usize::from(i)].place;
                !(place.is_free() || (kept.contains(i) && place.active_generation() != 0))
            })
            .collect()
    }

    /// Names of the port and the region at `index`, listed or not, as far as they make sense.
    pub fn entry(&self, index: u8) -> (Option<String>, Option<String>) {
        let entry = self.ports().get(usize::from(index)).filter(|p| !p.place.is_free());
        let text = |words: &[AtomicU64]| load_text(words).filter(|n| valid_name(n));
        entry.map_or((None, None), |p| (text(&p.name), text(&p.region)))
    }

    /// Takes a port off the list, so that no sender begins to use it.
    pub fn unlist_port(&self, lock: &RootLock, index: u8) {
        let mirrored = |&i: &u8| i == index || self.mirror_of(i) == Some(index);
        for i in (0..MAX_PORTS as u8).filter(mirrored) {
            self.set_mirror(lock, i, None); // before another port can have the index
        }
        self.header().active[usize::from(index / 64)]
            .fetch_and(!(1 << (index % 64)), Ordering::Release);
        self.ports()[usize::from(index)].place.unlist();
        self.fdb().remove_if(|_, port| port == index);
    }

    /// Frees a port's place, after its files are gone.
    pub fn free_port(&self, _lock: &RootLock, index: u8) {
        self.ports()[usize::from(index)].place.free();
    }

    /// Number of places in use, listed or not.
    pub fn ports_used(&self) -> usize {
        self.ports().iter().filter(|p| !p.place.is_free()).count()
    }
}

/// Name of a port's file.
pub fn port_file(port: &str) -> String {
    format!("port.{port}")
}

/// Name of the doorbell of one ring of a port.
pub fn bell_file(port: &str, ring: usize) -> String {
    format!("bell.{port}.{ring}")
}
