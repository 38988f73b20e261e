//! Handing over: slots that their port is done with go to its zero-copy monitors.
//!
//! ```text
//!   x's TX ring    | sent           |      x's RX ring    | given back by the program  |
//!                    |  buffers change places               |  in x's rxsync
//!   monitor's ring   v  in x's txsync                       v
//!                  | free slots, published after the exchange                          |
//! ```
//!
//! The last monitor of a ring gets the buffers. Those before it get copies, which come first: a buffer has one
//! owner. What lies in a program's own memory is copied for all.
//!
//! Invariant: the caller syncs the ring, and its slots `from..to` are neither the program's nor a sender's now. A
//! monitor that has no room loses the packet, and the port keeps its buffers.

use crate::abi::SlotFlags;
use crate::copy::Sse2;
use crate::ring::RingRef;
use crate::stats::{RingDir, SharedCounters};
use crate::vale::forward::Forwarder;
use crate::vale::forward::batch::Batch;
use crate::vale::forward::deliver::{put_packet, put_packets};
use crate::vale::forward::gather::gather;
use crate::vale::forward::indirect::Indirect;
use crate::vale::forward::inner::rx_flags;
use crate::vale::forward::job::Destinations;
use crate::vale::forward::writer::{self, WaitBudget, Writer};
use crate::vale::state::ids::{ParticipantId, PortIndex, RingNumber};
use crate::vale::state::owner::Taken;
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::portset::PortSet;
use crate::vale::state::repair::{Numbered, SeenRing};
use crate::vale::state::switch::SwitchFile;

/// Slots of a ring that its port is done with.
#[derive(Clone, Copy, Debug)]
pub struct Used<'a> {
    /// The process that syncs the ring.
    pub me: ParticipantId,
    /// The port.
    pub port: &'a PortFiles,
    /// Transmit or receive.
    pub dir: RingDir,
    /// Its number.
    pub number: RingNumber,
    /// The ring.
    pub ring: RingRef<'a>,
    /// First of the slots.
    pub from: u32,
    /// The slot behind them.
    pub to: u32,
    /// What happened on the ring.
    pub counters: &'a SharedCounters,
}

impl Used<'_> {
    /// As a monitor notes it.
    fn seen(&self) -> SeenRing {
        SeenRing { is_rx: self.dir == RingDir::Rx, number: self.number }
    }

    /// The zero-copy monitors of the ring, opened.
    fn monitors(&self, switch: &SwitchFile, others: &mut impl Destinations) -> PortSet {
        let shape = &self.port.file.shape;
        let mut found = PortSet::default();
        for at in switch.monitors().iter() {
            let Some((generation, watch)) = switch.monitor(at) else { continue };
            if watch.zero_copy
                && watch.sees(shape.index, self.dir, self.number)
                && others.update(at) == Some(generation)
                // Numbers of buffers are those of one region.
                && others.get(at).is_some_and(|m| m.region.id() == self.port.region.id())
            {
                found.insert(at);
            }
        }
        found
    }
}

impl Forwarder {
    /// Hands slots over to the zero-copy monitors of a ring. Returns one that was full: it may be dead.
    #[cold]
    pub fn hand_over(
        &mut self,
        switch: &SwitchFile,
        others: &mut impl Destinations,
        used: &Used<'_>,
    ) -> Option<PortIndex> {
        let monitors = used.monitors(switch, others);
        let last = monitors.iter().last()?;
        let (batch, budget, mut full) = (&mut self.batch, &mut self.budget, None);
        // What was received lies in buffers.
        let none = &mut Indirect::default();
        let indirect = if used.dir == RingDir::Tx { &mut self.indirect } else { none };
        let mask = switch.offset_mask_of(used.port.file.shape.index);
        for at in monitors.iter() {
            mend_if_needed(switch, others, used, at, budget);
            let Some(monitor) = others.get(at) else { continue };
            let ring = used.number.among(monitor.file.shape.rings.rx.len());
            let lease = writer::hold_of_monitor(switch, monitor, ring, used.me, budget);
            let Some(lease) = lease else { continue };
            let mut out = Writer::of_monitor(monitor, lease, used.me, 0);
            let mut next = used.from;
            while next != used.to {
                // A buffer whose data do not begin with it is copied, not given.
                gather(batch, used.ring, indirect, mask, next, used.to);
                match (used.dir, at == last) {
                    (RingDir::Tx, true) => give::<SENT>(&mut out, batch, used, next),
                    (RingDir::Rx, true) => give::<0>(&mut out, batch, used, next),
                    (RingDir::Tx, false) => show::<SENT>(&mut out, batch),
                    (RingDir::Rx, false) => show::<0>(&mut out, batch),
                }
                next = used.ring.step(next, batch.fragments.len() as u32);
            }
            out.exchanged();
            full = if out.dropped > 0 { Some(at) } else { full };
            out.forgive();
            out.finish(used.counters, &*others);
        }
        full
    }

