//! Periodic work: reports, checks, updates of a progress bar.
//!
//! Invariant: the times lie on one grid. A late run does not delay the following ones, and runs that were
//! missed because the machine slept are not made up for.

use std::time::{Duration, Instant};

/// The times at which periodic work is due.
#[derive(Clone, Copy, Debug)]
pub struct Every {
    next: Instant,
    interval: Duration,
}

impl Every {
    /// Work that is first due one interval after `begin`. With an interval of zero it is always due.
    pub fn new(begin: Instant, interval: Duration) -> Every {
        Every { next: begin + interval, interval }
    }

    /// When it is due next.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether one or more times of the grid have passed since the last call.
    pub fn due(&mut self, now: Instant) -> bool {
        let Some(late) = now.checked_duration_since(self.next) else { return false };
        let into_the_next = late.as_nanos() % self.interval.as_nanos().max(1);
        self.next = now + self.interval - Duration::from_nanos(into_the_next as u64);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_report_shifts_none_and_missed_ones_are_not_caught_up() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut every = Every::new(begin, Duration::from_millis(100));
        assert!(!every.due(at(99)));
        assert!(every.due(at(130)) && !every.due(at(130)));
        assert_eq!(every.next(), at(200));
        assert!(every.due(at(200)) && every.due(at(1234)) && !every.due(at(1299)));
        assert_eq!(every.next(), at(1300));
    }

    #[test]
    fn interval_of_nothing_is_always_due() {
        let begin = Instant::now();
        let mut every = Every::new(begin, Duration::ZERO);
        assert!(every.due(begin) && every.due(begin));
    }
}
