//! A port as whoever uses it has it: its file and its memory.

use std::sync::Arc;

use crate::options::{BoundRings, PerDirection};
use crate::ring::RingRef;
use crate::shm::mem::Region;
use crate::vale::state::ids::RingNumber;
use crate::vale::state::portfile::PortFile;

/// A port's files, open and mapped. Handles of one process share them.
#[derive(Debug)]
pub struct PortFiles {
    /// Ring state and counters.
    pub file: PortFile,
    /// Rings and buffers; ports in one region share it.
    pub region: Arc<Region>,
}

impl PortFiles {
    /// TX ring `i`.
    pub fn tx_ring(&self, i: RingNumber) -> Option<RingRef<'_>> {
        self.file.shape.rings.tx_ring(&self.region, i)
    }

    /// RX ring `i`.
    #[inline]
    pub fn rx_ring(&self, i: RingNumber) -> Option<RingRef<'_>> {
        self.file.shape.rings.rx_ring(&self.region, i)
    }

    /// The numbers of all its rings.
    pub fn all_rings(&self) -> BoundRings {
        let rings = &self.file.shape.rings;
        BoundRings::all(PerDirection { tx: rings.tx.len(), rx: rings.rx.len() })
    }
}
