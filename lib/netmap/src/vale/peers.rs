//! The other ports of a switch, as a sender needs them: their files opened and mapped on first
//! use, once for all handles of the process.
//!
//! Invariant: a destination is used only while the switch lists the very generation that was opened,
//! so a port that went and came again under the same index is opened anew; an attempt that failed is
//! repeated after a while.

use std::cell::Cell;
use std::sync::Arc;

use crate::time::now_ms;
use crate::vale::forward::Destinations;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::{Generation, HandleIndex, PortIndex};
use crate::vale::state::portfiles::PortFiles;

/// Opens the port at `index`.
#[cold]
fn open(switch: &Switch, index: PortIndex, generation: Generation) -> Option<Arc<PortFiles>> {
    let listed = switch.listed(index).filter(|l| l.generation == generation)?;
    let (files, _) = shared::port(switch, &listed.name).ok()?;
    let shape = &files.file.shape;
    // The end of a pipe gets what its other end sends, and nothing else.
    let is_it = shape.generation == generation && shape.index == index && shape.peer.is_none();
    is_it.then_some(files)
}

/// What is known of the port at one index.
#[derive(Debug, Default)]
struct Known {
    generation: Generation,
    opened: Option<Arc<PortFiles>>,
    /// When opening it failed last.
    failed_ms: u64,
}

/// Pause between two attempts to open a peer: what failed for want of descriptors or memory may
/// work later, but not at every packet.
const RETRY_MS: u64 = 20;

/// Most bells that one sync of a ring rings: whoever is on a switch may say that all handles sleep.
pub const MOST_RINGS: usize = 1024;

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
    pub fn update(&mut self, switch: &Switch, index: PortIndex) -> Option<Generation> {
        let known = self.known.get_mut(index.at())?;
        let generation = switch.port_generation(index);
        if known.generation != generation || known.opened.is_none() {
            known.open(switch, index, generation);
        }
        known.opened.is_some().then_some(generation)
    }

    /// The port at `index`, if `update` found one.
    #[inline]
    pub fn get(&self, index: PortIndex) -> Option<&PortFiles> {
        self.known.get(index.at())?.opened.as_deref()
    }

    /// These, on their switch.
    #[inline]
    pub fn of<'a>(&'a mut self, switch: &'a Switch) -> PeersOf<'a> {
        PeersOf { switch, peers: self, rings_left: Cell::new(MOST_RINGS) }
    }
}

/// The peers of one handle with the switch that they are on.
#[derive(Debug)]
pub struct PeersOf<'a> {
    switch: &'a Switch,
    peers: &'a mut Peers,
    rings_left: Cell<usize>,
}

impl Destinations for PeersOf<'_> {
    #[inline]
    fn update(&mut self, index: PortIndex) -> Option<Generation> {
        self.peers.update(self.switch, index)
    }

    #[inline]
    fn get(&self, index: PortIndex) -> Option<&PortFiles> {
        self.peers.get(index)
    }

    fn ring(&self, handle: HandleIndex, port: PortIndex) -> Rung {
        let left = self.rings_left.get();
        self.rings_left.set(left.saturating_sub(1));
        if left > 0 { self.switch.ring(handle, Some(port)) } else { Rung::Later }
    }
}

impl Known {
    #[cold]
    fn open(&mut self, switch: &Switch, index: PortIndex, generation: Generation) {
        let now = now_ms();
        let again = self.generation == generation;
        if generation == Generation::NONE
            || (again && now.saturating_sub(self.failed_ms) < RETRY_MS)
        {
            if !again {
                *self = Self { generation, ..Self::default() };
            }
            return;
        }
        let opened = open(switch, index, generation);
        *self = Self { generation, opened, failed_ms: now };
    }
}
