//! The two innermost loops of forwarding: from TX slots straight to RX slots, and from the fragments of
//! a batch to RX slots.
//!
//! Invariant: everything that these loops change per packet fits the registers. A packet's stores go
//! to lines that the other core has and wait for them; each further store (a counter on the stack is
//! one) waits behind, and the store queue is soon full (measured: 26 against 60 Mpps one to one,
//! three counters in memory against none). So the loops are functions of their own that are not
//! inlined, call nothing that takes an address of theirs, and stop at whatever is not plain.

use crate::abi::{RawSlot, SlotFlags, SlotValue};
use crate::copy::{self, Isa};
use crate::ring::RingRef;
use crate::shm::mem::{BufferView, RESERVED, STRIDE};
use crate::sync::core_atomic::Ordering;
use crate::vale::forward::batch::Fragment;
use crate::vale::forward::lookup::{Lookup, Route};

/// How far ahead headers are fetched for reading.
const HEADERS_AHEAD: usize = 8;
/// How far ahead destination buffers are fetched for writing: enough stores in flight to cover a
/// cache-to-cache transfer (`scripts/bench vale`).
pub const AHEAD: usize = 8;

/// Where the buffers of a region are: as `BufferView`, with a distance that the compiler knows, for the
/// innermost loops.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    cell0: *mut u8,
    cells: u32,
}

impl Buffers {
    /// Those of a region, as far as it is known.
    pub fn of(view: BufferView<'_>) -> Self {
        debug_assert_eq!(view.stride, STRIDE);
        Self { cell0: view.first, cells: view.count }
    }

    /// Address of a buffer, if there is one of that number.
    #[inline(always)]
    pub fn at(self, buf_idx: u32) -> Option<*mut u8> {
        let known = buf_idx >= RESERVED && buf_idx < self.cells;
        known.then(|| self.anywhere(buf_idx))
    }

    /// What would be its address: for prefetching, which may miss.
    #[inline(always)]
    pub fn anywhere(self, buf_idx: u32) -> *mut u8 {
        self.cell0.wrapping_add(buf_idx as usize * STRIDE)
    }
}

/// Where the data of plain packets are. A run has one source: its slots' buffers, or a window.
pub trait Source: Copy {
    /// Whether data may end within a line of which the rest is nobody's business.
    const EXACT: bool;
    /// Address of a slot's data, if the slot is a packet of its own from this source.
    fn plain(self, slot: &RawSlot, value: SlotValue) -> Option<*const u8>;
    /// What would be the address: for prefetching, which may miss.
    fn anywhere(self, slot: &RawSlot) -> *const u8;
}

const SPECIAL: u16 = SlotFlags::MOREFRAG.bits() | SlotFlags::INDIRECT.bits();

impl Source for Buffers {
    const EXACT: bool = false;

    #[inline(always)]
    fn plain(self, _: &RawSlot, value: SlotValue) -> Option<*const u8> {
        let plain = value.flags & SPECIAL == 0 && usize::from(value.len) <= STRIDE;
        self.at(value.buf_idx).filter(|_| plain).map(<*mut u8>::cast_const)
    }

    #[inline(always)]
    fn anywhere(self, slot: &RawSlot) -> *const u8 {
        let buf_idx = SlotValue::unpack(slot.word.load(Ordering::Relaxed)).buf_idx;
        Buffers::anywhere(self, buf_idx)
    }
}

/// Memory that slots of a handle may point to.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First address.
    pub start: usize,
    /// Past the last one.
    pub end: usize,
}

impl Window {
    /// The address, if `len` bytes from there are in the window.
    #[inline(always)]
    pub fn at(self, address: u64, len: u16) -> Option<*const u8> {
        let start = address as usize;
        let within = start >= self.start && start <= self.end;
        (within && self.end - start >= usize::from(len)).then_some(start as *const u8)
    }
}

impl Source for Window {
    const EXACT: bool = true;

    #[inline(always)]
    fn plain(self, slot: &RawSlot, value: SlotValue) -> Option<*const u8> {
        let plain = value.flags & SPECIAL == SlotFlags::INDIRECT.bits();
        let plain = plain && usize::from(value.len) <= STRIDE;
        self.at(slot.ptr.load(Ordering::Relaxed), value.len).filter(|_| plain)
    }

    #[inline(always)]
    fn anywhere(self, slot: &RawSlot) -> *const u8 {
        slot.ptr.load(Ordering::Relaxed) as *const u8
    }
}

/// TX slots, and where their data are.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a, S> {
    /// The slots.
    pub slots: &'a [RawSlot],
    /// Where their data are.
    pub source: S,
}

