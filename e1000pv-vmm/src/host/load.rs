//! How much of the time the vCPUs of a machine have something to do, as any thread of the monitor can see it.
//!
//! A guest that halts sleeps in the kernel: no exit tells. But its thread then neither runs nor waits for a CPU of the
//! host, and the kernel counts both for each thread: time run by the thread's clock (clock_gettime(2)), time waited in
//! the second word of /proc/PID/task/TID/schedstat. A vCPU that a loaded host does not let run is therefore no idle one.
//! A kernel without schedstat counts no waiting: then it looks like idling.
//!
//! These are times, and late by up to a tick for a thread that runs. That a vCPU has slept since some moment is told by a
//! count, of the times that its thread has given up the CPU because it had to wait (voluntary_ctxt_switches in
//! /proc/PID/task/TID/status). Being preempted does not count. Waits for other things than the guest's next interrupt do,
//! for a lock of the device or a console that nobody reads; they are rare.
//!
//! Invariant: looking allocates nothing, waits for nobody, and is allowed by the filter of an I/O thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;

/// The threads of a machine's vCPUs.
#[derive(Debug)]
pub struct Load {
    threads: Box<[OnceLock<Thread>]>,
}

#[derive(Debug)]
struct Thread {
    clock: ClockId,
    schedstat: Option<File>,
    status: Option<File>,
}

impl Thread {
    /// What it has run and waited for a CPU so far; `None` if it is gone.
    fn busy_ns(&self) -> Option<u64> {
        let ran = Duration::from(clock_gettime(self.clock).ok()?).as_nanos() as u64;
        Some(ran + self.schedstat.as_ref().and_then(waited_ns).unwrap_or(0))
    }

    /// How often it has gone to sleep.
    fn sleeps(&self) -> Option<u64> {
        let mut text = [0; STATUS];
        let len = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        let mut lines = text[..len].rsplit(|&byte| byte == b'\n');
        let count = lines.find_map(|line| line.strip_prefix(b"voluntary_ctxt_switches:"))?;
        std::str::from_utf8(count).ok()?.trim().parse().ok()
    }
}

/// What /proc/PID/task/TID/status has at most, on a host with thousands of CPUs.
const STATUS: usize = 8192;

/// "RUN WAIT TIMES\n", in nanoseconds.
fn waited_ns(schedstat: &File) -> Option<u64> {
    let mut text = [0; 96];
    let len = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..len]).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Load {
    /// Of a machine with so many vCPUs, which do not run yet.
    #[must_use]
    pub fn new(vcpus: usize) -> Arc<Load> {
        Arc::new(Load { threads: (0..vcpus).map(|_| OnceLock::new()).collect() })
    }

    /// The calling thread runs vCPU `index` from now on. To be called before it enters a filter that forbids files.
    pub fn enlist(&self, index: usize) {
        let thread = gettid().as_raw();
        // A thread's own clock, for other threads: MAKE_THREAD_CPUCLOCK of linux/posix-timers.h, CPUCLOCK_SCHED.
        let clock = ClockId::from_raw((!thread << 3) | 6);
        let file = |name| File::open(format!("/proc/self/task/{thread}/{name}")).ok();
        let (schedstat, status) = (file("schedstat"), file("status"));
        let _ = self.threads[index].set(Thread { clock, schedstat, status }); // a vCPU has one thread
    }
}

/// Measures the time from one look to the next.
#[derive(Debug)]
pub struct Meter {
    load: Arc<Load>,
    /// Of each vCPU at the last look.
    busy_ns: Box<[u64]>,
    looked_ns: u64,
}

impl Meter {
    /// Begins with the first look.
    #[must_use]
    pub fn new(load: &Arc<Load>) -> Meter {
        let busy_ns = load.threads.iter().map(|_| 0).collect();
        Meter { load: Arc::clone(load), busy_ns, looked_ns: 0 }
    }

