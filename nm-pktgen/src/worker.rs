//! One thread of a run: its port, what it counts, and what the whole run shares. The functions in
//! `func` are written against this.

use std::sync::atomic::Ordering;
use std::time::Duration;

use netmap::{Counters, Interest, Port, Wait};
use nm_cli::units;

use crate::capture::Capture;
use crate::cli::Function;
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
    /// What was counted, warm-up included.
    pub tally: Tally,
    /// The port's counters before the run.
    before: Counters,
    /// The warm-up is over and the tally was rebased.
    counted: bool,
    drops_at_ns: u64,
}

impl<'a> Worker<'a> {
    /// A thread that will work on `port`.
    pub fn new(
        index: usize,
        port: Port,
        plan: &'a Plan,
        control: &'a Control,
        board: &'a Board,
        capture: Option<&'a Capture>,
    ) -> Worker<'a> {
        let before = port.counters();
        Worker {
            index,
            port,
            plan,
            control,
            board,
            capture,
            tally: Tally::default(),
            before,
            counted: false,
            drops_at_ns: 0,
        }
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
        self.tally.drops = drops(self.plan.function, &self.port.counters().since(&self.before));
    }

    /// The port's counters before the run.
    pub fn before(&self) -> Counters {
        self.before
    }

    /// Counts sent packets.
    pub fn sent(&mut self, packets: usize, bytes: u64, pad_bytes: u64) {
        self.tally.tx_packets += packets as u64;
        self.tally.tx_bytes += bytes;
        self.tally.tx_pad_bytes += pad_bytes;
        self.tally.tx_batches += 1;
    }

    /// Counts one sent packet of a batch that is counted elsewhere.
    pub fn sent_one(&mut self, len: usize) {
        self.tally.tx_packets += 1;
        self.tally.tx_bytes += len as u64;
        self.tally.tx_pad_bytes += units::pad_bytes(len as u64);
    }

    /// Takes packets that will never leave out of the tally again, at the mean size.
    pub fn unsend(&mut self, packets: u64) {
        let tally = &mut self.tally;
        let (sent, packets) = (tally.tx_packets.max(1), packets.min(tally.tx_packets));
        let part = |sum: u64| (u128::from(sum) * u128::from(packets) / u128::from(sent)) as u64;
        tally.tx_bytes -= part(tally.tx_bytes);
        tally.tx_pad_bytes -= part(tally.tx_pad_bytes);
        tally.tx_packets -= packets;
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

    /// Waits for free slots, at most until the next look at the stop flag.
    pub fn wait_space(&mut self) -> netmap::Result<()> {
        self.port.wait(Interest::TX, Wait::default(), Some(LOOK)).map(|_| ())
    }

    /// Pushes out what is queued: at once on most ports, but a switch in backpressure keeps it until
    /// the receiver made room. Returns the slots that could not be sent before the run was stopped.
    pub fn flush(&mut self) -> netmap::Result<usize> {
        /// A stopped run gives its receiver this long.
        const GRACE_NS: u64 = 200_000_000;
        let mut deadline = None;
        loop {
            self.port.txsync()?;
            let pending = (0..self.port.tx_rings()).map(|ring| self.port.tx(ring).pending()).sum();
            if pending == 0 {
                return Ok(0);
            }
            let now = self.control.clock.now_ns();
            if self.control.stopped() && now > *deadline.get_or_insert(now + GRACE_NS) {
                return Ok(pending);
            }
            // There is free space all the time, so waiting for it would not wait: time must pass.
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Drops that concern a function.
pub fn drops(function: Function, counters: &Counters) -> u64 {
    let tx = if function.sends() { counters.tx_drops() } else { 0 };
    let rx = if function.receives() { counters.rx_drops() } else { 0 };
    tx + rx
}
