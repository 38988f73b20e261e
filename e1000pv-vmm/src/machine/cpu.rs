//! Who accesses the machine: one of its vCPUs.

use crate::stats::counters::VcpuCounters;

/// A vCPU, as devices and bus know it.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Its number, from 0.
    pub index: usize,
    /// Where what it does is counted.
    pub counters: VcpuCounters,
}
