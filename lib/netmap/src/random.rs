//! Random numbers: for names that nobody has yet, and for seeds.

/// A random number.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds this from the system's random source.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
