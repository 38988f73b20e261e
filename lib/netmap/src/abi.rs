//! The netmap ABI, version 14, as it lies in shared memory on x86-64 Linux.
//!
//! Invariant: every size and offset equals that of netmap's own C headers; the assertions at the
//! end of the file refuse to compile otherwise, so a netmap program can be run on this memory.
//! Follows `net/netmap.h` (API 14). Who writes what: `head`, `cur`, and the slots in
//! `[head, tail)` belong to the program; `tail` and every other slot to the library, which changes
//! them only inside txsync, rxsync and wait.

use crate::shm::map::Shared;
use crate::sync::core_atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

/// The API version this memory speaks.
pub const NETMAP_API: u32 = 14;
/// Length of `ni_name`.
pub const NETMAP_IF_NAMSIZ: usize = 16;
/// Longest chain of slots that forms one packet.
pub const NETMAP_MAX_FRAGS: usize = 64;
/// `netmap_if.ni_flags`: the port has a memory region of its own.
pub const NI_PRIV_MEM: u32 = 1;
/// `netmap_ring.flags`: write the time of each rxsync to `ts`.
pub const NR_TIMESTAMP: u32 = 2;
/// `netmap_ring.flags`: netmap forwards marked packets between host and NIC rings. Without effect here.
pub const NR_FORWARD: u32 = 4;

bitflags::bitflags! {
    /// `netmap_slot.flags`, of which programs may write any: bits without a name are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SlotFlags: u16 {
        /// `NS_BUF_CHANGED`: the program put another buffer into the slot.
        const BUF_CHANGED = 0x0001;
        /// `NS_REPORT`: ask for a notification when the slot has been sent.
        const REPORT = 0x0002;
        /// `NS_FORWARD`: netmap passes the packet on to the other side of the host rings. Without effect here.
        const FORWARD = 0x0004;
        /// `NS_NO_LEARN`: declared by netmap, unused by it and by us.
        const NO_LEARN = 0x0008;
        /// `NS_INDIRECT`: `ptr` holds the address of the data, in the sender's address space.
        const INDIRECT = 0x0010;
        /// `NS_MOREFRAG`: the packet goes on in the next slot.
        const MOREFRAG = 0x0020;
        /// `NS_TXMON`: a monitor saw this packet on a TX ring.
        const TXMON = 0x0040;
        /// High byte: number of fragments (`NS_RFRAGS`), written in RX slots of a VALE port.
        const RFRAGS = 0xff00;
        const _ = !0;
    }
}

impl SlotFlags {
    /// Number of fragments of the packet, as a VALE receiver sees it in each of its slots.
    #[must_use]
    pub const fn rfrags(self) -> usize {
        (self.bits() >> 8) as usize
    }
}

/// `struct netmap_slot`, 16 bytes, as two words: that is how the library copies a slot out before
/// it believes a byte of it.
#[repr(C)]
#[derive(Debug)]
pub struct RawSlot {
    /// `buf_idx` in bits 0-31, `len` in 32-47, `flags` in 48-63.
    pub word: AtomicU64,
    /// `ptr`: address of the data of an indirect slot.
    pub ptr: AtomicU64,
}

// SAFETY: two atomics.
unsafe impl Shared for RawSlot {}

/// A slot that has been copied out of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotValue {
    /// Index of the buffer within its memory region.
    pub buf_idx: u32,
    /// Bytes of data in the buffer.
    pub len: u16,
    /// `SlotFlags`, unvalidated.
    pub flags: u16,
}

impl SlotValue {
    /// Takes the first word of a slot apart.
    #[inline]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self { buf_idx: word as u32, len: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }

    /// Puts the first word of a slot together.
    #[inline]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.buf_idx as u64 | (self.len as u64) << 32 | (self.flags as u64) << 48
    }
}

/// `struct netmap_ring` without its slots, which follow at offset 256.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct RawRing {
    /// Offset from this ring to buffer 0 of the region, in bytes.
    pub buf_ofs: AtomicI64,
    /// Number of slots.
    pub num_slots: AtomicU32,
    /// Distance between two buffers in bytes (here the cache-coloured stride).
    pub nr_buf_size: AtomicU32,
    /// Ring number; `dir` in the upper half (0 transmit, 1 receive).
    pub ringid_dir: AtomicU32,
    /// First slot that belongs to the program. Written by the program.
    pub head: AtomicU32,
    /// Wake-up point, at or after `head`. Written by the program.
    pub cur: AtomicU32,
    /// First slot that belongs to the library. Written by the library.
    pub tail: AtomicU32,
    /// `NR_*` flags.
    pub flags: AtomicU32,
    _pad0: u32,
    /// Time of the last rxsync: seconds.
    pub ts_sec: AtomicI64,
    /// Time of the last rxsync: microseconds.
    pub ts_usec: AtomicI64,
    /// `offset_mask`: 0, no offsets in slots.
    pub offset_mask: AtomicU64,
    /// `buf_align`: 0, no alignment wanted by hardware.
    pub buf_align: AtomicU64,
    _pad1: [u64; 7],
    /// Scratch space that netmap leaves to programs.
    pub sem: [AtomicU64; 16],
}

