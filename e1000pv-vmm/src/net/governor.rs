//! `--rx-limit auto`: a guest that has no time left gets packets by windows, the next when it has consumed the last.
//!
//! A guest in receive livelock never halts: its driver takes whatever comes, and the program that should read it
//! starves. The monitor sees no more of that than whether the vCPUs halt, and needs no more: a vCPU that has gone to sleep
//! after a window was delivered had nothing left to do, the program's reading included. So the guest itself is the clock.
//! Nothing is known of what packets, interrupts or reading cost, and no rate is looked for. What waits meanwhile in the
//! port's ring is the next window, which comes as one batch: the more is offered, the less is an interrupt's share of it.
//!
//! ```text
//!               no time left, packets come
//!      free ------------------------------> windows:   deliver WINDOW --> wait until a vCPU has slept since
//!       ^ ^                                   |  |        ^                       |   |
//!       | '-- less waiting than delivering ---'  |        '-----------------------'   |
//!       |     for PERIOD_NS                      |                                    |
//!       '---- for a while, twice as long each time: leave it alone --- LONGEST_NS <---'
//! ```
//!
//! Invariants: a guest that has time left is never limited. One that is busy with something else never sleeps and is
//! left alone: that is found out by one window, after `FIRST_REST_NS` at first, then ever more rarely. The kernel is asked
//! only in the intervals of a free guest and while a window waits.

use crate::host::load::Meter;

/// What a window costs: half of what a socket of Linux queues by default (net.core.rmem_default). Half, because a vCPU that
/// was about to sleep when a window came has not consumed it, and gets another.
pub const WINDOW: u64 = 212_992 / 2;

/// What Linux counts for a datagram in a queue: drivers copy frames of up to so many bytes, and keep the whole buffer of
/// longer ones, as for each buffer of a jumbo frame.
const COPIED: usize = 256;
const SMALL: u64 = 768;
const LARGE: u64 = 2304;

/// How long a free guest is observed: many of its scheduler's turns, and of the host's.
const INTERVAL_NS: u64 = 100_000_000;
/// A vCPU that is busy for so many thousandths of an interval has no time left. Not all: clocks of threads lag.
const SATURATED: u64 = 950;
/// Less in an interval is not what a guest is busy with.
const WORTH: u64 = 20 * SMALL;

/// Who does not sleep for so long after a window is busy with something else: the slowest guest that was measured (of a
/// guest, in an emulator, with a reader that works long) takes half of it.
const LONGEST_NS: u64 = 500_000_000;
/// How long such a guest is left alone.
const FIRST_REST_NS: u64 = 1_000_000_000;
const LONGEST_REST_NS: u64 = 64_000_000_000;

/// While a window waits, the first look is when three quarters of what the last one took are over; then it is looked again
/// when the wait is longer by this part, so that no more than that is lost by looking late; and at least so far apart.
const PART: u64 = 16;
const LOOK_NS: u64 = 20_000;

/// Windows go on for so long before they are judged.
const PERIOD_NS: u64 = 1_000_000_000;

/// A window that has been delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    since_ns: u64,
    look_ns: u64,
    /// It is known that the guest's interrupt was not postponed to after the mark.
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It takes everything; if the guest is to be left alone, until then.
    Free { until_ns: u64 },
    /// It takes a window, waits, takes a window.
    Windows(Windows),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Windows {
    since_ns: u64,
    /// The period, and what was waited in it.
    begin_ns: u64,
    waited_ns: u64,
    wait: Option<Wait>,
    /// How long the last wait was.
    last_ns: u64,
}

impl Windows {
    fn begin(now_ns: u64) -> Windows {
        Windows { since_ns: now_ns, begin_ns: now_ns, waited_ns: 0, wait: None, last_ns: 0 }
    }
}

/// Opens and closes windows.
#[derive(Debug)]
pub struct Governor {
    state: State,
    /// Taken in this interval, or of this window.
    spent: u64,
    /// How often vCPUs had slept when the rest of the window was about to be delivered.
    mark: Option<u64>,
    /// The end of the interval; `settling`: it is not to be judged.
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
            spent: 0,
            mark: None,
            end_ns: 0,
            settling: true,
            rest_ns: FIRST_REST_NS,
        }
    }
}

/// What the guest tells of itself.
pub trait Guest {
    /// For how many thousandths of the time since it was asked last it was busy, if that is known.
    fn busy(&mut self, now_ns: u64) -> Option<u32>;
    /// How often its vCPUs have gone to sleep.
    fn sleeps(&self) -> Option<u64>;
}

