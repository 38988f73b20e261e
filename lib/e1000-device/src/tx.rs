//! Transmission: from the guest's descriptors to slots of the port, and back (8254x manual, section
//! 3.4).
//!
//! ```text
//!        done             (queued in the port)        next              tail
//!   ------|--------------------------------------------|-----------------|------
//!    DD, TDH: consumed        read, not consumed            not read yet
//! ```
//! Who writes what: `next` by `fill`; `done` by the consumption callback, the second half of `sync`.
//! A read of TDH shows `done`.
//!
//! Invariants: a descriptor is reported done only when the port has taken its packet, in order; the
//! guest's buffers are not needed afterwards, wherever the copy was made. A descriptor is read once.
//! Nothing is allocated, locked or called in the kernel per packet.

use e1000pv::bits::{Icr, Tctl};
use e1000pv::csb::{self, Wild};
use e1000pv::desc::{TxCmd, TxDesc};
use e1000pv::regs;

use crate::core::Core;
use crate::counters::Count;
use crate::csb::CsbPage;
use crate::deferred::Ready;
use crate::memory::GuestMemory;
use crate::port::{NetPort, TxSlots};
use crate::queue::{self, Queue};
use crate::ring::{Ring, View};
use crate::sizes::{ETHER_HEADER, MIN_FRAME};
use crate::state::{self, BadState};
use crate::stats::Tally;
use crate::tx_packet::{Packet, Put};

/// The command byte, in the second word of a descriptor.
const CMD_SHIFT: u32 = 24;
/// The low 16 bits of the second word: length of a legacy descriptor.
const LENGTH_MASK: u64 = 0xffff;
const fn cmd(bits: TxCmd) -> u64 {
    (bits.bits() as u64) << CMD_SHIFT
}

/// Why `fill` stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All descriptors up to the tail were read.
    Empty,
    /// The port's ring is full.
    NoSpace,
    /// As much was done as was asked for.
    Limit,
}

/// The transmit engine.
#[derive(Debug)]
pub struct Tx {
    queue: Queue,
    done: u32,
    /// Per slot queued, by its number: the first descriptor that is not done before that slot is
    /// taken. Numbers are taken modulo the length, a power of two and no less than the port's ring.
    starts: Box<[u16]>,
    /// Slots queued so far.
    queued: usize,
    /// Of these, the last so many are not taken.
    pending: usize,
    /// Something was queued or read since the last sync.
    unsynced: bool,
    packet: Packet,
    /// Slots that the port has lost so far.
    lost: u64,
    causes: Icr,
    delayed: bool,
}

impl Tx {
    /// Of a device that was reset, over a port with so many slots.
    pub fn new(port_slots: usize) -> Self {
        Self {
            queue: Queue::new(&queue::TX),
            done: 0,
            starts: vec![0; port_slots.next_power_of_two()].into(),
            queued: 0,
            pending: 0,
            unsynced: false,
            packet: Packet::new(),
            lost: 0,
            causes: Icr::empty(),
            delayed: false,
        }
    }

    /// Begins anew at TDH, with the ring that the registers describe; the port has been told to
    /// forget what was queued.
    pub fn restart<M: GuestMemory>(&mut self, core: &Core<M>) {
        self.queue.restart(core);
        self.done = self.queue.next();
        (self.pending, self.unsynced) = (0, false);
        (self.causes, self.delayed) = (Icr::empty(), false);
        self.packet.reset();
    }

    /// The port has taken back what was queued: reports all that was read as done.
    pub fn give_up<M: GuestMemory>(&mut self, core: &Core<M>, csb: Option<&CsbPage<M>>) {
        (self.pending, self.unsynced) = (0, false);
        self.consumed(core, csb);
    }

    /// Another port takes the place of the one that has taken back what was queued; it has lost so many.
    pub fn change_port(&mut self, lost: u64) {
        self.lost = lost;
    }

    /// How far it is, when all that was queued is sent; `restart` finds the rest in registers.
    pub fn save(&self, left: bool) -> state::Tx {
        state::Tx {
            queue: self.queue.save(),
            packet: self.packet.save(),
            causes: self.causes.bits(),
            delayed: self.delayed,
            left,
            unfinished: false,
        }
    }

    /// After `restart`, with the same registers.
    pub fn restore(&mut self, from: &state::Tx) -> Result<(), BadState> {
        self.queue.restore(&from.queue)?;
        self.packet.restore(&from.packet)?;
        (self.causes, self.delayed) = (Icr::from_bits_retain(from.causes), from.delayed);
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
        let settled = self.pending == 0 && self.done == self.queue.next();
        self.queue.look(core, csb, settled)
    }

