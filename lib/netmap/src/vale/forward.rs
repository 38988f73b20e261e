//! Forwarding: what a sender's txsync does with the packets of one TX ring.
//!
//! ```text
//!  gather   slots of the ring -> batch (checked copies: address, length, fragments)
//!  route    batch -> one list per destination, one list of packets for everybody
//!  deliver  per destination: hold its ring, copy what fits, publish once, let go, ring at most once
//! ```
//!
//! Invariants. Nothing is copied that does not fit. A packet appears in a destination's ring whole
//! or not at all, in the order of the sender's ring. In backpressure mode the rings of all
//! destinations of a batch are held together, so the batch stops before the first packet that does
//! not fit everywhere, and no packet is lost or sent twice. The data path allocates nothing; it
//! locks, fences and calls the kernel at most once per batch and destination.
//!
//! Everything read from shared memory is copied out and checked first; peers can cost packets, not
//! safety.

use std::time::{Duration, Instant};

use crate::abi::{NETMAP_MAX_FRAGS, RawSlot, SlotFlags, SlotValue};
use crate::copy::{self, Isa};
use crate::kring::{Held, Verdict};
use crate::mem::{RESERVED, STRIDE};
use crate::ring::RingRef;
use crate::stats::{C, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::vale::fdb::{Clock, Fdb};
use crate::vale::peer::{Peer, Peers};
use crate::vale::switch::{HandleId, RETIRED, Switch, now_ms};
use crate::vale::{MAX_PORTS, MAX_RINGS, attach};

/// Packets (slots) taken from a ring at a time, as in netmap's VALE.
const BATCH: usize = 1024;
/// How far ahead destination buffers are fetched for writing: enough stores in flight to cover a
/// cache-to-cache transfer.
const AHEAD: u32 = 8;
/// How long a sender waits for a ring that another sender holds before it drops.
const HOLD_PATIENCE: Duration = Duration::from_millis(20);
/// Pause between two looks at whether a full destination is dead.
const DEATH_CHECK_MS: u64 = 50;
const NONE: u16 = u16::MAX;

/// One slot of the batch, checked.
#[derive(Clone, Copy, Debug)]
struct Piece {
    data: *const u8,
    len: u16,
    /// In a packet's first piece: number of its pieces.
    frags: u8,
    /// Data is not in a buffer: copy exactly `len` bytes.
    indirect: bool,
    fate: Fate,
    /// Next packet for the same destination.
    next: u16,
}

/// What became of a packet, noted in its first piece, so that a batch that backpressure stopped
/// counts only what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Flooded,
    Short,
    Nowhere,
    Bad,
}

/// How many packets met which fate.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    flooded: u64,
    short: u64,
    nowhere: u64,
    bad: u64,
}

/// Packets for one destination, as a list through `Piece::next`.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u16,
    last: u16,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// How an attempt to hold a destination ring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Held,
    /// Another sender has it, and has had it for long.
    Busy,
    /// A peer has scribbled over its state.
    Damaged,
}

/// A destination ring that is held.
#[derive(Clone, Copy, Debug)]
struct Grant {
    port: u8,
    ring: u8,
    /// Carries the packets for everybody.
    floods: bool,
    /// Carries the packets for this port alone.
    unicast: bool,
    tail: u32,
    space: u32,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To one port.
    Port(u8),
    /// To all ports.
    Flood,
    /// Nowhere: its destination is the sender's own port, or no port at all.
    Nowhere,
    /// Nowhere: it is no Ethernet frame.
    Short,
}

/// Where a batch stopped in backpressure mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Port whose ring is full.
    pub port: u8,
    /// That ring.
    pub ring: u8,
}

/// Memory that slots of this handle may point to.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: usize,
    end: usize,
}

