//! Going to sleep and waking up: the only place where a guest idles.
//!
//! Invariant: before a sleep the guest flushes, notes the number of interrupts, asks for one, and looks again, in
//! this order. So whatever comes after the last look changes the number, and [`Cpu::idle`] returns. Sleeps are
//! limited, and after the limit everything is checked again: a lost interrupt costs milliseconds and is counted.

use crate::nic::{Interest, Nic};
use crate::platform::{Cpu, Mmio};

/// Longest sleep while the device has packets to send, whose completion must come soon.
const SENDING_NS: u64 = 10_000_000;
/// Longest sleep otherwise.
const QUIET_NS: u64 = 250_000_000;

/// How a guest waits, and statistics of it.
#[derive(Clone, Debug)]
pub struct Sleeper {
    spin_ns: u64,
    /// Interrupts taken when causes were last handed to the devices.
    served: u32,
    idles: u64,
    lost: u64,
}

impl Sleeper {
    /// Looks for work for `spin_ns` before it sleeps.
    pub fn new(cpu: &impl Cpu, spin_ns: u64) -> Sleeper {
        Sleeper { spin_ns, served: cpu.interrupts().wrapping_sub(1), idles: 0, lost: 0 }
    }

    /// Times that the CPU went idle.
    pub fn idles(&self) -> u64 {
        self.idles
    }

    /// Times that a limit woke it although work was there: interrupts that never came.
    pub fn lost_interrupts(&self) -> u64 {
        self.lost
    }

    /// Hands causes to the devices if there was an interrupt. Cheap: once a batch.
    #[inline]
    pub fn serve<M: Mmio>(&mut self, cpu: &impl Cpu, nics: &mut [Nic<M>]) {
        let taken = cpu.interrupts();
        if taken != self.served {
            self.served = taken;
            let causes = cpu.take_causes();
            nics.iter_mut().for_each(|nic| nic.interrupted(causes));
        }
    }

    /// Waits until one of `interests` (one for each device) is met, an interrupt came, or the clock
    /// shows `deadline_ns`. Flushes first.
    pub fn wait<M: Mmio>(
        &mut self,
        cpu: &impl Cpu,
        nics: &mut [Nic<M>],
        interests: &[Interest],
        deadline_ns: Option<u64>,
    ) {
        nics.iter_mut().for_each(|nic| nic.tx_flush(cpu, false));
        self.serve(cpu, nics);
        if ready(nics, interests) || self.spin(cpu, nics, interests, deadline_ns) {
            return;
        }
        // Before the last look; `serve` has handled what came until then.
        let seen = self.served;
        let mut may_sleep = true;
        for (nic, &interest) in nics.iter_mut().zip(interests) {
            may_sleep = may_sleep && nic.arm(interest);
        }
        let sending = may_sleep && nics.iter_mut().any(|nic| nic.tx_pending() > 0);
        let limit_ns = if sending { SENDING_NS } else { QUIET_NS };
        let timeout_ns = deadline_ns
            .map_or(limit_ns, |deadline| deadline.saturating_sub(cpu.now_ns()).min(limit_ns));
        if may_sleep && timeout_ns > 0 {
            self.idles += 1;
            cpu.idle(seen, Some(timeout_ns));
        }
        nics.iter_mut().for_each(Nic::disarm);
        let quiet = cpu.interrupts() == seen;
        self.serve(cpu, nics);
        if may_sleep && quiet {
            let now = cpu.now_ns();
            nics.iter_mut().for_each(|nic| nic.expire(now));
            if timeout_ns == limit_ns && ready(nics, interests) {
                self.lost += 1;
            }
        }
    }

    /// Looks again and again for a while; true if that found something or the deadline has come.
    fn spin<M: Mmio>(
        &mut self,
        cpu: &impl Cpu,
        nics: &mut [Nic<M>],
        interests: &[Interest],
        deadline_ns: Option<u64>,
    ) -> bool {
        if self.spin_ns == 0 {
            return false;
        }
        let end = cpu.now_ns() + self.spin_ns;
        loop {
            let now = cpu.now_ns();
            if deadline_ns.is_some_and(|deadline| now >= deadline) {
                return true;
            }
            if now >= end {
                return false;
            }
            core::hint::spin_loop();
            self.serve(cpu, nics);
            if ready(nics, interests) {
                return true;
            }
        }
    }
}

fn ready<M: Mmio>(nics: &mut [Nic<M>], interests: &[Interest]) -> bool {
    nics.iter_mut().zip(interests).any(|(nic, &interest)| nic.ready(interest))
}
