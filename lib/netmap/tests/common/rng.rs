//! Random numbers for tests, nm-pktgen's and the monitor's among them.
#![allow(dead_code)] // each test file uses a part

/// A small generator (xorshift64), of no quality in any strong sense.
pub struct Rng(u64);

impl Rng {
    /// The same numbers at every run.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Others at every run.
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish() | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
