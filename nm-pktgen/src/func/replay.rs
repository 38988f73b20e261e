//! tx from a capture file: packets as they are, at their own times, at a multiple, at a rate or at once.
//! Each passes on when it comes, be the file a silent pipe; `schedule` says when it is due.
//!
//! Invariant: however a replay ends, what was queued is pushed out and counted first.

use std::time::Duration;

use anyhow::Context;
use nm_capture::{Next, Options, Reader};
use nm_cli::{say, units};

use super::schedule::{Odd, PASS_NS, Schedule};
use crate::backlog::Batch;
use crate::cli::Speed;
use crate::plan::{Plan, Replay};
use crate::rate::{self, Pacer};
use crate::worker::{LOOK, Worker};

/// A wait longer than this is announced: nobody shall wonder why nothing happens.
const LONG_NS: u64 = 5_000_000_000;

/// Opens the capture of a replay.
pub fn open(plan: &Plan, replay: &Replay) -> anyhow::Result<Reader> {
    let mut options = Options::frames(plan.to_ethernet());
    options.longest = options.longest.map(|longest| longest - plan.recipe.vnet);
    Ok(Reader::open(&replay.path, options)?)
}

/// A replay in progress.
struct Player {
    replay: Replay,
    reader: Reader,
    schedule: Option<Schedule>,
    pacer: Option<Pacer>,
    frame: Vec<u8>,
    vnet: usize,
    ring: usize,
    /// The input had nothing since the last packet, so that a late packet is not our fault.
    starved: bool,
    gaps: u64,
    backs: u64,
    slips: u64,
    late: Duration,
}

/// Replays until the file was played often enough or the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let replay = worker.plan.replay.clone().context("there is nothing to replay")?;
    let reader = match worker.input.take() {
        Some(reader) => reader,
        None => open(worker.plan, &replay)?,
    };
    rate::sharpen_timers();
    let vnet = worker.plan.recipe.vnet;
    let mut player = Player {
        schedule: match replay.speed {
            Speed::Times(times) => Some(Schedule::new(times, replay.longest_gap)),
            Speed::Max => None,
        },
        replay,
        reader,
        pacer: worker.pacer(),
        frame: vec![0; vnet],
        vnet,
        ring: 0,
        starved: false,
        gaps: 0,
        backs: 0,
        slips: 0,
        late: Duration::ZERO,
    };
    let played = player.play(worker);
    let closed = worker.close();
    player.tell();
    if let Some(pacer) = &player.pacer {
        pacer.tell();
    }
    played.and(closed)
}

impl Player {
    fn play(&mut self, worker: &mut Worker<'_>) -> anyhow::Result<()> {
        for pass in 0.. {
            if self.replay.times != 0 && pass == self.replay.times {
                break;
            }
            if pass > 0 {
                self.reader = open(worker.plan, &self.replay)?;
                self.rewind(pass);
            }
            let (mut packets, left_out) = (0u64, worker.left_out);
            loop {
                if worker.control.stopped() {
                    return Ok(());
                }
                let next = self.reader.advance();
                worker.left_out = left_out + self.reader.notes().left_out();
                match next? {
                    Next::Packet if self.send(worker)? => packets += 1,
                    Next::Packet => return Ok(()),
                    Next::Other => {}
                    Next::Pending => {
                        worker.sync()?;
                        self.starved = true;
                        self.reader.wait(LOOK)?;
                    }
                    Next::End => break,
                }
            }
            if packets == 0 {
                anyhow::bail!("{} holds no packet that can be sent", self.reader.path().display());
            }
        }
        Ok(())
    }

    fn rewind(&mut self, pass: u64) {
        let paced = self.schedule.as_mut().is_none_or(Schedule::again);
        if !paced && pass == 1 {
            let pace = Duration::from_nanos(PASS_NS);
            say!(
                "nm-pktgen: {} has no time between its packets; it is sent once every {pace:?} \
                 (--pcap-speed max or --rate would set another pace)",
                self.reader.path().display()
            );
        }
    }

