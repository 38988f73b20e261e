//! Rings and netmap_ifs in a region: where they are, how they are made. For every kind of port.
//!
//! Invariant: what is made here is complete before anybody is told of it; on an error everything that
//! was taken is given back.

use std::collections::HashSet;

use crate::abi::{IF_HEADER_BYTES, NETMAP_API, NI_PRIV_MEM, RawIf, SlotValue};
use crate::error::Result;
use crate::options::{BoundRings, PerDirection, Sizes};
use crate::ring::{RingRef, ring_bytes};
use crate::ring_number::RingNumber;
use crate::shm::mem::{Cell, Region, STRIDE, cells_for};
use crate::shm::text::store_text;
use crate::stats::RingDir;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// Where a port's rings are in its region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingCells {
    /// Slots per TX ring.
    pub tx_slots: u32,
    /// Slots per RX ring.
    pub rx_slots: u32,
    /// First cell of each TX ring.
    pub tx: Vec<Cell>,
    /// First cell of each RX ring.
    pub rx: Vec<Cell>,
}

impl RingCells {
    /// First cell and number of slots of each ring, transmit first.
    pub fn all(&self) -> impl Iterator<Item = (Cell, u32)> {
        let tx = self.tx.iter().map(|&cell| (cell, self.tx_slots));
        tx.chain(self.rx.iter().map(|&cell| (cell, self.rx_slots)))
    }

    /// The cells that the rings themselves take.
    pub fn ring_cells(&self) -> impl Iterator<Item = Cell> {
        self.all().flat_map(|(cell, n)| cell.run(cells_for(ring_bytes(n))))
    }

    /// Slots of the rings of each direction.
    pub fn slots(&self) -> PerDirection<u32> {
        PerDirection { tx: self.tx_slots, rx: self.rx_slots }
    }

    /// TX ring `i`, if there is one and it lies within the region.
    #[inline]
    pub fn tx_ring<'a>(&self, region: &'a Region, i: RingNumber) -> Option<RingRef<'a>> {
        RingRef::new(region, *self.tx.get(i.at())?, self.tx_slots)
    }

    /// RX ring `i`, if there is one and it lies within the region.
    #[inline]
    pub fn rx_ring<'a>(&self, region: &'a Region, i: RingNumber) -> Option<RingRef<'a>> {
        RingRef::new(region, *self.rx.get(i.at())?, self.rx_slots)
    }

    /// The buffers that the rings name now.
    pub fn buffers<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = Cell> + 'a {
        let rings = self.all().filter_map(|(cell, n)| RingRef::new(region, cell, n));
        rings.flat_map(RingRef::named_buffers)
    }
}

/// Most cells that rings and their buffers take.
pub fn cells_needed(sizes: Sizes) -> u32 {
    let of = |rings: u16, slots: u32| u32::from(rings) * (slots + cells_for(ring_bytes(slots)) + 1);
    of(sizes.tx_rings, sizes.tx_slots) + of(sizes.rx_rings, sizes.rx_slots) + 2
}

/// A ring that is being made.
#[derive(Clone, Copy, Debug)]
struct NewRing {
    dir: RingDir,
    number: RingNumber,
    slots: u32,
}

/// Takes cells for rings and buffers, and fills the rings' headers and slots. Used for every kind
/// of port. On error everything is given back.
pub fn make_rings(region: &Region, sizes: Sizes) -> Result<RingCells> {
    let tx = RingNumber::first(sizes.tx_rings.into());
    let tx = tx.map(|number| NewRing { dir: RingDir::Tx, number, slots: sizes.tx_slots });
    let rx = RingNumber::first(sizes.rx_rings.into());
    let rx = rx.map(|number| NewRing { dir: RingDir::Rx, number, slots: sizes.rx_slots });
    // At once for all, so that a lack of space shows before anything is taken.
    region.reserve(cells_needed(sizes))?;
    let rings = tx.chain(rx);
    let (mut tx, mut rx) = (Vec::new(), Vec::new());
    let mut taken: Vec<Cell> = Vec::new();
    let made = (|| {
        for new in rings {
            let cells = cells_for(ring_bytes(new.slots));
            let cell = region.take_run(cells)?;
            taken.extend(cell.run(cells));
            let buffers = region.take(new.slots)?;
            taken.extend(&buffers);
            new.fill(region, cell, &buffers);
            match new.dir {
                RingDir::Tx => tx.push(cell),
                RingDir::Rx => rx.push(cell),
            }
        }
        Ok(())
    })();
    match made {
        Ok(()) => Ok(RingCells { tx_slots: sizes.tx_slots, rx_slots: sizes.rx_slots, tx, rx }),
        Err(e) => {
            region.give_back(taken);
            Err(e)
        }
    }
}

