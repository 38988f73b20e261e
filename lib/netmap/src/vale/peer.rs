//! Another port of the switch, as a sender sees it: its files opened and mapped on first use.
//!
//! Invariant: a peer is used only while the switch lists the very generation that was opened, so a
//! port that went and came again under the same index is opened anew; an attempt that failed is
//! repeated after a while.

use crate::bell::Bell;
use crate::mem::Region;
use crate::ring::RingRef;
use crate::vale::MAX_PORTS;
use crate::vale::portfile::PortFile;
use crate::vale::switch::{Switch, bell_file, now_ms, port_file};

/// An opened peer.
#[derive(Debug)]
pub struct Peer {
    /// Ring state and counters.
    pub file: PortFile,
    /// Rings and buffers.
    pub region: Region,
    /// Doorbells, one per ring pair.
    pub bells: Vec<Bell>,
}

impl Peer {
    /// Opens the port at `index`.
    #[cold]
    pub fn open(switch: &Switch, index: u8, generation: u64) -> Option<Self> {
        let listed = switch.listed(index).filter(|l| l.generation == generation)?;
        let file = PortFile::open(switch.dir(), &port_file(&listed.name)).ok()?;
        let shape = &file.shape;
        if shape.generation != generation || shape.index != index {
            return None;
        }
        let region = Region::open(switch.memory().ok()?, &shape.region).ok()?;
        let rings = shape.tx_cells.len().max(shape.rx_cells.len());
        let bells = (0..rings)
            .map(|i| Bell::open(switch.dir(), &bell_file(&listed.name, i)).ok())
            .collect::<Option<_>>()?;
        Some(Self { file, region, bells })
    }

    /// RX ring `r`.
    #[inline]
    pub fn rx_ring(&self, r: usize) -> Option<RingRef<'_>> {
        let shape = &self.file.shape;
        RingRef::new(&self.region, *shape.rx_cells.get(r)?, shape.rx_slots)
    }
}

/// What is known of the port at one index.
#[derive(Debug, Default)]
struct Known {
    generation: u64,
    peer: Option<Box<Peer>>,
    /// When opening it failed last.
    failed_ms: u64,
}

/// Pause between two attempts to open a peer: what failed for want of descriptors or memory may
/// work later, but not at every packet.
const RETRY_MS: u64 = 20;

/// The peers of one handle.
#[derive(Debug)]
pub struct Peers {
    known: Vec<Known>,
}

impl Peers {
    /// None yet.
    pub fn new() -> Self {
        Self { known: (0..MAX_PORTS).map(|_| Known::default()).collect() }
    }

    /// Makes sure that the port at `index` is open if it can be, and returns its generation. Call
    /// once per batch.
    #[inline]
    pub fn update(&mut self, switch: &Switch, index: u8) -> Option<u64> {
        let known = self.known.get_mut(usize::from(index))?;
        let generation = switch.port_generation(index);
        if known.generation != generation || known.peer.is_none() {
            known.open(switch, index, generation);
        }
        known.peer.is_some().then_some(generation)
    }

    /// The peer at `index`, if `update` found one.
    #[inline]
    pub fn get(&self, index: u8) -> Option<&Peer> {
        self.known.get(usize::from(index))?.peer.as_deref()
    }
}

impl Known {
    #[cold]
    fn open(&mut self, switch: &Switch, index: u8, generation: u64) {
        let now = now_ms();
        let again = self.generation == generation;
        if generation == 0 || (again && now.saturating_sub(self.failed_ms) < RETRY_MS) {
            if !again {
                *self = Self { generation, ..Self::default() };
            }
            return;
        }
        let peer = Peer::open(switch, index, generation).map(Box::new);
        *self = Self { generation, peer, failed_ms: now };
    }
}
