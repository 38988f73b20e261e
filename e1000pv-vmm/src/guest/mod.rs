//! A guest that runs, whatever executes it: what the main thread does with it.

pub mod boot;
pub mod cpuid;
pub mod gate;
pub mod image;
pub mod kvm;
mod power_on;
#[allow(unsafe_code)]
pub mod thread;
#[allow(unsafe_code)]
pub mod vcpu;
#[allow(unsafe_code)]
pub mod vm;

use std::any::Any;
use std::fmt;

use self::boot::{Image, Initrd};
use self::gate::News;
use crate::machine::com1::Com1;
use crate::machine::exit::End;

/// What a guest's threads leave.
pub struct Ended {
    /// Why.
    pub end: End,
    /// CPU time of its vCPUs.
    pub cpu_ns: u64,
    /// What it used. To be dropped by a thread that may close ports.
    pub used: Box<dyn Any + Send>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("end", &self.end).finish_non_exhaustive()
    }
}

/// What a guest in a virtual machine is made of.
#[derive(Clone, Debug)]
pub struct KvmPlan {
    /// What it boots.
    pub image: Image,
    /// Its initial RAM disk.
    pub initrd: Option<Initrd>,
    /// Its kernel command line.
    pub command_line: String,
    /// It may sleep by a call to the monitor.
    pub idle_call: bool,
    /// Interrupts are injected by irqfd, else by KVM_IRQ_LINE.
    pub irqfd: bool,
}

/// Where threads run, and by which rules.
#[derive(Clone, Debug)]
pub struct Threads {
    /// For each vCPU the CPU that it is bound to, if any.
    pub vcpus: Vec<Option<usize>>,
    /// Threads enter their seccomp filters.
    pub confined: bool,
}

/// A running guest.
pub trait Guest: fmt::Debug {
    /// "kvm" or "thread".
    fn accel(&self) -> &'static str;
    /// Its serial port, if it has one.
    fn com1(&self) -> Option<&Com1>;
    /// Asks it to end its work and report, if it can hear that; false if not.
    fn ask(&self) -> bool;
    /// What has become of it, after `ended` was signalled.
    fn news(&self) -> News;
    /// Resets its machine, whose vCPUs wait for that, and lets it begin anew. If that fails, there is news.
    fn reboot(&self);
    /// Pulls its reset line, upon which there is news. False: it has none.
    fn pull_reset(&self) -> bool;
    /// Presses its power button. False: it does not listen to that.
    fn press_power_button(&self) -> bool;
    /// Asks its vCPUs whether they have halted for good.
    fn ask_halted(&self);
    /// Whether all have said so since.
    fn is_halted(&self) -> bool;
    /// It has halted: this is its end.
    fn end_halted(&self);
    /// Ends it.
    fn stop(&self);
    /// Waits for its end.
    fn join(self: Box<Self>) -> anyhow::Result<Ended>;
}
