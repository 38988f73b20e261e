//! Deliver: one destination after the other; hold its ring, put what fits, finish.
//!
//! With backpressure the rings of all destinations of a batch are held together, so that the batch
//! stops before the first packet that does not fit everywhere, and no packet is lost or sent twice.

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags};
use crate::copy::Isa;
use crate::stats::{C, RingDir};
use crate::vale::forward::batch::{BATCH, Batch, Fragment, Which};
use crate::vale::forward::gather;
use crate::vale::forward::headers::{Headers, Need};
use crate::vale::forward::inner::{copy_fragments, rx_flags};
use crate::vale::forward::job::{Destinations, Done, Form, Job};
use crate::vale::forward::stage::Copies;
use crate::vale::forward::writer::{self, Lease, NotHeld, WaitBudget, Writer};
use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::{PortIndex, RingNumber};
use crate::vale::state::portset::PortSet;
use crate::vale::state::txstate::Stall;

/// A held ring and what goes there.
#[derive(Clone, Copy, Debug)]
struct Load {
    port: PortIndex,
    which: Which,
    lease: Lease,
    /// If its headers have another length.
    form: Option<Form>,
}

/// What a batch may use of the handle's, besides its packets.
#[derive(Debug)]
pub struct Means<'a> {
    /// What is left of the time for waiting.
    pub budget: &'a mut WaitBudget,
    /// Packets for ports with other headers.
    pub headers: &'a mut Headers,
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

/// A receive ring of whoever gets something.
#[derive(Clone, Copy, Debug)]
struct Target {
    port: PortIndex,
    ring: RingNumber,
}

/// A batch that is being delivered.
#[derive(Clone, Copy, Debug)]
struct Delivery<'a> {
    job: &'a Job<'a>,
    batch: &'a Batch,
    /// For those who watch, if somebody does.
    copies: Option<&'a Copies>,
    /// First fragment that is not sent now.
    stop: usize,
}

/// Delivers a batch that begins at slot `from`, with copies for those who watch.
pub fn deliver<I: Isa>(
    job: &Job<'_>,
    from: u32,
    batch: &Batch,
    copies: Option<&Copies>,
    Loads(loads): &mut Loads,
    destinations: &mut impl Destinations,
    means: &mut Means<'_>,
) -> Done {
    let mut done = Done::default();
    let mut delivery = Delivery { job, batch, copies, stop: batch.fragments.len() };
    loads.clear();
    if !job.lossless {
        delivery.claim::<I>(from, &*destinations, means, &mut done);
    }
    for port in ports(job, batch) {
        let unicast = batch.has_unicast(port);
        let found = destinations.update(port).filter(|&g| !unicast || g <= job.epoch);
        let Some(to) = found.and_then(|_| destinations.get(port)) else {
            let all = Which { floods: false, unicast };
            let lost = batch.packets(port, all, delivery.stop).count();
            job.counters.add(C::tx_drop_no_port, lost as u64);
            continue;
        };
        let own = job.ring_no.among(to.file.shape.rings.rx.len());
        // What is for everybody goes to ring 0; the rest to the ring of the same number. Where
        // that is the same ring, the two are merged in order.
        let merged = own == RingNumber::FIRST;
        let floods = !batch.floods.is_empty();
        let rings = [
            (RingNumber::FIRST, Which { floods, unicast: unicast && merged }),
            (own, Which { floods: false, unicast: unicast && !merged }),
        ];
        for (ring, which) in rings.into_iter().filter(|(_, w)| w.floods || w.unicast) {
            match writer::hold(job.switch, to, ring, job.me, means.budget) {
                Ok(lease) => {
                    let load = Load { port, which, lease, form: job.form_for(port) };
                    if !job.lossless {
                        let out = Writer::new(to, lease, job);
                        delivery.put::<I>(out, load, &*destinations, means, &mut done);
                        continue;
                    }
                    let most = to.file.shape.rings.rx_slots - 1;
                    if let Some(first) = delivery.first_misfit::<I>(load, most, means.headers) {
                        delivery.stop = first;
                        done.stall = Some(Stall { port, ring });
                    }
                    loads.push(load);
                }
                Err(NotHeld::Busy) if job.lossless => {
                    delivery.stop = 0;
                    done.stall = Some(Stall { port, ring });
                }
                Err(why) => {
                    let busy = why == NotHeld::Busy;
                    let reason = if busy { C::tx_drop_busy } else { C::tx_drop_no_port };
                    let lost = batch.packets(port, which, delivery.stop).count();
                    job.counters.add(reason, lost as u64);
                }
            }
        }
    }
    if job.lossless {
        delivery.claim::<I>(from, &*destinations, means, &mut done);
    }
    for &load in &*loads {
        let to = destinations.get(load.port).expect("it was there when its ring was held");
        let out = Writer::new(to, load.lease, job);
        delivery.put::<I>(out, load, &*destinations, means, &mut done);
    }
    let stop = delivery.stop;
    if let Some(copies) = copies {
        for (mirror, packets) in copies.mirrors(batch, job.switch, job.port) {
            let packets = packets.take_while(|&packet| usize::from(packet) < stop);
            let to = Target { port: mirror, ring: RingNumber::FIRST };
            let form = || job.form_for(mirror);
            delivery.show::<I, 0>(to, packets, form, &*destinations, means, &mut done);
        }
    }
    done.slots = stop as u32;
    done
}

