//! Showing: packets that are not forwarded, those of a pipe, are copied to the copy monitors of its ends.
//!
//! ```text
//!   x{1   | queued | --- passed on, slot by slot ---> | RX ring |   }1
//!             \-- copies, before they are published --> monitors of {1 that see what it sends,
//!                                                        of }1 that see what it receives
//! ```
//!
//! Invariant: the caller holds the sender's ring, and its packets have been passed on and not been published. A monitor
//! that has no room loses packets, and holds up nobody.

use crate::abi::SlotFlags;
use crate::copy::Sse2;
use crate::ring::RingRef;
use crate::stats::{RingDir, SharedCounters};
use crate::vale::forward::Forwarder;
use crate::vale::forward::deliver::put_packets;
use crate::vale::forward::gather::gather;
use crate::vale::forward::indirect::Indirect;
use crate::vale::forward::job::Destinations;
use crate::vale::forward::writer::{self, Writer};
use crate::vale::state::ids::{ParticipantId, PortIndex, RingNumber};
use crate::vale::state::switch::SwitchFile;

/// Whole packets on their way from one end of a pipe to the other.
#[derive(Clone, Copy, Debug)]
pub struct PassedOn<'a> {
    /// The process that sends.
    pub me: ParticipantId,
    /// The end that sends.
    pub sender: PortIndex,
    /// The end that receives.
    pub receiver: PortIndex,
    /// The number of the ring at both.
    pub number: RingNumber,
    /// The receiver's ring.
    pub ring: RingRef<'a>,
    /// First of the slots.
    pub from: u32,
    /// The slot behind them.
    pub to: u32,
    /// What happened on the sender's ring.
    pub counters: &'a SharedCounters,
}

impl Forwarder {
    /// Copies packets to those who see them. Returns a monitor that was full: it may be dead.
    #[cold]
    pub fn show(
        &mut self,
        switch: &SwitchFile,
        others: &mut impl Destinations,
        packets: &PassedOn<'_>,
    ) -> Option<PortIndex> {
        let PassedOn { me, sender, receiver, number, ring, from, to, counters } = *packets;
        // What an indirect slot says means something to the receiver only, if to anybody.
        let none = &mut Indirect::default();
        let (batch, budget, mut full) = (&mut self.batch, &mut self.budget, None);
        for at in switch.monitors().iter() {
            let Some((generation, watch)) = switch.monitor(at) else { continue };
            let sent = watch.sees(sender, RingDir::Tx, number);
            let seen = sent || watch.sees(receiver, RingDir::Rx, number);
            if !seen || watch.zero_copy || others.update(at) != Some(generation) {
                continue;
            }
            let Some(monitor) = others.get(at) else { continue };
            let of_monitor = number.among(monitor.file.shape.rings.rx.len());
            let lease = writer::hold(switch, monitor, of_monitor, me, budget);
            let Ok(lease) = lease else { continue };
            let mut out = Writer::of_monitor(monitor, lease, me, switch.offset_mask_of(at));
            let mut next = from;
            while next != to {
                gather(batch, ring, none, 0, next, to);
                let packets = batch.firsts().map(|(packet, _)| packet);
                let mut misfits = 0;
                if sent {
                    const SENT: u16 = SlotFlags::TXMON.bits();
                    put_packets::<Sse2, SENT>(&mut out, batch, packets, |_| misfits += 1);
                } else {
                    put_packets::<Sse2, 0>(&mut out, batch, packets, |_| misfits += 1);
                }
                out.dropped += misfits;
                next = ring.step(next, batch.fragments.len() as u32);
            }
            full = if out.dropped > 0 { Some(at) } else { full };
            out.forgive();
            out.finish(counters, &*others);
        }
        full
    }
}
