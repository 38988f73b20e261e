//! One ring pair in memory that no other process has, for ports that are not on a switch.
//!
//! Invariant: the rings behave as those of a VALE port do (head, cur, tail, one slot empty).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use crate::error::{Error, Invalid, Result};
use crate::options::{BoundRings, Options, PerDirection, Sizes};
use crate::ring::RingRef;
use crate::rings::{RingCells, cells_needed, extra_buffers, make_if, make_rings};
use crate::shm::file::FileId;
use crate::shm::mem::{RESERVED, Region};
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::{AtomicU32, Ordering};

/// The ring pair, or one of its two rings, and what a netmap kernel would know of it.
#[derive(Debug)]
pub struct PrivateRings {
    shared: Arc<Shared>,
    /// Whether this handle has the TX ring.
    has_tx: bool,
    /// Whether this handle has the RX ring.
    has_rx: bool,
}

/// Who writes what: the handle that has the TX ring `hwcur` and the counters of that ring, the one that has
/// the RX ring the rest. They are atomics because the two may be in different threads.
#[derive(Debug)]
struct Shared {
    cells: RingCells,
    region: Region,
    if_cell: u32,
    hwcur: AtomicU32,
    freed: AtomicU32,
    hwtail: AtomicU32,
    tx_counters: SharedCounters,
    rx_counters: SharedCounters,
    /// Never ready: for ports without a descriptor of their own.
    never: EventFd,
}

impl PrivateRings {
    /// Makes them for the port `name`.
    pub fn new(name: &str, options: &Options) -> Result<Self> {
        let sizes = Sizes::from_options(name, options)?;
        if sizes.tx_rings != 1 || sizes.rx_rings != 1 {
            return Err(Error::invalid(name, Invalid::OneRingPair));
        }
        // Nothing else is ever made in it.
        let needed = cells_needed(sizes).saturating_add(1).saturating_add(options.extra_bufs);
        let region = Region::anonymous(needed.saturating_add(RESERVED))?;
        region.count_port();
        let cells = make_rings(&region, sizes)?;
        let bound = BoundRings { tx: vec![0], rx: vec![0] };
        let if_cell = make_if(&region, &cells, name, &bound, options.extra_bufs)?;
        let never = EventFd::new().map_err(Error::io("make an event for", name))?;
        let shared = Shared {
            cells,
            region,
            if_cell,
            hwcur: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            hwtail: AtomicU32::new(0),
            tx_counters: SharedCounters::new(),
            rx_counters: SharedCounters::new(),
            never,
        };
        Ok(Self { shared: shared.into(), has_tx: true, has_rx: true })
    }

    /// Lets another handle have one of the two rings.
    pub fn give_away(&mut self, rings: &BoundRings) -> Self {
        let (has_tx, has_rx) = (!rings.tx.is_empty(), !rings.rx.is_empty());
        self.has_tx &= !has_tx;
        self.has_rx &= !has_rx;
        Self { shared: self.shared.clone(), has_tx, has_rx }
    }

    /// Number of TX and RX rings that this handle has.
    pub fn bound(&self) -> PerDirection<usize> {
        PerDirection { tx: self.has_tx.into(), rx: self.has_rx.into() }
    }

    /// What happened on the TX ring.
    pub fn tx_counters(&self) -> &SharedCounters {
        &self.shared.tx_counters
    }

    /// What happened on the RX ring.
    pub fn rx_counters(&self) -> &SharedCounters {
        &self.shared.rx_counters
    }

    /// First slot of the TX ring that was not sent.
    #[inline]
    pub fn hwcur(&self) -> u32 {
        self.shared.hwcur.load(Ordering::Relaxed)
    }

    /// First slot of the RX ring that was not given back.
    pub fn freed(&self) -> u32 {
        self.shared.freed.load(Ordering::Relaxed)
    }

    /// First slot of the RX ring that was not received.
    pub fn hwtail(&self) -> u32 {
        self.shared.hwtail.load(Ordering::Relaxed)
    }

    /// The TX ring.
    #[inline]
    pub fn tx(&self) -> RingRef<'_> {
        assert!(self.has_tx, "this handle has no TX ring");
        let Shared { cells, region, .. } = &*self.shared;
        cells.tx_ring(region, 0).expect("private memory, sized for the ring")
    }

    /// The RX ring.
    #[inline]
    pub fn rx(&self) -> RingRef<'_> {
        assert!(self.has_rx, "this handle has no RX ring");
        let Shared { cells, region, .. } = &*self.shared;
        cells.rx_ring(region, 0).expect("private memory, sized for the ring")
    }

    /// Begins a txsync: how far the program has queued, unless it broke the ring, which is mended.
    pub fn queued(&self) -> Option<u32> {
        let ring = self.tx();
        let tail = ring.step(self.hwcur(), ring.n() - 1);
        let head = ring.head_in_order(self.hwcur(), tail);
        if head.is_none() {
            ring.reinit(self.hwcur(), tail);
            self.tx_counters().add(C::reinits, 1);
        }
        head
    }

    /// Ends a txsync: slots before `hwcur` have been sent, and are free.
    pub fn sent(&self, hwcur: u32) {
        self.shared.hwcur.store(hwcur, Ordering::Relaxed);
        let ring = self.tx();
        ring.raw.tail.store(ring.step(hwcur, ring.n() - 1), Ordering::Release);
    }

    /// Begins an rxsync: takes back what the program has read. False: it broke the ring, which is
    /// mended.
    pub fn take_back(&self) -> bool {
        let ring = self.rx();
        match ring.head_in_order(self.freed(), self.hwtail()) {
            Some(head) => self.shared.freed.store(head, Ordering::Relaxed),
            None => {
                ring.reinit(self.freed(), self.hwtail());
                self.rx_counters().add(C::reinits, 1);
                return false;
            }
        }
        true
    }

    /// Ends an rxsync: slots before `hwtail` have been received.
    pub fn received(&self, hwtail: u32) {
        self.shared.hwtail.store(hwtail, Ordering::Relaxed);
        self.rx().raw.tail.store(hwtail, Ordering::Release);
    }

    /// Whether the program has read all that was received.
    pub fn is_read(&self) -> bool {
        !self.has_rx || self.rx().raw.head.load(Ordering::Relaxed) == self.hwtail()
    }

    /// A descriptor that is never ready.
    pub fn never(&self) -> BorrowedFd<'_> {
        self.shared.never.as_fd()
    }

    /// Slots per TX and RX ring.
    pub fn slots(&self) -> PerDirection<u32> {
        self.shared.cells.slots()
    }

    /// The file that this memory is in.
    pub fn memory_id(&self) -> FileId {
        self.shared.region.id()
    }

    /// Buffers beside those in the rings.
    pub fn extra_buffers(&self) -> Vec<u32> {
        extra_buffers(&self.shared.region, self.shared.if_cell)
    }

    /// What happened on both rings.
    pub fn counters(&self) -> Counters {
        self.tx_counters().read() + self.rx_counters().read()
    }
}
