//! How far apart two CPUs are: the time of a cache line's round trip between them. Where the machine is
//! itself virtual, that changes with the places its CPUs are given, from moment to moment, and with it
//! everything that two of them do together.

use std::fmt;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::process::pass;

/// Round trips of one measurement: some milliseconds.
const TRIPS: u32 = 20_000;
/// Within a cache that both share a round trip is shorter than this.
const NEAR_NS: f64 = 250.0;

/// Two CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// No cache in common.
    Far,
    /// A cache in common.
    Near,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Distance::Far => "far",
            Distance::Near => "near",
        })
    }
}

impl Distance {
    /// Measures it.
    pub fn between(a: usize, b: usize) -> Result<Distance> {
        let ns = round_trip_ns(a, b)?;
        Ok(if ns < NEAR_NS { Distance::Near } else { Distance::Far })
    }
}

/// Waits until two CPUs are as far apart as `wanted`, at most a second or what is left of `wait_left`;
/// returns what they are then.
pub fn wait_for(
    a: usize,
    b: usize,
    wanted: Option<Distance>,
    wait_left: &mut Duration,
) -> Result<Distance> {
    let begin = Instant::now();
    let limit = Duration::from_secs(1).min(*wait_left);
    loop {
        let now = Distance::between(a, b)?;
        let waited = begin.elapsed();
        if wanted.is_none_or(|wanted| wanted == now) || waited >= limit {
            *wait_left = wait_left.saturating_sub(waited);
            return Ok(now);
        }
        pass(Duration::from_millis(50))?;
    }
}

/// A word that has its cache line for itself.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU32);

impl Line {
    /// Waits for `value`. False: it will not come.
    fn wait(&self, value: u32, off: &AtomicBool) -> bool {
        while self.0.load(Ordering::Acquire) != value {
            if off.load(Ordering::Relaxed) {
                return false;
            }
            spin_loop();
        }
        true
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to CPU {cpu}"))
}

/// One thread on each CPU, and two lines: there and back.
fn round_trip_ns(a: usize, b: usize) -> Result<f64> {
    let (there, back, off) = (Line::default(), Line::default(), AtomicBool::new(false));
    let answer = || -> Result<()> {
        pin(b).inspect_err(|_| off.store(true, Ordering::Relaxed))?;
        for trip in 1..=TRIPS {
            if !there.wait(trip, &off) {
                break;
            }
            back.0.store(trip, Ordering::Release);
        }
        Ok(())
    };
    let ask = || -> Result<f64> {
        pin(a).inspect_err(|_| off.store(true, Ordering::Relaxed))?;
        let mut begin = Instant::now();
        for trip in 1..=TRIPS {
            there.0.store(trip, Ordering::Release);
            if !back.wait(trip, &off) {
                break;
            }
            if trip == 1 {
                begin = Instant::now(); // both are there
            }
        }
        Ok(begin.elapsed().as_nanos() as f64 / f64::from(TRIPS - 1))
    };
    thread::scope(|scope| {
        let (answer, ask) = (scope.spawn(answer), scope.spawn(ask));
        let ended = |_| anyhow!("measuring the distance of CPUs panicked");
        let (answered, ns) = (answer.join().map_err(ended)?, ask.join().map_err(ended)?);
        answered.and(ns)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_take_some_time() {
        match round_trip_ns(0, 1) {
            Ok(ns) => assert!(ns > 1.0 && ns < 1e6, "{ns}"),
            Err(why) => eprintln!("skipped: {why:#}"),
        }
    }

    #[test]
    fn cpu_that_is_not_there_is_an_error() {
        let error = round_trip_ns(0, 1000).expect_err("nobody has so many");
        assert!(format!("{error:#}").contains("CPU 1000"), "{error:#}");
        assert!(round_trip_ns(1000, 0).is_err());
    }
}
