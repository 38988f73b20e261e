//! ping: sends a burst, waits for what pong sends back, and measures each packet's way there and back
//! with this process's own monotonic clock, which travels in the packet.
//!
//! Invariant: a number counts once. An answer is taken if its number is outstanding; after
//! [`ANSWER_NS`] an outstanding number is lost, and its late answer is foreign.

use netmap::Interest;
use nm_cli::units;
use nm_stream::{Kind, Mark};

use crate::func::rx;
use crate::func::tx::stream_mark;
use crate::packet::source::Source;
use crate::rate;
use crate::stats::lock;
use crate::worker::{LOOK, Worker};

/// A ping without an answer for this long is lost.
const ANSWER_NS: u64 = 1_000_000_000;

/// The numbers of one burst.
#[derive(Debug, Default)]
struct Outstanding {
    first: u32,
    answered: Vec<bool>,
    missing: usize,
}

impl Outstanding {
    fn begin(&mut self, first: u32, count: usize) {
        self.first = first;
        self.answered.clear();
        self.answered.resize(count, false);
        self.missing = count;
    }

    /// True if the number was waited for.
    fn take(&mut self, seq: u32) -> bool {
        match self.answered.get_mut(seq.wrapping_sub(self.first) as usize) {
            Some(answered) if !*answered => {
                *answered = true;
                self.missing -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Sends and measures until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let mut source = Source::new(&worker.plan.recipe, worker.index as u64);
    let stream = stream_mark(worker, Kind::Ping);
    let mut outstanding = Outstanding::default();
    let mut head = Vec::new();
    let mut seq = 0u32;
    let clock = worker.control.clock;
    let mut pacer = worker.pacer();
    if pacer.is_some() {
        rate::sharpen_timers();
    }
    while !worker.control.stopped() {
        if let Some(pacer) = &mut pacer
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
        for _ in 0..packets {
            let len = source.next();
            source.set_mark(Mark { seq, value: clock.now_ns(), ..stream });
            seq = seq.wrapping_add(1);
            if !push(worker, &source.bytes()[..len])? {
                return Ok(());
            }
            worker.sent_one(len);
            if worker.plan.hexdump {
                super::fill::print("tx", &source.bytes()[..len], worker.plan.output.machine());
            }
            if let Some(pacer) = &mut pacer {
                pacer.charge(1, len as u64);
            }
        }
        worker.port.txsync()?;
        worker.tally.tx_batches += 1;
        let deadline = clock.now_ns() + ANSWER_NS;
        while outstanding.missing > 0 {
            listen(worker, stream, &mut outstanding, &mut head)?;
            let now = clock.now_ns();
            if worker.control.stopped() && outstanding.missing > 0 && now < deadline {
                // What is under way when the run is stopped is neither answered nor lost.
                worker.tally.tx_packets -= outstanding.missing as u64;
                break;
            }
            if now >= deadline {
                worker.tally.lost += outstanding.missing as u64;
                break;
            }
        }
        worker.publish(clock.now_ns());
    }
    Ok(())
}

/// Queues a packet, waiting for space if need be; false if the run was stopped.
pub fn push(worker: &mut Worker<'_>, packet: &[u8]) -> anyhow::Result<bool> {
    loop {
        let mut tx = worker.port.tx(0);
        if tx.push(packet) {
            worker.tally.space = tx.space() as u64;
            return Ok(true);
        }
        worker.port.txsync()?;
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
                        && outstanding.take(mark.seq) =>
                {
                    let rtt = now.saturating_sub(mark.value);
                    let mut round_trips = lock(&worker.board.round_trips);
                    round_trips.total.record(rtt);
                    round_trips.interval.record(rtt);
                    packets += 1;
                    bytes += len;
                    pad_bytes += units::pad_bytes(len);
                }
                _ => worker.tally.foreign += 1,
            }
            if worker.plan.hexdump {
                super::fill::print("rx (first 96 bytes)", head, worker.plan.output.machine());
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
        assert!(outstanding.take(u32::MAX) && outstanding.take(0));
        assert!(!outstanding.take(0), "twice");
        assert!(!outstanding.take(1), "not sent");
        assert_eq!(outstanding.missing, 0);
    }
}