    /// See [`Queue::begin_lap`].
    pub fn begin_lap<M: GuestMemory>(&mut self, core: &Core<M>) {
        self.queue.begin_lap(core);
    }

    /// Slots queued and not taken by the port at the last sync, or queued since.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Whether a sync would do something other than try again.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether there is a ring, and the transmitter is enabled.
    pub fn is_enabled<M: GuestMemory>(&mut self, core: &Core<M>) -> bool {
        let tctl = Tctl::from_bits_retain(core.registers.load(regs::TCTL));
        tctl.contains(Tctl::EN) && self.queue.is_there(core)
    }

    /// Causes since the last call, and whether IDE was among the descriptors reported.
    pub fn take_causes(&mut self) -> (Icr, bool) {
        (std::mem::replace(&mut self.causes, Icr::empty()), std::mem::take(&mut self.delayed))
    }

    /// Free descriptors.
    pub fn ready(&self) -> Ready {
        let Some(ring) = self.queue.ring() else { return Ready::default() };
        let used = ring.distance(self.done, self.queue.tail());
        Ready { descriptors: ring.n() - 1 - used, of: ring.n() }
    }

    /// Reads at most `limit` descriptors before the tail and queues their packets; returns how much work
    /// that was (descriptors, or slots if there were more) and why there was no more.
    pub fn fill<M: GuestMemory, P: NetPort>(
        &mut self,
        core: &Core<M>,
        port: &mut P,
        limit: u32,
    ) -> (u32, Stop) {
        let Some(ring) = self.queue.ring() else { return (0, Stop::Empty) };
        let (first, tail, before) = (self.queue.next(), self.queue.tail(), self.queued);
        let count = ring.distance(first, tail).min(limit);
        let mut tally = Tally::default();
        let stop = self.descriptors(core, port.tx(), ring, count, &mut tally);
        let next = self.queue.next();
        let read = ring.distance(first, next);
        let queued = self.queued.wrapping_sub(before);
        if tally.packets > 0 {
            core.stats.transmitted(&tally);
            core.counters.bump(Count::TxPackets, tally.packets);
            core.counters.bump(Count::TxBytes, tally.octets);
        }
        self.unsynced |= read > 0;
        let stop = match stop {
            Stop::Limit if next == tail => Stop::Empty,
            stop => stop,
        };
        (read.max(queued as u32), stop)
    }

    fn descriptors<M: GuestMemory, T: TxSlots>(
        &mut self,
        core: &Core<M>,
        mut slots: T,
        ring: Ring,
        count: u32,
        tally: &mut Tally,
    ) -> Stop {
        let view = ring.view(&core.ram);
        let pads = Tctl::from_bits_retain(core.registers.load(regs::TCTL)).contains(Tctl::PSP);
        let shortest = if pads { MIN_FRAME } else { ETHER_HEADER };
        let mask = self.starts.len() - 1;
        let mut used = 0;
        let mut stop = Stop::Limit;
        let mut next = self.queue.next();
        let mut left = count;
        while left > 0 {
            if self.packet.is_empty() {
                let most = (slots.space() - used).min(left as usize);
                let from = self.queued.wrapping_add(used);
                let run = Run { view, ring, ram: &core.ram, shortest, first: next };
                let n = run.put(&mut slots, used, most, (&mut self.starts, from), tally);
                used += n;
                left -= n as u32;
                next = ring.step(next, n as u32);
                if left == 0 {
                    break;
                }
            }
            let [address, word] = view.load(next);
            if used == slots.space() && word & KIND == cmd(TxCmd::EOP) && self.packet.is_empty() {
                stop = Stop::NoSpace;
                break;
            }
            let desc = (u128::from(word) << 64 | u128::from(address)).to_le_bytes();
            let before = used;
            let to = (&mut slots, &mut used);
            let put = self.packet.descriptor(core, TxDesc::from_bytes(desc), shortest, to, tally);
            for slot in before..used {
                self.starts[self.queued.wrapping_add(slot) & mask] = next as u16;
            }
            if put == Put::NoSpace {
                stop = Stop::NoSpace;
                break;
            }
            next = ring.step(next, 1);
            left -= 1;
        }
        self.queue.set_next(next);
        slots.commit(used);
        self.queued = self.queued.wrapping_add(used);
        self.pending += used;
        self.unsynced |= used > 0;
        stop
    }

