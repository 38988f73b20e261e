//! Ring pairs for ports that are not on a switch, in memory of this process or, to exchange buffers with a port of a switch, in
//! that one's.
//!
//! Invariant: the rings behave as those of a VALE port do (head, cur, tail, one slot empty), whatever others write into
//! memory that is shared with them.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use crate::error::{Error, Invalid, Result};
use crate::options::{BoundRings, Memory, MemoryRef, Options, PerDirection, Places, Sizes};
use crate::ring::RingRef;
use crate::rings::{RingCells, cells_needed, extra_buffers, make_if, make_rings};
use crate::shm::file::FileId;
use crate::shm::mem::{Cell, Region};
use crate::shm::private;
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::{AtomicU32, Ordering};
use crate::vale::lifecycle::lodging::{self, Lodging, Registration};

/// The rings of a handle, and what a netmap kernel would know of them. They are numbered as bound.
#[derive(Debug)]
pub struct PrivateRings {
    shared: Arc<Shared>,
    bound: BoundRings,
}

/// Who writes what: the handle that has a TX ring its `TxState`, the one that has an RX ring its `RxState`. They are
/// atomics because the handles may be in different threads.
#[derive(Debug)]
struct Shared {
    cells: RingCells,
    region: Arc<Region>,
    /// Where that was found, if it is a switch's, and what tells others of it.
    lodging: Option<(Lodging, Option<Registration>)>,
    /// Whether others may be made in it.
    shares: bool,
    if_cell: Cell,
    tx: Vec<TxState>,
    rx: Vec<RxState>,
    /// Never ready: for ports without a descriptor of their own.
    never: EventFd,
}

#[derive(Debug)]
struct TxState {
    hwcur: AtomicU32,
    counters: SharedCounters,
}

#[derive(Debug)]
struct RxState {
    freed: AtomicU32,
    hwtail: AtomicU32,
    counters: SharedCounters,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((lodging, registration)) = &mut self.lodging {
            let (cells, region) = (&self.cells, &*self.region);
            let mut had: HashSet<Cell> = cells.ring_cells().chain([self.if_cell]).collect();
            had.extend(cells.buffers(region));
            had.extend(extra_buffers(region, self.if_cell));
            lodging.give_back(registration.take(), had);
        }
    }
}

impl PrivateRings {
    /// Makes them for the port `name`: one pair unless more are asked for, `most` at most. A port that `shares` memory
    /// takes that of the options, if they name any.
    pub fn new(name: &str, options: &Options, most: u16, shares: bool) -> Result<Self> {
        let sizes = Sizes::from_options(name, options)?;
        if sizes.tx_rings != sizes.rx_rings || sizes.tx_rings > most {
            let fault = if most == 1 { Invalid::OneRingPair } else { Invalid::RingPairs };
            return Err(Error::invalid(name, fault));
        }
        let not_shareable = || Error::invalid(name, Invalid::NotShareable);
        let (with, lodging) = match &options.memory {
            Memory::Private => (None, None),
            _ if !shares => (None, None),
            Memory::With(MemoryRef(region)) => match private::named(region) {
                Some(found) => (Some(found), None),
                None => (None, Some(lodging::named(region)?.ok_or_else(not_shareable)?)),
            },
            Memory::Id(id) | Memory::Existing(id) => {
                (None, Some(lodging::numbered(name, *id)?.ok_or_else(not_shareable)?))
            }
        };
        let has = PerDirection { tx: sizes.tx_rings.into(), rx: sizes.rx_rings.into() };
        let bound = BoundRings::all(has);
        let make = |region: &Region| -> Result<(RingCells, Cell)> {
            region.count_port();
            let cells = make_rings(region, sizes)?;
            let if_cell = make_if(region, &cells, name, &bound, options.extra_bufs);
            let if_cell = if_cell.inspect_err(|_| {
                region.give_back(cells.ring_cells().chain(cells.buffers(region)));
            })?;
            Ok((cells, if_cell))
        };
        let (region, (cells, if_cell), lodging) = match lodging {
            Some(lodging) => {
                let region = lodging.region().clone();
                let (made, registration) = lodging.locked(|| {
                    let (cells, if_cell) = make(&region)?;
                    let registration = lodging.enter(&cells, if_cell).inspect_err(|_| {
                        let extra = extra_buffers(&region, if_cell);
                        let buffers = cells.buffers(&region).chain(extra).chain([if_cell]);
                        region.give_back(cells.ring_cells().chain(buffers));
                    })?;
                    Ok(((cells, if_cell), registration))
                })?;
                (region, made, Some((lodging, Some(registration))))
            }
            None => {
                let needed = cells_needed(sizes).saturating_add(1);
                let needed = needed.saturating_add(options.extra_bufs);
                let region = with.map_or_else(|| private::make(needed), Ok)?;
                let made = private::locked(|| make(&region))?;
                (region, made, None)
            }
        };
        let never = EventFd::new().map_err(Error::io("make an event for", name))?;
        let word = || AtomicU32::new(0);
        let counters = SharedCounters::new;
        let tx = || TxState { hwcur: word(), counters: counters() };
        let rx = || RxState { freed: word(), hwtail: word(), counters: counters() };
        let shared = Shared {
            tx: bound.tx.iter().map(|_| tx()).collect(),
            rx: bound.rx.iter().map(|_| rx()).collect(),
            cells,
            region,
            lodging,
            shares,
            if_cell,
            never,
        };
        Ok(Self { shared: shared.into(), bound })
    }