/// RX slots that are free, and where their buffers are.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// The slots.
    pub slots: &'a [RawSlot],
    /// Where their buffers are.
    pub buffers: Buffers,
}

/// What was copied.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Packets, each of one slot.
    pub packets: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies plain packets for the destination `route` from TX slots to RX slots, as long as there are some of both.
#[inline(never)]
pub fn copy_run<I: Isa, S: Source>(
    Queued { slots: from, source }: Queued<'_, S>,
    Stretch { slots: to, buffers: to_buffers }: Stretch<'_>,
    look: &mut Lookup<'_>,
    route: Route,
) -> Copied {
    let mut bytes = 0;
    let n = from.len().min(to.len());
    let (from, to) = (&from[..n], &to[..n]);
    for i in 0..n {
        if let Some(later) = from.get(i + HEADERS_AHEAD) {
            copy::prefetch_read(source.anywhere(later));
        }
        if let Some(later) = to.get(i + AHEAD) {
            let later = SlotValue::unpack(later.word.load(Ordering::Relaxed)).buf_idx;
            copy::prefetch_write(to_buffers.anywhere(later));
        }
        let slot = SlotValue::unpack(from[i].word.load(Ordering::Relaxed));
        let to_buf = SlotValue::unpack(to[i].word.load(Ordering::Relaxed)).buf_idx;
        let (Some(data), Some(target)) = (source.plain(&from[i], slot), to_buffers.at(to_buf))
        else {
            return Copied { packets: i, bytes };
        };
        // SAFETY: `len` bytes at `data` are in the source.
        if unsafe { look.route(data, slot.len) } != route {
            return Copied { packets: i, bytes };
        }
        if S::EXACT {
            // SAFETY: `len` bytes at `data` are in the source; a buffer holds STRIDE, which is no less,
            // and whole lines.
            unsafe { I::packet(target, data, slot.len.into()) };
        } else {
            // SAFETY: both are buffers, STRIDE bytes long, a multiple of 64.
            unsafe { I::lines(target, data, usize::from(slot.len).div_ceil(64)) };
        }
        let value = SlotValue { buf_idx: to_buf, len: slot.len, flags: rx_flags(1, false) };
        to[i].word.store(value.pack(), Ordering::Relaxed);
        bytes += u64::from(slot.len);
    }
    Copied { packets: n, bytes }
}

/// Copies plain packets of a batch to RX slots, as `copy_run` does.
#[inline(never)]
pub fn copy_fragments<I: Isa>(
    fragments: &[Fragment],
    packets: &[u16],
    Stretch { slots: to, buffers }: Stretch<'_>,
) -> Copied {
    let mut bytes = 0;
    let n = packets.len().min(to.len());
    let (packets, to) = (&packets[..n], &to[..n]);
    for i in 0..n {
        if let Some(later) = to.get(i + AHEAD) {
            let later = SlotValue::unpack(later.word.load(Ordering::Relaxed)).buf_idx;
            copy::prefetch_write(buffers.anywhere(later));
        }
        let Fragment { data, len, frags, indirect, .. } = fragments[usize::from(packets[i])];
        let buf_idx = SlotValue::unpack(to[i].word.load(Ordering::Relaxed)).buf_idx;
        let Some(target) = buffers.at(buf_idx).filter(|_| frags == 1) else {
            return Copied { packets: i, bytes };
        };
        if indirect {
            // SAFETY: `gather` checked the fragment; `target` is a buffer, which holds no less.
            unsafe { I::packet(target, data, len.into()) };
        } else {
            // SAFETY: `gather` checked the fragment, which is in a buffer; `target` is one, too.
            unsafe { I::lines(target, data, usize::from(len).div_ceil(64)) };
        }
        let value = SlotValue { buf_idx, len, flags: rx_flags(1, false) };
        to[i].word.store(value.pack(), Ordering::Relaxed);
        bytes += u64::from(len);
    }
    Copied { packets: n, bytes }
}

/// Address and length of the data of a plain slot of this source.
#[inline(always)]
pub fn plain<S: Source>(ring: RingRef<'_>, source: S, at: u32) -> Option<(*const u8, u16)> {
    let slot = ring.load(at);
    let data = source.plain(&ring.slots[at as usize], slot)?;
    Some((data, slot.len))
}

/// Flags of an RX slot: number of fragments in the high byte, MOREFRAG except in the last.
#[inline(always)]
pub fn rx_flags(frags: u8, more: bool) -> u16 {
    u16::from(frags) << 8 | if more { SlotFlags::MOREFRAG.bits() } else { 0 }
}