/// The same for both ends of a pipe: rings and buffers of the one, and for the other end rings of its own
/// that name the same buffers, the RX ring for each TX ring and the other way round.
pub fn make_pipe_rings(region: &Region, sizes: Sizes) -> Result<(RingCells, RingCells)> {
    let one = make_rings(region, sizes)?;
    let mut other =
        RingCells { tx_slots: one.rx_slots, rx_slots: one.tx_slots, ..RingCells::default() };
    let made = (|| {
        for dir in [RingDir::Rx, RingDir::Tx] {
            let (of, slots, to) = match dir {
                RingDir::Rx => (&one.tx, one.tx_slots, &mut other.rx),
                RingDir::Tx => (&one.rx, one.rx_slots, &mut other.tx),
            };
            for (number, &cell) in RingNumber::first(of.len()).zip(of) {
                let ring = RingRef::new(region, cell, slots).expect("it was just made");
                let buffers: Vec<Cell> = ring.named_buffers().collect();
                let cell = region.take_run(cells_for(ring_bytes(slots)))?;
                to.push(cell);
                NewRing { dir, number, slots }.fill(region, cell, &buffers);
            }
        }
        Ok(())
    })();
    if let Err(e) = made {
        region.give_back(one.buffers(region).collect::<Vec<_>>());
        region.give_back(one.ring_cells().chain(other.ring_cells()));
        return Err(e);
    }
    Ok((one, other))
}

impl NewRing {
    /// Fills its header, and its slots with these buffers.
    fn fill(self, region: &Region, cell: Cell, buffers: &[Cell]) {
        let ring = RingRef::new(region, cell, self.slots).expect("the cells were just taken");
        let raw = ring.raw;
        let to_buffer_0 = Region::offset(Cell(0)) as i64 - Region::offset(cell) as i64;
        let (dir, tail) = match self.dir {
            RingDir::Tx => (0, self.slots - 1), // all slots are free
            RingDir::Rx => (1, 0),              // none is received
        };
        raw.buf_ofs.store(to_buffer_0, Ordering::Relaxed);
        raw.num_slots.store(self.slots, Ordering::Relaxed);
        raw.nr_buf_size.store(STRIDE as u32, Ordering::Relaxed);
        raw.ringid_dir.store(u32::from(self.number.0) | dir << 16, Ordering::Relaxed);
        raw.head.store(0, Ordering::Relaxed);
        raw.cur.store(0, Ordering::Relaxed);
        raw.tail.store(tail, Ordering::Relaxed);
        raw.flags.store(0, Ordering::Relaxed);
        raw.offset_mask.store(0, Ordering::Relaxed);
        raw.buf_align.store(0, Ordering::Relaxed);
        for (slot, buffer) in ring.slots.iter().zip(buffers) {
            let value = SlotValue { buf_idx: buffer.0, len: 0, flags: 0 };
            slot.word.store(value.pack(), Ordering::Relaxed);
            slot.ptr.store(0, Ordering::Relaxed);
        }
    }
}

/// Makes the pages of a new port's rings and buffers present, huge ones where the kernel has them. Nobody need wait for it.
pub fn populate(rings: &RingCells, region: &Region) {
    region.gather();
    if region.ports_ever() == 1 {
        region.populate(Cell(0), region.end_of_given());
    } else {
        // In a shared region, what is ours is scattered: touch the rings only.
        for (cell, n) in rings.all() {
            region.populate(cell, cells_for(ring_bytes(n)));
        }
    }
}

