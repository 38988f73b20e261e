//! The vCPU that makes an access.

use crate::stats::counters::VcpuCounters;

/// A vCPU, as devices and bus know it.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Its number, from 0.
    pub index: usize,
    /// The counters of what it does.
    pub counters: VcpuCounters,
}
