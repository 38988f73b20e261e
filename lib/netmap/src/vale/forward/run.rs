//! A run: plain packets to one port, straight from ring to ring.

use crate::copy::Isa;
use crate::stats::C;
use crate::vale::forward::inner::{Queued, Source, copy_run, plain, rx_flags};
use crate::vale::forward::job::{Destinations, Done, Job};
use crate::vale::forward::lookup::{Lookup, Route};
use crate::vale::forward::writer::{self, WaitBudget, Writer};
use crate::vale::state::ids::RingNumber;
use crate::vale::state::txstate::Stall;

/// Sends plain packets (one slot each; data in their buffers, or all in the one window) that have one
/// destination. Looking at the next packet fills the time in which the stores of the last ones wait
/// for their cache lines; as separate loops the two cost their sum.
#[inline(never)]
pub fn run<I: Isa, S: Source>(
    job: &Job<'_>,
    mut look: Lookup<'_>,
    destinations: &mut impl Destinations,
    budget: &mut WaitBudget,
    from: u32,
    source: S,
) -> Done {
    let ring = job.ring;
    let mut done = Done::default();
    let Some((data, len)) = plain(ring, source, from) else { return done };
    // SAFETY: `plain` checked the slot.
    let route = unsafe { look.route(data, len) };
    let port = match route {
        Route::Port(port) => port,
        // With two ports, everybody is the other one.
        Route::Flood => match job.switch.active().without(job.port).only() {
            Some(port) => port,
            None => return done,
        },
        Route::Nowhere | Route::Short | Route::Pause => return done,
    };
    let floods = route == Route::Flood;
    let Some(generation) = destinations.update(port) else { return done };
    if generation > job.epoch {
        return done;
    }
    let peer = destinations.get(port).expect("update found it");
    let to = match floods {
        true => RingNumber::FIRST,
        false => job.ring_no.among(peer.file.shape.rings.rx.len()),
    };
    let Ok(lease) = writer::hold(job.switch, peer, to, job.me, budget) else { return done };
    let mut out = Writer::new(peer, lease, job);
    // Somebody has chosen that since this sync began.
    if out.offset_mask != 0 || job.form_for(port).is_some() {
        out.finish(job.counters, &*destinations);
        return done;
    }
    let head = portion(job, from, out.num_slots());
    let (mut at, mut bytes) = (from, 0);
    while at != head {
        let end = if at < head { head } else { ring.n() };
        let from_slots = &ring.slots[at as usize..end as usize];
        let to_slots = out.stretch(from_slots.len());
        let from_slots = Queued { slots: from_slots, source };
        let copied = copy_run::<I, S>(from_slots, to_slots, &mut look, route);
        out.filled(copied);
        let n = copied.packets;
        bytes += copied.bytes;
        at = ring.step(at, n as u32);
        if n == from_slots.slots.len() || (n == to_slots.slots.len() && out.space > 0) {
            continue; // round the end of a ring
        }
        // Here the loop stopped: at another kind of packet, a full ring, or a damaged slot.
        let Some((data, len)) = plain(ring, source, at) else { break };
        // SAFETY: `plain` checked the slot.
        if unsafe { look.route(data, len) } != route {
            break;
        }
        if out.space > 0 {
            // SAFETY: the slot was checked; data in a buffer are whole lines.
            unsafe { out.put::<I>(data, len, S::EXACT, rx_flags(1, false)) };
            out.used(1);
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
    job.state.claim(at);
    out.finish(job.counters, &*destinations);
    (done.slots, done.bytes, done.portion) = (ring.distance(from, at), bytes, at == head);
    if done.slots > 0 {
        job.counters.add(C::tx_packets, done.slots.into());
        job.counters.add(C::flooded, if floods { done.slots.into() } else { 0 });
        job.counters.add(C::tx_bytes, bytes);
        job.counters.add(C::tx_batches, 1);
    }
    done
}

/// Where a run to a ring of `n` slots ends at the latest. A sender that is ahead queues up to a whole ring's worth while the
/// receiver reads. Published at once, the two would work in turns instead of at the same time.
fn portion(job: &Job<'_>, from: u32, n: u32) -> u32 {
    let most = n / 2;
    if job.ring.distance(from, job.head) > most { job.ring.step(from, most) } else { job.head }
}
