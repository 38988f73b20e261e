//! Participants: the processes on a switch. A lock word names one, so that a lock outlives nobody.
//!
//! A process takes part in a switch by a mark on a byte of the switch's file (an open-file-description
//! lock): it holds while the process has the file open, and ends with the process, whatever ended it.
//! The mark belongs to an open file description, which a forked child inherits, and which nothing is mapped through. So a child gets one of
//! its own instead (`shm::fork`), without a mark: it neither keeps its parent alive nor ends it, and
//! becomes a participant of its own when it first syncs.
//!
//! Who writes an entry: whoever has its mark, and whoever finds it dead. Invariant: identities are never
//! used twice, so one that was remembered is recognised as gone.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::shm::file;
use crate::shm::fork;
use crate::shm::map::Shared;
use crate::shm::place::Kept;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::vale::state::ids::{Generation, ParticipantId, RETIRED};

/// Most processes of a switch.
pub const PARTICIPANTS: usize = 2048;

/// An entry of the table.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    /// 0: nobody, or dead and forgotten.
    generation: AtomicU64,
    /// For display.
    pid: AtomicU32,
    _pad: [u32; 5],
}
// SAFETY: atomics and padding.
unsafe impl Shared for Entry {}

/// How this process takes part in a switch.
#[derive(Debug)]
pub struct Participation {
    /// The switch's file. Its marks are the process's, and nobody else's.
    file: Kept,
    /// The word of its identity, 0 before it has joined.
    me: AtomicU64,
    /// `fork::generation` of the process that `me` is.
    since: AtomicU32,
    joining: Mutex<()>,
}

impl Participation {
    /// Takes no part yet.
    pub fn new(file: Kept) -> Self {
        let (me, since) = (AtomicU64::new(0), AtomicU32::new(fork::generation()));
        fork::renew_in_children(&file);
        Self { file, me, since, joining: Mutex::new(()) }
    }

    /// The switch's file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Identity of this process; it joins if it has not. `generations` gives out new ones.
    ///
    /// # Errors
    /// `ENOSPC`: there are too many processes; others as of fcntl(2).
    #[inline]
    pub fn me(
        &self,
        entries: &[Entry],
        generations: impl FnOnce() -> Generation,
    ) -> Result<ParticipantId, Errno> {
        // In this order: `me` is at least as new. Pairs with the Release in `make_ours`.
        let since = self.since.load(Ordering::Acquire);
        if let Some(me) = self.joined()
            && since == fork::generation()
        {
            return Ok(me);
        }
        self.join(entries, generations)
    }

    #[cold]
    fn join(
        &self,
        entries: &[Entry],
        generations: impl FnOnce() -> Generation,
    ) -> Result<ParticipantId, Errno> {
        let (_section, _one) = (fork::section(), self.alone());
        self.make_ours()?;
        if let Some(me) = self.joined() {
            return Ok(me); // another thread was as quick
        }
        for (index, entry) in (0..).zip(entries) {
            if !file::mark_alive(&self.file, u32::from(index))? {
                continue;
            }
            let generation = generations();
            entry.pid.store(std::process::id(), Ordering::Relaxed);
            entry.generation.store(generation.0, Ordering::Release);
            let me = ParticipantId::new(index, generation);
            self.me.store(me.word(), Ordering::Relaxed);
            return Ok(me);
        }
        Err(Errno::ENOSPC)
    }