    /// Lets another handle have the rings at these places; those that stay get new places.
    pub fn give_away(&mut self, places: &Places) -> Self {
        let bound = self.bound.at(places);
        self.bound = self.bound.without(&bound);
        Self { shared: self.shared.clone(), bound }
    }

    /// The rings that it binds.
    pub fn bound(&self) -> &BoundRings {
        &self.bound
    }

    /// Number of TX and RX rings of the port.
    pub fn all(&self) -> PerDirection<usize> {
        PerDirection { tx: self.shared.tx.len(), rx: self.shared.rx.len() }
    }

    #[inline]
    fn tx_state(&self, ring: usize) -> &TxState {
        &self.shared.tx[self.bound.tx[ring].at()]
    }

    #[inline]
    fn rx_state(&self, ring: usize) -> &RxState {
        &self.shared.rx[self.bound.rx[ring].at()]
    }

    /// What happened on a TX ring.
    pub fn tx_counters(&self, ring: usize) -> &SharedCounters {
        &self.tx_state(ring).counters
    }

    /// What happened on an RX ring.
    pub fn rx_counters(&self, ring: usize) -> &SharedCounters {
        &self.rx_state(ring).counters
    }

    /// Counts a sleep, for a handle that has something to be woken for.
    pub fn woken(&self, slept: bool) {
        if let (true, Some(&ring)) = (slept, self.bound.rx.first()) {
            self.shared.rx[ring.at()].counters.add(C::wakeups, 1);
        }
    }

    /// First slot of a TX ring that was not sent.
    #[inline]
    pub fn hwcur(&self, ring: usize) -> u32 {
        self.tx_state(ring).hwcur.load(Ordering::Relaxed)
    }

    /// First slot of an RX ring that was not given back.
    pub fn freed(&self, ring: usize) -> u32 {
        self.rx_state(ring).freed.load(Ordering::Relaxed)
    }

    /// First slot of an RX ring that was not received.
    pub fn hwtail(&self, ring: usize) -> u32 {
        self.rx_state(ring).hwtail.load(Ordering::Relaxed)
    }

    /// A TX ring.
    ///
    /// # Panics
    /// This handle has no such ring.
    #[inline]
    pub fn tx(&self, ring: usize) -> RingRef<'_> {
        let Shared { cells, region, .. } = &*self.shared;
        cells.tx_ring(region, self.bound.tx[ring]).expect("private memory, sized for the ring")
    }

    /// An RX ring.
    ///
    /// # Panics
    /// This handle has no such ring.
    #[inline]
    pub fn rx(&self, ring: usize) -> RingRef<'_> {
        let Shared { cells, region, .. } = &*self.shared;
        cells.rx_ring(region, self.bound.rx[ring]).expect("private memory, sized for the ring")
    }

    /// Begins a txsync: how far the program has queued, unless it broke the ring, which is mended.
    pub fn queued(&self, i: usize) -> Option<u32> {
        let ring = self.tx(i);
        let tail = ring.step(self.hwcur(i), ring.n() - 1);
        let head = ring.head_in_order(self.hwcur(i), tail);
        if head.is_none() {
            ring.reinit(self.hwcur(i), tail);
            self.tx_counters(i).add(C::reinits, 1);
        }
        head
    }

    /// Ends a txsync: slots before `hwcur` have been sent, and are free.
    pub fn sent(&self, i: usize, hwcur: u32) {
        self.tx_state(i).hwcur.store(hwcur, Ordering::Relaxed);
        let ring = self.tx(i);
        ring.raw.tail.store(ring.step(hwcur, ring.n() - 1), Ordering::Release);
    }

    /// Begins an rxsync: takes back what the program has read. False: it broke the ring, which is
    /// mended.
    pub fn take_back(&self, i: usize) -> bool {
        let ring = self.rx(i);
        match ring.head_in_order(self.freed(i), self.hwtail(i)) {
            Some(head) => self.rx_state(i).freed.store(head, Ordering::Relaxed),
            None => {
                ring.reinit(self.freed(i), self.hwtail(i));
                self.rx_counters(i).add(C::reinits, 1);
                return false;
            }
        }
        true
    }

    /// Ends an rxsync: slots before `hwtail` have been received.
    pub fn received(&self, i: usize, hwtail: u32) {
        self.rx_state(i).hwtail.store(hwtail, Ordering::Relaxed);
        self.rx(i).raw.tail.store(hwtail, Ordering::Release);
    }

    /// Whether the program has read all that was received.
    pub fn is_read(&self) -> bool {
        let read = |i| self.rx(i).raw.head.load(Ordering::Relaxed) == self.hwtail(i);
        (0..self.bound.rx.len()).all(read)
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

    /// That memory, for another port to be made in it, if the port shares it.
    pub fn memory(&self) -> Option<MemoryRef> {
        let Shared { shares, lodging, region, .. } = &*self.shared;
        shares.then(|| match lodging {
            Some((lodging, _)) => MemoryRef(lodging.name().to_owned()),
            None => MemoryRef(private::name(region)),
        })
    }

    /// Buffers beside those in the rings.
    pub fn extra_buffers(&self) -> Vec<Cell> {
        extra_buffers(&self.shared.region, self.shared.if_cell)
    }

    /// What happened on all rings.
    pub fn counters(&self) -> Counters {
        let tx = self.shared.tx.iter().map(|ring| ring.counters.read());
        tx.chain(self.shared.rx.iter().map(|ring| ring.counters.read())).sum()
    }
}
