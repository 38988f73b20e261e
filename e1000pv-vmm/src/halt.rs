//! Finds out that a guest has halted for good: the kernel keeps a vCPU that executes `hlt` with interrupts off for ever, and
//! tells nobody.
//!
//! Invariants: a guest is asked only after a second without exits, so a busy one never notices; and it is dead only if all of
//! its vCPUs say so twice, because one that still ran at the first time could have woken another by an NMI.

use std::time::{Duration, Instant};

/// Without exits for so long, a guest is looked at.
const QUIET: Duration = Duration::from_secs(1);
/// Time that its vCPUs have for an answer.
const ANSWER: Duration = Duration::from_millis(100);
/// So many times all say that they have halted.
const TIMES: u32 = 2;

/// Watches one guest.
#[derive(Debug)]
pub struct Watch {
    next: Instant,
    exits: u64,
    asked: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Ask the vCPUs.
    Ask,
    /// The guest has halted.
    Halted,
}

impl Watch {
    /// A guest that begins now.
    pub fn new(now: Instant) -> Watch {
        Watch { next: now + QUIET, exits: 0, asked: 0 }
    }

    /// When it is time to look again.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time: at the number of exits, and at whether all vCPUs have answered that they are halted.
    pub fn step(&mut self, now: Instant, exits: u64, all_halted: impl Fn() -> bool) -> Step {
        if now < self.next {
            return Step::Wait;
        }
        let quiet = exits == self.exits && (self.asked == 0 || all_halted());
        self.exits = exits;
        if !quiet {
            (self.asked, self.next) = (0, now + QUIET);
            return Step::Wait;
        }
        if self.asked == TIMES {
            return Step::Halted;
        }
        (self.asked, self.next) = (self.asked + 1, now + ANSWER);
        Step::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halted_is_what_is_quiet_and_says_so_twice() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let mut step = |exits, all| {
            let now = watch.next();
            (watch.step(now, exits, || all), watch.next() - begin)
        };
        let s = Duration::from_secs;
        assert_eq!(step(5, false), (Step::Wait, s(2)), "it has begun");
        assert_eq!(step(5, false), (Step::Ask, s(2) + ANSWER));
        assert_eq!(step(5, false), (Step::Wait, s(3) + ANSWER), "it idles");
        assert_eq!(step(5, true).0, Step::Ask);
        assert_eq!(step(5, true).0, Step::Ask);
        assert_eq!(step(6, true).0, Step::Wait, "it went on");
        assert_eq!(step(6, true).0, Step::Ask);
        assert_eq!(step(6, true).0, Step::Ask);
        assert_eq!(step(6, true).0, Step::Halted);
        assert_eq!(watch.step(begin, 6, || true), Step::Wait, "too early");
    }
}