    /// The part of the time since the last look that the least busy vCPU was busy, in thousandths: a guest that
    /// has one to spare can use it. `None` at the first look, and as long as a vCPU does not run.
    pub fn look(&mut self, now_ns: u64) -> Option<u32> {
        let passed_ns = now_ns.saturating_sub(self.looked_ns).max(1);
        let first = self.looked_ns == 0;
        self.looked_ns = now_ns;
        let mut least = Some(1000);
        for (thread, before) in self.load.threads.iter().zip(&mut self.busy_ns) {
            let Some(busy_ns) = thread.get().and_then(Thread::busy_ns) else {
                least = None;
                continue;
            };
            let part = (busy_ns.saturating_sub(*before)).saturating_mul(1000) / passed_ns;
            *before = busy_ns;
            least = least.map(|least| part.min(least));
        }
        if first { None } else { least.map(|least| least as u32) }
    }

    /// How often the vCPUs have gone to sleep, all together; `None` as long as one does not run.
    #[must_use]
    pub fn sleeps(&self) -> Option<u64> {
        self.load.threads.iter().map(|thread| thread.get()?.sleeps()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::host::clock::monotonic_ns;

    #[test]
    fn a_vcpu_that_sleeps_is_counted_and_one_that_runs_is_not() {
        let (sleepers, runners) = (Load::new(1), Load::new(1));
        let (of_sleeper, of_runner) = (Meter::new(&sleepers), Meter::new(&runners));
        assert_eq!(of_sleeper.sleeps(), None, "nobody runs yet");
        let (stop, runs, enlisted) =
            (AtomicBool::new(false), AtomicBool::new(false), Barrier::new(3));
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                sleepers.enlist(0);
                enlisted.wait();
                while !stop.load(Ordering::Relaxed) {
                    thread::park();
                }
            });
            scope.spawn(|| {
                runners.enlist(0);
                enlisted.wait();
                runs.store(true, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            });
            enlisted.wait();
            while !runs.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let ran = of_runner.sleeps();
            assert!(ran.is_some());
            for _ in 0..10 {
                let before = of_sleeper.sleeps();
                while of_sleeper.sleeps() == before {
                    sleeper.thread().unpark();
                    thread::yield_now();
                }
            }
            assert_eq!(of_runner.sleeps(), ran);
            stop.store(true, Ordering::Relaxed);
            sleeper.thread().unpark();
        });
        while of_sleeper.sleeps().is_some() {
            thread::yield_now(); // its thread ends
        }
    }

    #[test]
    fn a_machine_is_as_busy_as_its_least_busy_vcpu() {
        let (load, stop) = (Load::new(2), AtomicBool::new(false));
        let mut meter = Meter::new(&load);
        assert_eq!(meter.look(monotonic_ns()), None, "nobody runs yet");
        // Two that spin, of whom one halts after a while.
        let (enlisted, halting) = (Barrier::new(3), AtomicBool::new(false));
        thread::scope(|scope| {
            let vcpu = |index: usize| {
                load.enlist(index);
                enlisted.wait();
                while !stop.load(Ordering::Relaxed) {
                    if index == 1 && halting.load(Ordering::Relaxed) {
                        thread::park();
                    }
                }
            };
            let _first = scope.spawn(move || vcpu(0));
            let second = scope.spawn(move || vcpu(1));
            enlisted.wait();
            let mut part_of = |until: &dyn Fn(u32) -> bool| loop {
                let begin_ns = monotonic_ns();
                let _ = meter.look(begin_ns);
                while monotonic_ns() < begin_ns + 20_000_000 {
                    thread::yield_now();
                }
                let part = meter.look(monotonic_ns()).expect("both run");
                assert!(part <= 1000);
                if until(part) {
                    break;
                }
            };
            // However loaded this machine is: who waits for it counts as busy.
            part_of(&|part| part > 900);
            halting.store(true, Ordering::Relaxed);
            part_of(&|part| part < 100);
            stop.store(true, Ordering::Relaxed);
            second.thread().unpark();
        });
        while meter.look(monotonic_ns()).is_some() {
            thread::yield_now(); // their threads end
        }
    }
}
