//! tx from a capture file: packets as they are, at their own times, at a multiple, at a rate or at once.
//! Packet k is due at the start plus its distance from the first packet, so waits do not add up.

use nm_capture::{Options, Reader};

use crate::cli::Speed;
use crate::rate;
use crate::worker::Worker;

/// Longest packet that fits netmap's 64 slots of a packet and the tools' idea of one.
const MAX_PACKET: usize = 65_535;

/// Where a pass through the file stands in time.
struct Schedule {
    speed: Speed,
    /// When the pass began (known once the first packet was read), and its first packet's time in
    /// the file.
    start_ns: Option<u64>,
    first_ns: Option<u64>,
    /// When the last packet was due: where the next pass goes on.
    last_due_ns: u64,
}

impl Schedule {
    /// When a packet with this time in the file is due; `None` is now.
    fn due(&mut self, ts_ns: u64, clock: impl FnOnce() -> u64) -> Option<u64> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let first = *self.first_ns.get_or_insert(ts_ns);
        // Files may go back in time; such packets are due at once.
        let offset = ts_ns.saturating_sub(first) as f64 / times;
        self.last_due_ns = self.start_ns.get_or_insert_with(clock).saturating_add(offset as u64);
        Some(self.last_due_ns)
    }
}

/// Replays until the file was played often enough or the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let Some(replay) = worker.plan.replay.clone() else {
        return Ok(());
    };
    let mut pacer = worker.pacer();
    rate::sharpen_timers();
    let clock = worker.control.clock;
    let mut schedule =
        Schedule { speed: replay.speed, start_ns: None, first_ns: None, last_due_ns: 0 };
    let mut frame = vec![0; worker.plan.recipe.vnet];
    let (mut queued, mut skipped, mut cut, mut ring) = (0, 0u64, 0u64, 0);
    let mut pass = 0;
    'passes: while replay.times == 0 || pass < replay.times {
        if pass > 0 {
            schedule.start_ns = schedule.start_ns.map(|_| schedule.last_due_ns);
            schedule.first_ns = None;
        }
        pass += 1;
        let mut reader = Reader::open(&replay.path, Options::default())?;
        let mut found = false;
        while let Some(packet) = reader.next()? {
            found = true;
            if packet.data.len() + worker.plan.recipe.vnet > MAX_PACKET || packet.data.is_empty() {
                skipped += 1;
                continue;
            }
            cut += u64::from(packet.orig_len as usize > packet.data.len());
            let due = schedule.due(packet.ts.as_nanos() as u64, || clock.now_ns());
            queued = wait_due(worker, &mut pacer, due, queued)?;
            if worker.control.stopped() || worker.claim(1) == 0 {
                break 'passes;
            }
            frame.truncate(worker.plan.recipe.vnet);
            frame.extend_from_slice(packet.data);
            if worker.tally.first_ns == 0 {
                worker.stamp(worker.control.clock.now_ns());
            }
            if !push(worker, &frame, &mut ring, &mut queued)? {
                worker.give_back(1);
                break 'passes;
            }
            if worker.plan.hexdump {
                super::fill::print("tx", &frame, worker.plan.output.machine());
            }
            worker.sent_one(frame.len());
            if let Some(pacer) = &mut pacer {
                pacer.charge(1, frame.len() as u64);
            }
            queued += 1;
            if queued >= worker.plan.burst {
                queued = sync(worker)?;
            }
        }
        if !found {
            anyhow::bail!("{} holds no packets to replay", replay.path.display());
        }
    }
    // Only a stopped run in front of a full destination leaves something: one packet a slot, mostly.
    let unsent = worker.flush()? as u64;
    worker.unsend(unsent);
    if queued > 0 {
        worker.tally.tx_batches += 1;
        worker.stamp(worker.control.clock.now_ns());
    }
    warn(skipped, "were not sent: empty, or longer than 65535 bytes");
    warn(cut, "were cut by the capture and sent in their cut form");
    Ok(())
}

/// Waits until a packet may go out; what is queued goes out before.
fn wait_due(
    worker: &mut Worker<'_>,
    pacer: &mut Option<rate::Pacer>,
    due: Option<u64>,
    mut queued: usize,
) -> anyhow::Result<usize> {
    let clock = worker.control.clock;
    loop {
        // The clock is read a packet only where packets have times.
        let until = match (&mut *pacer, due) {
            (Some(pacer), _) => pacer.ready(clock.now_ns()).err(),
            (None, Some(due)) => (due > clock.now_ns()).then_some(due),
            (None, None) => None,
        };
        let Some(until) = until.filter(|_| !worker.control.stopped()) else {
            return Ok(queued);
        };
        if queued > 0 {
            queued = sync(worker)?;
        }
        rate::wait_until(clock, until, &worker.control.stop);
    }
}

/// Queues a packet, waiting for space if need be; false if the run was stopped.
fn push(
    worker: &mut Worker<'_>,
    frame: &[u8],
    ring: &mut usize,
    queued: &mut usize,
) -> anyhow::Result<bool> {
    loop {
        for _ in 0..worker.port.tx_rings() {
            let mut tx = worker.port.tx(*ring);
            if tx.push(frame) {
                worker.tally.space = tx.space() as u64;
                return Ok(true);
            }
            *ring = (*ring + 1) % worker.port.tx_rings();
        }
        *queued = sync(worker)?;
        if worker.control.stopped() {
            return Ok(false);
        }
        worker.wait_space()?;
    }
}

fn sync(worker: &mut Worker<'_>) -> anyhow::Result<usize> {
    worker.port.txsync()?;
    worker.tally.tx_batches += 1;
    let now = worker.control.clock.now_ns();
    worker.stamp(now);
    worker.publish(now);
    Ok(0)
}

fn warn(packets: u64, what: &str) {
    if packets > 0 {
        nm_cli::say!("nm-pktgen: {packets} packets of the file {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_keep_the_distance_from_the_first_packet() {
        let mut schedule =
            Schedule { speed: Speed::Times(2.0), start_ns: None, first_ns: None, last_due_ns: 0 };
        assert_eq!(schedule.due(50_000, || 1000), Some(1000));
        assert_eq!(schedule.due(54_000, || 9999), Some(3000));
        assert_eq!(schedule.due(40_000, || 9999), Some(1000), "a step back is due at once");
        schedule.speed = Speed::Max;
        assert_eq!(schedule.due(60_000, || 9999), None);
    }
}
