//! The two innermost loops of forwarding: from TX slots straight to RX slots, and from the pieces of
//! a batch to RX slots.
//!
//! Invariant: everything that these loops change per packet fits the registers. A packet's stores go
//! to lines that the other core has and wait for them; each further store (a counter on the stack is
//! one) waits behind, and the store queue is soon full (measured: 26 against 60 Mpps one to one,
//! three counters in memory against none). So the loops are functions of their own that are not
//! inlined, call nothing that takes an address of theirs, and stop at whatever is not plain.

use crate::abi::{RawSlot, SlotFlags, SlotValue};
use crate::copy::{self, Isa};
use crate::mem::STRIDE;
use crate::ring::RingRef;
use crate::sync::core_atomic::Ordering;
use crate::vale::deliver::{AHEAD, Buffers, rx_flags};
use crate::vale::lookup::{Lookup, Way};

/// How far ahead headers are fetched for reading.
const HEADERS_AHEAD: usize = 8;
/// One slot of the batch, checked.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where the data are.
    pub data: *const u8,
    /// Bytes of data.
    pub len: u16,
    /// In a packet's first piece: number of its pieces; 0 if the packet goes nowhere.
    pub frags: u8,
    /// Data is not in a buffer: copy exactly `len` bytes.
    pub indirect: bool,
    /// What became of it.
    pub fate: Fate,
    /// Next packet for the same destination.
    pub next: u16,
}

/// What became of a packet, noted in its first piece, so that a batch that backpressure stopped
/// counts only what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A later piece of a packet.
    Rest,
    /// To one port.
    Unicast,
    /// To all ports.
    Flooded,
    /// Nowhere: no Ethernet frame.
    Short,
    /// Nowhere: own port, or none.
    Nowhere,
    /// Nowhere: for the neighbour on a link.
    Pause,
    /// Nowhere: not to be trusted.
    Bad,
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

/// Copies plain packets that go `way` from TX slots to RX slots, as long as there are some of both;
/// returns how many packets and bytes.
#[inline(never)]
pub fn copy_run<I: Isa, S: Source>(
    (from, source): (&[RawSlot], S),
    (to, to_buffers): (&[RawSlot], Buffers),
    (look, way): (&mut Lookup<'_>, Way),
) -> (usize, u64) {
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
            return (i, bytes);
        };
        // SAFETY: `len` bytes at `data` are in the source.
        if unsafe { look.way(data, slot.len) } != way {
            return (i, bytes);
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
    (n, bytes)
}

/// Copies plain packets of a batch to RX slots, as `copy_run` does.
#[inline(never)]
pub fn copy_pieces<I: Isa>(
    pieces: &[Piece],
    packets: &[u16],
    to: &[RawSlot],
    buffers: Buffers,
) -> (usize, u64) {
    let mut bytes = 0;
    let n = packets.len().min(to.len());
    let (packets, to) = (&packets[..n], &to[..n]);
    for i in 0..n {
        if let Some(later) = to.get(i + AHEAD) {
            let later = SlotValue::unpack(later.word.load(Ordering::Relaxed)).buf_idx;
            copy::prefetch_write(buffers.anywhere(later));
        }
        let Piece { data, len, frags, indirect, .. } = pieces[usize::from(packets[i])];
        let buf_idx = SlotValue::unpack(to[i].word.load(Ordering::Relaxed)).buf_idx;
        let Some(target) = buffers.at(buf_idx).filter(|_| frags == 1 && !indirect) else {
            return (i, bytes);
        };
        // SAFETY: `gather` checked the piece, which is in a buffer; `target` is one, too.
        unsafe { I::lines(target, data, usize::from(len).div_ceil(64)) };
        let value = SlotValue { buf_idx, len, flags: rx_flags(1, false) };
        to[i].word.store(value.pack(), Ordering::Relaxed);
        bytes += u64::from(len);
    }
    (n, bytes)
}

/// Address and length of the data of a plain slot of this source.
#[inline(always)]
pub fn plain<S: Source>(ring: RingRef<'_>, source: S, at: u32) -> Option<(*const u8, u16)> {
    let slot = ring.load(at);
    let data = source.plain(&ring.slots[at as usize], slot)?;
    Some((data, slot.len))
}
