//! The clock that all processes share.

/// Milliseconds of the coarse monotonic clock: the same in all processes, read without a system
/// call.
#[must_use]
pub fn now_ms() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    let now = nix::time::clock_gettime(clock).expect("every Linux since 2.6.32 has this clock");
    now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000
}
