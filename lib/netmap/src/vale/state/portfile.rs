//! The file of one port: what netmap keeps in the kernel for it (ring state, counters), and where
//! in which memory region its rings are.
//!
//! ```text
//!  0        | header: identity, sizes, region, cells of the rings
//!  4096     | per RX ring: Kring (768) + counters (256)
//!  +16*1024 | per TX ring: TxState (64) + pad + counters (256)
//! ```
//!
//! Who writes what: the header by the port's creator, under the root's lock, before the port is
//! listed; TX and RX state as `txstate` and `kring` say, counters by the handle that syncs the ring. Invariant: `Shape`
//! is validated once, on open, against the limits and the file's length, and kept privately; the
//! shared header is not looked at again.

use crate::error::{Damage, Error, Result, SharedFile};
use crate::name::valid_name;
use crate::options::{MAX_RINGS, SLOTS};
use crate::ring::RingRef;
use crate::rings::RingCells;
use crate::shm::dir::Dir;
use crate::shm::file::{self, FileId};
use crate::shm::map::{Map, Shared};
use crate::shm::mem::{Cell, Region};
use crate::shm::text::{load_text, store_text};
use crate::stats::{Counters, RingDir, RingInfo, SharedCounters};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::vale::state::ids::{Generation, PortId, PortIndex, RingNumber};
use crate::vale::state::kring::Kring;
use crate::vale::state::txstate::TxState;

const MAGIC: u64 = u64::from_le_bytes(*b"NMVPORT\0");
const VERSION: u32 = 4;
const RX_OFF: usize = 4096;
const PER_RING: usize = 1024;
const TX_OFF: usize = RX_OFF + MAX_RINGS as usize * PER_RING;
const COUNTERS_OFF: usize = 768;
const BYTES: usize = TX_OFF + MAX_RINGS as usize * PER_RING;

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    index: AtomicU32,
    generation: AtomicU64,
    tx_rings: AtomicU32,
    rx_rings: AtomicU32,
    tx_slots: AtomicU32,
    rx_slots: AtomicU32,
    region: [AtomicU64; 4],
    tx_cell: [AtomicU32; MAX_RINGS as usize],
    rx_cell: [AtomicU32; MAX_RINGS as usize],
    /// Generation of a pipe's other end; 0: no pipe.
    peer_generation: AtomicU64,
    peer_index: AtomicU32,
    _pad: u32,
}
// SAFETY: atomics and padding.
unsafe impl Shared for Header {}

/// What a port consists of, copied out and validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Index in the switch.
    pub index: PortIndex,
    /// Number of the port's life, as in the switch's port table.
    pub generation: Generation,
    /// File name of the memory region.
    pub region: String,
    /// Where in it the rings are.
    pub rings: RingCells,
    /// The other end, if the port is one of a pipe: slot k of the one's TX ring i and slot k of the other's
    /// RX ring i share a buffer.
    pub peer: Option<PortId>,
}

impl Shape {
    /// Identity of the port.
    pub fn id(&self) -> PortId {
        PortId { index: self.index, generation: self.generation }
    }

    /// Whether the two are the ends of one pipe, and fit each other.
    pub fn is_pipe_with(&self, other: &Self) -> bool {
        let (a, b) = (&self.rings, &other.rings);
        self.peer == Some(other.id())
            && other.peer == Some(self.id())
            && self.region == other.region
            && (a.tx.len(), a.rx.len()) == (b.rx.len(), b.tx.len())
            && (a.tx_slots, a.rx_slots) == (b.rx_slots, b.tx_slots)
    }
}

/// A port's file, mapped.
#[derive(Debug)]
pub struct PortFile {
    map: Map,
    id: FileId,
    /// Private copy.
    pub shape: Shape,
}

impl PortFile {
    /// Makes the file. It counts only once the switch lists the port.
    pub fn create(dir: &Dir, name: &str, shape: Shape) -> Result<Self> {
        let file = file::create(dir, name, BYTES as u64)?;
        Self::fill(&file, &dir.join(name), shape)
    }

