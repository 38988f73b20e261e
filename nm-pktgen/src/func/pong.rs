//! pong: sends what ping sends back to it, with source and destination exchanged. Packets that are not
//! ping's are counted and left alone: two programs that answer everything would never fall silent.

use netmap::Interest;
use nm_cli::units;
use nm_stream::Kind;

use crate::backlog::Batch;
use crate::packet::template;
use crate::worker::{LOOK, Worker};

/// Longest packet that is answered. A peer can chain more, which no ring might ever take.
const MAX_PACKET: usize = 65_535;
/// As for `--exit-if-empty` of rx.
const IDLE_NS: u64 = 1_000_000_000;

/// Answers until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let answered = answer_all(worker);
    answered.and(worker.close())
}

fn answer_all(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    while !worker.control.stopped() && !worker.complete() {
        let ready = worker.port.wait(Interest::RX, worker.plan.wait, Some(LOOK))?;
        let now = worker.control.clock.now_ns();
        if ready.is_empty() {
            worker.publish(now);
            let quiet = now.saturating_sub(worker.tally.last_ns);
            if worker.plan.exit_if_empty && worker.tally.rx_packets > 0 && quiet > IDLE_NS {
                break;
            }
            continue;
        }
        for ring in 0..worker.port.rx_rings() {
            loop {
                let taken = gather(worker, ring, &mut bytes, &mut ends);
                if taken == 0 {
                    break;
                }
                ends.truncate(worker.claim(ends.len()));
                if !answer(worker, ring, &mut bytes, &ends)? {
                    return Ok(());
                }
                worker.stamp(worker.control.clock.now_ns());
            }
        }
        worker.publish(worker.control.clock.now_ns());
    }
    Ok(())
}

/// Copies up to a burst of packets that deserve an answer out of a ring; returns how many slots it took.
fn gather(
    worker: &mut Worker<'_>,
    ring: usize,
    bytes: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> usize {
    bytes.clear();
    ends.clear();
    let mut rx = worker.port.rx(ring);
    let (mut slots, mut begin, mut foreign) = (0, 0, 0);
    for slot in rx.batch(usize::MAX) {
        if ends.len() == worker.plan.burst {
            break;
        }
        let frame = slot.frame();
        let at = bytes.len();
        let keep = frame.len().min((MAX_PACKET + 1).saturating_sub(at - begin));
        bytes.resize(at + keep, 0);
        frame.copy_to(&mut bytes[at..]);
        slots += 1;
        if slot.more_frag() {
            continue;
        }
        let packet = bytes.get_mut(begin + worker.plan.recipe.vnet..).unwrap_or_default();
        if packet.len() <= MAX_PACKET && turn(packet) {
            ends.push(bytes.len());
        } else {
            foreign += 1;
            bytes.truncate(begin);
        }
        begin = bytes.len();
    }
    rx.advance(slots);
    worker.tally.foreign += foreign;
    slots
}

/// Turns a ping around; false if it is none.
fn turn(packet: &mut [u8]) -> bool {
    let found = {
        let read = &*packet;
        let be16 = |at: usize| u16::from_be_bytes([read[at], read[at + 1]]);
        template::mark_offset(read.len(), be16, |at| read[at])
    };
    match (found, super::rx::mark(packet)) {
        (Some((family, at)), Some(mark)) if mark.kind == Kind::Ping => {
            template::turn(packet, family, at);
            true
        }
        _ => false,
    }
}

/// Sends the gathered packets, on the ring of the number they came from; false if the run was stopped.
fn answer(
    worker: &mut Worker<'_>,
    ring: usize,
    bytes: &mut [u8],
    ends: &[usize],
) -> anyhow::Result<bool> {
    if ends.is_empty() {
        return Ok(true);
    }
    let tx_ring = ring % worker.port.tx_rings().max(1);
    let mut begin = 0;
    let (mut total, mut pad_bytes) = (0, 0);
    for &end in ends {
        let packet = &bytes[begin..end];
        let slots = loop {
            let mut tx = worker.port.tx(tx_ring);
            let space = tx.space();
            if tx.push(packet) {
                break space - tx.space();
            }
            worker.sync()?;
            if worker.control.stopped() {
                return Ok(false);
            }
            worker.wait_space()?;
        };
        let frame = packet.get(worker.plan.recipe.vnet..).unwrap_or_default();
        let (len, pad) = (frame.len() as u64, units::pad_bytes(frame.len() as u64));
        worker.queue(Batch { slots, packets: 1, bytes: len, pad_bytes: pad });
        if worker.plan.hexdump {
            super::fill::print(worker.plan, "tx", frame);
        }
        total += len;
        pad_bytes += pad;
        begin = end;
    }
    worker.received(ends.len(), total, pad_bytes);
    worker.sync()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ip::Family;
    use crate::packet::template::Template;
    use nm_stream::Mark;

    #[test]
    fn only_pings_are_turned_and_only_once() {
        let mut template = Template::new(Family::V6, 0, 80);
        template.set_mark(Mark { seq: 1, run: 2, kind: Kind::Ping, thread: 0, value: 5 }.encode());
        let mut packet = template.bytes()[..80].to_vec();
        assert!(turn(&mut packet));
        assert_eq!(super::super::rx::mark(&packet).map(|mark| mark.kind), Some(Kind::Pong));
        assert!(!turn(&mut packet), "a pong is not answered");
        assert!(!turn(&mut [0; 60]));
        assert!(!turn(&mut []));
    }
}
