//! The run's clock: nanoseconds of CLOCK_MONOTONIC since the process began to measure. One origin for
//! all threads, so that times of one can be compared with those of another.

use std::time::Instant;

/// A clock; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