/// Ports that get something of this batch, ascending, so that two senders that hold several
/// rings never wait for each other.
fn ports(job: &Job<'_>, batch: &Batch) -> impl Iterator<Item = PortIndex> + use<> {
    let mut ports = match batch.floods.is_empty() {
        true => PortSet::default(),
        false => job.switch.active(),
    };
    for &port in &batch.touched {
        ports.insert(port);
    }
    ports.without(job.port).iter()
}

impl Delivery<'_> {
    /// Says that the fragments before `stop` are about to be published. Monitors see them first, before anybody
    /// can answer them.
    #[inline]
    fn claim<I: Isa>(
        &self,
        from: u32,
        destinations: &impl Destinations,
        means: &mut Means<'_>,
        done: &mut Done,
    ) {
        let Self { job, batch, copies, stop } = *self;
        job.state.claim(job.ring.step(from, stop as u32));
        let Some(copies) = copies else { return };
        const SENT: u16 = SlotFlags::TXMON.bits();
        for monitor in copies.monitors(job.port, RingDir::Tx, job.ring_no) {
            let packets = batch.firsts().map(|(packet, _)| packet);
            let packets = packets.take_while(|&packet| usize::from(packet) < stop);
            let to = Target { port: monitor, ring: job.ring_no };
            self.show::<I, SENT>(to, packets, || None, destinations, means, done);
        }
    }

    /// Copies packets to a ring of who watches, as far as there is room, in the form that is asked for once the ring is held, with
    /// `FLAGS` in their slots.
    fn show<I: Isa, const FLAGS: u16>(
        &self,
        to: Target,
        packets: impl Iterator<Item = u16>,
        form: impl FnOnce() -> Option<Form>,
        destinations: &impl Destinations,
        means: &mut Means<'_>,
        done: &mut Done,
    ) {
        let (Self { job, batch, .. }, Target { port, ring }) = (*self, to);
        let Some(to) = destinations.get(port) else { return };
        let ring = ring.among(to.file.shape.rings.rx.len());
        let Ok(lease) = writer::hold(job.switch, to, ring, job.me, means.budget) else { return };
        let mut out = Writer::new(to, lease, job);
        let mut misfits = 0;
        match form() {
            None => put_packets::<I, FLAGS>(&mut out, batch, packets, |_| misfits += 1),
            Some(form) => {
                let put = means.headers.put::<I, FLAGS>(&mut out, batch, packets, form, |_| ());
                out.bad += put.faults;
                misfits = put.misfits;
            }
        }
        out.dropped += misfits;
        if out.dropped > 0 {
            done.full = Some(port); // it may be dead
        }
        out.forgive();
        out.finish(job.counters, destinations);
    }

    /// First fragment of the first packet that does not fit, but would fit an empty ring, which takes `most` slots.
    fn first_misfit<I: Isa>(&self, load: Load, most: u32, headers: &mut Headers) -> Option<usize> {
        let batch = self.batch;
        let mut space = load.lease.space;
        for packet in batch.packets(load.port, load.which, self.stop) {
            let frags = match load.form.map(|form| headers.need::<I>(batch, packet, form)) {
                None => batch.fragments[usize::from(packet)].frags.into(),
                Some(Need::Slots(n)) => n,
                Some(Need::TooLong | Need::Fault) => continue,
            };
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

    /// Puts the packets of a load that fit.
    fn put<I: Isa>(
        &self,
        mut out: Writer<'_>,
        load: Load,
        destinations: &impl Destinations,
        means: &mut Means<'_>,
        done: &mut Done,
    ) {
        if let Some(form) = load.form {
            return self.put_formed::<I>(out, load, form, destinations, means, done);
        }
        let Self { job, batch, copies, stop } = *self;
        let mut packets = batch.packets(load.port, load.which, stop);
        if !load.which.unicast && out.offset_mask == 0 {
            // A flood is often plain packets only, and always many copies: worth a tight loop.
            let sent = batch.floods.partition_point(|&packet| usize::from(packet) < stop);
            packets.others = put_plain::<I>(&mut out, batch, &batch.floods[..sent]);
        }
        let mut misfits = Misfits::default();
        put_packets::<I, 0>(&mut out, batch, packets, |packet| misfits.insert(packet));
        if misfits.count > 0 {
            job.counters.add(C::tx_drop_bad, misfits.count);
        }
        if out.dropped > 0 {
            done.full = Some(load.port);
        }
        if let Some(copies) = copies {
            let ring = load.lease.ring;
            // Before they are published, and while nobody else writes to that ring: in its order.
            for monitor in copies.monitors(load.port, RingDir::Rx, ring) {
                let packets = batch.packets(load.port, load.which, stop);
                let packets = packets.filter(|&packet| !misfits.contains(packet));
                let packets = packets.take(out.packets_put());
                let to = Target { port: monitor, ring };
                self.show::<I, 0>(to, packets, || None, destinations, means, done);
            }
        }
        out.finish(job.counters, destinations);
    }

    /// As `put`, where the port's headers have another length.
    fn put_formed<I: Isa>(
        &self,
        mut out: Writer<'_>,
        load: Load,
        form: Form,
        destinations: &impl Destinations,
        means: &mut Means<'_>,
        done: &mut Done,
    ) {
        let Self { job, batch, copies, stop } = *self;
        let packets = || batch.packets(load.port, load.which, stop);
        let mut lost = Misfits::default();
        let note = |packet| lost.insert(packet);
        let put = means.headers.put::<I, 0>(&mut out, batch, packets(), form, note);
        job.counters.add(C::tx_drop_bad, put.misfits);
        job.counters.add(C::tx_drop_vnet_hdr, put.faults);
        if out.dropped > 0 {
            done.full = Some(load.port);
        }
        if let Some(copies) = copies {
            let ring = load.lease.ring;
            for monitor in copies.monitors(load.port, RingDir::Rx, ring) {
                let packets = packets().filter(|&packet| !lost.contains(packet)).take(put.packets);
                let to = Target { port: monitor, ring };
                self.show::<I, 0>(to, packets, || Some(form), destinations, means, done);
            }
        }
        out.finish(job.counters, destinations);
    }
}

/// Packets of a batch that were dropped although there was room. Mostly none: then nothing is written down.
#[derive(Debug, Default)]
struct Misfits {
    bits: Option<[u64; (BATCH + NETMAP_MAX_FRAGS).div_ceil(64)]>,
    count: u64,
}

impl Misfits {
    #[cold]
    fn insert(&mut self, packet: u16) {
        let bits = self.bits.get_or_insert([0; _]);
        bits[usize::from(packet / 64)] |= 1 << (packet % 64);
        self.count += 1;
    }

    fn contains(&self, packet: u16) -> bool {
        self.bits.is_some_and(|bits| bits[usize::from(packet / 64)] & 1 << (packet % 64) != 0)
    }
}

/// Puts packets, or drops them; `misfit` is told of those that no ring of this size could ever hold.
pub fn put_packets<I: Isa, const FLAGS: u16>(
    out: &mut Writer<'_>,
    batch: &Batch,
    packets: impl Iterator<Item = u16>,
    misfit: impl FnMut(u16),
) {
    // Several loops, as short packets are not to pay for what long ones need, nor any for offsets.
    if out.offset_mask != 0 {
        put_at_offsets::<FLAGS>(out, batch, packets, misfit);
    } else if out.is_warm() {
        put_each::<I, true, FLAGS>(out, batch, packets, misfit);
    } else {
        put_each::<I, false, FLAGS>(out, batch, packets, misfit);
    }
}

fn put_each<I: Isa, const WARM: bool, const FLAGS: u16>(
    out: &mut Writer<'_>,
    batch: &Batch,
    packets: impl Iterator<Item = u16>,
    mut misfit: impl FnMut(u16),
) {
    let most = out.num_slots() - 1;
    for packet in packets {
        if !put_packet::<I, WARM, FLAGS>(out, batch, packet, most) {
            misfit(packet);
        }
    }
}

/// Puts one packet, or drops it. Order is kept: once one does not fit, none of the later ones goes.
/// One that no ring of this size could ever hold is dropped alone: false.
#[inline(always)]
pub fn put_packet<I: Isa, const WARM: bool, const FLAGS: u16>(
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
        let flags = rx_flags(frags, i + 1 < usize::from(frags)) | FLAGS;
        // SAFETY: `gather` checked the fragment; what is not indirect is in a buffer.
        unsafe { out.put::<I>(fragment.data, fragment.len, fragment.indirect, flags) };
    }
    if WARM {
        out.used(frags.into());
    }
    out.packet();
    true
}

