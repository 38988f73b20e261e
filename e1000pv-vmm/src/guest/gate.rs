//! Where vCPUs wait after their run has ended, for the end of the machine or for its next beginning.
//!
//! ```text
//!   vCPU threads:  run -- arrive -- wait --Over--> end
//!                   ^                 \--Again--> reset their vCPU -- ready --+
//!                   +---------------- when all are ready ---------------------+
//!   main thread:         news?  all wait: reset the machine, open
//! ```
//!
//! Invariants: what the machine consists of is reset while all vCPUs wait, and none runs before all are reset: one
//! may start another, which must not be reset then. The first vCPU that ends for a reason says why the machine ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::guest::boot::Entry;
use crate::machine::exit::End;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// vCPUs run; those that have arrived wait.
    Running,
    /// All reset themselves.
    Resetting,
    /// The machine ends.
    Over,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    end: Option<End>,
    waiting: usize,
    ready: usize,
    /// How often the machine has begun anew.
    rounds: u64,
    /// Where the first vCPU begins then.
    entry: Option<Entry>,
}

/// What has become of the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// They run, or are about to stop.
    Running,
    /// The machine is to be reset, and all wait for it.
    Waiting,
    /// One has ended for good.
    Over,
}

/// The gate of a machine with so many vCPUs.
#[derive(Debug)]
pub struct Gate {
    vcpus: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// All run.
    pub fn new(vcpus: usize) -> Gate {
        let state = State {
            phase: Phase::Running,
            end: None,
            waiting: 0,
            ready: 0,
            rounds: 0,
            entry: None,
        };
        Gate { vcpus, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until<'a>(
        &self,
        state: MutexGuard<'a, State>,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waits = |state: &mut State| !done(state);
        self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU's run has ended.
    pub fn arrive(&self, end: &End) {
        let mut state = self.lock();
        state.waiting += 1;
        if *end != End::Asked {
            state.end.get_or_insert_with(|| end.clone());
        }
    }

    /// Waits for what comes next: the entry of a machine that begins anew, or `None` for its end.
    pub fn wait(&self) -> Option<Entry> {
        let state = self.until(self.lock(), |state| state.phase != Phase::Running);
        state.entry.filter(|_| state.phase == Phase::Resetting)
    }

    /// A vCPU is reset. Returns when all are.
    pub fn ready(&self) {
        let mut state = self.lock();
        state.ready += 1;
        let rounds = state.rounds;
        if state.ready == self.vcpus && state.phase == Phase::Resetting {
            (state.phase, state.end, state.waiting, state.ready) = (Phase::Running, None, 0, 0);
            state.rounds += 1;
            self.changed.notify_all();
        }
        drop(self.until(state, |state| state.rounds != rounds || state.phase == Phase::Over));
    }

    /// The machine cannot go on.
    pub fn fail(&self, end: End) {
        let mut state = self.lock();
        if matches!(state.end, None | Some(End::Reset)) {
            state.end = Some(end);
        }
    }

    /// The machine is to be reset from outside. False: it is ending, or being reset already.
    pub fn ask_for_reset(&self) -> bool {
        let mut state = self.lock();
        let asks = state.phase == Phase::Running && state.end.is_none();
        if asks {
            state.end = Some(End::Reset);
        }
        asks
    }

    /// What has become of the vCPUs.
    pub fn news(&self) -> News {
        let state = self.lock();
        match (&state.end, state.phase) {
            (None, _) | (Some(End::Reset), Phase::Resetting) => News::Running,
            (Some(End::Reset), _) if state.waiting < self.vcpus => News::Running,
            (Some(End::Reset), _) => News::Waiting,
            (Some(_), _) => News::Over,
        }
    }

    /// Whether vCPUs that still run are to stop, because the machine is to be reset.
    pub fn stops(&self) -> bool {
        let state = self.lock();
        state.phase == Phase::Running && state.end == Some(End::Reset)
    }

    /// The machine has been reset, and begins anew.
    pub fn open(&self, entry: Entry) {
        let mut state = self.lock();
        (state.phase, state.entry) = (Phase::Resetting, Some(entry));
        self.changed.notify_all();
    }

    /// The machine ends: nobody waits any more.
    pub fn end(&self) {
        self.lock().phase = Phase::Over;
        self.changed.notify_all();
    }

    /// Why the machine ended, if a vCPU knows.
    pub fn why(&self) -> Option<End> {
        self.lock().end.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn vcpus_begin_anew_together_and_end_together() {
        let gate = Arc::new(Gate::new(2));
        let vcpu = |first: End| {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || {
                gate.arrive(&first);
                let mut rounds = 0;
                while gate.wait().is_some() {
                    gate.ready();
                    rounds += 1;
                    gate.arrive(&End::Asked);
                }
                rounds
            })
        };
        let first = vcpu(End::Reset);
        while !gate.stops() {
            std::thread::yield_now();
        }
        assert_eq!(gate.news(), News::Running, "the other one still runs");
        let second = vcpu(End::Asked);
        while gate.news() != News::Waiting {
            std::thread::yield_now();
        }
        assert!(!gate.ask_for_reset(), "that is under way");
        gate.open(Entry::Pvh(1));
        while !gate.ask_for_reset() {
            std::thread::yield_now();
        }
        while gate.news() != News::Waiting {
            std::thread::yield_now();
        }
        gate.end();
        assert_eq!((first.join().expect("thread"), second.join().expect("thread")), (1, 1));
        assert_eq!(gate.why(), Some(End::Reset));
    }

    #[test]
    fn first_reason_counts_unless_a_reset_fails() {
        let gate = Gate::new(2);
        gate.arrive(&End::Asked);
        gate.arrive(&End::Reset);
        gate.fail(End::Crash("no".into()));
        gate.fail(End::Halt);
        assert_eq!((gate.news(), gate.why()), (News::Over, Some(End::Crash("no".into()))));
    }
}
