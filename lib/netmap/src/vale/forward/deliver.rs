//! Deliver: one destination after the other; hold its ring, put what fits, finish.
//!
//! With backpressure the rings of all destinations of a batch are held together, so that the batch
//! stops before the first packet that does not fit everywhere, and no packet is lost or sent twice.

use crate::copy::Isa;
use crate::stats::C;
use crate::vale::forward::batch::{Batch, NONE, Packets, Which};
use crate::vale::forward::inner::{copy_fragments, rx_flags};
use crate::vale::forward::job::{Destinations, Done, Job};
use crate::vale::forward::stage::Copies;
use crate::vale::forward::writer::{self, Lease, NotHeld, WaitBudget, Writer};
use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::PortIndex;
use crate::vale::state::portset::PortSet;
use crate::vale::state::txstate::Stall;

/// A held ring and what goes there.
#[derive(Clone, Copy, Debug)]
struct Load {
    port: PortIndex,
    which: Which,
    lease: Lease,
}

/// The loads of a batch that is sent with backpressure.
#[derive(Debug)]
pub struct Loads(Vec<Load>);

impl Loads {
    /// None yet; at most two rings of each port are held.
    pub fn new() -> Self {
        Self(Vec::with_capacity(2 * MAX_PORTS))
    }
}

/// Delivers a batch that begins at slot `from`.
pub fn deliver<I: Isa>(
    job: &Job<'_>,
    from: u32,
    batch: &Batch,
    Loads(loads): &mut Loads,
    destinations: &mut impl Destinations,
    budget: &mut WaitBudget,
) -> Done {
    let mut done = Done::default();
    let mut stop = batch.fragments.len();
    loads.clear();
    if !job.lossless {
        job.state.claim(job.ring.step(from, stop as u32));
    }
    for port in ports(job, batch) {
        let unicast = batch.has_unicast(port);
        let found = destinations.update(port).filter(|&g| !unicast || g <= job.epoch);
        let Some(to) = found.and_then(|_| destinations.get(port)) else {
            let lost = batch.packets(port, Which { floods: false, unicast }, stop).count();
            job.counters.add(C::tx_drop_no_port, lost as u64);
            continue;
        };
        let own = (job.ring_no % to.file.shape.rings.rx.len()) as u8;
        // What is for everybody goes to ring 0; the rest to the ring of the same number. Where
        // that is the same ring, the two are merged in order.
        let merged = own == 0;
        let floods = !batch.floods.is_empty();
        let rings = [
            (0, Which { floods, unicast: unicast && merged }),
            (own, Which { floods: false, unicast: unicast && !merged }),
        ];
        for (ring, which) in rings.into_iter().filter(|(_, w)| w.floods || w.unicast) {
            match writer::hold(job.switch, to, ring, job.me, budget) {
                Ok(lease) => {
                    let load = Load { port, which, lease };
                    if !job.lossless {
                        if put::<I>(
                            Writer::new(to, lease, job),
                            batch,
                            load,
                            stop,
                            (job, &*destinations),
                        ) {
                            done.full = Some(port);
                        }
                        continue;
                    }
                    let most = to.file.shape.rings.rx_slots - 1;
                    if let Some(first) = first_misfit(batch, load, most, stop) {
                        stop = first;
                        done.stall = Some(Stall { port, ring });
                    }
                    loads.push(load);
                }
                Err(NotHeld::Busy) if job.lossless => {
                    stop = 0;
                    done.stall = Some(Stall { port, ring });
                }
                Err(why) => {
                    let busy = why == NotHeld::Busy;
                    let reason = if busy { C::tx_drop_busy } else { C::tx_drop_no_port };
                    let lost = batch.packets(port, which, stop).count();
                    job.counters.add(reason, lost as u64);
                }
            }
        }
    }
    if job.lossless {
        job.state.claim(job.ring.step(from, stop as u32));
    }
    for &load in &*loads {
        let to = destinations.get(load.port).expect("it was there when its ring was held");
        put::<I>(Writer::new(to, load.lease, job), batch, load, stop, (job, &*destinations));
    }
    done.slots = stop as u32;
    done
}

/// Delivers the copies of those packets that were sent, as far as there is room.
pub fn deliver_copies<I: Isa>(
    job: &Job<'_>,
    batch: &Batch,
    copies: &Copies,
    sent: usize,
    destinations: &mut impl Destinations,
    budget: &mut WaitBudget,
) {
    for (port, packets) in copies.by_port() {
        let found = destinations.update(port).filter(|&g| g <= job.epoch);
        let Some(to) = found.and_then(|_| destinations.get(port)) else { continue };
        let Ok(lease) = writer::hold(job.switch, to, 0, job.me, budget) else { continue };
        let mut out = Writer::new(to, lease, job);
        let packets =
            Packets { fragments: &batch.fragments, next: NONE, others: packets, stop: sent };
        put_packets::<I>(&mut out, batch, packets);
        out.forgive();
        out.finish(job.counters, &*destinations);
    }
}

