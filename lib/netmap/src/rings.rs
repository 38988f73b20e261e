//! Rings and netmap_ifs in a region: where they are, how they are made. For every kind of port.
//!
//! Invariant: what is made here is complete before anybody is told of it; on an error everything that
//! was taken is given back.

use std::collections::HashSet;

use crate::abi::{IF_HEADER_BYTES, NETMAP_API, NI_PRIV_MEM, RawIf, SlotValue};
use crate::error::Result;
use crate::options::{BoundRings, PerDirection, Sizes};
use crate::ring::{RingRef, ring_bytes};
use crate::shm::mem::{Region, STRIDE, cells_for};
use crate::shm::text::store_text;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// Where a port's rings are in its region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingCells {
    /// Slots per TX ring.
    pub tx_slots: u32,
    /// Slots per RX ring.
    pub rx_slots: u32,
    /// First cell of each TX ring.
    pub tx: Vec<u32>,
    /// First cell of each RX ring.
    pub rx: Vec<u32>,
}

impl RingCells {
    /// First cell and number of slots of each ring, transmit first.
    pub fn all(&self) -> impl Iterator<Item = (u32, u32)> {
        let tx = self.tx.iter().map(|&cell| (cell, self.tx_slots));
        tx.chain(self.rx.iter().map(|&cell| (cell, self.rx_slots)))
    }

    /// The cells that the rings themselves take.
    pub fn ring_cells(&self) -> impl Iterator<Item = u32> {
        self.all().flat_map(|(cell, n)| cell..cell.saturating_add(cells_for(ring_bytes(n))))
    }

    /// Slots of the rings of each direction.
    pub fn slots(&self) -> PerDirection<u32> {
        PerDirection { tx: self.tx_slots, rx: self.rx_slots }
    }

    /// TX ring `i`, if there is one and it lies within the region.
    #[inline]
    pub fn tx_ring<'a>(&self, region: &'a Region, i: usize) -> Option<RingRef<'a>> {
        RingRef::new(region, *self.tx.get(i)?, self.tx_slots)
    }

    /// RX ring `i`, if there is one and it lies within the region.
    #[inline]
    pub fn rx_ring<'a>(&self, region: &'a Region, i: usize) -> Option<RingRef<'a>> {
        RingRef::new(region, *self.rx.get(i)?, self.rx_slots)
    }

    /// Numbers of the buffers that the rings name now.
    pub fn buffers<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = u32> + 'a {
        let rings = self.all().filter_map(|(cell, n)| RingRef::new(region, cell, n));
        rings.flat_map(|ring| (0..ring.n()).map(move |i| ring.load(i).buf_idx))
    }
}

/// Most cells that rings and their buffers take.
pub fn cells_needed(sizes: Sizes) -> u32 {
    let of = |rings: u16, slots: u32| u32::from(rings) * (slots + cells_for(ring_bytes(slots)) + 1);
    of(sizes.tx_rings, sizes.tx_slots) + of(sizes.rx_rings, sizes.rx_slots) + 2
}

