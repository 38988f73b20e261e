//! The start of every thread of a machine, and the CPU time that it took.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use nm_cli::cpulist;

use crate::host::sandbox::Filter;

/// What the main thread handles, also by ending: the filters of others have not all that this takes.
const SIGNALS: [Signal; 15] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGALRM,
    Signal::SIGIO,
    Signal::SIGPROF,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
    Signal::SIGUSR2,
    Signal::SIGVTALRM,
    Signal::SIGXCPU,
];

/// First thing in a thread: signals are for the main thread, the CPU is the one asked for, and the
/// filter is entered.
pub fn begin_thread(cpu: Option<usize>, filter: Option<&Filter>) -> anyhow::Result<()> {
    let signals: SigSet = SIGNALS.into_iter().collect();
    signals.thread_block().context("leaving signals to the main thread")?;
    cpu.map_or(Ok(()), cpulist::pin_thread)?;
    filter.map_or(Ok(()), Filter::enter)
}

fn cpu_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// CPU time of this process.
pub fn process_cpu_ns() -> u64 {
    cpu_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    cpu_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}