/// Ports that get something of this batch, ascending, so that two senders that hold several
/// rings never wait for each other.
fn ports(job: &Job<'_>, batch: &Batch) -> impl Iterator<Item = PortIndex> + use<> {
    let mut ports = match batch.floods.is_empty() {
        true => PortSet::default(),
        false => job.switch.active().and_not(job.apart),
    };
    for &port in &batch.touched {
        ports.insert(port);
    }
    ports.without(job.port).iter()
}

/// First fragment of the first packet that does not fit, but would fit an empty ring.
fn first_misfit(batch: &Batch, load: Load, most: u32, stop: usize) -> Option<usize> {
    let mut space = load.lease.space;
    for packet in batch.packets(load.port, load.which, stop) {
        let frags = u32::from(batch.fragments[usize::from(packet)].frags);
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

/// Puts the packets of a load before fragment `stop` that fit. Returns whether some did not.
fn put<I: Isa>(
    mut out: Writer<'_>,
    batch: &Batch,
    load: Load,
    stop: usize,
    (job, destinations): (&Job<'_>, &impl Destinations),
) -> bool {
    let mut packets = batch.packets(load.port, load.which, stop);
    if !load.which.unicast {
        // A flood is often plain packets only, and always many copies: worth a tight loop.
        let sent = batch.floods.partition_point(|&packet| usize::from(packet) < stop);
        packets.others = put_plain::<I>(&mut out, batch, &batch.floods[..sent]);
    }
    let misfits = put_packets::<I>(&mut out, batch, packets);
    if misfits > 0 {
        job.counters.add(C::tx_drop_bad, misfits);
    }
    let full = out.dropped > 0;
    out.finish(job.counters, destinations);
    full
}

/// Puts packets, or drops them; returns how many no ring of this size could ever hold.
fn put_packets<I: Isa>(out: &mut Writer<'_>, batch: &Batch, packets: Packets<'_>) -> u64 {
    // Two loops, as short packets are not to pay for what long ones need.
    if out.is_warm() {
        put_each::<I, true>(out, batch, packets)
    } else {
        put_each::<I, false>(out, batch, packets)
    }
}

fn put_each<I: Isa, const WARM: bool>(
    out: &mut Writer<'_>,
    batch: &Batch,
    packets: Packets<'_>,
) -> u64 {
    let most = out.num_slots() - 1;
    let mut misfits = 0;
    for packet in packets {
        misfits += u64::from(!put_packet::<I, WARM>(out, batch, packet, most));
    }
    misfits
}

/// Puts one packet, or drops it. Order is kept: once one does not fit, none of the later ones goes.
/// Only one that no ring of this size could ever hold makes way for the others: false.
#[inline(always)]
fn put_packet<I: Isa, const WARM: bool>(
    out: &mut Writer<'_>,
    batch: &Batch,
    packet: u16,
    most: u32,
) -> bool {
    let first = usize::from(packet);
    let frags = batch.fragments[first].frags;
    if out.dropped != 0 || u32::from(frags) > out.space {
        let fits_empty = u32::from(frags) <= most;
        out.dropped += u64::from(fits_empty);
        return fits_empty;
    }
    let fragments = &batch.fragments[first..first + usize::from(frags)];
    if WARM {
        out.warm_up();
    }
    for (i, fragment) in fragments.iter().enumerate() {
        let flags = rx_flags(frags, i + 1 < usize::from(frags));
        // SAFETY: `gather` checked the fragment; what is not indirect is in a buffer.
        unsafe { out.put::<I>(fragment.data, fragment.len, fragment.indirect, flags) };
    }
    if WARM {
        out.used(frags.into());
    }
    out.packet();
    true
}

/// Puts plain packets as long as they last and fit; returns the others.
fn put_plain<'a, I: Isa>(out: &mut Writer<'_>, batch: &Batch, mut packets: &'a [u16]) -> &'a [u16] {
    while !packets.is_empty() && out.space > 0 {
        let (slots, buffers) = out.stretch(packets.len());
        let (n, bytes) = copy_fragments::<I>(&batch.fragments, packets, slots, buffers);
        out.filled(n, bytes);
        packets = &packets[n..];
        if n < slots.len() {
            break;
        }
    }
    packets
}
