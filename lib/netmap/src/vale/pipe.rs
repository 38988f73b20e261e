//! A handle on the end of a pipe: its packets go to the other end, slot by slot, without a copy.
//!
//! Slot k of a TX ring here and slot k of the other end's RX ring of that number share a buffer. A txsync passes
//! on the slots' words and publishes them with one store; an rxsync over there passes buffers back that its
//! program has exchanged, and releases the slots, which are free here from then on. See
//! docs/design/pipes.md.
//!
//! Invariant: of the two slots that share a buffer, the reader's counts while it is published and not
//! released, and the sender's else; whatever process dies when, nothing is passed on twice and nothing is lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::poll::PollFlags;

use crate::abi::{RawSlot, SlotFlags, SlotValue};
use crate::adapter::Adapter;
use crate::error::Result;
use crate::layout::Layout;
use crate::name::{Capabilities, PortName};
use crate::options::{MemoryRef, PerDirection, Places};
use crate::ring::{RingRef, TxRingRef};
use crate::rings::extra_buffers;
use crate::shm::bell::Bell;
use crate::shm::file::FileId;
use crate::shm::mem::Cell;
use crate::stats::{C, Counters};
use crate::sync::core_atomic::Ordering;
use crate::vale::bound::{DeathChecks, Step, WITHIN};
use crate::vale::forward::{Forwarder, PassedOn};
use crate::vale::lifecycle::open::{Attached, Handle};
use crate::vale::lifecycle::switch::Switch;
use crate::vale::peers::Peers;
use crate::vale::state::ids::{ParticipantId, RingNumber};
use crate::vale::state::kring::Kring;
use crate::vale::state::portfiles::PortFiles;
use crate::wait::Interest;

/// What such a port can do.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::BACKPRESSURE)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::SEVERAL_HANDLES)
    .union(Capabilities::PASSABLE);

/// The flag `BUF_CHANGED` in a slot's word.
const CHANGED: u64 = (SlotFlags::BUF_CHANGED.bits() as u64) << 48;
/// The flag `MOREFRAG` in a slot's word.
const MORE: u64 = (SlotFlags::MOREFRAG.bits() as u64) << 48;

/// A bound handle.
#[derive(Debug)]
pub struct PipePort {
    /// Before `at`: a handle is closed by closing its bell.
    bell: Bell,
    at: Attached,
    /// The other end.
    peer: Arc<PortFiles>,
    /// TX rings that another handle was syncing when this one tried last: a bit each.
    skipped: u32,
    /// TX rings whose reader has been asked to ring when it releases slots: a bit each.
    asked: u32,
    /// What `arm` was called for.
    armed_for: Interest,
    /// How often the program's indices made no sense.
    reinits: u64,
    /// For so many batches slots are written without a look at what they say.
    unlike: u32,
    /// For who sees the ends, once somebody does.
    shows: Option<Box<Shows>>,
}

/// What copying packets to monitors takes.
#[derive(Debug)]
struct Shows {
    forwarder: Forwarder,
    monitors: Peers,
    death_checks: DeathChecks,
}

/// So many batches are written without a look after one whose first slot was another than a lap before.
const BLIND: u32 = 64;

impl PipePort {
    /// Of an attached end and the other one.
    pub fn new(Handle { bell, at }: Handle, peer: Arc<PortFiles>) -> Self {
        let (skipped, asked, armed_for, reinits) = (0, 0, Interest::empty(), 0);
        Self { bell, at, peer, skipped, asked, armed_for, reinits, unlike: 0, shows: None }
    }

    /// What TX ring `i` shares with the other end's RX ring.
    #[inline]
    fn kring(&self, i: RingNumber) -> &Kring {
        self.peer.file.kring(i)
    }

