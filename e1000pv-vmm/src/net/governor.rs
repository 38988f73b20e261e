//! `--rx-limit auto`: the rate at which a guest has time left for what it gets.
//!
//! A guest in receive livelock never halts: its driver takes whatever comes, and the program that should read it
//! starves. The monitor sees no more of that than the vCPUs' time, and needs no more: it takes fewer packets until they
//! halt again for a part of the time, so whoever reads them has had its turn. This is the limit on the input's share
//! of the processor of Mogul and Ramakrishnan ("Eliminating receive livelock in an interrupt-driven kernel", 1996),
//! set from outside.
//!
//! ```text
//!               no time left, packets come            time is left
//!      free ------------------------------> search ------------------> hold
//!       ^ ^   a quarter of the rate          |  ^ a quarter each        |  rate * TARGET / busy, again and again;
//!       | |                                  |  '- no time left         |  no time left, thrice in turn:
//!       | '--- nothing helps: leave it alone-+                          |  seven eighths
//!       |      for a while, twice as long each time                     |
//!       '-------------- nothing is held back any more ------------------'
//! ```
//!
//! Invariants: a guest that has time left is never limited. One that is busy with something else is
//! left alone: fewer packets do not help it, and that is found out within five steps, after `FIRST_REST_NS` at first, then
//! ever more rarely. The state is a few numbers; it changes once in an interval, never per packet.

use crate::net::limit::Limit;

/// How long the guest is observed before its limit changes: many of its scheduler's turns, and of the host's; and as
/// long as so many packets take, up to `LONGEST_NS`.
const INTERVAL_NS: u64 = 100_000_000;
const OBSERVED: u64 = 64;
/// A vCPU that is busy for so many thousandths of an interval has no time left. Not all: clocks of threads lag.
const SATURATED: u64 = 950;
/// How busy a limited guest is to be: below that by more than what it varies from interval to interval.
const TARGET: u64 = 880;
/// Fewer packets in an interval are not what a guest is busy with.
const WORTH: u64 = 20;
/// After a limit was lowered a guest still has what its queues hold: so many packets at the new rate are its time
/// to catch up, up to `LONGEST_NS`.
const QUEUED: u64 = 512;
const LONGEST_NS: u64 = 1_000_000_000;
/// The search ends at this part of the rate that it began with, or this rate: nothing helped.
const SEARCHED: u64 = 1024;
const LEAST: u64 = 50;
/// A guest that had time left before has none for so many intervals: its limit is too high.
const SURE: u32 = 3;
/// Nothing was held back for so many intervals: the limit is not needed.
const SPARE: u32 = 10;
/// How long a guest that nothing helps is left alone.
const FIRST_REST_NS: u64 = 1_000_000_000;
const LONGEST_REST_NS: u64 = 64_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It takes everything; if the guest is to be left alone, until then.
    Free { until_ns: u64 },
    /// It takes `rate` packets a second, and less and less, down to `least`.
    Search { rate: u64, least: u64 },
    /// It takes `rate` packets a second, which left the guest some time; for `spare` intervals nothing was held back;
    /// in the last `doubts` it had no time, which may have been the host's doing.
    Hold { rate: u64, least: u64, spare: u32, doubts: u32 },
}

/// Finds the rate.
#[derive(Debug)]
pub struct Governor {
    state: State,
    bucket: Limit,
    /// In this interval: packets taken, and whether others were left.
    taken: u64,
    held_back: bool,
    /// The interval; `settling`: it is not to be judged.
    begin_ns: u64,
    end_ns: u64,
    settling: bool,
    /// For how long it gives up next.
    rest_ns: u64,
}

impl Default for Governor {
    /// Takes everything.
    fn default() -> Self {
        Governor {
            state: State::Free { until_ns: 0 },
            bucket: Limit::new(1),
            taken: 0,
            held_back: false,
            begin_ns: 0,
            end_ns: 0,
            settling: true,
            rest_ns: FIRST_REST_NS,
        }
    }
}

impl Governor {
    /// How many packets may be taken now; `None`: all.
    #[must_use]
    pub fn packets(&mut self, now_ns: u64) -> Option<u64> {
        match self.state {
            State::Free { .. } => None,
            _ => Some(self.bucket.packets(now_ns)),
        }
    }