/// Takes cells for rings and buffers, and fills the rings' headers and slots. Used for every kind
/// of port. On error everything is given back.
pub fn make_rings(region: &Region, sizes: Sizes) -> Result<RingCells> {
    let rings: Vec<(u32, bool, u16)> = (0..sizes.tx_rings)
        .map(|i| (sizes.tx_slots, false, i))
        .chain((0..sizes.rx_rings).map(|i| (sizes.rx_slots, true, i)))
        .collect();
    // At once for all, so that a lack of space shows before anything is taken.
    region.reserve(cells_needed(sizes))?;
    let (mut tx, mut rx) = (Vec::new(), Vec::new());
    let mut taken: Vec<u32> = Vec::new();
    let made = (|| {
        for (n, is_rx, number) in rings {
            let cells = cells_for(ring_bytes(n));
            let cell = region.take_run(cells)?;
            taken.extend(cell..cell + cells);
            let buffers = region.take(n)?;
            taken.extend(&buffers);
            fill_ring(region, cell, n, is_rx, number, &buffers);
            if is_rx { rx.push(cell) } else { tx.push(cell) }
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
        for (dir, slots) in [(true, one.tx_slots), (false, one.rx_slots)] {
            let (of, to) = if dir { (&one.tx, &mut other.rx) } else { (&one.rx, &mut other.tx) };
            for (i, &cell) in of.iter().enumerate() {
                let ring = RingRef::new(region, cell, slots).expect("it was just made");
                let buffers: Vec<u32> = (0..slots).map(|k| ring.load(k).buf_idx).collect();
                let cell = region.take_run(cells_for(ring_bytes(slots)))?;
                to.push(cell);
                fill_ring(region, cell, slots, dir, i as u16, &buffers);
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

fn fill_ring(region: &Region, cell: u32, n: u32, is_rx: bool, number: u16, buffers: &[u32]) {
    let ring = RingRef::new(region, cell, n).expect("the cells were just taken");
    let raw = ring.raw;
    let to_buffer_0 = Region::offset(0) as i64 - Region::offset(cell) as i64;
    raw.buf_ofs.store(to_buffer_0, Ordering::Relaxed);
    raw.num_slots.store(n, Ordering::Relaxed);
    raw.nr_buf_size.store(STRIDE as u32, Ordering::Relaxed);
    raw.ringid_dir.store(u32::from(number) | u32::from(is_rx) << 16, Ordering::Relaxed);
    raw.head.store(0, Ordering::Relaxed);
    raw.cur.store(0, Ordering::Relaxed);
    // A TX ring begins with all slots free, an RX ring with none received.
    raw.tail.store(if is_rx { 0 } else { n - 1 }, Ordering::Relaxed);
    raw.flags.store(0, Ordering::Relaxed);
    raw.offset_mask.store(0, Ordering::Relaxed);
    raw.buf_align.store(0, Ordering::Relaxed);
    for (slot, &buf_idx) in ring.slots.iter().zip(buffers) {
        slot.word.store(SlotValue { buf_idx, len: 0, flags: 0 }.pack(), Ordering::Relaxed);
        slot.ptr.store(0, Ordering::Relaxed);
    }
}

/// Makes the pages of a port's rings and buffers present.
pub fn populate(rings: &RingCells, region: &Region) {
    if region.ports_ever() == 1 {
        region.populate(0..region.end_of_given());
    } else {
        // In a shared region, what is ours is scattered: touch the rings only.
        for (cell, n) in rings.all() {
            region.populate(cell..cell + cells_for(ring_bytes(n)));
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
) -> Result<u32> {
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
        next = buffer;
    }
    nif.ni_bufs_head.store(next, Ordering::Relaxed);
    Ok(cell)
}

/// Says in a netmap_if which rings its handle binds.
pub fn bind_if(region: &Region, rings: &RingCells, cell: u32, bound: &BoundRings) {
    let offset = |i: usize| -> &AtomicU64 {
        region.at(cell, IF_HEADER_BYTES + 8 * i).expect("one cell holds the largest netmap_if")
    };
    let all = rings.tx.iter().enumerate().map(|(i, c)| (*c, bound.tx.contains(&i)));
    let all = all.chain(rings.rx.iter().enumerate().map(|(i, c)| (*c, bound.rx.contains(&i))));
    for (i, (ring, bound)) in all.enumerate() {
        let distance = Region::offset(ring) as i64 - Region::offset(cell) as i64;
        // 0 tells the program that the ring is not its business.
        offset(i).store(if bound { distance as u64 } else { 0 }, Ordering::Relaxed);
    }
}

/// The extra buffers that a netmap_if lists now. A chain that a peer has damaged ends where it
/// repeats or leaves the region.
pub fn extra_buffers(region: &Region, if_cell: u32) -> Vec<u32> {
    chain(region, if_cell, &mut HashSet::new(), u32::MAX).0
}

/// Cells in a netmap_if's chain of extra buffers up to one that was `seen`, and whether that is all of
/// it: `most` are followed.
pub fn chain(
    region: &Region,
    if_cell: u32,
    seen: &mut HashSet<u32>,
    most: u32,
) -> (Vec<u32>, bool) {
    let mut chain = Vec::new();
    let head = region.at::<RawIf>(if_cell, 0).map(|nif| nif.ni_bufs_head.load(Ordering::Relaxed));
    let mut next = head.unwrap_or(0);
    while next != 0 && !seen.contains(&next) {
        let Some(word) = region.at::<AtomicU32>(next, 0) else {
            break;
        };
        if chain.len() >= most as usize {
            return (chain, false);
        }
        seen.insert(next);
        chain.push(next);
        next = word.load(Ordering::Relaxed);
    }
    (chain, true)
}
