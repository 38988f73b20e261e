//! Reception: from the port's slots to the guest's buffers (8254x manual, sections 3.2 and 3.2.3).
//!
//! ```text
//!        next (RDH)                          tail (RDT)
//!   ------|-----------------------------------|------
//!    DD: the guest's    free: the device's        the guest's
//! ```
//! Who writes what: `next` by `fill`; the tail by the guest.
//!
//! Invariants: a descriptor is written back after its data, in one store that carries length, status
//! and DD. A packet is delivered whole or not at all, in order. Without free descriptors packets stay
//! in the port's ring: when that is full, too, the surplus is dropped by its sender before any copy,
//! so that overload costs the receiver nothing.

use e1000pv::bits::{Icr, Rctl};
use e1000pv::csb::{self, Wild};
use e1000pv::desc::{RxDesc, RxStatus};
use e1000pv::regs;

use crate::SLICE;
use crate::core::Core;
use crate::counters::Count;
use crate::csb::CsbPage;
use crate::deferred::Ready;
use crate::memory::GuestMemory;
use crate::port::{NetPort, RxSlots};
use crate::queue::{self, Queue};
use crate::ring::{Ring, View};
use crate::rx_modes::{Modes, Work};
use crate::rx_packet::{Descriptors, Outcome, Packet};
use crate::sizes::{CRC_BYTES, MAX_FRAME, MIN_FRAME};
use crate::state::{self, BadState};
use crate::stats::Tally;
use shared_bytes::Mover;

/// How many packets ahead their bytes and buffers are fetched.
const AHEAD: u32 = 8;
/// The six bytes of an address, in the first word of a frame.
const ADDRESS: u64 = (1 << 48) - 1;

/// The receive engine.
#[derive(Debug)]
pub struct Rx {
    queue: Queue,
    /// Descriptors that the packet at hand needs, if it waits for them; 0 if none waits.
    waits_for: u32,
    /// Packets lost in front of the port so far.
    missed: u64,
    causes: Icr,
    packet: Packet,
}

impl Default for Rx {
    fn default() -> Self {
        Self {
            queue: Queue::new(&queue::RX),
            waits_for: 0,
            missed: 0,
            causes: Icr::empty(),
            packet: Packet::default(),
        }
    }
}

impl Rx {
    /// Begins anew at RDH, with the ring that the registers describe. What has come before, nobody was
    /// there to receive.
    pub fn restart<M: GuestMemory, P: NetPort>(&mut self, core: &Core<M>, port: &mut P) {
        port.rx_discard();
        self.missed = port.rx_missed();
        self.queue.restart(core);
        self.waits_for = 0;
        self.causes = Icr::empty();
    }

    /// Another port takes the place of the one before; it has missed so many.
    pub fn change_port(&mut self, missed: u64) {
        (self.waits_for, self.missed) = (0, missed);
    }

    /// How far it is; `restart` finds the rest in registers.
    pub fn save(&self) -> state::Rx {
        let (waits_for, causes) = (self.waits_for, self.causes.bits());
        state::Rx { queue: self.queue.save(), waits_for, causes }
    }

    /// Goes on where `save` was, with the same registers. What has come since waits in the port.
    pub fn restore<M: GuestMemory, P: NetPort>(
        &mut self,
        core: &Core<M>,
        port: &P,
        from: &state::Rx,
    ) -> Result<(), BadState> {
        self.missed = port.rx_missed();
        self.queue.restart(core);
        self.queue.restore(&from.queue)?;
        if from.waits_for > self.queue.n() {
            return Err(BadState("a packet that waits for more descriptors than there are"));
        }
        (self.waits_for, self.causes) = (from.waits_for, Icr::from_bits_retain(from.causes));
        Ok(())
    }