    fn joined(&self) -> Option<ParticipantId> {
        ParticipantId::from_word(self.me.load(Ordering::Relaxed))
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure, under `joining`, that the file and `me` are this process's, and not its parent's. The
    /// handler of the fork has a limited number of files: this may be another one.
    fn make_ours(&self) -> Result<(), Errno> {
        let now = fork::generation();
        if self.since.load(Ordering::Relaxed) != now {
            fork::renew(&self.file)?;
            self.me.store(0, Ordering::Relaxed);
            self.since.store(now, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the participant `id` no longer exists. Exact for identities that this switch gave out; a
    /// made-up one counts as dead, `RETIRED` never.
    #[cold]
    pub fn is_dead(&self, entries: &[Entry], id: ParticipantId) -> bool {
        if id == RETIRED {
            return false;
        }
        let Some(index) = id.index() else { return true };
        match entries.get(usize::from(index)) {
            Some(e) if e.generation.load(Ordering::Acquire) == id.generation().0 => {
                let (_section, _one) = (fork::section(), self.alone());
                !self.is_alive(index)
            }
            _ => true,
        }
    }

    /// Under `joining`. The kernel does not tell a file of its own marks, so it must be ours, and our own
    /// is known. What cannot be told is alive.
    fn is_alive(&self, index: u16) -> bool {
        let ours = self.make_ours().is_ok();
        let is_me = self.joined().and_then(ParticipantId::index) == Some(index);
        !ours || is_me || file::is_alive(&self.file, index.into())
    }

    /// Forgets those who died since the last call, and says whether there were any.
    pub fn forget_dead(&self, entries: &[Entry]) -> bool {
        let (_section, _one) = (fork::section(), self.alone());
        let mut any = false;
        for (index, entry) in (0..).zip(entries) {
            let generation = entry.generation.load(Ordering::Acquire);
            if generation != 0 && !self.is_alive(index) {
                // Not if somebody has taken the entry meanwhile.
                let forgotten = entry.generation.compare_exchange(
                    generation,
                    0,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                any |= forgotten.is_ok();
            }
        }
        any
    }

    /// Leaves the switch, so that nobody looks after the dead.
    pub fn leave(&self, entries: &[Entry]) {
        if let Some(me) = self.joined()
            && self.since.load(Ordering::Relaxed) == fork::generation()
            && let Some(entry) = me.index().and_then(|index| entries.get(usize::from(index)))
        {
            let mine = me.generation().0;
            let _ =
                entry.generation.compare_exchange(mine, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        fork::forget(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::dir::Dir;
    use crate::shm::map::Map;

    /// A table in a file, and processes on it: each description of the file is one to the kernel.
    struct Table {
        _temp: tempfile::TempDir,
        dir: Dir,
        map: Map,
        generations: std::cell::Cell<u64>,
    }

    impl Table {
        fn new() -> Self {
            let temp = tempfile::tempdir_in("/dev/shm").unwrap();
            let dir = Dir::open(temp.path(), false).unwrap();
            let file = file::create(&dir, "f", 4096).unwrap();
            let map = Map::new(&file, 4096).unwrap();
            Self { _temp: temp, dir, map, generations: std::cell::Cell::new(0) }
        }

        fn entries(&self) -> &[Entry] {
            self.map.slice(0, 4).unwrap()
        }

        fn process(&self) -> Participation {
            Participation::new(file::open_to_keep(&self.dir, "f").unwrap())
        }

        fn join(&self, process: &Participation) -> Result<ParticipantId, Errno> {
            process.me(self.entries(), || {
                self.generations.set(self.generations.get() + 1);
                Generation(self.generations.get())
            })
        }
    }

    #[test]
    fn process_joins_once_and_is_dead_to_others_when_its_file_is_closed() {
        let table = Table::new();
        let (one, other) = (table.process(), table.process());
        let (me, them) = (table.join(&one).unwrap(), table.join(&other).unwrap());
        assert_eq!(table.join(&one), Ok(me));
        assert_ne!(me, them);
        let dead = |id| one.is_dead(table.entries(), id);
        assert!(!dead(me) && !dead(them));
        drop(other); // as the kernel does it, whatever ended the process
        assert!(!dead(me) && dead(them));
        assert!(one.forget_dead(table.entries()));
        assert!(!one.forget_dead(table.entries()), "nobody died since");
        // Its entry is used again, and its identity is not.
        let heir = table.process();
        let theirs = table.join(&heir).unwrap();
        assert_eq!((theirs.index(), theirs == them), (them.index(), false));
        assert!(dead(them) && !dead(theirs));
        heir.leave(table.entries());
        drop(heir);
        assert!(dead(theirs) && !one.forget_dead(table.entries()), "who leaves is no dead one");
    }

    #[test]
    fn made_up_identities_are_dead_and_the_retired_one_is_not() {
        let table = Table::new();
        let process = table.process();
        let me = table.join(&process).unwrap();
        let dead = |id| process.is_dead(table.entries(), id);
        for word in [1 << 16, 5, me.word() + (1 << 16), me.word() + 1, u64::MAX - 1] {
            assert!(dead(ParticipantId::from_word(word).unwrap()), "{word:#x}");
        }
        assert!(!dead(RETIRED));
    }

    #[test]
    fn one_process_more_than_there_are_entries_is_told_so() {
        let table = Table::new();
        let processes: Vec<_> = (0..4).map(|_| table.process()).collect();
        assert!(processes.iter().all(|process| table.join(process).is_ok()));
        assert_eq!(table.join(&table.process()), Err(Errno::ENOSPC));
    }
}
