//! Forwarding: what a sender's txsync does with the packets of one TX ring.
//!
//! ```text
//!  run     plain packets to one port, straight from ring to ring, as long as they last
//!  batch   whatever comes then, up to 1024 slots:
//!            gather   slots of the ring -> pieces (checked copies: address, length, fragments)
//!            route    pieces -> one list per destination, one list of packets for everybody
//!            deliver  per destination: hold its ring, put what fits, finish
//! ```
//!
//! Invariants. Nothing is copied that does not fit. A packet is published whole or not at all, in
//! the order of the sender's ring. In backpressure mode the rings of all destinations of a batch
//! are held together, so the batch stops before the first packet that does not fit everywhere, and
//! no packet is lost or sent twice. The data path allocates nothing; it locks, fences and calls the
//! kernel at most once per run or batch and destination.
//!
//! Everything read from shared memory is copied out and checked first; peers can cost packets, not
//! safety.

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags};
use crate::copy::{self, Isa};
use crate::mem::STRIDE;
use crate::ring::RingRef;
use crate::stats::{C, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::vale::deliver::{self, Buffers, Grant, NotHeld, Patience, Writer, rx_flags};
use crate::vale::fdb::{self, Clock};
use crate::vale::inner::{Fate, Piece, Source, Window, copy_pieces, copy_run, plain};
use crate::vale::lookup::{Lookup, Way};
use crate::vale::peer::Peers;
use crate::vale::switch::{HandleId, Switch, now_ms};
use crate::vale::{MAX_PORTS, MAX_RINGS, reap};

/// Slots taken from a ring at a time, as in netmap's VALE.
const BATCH: usize = 1024;
/// Pause between two looks at whether a full destination is dead.
const DEATH_CHECK_MS: u64 = 50;
const NONE: u16 = u16::MAX;

/// Packets for one destination, as a list through `Piece::next`.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u16,
    last: u16,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// A held ring and what goes there.
#[derive(Clone, Copy, Debug)]
struct Load {
    port: u8,
    /// Carries the packets for everybody.
    floods: bool,
    /// Carries the packets for this port alone.
    unicast: bool,
    grant: Grant,
}

/// Where a batch stopped in backpressure mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Port whose ring is full.
    pub port: u8,
    /// That ring.
    pub ring: u8,
}

/// How far a run or batch came.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Slots done with.
    slots: u32,
    /// A port that was full.
    full: Option<u8>,
    stall: Option<Stall>,
}

