//! The file of a switch: who is on it, who is alive, and the learning table.
//!
//! ```text
//!  0       | header: identity, settings, set of active ports
//!  4096    | 254 ports:   place (state and generation), flags, name, region
//!  20480   | 2048 handles: generation, port, pid, netmap_if, rings
//!  86016   | 2048 participants: generation, pid
//!  151552  | learning table (fdb)
//! ```
//!
//! Who writes what: everything except participants and the learning table by the holder of the root's lock
//! (the functions that take a `&RootLock`). Senders read ports and the active set without a lock.
//!
//! Invariants. A port exists while it is persistent or some live handle refers to it. A handle is
//! alive while its bell is held (`shm::bell`), a participant while its mark on this file is, so death
//! is known exactly and at once, whatever killed the process. Every state that a holder of the
//! root's lock may die in is one that `reap` cleans up, and every operation begins with `reap`.
//! Generations never repeat, so that something that was remembered is recognised as gone.

use std::fs::File;
use std::path::PathBuf;

use crate::error::{Damage, Error, Result, SharedFile};
use crate::name::{valid_entry, valid_name};
use crate::shm::dir::Dir;
use crate::shm::file;
use crate::shm::fork;
use crate::shm::lock::RootLock;
use crate::shm::map::{Map, Shared};
use crate::shm::text::{load_text, store_text};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::time::now_ms;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::fdb::{self, Fdb};
use crate::vale::state::handles::{HandleEntry, Handles, NewHandle};
use crate::vale::state::handleset::HANDLES;
use crate::vale::state::ids::{
    Generation, HandleId, HandleIndex, ParticipantId, PortId, PortIndex,
};
use crate::vale::state::participants::{self, PARTICIPANTS, Participation};
use crate::vale::state::place::Place;
use crate::vale::state::portset::PortSet;
use crate::vale::state::watch::{PortKind, Watch};

mod ports;
mod watched;

pub use ports::{Listed, NewName, port_file};

/// Name of the file in the switch's directory.
pub const FILE: &str = "switch";
const MAGIC: u64 = u64::from_le_bytes(*b"NMVALE\0\0");
const VERSION: u32 = 4;
const PORTS_OFF: usize = 4096;
const HANDLES_OFF: usize = PORTS_OFF + 256 * size_of::<PortEntry>();
const PARTICIPANTS_OFF: usize = HANDLES_OFF + HANDLES * size_of::<HandleEntry>();
const FDB_OFF: usize = PARTICIPANTS_OFF + PARTICIPANTS * size_of::<participants::Entry>();
const BYTES: usize = FDB_OFF + fdb::BYTES;
const _: () = assert!(PARTICIPANTS_OFF == 86016 && FDB_OFF == 151_552);

/// Ageing time of a new switch.
pub const DEFAULT_AGEING_MS: u64 = 300_000;

const PERSISTENT: u32 = 1;
const BACKPRESSURE: u32 = 2;
/// Some port has a mirror or a monitor that gets copies.
const COPIES: u32 = 4;
/// Some port has a monitor that gets the buffers themselves.
const EXCHANGES: u32 = 8;
/// Some port has virtio-net headers.
const HEADERS: u32 = 16;
/// Some port has offsets in its slots.
const OFFSETS: u32 = 32;
/// Where in a port's flags the index of its mirror is, plus one; 0: none.
const MIRROR_SHIFT: u32 = 8;
/// Where in a port's flags the length of its virtio-net headers is.
const HEADER_SHIFT: u32 = 32;
/// Where in a port's flags the number of bits is that offsets have in its slots; 0: there are none.
const OFFSETS_SHIFT: u32 = 40;
/// In a port's flags: it was made with its offsets, and keeps them without users.
const OFFSETS_KEPT: u64 = 1 << 48;
/// What that length can be: none, the legacy one, the one with the number of buffers.
pub const HEADER_LENGTHS: [u8; 3] = [0, 10, 12];

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
    monitors: [AtomicU64; 4],
}
// SAFETY: atomics only.
unsafe impl Shared for Header {}

/// A port's place in the table.
#[repr(C)]
#[derive(Debug)]
struct PortEntry {
    place: Place,
    flags: AtomicU64,
    /// A port's name has at most 15 characters, a pipe's twice as many and its mark.
    name: [AtomicU64; 4],
    region: [AtomicU64; 2],
}
// SAFETY: atomics only.
unsafe impl Shared for PortEntry {}

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
    /// Some port has virtio-net headers.
    pub headers: bool,
    /// Some port has offsets in its slots.
    pub offsets: bool,
    /// Some port has a mirror or a monitor that gets copies.
    pub copies: bool,
    /// Some port has a monitor that gets the buffers themselves.
    pub exchanges: bool,
}

/// A switch's file, mapped.
#[derive(Debug)]
pub struct SwitchFile {
    map: Map,
    process: Participation,
    path: PathBuf,
    name: String,
}

impl SwitchFile {
    // ---- opening ----

    /// Makes the file of a new switch called `name`. `seed` and `generation` are random, so that
    /// addresses do not collide on purpose, and what was remembered of a switch of the same name
    /// before is not mistaken.
    pub fn create(dir: &Dir, name: &str, seed: u64, generation: u64) -> Result<Self> {
        let _section = fork::section();
        let file = file::create(dir, FILE, BYTES as u64)?;
        let switch = Self::mapped(dir, &file, name)?.ok_or_else(|| damaged_by_others(dir))?;
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
        let _section = fork::section();
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
        let damaged = |damage| {
            // With nobody on it, a bad file is a leftover: it is replaced.
            if alive { Err(Error::Damaged { path: path.clone(), damage }) } else { Ok(None) }
        };
        if file::len(&file) < BYTES as u64 {
            return damaged(Damage::Short(SharedFile::Switch));
        }
        let Some(switch) = Self::mapped(dir, &file, name)? else { return Ok(None) };
        let h = switch.header();
        if h.magic.load(Ordering::Acquire) != MAGIC {
            return damaged(Damage::Magic(SharedFile::Switch));
        }
        let found = h.version.load(Ordering::Relaxed);
        if found != VERSION {
            return damaged(Damage::Version { file: SharedFile::Switch, found, known: VERSION });
        }
        Ok(Some(switch))
    }

