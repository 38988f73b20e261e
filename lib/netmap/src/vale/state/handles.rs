//! The handles of a switch: the table in its file.
//!
//! Who writes an entry: the holder of the root's lock. Invariant: an entry is in use while its port is not 0,
//! which is stored last; whether the handle is alive is not said here, but by its bell (`shm::bell`).

use crate::error::Error;
use crate::options::{BoundRings, MAX_RINGS};
use crate::shm::lock::RootLock;
use crate::shm::map::Shared;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::vale::state::handleset::HANDLES;
use crate::vale::state::ids::{Generation, HandleId, HandleIndex, PortIndex};
use crate::vale::state::switch::SwitchFile;

/// An open handle. `port`: index + 1, 0 if the entry is free.
#[repr(C)]
#[derive(Debug)]
pub struct HandleEntry {
    generation: AtomicU64,
    port: AtomicU32,
    pid: AtomicU32,
    if_cell: AtomicU32,
    flags: AtomicU32,
    /// Rings bound: a bit for each TX ring, and above these one for each RX ring.
    rings: AtomicU32,
    _pad: u32,
}
// SAFETY: atomics and padding.
unsafe impl Shared for HandleEntry {}
const _: () = assert!(MAX_RINGS == 16);

/// Flag of a handle: nobody else may bind the port.
pub const EXCLUSIVE: u32 = 1;

/// What a new handle is entered with.
#[derive(Clone, Copy, Debug)]
pub struct NewHandle<'a> {
    /// Port it belongs to.
    pub port: PortIndex,
    /// Cell of its netmap_if.
    pub if_cell: u32,
    /// `EXCLUSIVE` or 0.
    pub flags: u32,
    /// Rings that it binds.
    pub bound: &'a BoundRings,
}

/// A handle as the table lists it, alive or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedHandle {
    /// Entry in the table.
    pub index: HandleIndex,
    /// Port it belongs to.
    pub port: PortIndex,
    /// Identity.
    pub id: HandleId,
    /// Process that opened it last, in that process's PID namespace.
    pub pid: u32,
    /// `EXCLUSIVE` or 0.
    pub flags: u32,
    /// Cell of its netmap_if.
    pub if_cell: u32,
    /// Rings that it binds.
    pub bound: BoundRings,
}

impl SwitchFile {
    /// The handle at `index`, if the entry is in use and makes sense.
    pub fn handle(&self, index: HandleIndex) -> Option<ListedHandle> {
        let (port, id) = self.port_of(index)?;
        let h = &self.handles()[index.0 as usize];
        let rings = h.rings.load(Ordering::Relaxed);
        let of =
            |bits: u32| (0..usize::from(MAX_RINGS)).filter(move |i| bits & 1 << i != 0).collect();
        Some(ListedHandle {
            index,
            // A scribbled port number makes the handle one of no port; it is freed all the same.
            port: PortIndex(u8::try_from(port).unwrap_or(u8::MAX)),
            id,
            pid: h.pid.load(Ordering::Relaxed),
            flags: h.flags.load(Ordering::Relaxed),
            if_cell: h.if_cell.load(Ordering::Relaxed),
            bound: BoundRings { tx: of(rings), rx: of(rings >> MAX_RINGS) },
        })
    }

    /// Port and identity of the handle at `index`, if the entry is in use.
    pub fn port_of(&self, index: HandleIndex) -> Option<(u32, HandleId)> {
        let h = self.handles().get(index.0 as usize)?;
        let port = h.port.load(Ordering::Acquire).checked_sub(1)?;
        let generation = Generation(h.generation.load(Ordering::Relaxed));
        Some((port, HandleId { index, generation }))
    }

    /// All entries of handles in use, alive or not.
    pub fn all_handles(&self) -> impl Iterator<Item = ListedHandle> {
        (0..HANDLES as u32).filter_map(|index| self.handle(HandleIndex(index)))
    }

    /// Enters a handle of this process at a free index.
    pub fn enter_handle(
        &self,
        lock: &RootLock,
        index: HandleIndex,
        new: &NewHandle<'_>,
    ) -> HandleId {
        let generation = self.next_generation();
        let h = &self.handles()[index.0 as usize];
        h.generation.store(generation.0, Ordering::Relaxed);
        h.pid.store(std::process::id(), Ordering::Relaxed);
        h.if_cell.store(new.if_cell, Ordering::Relaxed);
        h.flags.store(new.flags, Ordering::Relaxed);
        self.bind_handle(lock, index, new.bound);
        h.port.store(u32::from(new.port.0) + 1, Ordering::Release);
        HandleId { index, generation }
    }