    /// Makes the same in private memory, for tests of what works on it.
    #[cfg(test)]
    pub fn anonymous(shape: Shape) -> Result<Self> {
        let file = file::anonymous(BYTES as u64)?;
        Self::fill(&file, std::path::Path::new("private memory"), shape)
    }

    fn fill(file: &std::fs::File, path: &std::path::Path, shape: Shape) -> Result<Self> {
        let map = Map::new(file, BYTES).map_err(Error::io("map", path))?;
        let h: &Header = map.at(0).expect("the mapping is longer than the header");
        h.version.store(VERSION, Ordering::Relaxed);
        h.index.store(shape.index.0.into(), Ordering::Relaxed);
        h.generation.store(shape.generation.0, Ordering::Relaxed);
        h.tx_rings.store(shape.rings.tx.len() as u32, Ordering::Relaxed);
        h.rx_rings.store(shape.rings.rx.len() as u32, Ordering::Relaxed);
        h.tx_slots.store(shape.rings.tx_slots, Ordering::Relaxed);
        h.rx_slots.store(shape.rings.rx_slots, Ordering::Relaxed);
        store_text(&h.region, &shape.region);
        for (to, from) in h.tx_cell.iter().zip(&shape.rings.tx) {
            to.store(from.0, Ordering::Relaxed);
        }
        for (to, from) in h.rx_cell.iter().zip(&shape.rings.rx) {
            to.store(from.0, Ordering::Relaxed);
        }
        if let Some(PortId { index, generation }) = shape.peer {
            h.peer_index.store(index.0.into(), Ordering::Relaxed);
            h.peer_generation.store(generation.0, Ordering::Relaxed);
        }
        h.magic.store(MAGIC, Ordering::Release);
        Ok(Self { map, id: file::id(file), shape })
    }

    /// What tells the file from others: device and inode.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Whether the file still says what it said when it was opened.
    pub fn is_as_opened(&self) -> bool {
        let h: &Header = self.map.at(0).expect("the mapping is longer than the header");
        h.magic.load(Ordering::Acquire) == MAGIC
            && h.version.load(Ordering::Relaxed) == VERSION
            && read(h).as_ref() == Some(&self.shape)
    }

    /// Opens the file of a port.
    pub fn open(dir: &Dir, name: &str) -> Result<Self> {
        let path = &dir.join(name);
        let damaged = |damage| Error::Damaged { path: path.into(), damage };
        let file = file::open(dir, name)?;
        if file::len(&file) < BYTES as u64 {
            return Err(damaged(Damage::Short(SharedFile::Port)));
        }
        let map = Map::new(&file, BYTES).map_err(Error::io("map", path))?;
        let h: &Header = map.at(0).expect("the mapping is longer than the header");
        if h.magic.load(Ordering::Acquire) != MAGIC {
            return Err(damaged(Damage::Magic(SharedFile::Port)));
        }
        let found = h.version.load(Ordering::Relaxed);
        if found != VERSION {
            return Err(damaged(Damage::Version { file: SharedFile::Port, found, known: VERSION }));
        }
        let shape = read(h).ok_or_else(|| damaged(Damage::Values(SharedFile::Port)))?;
        Ok(Self { map, id: file::id(&file), shape })
    }

    /// Shared state of RX ring `i`.
    #[inline(always)]
    pub fn kring(&self, i: RingNumber) -> &Kring {
        assert!(i.at() < MAX_RINGS as usize);
        self.map.at(RX_OFF + i.at() * PER_RING).expect("within the file's fixed length")
    }

    /// Buffers that slots of the RX rings have given up for a moment, or because a sender died then.
    pub fn displaced(&self) -> impl Iterator<Item = Cell> {
        let rings = RingNumber::first(self.shape.rings.rx.len());
        rings.filter_map(|i| self.kring(i).exchange.displaced()).map(Cell)
    }

    /// Which slots of RX ring `i` were published and not given back yet.
    pub fn in_flight(&self, i: RingNumber) -> impl Fn(u32) -> bool + use<> {
        let (from, to) = (self.kring(i).consumer_cur(), self.kring(i).published());
        move |slot| if from <= to { (from..to).contains(&slot) } else { slot >= from || slot < to }
    }