    /// Sends the packet that the reader found; false if the run is over.
    fn send(&mut self, worker: &mut Worker<'_>) -> anyhow::Result<bool> {
        let packet = self.reader.packet();
        self.frame.truncate(self.vnet);
        self.frame.extend_from_slice(packet.data);
        let ts = packet.ts;
        let clock = worker.control.clock;
        let due = self.schedule.as_mut().map(|schedule| schedule.due(ts, clock.now_ns()));
        if let Some((_, Some(odd))) = due {
            self.note(odd);
        }
        self.wait_due(worker, due.map(|(due, _)| due))?;
        if worker.control.stopped() || worker.claim(1) == 0 {
            return Ok(false);
        }
        worker.begin();
        let Some(slots) = self.push(worker)? else {
            worker.give_back(1);
            return Ok(false);
        };
        let frame = &self.frame[self.vnet..];
        let len = frame.len() as u64;
        worker.queue(Batch { slots, packets: 1, bytes: len, pad_bytes: units::pad_bytes(len) });
        if worker.plan.hexdump {
            super::fill::print(worker.plan, "tx", frame);
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.charge(1, len);
        }
        if worker.queued() >= worker.plan.burst {
            worker.sync()?;
        }
        Ok(true)
    }

    /// Waits until a packet may go out; what is queued goes out before.
    fn wait_due(&mut self, worker: &mut Worker<'_>, due: Option<u64>) -> anyhow::Result<()> {
        let clock = worker.control.clock;
        let mut told = false;
        loop {
            // The clock is read a packet only where packets have times.
            let until = match (&mut self.pacer, due) {
                (Some(pacer), _) => pacer.ready(clock.now_ns()).err(),
                (None, Some(due)) => (due > clock.now_ns()).then_some(due),
                (None, None) => None,
            };
            let Some(until) = until.filter(|_| !worker.control.stopped()) else {
                break;
            };
            worker.sync()?;
            let left = until.saturating_sub(clock.now_ns());
            if left > LONG_NS && !told && !worker.plan.output.quiet {
                told = true;
                let left = Duration::from_secs(left / 1_000_000_000);
                say!("nm-pktgen: the next packet is due in {}", humantime::format_duration(left));
            }
            rate::wait_until(clock, until, &worker.control.stop);
        }
        if let Some(schedule) = &mut self.schedule
            && !worker.control.stopped()
            && let Some(late) = schedule.slip(clock.now_ns())
            && !std::mem::take(&mut self.starved)
        {
            self.slips += 1;
            self.late += late;
        }
        self.starved = false;
        Ok(())
    }

    /// Queues the frame, waiting for space if need be; returns its slots, `None` if the run was stopped.
    fn push(&mut self, worker: &mut Worker<'_>) -> anyhow::Result<Option<usize>> {
        loop {
            for _ in 0..worker.port.tx_rings() {
                let mut tx = worker.port.tx(self.ring);
                let space = tx.space();
                if tx.push(&self.frame) {
                    worker.tally.space = tx.space() as u64;
                    return Ok(Some(space - tx.space()));
                }
                self.ring = (self.ring + 1) % worker.port.tx_rings();
            }
            worker.sync()?;
            if worker.control.stopped() {
                return Ok(None);
            }
            worker.wait_space()?;
        }
    }

    /// Says what is odd about the file's time, the first time; the rest is summed up in the end.
    fn note(&mut self, odd: Odd) {
        let path = self.reader.path().display();
        let whole = |time: Duration| match time.as_secs() {
            0 => humantime::format_duration(Duration::from_millis(time.subsec_millis().into())),
            seconds => humantime::format_duration(Duration::from_secs(seconds)),
        };
        match odd {
            Odd::Gap(gap) => {
                self.gaps += 1;
                if self.gaps == 1 {
                    say!(
                        "nm-pktgen: {path} has a gap of {}, which is shortened to {} (--pcap-max-gap)",
                        whole(gap),
                        whole(self.replay.longest_gap)
                    );
                }
            }
            Odd::Back(back) => {
                self.backs += 1;
                if self.backs == 1 {
                    say!(
                        "nm-pktgen: the clock of {path} steps back by {}; the pace goes on",
                        whole(back)
                    );
                }
            }
        }
    }

    /// Says in the end what happened on the way.
    fn tell(&self) {
        let path = self.reader.path().display();
        if self.gaps > 1 {
            say!("nm-pktgen: {} gaps of {path} were shortened", self.gaps);
        }
        if self.backs > 1 {
            say!("nm-pktgen: the clock of {path} stepped back {} times", self.backs);
        }
        rate::tell_slips(self.slips, self.late);
        for sentence in self.reader.notes().sentences(self.reader.path()) {
            say!("nm-pktgen: {sentence}");
        }
    }
}