    /// Passes on what is queued on TX ring `i` and shows what the reader has released, unless another handle is
    /// doing that at this moment.
    #[inline]
    fn send_ring(&mut self, me: ParticipantId, i: RingNumber) {
        let ring = self.at.tx_ring(i);
        let kring = self.peer.file.kring(i);
        let state = self.at.port.file.tx_state(i);
        let n = ring.n();
        let tail = |freed: u32| ring.step(freed, n - 1);
        self.skipped &= !(i.bit());
        let (hwcur, freed) = (kring.published(), kring.freed());
        if hwcur < n && freed < n && ring.is_idle(hwcur, tail(freed)) {
            return; // nothing queued, nothing released
        }
        let switch = &self.at.switch;
        // Where a dead owner stopped is what it published: its own notes are not needed.
        if state.begin(me, |owner| switch.is_dead(owner)).is_none() {
            self.skipped |= i.bit();
            return;
        }
        let (mut hwcur, mut freed) = (kring.published(), kring.freed());
        if hwcur >= n {
            // A peer has scribbled over it: go on where the reader stands.
            hwcur = if freed < n { freed } else { 0 };
            kring.publish(hwcur);
        }
        if freed >= n {
            freed = hwcur; // the reader puts it right
        }
        let counters = self.at.port.file.tx_counters(i);
        let mut sleepers = None;
        if let Some(head) = ring.head_in_order(hwcur, tail(freed)) {
            let to = self.peer.rx_ring(i).expect(WITHIN);
            let passed = pass(ring, to, hwcur, head, self.unlike == 0);
            if passed.slots > 0 {
                self.unlike = match self.unlike {
                    0 if passed.alike == 0 => BLIND,
                    left => left.saturating_sub(1),
                };
                let from = hwcur;
                hwcur = ring.step(hwcur, passed.slots);
                if switch.modes().copies {
                    let packets = PassedOn {
                        me,
                        sender: self.at.port.file.shape.index,
                        receiver: self.peer.file.shape.index,
                        number: i,
                        ring: to,
                        from,
                        to: hwcur,
                        counters,
                    };
                    Shows::show(&mut self.shows, switch, &packets);
                }
                kring.publish(hwcur);
                let rx = self.peer.file.rx_counters(i);
                for (counters, packets, bytes, batches) in [
                    (counters, C::tx_packets, C::tx_bytes, C::tx_batches),
                    (rx, C::rx_packets, C::rx_bytes, C::rx_batches),
                ] {
                    counters.add(packets, passed.packets);
                    counters.add(bytes, passed.bytes);
                    counters.add(batches, 1);
                }
                sleepers = kring.take_sleepers();
                counters.add(C::doorbells_suppressed, sleepers.is_none().into());
            }
            if passed.bad > 0 {
                counters.add(C::tx_drop_bad, passed.bad);
            }
            // Pairs with the Acquire in `RingRef::range`.
            ring.raw.tail.store(tail(freed), Ordering::Release);
        } else {
            ring.reinit(hwcur, tail(freed));
            counters.add(C::reinits, 1);
            self.reinits += 1;
        }
        state.done(hwcur);
        if let Some(waiting) = state.end(me) {
            self.at.wake(waiting, None, counters, |handle| {
                let _ = state.wait_for_end(handle); // rung at the next end
            });
        }
        if let Some(sleepers) = sleepers {
            self.at.wake(sleepers, Some(self.peer.file.shape.index), counters, |handle| {
                kring.sleep_for_packets(handle); // the next publication's
            });
        }
    }

    /// Releases what was read on RX ring `i` and shows what came.
    #[inline]
    fn receive_ring(&mut self, me: ParticipantId, i: RingNumber) {
        if self.at.is_idle_rx(i) {
            return;
        }
        let to = self.peer.file.shape.rings.tx_ring(&self.peer.region, i).expect(WITHIN);
        let reinit = self.at.receive_ring(me, i, true, |step| {
            if let Step::GiveBack { ring, from, to: head, .. } = step {
                pass_back(ring, to, from, head);
            }
        });
        self.reinits += u64::from(reinit);
    }

    /// Begins a txsync, all of whose rings share what it may wait for monitors' rings.
    #[inline]
    fn begin(&mut self) {
        if let Some(shows) = &mut self.shows {
            shows.forwarder.begin();
        }
    }

    /// Whether the reader of TX ring `i` has slots, which it will release.
    fn is_out(&self, i: RingNumber) -> bool {
        self.kring(i).published() != self.kring(i).freed()
    }
}

impl Adapter for PipePort {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn rings(&self) -> PerDirection<usize> {
        self.at.bound.count()
    }

    fn all_rings(&self) -> PerDirection<usize> {
        let rings = &self.at.port.file.shape.rings;
        PerDirection { tx: rings.tx.len(), rx: rings.rx.len() }
    }

    fn slots(&self) -> PerDirection<u32> {
        self.at.port.file.shape.rings.slots()
    }

