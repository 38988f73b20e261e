//! rx and rxseq: read every packet, at least its first line of cache, so that a rate counts packets that
//! a program has seen. rxseq and captures look at the bytes; they take the slower of the two loops.

use std::hint::black_box;

use netmap::{Interest, RxRing};
use nm_cli::units;
use nm_stream::{Kind, Mark, Streams};

use crate::cli::Function;
use crate::packet::template;
use crate::worker::{LOOK, Worker};

/// Traffic has ended when none came for this long (`--exit-if-empty`).
const IDLE_NS: u64 = 1_000_000_000;
/// A capture is flushed at least this often, and whenever nothing comes.
const FLUSH_NS: u64 = 100_000_000;
/// Streams of sequence numbers told apart; more are foreign.
const MAX_STREAMS: usize = 256;
/// Enough of a packet to hold all headers and the mark: 12 + 14 + 40 + 8 + 16, rounded up.
const HEAD_BYTES: usize = 96;

/// Receives until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let received = receive(worker);
    if let Some(capture) = worker.capture {
        capture.flush()?;
    }
    received
}

fn receive(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let mut look = Look::new(worker);
    let mut flushed_ns = 0;
    loop {
        if worker.control.stopped() || worker.complete() {
            break;
        }
        look.header = worker.header();
        let mut got = 0;
        for ring in 0..worker.port.rx_rings() {
            got += drain(worker, &mut look, ring);
        }
        let now = worker.control.clock.now_ns();
        if got > 0 {
            // Gives the slots back before anything else: a full ring makes senders drop.
            let synced = worker.port.rxsync();
            look.finish_batch(worker)?;
            worker.stamp(now);
            worker.publish(now);
            synced?;
            if let Some(capture) = worker.capture
                && now.saturating_sub(flushed_ns) > FLUSH_NS
            {
                flushed_ns = now;
                capture.flush()?;
            }
            continue;
        }
        worker.publish(now);
        if let Some(capture) = worker.capture {
            capture.flush()?;
        }
        if worker.port.ended() {
            break;
        }
        let ready = worker.port.wait(Interest::RX, worker.plan.wait, Some(LOOK))?;
        let quiet = worker.control.clock.now_ns().saturating_sub(worker.tally.last_ns);
        if ready.is_empty()
            && worker.plan.exit_if_empty
            && worker.tally.rx_packets > 0
            && quiet > IDLE_NS
        {
            break;
        }
    }
    Ok(())
}

/// Takes what a ring holds, at most a burst; returns the packets taken.
fn drain(worker: &mut Worker<'_>, look: &mut Look, ring: usize) -> usize {
    let (available, slots) = {
        let rx = worker.port.rx(ring);
        (rx.available(), rx.num_slots())
    };
    worker.tally.space = (slots - 1 - available.min(slots - 1)) as u64;
    if available == 0 {
        return 0;
    }
    // Under a count, exactly what is there is claimed: a thread that claimed more and gave it back
    // would leave a thread that saw nothing left, and has ended, with packets on its ring.
    let present = match worker.plan.count {
        Some(_) => packets_in(&worker.port.rx(ring), worker.plan.burst),
        None => available.min(worker.plan.burst),
    };
    let limit = worker.claim(present);
    if limit == 0 {
        return 0;
    }
    let taken = if look.needed {
        look.take(worker, ring, limit)
    } else {
        count(worker, look.header, ring, limit)
    };
    // What a peer took out of the ring between the two looks is claimed and not there.
    worker.give_back(limit - taken.packets);
    worker.received(taken.packets, taken.bytes, taken.pad_bytes);
    taken.packets
}

/// Packets in a ring, at most `most`; a chain that does not end counts as one, as it does when taken.
fn packets_in(rx: &RxRing<'_>, most: usize) -> usize {
    let (mut packets, mut open) = (0, false);
    for slot in rx.batch(usize::MAX) {
        open = slot.more_frag();
        packets += usize::from(!open);
        if packets == most {
            return most;
        }
    }
    packets + usize::from(open)
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    packets: usize,
    bytes: u64,
    pad_bytes: u64,
    /// Bytes of each packet that are no part of its frame.
    header: u64,
}

impl Taken {
    #[inline]
    fn packet(&mut self, bytes: u64) {
        let bytes = bytes.saturating_sub(self.header);
        self.packets += 1;
        self.bytes += bytes;
        self.pad_bytes += units::pad_bytes(bytes);
    }
}

/// The fast loop: reads a word of each slot, and nothing else is asked for.
fn count(worker: &mut Worker<'_>, header: usize, ring: usize, limit: usize) -> Taken {
    let mut rx = worker.port.rx(ring);
    let mut taken = Taken { header: header as u64, ..Taken::default() };
    let (mut slots, mut packet_bytes, mut read) = (0, 0, 0u64);
    for slot in rx.batch(usize::MAX) {
        let frame = slot.frame();
        let len = frame.len();
        if len >= 8 {
            read ^= frame.u64_at(0);
        }
        slots += 1;
        packet_bytes += len as u64;
        if !slot.more_frag() {
            taken.packet(packet_bytes);
            packet_bytes = 0;
            if taken.packets == limit {
                break;
            }
        }
    }
    black_box(read);
    close_chain(&mut taken, packet_bytes, limit);
    rx.advance(slots);
    taken
}

/// A chain of slots that does not end where the ring's content ends is a packet cut short: it must
/// count and go, or it would stay for ever.
fn close_chain(taken: &mut Taken, packet_bytes: u64, limit: usize) {
    if packet_bytes > 0 && taken.packets < limit {
        taken.packet(packet_bytes);
    }
}