    /// Lets the port take what is queued, and reports what it has taken. Returns how many slots that
    /// were.
    pub fn sync<M: GuestMemory, P: NetPort>(
        &mut self,
        core: &Core<M>,
        port: &mut P,
        csb: Option<&CsbPage<M>>,
    ) -> usize {
        let before = self.pending;
        // Nothing queued, and not all slots free: a peer has damaged the port's indices, which only a
        // sync mends.
        let damaged = before == 0 && {
            let slots = port.tx();
            slots.space() + 1 < slots.num_slots()
        };
        if before > 0 || damaged {
            self.pending = port.tx_sync().min(before);
            let lost = port.tx_lost();
            core.counters.bump(Count::TxSyncs, 1);
            core.counters.bump(Count::TxDropped, lost.wrapping_sub(self.lost));
            self.lost = lost;
        }
        self.unsynced = false;
        self.consumed(core, csb);
        before - self.pending
    }

    /// The consumption callback: DD, TDH, host_tdh, causes.
    fn consumed<M: GuestMemory>(&mut self, core: &Core<M>, csb: Option<&CsbPage<M>>) {
        let Some(ring) = self.queue.ring() else { return };
        let done = if self.pending == 0 {
            self.queue.next()
        } else {
            u32::from(self.starts[self.queued.wrapping_sub(self.pending) & (self.starts.len() - 1)])
        };
        if done == self.done {
            return;
        }
        let reported = report(ring.view(&core.ram), ring, self.done, done);
        self.done = done;
        core.registers.store(regs::TDH, done);
        if let Some(page) = csb {
            csb::host_tx_done(page, done);
        }
        // Who uses the CSB waits for host_tdh: progress is a cause, whatever RS says.
        if reported.intersects(TxCmd::RS | TxCmd::RPS) || csb.is_some() {
            self.causes |= Icr::TXDW;
        }
        if done == self.queue.tail() {
            self.causes |= Icr::TXQE;
        }
        self.delayed |= reported.contains(TxCmd::IDE);
    }
}

/// What tells whether a descriptor is one packet, as it is: nearly all of them are.
const KIND: u64 = cmd(TxCmd::DEXT.union(TxCmd::EOP).union(TxCmd::IC).union(TxCmd::VLE));

/// Packets of one descriptor each that are sent as they are.
#[derive(Debug)]
struct Run<'a, M> {
    view: View<'a>,
    ring: Ring,
    ram: &'a M,
    shortest: usize,
    /// The first descriptor.
    first: u32,
}

impl<M: GuestMemory> Run<'_, M> {
    /// Puts at most `most` packets to the free slots from `used` on; returns how many it were. A
    /// function of its own, and not inlined, so that what it changes per packet is in registers.
    #[inline(never)]
    fn put<T: TxSlots>(
        self,
        slots: &mut T,
        used: usize,
        most: usize,
        (starts, from): (&mut [u16], usize),
        tally: &mut Tally,
    ) -> usize {
        let mask = starts.len() - 1;
        let mut at = self.first;
        let mut tally = tally.run();
        let mut n = 0;
        while n < most {
            let [address, word] = self.view.load(at);
            let len = (word & LENGTH_MASK) as usize;
            if word & KIND != cmd(TxCmd::EOP) || len < self.shortest || len > T::SLOT_BYTES {
                break;
            }
            let Some(bytes) = self.ram.span(address, len) else { break };
            slots.put(used + n, bytes, false);
            starts[from.wrapping_add(n) & mask] = at as u16;
            let head = bytes.u64_at(0);
            tally.count(len as u32, head);
            n += 1;
            at = self.ring.step(at, 1);
        }
        n
    }
}

/// Writes DD to those descriptors of `from..to` that ask for it; returns the union of these one's
/// commands. The descriptors are read again. A guest that has changed them meanwhile harms
/// only itself, since nothing but RS and IDE is used.
fn report(view: View<'_>, ring: Ring, from: u32, to: u32) -> TxCmd {
    const REPORT: u64 = cmd(TxCmd::RS.union(TxCmd::RPS));
    const DD: u64 = 1 << 32;
    let mut seen = 0;
    let mut at = from;
    while at != to {
        let word = view.load(at)[1];
        if word & REPORT != 0 {
            seen |= word;
            view.complete(at, word | DD);
        }
        at = ring.step(at, 1);
    }
    TxCmd::from_bits_retain((seen >> CMD_SHIFT) as u8)
}