/// The forwarding state of one handle. Private memory: nobody else sees it.
#[derive(Debug)]
pub struct Forwarder {
    me: u8,
    id: HandleId,
    isa: copy::Kind,
    pieces: Vec<Piece>,
    lists: Vec<List>,
    /// Ports with a list.
    touched: Vec<u8>,
    /// First pieces of the packets for everybody.
    floods: Vec<u16>,
    /// Every piece is a packet of its own, in a buffer of its own, and nothing is wrong with it.
    simple: bool,
    /// Bytes of the batch.
    bytes: u64,
    /// The whole batch, being simple, has one way to go: no lists were made.
    only: Option<Way>,
    grants: Vec<Grant>,
    windows: Vec<Window>,
    last_death_check_ms: u64,
    /// Where the last batch of each TX ring stopped.
    pub stalls: [Option<Stall>; MAX_RINGS as usize],
    /// What became of the packets of the batch that went nowhere.
    tally: Tally,
    /// Generations up to this one were given out before the batch was routed.
    epoch: u64,
}

// SAFETY: the raw pointers in `pieces` are used within one call of `txsync` only; what they point
// to is reachable from any thread.
unsafe impl Send for Forwarder {}

impl Forwarder {
    /// For the handle `id` on port `me`.
    pub fn new(me: u8, id: HandleId) -> Self {
        Self {
            me,
            id,
            isa: copy::detect(),
            pieces: Vec::with_capacity(BATCH + NETMAP_MAX_FRAGS),
            lists: vec![EMPTY; MAX_PORTS],
            touched: Vec::with_capacity(MAX_PORTS),
            floods: Vec::with_capacity(BATCH + NETMAP_MAX_FRAGS),
            simple: false,
            bytes: 0,
            only: None,
            grants: Vec::with_capacity(2 * MAX_PORTS),
            windows: Vec::new(),
            last_death_check_ms: 0,
            stalls: [None; MAX_RINGS as usize],
            tally: Tally::default(),
            epoch: 0,
        }
    }

    /// Lets slots point into `[start, start + len)`.
    pub fn allow(&mut self, start: usize, len: usize) {
        self.windows.push(Window { start, end: start.saturating_add(len) });
    }