    /// Says which rings a handle binds.
    pub fn bind_handle(&self, _lock: &RootLock, index: HandleIndex, bound: &BoundRings) {
        let bits = |rings: &[usize]| rings.iter().fold(0u32, |bits, &i| bits | 1 << i);
        let rings = bits(&bound.tx) | bits(&bound.rx) << MAX_RINGS;
        self.handles()[index.0 as usize].rings.store(rings, Ordering::Relaxed);
    }

    /// Says that a handle is this process's now: another one passed it on.
    pub fn take_handle(&self, _lock: &RootLock, index: HandleIndex) {
        self.handles()[index.0 as usize].pid.store(std::process::id(), Ordering::Relaxed);
    }

    /// The error of a switch without a free entry for a handle.
    pub fn no_free_handle(&self) -> Error {
        Error::Limit {
            name: self.name().into(),
            what: "the switch has too many open handles",
            limit: HANDLES as u64,
        }
    }

    /// Enters a handle as a process would leave it that was killed, or a peer that forges one.
    #[cfg(test)]
    pub fn forge_dead_handle(&self, index: u32, port: PortIndex, if_cell: u32) {
        let h = &self.handles()[index as usize];
        h.if_cell.store(if_cell, Ordering::Relaxed);
        h.port.store(u32::from(port.0) + 1, Ordering::Relaxed);
    }

    /// Frees the entry of a handle.
    pub fn free_handle(&self, _lock: &RootLock, index: HandleIndex) {
        if let Some(h) = self.handles().get(index.0 as usize) {
            h.port.store(0, Ordering::Release);
        }
    }
}

/// Name of the bell of the handle at `index`.
pub fn bell_file(index: HandleIndex) -> String {
    format!("bell.{index}")
}

/// The handle whose bell has that name.
pub fn bell_index(name: &str) -> Option<HandleIndex> {
    let index = HandleIndex(name.strip_prefix("bell.")?.parse().ok()?);
    ((index.0 as usize) < HANDLES && bell_file(index) == name).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::dir::Dir;

    fn switch() -> (tempfile::TempDir, SwitchFile, RootLock) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let switch = SwitchFile::create(&dir, "valeT", 1, 1 << 30).unwrap();
        (temp, switch, RootLock::acquire(&dir).unwrap())
    }

    #[test]
    fn handle_is_listed_as_it_was_entered_bound_and_freed() {
        let (_temp, switch, lock) = switch();
        let index = HandleIndex(HANDLES as u32 - 1);
        let bound = BoundRings { tx: vec![0, 15], rx: vec![3] };
        let new = NewHandle { port: PortIndex(0), if_cell: 77, flags: EXCLUSIVE, bound: &bound };
        assert_eq!(switch.handle(index), None);
        let id = switch.enter_handle(&lock, index, &new);
        let pid = std::process::id();
        let listed = ListedHandle {
            index,
            port: PortIndex(0),
            id,
            pid,
            flags: EXCLUSIVE,
            if_cell: 77,
            bound: bound.clone(),
        };
        assert_eq!(switch.all_handles().collect::<Vec<_>>(), std::slice::from_ref(&listed));
        let fewer = BoundRings { tx: vec![], rx: vec![0, 15] };
        switch.bind_handle(&lock, index, &fewer);
        assert_eq!(switch.handle(index), Some(ListedHandle { bound: fewer, ..listed }));
        switch.free_handle(&lock, index);
        assert_eq!(switch.all_handles().count(), 0);
        let again = switch.enter_handle(&lock, index, &new);
        assert!(again != id && again.index == id.index, "an identity is never used twice");
    }

    #[test]
    fn entry_that_a_peer_scribbled_over_is_a_handle_of_no_port() {
        let (_temp, switch, _lock) = switch();
        for word in [256, 1 << 20, u32::MAX] {
            switch.handles()[5].port.store(word, Ordering::Relaxed);
            let port = switch.handle(HandleIndex(5)).unwrap().port;
            assert!(PortIndex::all().all(|real| real != port), "{word}");
        }
        assert_eq!(switch.handle(HandleIndex(HANDLES as u32)), None);
    }

    #[test]
    fn bells_have_one_name_each() {
        assert_eq!(bell_index(&bell_file(HandleIndex(2047))), Some(HandleIndex(2047)));
        for name in
            ["bell.", "bell.2048", "bell.01", "bell.+1", "bell.-1", "bell.1.0", "port.1", "1"]
        {
            assert_eq!(bell_index(name), None, "{name}");
        }
    }
}