/// Makes a handle's netmap_if: which rings it binds, and its extra buffers, `extra_bufs` at most.
pub fn make_if(
    region: &Region,
    rings: &RingCells,
    name: &str,
    bound: &BoundRings,
    extra_bufs: u32,
) -> Result<Cell> {
    let cells = cells_for(IF_HEADER_BYTES + 8 * rings.all().count());
    assert_eq!(cells, 1, "the largest netmap_if fits a buffer");
    let cell = region.take_run(1)?;
    // As netmap does: what there is.
    let extra = match region.take(extra_bufs.min(region.free())) {
        Ok(extra) => extra,
        Err(e) => {
            region.give_back([cell]);
            return Err(e);
        }
    };
    let nif: &RawIf = region.at(cell, 0).expect("just taken");
    store_text(&nif.ni_name, &name[..name.len().min(15)]);
    nif.ni_version.store(NETMAP_API, Ordering::Relaxed);
    nif.ni_flags.store(NI_PRIV_MEM, Ordering::Relaxed);
    nif.ni_tx_rings.store(rings.tx.len() as u32, Ordering::Relaxed);
    nif.ni_rx_rings.store(rings.rx.len() as u32, Ordering::Relaxed);
    nif.ni_host_tx_rings.store(0, Ordering::Relaxed);
    nif.ni_host_rx_rings.store(0, Ordering::Relaxed);
    bind_if(region, rings, cell, bound);
    // A chain through the first word of each buffer, ended by 0.
    let mut next = 0;
    for &buffer in extra.iter().rev() {
        region.at::<AtomicU32>(buffer, 0).expect("just taken").store(next, Ordering::Relaxed);
        next = buffer.0;
    }
    nif.ni_bufs_head.store(next, Ordering::Relaxed);
    Ok(cell)
}

/// Says in a netmap_if which rings its handle binds.
pub fn bind_if(region: &Region, rings: &RingCells, cell: Cell, bound: &BoundRings) {
    let offset = |i: usize| -> &AtomicU64 {
        region.at(cell, IF_HEADER_BYTES + 8 * i).expect("one cell holds the largest netmap_if")
    };
    let which = |rings: &[Cell], bound: &[RingNumber]| -> Vec<(Cell, bool)> {
        let numbers = RingNumber::first(rings.len());
        rings.iter().zip(numbers).map(|(cell, i)| (*cell, bound.contains(&i))).collect()
    };
    let all = which(&rings.tx, &bound.tx).into_iter().chain(which(&rings.rx, &bound.rx));
    for (i, (ring, bound)) in all.enumerate() {
        let distance = Region::offset(ring) as i64 - Region::offset(cell) as i64;
        // 0 tells the program that the ring is not its business.
        offset(i).store(if bound { distance as u64 } else { 0 }, Ordering::Relaxed);
    }
}

/// The extra buffers that a netmap_if lists now. A chain that a peer has damaged ends where it
/// repeats or leaves the region.
pub fn extra_buffers(region: &Region, if_cell: Cell) -> Vec<Cell> {
    chain(region, if_cell, &mut HashSet::new(), u32::MAX).cells
}

/// A netmap_if's chain of extra buffers, as far as it was followed.
#[derive(Debug)]
pub struct Chain {
    /// The buffers.
    pub cells: Vec<Cell>,
    /// That is all of it.
    pub is_whole: bool,
}

/// Follows a netmap_if's chain of extra buffers up to one that was `seen`, for `most` buffers.
pub fn chain(region: &Region, if_cell: Cell, seen: &mut HashSet<Cell>, most: u32) -> Chain {
    let mut cells = Vec::new();
    let head = region.at::<RawIf>(if_cell, 0).map(|nif| nif.ni_bufs_head.load(Ordering::Relaxed));
    let mut next = Cell(head.unwrap_or(0));
    while next != Cell(0) && !seen.contains(&next) {
        let Some(word) = region.at::<AtomicU32>(next, 0) else {
            break;
        };
        if cells.len() >= most as usize {
            return Chain { cells, is_whole: false };
        }
        seen.insert(next);
        cells.push(next);
        next = Cell(word.load(Ordering::Relaxed));
    }
    Chain { cells, is_whole: true }
}