    /// Sends the slots from `*hwcur` up to `head` of a TX ring, given with its number. On return `*hwcur` is the
    /// first slot not sent; it equals `head` unless backpressure stopped the batch.
    pub fn txsync(
        &mut self,
        switch: &Switch,
        peers: &mut Peers,
        (ring, ring_no): (RingRef<'_>, usize),
        counters: &SharedCounters,
        hwcur: &mut u32,
        head: u32,
    ) {
        let now = now_ms();
        let ageing = switch.ageing_ms();
        let clock = Clock::new(now, ageing);
        if let Some(all) = super::fdb::due_for_sweep(switch.last_sweep_ms(), now, ageing) {
            switch.fdb().sweep(&clock, all);
        }
        let lossless = switch.backpressure();
        let mut stall = None;
        while *hwcur != head && stall.is_none() {
            self.tally = Tally::default();
            self.epoch = switch.epoch();
            self.gather(ring, *hwcur, head);
            self.route(switch, &clock);
            let done = match self.isa {
                copy::Kind::Avx512 => {
                    self.send::<copy::Avx512>(switch, peers, ring_no, counters, lossless)
                }
                copy::Kind::Avx => {
                    self.send::<copy::Avx>(switch, peers, ring_no, counters, lossless)
                }
                copy::Kind::Sse2 => {
                    self.send::<copy::Sse2>(switch, peers, ring_no, counters, lossless)
                }
            };
            let (sent, full_port);
            (sent, full_port, stall) = done;
            *hwcur = ring.step(*hwcur, sent as u32);
            self.count_sent(sent, counters);
            if let Some(port) = full_port.or(stall.map(|s| s.port)) {
                self.look_for_death(switch, port, now);
            }
        }
        self.stalls[ring_no] = stall;
    }

    /// Copies slots out and checks them: afterwards `pieces` are safe to copy from.
    fn gather(&mut self, ring: RingRef<'_>, from: u32, head: u32) {
        self.pieces.clear();
        self.bytes = 0;
        self.simple = self.gather_simple(ring, from, head);
        if !self.simple {
            self.pieces.clear();
            self.bytes = 0;
            self.gather_any(ring, from, head);
        }
    }

    /// The common case in a tight loop: packets of one slot, data in their buffers. False: there
    /// is something else among them.
    #[inline]
    fn gather_simple(&mut self, ring: RingRef<'_>, from: u32, head: u32) -> bool {
        const SPECIAL: u16 = SlotFlags::MOREFRAG.bits() | SlotFlags::INDIRECT.bits();
        let cells = ring.region.cells();
        let cell0 = ring.region.cell0().cast_const();
        let (first, wrapped): (&[RawSlot], &[RawSlot]) = if from <= head {
            (&ring.slots[from as usize..head as usize], &[])
        } else {
            (&ring.slots[from as usize..], &ring.slots[..head as usize])
        };
        let mut bytes = 0;
        for slots in [first, wrapped] {
            let room = BATCH - self.pieces.len();
            for slot in &slots[..slots.len().min(room)] {
                let slot = SlotValue::unpack(slot.word.load(Ordering::Relaxed));
                let known = slot.buf_idx >= RESERVED && slot.buf_idx < cells;
                if !known || slot.flags & SPECIAL != 0 || usize::from(slot.len) > STRIDE {
                    return false;
                }
                let data = cell0.wrapping_add(slot.buf_idx as usize * STRIDE);
                copy::prefetch_read(data); // its addresses are looked at soon
                bytes += u64::from(slot.len);
                // The capacity is there (`new`), so this never allocates.
                self.pieces.push(Piece {
                    data,
                    len: slot.len,
                    frags: 1,
                    indirect: false,
                    fate: Fate::Delivered,
                    next: NONE,
                });
            }
        }
        self.bytes = bytes;
        true
    }

    /// Fragments, indirect data, and whatever a program or a peer may have put there.
    fn gather_any(&mut self, ring: RingRef<'_>, from: u32, head: u32) {
        let mut at = from;
        let mut first = 0; // first piece of the packet being gathered
        let mut bad = false;
        while at != head {
            let slot = ring.load(at);
            let flags = SlotFlags::from_bits_retain(slot.flags);
            let indirect = flags.contains(SlotFlags::INDIRECT);
            let data = if indirect {
                self.window(ring.slots[at as usize].ptr.load(Ordering::Relaxed), slot.len)
            } else {
                ring.buffer(slot.buf_idx).map(<*mut u8>::cast_const)
            };
            at = ring.step(at, 1);
            // A frame in a later packet is looked at soon.
            if let Some(data) = data {
                copy::prefetch_read(data);
            }
            bad |= data.is_none() || usize::from(slot.len) > STRIDE;
            self.bytes += u64::from(slot.len);
            self.pieces.push(Piece {
                data: data.unwrap_or(std::ptr::null()),
                len: slot.len,
                frags: 0,
                indirect,
                fate: Fate::Delivered,
                next: NONE,
            });
            // A chain that the ring does not end is cut off at `head`, as in netmap.
            if flags.contains(SlotFlags::MOREFRAG) && at != head {
                let chain = self.pieces.len() - first;
                if chain < NETMAP_MAX_FRAGS {
                    continue;
                }
                bad = true; // no end in sight: what follows begins a packet of its own
            }
            if bad {
                self.tally.bad += 1;
                // Zero pieces: `route` passes over it.
                for piece in &mut self.pieces[first..] {
                    self.bytes -= u64::from(piece.len);
                    piece.frags = 0;
                    piece.len = 0;
                }
                self.pieces[first].fate = Fate::Bad;
                bad = false;
            } else {
                self.pieces[first].frags = (self.pieces.len() - first) as u8;
            }
            first = self.pieces.len();
            if first >= BATCH {
                return;
            }
        }
    }

    /// The address in a slot, if the program allowed it.
    fn window(&self, address: u64, len: u16) -> Option<*const u8> {
        let start = address as usize;
        let end = start.checked_add(usize::from(len))?;
        self.windows.iter().any(|w| w.start <= start && end <= w.end).then_some(start as *const u8)
    }

    /// Learns sources and sorts packets by destination.
    fn route(&mut self, switch: &Switch, clock: &Clock) {
        for &port in &self.touched {
            self.lists[usize::from(port)] = EMPTY;
        }
        self.touched.clear();
        self.floods.clear();
        self.only = None;
        let mut look = Lookup::new(switch.fdb(), clock, self.me);
        let mut i = 0;
        // Traffic comes in runs: as long as all goes one way, nothing is written down.
        if self.simple {
            let first = look.way(&self.pieces[0]);
            i = 1;
            let mut other = first;
            while i < self.pieces.len() {
                other = look.way(&self.pieces[i]);
                if other != first {
                    break;
                }
                i += 1;
            }
            if i == self.pieces.len() && matches!(first, Way::Port(_) | Way::Flood) {
                self.only = Some(first);
                return;
            }
            for packet in 0..i {
                self.append(packet, first);
            }
            if i < self.pieces.len() {
                self.append(i, other);
                i += 1;
            }
        }
        while i < self.pieces.len() {
            let piece = self.pieces[i];
            if piece.frags == 0 {
                i += 1;
                continue;
            }
            let way = look.way(&piece);
            self.append(i, way);
            i += usize::from(piece.frags);
        }
    }

    /// Writes down which way the packet that begins at a piece goes.
    #[inline]
    fn append(&mut self, packet: usize, way: Way) {
        match way {
            Way::Flood => {
                self.floods.push(packet as u16);
                self.tally.flooded += 1;
                self.pieces[packet].fate = Fate::Flooded;
            }
            Way::Short => {
                self.tally.short += 1;
                self.pieces[packet].fate = Fate::Short;
            }
            Way::Nowhere => {
                self.tally.nowhere += 1;
                self.pieces[packet].fate = Fate::Nowhere;
            }
            Way::Port(port) => {
                let list = &mut self.lists[usize::from(port)];
                if list.first == NONE {
                    list.first = packet as u16;
                    self.touched.push(port);
                } else {
                    self.pieces[usize::from(list.last)].next = packet as u16;
                }
                list.last = packet as u16;
            }
        }
    }

    /// Delivers the batch. Returns the slots that are done with, and a port that was full.
    fn send<I: Isa>(
        &mut self,
        switch: &Switch,
        peers: &mut Peers,
        ring_no: usize,
        counters: &SharedCounters,
        lossless: bool,
    ) -> (usize, Option<u8>, Option<Stall>) {
        let (mut full_port, mut stall) = (None, None);
        self.grants.clear();
        let mut stop = self.pieces.len();
        // Ports in ascending order, so that two senders that hold several rings never wait for
        // each other.
        let floods = !self.floods.is_empty() || self.only == Some(Way::Flood);
        let mut ports = if floods { switch.active() } else { [0; 4] };
        if let Some(Way::Port(port)) = self.only {
            ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
        for &port in &self.touched {
            ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
        ports[usize::from(self.me / 64)] &= !(1 << (self.me % 64));
        ports[3] &= (1 << (MAX_PORTS % 64)) - 1;
        for (word, bits) in ports.iter_mut().enumerate() {
            while *bits != 0 {
                let port = (word * 64) as u8 + bits.trailing_zeros() as u8;
                *bits &= *bits - 1;
                let unicast = self.lists[usize::from(port)].first != NONE
                    || self.only == Some(Way::Port(port));
                let Some(generation) = peers.update(switch, port) else {
                    if unicast {
                        let lost = self.packets(&self.grant_of(port, 0, false, true), stop).count();
                        counters.add(C::tx_drop_no_port, lost as u64);
                    }
                    continue;
                };
                // A port made after the lookup is not the one that was looked up.
                let unicast = unicast && generation <= self.epoch;
                let peer = peers.get(port).expect("update found it");
                let own = (ring_no % peer.file.shape.rx_cells.len()) as u8;
                // What is for everybody goes to ring 0; the rest to the ring of the same number.
                // Where that is the same ring, the two are merged in order.
                let merged = own == 0;
                for (ring, floods, unicast) in
                    [(0, floods, unicast && merged), (own, false, unicast && !merged)]
                {
                    if !floods && !unicast {
                        continue;
                    }
                    let mut grant = self.grant_of(port, ring, floods, unicast);
                    match self.hold(switch, peer, &mut grant) {
                        Hold::Held => {}
                        Hold::Busy if lossless => {
                            stall = Some(Stall { port, ring });
                            stop = 0;
                            continue;
                        }
                        why => {
                            let lost = self.packets(&grant, stop).count() as u64;
                            let busy = why == Hold::Busy;
                            let reason = if busy { C::tx_drop_busy } else { C::tx_drop_no_port };
                            counters.add(reason, lost);
                            continue;
                        }
                    }
                    if lossless {
                        if let Some(first) = self.first_misfit(peer, &grant, stop) {
                            stop = first;
                            stall = Some(Stall { port, ring });
                        }
                        self.grants.push(grant);
                    } else if self.fill::<I>(peer, grant, stop, counters) {
                        full_port = Some(port);
                    }
                }
            }
        }
        for i in 0..self.grants.len() {
            let grant = self.grants[i];
            let peer = peers.get(grant.port).expect("it was there when the ring was held");
            if self.fill::<I>(peer, grant, stop, counters) {
                full_port = Some(grant.port);
            }
        }
        // SAFETY: `detect` found these instructions.
        unsafe { I::end() };
        (stop, full_port, stall)
    }

    fn grant_of(&self, port: u8, ring: u8, floods: bool, unicast: bool) -> Grant {
        Grant { port, ring, floods, unicast, tail: 0, space: 0 }
    }

    /// Packets of a grant before piece `stop`, in order.
    #[inline]
    fn packets(&self, grant: &Grant, stop: usize) -> Packets<'_> {
        if self.only.is_some() {
            // No lists: everything there is.
            return Packets { pieces: &[], next: 0, floods: &[], stop, dense: true };
        }
        let first = self.lists[usize::from(grant.port)].first;
        Packets {
            dense: false,
            pieces: &self.pieces,
            next: if grant.unicast { first } else { NONE },
            floods: if grant.floods { &self.floods } else { &[] },
            stop,
        }
    }

    /// Holds a destination ring and reads how much fits.
    #[inline]
    fn hold(&self, switch: &Switch, peer: &Peer, grant: &mut Grant) -> Hold {
        let ring_no = usize::from(grant.ring);
        let kring = peer.file.kring(ring_no);
        let mut waited: Option<(Instant, u32)> = None;
        let held = kring.hold(self.id, |owner| {
            let (since, asked) = waited.get_or_insert_with(|| (Instant::now(), 0));
            *asked += 1;
            if *asked % 32 == 1 && switch.is_dead(owner) {
                Verdict::Dead
            } else if owner == RETIRED || since.elapsed() > HOLD_PATIENCE {
                Verdict::GiveUp
            } else {
                Verdict::Wait
            }
        });
        if held == Held::No {
            return Hold::Busy;
        }
        let n = peer.file.shape.rx_slots;
        let freed = kring.freed();
        let mut tail = kring.producer_tail();
        if tail >= n {
            tail = freed; // damaged by a peer: begin anew where the consumer stands
        }
        if freed >= n || peer.rx_ring(ring_no).is_none() {
            kring.release_hold(self.id);
            return Hold::Damaged;
        }
        grant.tail = tail;
        grant.space = if freed > tail { freed - tail - 1 } else { n - 1 - (tail - freed) };
        Hold::Held
    }

    /// First piece of the first packet that does not fit, but would fit an empty ring.
    fn first_misfit(&self, peer: &Peer, grant: &Grant, stop: usize) -> Option<usize> {
        let most = peer.file.shape.rx_slots - 1;
        let mut space = grant.space;
        for packet in self.packets(grant, stop) {
            let frags = u32::from(self.pieces[usize::from(packet)].frags);
            if frags > most {
                continue; // never fits: dropped by `fill`
            }
            if frags > space {
                return Some(usize::from(packet));
            }
            space -= frags;
        }
        None
    }

    /// Copies what fits, publishes it, lets the ring go, and rings if the receiver sleeps. Returns
    /// whether something did not fit.
    #[inline]
    fn fill<I: Isa>(
        &self,
        peer: &Peer,
        grant: Grant,
        stop: usize,
        counters: &SharedCounters,
    ) -> bool {
        let ring_no = usize::from(grant.ring);
        let kring = peer.file.kring(ring_no);
        let rx = peer.file.rx_counters(ring_no);
        let Some(ring) = peer.rx_ring(ring_no) else {
            kring.release_hold(self.id);
            return false;
        };
        let Filled { tail, packets, bytes, bad, dropped } = if self.only.is_some() {
            fill_simple::<I>(ring, &self.pieces[..stop], grant)
        } else {
            self.fill_any::<I>(ring, self.packets(&grant, stop), grant)
        };
        if packets > 0 {
            kring.publish(tail);
            rx.add(C::rx_packets, packets);
            rx.add(C::rx_bytes, bytes);
            rx.add(C::rx_batches, 1);
        }
        if dropped + bad > 0 {
            rx.add(C::rx_drop_full, dropped);
            rx.add(C::rx_drop_bad, bad);
            counters.add(C::tx_drop_full, dropped);
        }
        kring.release_hold(self.id);
        if packets > 0 {
            if kring.take_kick() {
                if let Some(bell) = peer.bells.get(ring_no) {
                    bell.ring();
                }
                counters.add(C::doorbells_rung, 1);
            } else {
                counters.add(C::doorbells_suppressed, 1);
            }
        }
        dropped > 0
    }

    /// Copies packets of any kind to a ring that is held.
    fn fill_any<I: Isa>(&self, ring: RingRef<'_>, list: Packets<'_>, grant: Grant) -> Filled {
        let (mut tail, mut space) = (grant.tail, grant.space);
        let (mut packets, mut bytes, mut bad, mut dropped) = (0u64, 0u64, 0u64, 0u64);
        let most = ring.n() - 1;
        for packet in list {
            let first = usize::from(packet);
            let frags = u32::from(self.pieces[first].frags);
            if dropped != 0 || frags > space {
                // Order is kept: once one does not fit, none of the later ones goes.
                // (One that never fits makes way for the others.)
                dropped += u64::from(frags <= most);
                bad += u64::from(frags > most);
                continue;
            }
            space -= frags;
            let last = first + frags as usize - 1;
            for (i, piece) in self.pieces[first..=last].iter().enumerate() {
                let ahead = ring.load(ring.step(tail, AHEAD.min(most)));
                copy::prefetch_write(
                    ring.region.cell0().wrapping_add(ahead.buf_idx as usize * STRIDE),
                );
                let buf_idx = ring.load(tail).buf_idx;
                let mut len = piece.len;
                match ring.buffer(buf_idx) {
                    // SAFETY: `to` is a whole buffer; `piece` was checked by `gather`.
                    Some(to) => unsafe { copy_piece::<I>(to, piece) },
                    None => {
                        len = 0;
                        bad += 1;
                    }
                }
                let more = if first + i < last { SlotFlags::MOREFRAG.bits() } else { 0 };
                let flags = (frags as u16) << 8 | more;
                let value = SlotValue { buf_idx, len, flags };
                ring.slots[tail as usize].word.store(value.pack(), Ordering::Relaxed);
                tail = ring.step(tail, 1);
                bytes += u64::from(len);
            }
            packets += 1;
        }
        Filled { tail, packets, bytes, bad, dropped }
    }

    /// Counts the first `sent` pieces.
    fn count_sent(&self, sent: usize, counters: &SharedCounters) {
        let pieces = &self.pieces[..sent];
        let (packets, bytes, tally) = if self.simple && sent == self.pieces.len() {
            (sent as u64, self.bytes, self.tally)
        } else {
            let count = |fate| pieces.iter().filter(|p| p.fate == fate).count() as u64;
            let tally = Tally {
                flooded: count(Fate::Flooded),
                short: count(Fate::Short),
                nowhere: count(Fate::Nowhere),
                bad: count(Fate::Bad),
            };
            let packets = pieces.iter().filter(|p| p.frags != 0).count() as u64;
            (packets, pieces.iter().map(|p| u64::from(p.len)).sum(), tally)
        };
        counters.add(C::tx_packets, packets);
        counters.add(C::tx_bytes, bytes);
        counters.add(C::tx_batches, 1);
        let all_flooded = self.only == Some(Way::Flood);
        counters.add(C::flooded, if all_flooded { packets } else { tally.flooded });
        counters.add(C::tx_drop_short, tally.short);
        counters.add(C::tx_drop_no_port, tally.nowhere);
        counters.add(C::tx_drop_bad, tally.bad);
    }

    /// A full ring may be a dead one. If so, its port is removed, unless the root's lock is taken:
    /// then whoever has it does the same.
    #[cold]
    fn look_for_death(&mut self, switch: &Switch, port: u8, now_ms: u64) {
        if now_ms.wrapping_sub(self.last_death_check_ms) < DEATH_CHECK_MS {
            return;
        }
        self.last_death_check_ms = now_ms;
        // What cannot be cleared away now is not this sender's trouble: the next one tries again.
        let _ = attach::reap_if_dead(switch, port);
    }
}

/// Iterator over the packets of a grant: two ascending sequences merged.
#[derive(Debug)]
struct Packets<'a> {
    pieces: &'a [Piece],
    next: u16,
    floods: &'a [u16],
    stop: usize,
    /// Every piece is a packet, and all are meant: count.
    dense: bool,
}

impl Iterator for Packets<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        if self.dense {
            let packet = self.next;
            self.next += 1;
            return (usize::from(packet) < self.stop).then_some(packet);
        }
        let flood = self.floods.first().copied().unwrap_or(NONE);
        let packet = self.next.min(flood); // NONE is the largest number
        if usize::from(packet) >= self.stop {
            return None;
        }
        if packet == flood {
            self.floods = &self.floods[1..];
        } else {
            self.next = self.pieces[usize::from(packet)].next;
        }
        Some(packet)
    }
}