    /// Puts right what the process left that synced the ring before and died: between its slots and those of its
    /// monitors.
    #[cold]
    pub fn mend(&mut self, switch: &SwitchFile, others: &mut impl Destinations, used: &Used<'_>) {
        for at in used.monitors(switch, others).iter() {
            mend_if_needed(switch, others, used, at, &mut self.budget);
        }
    }
}

const SENT: u16 = SlotFlags::TXMON.bits();

/// Copies the packets of a batch, as far as there is room.
fn show<const FLAGS: u16>(out: &mut Writer<'_>, batch: &Batch) {
    let packets = batch.firsts().map(|(packet, _)| packet);
    let mut misfits = 0;
    put_packets::<Sse2, FLAGS>(out, batch, packets, |_| misfits += 1);
    out.dropped += misfits;
}

/// Gives the buffers of a batch, which begins at slot `at`, as far as there is room.
fn give<const FLAGS: u16>(out: &mut Writer<'_>, batch: &Batch, used: &Used<'_>, at: u32) {
    let most = out.num_slots() - 1;
    for (packet, first) in batch.firsts() {
        let (begin, frags) = (usize::from(packet), first.frags);
        let fragments = &batch.fragments[begin..begin + usize::from(frags)];
        let is_copied = fragments.iter().any(|fragment| fragment.indirect);
        if is_copied || out.dropped > 0 || u32::from(frags) > out.space {
            let fits = put_packet::<Sse2, false, FLAGS>(out, batch, packet, most);
            out.dropped += u64::from(!fits);
            continue;
        }
        for (i, fragment) in fragments.iter().enumerate() {
            let slot = used.ring.step(at, (begin + i) as u32);
            let word = &used.ring.slots[slot as usize].word;
            let flags = rx_flags(frags, i + 1 < usize::from(frags)) | FLAGS;
            out.exchange(used.seen(), Numbered::new(slot, word), fragment.len, flags);
        }
        out.packet();
    }
}

/// If a process died between a ring and a monitor, puts that right; that may be another ring than the one that the
/// caller syncs, and is left alone if somebody alive syncs that.
fn mend_if_needed(
    switch: &SwitchFile,
    others: &mut impl Destinations,
    used: &Used<'_>,
    at: PortIndex,
    budget: &mut WaitBudget,
) {
    let Some(monitor) = others.get(at) else { return };
    let number = used.number.among(monitor.file.shape.rings.rx.len());
    let Some(seen) = monitor.file.kring(number).exchange.crossed() else { return };
    let mut mend = |ring| writer::mend(switch, monitor, number, ring, used.me, budget);
    let (PortFiles { file, region, .. }, i) = (used.port, seen.number);
    let rings = &file.shape.rings;
    let ring = if seen.is_rx { rings.rx_ring(region, i) } else { rings.tx_ring(region, i) };
    let is_dead = |owner| switch.is_dead(owner);
    match ring {
        Some(_) if seen == used.seen() => mend(ring),
        None => mend(None), // a peer's nonsense
        Some(read) if seen.is_rx => {
            let kring = file.kring(i);
            if kring.reader.take(used.me, is_dead) != Taken::No {
                mend(ring);
                // Some of what was given back has been handed over, and must not be again.
                let (hwcur, hwtail) = (kring.consumer_cur(), kring.published());
                if hwcur < read.n()
                    && hwtail < read.n()
                    && let Some(head) = read.head_in_order(hwcur, hwtail)
                {
                    kring.free(head);
                }
                kring.reader.give(used.me);
            }
        }
        Some(_) => {
            let state = file.tx_state(i);
            // Slots are handed over after they were sent, so that nothing claimed is given up by this.
            if state.begin(used.me, is_dead).is_some() {
                mend(ring);
                let waiting = state.end(used.me);
                for handle in waiting.into_iter().flat_map(|waiting| waiting.handles()) {
                    others.ring(handle, file.shape.index);
                }
            }
        }
    }
}