impl Guest for Meter {
    fn busy(&mut self, now_ns: u64) -> Option<u32> {
        self.look(now_ns)
    }

    fn sleeps(&self) -> Option<u64> {
        Meter::sleeps(self)
    }
}

impl Governor {
    /// Of a guest without time.
    #[cfg(test)]
    pub fn with_windows(now_ns: u64) -> Governor {
        Governor { state: State::Windows(Windows::begin(now_ns)), ..Governor::default() }
    }

    /// What a slot of a packet counts.
    #[must_use]
    pub fn cost(bytes: usize) -> u64 {
        if bytes <= COPIED { SMALL } else { LARGE }
    }

    /// What may be taken now: packets as long as there is some of it left; `None`: all.
    #[must_use]
    pub fn room(&mut self, now_ns: u64, guest: &mut impl Guest) -> Option<u64> {
        match self.state {
            State::Free { until_ns } => {
                if now_ns < self.end_ns {
                    return None;
                }
                let busy = guest.busy(now_ns).map_or(0, u64::from);
                let settling = std::mem::take(&mut self.settling);
                let saturated = busy >= SATURATED && self.spent >= WORTH;
                self.spent = 0;
                self.end_ns = now_ns + INTERVAL_NS;
                if settling || !saturated || now_ns < until_ns {
                    return None;
                }
                self.state = State::Windows(Windows::begin(now_ns));
                Some(WINDOW)
            }
            State::Windows(_) => self.window(now_ns, guest),
        }
    }

    /// What is left of the window, or the next.
    fn window(&mut self, now_ns: u64, guest: &impl Guest) -> Option<u64> {
        let State::Windows(windows) = &mut self.state else { return None };
        if self.spent < WINDOW {
            let passed_ns = now_ns.saturating_sub(windows.begin_ns);
            if passed_ns >= PERIOD_NS {
                if 2 * windows.waited_ns < passed_ns {
                    return self.free(0);
                }
                (windows.begin_ns, windows.waited_ns) = (now_ns, 0);
            }
            return Some(WINDOW - self.spent);
        }
        let first_ns = (windows.last_ns * 3 / 4).max(LOOK_NS);
        let new = Wait { since_ns: now_ns, look_ns: now_ns + first_ns, told: false };
        let wait = windows.wait.get_or_insert(new);
        if now_ns < wait.look_ns {
            return Some(0);
        }
        let waits_ns = now_ns.saturating_sub(wait.since_ns);
        let (Some(before), Some(sleeps)) = (self.mark, guest.sleeps()) else {
            return self.free(0);
        };
        if sleeps != before {
            windows.wait = None;
            windows.waited_ns += waits_ns;
            // At most twice the last: one that the host drew out does not put off the looks at the next.
            windows.last_ns = waits_ns.min(2 * windows.last_ns.max(LOOK_NS));
            self.spent = 0;
            return Some(WINDOW);
        }
        if waits_ns < LONGEST_NS {
            wait.look_ns = now_ns + (waits_ns / PART).max(LOOK_NS);
            return Some(0);
        }
        if now_ns.saturating_sub(windows.since_ns) >= LONGEST_NS + self.rest_ns {
            // For longer than it would be left alone it did sleep after its windows: it is not one that never does.
            self.rest_ns = FIRST_REST_NS;
        }
        let until_ns = now_ns + self.rest_ns;
        self.rest_ns = (2 * self.rest_ns).min(LONGEST_REST_NS);
        self.free(until_ns)
    }

    /// All may be taken.
    fn free(&mut self, until_ns: u64) -> Option<u64> {
        self.state = State::Free { until_ns };
        (self.spent, self.end_ns, self.settling) = (0, 0, true);
        None
    }

    /// What is taken next may be the rest of the window. Before the guest can have any of it, or it could be consumed by
    /// then, and no sleep would follow.
    pub fn close(&mut self, guest: &impl Guest) {
        self.mark = guest.sleeps();
    }

    /// So much was taken.
    pub fn take(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// When to look, if a window waits. `postponed_ns`: when the guest will be interrupted, if it was not yet: it does not
    /// know of the window until then, and its sleeps mean nothing.
    #[must_use]
    pub fn due_ns(&mut self, postponed_ns: Option<u64>, guest: &impl Guest) -> Option<u64> {
        let State::Windows(Windows { wait: Some(wait), .. }) = &mut self.state else {
            return None;
        };
        if !std::mem::replace(&mut wait.told, true)
            && let Some(at_ns) = postponed_ns
        {
            self.mark = guest.sleeps();
            wait.look_ns = wait.look_ns.max(at_ns + LOOK_NS);
        }
        Some(wait.look_ns)
    }
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