/// What `fill` did.
#[derive(Clone, Copy, Debug)]
struct Filled {
    tail: u32,
    packets: u64,
    bytes: u64,
    bad: u64,
    dropped: u64,
}

/// Copies a simple batch to a ring that is held: as `fill_any`, in a loop with nothing in it that
/// need not be there, because this is where 64-byte traffic spends its time.
#[inline]
fn fill_simple<I: Isa>(ring: RingRef<'_>, pieces: &[Piece], grant: Grant) -> Filled {
    let fit = pieces.len().min(grant.space as usize);
    let dropped = (pieces.len() - fit) as u64;
    let tail = grant.tail as usize;
    let cells = ring.region.cells();
    let cell0 = ring.region.cell0();
    let until_wrap = fit.min(ring.slots.len() - tail);
    let (before, after) = pieces[..fit].split_at(until_wrap);
    let (mut bytes, mut bad) = (0, 0);
    for (slots, pieces) in [(&ring.slots[tail..], before), (ring.slots, after)] {
        // The ring's last slots have no later ones to prefetch in this stretch; they repeat.
        let ahead = &slots[(AHEAD as usize).min(slots.len())..];
        let mut ahead = ahead.iter();
        for (slot, piece) in slots.iter().zip(pieces) {
            if let Some(later) = ahead.next() {
                let idx = later.word.load(Ordering::Relaxed) as u32 as usize;
                copy::prefetch_write(cell0.wrapping_add(idx * STRIDE));
            }
            let buf_idx = SlotValue::unpack(slot.word.load(Ordering::Relaxed)).buf_idx;
            let mut len = piece.len;
            if buf_idx >= RESERVED && buf_idx < cells {
                let to = cell0.wrapping_add(buf_idx as usize * STRIDE);
                // SAFETY: `to` is a whole buffer; `gather` checked the piece, and that it is one
                // of a buffer, of which whole lines may be read.
                unsafe { I::lines(to, piece.data, usize::from(len).div_ceil(64).max(1)) };
            } else {
                len = 0;
                bad += 1;
            }
            bytes += u64::from(len);
            let value = SlotValue { buf_idx, len, flags: 1 << 8 };
            slot.word.store(value.pack(), Ordering::Relaxed);
        }
    }
    let tail = ring.step(grant.tail, fit as u32);
    Filled { tail, packets: fit as u64, bytes, bad, dropped }
}

