//! What the device needs from the machine around it, besides memory and a network.

use std::fmt;

/// The interrupt line.
pub trait InterruptLine {
    /// Sets the level of the line; called on changes only, in their order, under the lock of the
    /// interrupt logic, so it must not call the device.
    fn set_intx(&self, level: bool);
    /// After `set_intx(true)`, without that lock: wakes a vCPU that sleeps. It runs at once, perhaps in
    /// this thread's place, and reads ICR: if it found the lock taken, each interrupt would cost two
    /// more context switches.
    fn wake_vcpu(&self) {}
}

/// A clock that only goes forward.
pub trait Clock {
    /// Nanoseconds since some fixed moment. All deadlines, and the times that are passed to rounds, use this
    /// clock.
    fn now_ns(&self) -> u64;
}

/// The machine around one device.
pub trait Board: InterruptLine + Clock + Send + Sync + fmt::Debug {
    /// True: writes of TDT only wake the I/O thread from now on, their value may be lost (an
    /// ioeventfd). False: they come as `mmio_write`, with their value.
    fn set_doorbell(&self, on: bool);
    /// Lets the I/O thread run a round soon; from any thread, also from within a round.
    fn wake_io(&self);
}
