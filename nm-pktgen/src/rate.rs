//! Exact rates: packet k is due at k / rate after the start, on CLOCK_MONOTONIC, whatever happened
//! before. So errors never add up: a late burst is followed by earlier ones until the schedule is met.
//!
//! Smoothness: as few packets go in a burst as 20 us hold ([`TICK_NS`]), since a sync a packet costs
//! more than 10 Mpps can pay. Only a debt beyond a second (a stopped process) is forgiven.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nm_cli::say;

use crate::clock::Clock;

/// Packets due within this time go out together.
const TICK_NS: f64 = 20_000.0;
/// A debt above this is forgiven: after SIGCONT nobody wants what was missed.
const DEBT_NS: f64 = 1e9;
/// The last part of a wait is spun: a timer of a busy machine wakes some tens of us late.
const SPIN_NS: u64 = 60_000;
/// Longest sleep between two looks at the stop flag.
const NAP_NS: u64 = 20_000_000;

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bits, and so many bytes beside the frame in each packet (0 for L2, 24 for L1).
    Bits {
        /// Bytes added to each frame.
        overhead: u64,
    },
}

/// A rate: so many units a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Units per second, above 0.
    pub per_second: f64,
    /// What is counted.
    pub unit: Unit,
}

impl Target {
    /// Units that `packets` with `bytes` in all cost.
    fn cost(self, packets: u64, bytes: u64) -> f64 {
        match self.unit {
            Unit::Packets => packets as f64,
            Unit::Bits { overhead } => 8.0 * (bytes + packets * overhead) as f64,
        }
    }
}

/// The schedule of one thread.
#[derive(Clone, Debug)]
pub struct Pacer {
    target: Target,
    start_ns: f64,
    /// Units sent since the start.
    sent: f64,
    /// Units of a mean packet.
    mean_cost: f64,
    /// Packets that go out together, and at most.
    quantum: usize,
    burst: usize,
    /// Debts that were forgiven.
    slips: u64,
    slipped: Duration,
}

impl Pacer {
    /// A schedule that begins at `start_ns`; `burst` bounds what goes out at once.
    pub fn new(target: Target, mean_bytes: f64, burst: usize, start_ns: u64) -> Pacer {
        let mean_cost = match target.unit {
            Unit::Packets => 1.0,
            Unit::Bits { overhead } => 8.0 * (mean_bytes + overhead as f64),
        };
        let in_a_tick = (target.per_second / mean_cost * TICK_NS / 1e9).ceil();
        let quantum = (in_a_tick as usize).clamp(1, burst.max(1));
        Pacer {
            target,
            start_ns: start_ns as f64,
            sent: 0.0,
            mean_cost,
            quantum,
            burst: burst.max(1),
            slips: 0,
            slipped: Duration::ZERO,
        }
    }

    /// Moves the schedule by a part of the time between two bursts.
    pub fn delay(&mut self, part: f64) {
        self.start_ns += part * self.quantum as f64 * self.mean_cost * 1e9 / self.target.per_second;
    }

    /// How many packets may go out now, or when the next is due.
    pub fn ready(&mut self, now_ns: u64) -> Result<usize, u64> {
        let elapsed_ns = now_ns as f64 - self.start_ns;
        let allowed = elapsed_ns * self.target.per_second / 1e9;
        let owed = allowed - self.sent;
        if owed < 0.0 {
            return Err((self.start_ns + self.sent * 1e9 / self.target.per_second).ceil() as u64);
        }
        if owed > self.target.per_second * DEBT_NS / 1e9 {
            let late = now_ns as f64 - self.sent * 1e9 / self.target.per_second - self.start_ns;
            self.start_ns += late;
            self.slips += 1;
            self.slipped += Duration::from_nanos(late as u64);
            return Ok(self.quantum);
        }
        let late = (owed / self.mean_cost) as usize + 1;
        Ok(late.max(self.quantum).min(self.burst))
    }

    /// Says in the end how far the schedule was not kept.
    pub fn tell(&self) {
        tell_slips(self.slips, self.slipped);
    }

    /// Notes what went out.
    pub fn charge(&mut self, packets: u64, bytes: u64) {
        self.sent += self.target.cost(packets, bytes);
    }
}