/// Finds ways for the packets of one batch.
struct Lookup<'a> {
    fdb: Fdb<'a>,
    clock: &'a Clock,
    me: u8,
    src: u64,
    dst: u64,
    way: Way,
}

impl<'a> Lookup<'a> {
    fn new(fdb: Fdb<'a>, clock: &'a Clock, me: u8) -> Self {
        Self { fdb, clock, me, src: 0, dst: 0, way: Way::Flood }
    }

    /// Learns the source of a packet and finds its way. A run of the same addresses costs one
    /// look.
    #[inline(always)]
    fn way(&mut self, piece: &Piece) -> Way {
        if piece.len < 14 {
            return Way::Short;
        }
        let (dst, src) = addresses(piece);
        if dst == self.dst && src == self.src { self.way } else { self.find(dst, src) }
    }

    #[inline(never)]
    fn find(&mut self, dst: u64, src: u64) -> Way {
        if src != self.src {
            // Multicast addresses are never sources.
            if src & 1 == 0 {
                self.fdb.learn(src, self.me, self.clock);
            }
            self.src = src;
        }
        // Looked up anew even if it is the same: it may be the very address just learnt.
        self.dst = dst;
        let port = if dst & 1 == 0 { self.fdb.lookup(dst, self.clock) } else { None };
        self.way = match port {
            None => Way::Flood,
            Some(port) if port == self.me || usize::from(port) >= MAX_PORTS => Way::Nowhere,
            Some(port) => Way::Port(port),
        };
        self.way
    }
}

