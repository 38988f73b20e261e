//! One thread of a run: its port, what it counts, and what the whole run shares. The functions in
//! `func` are written against this.

use std::sync::atomic::Ordering;
use std::time::Duration;

use netmap::{Counters, Interest, Port, Wait};
use nm_capture::Reader;
use nm_cli::say;

use crate::backlog::{Backlog, Batch};
use crate::capture::Capture;
use crate::control::Control;
use crate::plan::Plan;
use crate::rate::{Pacer, Target};
use crate::stats::{Board, Tally};

/// Longest wait between two looks at the stop flag.
pub const LOOK: Duration = Duration::from_millis(100);
/// How often the port's drop counters are read.
const DROPS_NS: u64 = 10_000_000;

/// One thread.
#[derive(Debug)]
pub struct Worker<'a> {
    /// Which one.
    pub index: usize,
    /// Its port.
    pub port: Port,
    /// What to do.
    pub plan: &'a Plan,
    /// What all threads share.
    pub control: &'a Control,
    /// Where to publish.
    pub board: &'a Board,
    /// The capture file.
    pub capture: Option<&'a Capture>,
    /// The capture to replay, open since before the port.
    pub input: Option<Reader>,
    /// What was counted, warm-up included.
    pub tally: Tally,
    /// Records of a replayed capture that are no frames.
    pub left_out: u64,
    /// What was queued and not counted yet.
    backlog: Backlog,
    /// The port's counters before the run.
    before: Counters,
    /// The warm-up is over and the tally was rebased.
    counted: bool,
    drops_at_ns: u64,
    /// Whether somebody keeps what is queued from moving.
    held: Held,
}

/// How long nothing has moved.
#[derive(Clone, Copy, Debug)]
enum Held {
    No,
    /// Since that time of the run's clock.
    Since(u64),
    /// So long that it was said.
    Told,
}

