//! What tests, fuzzing and benchmarks put around a device. Not part of the library's API.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::counters::{Count, Counters, THREAD_WORDS};

#[allow(unsafe_code)]
pub mod fuzz;
#[allow(unsafe_code)]
mod mock;

pub use mock::MockPort;

/// Counters of this process alone.
#[derive(Debug)]
pub struct Counted([AtomicU64; 2 * THREAD_WORDS]);

impl Default for Counted {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counted {
    /// A counter's value now.
    #[must_use]
    pub fn value(&self, which: Count) -> u64 {
        self.0[which as usize].load(Ordering::Relaxed)
    }
}

impl Counters for Counted {
    fn bump(&self, which: Count, n: u64) {
        self.0[which as usize].fetch_add(n, Ordering::Relaxed);
    }
}

/// A clock for boards whose time is that of the world.
#[must_use]
pub fn monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Later than any distance between interrupts: the first one is never early.
    (1 << 40) + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
