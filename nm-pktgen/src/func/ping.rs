//! ping: sends a burst, waits for what pong sends back, and measures each packet's way there and back
//! with this process's own monotonic clock, which travels in the packet.
//!
//! Invariant: a number counts once, and each packet that was sent is either answered or lost, as ping(8)
//! counts. After [`ANSWER_NS`] the next burst goes out; an answer that comes later still counts.

use std::collections::HashSet;

use netmap::Interest;
use nm_cli::units;
use nm_stream::{Kind, Mark};

use crate::backlog::Batch;
use crate::func::rx;
use crate::func::tx::stream_mark;
use crate::packet::source::Source;
use crate::rate::{self, Pacer};
use crate::stats::lock;
use crate::worker::{LOOK, Worker};

/// A ping without an answer for this long is lost, unless the answer comes after all.
const ANSWER_NS: u64 = 1_000_000_000;
/// So long the answers of the last burst are waited for when the run is stopped.
const LAST_NS: u64 = 100_000_000;
/// Lost numbers whose answers would still count.
const LATE_MAX: usize = 65_536;

/// The numbers of one burst, and those of earlier ones that were not answered.
#[derive(Debug, Default)]
struct Outstanding {
    first: u32,
    answered: Vec<bool>,
    missing: usize,
    late: HashSet<u32>,
}

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The burst that is waited for.
    InTime,
    /// An earlier one.
    Late,
}

impl Outstanding {
    fn begin(&mut self, first: u32, count: usize) {
        self.first = first;
        self.answered.clear();
        self.answered.resize(count, false);
        self.missing = count;
    }

    /// Takes an answer, if its number was waited for.
    fn take(&mut self, seq: u32) -> Option<Answer> {
        match self.answered.get_mut(seq.wrapping_sub(self.first) as usize) {
            Some(answered) if !*answered => {
                *answered = true;
                self.missing -= 1;
                Some(Answer::InTime)
            }
            Some(_) => None,
            None => self.late.remove(&seq).then_some(Answer::Late),
        }
    }

    /// Stops waiting for what is missing; returns how many that are.
    fn give_up(&mut self) -> usize {
        for (seq, _) in self.answered.iter().enumerate().filter(|(_, answered)| !**answered) {
            if self.late.len() < LATE_MAX {
                self.late.insert(self.first.wrapping_add(seq as u32));
            }
        }
        std::mem::take(&mut self.missing)
    }
}

/// Sends and measures until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let mut pacer = worker.pacer();
    if pacer.is_some() {
        rate::sharpen_timers();
    }
    let measured = measure(worker, &mut pacer);
    let closed = worker.close();
    if let Some(pacer) = &pacer {
        pacer.tell();
    }
    measured.and(closed)
}

fn measure(worker: &mut Worker<'_>, pacer: &mut Option<Pacer>) -> anyhow::Result<()> {
    let mut source = Source::new(&worker.plan.recipe, worker.index as u64);
    let stream = stream_mark(worker, Kind::Ping);
    let mut outstanding = Outstanding::default();
    let mut head = Vec::new();
    let mut seq = 0u32;
    let clock = worker.control.clock;
    while !worker.control.stopped() {
        if let Some(pacer) = pacer
            && let Err(due) = pacer.ready(clock.now_ns())
        {
            rate::wait_until(clock, due, &worker.control.stop);
            continue;
        }
        let packets = worker.claim(worker.plan.burst);
        if packets == 0 {
            break;
        }
        outstanding.begin(seq, packets);
        worker.stamp(clock.now_ns());
        for sent in 0..packets {
            let len = source.next();
            source.set_mark(Mark { seq, value: clock.now_ns(), ..stream });
            if !push(worker, &source.bytes()[..len])? {
                outstanding.missing = sent;
                outstanding.answered.truncate(sent);
                worker.give_back(packets - sent);
                break;
            }
            seq = seq.wrapping_add(1);
            if worker.plan.hexdump {
                super::fill::print(worker.plan, "tx", &source.bytes()[source.vnet()..len]);
            }
            if let Some(pacer) = pacer {
                pacer.charge(1, len as u64);
            }
        }
        worker.port.txsync()?;
        worker.settle();
        let sent_ns = clock.now_ns();
        let mut stopped_ns = None;
        while outstanding.missing > 0 {
            listen(worker, stream, &mut outstanding, &mut head)?;
            let now = clock.now_ns();
            let last = worker.control.stopped() && now > *stopped_ns.get_or_insert(now) + LAST_NS;
            if last || now > sent_ns + ANSWER_NS || worker.control.hurried() {
                worker.tally.lost += outstanding.give_up() as u64;
            }
        }
        worker.publish(clock.now_ns());
    }
    Ok(())
}

