//! One ring pair in memory that no other process has, for ports that are not on a switch.
//!
//! Invariant: the rings behave as those of a VALE port do (head, cur, tail, one slot empty).

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::options::{BoundRings, Options, Sizes};
use crate::ring::RingRef;
use crate::rings::{RingCells, extra_buffers, make_if, make_rings};
use crate::shm::mem::Region;
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::Ordering;

/// The ring pair, and what a netmap kernel would know of it.
#[derive(Debug)]
pub struct PrivateRings {
    cells: RingCells,
    region: Region,
    if_cell: u32,
    /// First slot of the TX ring that was not sent.
    pub hwcur: u32,
    /// First slot of the RX ring that was not given back.
    pub freed: u32,
    /// First slot of the RX ring that was not received.
    pub hwtail: u32,
    /// What happened on the TX ring.
    pub tx_counters: SharedCounters,
    /// What happened on the RX ring.
    pub rx_counters: SharedCounters,
    /// Never ready: for ports without a descriptor of their own.
    never: EventFd,
}

impl PrivateRings {
    /// Makes them for the port `name`.
    pub fn new(name: &str, options: &Options) -> Result<Self> {
        let sizes = Sizes::from_options(name, options)?;
        if sizes.tx_rings != 1 || sizes.rx_rings != 1 {
            let why = "this kind of port has one ring pair; leave the number of rings out".into();
            return Err(Error::Invalid { name: name.into(), why });
        }
        let region = Region::anonymous()?;
        region.count_port();
        let cells = make_rings(&region, sizes)?;
        let bound = BoundRings { tx: vec![0], rx: vec![0] };
        let if_cell = make_if(&region, &cells, name, &bound, options.extra_bufs)?;
        let never = EventFd::new().map_err(Error::errno("make an event for", name))?;
        Ok(Self {
            cells,
            region,
            if_cell,
            hwcur: 0,
            freed: 0,
            hwtail: 0,
            tx_counters: SharedCounters::new(),
            rx_counters: SharedCounters::new(),
            never,
        })
    }

    /// The TX ring.
    #[inline]
    pub fn tx(&self) -> RingRef<'_> {
        self.cells.tx_ring(&self.region, 0).expect("private memory, sized for the ring")
    }

    /// The RX ring.
    #[inline]
    pub fn rx(&self) -> RingRef<'_> {
        self.cells.rx_ring(&self.region, 0).expect("private memory, sized for the ring")
    }

    /// Begins a txsync: how far the program has queued, unless it broke the ring, which is mended.
    pub fn queued(&self) -> Option<u32> {
        let ring = self.tx();
        let tail = ring.step(self.hwcur, ring.n() - 1);
        let head = ring.head_in_order(self.hwcur, tail);
        if head.is_none() {
            ring.reinit(self.hwcur, tail);
            self.tx_counters.add(C::reinits, 1);
        }
        head
    }

    /// Ends a txsync: slots before `hwcur` have been sent, and are free.
    pub fn sent(&mut self, hwcur: u32) {
        self.hwcur = hwcur;
        let ring = self.tx();
        ring.raw.tail.store(ring.step(hwcur, ring.n() - 1), Ordering::Release);
    }

    /// Begins an rxsync: takes back what the program has read. False: it broke the ring, which is
    /// mended.
    pub fn take_back(&mut self) -> bool {
        let ring = self.rx();
        match ring.head_in_order(self.freed, self.hwtail) {
            Some(head) => self.freed = head,
            None => {
                ring.reinit(self.freed, self.hwtail);
                self.rx_counters.add(C::reinits, 1);
                return false;
            }
        }
        true
    }

    /// Ends an rxsync: slots before `hwtail` have been received.
    pub fn received(&mut self, hwtail: u32) {
        self.hwtail = hwtail;
        self.rx().raw.tail.store(hwtail, Ordering::Release);
    }

    /// Whether the program has read all that was received.
    pub fn is_read(&self) -> bool {
        self.rx().raw.head.load(Ordering::Relaxed) == self.hwtail
    }

    /// A descriptor that is never ready.
    pub fn never(&self) -> BorrowedFd<'_> {
        self.never.as_fd()
    }

    /// Slots per TX and RX ring.
    pub fn slots(&self) -> (u32, u32) {
        (self.cells.tx_slots, self.cells.rx_slots)
    }

    /// What tells this memory from others.
    pub fn memory_id(&self) -> (u64, u64) {
        self.region.id()
    }

    /// Buffers beside those in the rings.
    pub fn extra_buffers(&self) -> Vec<u32> {
        extra_buffers(&self.region, self.if_cell)
    }

    /// What happened on both rings.
    pub fn counters(&self) -> Counters {
        self.tx_counters.read() + self.rx_counters.read()
    }
}