    /// Counters of RX ring `i`.
    #[inline(always)]
    pub(crate) fn rx_counters(&self, i: RingNumber) -> &SharedCounters {
        assert!(i.at() < MAX_RINGS as usize);
        self.map.at(RX_OFF + i.at() * PER_RING + COUNTERS_OFF).expect("within the fixed length")
    }

    /// State of TX ring `i`.
    #[inline(always)]
    pub fn tx_state(&self, i: RingNumber) -> &TxState {
        assert!(i.at() < MAX_RINGS as usize);
        self.map.at(TX_OFF + i.at() * PER_RING).expect("within the file's fixed length")
    }

    /// Counters of TX ring `i`.
    #[inline(always)]
    pub(crate) fn tx_counters(&self, i: RingNumber) -> &SharedCounters {
        assert!(i.at() < MAX_RINGS as usize);
        self.map.at(TX_OFF + i.at() * PER_RING + COUNTERS_OFF).expect("within the fixed length")
    }
}

/// What a header says, if it makes sense.
fn read(h: &Header) -> Option<Shape> {
    let cells = |n: &AtomicU32, cells: &[AtomicU32]| {
        let n = n.load(Ordering::Relaxed) as usize;
        let some = (1..=cells.len()).contains(&n);
        some.then(|| cells[..n].iter().map(|c| Cell(c.load(Ordering::Relaxed))).collect::<Vec<_>>())
    };
    let slots = |n: &AtomicU32| Some(n.load(Ordering::Relaxed)).filter(|n| SLOTS.contains(n));
    let id = |index: &AtomicU32, generation: &AtomicU64| {
        let index = u8::try_from(index.load(Ordering::Relaxed)).ok()?;
        let generation = Generation(generation.load(Ordering::Relaxed));
        Some(PortId { index: PortIndex(index), generation })
    };
    let PortId { index, generation } = id(&h.index, &h.generation)?;
    let peer = id(&h.peer_index, &h.peer_generation)?;
    Some(Shape {
        index,
        generation,
        peer: (peer.generation != Generation::NONE).then_some(peer),
        region: load_text(&h.region).filter(|r| valid_name(r))?,
        rings: RingCells {
            tx_slots: slots(&h.tx_slots)?,
            rx_slots: slots(&h.rx_slots)?,
            tx: cells(&h.tx_rings, &h.tx_cell)?,
            rx: cells(&h.rx_rings, &h.rx_cell)?,
        },
    })
}

impl PortFile {
    /// All rings with their counters and how full they are.
    pub fn rings(&self, region: &Region) -> Vec<RingInfo> {
        let s = &self.shape.rings;
        let between = |from: u32, to: u32, n: u32| match from < n && to < n {
            true if to >= from => to - from,
            true => to + n - from,
            false => 0, // damaged
        };
        let tx = RingNumber::first(s.tx.len()).zip(&s.tx).map(|(i, &cell)| {
            let head = RingRef::new(region, cell, s.tx_slots)
                .map_or(0, |r| r.raw.head.load(Ordering::Relaxed));
            let hwcur = self.tx_state(i).hwcur();
            let used = between(hwcur, head, s.tx_slots);
            RingInfo {
                dir: RingDir::Tx,
                index: i.0.into(),
                used,
                counters: self.tx_counters(i).read(),
            }
        });
        let rx = RingNumber::first(s.rx.len()).map(|i| {
            let kring = self.kring(i);
            let used = between(kring.consumer_cur(), kring.published(), s.rx_slots);
            RingInfo {
                dir: RingDir::Rx,
                index: i.0.into(),
                used,
                counters: self.rx_counters(i).read(),
            }
        });
        tx.chain(rx).collect()
    }

    /// Counters of all rings together.
    pub fn counters(&self) -> Counters {
        let tx = RingNumber::first(self.shape.rings.tx.len()).map(|i| self.tx_counters(i).read());
        let rx = RingNumber::first(self.shape.rings.rx.len()).map(|i| self.rx_counters(i).read());
        tx.chain(rx).sum()
    }
}

#[cfg(test)]
mod tests;