/// What one txsync works on.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    switch: &'a Switch,
    clock: &'a Clock,
    counters: &'a SharedCounters,
    ring: RingRef<'a>,
    ring_no: usize,
    head: u32,
    /// Backpressure.
    lossless: bool,
    /// Generations up to this one were given out before anything was looked up: a port of a later
    /// one cannot be the one that was meant.
    epoch: u64,
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
    loads: Vec<Load>,
    windows: Vec<Window>,
    last_death_check_ms: u64,
    /// What is left of it in this txsync.
    patience: Patience,
    /// Where the last batch of each TX ring stopped.
    pub stalls: [Option<Stall>; MAX_RINGS as usize],
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
            loads: Vec::with_capacity(2 * MAX_PORTS),
            windows: Vec::new(),
            last_death_check_ms: 0,
            patience: Patience::default(),
            stalls: [None; MAX_RINGS as usize],
        }
    }

    /// Lets slots point into `[start, start + len)`.
    pub fn allow(&mut self, start: usize, len: usize) {
        self.windows.push(Window { start, end: start.saturating_add(len) });
    }

    /// Sends the slots from `*hwcur` up to `head` of a TX ring, given with its number. On return
    /// `*hwcur` is the first slot not sent: `head`, unless backpressure stopped the batch.
    pub fn txsync(
        &mut self,
        switch: &Switch,
        peers: &mut Peers,
        ring: (RingRef<'_>, usize),
        counters: &SharedCounters,
        hwcur: &mut u32,
        head: u32,
    ) {
        match self.isa {
            copy::Kind::Avx512 => {
                self.sync::<copy::Avx512>(switch, peers, ring, counters, hwcur, head);
            }
            copy::Kind::Avx => self.sync::<copy::Avx>(switch, peers, ring, counters, hwcur, head),
            copy::Kind::Sse2 => self.sync::<copy::Sse2>(switch, peers, ring, counters, hwcur, head),
        }
    }

    /// Begins a txsync of a port, all of whose rings share what it may wait for others.
    pub fn begin(&mut self) {
        self.patience = Patience::default();
    }

    fn sync<I: Isa>(
        &mut self,
        switch: &Switch,
        peers: &mut Peers,
        (ring, ring_no): (RingRef<'_>, usize),
        counters: &SharedCounters,
        hwcur: &mut u32,
        head: u32,
    ) {
        let (now, ageing) = (now_ms(), switch.ageing_ms());
        let clock = Clock::new(now, ageing);
        if let Some(all) = fdb::due_for_sweep(switch.last_sweep_ms(), now, ageing) {
            switch.fdb().sweep(&clock, all);
        }
        let lossless = switch.backpressure();
        let epoch = switch.epoch();
        let job = Job { switch, clock: &clock, counters, ring, ring_no, head, lossless, epoch };
        let mut stall = None;
        // In turns, so that traffic which changes its destination often is still sent in batches.
        let mut runs = true;
        while *hwcur != head && stall.is_none() {
            let done = if !runs {
                self.batch::<I>(&job, peers, *hwcur)
            } else if let Some(window) = self.one_window(ring, *hwcur) {
                self.run::<I, Window>(&job, peers, *hwcur, window)
            } else {
                self.run::<I, Buffers>(&job, peers, *hwcur, Buffers::of(ring.region))
            };
            runs = !runs;
            *hwcur = ring.step(*hwcur, done.slots);
            stall = done.stall;
            if let Some(port) = done.full.or(stall.map(|s| s.port)) {
                self.look_for_death(switch, port, now);
            }
        }
        self.stalls[ring_no] = stall;
        // SAFETY: `detect` found these instructions.
        unsafe { I::end() };
    }

    /// The window to take a run from: that slot points to memory, and there is but one that it may.
    fn one_window(&self, ring: RingRef<'_>, at: u32) -> Option<Window> {
        let flags = SlotFlags::from_bits_retain(ring.load(at).flags);
        let [window] = self.windows[..] else { return None };
        flags.contains(SlotFlags::INDIRECT).then_some(window)
    }

    /// Plain packets (one slot each; data in their buffers, or all in the one window) to one port go
    /// straight to its ring. Looking at the next packet fills the time in which the stores of the
    /// last ones wait for their cache lines; as separate loops the two cost their sum.
    #[inline(never)]
    fn run<I: Isa, S: Source>(
        &mut self,
        job: &Job<'_>,
        peers: &mut Peers,
        from: u32,
        source: S,
    ) -> Done {
        let ring = job.ring;
        let mut done = Done::default();
        let mut look = Lookup::new(job.switch.fdb(), job.clock, self.me);
        let Some((data, len)) = plain(ring, source, from) else { return done };
        // SAFETY: `plain` checked the slot.
        let way = unsafe { look.way(data, len) };
        let port = match way {
            Way::Port(port) => port,
            // With two ports, everybody is the other one.
            Way::Flood => match only_other(job.switch.active(), self.me) {
                Some(port) => port,
                None => return done,
            },
            Way::Nowhere | Way::Short | Way::Pause => return done,
        };
        let floods = way == Way::Flood;
        let Some(generation) = peers.update(job.switch, port) else { return done };
        if generation > job.epoch {
            return done;
        }
        let peer = peers.get(port).expect("update found it");
        let to = if floods { 0 } else { job.ring_no % peer.file.shape.rx_cells.len() } as u8;
        let Ok(grant) = deliver::hold(job.switch, peer, to, self.id, &mut self.patience) else {
            return done;
        };
        let mut out = Writer::new(peer, grant, self.id);
        let (mut at, mut bytes) = (from, 0);
        while at != job.head {
            let (to_slots, to_buffers) = out.stretch();
            let end = if at < job.head { job.head } else { ring.n() };
            let from_slots = &ring.slots[at as usize..end as usize];
            let (n, sum) =
                copy_run::<I, S>((from_slots, source), (to_slots, to_buffers), (&mut look, way));
            out.filled(n, sum);
            bytes += sum;
            at = ring.step(at, n as u32);
            if n == from_slots.len() || (n == to_slots.len() && out.space > 0) {
                continue; // round the end of a ring
            }
            // Here the loop stopped: at another kind of packet, a full ring, or a damaged slot.
            let Some((data, len)) = plain(ring, source, at) else { break };
            // SAFETY: `plain` checked the slot.
            if unsafe { look.way(data, len) } != way {
                break;
            }
            if out.space > 0 {
                // SAFETY: the slot was checked; data in a buffer are whole lines.
                unsafe { out.put::<I>(data, len, S::EXACT, rx_flags(1, false)) };
                out.packet();
            } else if job.lossless {
                done.stall = Some(Stall { port, ring: to });
                break;
            } else {
                out.dropped += 1;
                done.full = Some(port);
            }
            bytes += u64::from(len);
            at = ring.step(at, 1);
        }
        out.finish(job.counters);
        done.slots = ring.distance(from, at);
        if done.slots > 0 {
            job.counters.add(C::tx_packets, done.slots.into());
            job.counters.add(C::flooded, if floods { done.slots.into() } else { 0 });
            job.counters.add(C::tx_bytes, bytes);
            job.counters.add(C::tx_batches, 1);
        }
        done
    }

    /// Whatever comes: fragments, indirect data, several destinations, floods, damage.
    #[inline(never)]
    fn batch<I: Isa>(&mut self, job: &Job<'_>, peers: &mut Peers, from: u32) -> Done {
        self.gather(job, from);
        self.route(job);
        let done = self.deliver::<I>(job, peers);
        self.count(done.slots as usize, job.counters);
        done
    }

    /// Copies slots out and checks them: afterwards `pieces` are safe to copy from.
    fn gather(&mut self, job: &Job<'_>, from: u32) {
        let ring = job.ring;
        self.pieces.clear();
        let mut at = from;
        let mut first = 0; // first piece of the packet being gathered
        let mut bad = false;
        while at != job.head {
            let slot = ring.load(at);
            let flags = SlotFlags::from_bits_retain(slot.flags);
            let indirect = flags.contains(SlotFlags::INDIRECT);
            let data = if indirect {
                self.window(ring.slots[at as usize].ptr.load(Ordering::Relaxed), slot.len)
            } else {
                ring.buffer(slot.buf_idx).map(<*mut u8>::cast_const)
            };
            at = ring.step(at, 1);
            if let Some(data) = data {
                copy::prefetch_read(data); // its addresses are looked at soon
            }
            bad |= data.is_none() || usize::from(slot.len) > STRIDE;
            let data = data.unwrap_or(std::ptr::null());
            let fate = Fate::Rest;
            // The capacity is there (`new`), so this never allocates.
            self.pieces.push(Piece { data, len: slot.len, frags: 0, indirect, fate, next: NONE });
            // A chain that the ring does not end is cut off at `head`, as in netmap.
            if flags.contains(SlotFlags::MOREFRAG) && at != job.head {
                if self.pieces.len() - first < NETMAP_MAX_FRAGS {
                    continue;
                }
                bad = true; // no end in sight: what follows begins a packet of its own
            }
            if bad {
                self.pieces[first].fate = Fate::Bad;
                self.pieces[first..].iter_mut().for_each(|piece| piece.len = 0);
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
        self.windows.iter().find_map(|window| window.at(address, len))
    }

    /// Learns sources and sorts packets by destination.
    fn route(&mut self, job: &Job<'_>) {
        for &port in &self.touched {
            self.lists[usize::from(port)] = EMPTY;
        }
        self.touched.clear();
        self.floods.clear();
        let mut look = Lookup::new(job.switch.fdb(), job.clock, self.me);
        let mut i = 0;
        while i < self.pieces.len() {
            let piece = &mut self.pieces[i];
            if piece.frags == 0 {
                i += 1;
                continue;
            }
            let packet = i as u16;
            i += usize::from(piece.frags);
            // SAFETY: `gather` checked the piece.
            piece.fate = match unsafe { look.way(piece.data, piece.len) } {
                Way::Flood => {
                    self.floods.push(packet);
                    Fate::Flooded
                }
                Way::Short => Fate::Short,
                Way::Nowhere => Fate::Nowhere,
                Way::Pause => Fate::Pause,
                Way::Port(port) => {
                    piece.fate = Fate::Unicast;
                    let list = &mut self.lists[usize::from(port)];
                    let last = std::mem::replace(&mut list.last, packet);
                    if last == NONE {
                        list.first = packet;
                        self.touched.push(port);
                    } else {
                        self.pieces[usize::from(last)].next = packet;
                    }
                    continue;
                }
            };
        }
    }

    /// Delivers the batch.
    fn deliver<I: Isa>(&mut self, job: &Job<'_>, peers: &mut Peers) -> Done {
        let mut done = Done::default();
        let mut stop = self.pieces.len();
        self.loads.clear();
        for port in self.destinations(job.switch) {
            let unicast = self.lists[usize::from(port)].first != NONE;
            let found = peers.update(job.switch, port).filter(|&g| !unicast || g <= job.epoch);
            if found.is_none() {
                let lost = self.packets(port, false, unicast, stop).count();
                job.counters.add(C::tx_drop_no_port, lost as u64);
                continue;
            }
            let peer = peers.get(port).expect("update found it");
            let own = (job.ring_no % peer.file.shape.rx_cells.len()) as u8;
            // What is for everybody goes to ring 0; the rest to the ring of the same number. Where
            // that is the same ring, the two are merged in order.
            let merged = own == 0;
            let floods = !self.floods.is_empty();
            let ways = [(0, floods, unicast && merged), (own, false, unicast && !merged)];
            for (ring, floods, unicast) in ways.into_iter().filter(|w| w.1 || w.2) {
                match deliver::hold(job.switch, peer, ring, self.id, &mut self.patience) {
                    Ok(grant) => {
                        let load = Load { port, floods, unicast, grant };
                        if !job.lossless {
                            if self.put::<I>(Writer::new(peer, grant, self.id), load, stop, job) {
                                done.full = Some(port);
                            }
                            continue;
                        }
                        if let Some(first) =
                            self.first_misfit(load, peer.file.shape.rx_slots - 1, stop)
                        {
                            stop = first;
                            done.stall = Some(Stall { port, ring });
                        }
                        self.loads.push(load);
                    }
                    Err(NotHeld::Busy) if job.lossless => {
                        stop = 0;
                        done.stall = Some(Stall { port, ring });
                    }
                    Err(why) => {
                        let busy = why == NotHeld::Busy;
                        let reason = if busy { C::tx_drop_busy } else { C::tx_drop_no_port };
                        let lost = self.packets(port, floods, unicast, stop).count();
                        job.counters.add(reason, lost as u64);
                    }
                }
            }
        }
        for i in 0..self.loads.len() {
            let load = self.loads[i];
            let peer = peers.get(load.port).expect("it was there when its ring was held");
            self.put::<I>(Writer::new(peer, load.grant, self.id), load, stop, job);
        }
        done.slots = stop as u32;
        done
    }

    /// Ports that get something of this batch, ascending, so that two senders that hold several
    /// rings never wait for each other.
    fn destinations(&self, switch: &Switch) -> impl Iterator<Item = u8> + use<> {
        let mut ports = if self.floods.is_empty() { [0; 4] } else { switch.active() };
        for &port in &self.touched {
            ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
        ports[usize::from(self.me / 64)] &= !(1 << (self.me % 64));
        ports[3] &= (1 << (MAX_PORTS % 64)) - 1;
        let mut word = 0;
        std::iter::from_fn(move || {
            while word < 4 {
                let bits: u64 = ports[word];
                if bits != 0 {
                    ports[word] = bits & (bits - 1);
                    return Some((word * 64) as u8 + bits.trailing_zeros() as u8);
                }
                word += 1;
            }
            None
        })
    }

    /// Packets for a port before piece `stop`, in order.
    #[inline]
    fn packets(&self, port: u8, floods: bool, unicast: bool, stop: usize) -> Packets<'_> {
        let first = self.lists[usize::from(port)].first;
        Packets {
            pieces: &self.pieces,
            next: if unicast { first } else { NONE },
            floods: if floods { &self.floods } else { &[] },
            stop,
        }
    }

    /// First piece of the first packet that does not fit, but would fit an empty ring.
    fn first_misfit(&self, load: Load, most: u32, stop: usize) -> Option<usize> {
        let mut space = load.grant.space;
        for packet in self.packets(load.port, load.floods, load.unicast, stop) {
            let frags = u32::from(self.pieces[usize::from(packet)].frags);
            if frags > most {
                continue; // never fits: dropped by `put`
            }
            if frags > space {
                return Some(packet.into());
            }
            space -= frags;
        }
        None
    }

    /// Puts the packets of a load before piece `stop` that fit. Returns whether some did not.
    fn put<I: Isa>(&self, mut out: Writer<'_>, load: Load, stop: usize, job: &Job<'_>) -> bool {
        let most = out.num_slots() - 1;
        let mut packets = self.packets(load.port, load.floods, load.unicast, stop);
        if !load.unicast {
            // A flood is often plain packets only, and always many copies: worth a tight loop.
            let sent = self.floods.partition_point(|&packet| usize::from(packet) < stop);
            packets.floods = self.flood_plain::<I>(&mut out, &self.floods[..sent]);
        }
        for packet in packets {
            let first = usize::from(packet);
            let piece = &self.pieces[first];
            let frags = piece.frags;
            if out.dropped != 0 || u32::from(frags) > out.space {
                // Order is kept: once one does not fit, none of the later ones goes. Only one that
                // no ring of this size could ever hold makes way for the others.
                if u32::from(frags) <= most {
                    out.dropped += 1;
                } else {
                    job.counters.add(C::tx_drop_bad, 1);
                }
                continue;
            }
            for (i, piece) in self.pieces[first..first + usize::from(frags)].iter().enumerate() {
                let more = i + 1 < usize::from(frags);
                // SAFETY: `gather` checked the piece; what is not indirect is in a buffer.
                unsafe {
                    out.put::<I>(piece.data, piece.len, piece.indirect, rx_flags(frags, more));
                }
            }
            out.packet();
        }
        let full = out.dropped > 0;
        out.finish(job.counters);
        full
    }

    /// Puts plain packets as long as they last and fit; returns the others.
    fn flood_plain<'a, I: Isa>(&self, out: &mut Writer<'_>, mut packets: &'a [u16]) -> &'a [u16] {
        while !packets.is_empty() && out.space > 0 {
            let (slots, buffers) = out.stretch();
            let (n, bytes) = copy_pieces::<I>(&self.pieces, packets, slots, buffers);
            out.filled(n, bytes);
            packets = &packets[n..];
            if n < slots.len() {
                break;
            }
        }
        packets
    }

    /// Counts the first `sent` pieces.
    fn count(&self, sent: usize, counters: &SharedCounters) {
        let (mut packets, mut bytes) = (0, 0);
        let (mut flooded, mut short, mut nowhere, mut bad, mut pause) = (0, 0, 0, 0, 0);
        for piece in &self.pieces[..sent] {
            packets += u64::from(piece.frags != 0);
            bytes += u64::from(piece.len);
            match piece.fate {
                Fate::Rest | Fate::Unicast => {}
                Fate::Flooded => flooded += 1,
                Fate::Short => short += 1,
                Fate::Nowhere => nowhere += 1,
                Fate::Bad => bad += 1,
                Fate::Pause => pause += 1,
            }
        }
        if sent > 0 {
            counters.add(C::tx_packets, packets);
            counters.add(C::tx_bytes, bytes);
            counters.add(C::tx_batches, 1);
            counters.add(C::flooded, flooded);
            counters.add(C::tx_drop_short, short);
            counters.add(C::tx_drop_no_port, nowhere);
            counters.add(C::tx_drop_bad, bad);
            counters.add(C::tx_drop_pause, pause);
        }
    }

    /// A full ring may be a dead one. If so, its port is taken off the list, unless the root's lock is
    /// taken: then whoever has it does the same.
    #[cold]
    fn look_for_death(&mut self, switch: &Switch, port: u8, now_ms: u64) {
        if now_ms.wrapping_sub(self.last_death_check_ms) < DEATH_CHECK_MS {
            return;
        }
        self.last_death_check_ms = now_ms;
        // What cannot be cleared away now is not this sender's trouble: the next one tries again.
        let _ = reap::unlist_if_dead(switch, port);
    }
}

/// The one port beside `me` that is active, if there is just one.
fn only_other(mut active: [u64; 4], me: u8) -> Option<u8> {
    active[usize::from(me / 64)] &= !(1 << (me % 64));
    let ports: u32 = active.iter().map(|bits| bits.count_ones()).sum();
    let word = active.iter().position(|&bits| bits != 0)?;
    (ports == 1).then(|| (word * 64) as u8 + active[word].trailing_zeros() as u8)
}

/// Iterator over the packets for a port: two ascending sequences merged.
#[derive(Debug)]
struct Packets<'a> {
    pieces: &'a [Piece],
    next: u16,
    floods: &'a [u16],
    stop: usize,
}

impl Iterator for Packets<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
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