    /// The ring, and how far this engine is.
    #[inline]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Looks at the guest's tail.
    pub fn look<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        csb: Option<&CsbPage<M>>,
    ) -> Result<u32, Wild> {
        self.queue.look(core, csb, true)
    }

    /// Whether there is a ring, and the receiver is enabled.
    pub fn is_enabled<M: GuestMemory>(&mut self, core: &Core<M>) -> bool {
        let rctl = Rctl::from_bits_retain(core.registers.load(regs::RCTL));
        rctl.contains(Rctl::EN) && self.queue.is_there(core)
    }

    /// Whether a packet waits for buffers.
    pub fn has_waiting(&self) -> bool {
        self.waits_for > 0
    }

    /// Causes since the last call.
    pub fn take_causes(&mut self) -> Icr {
        std::mem::replace(&mut self.causes, Icr::empty())
    }

    /// Descriptors that the guest has not given back: received ones.
    pub fn ready(&self) -> Ready {
        let Some(ring) = self.queue.ring() else { return Ready::default() };
        let free = ring.distance(self.queue.next(), self.queue.tail());
        Ready { descriptors: ring.n() - 1 - free, of: ring.n() }
    }

    /// Before a sleep: whether there are buffers for the next packet. If not, a guest with a CSB is
    /// asked for a kick.
    pub fn wait<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        csb: Option<&CsbPage<M>>,
    ) -> Result<bool, Wild> {
        let Some(ring) = self.queue.ring() else { return Ok(false) };
        let (next, need) = (self.queue.next(), self.waits_for.max(1));
        match csb {
            Some(page) => Ok(csb::host_rx_wait(page, next, need, ring.n())?.is_some()),
            None => Ok(ring.distance(next, self.look(core, None)?) >= need),
        }
    }

    /// Delivers at most a slice of packets to descriptors before the tail; returns how many were processed,
    /// and whether there are more that could be delivered now.
    pub fn fill<M: GuestMemory, P: NetPort>(
        &mut self,
        core: &Core<M>,
        port: &mut P,
        csb: Option<&CsbPage<M>>,
    ) -> (u32, bool) {
        let Some(ring) = self.queue.ring() else { return (0, false) };
        port.rx_sync();
        let (first, tail) = (self.queue.next(), self.queue.tail());
        let (free, waited) = (ring.distance(first, tail), self.waits_for > 0);
        let mut work = Work::default();
        let modes = Modes::of(core);
        let slots = port.rx();
        let available = slots.available();
        if available > 0 {
            self.waits_for = 0;
            self.packets(core, &modes, &slots, ring, free, &mut work);
            slots.release(work.slots);
        }
        let next = self.queue.next();
        // Another packet than the one that waited before, if that one was delivered.
        if self.waits_for > 0 && (!waited || next != first) {
            core.stats.add(regs::RNBC, 1);
            core.counters.bump(Count::RxNoBuffer, 1);
            if csb.is_none() {
                self.causes |= Icr::RXO;
            }
        }
        if next != first {
            core.registers.store(regs::RDH, next);
            if let Some(page) = csb {
                csb::host_rx_done(page, next);
            }
            self.causes |= Icr::RXT0;
            // As long as there are so few, not only when they become so few: a guest that begins with less is told, too.
            let minimum = ring.n() >> modes.rctl.minimum_threshold_shift();
            if ring.distance(next, tail) <= minimum {
                self.causes |= Icr::RXDMT0;
            }
        }
        if work.packets > 0 {
            core.stats.received(&work.tally);
            core.counters.bump(Count::RxPackets, work.tally.packets);
            core.counters.bump(Count::RxBytes, work.tally.octets);
            core.counters.bump(Count::RxFiltered, work.filtered);
            core.counters.bump(Count::RxBad, work.bad);
        }
        (work.packets, self.waits_for == 0 && work.slots < available)
    }

    fn packets<M: GuestMemory, R: RxSlots>(
        &mut self,
        core: &Core<M>,
        modes: &Modes,
        slots: &R,
        ring: Ring,
        mut free: u32,
        work: &mut Work,
    ) {
        let view = ring.view(&core.ram);
        let available = slots.available();
        let plain = !modes.looks_inside();
        // Where frames go that the filters are known to let pass; no frame goes there.
        let mut accepted = u64::MAX;
        while work.slots < available && work.packets < SLICE as u32 {
            if free == 0 {
                self.waits_for = 1;
                return;
            }
            if plain {
                let most = (SLICE as u32 - work.packets).min(free);
                let ram = &core.ram;
                let run = Run { view, ring, ram, modes, accepted, first: self.queue.next() };
                let n = run.copy(slots, work.slots, most, &mut work.tally);
                work.slots += n as usize;
                work.packets += n;
                free -= n;
                self.queue.set_next(ring.step(self.queue.next(), n));
                if free == 0 || work.slots == available || work.packets == SLICE as u32 {
                    continue;
                }
            }
            match self.packet.deliver(
                core,
                modes,
                slots,
                (ring, view),
                Descriptors { next: self.queue.next(), count: free },
                work,
            ) {
                Outcome::Delivered { descriptors, passed } => {
                    if let Some(first) = passed {
                        accepted = first & ADDRESS;
                    }
                    self.queue.set_next(ring.step(self.queue.next(), descriptors));
                    free -= descriptors;
                }
                Outcome::Dropped => {}
                Outcome::Waits { descriptors } => {
                    self.waits_for = descriptors;
                    return;
                }
            }
        }
    }

    /// Tells the guest of packets that were lost in front of the port: MPC, and RXO, as for the first packet that finds
    /// no buffer; unless the guest has a CSB: it would be interrupted for something that it can't help, when it has least time.
    pub fn count_missed<M: GuestMemory, P: NetPort>(
        &mut self,
        core: &Core<M>,
        port: &P,
        csb: Option<&CsbPage<M>>,
    ) {
        let missed = port.rx_missed();
        if missed != self.missed {
            core.stats.add(regs::MPC, missed.wrapping_sub(self.missed));
            self.missed = missed;
            if csb.is_none() {
                self.causes |= Icr::RXO;
            }
        }
    }
}