    /// `None`: another file has the name by now.
    fn mapped(dir: &Dir, file: &File, name: &str) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let map = Map::new(file, BYTES).map_err(Error::io("map", &path))?;
        // Another description: the mapping keeps the first, and forked children have it, too.
        let own = file::open_to_keep(dir, FILE)?;
        let same = file::id(&own) == file::id(file);
        let process = Participation::new(own);
        Ok(same.then(|| Self { map, process, path, name: name.into() }))
    }

    /// Whether the file is still whole.
    pub fn is_whole(&self) -> bool {
        let h = self.header();
        file::len(self.file()) >= BYTES as u64
            && h.magic.load(Ordering::Acquire) == MAGIC
            && h.version.load(Ordering::Relaxed) == VERSION
    }

    /// The open file: its mark is this process's sign of life.
    pub fn file(&self) -> &File {
        self.process.file()
    }

    fn header(&self) -> &Header {
        self.map.at(0).expect("the mapping is longer than the header")
    }

    fn ports(&self) -> &[PortEntry] {
        self.map.slice(PORTS_OFF, MAX_PORTS).expect("within the file's fixed length")
    }

    /// The table of handles.
    pub fn handles(&self) -> Handles<'_> {
        Handles(self.map.slice(HANDLES_OFF, HANDLES).expect("within the file's fixed length"))
    }

    fn participants(&self) -> &[participants::Entry] {
        self.map.slice(PARTICIPANTS_OFF, PARTICIPANTS).expect("within the file's fixed length")
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
    pub fn epoch(&self) -> Generation {
        // Pairs with the Release in `next_generation`.
        Generation(self.header().next_generation.load(Ordering::Acquire))
    }

    /// What senders have to heed, read in one go.
    #[inline]
    pub fn modes(&self) -> Modes {
        let flags = self.header().flags.load(Ordering::Relaxed);
        Modes {
            backpressure: flags & BACKPRESSURE != 0,
            headers: flags & HEADERS != 0,
            offsets: flags & OFFSETS != 0,
            copies: flags & COPIES != 0,
            exchanges: flags & EXCHANGES != 0,
        }
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

    // ---- participants ----

    /// Identity of this process on the switch, which joins it if it has not.
    ///
    /// # Errors
    /// There are too many processes; the file system has no locks.
    #[inline]
    pub fn me(&self) -> Result<ParticipantId> {
        let generation = || self.next_generation();
        self.process.me(self.participants(), generation).map_err(|e| self.not_joined(e))
    }

    #[cold]
    fn not_joined(&self, e: nix::errno::Errno) -> Error {
        match e {
            nix::errno::Errno::ENOSPC => Error::Limit {
                name: self.name.clone(),
                what: "the switch has too many processes",
                limit: PARTICIPANTS as u64,
            },
            _ => file::not_marked(&self.path, e),
        }
    }

    /// Whether the process with that identity no longer exists. A made-up one counts as dead.
    #[cold]
    pub fn is_dead(&self, id: ParticipantId) -> bool {
        self.process.is_dead(self.participants(), id)
    }

    /// Forgets the processes that died since the last call, and says whether there were any.
    pub fn forget_dead(&self, _lock: &RootLock) -> bool {
        self.process.forget_dead(self.participants())
    }

    // ---- changing, under the root's lock ----

    /// Chooses settings.
    pub fn set(&self, _lock: &RootLock, settings: Settings) {
        let h = self.header();
        let kept = COPIES | EXCHANGES | HEADERS | OFFSETS;
        let mut flags = h.flags.load(Ordering::Relaxed) & kept;
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

    fn next_generation(&self) -> Generation {
        // Kept below 48 bits: it shares a word with an index. Processes join without the root's lock.
        // Pairs with the Acquire in `epoch`.
        let before = self.header().next_generation.fetch_add(1, Ordering::Release);
        Generation((before.wrapping_add(1) & ((1 << 48) - 1)).max(1))
    }

    /// Lets senders know that some port has something that they have to look for.
    fn note(&self, flag: u32, any: bool) {
        let flags = &self.header().flags;
        let others = flags.load(Ordering::Relaxed) & !flag;
        flags.store(others | if any { flag } else { 0 }, Ordering::Relaxed);
    }

    /// Enters a handle of this process at a free index.
    pub fn enter_handle(
        &self,
        lock: &RootLock,
        index: HandleIndex,
        new: &NewHandle<'_>,
    ) -> HandleId {
        let id = HandleId { index, generation: self.next_generation() };
        self.handles().enter(lock, id, new);
        id
    }

    /// The error of a switch without a free entry for a handle.
    pub fn no_free_handle(&self) -> Error {
        Error::Limit {
            name: self.name.clone(),
            what: "the switch has too many open handles",
            limit: HANDLES as u64,
        }
    }
}

fn damaged_by_others(dir: &Dir) -> Error {
    Error::Damaged { path: dir.join(FILE), damage: Damage::Replaced(SharedFile::Switch) }
}

impl Drop for SwitchFile {
    fn drop(&mut self) {
        self.process.leave(self.participants());
    }
}

#[cfg(test)]
mod tests;
