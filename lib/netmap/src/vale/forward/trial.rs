//! Whether warm buffers pay is found out by trying.
//!
//! ```text
//!   usual ............................. measured | trial: settle, measured | the cheaper one: usual ...
//! ```
//!
//! If sender and receiver share a cache (two threads of one core), a packet to a warm buffer finds its lines
//! there: measured 14 against 19 Mpps of 1514 bytes. If each has a cache of its own, these lines are the receiver's
//! and have to be fetched from it, while those of cold buffers lie in the cache that all cores share: 8
//! against 6 Mpps. Which it is, nothing tells a process; and in virtual machines it changes from minute to minute. So
//! now and then the other kind of buffer is tried, and kept if it costs less.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Packets until the buffers in use are those of the other kind: two of the largest rings.
const SETTLE: u64 = 8 << 10;
/// Packets that are measured then, by samples: the time of one sync each, so many packets after the last. The median
/// counts, as any sync may be interrupted.
const MEASURE: u64 = SAMPLES as u64 * EVERY;
const SAMPLES: usize = 32;
const EVERY: u64 = 512;
/// With fewer (the syncs are longer than that) nothing is decided.
const ENOUGH: usize = 4;
/// Packets from one trial to the next: so many that trials cost a percent or two.
const USUAL: u64 = 512 << 10;
/// How much cheaper the other kind has to be: a part of the cost, more than chance makes.
const MARGIN: u64 = 16;

/// For tests.
static ALWAYS: AtomicBool = AtomicBool::new(false);

/// For tests: forwarders that are made from now on always use warm buffers, in rings of any size.
pub fn set_always(yes: bool) {
    ALWAYS.store(yes, Ordering::Relaxed);
}

/// Whether that is so.
pub fn is_always() -> bool {
    ALWAYS.load(Ordering::Relaxed)
}

/// Which kind of buffer packets go to, and what it costs.
#[derive(Debug)]
pub struct Trial {
    warm: bool,
    /// The kind in use is being tried, and not the usual one.
    trying: bool,
    /// Packets that still go to this kind.
    left: u64,
    /// Times of a packet, in 64ths of a nanosecond.
    samples: Vec<u64>,
    /// Their median before the trial began, if it is known.
    usual: Option<u64>,
}

impl Trial {
    /// Begins with cold buffers, as every ring does.
    pub fn new() -> Self {
        let samples = Vec::with_capacity(SAMPLES);
        Self { warm: false, trying: false, left: MEASURE, samples, usual: None }
    }

    /// Has found warm buffers to be cheaper.
    #[cfg(test)]
    pub fn warm() -> Self {
        Self { warm: true, left: USUAL, ..Self::new() }
    }

    /// Whether packets go to warm buffers now.
    #[inline]
    pub fn is_warm(&self) -> bool {
        self.warm
    }

    /// Whether the time that a sync takes is wanted.
    #[inline]
    pub fn measures(&self) -> bool {
        self.left <= MEASURE - self.samples.len() as u64 * EVERY
    }

    /// A sync sent so many packets, in that time if it was wanted.
    #[inline]
    pub fn sent(&mut self, packets: u64, time: Option<Duration>) {
        if let Some(time) = time
            && self.samples.len() < SAMPLES
        {
            let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(64);
            self.samples.extend(time.checked_div(packets)); // never allocates
        }
        self.left = self.left.saturating_sub(packets);
        if self.left == 0 {
            self.turn();
        }
    }

    #[cold]
    fn turn(&mut self) {
        let middle = self.samples.len() / 2;
        let cost =
            (self.samples.len() >= ENOUGH).then(|| *self.samples.select_nth_unstable(middle).1);
        self.samples.clear();
        if self.trying {
            let better = |(cost, usual)| cost < usual - usual / MARGIN;
            self.warm ^= !cost.zip(self.usual).is_some_and(better);
            self.left = USUAL;
        } else {
            self.usual = cost;
            self.warm = !self.warm;
            self.left = SETTLE + MEASURE;
        }
        self.trying = !self.trying;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends 16 Mi packets in bursts of 64 that cost so many ns a packet to cold and to warm buffers; returns which
    /// part went to warm ones.
    fn warm_part(trial: &mut Trial, cold: u64, warm: u64) -> f64 {
        let (mut n, mut all) = (0, 0);
        while all < 16 << 20 {
            let cost = if trial.is_warm() { warm } else { cold };
            n += 64 * u64::from(trial.is_warm());
            all += 64;
            // Each 7th burst is interrupted, and others are not all alike.
            let noise = if all % (7 * 64) == 0 { 50_000 } else { 64 * (all / 64 % 5) };
            let time = Duration::from_nanos(64 * cost + noise);
            trial.sent(64, trial.measures().then_some(time));
        }
        n as f64 / all as f64
    }

    #[test]
    fn cheaper_kind_is_found_and_found_anew_when_it_changes() {
        let mut trial = Trial::new();
        assert!(warm_part(&mut trial, 150, 100) > 0.9);
        assert!(warm_part(&mut trial, 100, 150) < 0.1);
        assert!(warm_part(&mut trial, 60, 40) > 0.9);
    }

    #[test]
    fn what_makes_no_difference_stays_as_it_is() {
        let mut trial = Trial::new();
        assert!(warm_part(&mut trial, 100, 100) < 0.1);
        assert!(warm_part(&mut trial, 150, 100) > 0.9);
        assert!(warm_part(&mut trial, 100, 100) > 0.9);
    }

    #[test]
    fn nothing_is_decided_without_a_measurement() {
        let mut trial = Trial::new();
        let mut warm = 0;
        for _ in 0..1 << 16 {
            trial.sent(64, None);
            warm += u32::from(trial.is_warm());
        }
        assert!(warm < 1 << 13);
        // Nor by times that no packet takes.
        let mut trial = Trial::new();
        for time in [Duration::ZERO, Duration::MAX, Duration::from_secs(1 << 40)] {
            (0..1 << 12).for_each(|_| trial.sent(64, Some(time)));
            trial.sent(0, Some(time));
        }
    }
}
