//! Where a packet goes: the Ethernet header against the learning table.
//!
//! Invariant: a source is learnt before its packet's destination is looked up, packet by packet in
//! the order of the ring, as if each were alone; that a run of equal addresses costs one look is
//! not visible from outside.

use crate::copy;
use crate::vale::forward::memo::Memo;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::fdb::{Clock, Fdb};
use crate::vale::state::ids::PortIndex;

/// Bytes of an Ethernet header.
pub const ETHER_HEADER: u16 = 14;

/// Destination of PAUSE frames, as `addresses` reads it: a bridge never forwards them (IEEE 802.1D,
/// table 7-10). The other addresses of that block go everywhere, as in netmap's VALE: LLDP, LACP and
/// spanning tree pass as through a cable.
const PAUSE: u64 = u64::from_le_bytes([0x01, 0x80, 0xc2, 0, 0, 0x01, 0, 0]);

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one port.
    Port(PortIndex),
    /// To all ports: broadcast, multicast, or nobody knows.
    Flood,
    /// Nowhere: its destination is the sender's own port, or no port at all.
    Nowhere,
    /// Nowhere: it is no Ethernet frame.
    Short,
    /// Nowhere: it is for the neighbour on a link alone.
    Pause,
}

/// Finds destinations for the packets of one batch.
#[derive(Debug)]
pub struct Lookup<'a> {
    fdb: Fdb<'a>,
    clock: &'a Clock,
    me: PortIndex,
    src: u64,
    dst: u64,
    route: Route,
    memo: &'a mut Memo,
}

impl<'a> Lookup<'a> {
    /// For packets of port `me`, now.
    pub fn new(fdb: Fdb<'a>, clock: &'a Clock, me: PortIndex, memo: &'a mut Memo) -> Self {
        memo.refresh(fdb.changes(), clock.stamp(), clock.second());
        // No address has more than 48 bits.
        Self { fdb, clock, me, src: u64::MAX, dst: u64::MAX, route: Route::Flood, memo }
    }

    /// Learns the source of a packet and finds its destination.
    ///
    /// # Safety
    /// `len` bytes at `data` are readable.
    #[inline(always)]
    pub unsafe fn route(&mut self, data: *const u8, len: u16) -> Route {
        if len < ETHER_HEADER {
            return Route::Short;
        }
        // SAFETY: at least 14 bytes are readable.
        let (dst, src) = unsafe { addresses(data) };
        if dst == self.dst && src == self.src { self.route } else { self.find(dst, src) }
    }

    #[inline(never)]
    fn find(&mut self, dst: u64, src: u64) -> Route {
        if src != self.src {
            // Neither multicast addresses nor the one of all zeros are anybody's.
            if src & 1 == 0 && src != 0 && !self.memo.knows_source(src) {
                self.learn(src);
            }
            self.src = src;
        }
        // Looked up anew even if it is the same: it may be the very address just learnt.
        self.dst = dst;
        let port = match self.memo.destination(dst) {
            Some(port) => port,
            None => self.look(dst),
        };
        self.route = match port {
            None if dst == PAUSE => Route::Pause,
            None => Route::Flood,
            Some(port) if port == self.me || port.at() >= MAX_PORTS => Route::Nowhere,
            Some(port) => Route::Port(port),
        };
        self.route
    }

    #[inline(never)]
    fn learn(&mut self, src: u64) {
        if self.fdb.learn(src, self.me, self.clock) {
            self.memo.forget_destination(src);
        }
        self.memo.note_source(src);
    }

    #[inline(never)]
    fn look(&mut self, dst: u64) -> Option<PortIndex> {
        let port = if dst & 1 == 0 { self.fdb.lookup(dst, self.clock) } else { None };
        self.memo.note_destination(dst, port);
        port
    }
}

/// Destination and source address of a packet, which peers may be writing meanwhile.
///
/// # Safety
/// At least 14 bytes are readable at `data`.
#[inline(always)]
unsafe fn addresses(data: *const u8) -> (u64, u64) {
    // SAFETY: 8 bytes at 0 and at 6 lie within the 14.
    let (dst, src) = unsafe { copy::load_two_u64::<6>(data) };
    let mask = (1 << 48) - 1;
    (dst & mask, src & mask)
}