    #[inline]
    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        let i = self.at.tx_number(ring);
        let kring = self.kring(i);
        TxRingRef { ring: self.at.tx_ring(i), hwcur: kring.freed(), sent: kring.published() }
    }

    #[inline]
    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.at.rx_ring(self.at.rx_number(ring))
    }

    fn txsync_ring(&mut self, ring: usize) -> Result<()> {
        self.begin();
        self.send_ring(self.at.switch.me()?, self.at.tx_number(ring));
        Ok(())
    }

    fn txsync(&mut self) -> Result<()> {
        self.begin();
        let me = self.at.switch.me()?;
        for ring in 0..self.at.bound.tx.len() {
            self.send_ring(me, self.at.tx_number(ring));
        }
        Ok(())
    }

    fn rxsync_ring(&mut self, ring: usize) -> Result<()> {
        self.receive_ring(self.at.switch.me()?, self.at.rx_number(ring));
        Ok(())
    }

    fn peek(&self) -> bool {
        self.at.has_news()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn events(&self, _what: Interest) -> PollFlags {
        PollFlags::POLLIN // a bell rings for everything
    }

    fn arm(&mut self, what: Interest) {
        self.armed_for = what;
        self.at.arm_rx(what, true);
        if what.contains(Interest::TX) {
            for i in self.at.tx_rings() {
                // With all slots here, there is nothing that a reader could release.
                if self.is_out(i) {
                    self.kring(i).wait_for_space(self.at.index());
                    self.asked |= i.bit();
                }
            }
        }
    }

    fn is_armed(&self) -> bool {
        // The look after asking may have passed on what is to be waited for now.
        let asked = |i: RingNumber| self.asked & i.bit() != 0 || !self.is_out(i);
        self.at.is_told(self.skipped)
            && (!self.armed_for.contains(Interest::TX) || self.at.tx_rings().all(asked))
            && !(self.armed_for.contains(Interest::RX) && self.at.has_news())
    }

    fn has_unsent(&self) -> bool {
        self.skipped != 0
    }

    fn disarm(&mut self, slept: bool) {
        for i in self.at.tx_rings().filter(|&i| self.asked & i.bit() != 0) {
            self.kring(i).need_no_space(self.at.index());
        }
        self.asked = 0;
        self.at.disarm(&self.bell, slept);
    }

    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        let Self { bell, .. } = *self;
        Some(bell.into_fd()) // the rest is dropped and finds the handle alive
    }

    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>> {
        let handle = self.at.give_away_bound(places)?;
        Ok(Box::new(Self::new(handle, self.peer.clone())))
    }

    fn detach(&mut self) -> Result<Option<OwnedFd>> {
        self.at.detach(&mut self.bell).map(Some)
    }

    fn reinits(&self) -> u64 {
        self.reinits
    }

    fn held_up_by(&self) -> Option<String> {
        self.at.tx_rings().find(|&i| self.is_out(i))?;
        let listed = self.at.switch.listed(self.peer.file.shape.index)?;
        Some(format!("{}:{}", self.at.switch.name(), listed.name))
    }

    fn memory_id(&self) -> FileId {
        self.at.port.region.id()
    }

    fn memory(&self) -> Option<MemoryRef> {
        Some(MemoryRef(self.at.port.file.shape.region.clone()))
    }

    fn layout(&self) -> Option<Layout> {
        Some(self.at.layout())
    }

    fn open_memory(&self, _name: &PortName) -> Result<OwnedFd> {
        Ok(self.at.port.region.file()?.into())
    }

    fn extra_buffers(&self) -> Vec<Cell> {
        extra_buffers(&self.at.port.region, self.at.if_cell)
    }

    fn counters(&self) -> Counters {
        self.at.port.file.counters()
    }
}

impl Shows {
    /// Shows packets to the monitors of both ends.
    #[cold]
    fn show(this: &mut Option<Box<Self>>, switch: &Switch, packets: &PassedOn<'_>) {
        let Self { forwarder, monitors, death_checks } = &mut **this.get_or_insert_with(|| {
            let forwarder = Forwarder::new(packets.sender);
            Box::new(Self {
                forwarder,
                monitors: Peers::new(),
                death_checks: DeathChecks::default(),
            })
        });
        if let Some(full) = forwarder.show(switch, &mut monitors.of(switch), packets) {
            death_checks.look(switch, full);
        }
    }
}