/// Destination and source address of a packet of at least 14 bytes.
#[inline]
fn addresses(piece: &Piece) -> (u64, u64) {
    let (dst, src): (u64, u64);
    // SAFETY: at least 14 bytes are readable at `data` (checked by `gather` and the caller); 8
    // bytes at 0 and at 6 lie within. Assembly, because peers may write there meanwhile.
    unsafe {
        std::arch::asm!(
            "mov {d}, [{p}]",
            "mov {s}, [{p} + 6]",
            d = out(reg) dst,
            s = out(reg) src,
            p = in(reg) piece.data,
            options(nostack, readonly, preserves_flags),
        );
    }
    let mask = (1 << 48) - 1;
    (dst & mask, src & mask)
}

/// Copies one piece into a buffer.
///
/// # Safety
/// `to` is a buffer of STRIDE bytes; `piece` was checked; the CPU has `I`'s instructions.
#[inline(always)]
unsafe fn copy_piece<I: Isa>(to: *mut u8, piece: &Piece) {
    let len = usize::from(piece.len);
    if piece.indirect {
        // SAFETY: `len` bytes lie within an allowed window; at most STRIDE fit the buffer.
        unsafe { copy::bytes(to, piece.data, len) };
    } else if len > 0 {
        // SAFETY: both are buffers, STRIDE (a multiple of 64) bytes long, and len <= STRIDE.
        unsafe { I::lines(to, piece.data, len.div_ceil(64)) };
    }
}
