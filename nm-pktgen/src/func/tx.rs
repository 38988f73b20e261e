//! tx and txseq: fill a burst, sync, look at the schedule. Per packet there is no system call, no
//! allocation and no look at the clock; per burst one sync and at most two looks at the clock.
//!
//! Invariant: a ring is looked at once for a burst. What `Filler::fill` makes is bounded by the very
//! cursor that it fills, whatever a look before it has shown: a peer may have changed the ring since.

use netmap::Capabilities;
use nm_stream::{Kind, Mark};

use crate::cli::Function;
use crate::func::fill::Filler;
use crate::packet::rng::Rng;
use crate::packet::source::Source;
use crate::rate::{self, Pacer};
use crate::worker::Worker;

/// Without a rate, tallies are published after this many packets, to spare small bursts the clock.
const PUBLISH_PACKETS: usize = 64;

/// The mark of a thread's stream: the run's number is random even under a fixed seed, or a restarted
/// sender would look like its former self.
pub fn stream_mark(worker: &Worker<'_>, kind: Kind) -> Mark {
    let run = Rng::new(u64::from(std::process::id()), worker.plan.recipe.seed).next() as u16;
    Mark { seq: 0, run, kind, thread: worker.index as u8, value: 0 }
}

/// Sends until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let mut pacer = worker.pacer();
    let sent = send_all(worker, &mut pacer);
    let closed = worker.close();
    if let Some(pacer) = &pacer {
        pacer.tell();
    }
    sent.and(closed)
}

fn send_all(worker: &mut Worker<'_>, pacer: &mut Option<Pacer>) -> anyhow::Result<()> {
    let seq = worker.plan.function == Function::Txseq;
    let source = Source::new(&worker.plan.recipe, worker.index as u64);
    let rings: Vec<usize> =
        (0..worker.port.tx_rings()).map(|ring| worker.port.tx(ring).num_slots()).collect();
    let mark = seq.then(|| stream_mark(worker, Kind::Seq));
    let buf_bytes = worker.port.tx(0).buf_bytes();
    let by_reference = !worker.plan.no_indirect && worker.port.can(Capabilities::INDIRECT);
    let mut filler = Filler::new(worker.plan, source, &rings, buf_bytes, mark, by_reference)?;
    if !filler.indirect_bytes().is_empty() {
        worker.port.allow_indirect_static(filler.indirect_bytes())?;
    }
    if pacer.is_some() {
        rate::sharpen_timers();
    }
    let mut ring = 0;
    let mut unpublished = 0;
    while !worker.control.stopped() {
        let Some(allowed) = allowed(worker, pacer) else {
            continue;
        };
        // Rings take turns, so that all receivers' rings get the same.
        let Some((chosen, room)) = find_room(worker, ring, filler.slots_per_packet()) else {
            worker.publish(worker.control.clock.now_ns());
            worker.wait_space()?;
            continue;
        };
        let packets = worker.claim(allowed.min(room));
        if packets == 0 {
            break;
        }
        worker.begin();
        let made = filler.fill(&mut worker.port.tx(chosen), chosen, packets);
        worker.give_back(packets - made.packets);
        worker.queue(made);
        worker.port.txsync()?;
        worker.settle();
        if let Some(pacer) = pacer {
            pacer.charge(made.packets as u64, made.bytes);
        }
        ring = if chosen + 1 == rings.len() { 0 } else { chosen + 1 };
        unpublished += packets;
        if unpublished >= PUBLISH_PACKETS || pacer.is_some() {
            unpublished = 0;
            let now = worker.control.clock.now_ns();
            worker.stamp(now);
            worker.publish(now);
        }
    }
    Ok(())
}

/// Packets that the schedule allows now; `None` after waiting for it.
fn allowed(worker: &Worker<'_>, pacer: &mut Option<Pacer>) -> Option<usize> {
    let Some(pacer) = pacer else {
        return Some(worker.plan.burst);
    };
    let clock = worker.control.clock;
    match pacer.ready(clock.now_ns()) {
        Ok(packets) => Some(packets),
        Err(due) => {
            rate::wait_until(clock, due, &worker.control.stop);
            None
        }
    }
}

/// The next ring with room for a packet, and how many packets it seems to take.
fn find_room(worker: &mut Worker<'_>, from: usize, slots: usize) -> Option<(usize, usize)> {
    let rings = worker.port.tx_rings();
    for turn in 0..rings {
        let ring = if from + turn >= rings { from + turn - rings } else { from + turn };
        let space = worker.port.tx(ring).space();
        if space >= slots {
            worker.tally.space = space as u64;
            let room = if slots == 1 { space } else { space / slots };
            return Some((ring, room));
        }
    }
    worker.tally.space = 0;
    None
}