/// Frames in one slot, to one destination that the filters let pass, that fit one buffer each.
#[derive(Debug)]
struct Run<'a, M> {
    view: View<'a>,
    ring: Ring,
    ram: &'a M,
    modes: &'a Modes,
    /// The destination.
    accepted: u64,
    /// The first descriptor.
    first: u32,
}

impl<M: GuestMemory> Run<'_, M> {
    /// Copies at most `most` frames from slot `from` on; returns how many it were. A function of its
    /// own, and not inlined, so that what it changes per packet is in registers.
    #[inline(never)]
    fn copy<R: RxSlots>(self, slots: &R, from: usize, most: u32, tally: &mut Tally) -> u32 {
        let Self { view, ring, ram, modes, accepted, first } = self;
        let most = most.min((slots.available() - from) as u32);
        let crc_bytes = modes.crc_bytes;
        let longest = MAX_FRAME.min(modes.buffer_bytes - crc_bytes);
        let mover = Mover::detect();
        let ahead = AHEAD.min(ring.n() - 1);
        let mut tally = tally.run();
        let mut next = first;
        let mut n = 0;
        while n < most {
            slots.prefetch(from + (n + AHEAD) as usize);
            ram.prefetch_write(view.address(ring.step(next, ahead)));
            let (frame, more) = slots.frame(from + n as usize);
            let len = frame.len();
            if more || !(MIN_FRAME..=longest).contains(&len) {
                break;
            }
            let head = frame.u64_at(0);
            let address = view.address(next);
            if head & ADDRESS != accepted || address == 0 {
                break;
            }
            // Whole lines, if the buffer has them: one store a line.
            let lines = (len + crc_bytes).next_multiple_of(64);
            if lines <= modes.buffer_bytes
                && let Some(to) = ram.span(address, lines)
            {
                to.write_packet(frame, mover);
            } else if let Some(to) = ram.span(address, len + crc_bytes) {
                to.write_span(frame);
            } else {
                break;
            }
            if crc_bytes != 0
                && let Some(crc) = ram.span(address + len as u64, crc_bytes)
            {
                crc.write(0, &[0; CRC_BYTES]);
            }
            view.complete(next, PLAIN | (len + crc_bytes) as u64);
            tally.count(len as u32, head);
            n += 1;
            next = ring.step(next, 1);
        }
        n
    }
}

/// Status of a packet in one buffer, nothing of which was looked at.
const PLAIN: u64 = RxDesc {
    buffer_addr: 0,
    length: 0,
    checksum: 0,
    status: RxStatus::DD.union(RxStatus::EOP).union(RxStatus::IXSM),
    errors: e1000pv::desc::RxErrors::empty(),
    special: 0,
}
.write_back();