impl<'a> Worker<'a> {
    /// A thread that will work on a port, given with its number and what it had counted before.
    pub fn new(
        (index, port, before): (usize, Port, Counters),
        plan: &'a Plan,
        control: &'a Control,
        board: &'a Board,
        capture: Option<&'a Capture>,
        input: Option<Reader>,
    ) -> Worker<'a> {
        Worker {
            index,
            port,
            plan,
            control,
            board,
            capture,
            input,
            tally: Tally::default(),
            left_out: 0,
            backlog: Backlog::default(),
            before,
            // Without a warm-up all counts, also what comes before the thread's first look.
            counted: plan.warmup.is_zero(),
            drops_at_ns: 0,
            held: Held::No,
        }
    }

    /// Bytes in front of each frame. A monitor's are those of the port that it sees, and may change; nobody changes others.
    pub fn header(&self) -> usize {
        let may_change = self.plan.own_header && self.port.name().is_monitor();
        if may_change { self.port.vnet_hdr_len().into() } else { self.plan.recipe.vnet }
    }

    /// Takes up to `want` packets out of what the run may still move; 0 ends the run. What moves in
    /// the warm-up is free.
    pub fn claim(&mut self, want: usize) -> usize {
        if self.counts() { self.control.claim(want) } else { want }
    }

    /// True once the warm-up is over; forgets it when it is.
    fn counts(&mut self) -> bool {
        if !self.counted && self.control.measuring.load(Ordering::Relaxed) {
            self.counted = true;
            self.refresh_drops();
            self.tally.first_ns = 0;
            self.board.rebase(&self.tally);
        }
        self.counted
    }

    /// True if nothing is left to claim.
    pub fn complete(&self) -> bool {
        self.control.exhausted()
    }

    /// Returns what was claimed and not used.
    pub fn give_back(&self, packets: usize) {
        if self.counted && packets > 0 {
            self.control.give_back(packets);
        }
    }

    /// Notes when a batch moved.
    pub fn stamp(&mut self, now_ns: u64) {
        if self.tally.first_ns == 0 {
            self.tally.first_ns = now_ns.max(1);
        }
        self.tally.last_ns = now_ns;
    }

    /// Notes when the first batch begins.
    pub fn begin(&mut self) {
        if self.tally.first_ns == 0 {
            self.stamp(self.control.clock.now_ns());
        }
    }

    /// Shows the tally to the main thread, once the warm-up is over.
    pub fn publish(&mut self, now_ns: u64) {
        if !self.counts() {
            return;
        }
        if now_ns.saturating_sub(self.drops_at_ns) > DROPS_NS {
            self.drops_at_ns = now_ns;
            self.refresh_drops();
        }
        self.board.publish(&self.tally);
    }

    /// Shows the final tally.
    pub fn finish(&mut self) {
        if self.counts() {
            self.refresh_drops();
            self.board.publish(&self.tally);
        }
    }

    /// All threads have the same port, so the first one counts for all.
    fn refresh_drops(&mut self) {
        if self.index > 0 {
            return;
        }
        let mut counters = self.port.counters().since(&self.before);
        // Saturating: a peer may have scribbled over the counters.
        counters.tx_drop_bad = counters.tx_drop_bad.saturating_add(self.left_out);
        let function = self.plan.function;
        let tx = if function.sends() { counters.tx_drops() } else { 0 };
        let rx = if function.receives() { counters.rx_drops() } else { 0 };
        self.tally.drops = tx.saturating_add(rx);
        self.tally.port = counters;
        self.board.publish_port(&self.tally);
    }

    /// Notes what was queued; it counts as sent once the port has taken it.
    pub fn queue(&mut self, batch: Batch) {
        self.backlog.push(batch);
    }

    /// Packets that are queued.
    pub fn queued(&self) -> usize {
        self.backlog.packets()
    }

    /// After a sync: counts what the port has taken.
    #[inline]
    pub fn settle(&mut self) {
        let pending = self.port.pending();
        let sent = self.backlog.settle(pending);
        if sent.packets > 0 {
            self.tally.tx_packets += sent.packets as u64;
            self.tally.tx_bytes += sent.bytes;
            self.tally.tx_pad_bytes += sent.pad_bytes;
            self.tally.tx_batches += 1;
        }
    }

    /// Sends what is queued and shows what has left.
    pub fn sync(&mut self) -> netmap::Result<()> {
        let synced = self.port.txsync();
        let before = self.tally.tx_packets;
        self.settle();
        let now = self.control.clock.now_ns();
        if self.tally.tx_packets > before {
            self.stamp(now);
        }
        self.publish(now);
        synced
    }

    /// Counts received packets.
    pub fn received(&mut self, packets: usize, bytes: u64, pad_bytes: u64) {
        self.tally.rx_packets += packets as u64;
        self.tally.rx_bytes += bytes;
        self.tally.rx_pad_bytes += pad_bytes;
        self.tally.rx_batches += 1;
    }

    /// This thread's share of the rate, shifted so that threads take turns.
    pub fn pacer(&self) -> Option<Pacer> {
        let target = self.plan.rate?;
        let threads = self.plan.threads() as f64;
        let share = Target { per_second: target.per_second / threads, ..target };
        let mean = self.plan.recipe.sizes.mean();
        let mut pacer = Pacer::new(share, mean, self.plan.burst, self.control.clock.now_ns());
        pacer.delay(self.index as f64 / threads);
        Some(pacer)
    }

    /// Waits for more free slots, at most until the next look at the stop flag.
    pub fn wait_space(&mut self) -> netmap::Result<()> {
        let waited = self.doze(Interest::SPACE, LOOK);
        self.settle();
        waited
    }

    /// Waits until what is queued has gone as far as `what` says, or for that time.
    fn doze(&mut self, what: Interest, time: Duration) -> netmap::Result<()> {
        let queued = self.port.pending();
        let waited = self.port.wait(what, Wait::default(), Some(time)).map(|_| ());
        self.tell_who_holds_up(queued);
        waited
    }

    /// Says, once, which port does not take what is queued, when nothing has moved for a while.
    fn tell_who_holds_up(&mut self, queued_before: usize) {
        /// A receiver that is only slow moves within this time.
        const WHILE_NS: u64 = 1_000_000_000;
        let now = self.control.clock.now_ns();
        let moved = self.port.pending() != queued_before;
        match self.held {
            _ if moved => self.held = Held::No,
            Held::No => self.held = Held::Since(now),
            Held::Since(since) if now.saturating_sub(since) >= WHILE_NS => {
                self.held = Held::Told;
                if let Some(port) = self.port.held_up_by() {
                    let own = self.port.name();
                    say!("nm-pktgen: {own} waits for {port}, which is full and does not read");
                }
            }
            Held::Since(_) | Held::Told => {}
        }
    }

    /// Pushes out what is queued: at once on most ports, but a switch in backpressure keeps it until
    /// the receiver made room. What cannot be sent before the run's end is taken back.
    pub fn close(&mut self) -> anyhow::Result<()> {
        /// A stopped run gives its receiver this long.
        const GRACE_NS: u64 = 200_000_000;
        let mut deadline = None;
        loop {
            self.sync()?;
            if self.port.pending() == 0 {
                break;
            }
            let now = self.control.clock.now_ns();
            if self.control.stopped() {
                deadline.get_or_insert(now + GRACE_NS);
            }
            let left = deadline.map(|at: u64| Duration::from_nanos(at.saturating_sub(now)));
            if left == Some(Duration::ZERO) || self.control.hurried() {
                for ring in 0..self.port.tx_rings() {
                    self.port.tx(ring).withdraw();
                }
                break;
            }
            self.doze(Interest::SENT, left.map_or(LOOK, |left| left.min(LOOK)))?;
        }
        Ok(self.port.finish()?)
    }
}