/// As `put_each`, where the receiver's slots say where in their buffers the data go. A packet that does not fit there is
/// dropped as one that never fits.
fn put_at_offsets<const FLAGS: u16>(
    out: &mut Writer<'_>,
    batch: &Batch,
    packets: impl Iterator<Item = u16>,
    mut misfit: impl FnMut(u16),
) {
    let most = out.num_slots() - 1;
    for packet in packets {
        let first = usize::from(packet);
        let frags = batch.fragments[first].frags;
        let fragments = &batch.fragments[first..first + usize::from(frags)];
        // Read once: they may change meanwhile.
        let mut offsets = [0; NETMAP_MAX_FRAGS];
        for (i, offset) in offsets.iter_mut().enumerate().take(fragments.len()) {
            *offset = out.offset(i);
        }
        let fits = |(fragment, &offset): (&Fragment, &u64)| gather::fits(offset, fragment.len);
        if u32::from(frags) > most || !fragments.iter().zip(&offsets).all(fits) {
            misfit(packet);
            continue;
        }
        if out.dropped != 0 || u32::from(frags) > out.space {
            out.dropped += 1;
            continue;
        }
        for (i, (fragment, &offset)) in fragments.iter().zip(&offsets).enumerate() {
            let flags = FLAGS | rx_flags(frags, i + 1 < usize::from(frags));
            // SAFETY: `gather` checked the fragment; that it fits there was looked at above.
            unsafe { out.put_at(fragment.data, fragment.len, offset, flags) };
        }
        out.packet();
    }
}

/// Puts plain packets as long as they last and fit; returns the others.
fn put_plain<'a, I: Isa>(out: &mut Writer<'_>, batch: &Batch, mut packets: &'a [u16]) -> &'a [u16] {
    while !packets.is_empty() && out.space > 0 {
        let to = out.stretch(packets.len());
        let copied = copy_fragments::<I>(&batch.fragments, packets, to);
        out.filled(copied);
        packets = &packets[copied.packets..];
        if copied.packets < to.slots.len() {
            break;
        }
    }
    packets
}

#[cfg(test)]
mod tests;