// SAFETY: atomics and padding; the padding is never read.
unsafe impl Shared for RawRing {}

/// Bytes from the start of a ring to its first slot.
pub const RING_HEADER_BYTES: usize = 256;
/// Bytes of one slot.
pub const SLOT_BYTES: usize = 16;

/// `struct netmap_if` without `ring_ofs`, which follows at offset 56.
#[repr(C)]
#[derive(Debug)]
pub struct RawIf {
    /// `ni_name`, NUL-terminated.
    pub ni_name: [AtomicU64; 2],
    /// `ni_version`: `NETMAP_API`.
    pub ni_version: AtomicU32,
    /// `ni_flags`.
    pub ni_flags: AtomicU32,
    /// Number of transmit rings.
    pub ni_tx_rings: AtomicU32,
    /// Number of receive rings.
    pub ni_rx_rings: AtomicU32,
    /// First of the chain of extra buffers, 0 for none.
    pub ni_bufs_head: AtomicU32,
    /// Number of host transmit rings.
    pub ni_host_tx_rings: AtomicU32,
    /// Number of host receive rings.
    pub ni_host_rx_rings: AtomicU32,
    ni_spare1: [AtomicI32; 3],
}

// SAFETY: atomics and padding; the padding is never read.
unsafe impl Shared for RawIf {}

/// Bytes from the start of a `netmap_if` to `ring_ofs[0]`.
pub const IF_HEADER_BYTES: usize = 56;

// Offsets as in the ABI reference; a mismatch is a compile error.
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<RawSlot>() == SLOT_BYTES);
    assert!(offset_of!(RawSlot, word) == 0); // buf_idx 0, len 4, flags 6: see the word test below
    assert!(offset_of!(RawSlot, ptr) == 8);
    assert!(SlotValue { buf_idx: 1, len: 0, flags: 0 }.pack().to_le_bytes()[0] == 1);
    assert!(SlotValue { buf_idx: 0, len: 1, flags: 0 }.pack().to_le_bytes()[4] == 1);
    assert!(SlotValue { buf_idx: 0, len: 0, flags: 1 }.pack().to_le_bytes()[6] == 1);
    assert!(size_of::<RawRing>() == RING_HEADER_BYTES);
    assert!(align_of::<RawRing>() == 128);
    assert!(offset_of!(RawRing, buf_ofs) == 0);
    assert!(offset_of!(RawRing, num_slots) == 8);
    assert!(offset_of!(RawRing, nr_buf_size) == 12);
    assert!(offset_of!(RawRing, ringid_dir) == 16); // ringid 16:2, dir 18:2
    assert!(offset_of!(RawRing, head) == 20);
    assert!(offset_of!(RawRing, cur) == 24);
    assert!(offset_of!(RawRing, tail) == 28);
    assert!(offset_of!(RawRing, flags) == 32);
    assert!(offset_of!(RawRing, ts_sec) == 40);
    assert!(offset_of!(RawRing, ts_usec) == 48);
    assert!(offset_of!(RawRing, offset_mask) == 56);
    assert!(offset_of!(RawRing, buf_align) == 64);
    assert!(offset_of!(RawRing, sem) == 128);
    assert!(size_of::<RawIf>() == IF_HEADER_BYTES);
    assert!(offset_of!(RawIf, ni_name) == 0);
    assert!(offset_of!(RawIf, ni_version) == 16);
    assert!(offset_of!(RawIf, ni_flags) == 20);
    assert!(offset_of!(RawIf, ni_tx_rings) == 24);
    assert!(offset_of!(RawIf, ni_rx_rings) == 28);
    assert!(offset_of!(RawIf, ni_bufs_head) == 32);
    assert!(offset_of!(RawIf, ni_host_tx_rings) == 36);
    assert!(offset_of!(RawIf, ni_host_rx_rings) == 40);
    assert!(offset_of!(RawIf, ni_spare1) == 44);
};