/// Queues a packet, waiting for space if need be; false if the run was stopped.
fn push(worker: &mut Worker<'_>, packet: &[u8]) -> anyhow::Result<bool> {
    loop {
        let mut tx = worker.port.tx(0);
        let space = tx.space();
        if tx.push(packet) {
            let slots = space - tx.space();
            worker.tally.space = tx.space() as u64;
            let bytes = packet.len() as u64;
            let pad_bytes = units::pad_bytes(bytes);
            worker.queue(Batch { slots, packets: 1, bytes, pad_bytes });
            return Ok(true);
        }
        worker.sync()?;
        if worker.control.stopped() {
            return Ok(false);
        }
        worker.wait_space()?;
    }
}

/// Waits for packets and takes the answers among them.
fn listen(
    worker: &mut Worker<'_>,
    stream: Mark,
    outstanding: &mut Outstanding,
    head: &mut Vec<u8>,
) -> anyhow::Result<()> {
    worker.port.wait(Interest::RX, worker.plan.wait, Some(LOOK))?;
    worker.settle();
    let now = worker.control.clock.now_ns();
    let (mut packets, mut bytes, mut pad_bytes) = (0, 0, 0);
    for ring in 0..worker.port.rx_rings() {
        let mut rx = worker.port.rx(ring);
        let slots = rx.available();
        let mut begins = true;
        let mut len = 0;
        for slot in rx.batch(slots) {
            let frame = slot.frame();
            if begins {
                head.resize(frame.len().min(96), 0);
                frame.copy_to(head);
                len = 0;
            }
            len += frame.len() as u64;
            begins = !slot.more_frag();
            if !begins {
                continue;
            }
            let found = head.get(worker.plan.recipe.vnet..).and_then(rx::mark);
            match found {
                Some(mark)
                    if mark.kind == Kind::Pong
                        && mark.stream() == stream.stream()
                        && let Some(answer) = outstanding.take(mark.seq) =>
                {
                    worker.tally.lost -= u64::from(answer == Answer::Late);
                    let rtt = now.saturating_sub(mark.value);
                    let mut round_trips = lock(&worker.board.round_trips);
                    round_trips.total.record(rtt);
                    round_trips.interval.record(rtt);
                    packets += 1;
                    let len = len.saturating_sub(worker.plan.recipe.vnet as u64);
                    bytes += len;
                    pad_bytes += units::pad_bytes(len);
                }
                _ => worker.tally.foreign += 1,
            }
            if worker.plan.hexdump {
                let frame = head.get(worker.plan.recipe.vnet..).unwrap_or_default();
                super::fill::print(worker.plan, "rx (first 96 bytes)", frame);
            }
        }
        rx.advance(slots);
    }
    if packets > 0 {
        worker.received(packets, bytes, pad_bytes);
        worker.stamp(now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_once_and_across_the_wrap() {
        let mut outstanding = Outstanding::default();
        outstanding.begin(u32::MAX, 2);
        assert_eq!(outstanding.take(u32::MAX), Some(Answer::InTime));
        assert_eq!(outstanding.take(0), Some(Answer::InTime));
        assert_eq!(outstanding.take(0), None, "twice");
        assert_eq!(outstanding.take(1), None, "not sent");
        assert_eq!(outstanding.missing, 0);
    }

    #[test]
    fn late_answers_count_once_too() {
        let mut outstanding = Outstanding::default();
        outstanding.begin(7, 2);
        assert_eq!(outstanding.take(7), Some(Answer::InTime));
        assert_eq!((outstanding.give_up(), outstanding.missing), (1, 0));
        outstanding.begin(9, 1);
        assert_eq!(outstanding.take(8), Some(Answer::Late));
        assert_eq!((outstanding.take(8), outstanding.take(7)), (None, None));
        assert_eq!(outstanding.missing, 1);
    }
}
