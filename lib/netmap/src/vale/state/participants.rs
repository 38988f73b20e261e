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
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// Most processes of a switch.
pub const PARTICIPANTS: usize = 2048;

/// Identity of a participant, never 0 and never used twice: generation above 16 bits of index + 1.
pub type ParticipantId = u64;

/// Holder of the rings of a removed port: nobody may write there any more.
pub const RETIRED: ParticipantId = u64::MAX;

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
    file: File,
    me: AtomicU64,
    /// `fork::generation` of the process that `me` is.
    since: AtomicU32,
    joining: Mutex<()>,
}

impl Participation {
    /// Takes no part yet.
    pub fn new(file: File) -> Self {
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
        generations: impl FnOnce() -> u64,
    ) -> Result<ParticipantId, Errno> {
        // In this order: `me` is at least as new. Pairs with the Release in `make_ours`.
        let since = self.since.load(Ordering::Acquire);
        let me = self.me.load(Ordering::Relaxed);
        if me != 0 && since == fork::generation() {
            return Ok(me);
        }
        self.join(entries, generations)
    }

    #[cold]
    fn join(
        &self,
        entries: &[Entry],
        generations: impl FnOnce() -> u64,
    ) -> Result<ParticipantId, Errno> {
        let (_section, _one) = (fork::section(), self.alone());
        self.make_ours()?;
        let me = self.me.load(Ordering::Relaxed);
        if me != 0 {
            return Ok(me); // another thread was as quick
        }
        for (index, entry) in entries.iter().enumerate() {
            if !file::mark_alive(&self.file, index as u32)? {
                continue;
            }
            let generation = generations();
            entry.pid.store(std::process::id(), Ordering::Relaxed);
            entry.generation.store(generation, Ordering::Release);
            let me = generation << 16 | (index as u64 + 1);
            self.me.store(me, Ordering::Relaxed);
            return Ok(me);
        }
        Err(Errno::ENOSPC)
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
        let Some(index) = (id as u16).checked_sub(1) else { return true };
        match entries.get(usize::from(index)) {
            Some(e) if e.generation.load(Ordering::Acquire) == id >> 16 => {
                let (_section, _one) = (fork::section(), self.alone());
                !self.is_alive(index.into())
            }
            _ => true,
        }
    }

    /// Under `joining`. The kernel does not tell a file of its own marks, so it must be ours, and our own
    /// is known. What cannot be told is alive.
    fn is_alive(&self, index: u32) -> bool {
        let ours = self.make_ours().is_ok();
        let me = self.me.load(Ordering::Relaxed);
        !ours || (me != 0 && u32::from(me as u16) == index + 1) || file::is_alive(&self.file, index)
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
        let me = self.me.load(Ordering::Relaxed);
        if me != 0
            && self.since.load(Ordering::Relaxed) == fork::generation()
            && let Some(entry) = entries.get((me as u16).wrapping_sub(1) as usize)
        {
            let _ = entry.generation.compare_exchange(
                me >> 16,
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        fork::forget(&self.file);
    }
}
