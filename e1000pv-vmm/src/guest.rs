//! A guest that runs, whatever executes it: what the main thread does with it; and how every thread of
//! a machine begins.

use std::any::Any;
use std::fmt;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nm_cli::cpulist;

use crate::exit::End;
use crate::sandbox::Filter;

/// What a guest's thread leaves.
pub struct Ended {
    /// Why.
    pub end: End,
    /// CPU time of its thread.
    pub cpu_ns: u64,
    /// What it used. To be dropped by a thread that may close ports.
    pub used: Box<dyn Any + Send>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("end", &self.end).finish_non_exhaustive()
    }
}

/// First thing in a thread: signals are for the main thread, the CPU is the one asked for, and the
/// filter is entered.
pub fn begin_thread(cpu: Option<usize>, filter: Option<&Filter>) -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect();
    signals.thread_block().context("leaving signals to the main thread")?;
    cpu.map_or(Ok(()), cpulist::pin_thread)?;
    filter.map_or(Ok(()), Filter::enter)
}

/// A running guest.
pub trait Guest: fmt::Debug {
    /// "kvm" or "thread".
    fn accel(&self) -> &'static str;
    /// Somebody typed.
    fn input(&self, bytes: &[u8]);
    /// Asks it to end its work and report, if it can hear that; false if not.
    fn ask(&self) -> bool;
    /// Ends it.
    fn stop(&self);
    /// Waits for its end.
    fn join(self: Box<Self>) -> anyhow::Result<Ended>;
}
