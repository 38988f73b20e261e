//! What all threads of a run share: the stop flag, whether the warm-up is over, and how many packets
//! are left. Invariant: packets claimed and not given back never exceed the count, so `-n` is exact
//! whatever the threads do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Clock;

/// Shared by the threads of a run.
#[derive(Debug)]
pub struct Control {
    /// Set by the first signal, the time limit or a failed thread.
    pub stop: Arc<AtomicBool>,
    /// Set by a second signal: nobody is waited for any more.
    pub hurry: Arc<AtomicBool>,
    /// False during the warm-up.
    pub measuring: AtomicBool,
    /// Origin of all times.
    pub clock: Clock,
    quota: Option<AtomicU64>,
    /// When the warm-up ended.
    begin_ns: AtomicU64,
    /// When the run was over; 0 before.
    end_ns: AtomicU64,
}

impl Control {
    /// For a run of `count` packets.
    pub fn new(
        stop: Arc<AtomicBool>,
        hurry: Arc<AtomicBool>,
        count: Option<u64>,
        warmup: bool,
    ) -> Control {
        Control {
            stop,
            hurry,
            measuring: AtomicBool::new(!warmup),
            clock: Clock::start(),
            quota: count.map(AtomicU64::new),
            begin_ns: AtomicU64::new(0),
            end_ns: AtomicU64::new(0),
        }
    }

    /// Ends the warm-up.
    pub fn measure(&self) {
        self.begin_ns.store(self.clock.now_ns(), Ordering::Relaxed);
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// The run is over: time stands still.
    pub fn end(&self) {
        self.end_ns.store(self.clock.now_ns().max(1), Ordering::Relaxed);
    }

    /// Seconds from the begin of the run, or the end of its warm-up, to now or its end.
    pub fn elapsed_s(&self) -> f64 {
        let end = match self.end_ns.load(Ordering::Relaxed) {
            0 => self.clock.now_ns(),
            end => end,
        };
        end.saturating_sub(self.begin_ns.load(Ordering::Relaxed)) as f64 / 1e9
    }

    /// True if nobody shall be waited for.
    pub fn hurried(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    /// True if threads shall end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes up to `want` packets out of what is left; 0 means that the run is complete.
    pub fn claim(&self, want: usize) -> usize {
        let Some(quota) = &self.quota else {
            return want;
        };
        let mut left = quota.load(Ordering::Relaxed);
        loop {
            let got = left.min(want as u64);
            // Relaxed: the number alone is shared, nothing is published with it.
            match quota.compare_exchange_weak(
                left,
                left - got,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return got as usize,
                Err(now) => left = now,
            }
        }
    }

    /// True if nothing is left.
    pub fn exhausted(&self) -> bool {
        self.quota.as_ref().is_some_and(|quota| quota.load(Ordering::Relaxed) == 0)
    }

    /// Returns claimed packets that were not used.
    pub fn give_back(&self, packets: usize) {
        if let Some(quota) = &self.quota {
            quota.fetch_add(packets as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_many_threads_add_up_exactly() {
        let control = Control::new(Arc::default(), Arc::default(), Some(100_003), false);
        let total = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (control, total) = (&control, &total);
                scope.spawn(move || {
                    loop {
                        let got = control.claim(7 + thread);
                        if got == 0 {
                            break;
                        }
                        // Use all but one, as a ring with too little space would.
                        let used = (got - 1).max(1);
                        control.give_back(got - used);
                        total.fetch_add(used as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 100_003);
    }
}