    /// So many were taken.
    pub fn take(&mut self, packets: u64) {
        self.taken += packets;
        if !matches!(self.state, State::Free { .. }) {
            self.bucket.take(packets);
        }
    }

    /// There were more than could be taken.
    pub fn hold_back(&mut self) {
        self.held_back = true;
    }

    /// When there is something to take again.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.bucket.next_ns()
    }

    /// Whether the interval is over, so that `judge` wants to know.
    #[must_use]
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns
    }

    /// Ends the interval, in which the guest was busy for so many thousandths of the time, if that is known.
    pub fn judge(&mut self, now_ns: u64, busy: Option<u32>) {
        let passed_ns = now_ns.saturating_sub(self.begin_ns).max(1);
        let rate = self.taken.saturating_mul(SECOND_NS) / passed_ns;
        let before = self.state;
        if self.settling {
            self.settling = false;
        } else {
            self.state = match busy.map(u64::from) {
                None => State::Free { until_ns: 0 },
                Some(SATURATED..) => self.lower(now_ns, rate),
                Some(busy) => self.raise(rate, busy),
            };
        }
        let mut length_ns = INTERVAL_NS;
        if let Some(rate) = self.rate() {
            self.bucket.set(rate.min(u64::from(u32::MAX)) as u32);
            if matches!(before, State::Free { .. }) {
                self.bucket.begin(now_ns);
            }
            let was = match before {
                State::Free { .. } => u64::MAX,
                State::Search { rate, .. } | State::Hold { rate, .. } => rate,
            };
            self.settling = rate < was && busy.is_some_and(|busy| u64::from(busy) >= SATURATED);
            let (packets, shortest_ns) = match self.settling {
                true => (QUEUED, INTERVAL_NS / 2),
                false => (OBSERVED, INTERVAL_NS),
            };
            length_ns = (packets * SECOND_NS / rate.max(1)).clamp(shortest_ns, LONGEST_NS);
        }
        (self.taken, self.held_back) = (0, false);
        (self.begin_ns, self.end_ns) = (now_ns, now_ns + length_ns);
    }

    /// The limit, if there is one.
    fn rate(&self) -> Option<u64> {
        match self.state {
            State::Free { .. } => None,
            State::Search { rate, .. } | State::Hold { rate, .. } => Some(rate),
        }
    }

    /// The guest had no time left.
    fn lower(&mut self, now_ns: u64, came: u64) -> State {
        let (rate, least, found) = match self.state {
            State::Free { until_ns } if now_ns < until_ns || self.taken < WORTH => {
                return self.state;
            }
            State::Free { .. } => (came / 4, (came / SEARCHED).max(LEAST), false),
            State::Search { rate, least } => (rate / 4, least, false),
            State::Hold { rate, least, spare, doubts } if doubts + 1 < SURE => {
                return State::Hold { rate, least, spare, doubts: doubts + 1 };
            }
            State::Hold { rate, least, .. } => (rate * 7 / 8, least, true),
        };
        if rate < least {
            let until_ns = now_ns + self.rest_ns;
            self.rest_ns = (2 * self.rest_ns).min(LONGEST_REST_NS);
            return State::Free { until_ns };
        }
        match found {
            true => State::Hold { rate, least, spare: 0, doubts: 0 },
            false => State::Search { rate, least },
        }
    }

    /// It had, having got `came` packets a second.
    fn raise(&mut self, came: u64, busy: u64) -> State {
        let (rate, least, spare) = match self.state {
            State::Free { .. } => return self.state,
            State::Search { rate, least } => (rate, least, 0),
            State::Hold { rate, least, spare, .. } => (rate, least, spare),
        };
        self.rest_ns = FIRST_REST_NS;
        if !self.held_back {
            return match spare + 1 {
                SPARE => State::Free { until_ns: 0 },
                spare => State::Hold { rate, least, spare, doubts: 0 },
            };
        }
        let wanted = (came * TARGET / busy.max(1)).clamp(rate / 4, rate * 4);
        let rate = match self.state {
            // By half of what seems right: no interval is like the others.
            State::Hold { .. } => (rate + wanted).div_ceil(2),
            _ => wanted,
        };
        State::Hold { rate: rate.max(1), least, spare: 0, doubts: 0 }
    }
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
