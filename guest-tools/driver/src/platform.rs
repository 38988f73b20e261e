//! What the driver needs from the machine it runs on, besides memory ([`crate::dma`]): registers, a clock,
//! and sleep. Three implementations exist: the bare-metal guest, a host thread, and the tests.

/// The device's registers (8254x manual, chapter 13).
pub trait Mmio {
    /// Reads the register at `offset`.
    fn read32(&self, offset: u32) -> u32;
    /// Writes the register at `offset`.
    fn write32(&self, offset: u32, value: u32);
}

impl<M: Mmio> Mmio for &M {
    fn read32(&self, offset: u32) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        (**self).write32(offset, value);
    }
}

/// The CPU, its clock and its interrupts.
///
/// The platform's interrupt handler reads ICR of all its devices (which also takes the line down),
/// ORs what it read into a word, and counts. Nothing of the driver runs in it.
pub trait Cpu {
    /// A monotonic clock. Called once a batch, so some tens of nanoseconds are fine.
    fn now_ns(&self) -> u64;
    /// Sleeps until the number of interrupts taken is not `seen` (which may already be so), or
    /// `timeout_ns` have passed.
    fn idle(&self, seen: u32, timeout_ns: Option<u64>);
    /// Interrupts taken so far, wrapping.
    fn interrupts(&self) -> u32;
    /// The causes that handlers have read since the last call, which are forgotten by it.
    fn take_causes(&self) -> u32;
    /// True once the workload has been asked to end early and report.
    fn stopping(&self) -> bool {
        false
    }
}

impl<C: Cpu> Cpu for &C {
    fn now_ns(&self) -> u64 {
        (**self).now_ns()
    }

    fn idle(&self, seen: u32, timeout_ns: Option<u64>) {
        (**self).idle(seen, timeout_ns);
    }

    fn interrupts(&self) -> u32 {
        (**self).interrupts()
    }

    fn take_causes(&self) -> u32 {
        (**self).take_causes()
    }

    fn stopping(&self) -> bool {
        (**self).stopping()
    }
}