/// Says how often a sender was so late that its schedule was moved, and by how much in all.
pub fn tell_slips(slips: u64, late: Duration) {
    let seconds = late.as_secs_f64();
    if slips > 0 {
        let times = if slips == 1 { String::new() } else { format!(", {slips} times in all") };
        say!(
            "nm-pktgen: sending was {seconds:.1} s behind{times}; it went on from there, at its pace"
        );
    }
}

/// Waits until `due_ns`: asleep while there is time, spinning at the end. Returns early when stopped.
pub fn wait_until(clock: Clock, due_ns: u64, stop: &AtomicBool) {
    loop {
        let left = due_ns.saturating_sub(clock.now_ns());
        if left == 0 || stop.load(Ordering::Relaxed) {
            return;
        }
        if left > SPIN_NS + 20_000 {
            std::thread::sleep(Duration::from_nanos((left - SPIN_NS).min(NAP_NS)));
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Lets the kernel wake this thread when its timer fires, not up to 50 us later (the default slack).
pub fn sharpen_timers() {
    // Failure only costs smoothness: the schedule makes up for late wake-ups.
    let _ = nix::sys::prctl::set_timerslack(1);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a schedule for `seconds` with a sender that takes `busy_ns` a burst and oversleeps by
    /// `late` of a list; returns packets sent and the largest burst.
    fn simulate(
        target: Target,
        bytes: u64,
        burst: usize,
        seconds: f64,
        late: &[u64],
    ) -> (u64, usize) {
        let mut pacer = Pacer::new(target, bytes as f64, burst, 1000);
        let (mut now, mut sent, mut largest, mut turn) = (1000u64, 0u64, 0, 0);
        let end = 1000 + (seconds * 1e9) as u64;
        while now < end {
            match pacer.ready(now) {
                Ok(n) => {
                    sent += n as u64;
                    largest = largest.max(n);
                    pacer.charge(n as u64, n as u64 * bytes);
                    now += 200 + 5 * n as u64;
                }
                Err(due) => {
                    assert!(due > now, "the wait goes forward");
                    now = due + late[turn % late.len()];
                    turn += 1;
                }
            }
        }
        (sent, largest)
    }

    #[test]
    fn rates_from_1_kpps_to_10_mpps_are_met_without_drift() {
        for pps in [1e3, 33_333.0, 1e6, 10e6] {
            let target = Target { per_second: pps, unit: Unit::Packets };
            let (sent, largest) = simulate(target, 60, 512, 2.0, &[0, 300, 90_000, 2_000]);
            let error = sent as f64 / (2.0 * pps) - 1.0;
            assert!(error.abs() < 0.002, "{pps} pps: off by {error}");
            assert!(largest == 1 || pps >= 1e4, "slow rates go packet by packet");
        }
    }

    #[test]
    fn undisturbed_bursts_stay_within_a_tick() {
        let target = Target { per_second: 10e6, unit: Unit::Packets };
        assert!(simulate(target, 60, 512, 0.5, &[0]).1 <= 201);
    }

    #[test]
    fn bit_rates_count_frames_and_overhead() {
        for (overhead, bits) in [(0, 1514.0 * 8.0), (24, 1538.0 * 8.0)] {
            let target = Target { per_second: 1e9, unit: Unit::Bits { overhead } };
            let (sent, _) = simulate(target, 1514, 512, 1.0, &[0, 10_000]);
            assert!((sent as f64 * bits / 1e9 - 1.0).abs() < 0.002);
        }
    }

    #[test]
    fn a_long_stop_is_forgiven_and_a_short_one_made_up() {
        let target = Target { per_second: 1000.0, unit: Unit::Packets };
        let mut pacer = Pacer::new(target, 60.0, 512, 0);
        assert_eq!(pacer.ready(100_000_000), Ok(101));
        let mut pacer = Pacer::new(target, 60.0, 512, 0);
        assert_eq!(pacer.ready(100_000_000_000), Ok(1));
        pacer.charge(1, 60);
        assert!(pacer.ready(100_000_000_001).is_err(), "the schedule was moved");
    }

    proptest! {
        #[test]
        fn never_ahead_of_schedule_by_more_than_a_burst(
            pps in 1.0f64..2e7, burst in 1usize..1024, late in proptest::collection::vec(0u64..1_000_000, 1..20),
        ) {
            let target = Target { per_second: pps, unit: Unit::Packets };
            let (sent, largest) = simulate(target, 60, burst, 0.05, &late);
            prop_assert!(largest <= burst);
            prop_assert!(sent as f64 <= 0.05 * pps + (burst + 1) as f64);
        }
    }
}
