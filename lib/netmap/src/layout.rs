//! Where netmap's structures lie in the memory of a port, for programs that map it by themselves.
//!
//! A program maps the file of [`Port::open_memory`](crate::Port::open_memory) from its start, shared, with
//! `mem_size` bytes, once: later ports, pipes and buffers of the same memory are inside. It begins at the handle's
//! netmap_if, and finds everything else as netmap's headers say.

use crate::options::SLOTS;
use crate::ring::ring_bytes;
use crate::shm::mem::{Cell, Region, STRIDE, cells_for, cells_within};

/// Where a handle's structures lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the file: `nr_memsize`. It never changes.
    pub mem_size: u64,
    /// Where in it the handle's netmap_if is: `nr_offset`.
    pub if_offset: u64,
    /// Number of the memory: `nr_mem_id`, and `@N` in names. No other memory in the root has it.
    pub mem_id: u16,
}

/// Objects of one size in a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Where the first one is.
    pub offset: u64,
    /// How many there can be.
    pub objects: u32,
    /// Bytes of each, at most.
    pub object_bytes: u32,
}

/// What netmap tells of the pools of a memory (`NETMAP_REQ_POOLS_INFO_GET`).
///
/// netmap has three pools, for interfaces, rings and buffers. Here there is one, of cells that are 2112
/// bytes apart, and all three are that one: buffer `i` is at `offset + i * object_bytes` of `bufs`, a netmap_if
/// takes a cell, and a ring as many in sequence as it needs. As in netmap, no object is larger than `object_bytes` of its
/// pool: for rings these are the cells of the largest one, of 4096 slots. `objects` is how many would fit if there were
/// nothing else, so the three are not to be added; and rings, which take no more cells than they need, do not lie at
/// multiples of `object_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolsInfo {
    /// Bytes of the memory.
    pub mem_size: u64,
    /// Its number.
    pub mem_id: u16,
    /// Of netmap_ifs.
    pub ifs: Pool,
    /// Of rings.
    pub rings: Pool,
    /// Of buffers.
    pub bufs: Pool,
}

impl PoolsInfo {
    /// Of the memory with that number and size.
    #[must_use]
    pub fn new(mem_id: u16, mem_size: u64) -> Self {
        let offset = Region::offset(Cell(0)) as u64;
        let cells = Pool { offset, objects: cells_within(mem_size), object_bytes: STRIDE as u32 };
        let largest = cells_for(ring_bytes(*SLOTS.end()));
        let object_bytes = cells.object_bytes * largest;
        let rings = Pool { objects: cells.objects / largest, object_bytes, ..cells };
        Self { mem_size, mem_id, ifs: cells, rings, bufs: cells }
    }
}

impl Layout {
    /// The pools of the memory.
    #[must_use]
    pub fn pools(&self) -> PoolsInfo {
        PoolsInfo::new(self.mem_id, self.mem_size)
    }
}