/// Title of a packet: what its header leaves to others, if anything.
fn title(header: &[u8]) -> String {
    let bytes: Vec<_> = header.iter().map(|byte| format!("{byte:02x}")).collect();
    match header.iter().any(|&byte| byte != 0) {
        true => format!("rx, virtio-net header {}", bytes.join(" ")),
        false => "rx".to_owned(),
    }
}

/// What looks at packets: sequence numbers, capture, hexadecimal output.
struct Look {
    needed: bool,
    /// Whole packets are kept (capture, hexadecimal), not only their heads.
    whole: bool,
    heard: Option<Heard>,
    /// Bytes in front of each frame of the batch.
    header: usize,
    /// Bytes of the batch's packets, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Look {
    fn new(worker: &Worker<'_>) -> Look {
        let whole = worker.capture.is_some() || worker.plan.hexdump;
        let heard = (worker.plan.function == Function::Rxseq).then(Heard::default);
        Look {
            needed: whole || heard.is_some(),
            whole,
            heard,
            header: 0,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn take(&mut self, worker: &mut Worker<'_>, ring: usize, limit: usize) -> Taken {
        let mut rx = worker.port.rx(ring);
        let mut taken = Taken { header: self.header as u64, ..Taken::default() };
        let (mut slots, mut packet_bytes, mut begin) = (0, 0u64, self.bytes.len());
        for slot in rx.batch(usize::MAX) {
            let frame = slot.frame();
            let (len, at) = (frame.len(), self.bytes.len());
            let keep =
                if self.whole { len } else { len.min(HEAD_BYTES.saturating_sub(at - begin)) };
            self.bytes.resize(at + keep, 0);
            frame.copy_to(&mut self.bytes[at..]);
            slots += 1;
            packet_bytes += len as u64;
            if !slot.more_frag() {
                taken.packet(packet_bytes);
                packet_bytes = 0;
                self.end_packet(&mut begin);
                if taken.packets == limit {
                    break;
                }
            }
        }
        if packet_bytes > 0 {
            self.end_packet(&mut begin);
        }
        close_chain(&mut taken, packet_bytes, limit);
        rx.advance(slots);
        taken
    }

    fn end_packet(&mut self, begin: &mut usize) {
        let packet = self.bytes.get(*begin + self.header..).unwrap_or_default();
        if let Some(heard) = &mut self.heard {
            heard.note(packet);
        }
        if self.whole {
            self.ends.push(self.bytes.len());
        } else {
            self.bytes.truncate(*begin);
        }
        *begin = self.bytes.len();
    }

    /// After the slots were given back: the slow part.
    fn finish_batch(&mut self, worker: &mut Worker<'_>) -> anyhow::Result<()> {
        if let Some(heard) = &self.heard {
            let stats = heard.streams.stats();
            worker.tally.lost = stats.lost;
            worker.tally.reordered = stats.reordered;
            worker.tally.duplicated = stats.duplicated;
            worker.tally.foreign = heard.foreign;
        }
        if let Some(capture) = worker.capture {
            capture.write(&self.bytes, &self.ends, self.header)?;
        }
        if worker.plan.hexdump {
            let mut begin = 0;
            for &end in &self.ends {
                let (header, frame) = self.bytes[begin..end].split_at(self.header.min(end - begin));
                super::fill::print(worker.plan, &title(header), frame);
                begin = end;
            }
        }
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }
}

/// What this thread hears: marked packets of known senders, and others.
#[derive(Debug, Default)]
struct Heard {
    streams: Box<Streams<MAX_STREAMS>>,
    foreign: u64,
}

impl Heard {
    fn note(&mut self, packet: &[u8]) {
        let ours =
            |mark: Mark| mark.kind == Kind::Seq && self.streams.note(mark.stream(), mark.value);
        if !mark(packet).is_some_and(ours) {
            self.foreign += 1;
        }
    }
}

/// The mark of a packet without virtio-net header, if it has one.
pub fn mark(packet: &[u8]) -> Option<Mark> {
    let be16 = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (_, at) = template::mark_offset(packet.len(), be16, |at| packet[at])?;
    let half = |at: usize| packet[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    Mark::decode(half(at)?, half(at + 8)?)
}

#[cfg(test)]
mod tests {
    use nm_stream::SequenceStats;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::ip::Family;
    use crate::packet::template::Template;

    fn packet(run: u16, seq: u64) -> Vec<u8> {
        let mut template = Template::new(Family::V4, 0, 60);
        template.set_mark(
            Mark { seq: seq as u32, run, kind: Kind::Seq, thread: 0, value: seq }.encode(),
        );
        template.bytes()[..60].to_vec()
    }

    #[test]
    fn streams_are_told_apart() {
        let mut heard = Heard::default();
        for (run, seq) in [(1, 0), (2, 0), (1, 1), (2, 3), (1, 2), (1, 1)] {
            heard.note(&packet(run, seq));
        }
        assert_eq!(heard.streams.stats(), SequenceStats { lost: 2, reordered: 0, duplicated: 1 });
        assert_eq!(heard.foreign, 0);
    }

    #[test]
    fn streams_are_bounded() {
        let mut heard = Heard::default();
        for run in 0..1000 {
            heard.note(&packet(run, 0));
        }
        assert_eq!(
            (heard.streams.senders(), heard.foreign),
            (MAX_STREAMS, 1000 - MAX_STREAMS as u64)
        );
    }

    proptest! {
        #[test]
        fn strangers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut heard = Heard::default();
            heard.note(&bytes);
            prop_assert_eq!(heard.foreign + heard.streams.senders() as u64, 1);
        }
    }
}
