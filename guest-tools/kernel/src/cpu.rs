//! What the driver needs of the machine: clock, interrupts, sleep.

use core::sync::atomic::Ordering;

use e1000pv::idle;
use e1000pv_driver::Cpu;

use crate::clock::Clock;
use crate::{arch, irq};

/// How to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Halt; the local timer, which ticks so often a millisecond, ends it at its deadline.
    Halt {
        /// Ticks per millisecond.
        timer: u32,
    },
    /// The monitor's idle call.
    Call,
}

/// The CPU.
#[derive(Clone, Copy, Debug)]
pub struct GuestCpu {
    /// Time.
    pub clock: Clock,
    /// Sleep.
    pub sleep: Sleep,
}

impl Cpu for GuestCpu {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn idle(&self, seen: u32, timeout_ns: Option<u64>) {
        match self.sleep {
            Sleep::Call => irq::idle_call(seen, timeout_ns),
            Sleep::Halt { timer } => {
                if let Some(ns) = timeout_ns {
                    let ticks = u128::from(ns) * u128::from(timer) / 1_000_000;
                    irq::set_timer(ticks.clamp(1, u128::from(u32::MAX)) as u32);
                }
                arch::sleep(seen);
                if timeout_ns.is_some() {
                    irq::set_timer(0);
                }
            }
        }
    }

    #[inline]
    fn interrupts(&self) -> u32 {
        irq::wakeups_now()
    }

    fn take_causes(&self) -> u32 {
        (0..idle::NICS)
            .map(|i| irq::shared(i).causes.swap(0, Ordering::AcqRel))
            .fold(0, |a, b| a | b)
    }

    #[inline]
    fn stopping(&self) -> bool {
        irq::stopping()
    }
}
