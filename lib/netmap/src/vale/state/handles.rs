//! The handles of a switch: the table in its file.
//!
//! Who writes an entry: the holder of the root's lock. Invariant: an entry is in use while its port is not 0,
//! which is stored last; whether the handle is alive is not said here, but by its bell (`shm::bell`).

use crate::options::{BoundRings, MAX_RINGS};
use crate::shm::lock::RootLock;
use crate::shm::map::Shared;
use crate::shm::mem::Cell;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::vale::state::handleset::HANDLES;
use crate::vale::state::ids::{Generation, HandleId, HandleIndex, PortIndex, RingNumber};

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
    /// Virtio-net headers that the port has for this handle's sake: bit 0, the length before, that now.
    loan: AtomicU32,
}
// SAFETY: atomics.
unsafe impl Shared for HandleEntry {}
const _: () = assert!(MAX_RINGS == 16);

/// Flag of a handle: nobody else may bind the port.
pub const EXCLUSIVE: u32 = 1;

/// Virtio-net headers that a port has as long as a handle lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Their length before.
    pub before: u8,
    /// Their length meanwhile.
    pub lent: u8,
}

impl Loan {
    fn pack(loan: Option<Self>) -> u32 {
        loan.map_or(0, |Self { before, lent }| 1 | u32::from(before) << 8 | u32::from(lent) << 16)
    }

    fn unpack(word: u32) -> Option<Self> {
        let [there, before, lent, _] = word.to_le_bytes();
        (there & 1 != 0).then_some(Self { before, lent })
    }
}

/// What a new handle is entered with.
#[derive(Clone, Copy, Debug)]
pub struct NewHandle<'a> {
    /// Port it belongs to.
    pub port: PortIndex,
    /// Cell of its netmap_if.
    pub if_cell: Cell,
    /// `EXCLUSIVE` or 0.
    pub flags: u32,
    /// Rings that it binds.
    pub bound: &'a BoundRings,
    /// What its port has for its sake.
    pub loan: Option<Loan>,
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
    pub if_cell: Cell,
    /// Rings that it binds.
    pub bound: BoundRings,
    /// What its port has for its sake, whatever a peer wrote.
    pub loan: Option<Loan>,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct Handles<'a>(pub &'a [HandleEntry]);

impl<'a> Handles<'a> {
    /// The handle at `index`, if the entry is in use and makes sense.
    pub fn get(self, index: HandleIndex) -> Option<ListedHandle> {
        let (port, id) = self.port_of(index)?;
        let h = &self.0[index.0 as usize];
        let rings = h.rings.load(Ordering::Relaxed);
        let of = |bits: u32| {
            RingNumber::first(MAX_RINGS.into()).filter(|i| bits & i.bit() != 0).collect()
        };
        Some(ListedHandle {
            index,
            // A scribbled port number makes the handle one of no port; it is freed all the same.
            port: PortIndex(u8::try_from(port).unwrap_or(u8::MAX)),
            id,
            pid: h.pid.load(Ordering::Relaxed),
            flags: h.flags.load(Ordering::Relaxed),
            if_cell: Cell(h.if_cell.load(Ordering::Relaxed)),
            bound: BoundRings { tx: of(rings), rx: of(rings >> MAX_RINGS) },
            loan: Loan::unpack(h.loan.load(Ordering::Relaxed)),
        })
    }

    /// Port and identity of the handle at `index`, if the entry is in use.
    pub fn port_of(self, index: HandleIndex) -> Option<(u32, HandleId)> {
        let h = self.0.get(index.0 as usize)?;
        let port = h.port.load(Ordering::Acquire).checked_sub(1)?;
        let generation = Generation(h.generation.load(Ordering::Relaxed));
        Some((port, HandleId { index, generation }))
    }

