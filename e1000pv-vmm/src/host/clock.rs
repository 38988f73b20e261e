//! CLOCK_MONOTONIC, the clock of all deadlines.

use std::time::Instant;

use nix::poll::PollTimeout;

/// Nanoseconds since some moment before this program.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// For poll, the time from `now` to `at`. Rounded up: rounding down would spin through the last millisecond.
pub fn timeout(at: Instant, now: Instant) -> PollTimeout {
    let ms = at.saturating_duration_since(now).as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}