/// What `pass` passed on.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    /// Slots of whole packets.
    slots: u32,
    /// Whole packets.
    packets: u64,
    /// Their bytes.
    bytes: u64,
    /// Slots that name no buffer or more than one holds: they arrive empty.
    bad: u64,
    /// Slots at the beginning that said the same a lap before.
    alike: u32,
}

/// Lets the slots of `to` from `start` on say what those of `from` say up to `end`. The slots behind the
/// last whole packet are not to be published: they are written again next time.
///
/// With `look`, slots that say so already are not written: packets of one size find them as the last lap left them, and
/// their lines stay in both caches. A look that is in vain costs as much as a write, so the first one ends it.
#[inline]
fn pass(from: RingRef<'_>, to: RingRef<'_>, start: u32, end: u32, look: bool) -> Passed {
    let mut passed = Passed::default();
    let mut at = Seen::default();
    if look {
        at = pass_slots::<true>(from, to, start, end, at, &mut passed);
        passed.alike = at.slots;
    }
    pass_slots::<false>(from, to, from.step(start, at.slots), end, at, &mut passed);
    passed
}

/// Slots that `pass_slots` has gone through, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    slots: u32,
    bytes: u64,
}

/// One half of `pass`: with `ALIKE`, the slots up to the first that is to be written.
#[inline(always)]
fn pass_slots<const ALIKE: bool>(
    from: RingRef<'_>,
    to: RingRef<'_>,
    start: u32,
    end: u32,
    Seen { mut slots, mut bytes }: Seen,
    passed: &mut Passed,
) -> Seen {
    let (buffers, most, mut bad_slots) = (from.buffers, from.buffer_bytes() as u64, 0);
    for (from, to) in stretches(from, start, end).zip(stretches(to, start, end)) {
        for (tx, rx) in from.iter().zip(to) {
            let mut word = tx.word.load(Ordering::Relaxed);
            let ptr = tx.ptr.load(Ordering::Relaxed);
            let changed = word & CHANGED != 0;
            word &= !CHANGED; // the number of the buffer is passed on in any case
            let bad = buffers.at(word as u32).is_none() || word >> 32 & 0xffff > most;
            if ALIKE {
                let there = (rx.word.load(Ordering::Relaxed), rx.ptr.load(Ordering::Relaxed));
                if changed || bad || there != (word, ptr) {
                    return Seen { slots, bytes };
                }
            } else {
                if changed {
                    tx.word.store(word, Ordering::Relaxed);
                }
                if bad {
                    // Nothing of buffer 0, which is always there and never anybody's.
                    word = SlotValue { buf_idx: 0, len: 0, ..SlotValue::unpack(word) }.pack();
                    bad_slots += 1;
                }
                rx.word.store(word, Ordering::Relaxed);
                rx.ptr.store(ptr, Ordering::Relaxed);
            }
            slots += 1;
            bytes += word >> 32 & 0xffff;
            if word & MORE == 0 {
                passed.packets += 1;
                (passed.slots, passed.bytes, passed.bad) = (slots, bytes, bad_slots);
            }
        }
    }
    Seen { slots, bytes }
}

/// Gives the buffers that the reader's program has put into slots about to be released to the sender's slots.
#[inline]
fn pass_back(from: RingRef<'_>, to: RingRef<'_>, start: u32, end: u32) {
    let buffers = from.buffers;
    for (from, to) in stretches(from, start, end).zip(stretches(to, start, end)) {
        for (rx, tx) in from.iter().zip(to) {
            let word = rx.word.load(Ordering::Relaxed);
            if word & CHANGED == 0 {
                continue;
            }
            // One that is none stays with the reader's slot; the sender's keeps its own. The flag goes along: the sender's
            // program may have prepared what its slot's buffer holds.
            if buffers.at(word as u32).is_some() {
                tx.word.store(word, Ordering::Relaxed);
            }
            // After that: who dies in between has it done again.
            rx.word.store(word & !CHANGED, Ordering::Release);
        }
    }
}

/// The slots of a ring from `start` up to `end`: to the ring's end, and from its beginning.
#[inline]
fn stretches(ring: RingRef<'_>, start: u32, end: u32) -> impl Iterator<Item = &[RawSlot]> {
    let (start, end) = (start as usize, end as usize);
    let (one, other) =
        if start <= end { (start..end, 0..0) } else { (start..ring.slots.len(), 0..end) };
    [&ring.slots[one], &ring.slots[other]].into_iter()
}