    /// All entries of handles in use, alive or not.
    pub fn all(self) -> impl Iterator<Item = ListedHandle> + use<'a> {
        (0..HANDLES as u32).filter_map(move |index| self.get(HandleIndex(index)))
    }

    /// Enters a handle of this process at a free index.
    pub fn enter(self, lock: &RootLock, id: HandleId, new: &NewHandle<'_>) {
        let HandleId { index, generation } = id;
        let h = &self.0[index.0 as usize];
        h.generation.store(generation.0, Ordering::Relaxed);
        h.pid.store(std::process::id(), Ordering::Relaxed);
        h.if_cell.store(new.if_cell.0, Ordering::Relaxed);
        h.flags.store(new.flags, Ordering::Relaxed);
        self.bind(lock, index, new.bound);
        self.lend(lock, index, new.loan);
        h.port.store(u32::from(new.port.0) + 1, Ordering::Release);
    }

    /// Says which rings a handle binds.
    pub fn bind(self, _lock: &RootLock, index: HandleIndex, bound: &BoundRings) {
        let bits = |rings: &[RingNumber]| rings.iter().fold(0, |bits, i| bits | i.bit());
        let rings = bits(&bound.tx) | bits(&bound.rx) << MAX_RINGS;
        self.0[index.0 as usize].rings.store(rings, Ordering::Relaxed);
    }

    /// Says what the port has for a handle's sake.
    pub fn lend(self, _lock: &RootLock, index: HandleIndex, loan: Option<Loan>) {
        self.0[index.0 as usize].loan.store(Loan::pack(loan), Ordering::Relaxed);
    }

    /// Says that a handle is this process's now: another one passed it on.
    pub fn take(self, _lock: &RootLock, index: HandleIndex) {
        self.0[index.0 as usize].pid.store(std::process::id(), Ordering::Relaxed);
    }

    /// Enters a handle as a process would leave it that was killed, or a peer that forges one.
    #[cfg(test)]
    pub fn forge_dead(self, index: u32, port: PortIndex, if_cell: Cell) {
        let h = &self.0[index as usize];
        h.if_cell.store(if_cell.0, Ordering::Relaxed);
        h.port.store(u32::from(port.0) + 1, Ordering::Relaxed);
    }

    /// Frees the entry of a handle.
    pub fn free(self, _lock: &RootLock, index: HandleIndex) {
        if let Some(h) = self.0.get(index.0 as usize) {
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
    use crate::shm::file;
    use crate::shm::map::Map;

    const BYTES: usize = HANDLES * size_of::<HandleEntry>();

    fn table() -> (tempfile::TempDir, Map, RootLock) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let map = Map::new(&file::anonymous(BYTES as u64).unwrap(), BYTES).unwrap();
        (temp, map, RootLock::acquire(&dir).unwrap())
    }

    fn handles(map: &Map) -> Handles<'_> {
        Handles(map.slice(0, HANDLES).unwrap())
    }

    fn numbers(rings: &[u8]) -> Vec<RingNumber> {
        rings.iter().map(|&ring| RingNumber(ring)).collect()
    }

    #[test]
    fn handle_is_listed_as_it_was_entered_bound_and_freed() {
        let (_temp, map, lock) = table();
        let handles = handles(&map);
        let index = HandleIndex(HANDLES as u32 - 1);
        let bound = BoundRings { tx: numbers(&[0, 15]), rx: numbers(&[3]) };
        let loan = Some(Loan { before: 0, lent: 12 });
        let new = NewHandle {
            port: PortIndex(0),
            if_cell: Cell(77),
            flags: EXCLUSIVE,
            bound: &bound,
            loan,
        };
        assert_eq!(handles.get(index), None);
        let id = HandleId { index, generation: Generation(9) };
        handles.enter(&lock, id, &new);
        let pid = std::process::id();
        let listed = ListedHandle {
            index,
            port: PortIndex(0),
            id,
            pid,
            flags: EXCLUSIVE,
            if_cell: Cell(77),
            bound: bound.clone(),
            loan,
        };
        assert_eq!(handles.all().collect::<Vec<_>>(), std::slice::from_ref(&listed));
        let fewer = BoundRings { tx: vec![], rx: numbers(&[0, 15]) };
        handles.bind(&lock, index, &fewer);
        handles.lend(&lock, index, None);
        assert_eq!(handles.get(index), Some(ListedHandle { bound: fewer, loan: None, ..listed }));
        handles.free(&lock, index);
        assert_eq!(handles.all().count(), 0);
    }

    #[test]
    fn entry_that_a_peer_scribbled_over_is_a_handle_of_no_port() {
        let (_temp, map, _lock) = table();
        let handles = handles(&map);
        for word in [256, 1 << 20, u32::MAX] {
            handles.0[5].port.store(word, Ordering::Relaxed);
            let port = handles.get(HandleIndex(5)).unwrap().port;
            assert!(PortIndex::all().all(|real| real != port), "{word}");
        }
        assert_eq!(handles.get(HandleIndex(HANDLES as u32)), None);
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
