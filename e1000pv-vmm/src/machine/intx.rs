//! Interrupt lines: INTA of every NIC, level-triggered (PCI 2.3, 2.2.6), and the sleep of a vCPU that
//! waits for one of them.
//!
//! ```text
//!   NIC 0 --level--+                       +-- KVM_IRQ_LINE --+
//!   NIC 4 --level--+-- wired OR -- a line --+                  +-- 8259 / IOAPIC -- vCPU
//!   NIC 1 --level------------------ a line --+-- irqfd ---------+
//!          |                                  <- resamplefd: end of interrupt
//!          +-- a sleeping vCPU (idle call, thread mode): woken instead, nothing is injected
//! ```
//!
//! Invariants: a line is injected if and only if one of its NICs asserts it and no vCPU is asleep here:
//! a sleeper takes the interrupt; the two agree again before the last of them goes on. All state is behind one mutex, so levels reach
//! the kernel in the order in which they changed. Nothing here is on the path of a packet: a device
//! calls [`Intx::set`] when its line's level changes.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

/// Puts the level of a line into an interrupt controller.
pub trait Inject: Send + Sync + fmt::Debug {
    /// The line is asserted or not. Called on changes.
    fn set(&self, line: u8, asserted: bool);
    /// The guest has ended an interrupt of this line, which deasserted it in the controller; the
    /// line is (still) asserted by a device.
    fn again(&self, line: u8);
}

/// `KVM_IRQ_LINE`: one call a change, done when it returns.
#[derive(Debug)]
pub struct IrqLine(Arc<VmFd>);

impl IrqLine {
    /// Lines of this machine's interrupt controllers.
    pub fn new(vm: Arc<VmFd>) -> IrqLine {
        IrqLine(vm)
    }
}

impl Inject for IrqLine {
    fn set(&self, line: u8, asserted: bool) {
        let done = self.0.set_irq_line(u32::from(line), asserted);
        debug_assert!(done.is_ok(), "the lines are those of a PC");
    }

    fn again(&self, _line: u8) {
        // The controller samples the level itself.
    }
}

/// irqfd with resamplefd: an assertion is a write to an eventfd; the controller lowers the line at the
/// end of an interrupt and signals that, after which a device that still needs it asserts it again.
#[derive(Debug)]
pub struct IrqFd {
    /// Line, what asserts it, what tells the end of an interrupt.
    lines: Vec<(u8, EventFd, EventFd)>,
}

impl IrqFd {
    /// Registers a pair for each of `lines`.
    pub fn new(vm: &VmFd, lines: &[u8]) -> anyhow::Result<IrqFd> {
        let mut made = Vec::new();
        for &line in lines {
            let (trigger, resample) =
                (EventFd::new(libc::EFD_CLOEXEC)?, EventFd::new(libc::EFD_CLOEXEC)?);
            vm.register_irqfd_with_resample(&trigger, &resample, u32::from(line))?;
            made.push((line, trigger, resample));
        }
        Ok(IrqFd { lines: made })
    }

    /// Copies of the descriptors that tell the end of an interrupt, with their lines.
    pub fn resample(&self) -> std::io::Result<Vec<(u8, OwnedFd)>> {
        let copy = |event: &EventFd| event.try_clone().map(crate::host::event::owned);
        self.lines.iter().map(|(line, _, resample)| Ok((*line, copy(resample)?))).collect()
    }

    fn assert(&self, line: u8) {
        if let Some((_, trigger, _)) = self.lines.iter().find(|(known, ..)| *known == line) {
            // It fails only when 2^64 assertions wait to be read.
            let _ = trigger.write(1);
        }
    }
}

impl Inject for IrqFd {
    fn set(&self, line: u8, asserted: bool) {
        // The controller lowers the line at the end of the interrupt. It may inject one interrupt too many, which
        // every driver of a shared line has to tolerate.
        if asserted {
            self.assert(line);
        }
    }

    fn again(&self, line: u8) {
        self.assert(line);
    }
}

impl Inject for Arc<IrqFd> {
    fn set(&self, line: u8, asserted: bool) {
        IrqFd::set(self, line, asserted);
    }

    fn again(&self, line: u8) {
        IrqFd::again(self, line);
    }
}

/// No controller: the only interrupts are those that wake a sleeper.
#[derive(Debug)]
pub struct Nowhere;

impl Inject for Nowhere {
    fn set(&self, _line: u8, _asserted: bool) {}
    fn again(&self, _line: u8) {}
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// These NICs (a bit each) assert their lines.
    Interrupt(u32),
    /// The time is over.
    Timeout,
    /// The machine stops.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    /// NICs that assert, a bit each.
    levels: u32,
    /// Lines asserted in the controller, a bit each.
    injected: u32,
    /// vCPUs that sleep here, a bit each.
    asleep: u64,
    stop: bool,
    /// vCPUs whose sleep, or whose next one, ends early.
    nudged: u64,
}

/// The lines of a machine.
#[derive(Debug)]
pub struct Intx {
    /// Line of each NIC.
    lines: Vec<u8>,
    /// How many there are.
    vcpus: usize,
    inject: Box<dyn Inject>,
    state: Mutex<State>,
    /// The levels, for those who look without waiting; changed under the mutex.
    levels: AtomicU32,
    changed: Condvar,
    /// A line was asserted while a vCPU slept, and nobody has woken it yet.
    sleeper_due: AtomicBool,
}

impl Intx {
    /// Lines for NICs, `lines[i]` being that of NIC `i`; all deasserted. So many vCPUs are interrupted.
    ///
    /// # Panics
    /// With more than 32 NICs, a line above 31, or more than 64 vCPUs.
    pub fn new(lines: Vec<u8>, vcpus: usize, inject: Box<dyn Inject>) -> Intx {
        assert!(lines.len() <= 32 && lines.iter().all(|line| *line < 32) && vcpus <= 64);
        Intx {
            lines,
            vcpus,
            inject,
            state: Mutex::default(),
            levels: AtomicU32::new(0),
            changed: Condvar::new(),
            sleeper_due: AtomicBool::new(false),
        }
    }

    /// NIC `nic` asserts its line or not.
    pub fn set(&self, nic: usize, level: bool) {
        let mut state = self.lock();
        let bit = 1 << nic;
        state.levels = if level { state.levels | bit } else { state.levels & !bit };
        // Relaxed: who sees it reads ICR next, which is behind a lock of its own.
        self.levels.store(state.levels, Ordering::Relaxed);
        self.agree(&mut state);
        if state.asleep != 0 && level {
            // Release pairs with the Acquire in `wake`.
            self.sleeper_due.store(true, Ordering::Release);
        }
    }

    /// After `set`: wakes a sleeping vCPU if that concerns it. Apart, so that a caller can first release the
    /// locks that the vCPU needs. Whoever takes `sleeper_due` notifies after the sleeper has begun to
    /// wait: it was set under the mutex that a waiter gives up by waiting.
    pub fn wake(&self) {
        if self.sleeper_due.load(Ordering::Relaxed)
            && self.sleeper_due.swap(false, Ordering::Acquire)
        {
            self.changed.notify_one();
        }
    }

    /// NICs that assert their line now, a bit each.
    pub fn levels(&self) -> u32 {
        self.levels.load(Ordering::Relaxed)
    }

    /// vCPU `vcpu` sleeps until a NIC asserts its line, the time is over, or the machine stops; at once if that is
    /// so already. The caller lowers the line, by reading ICR, before it lets the guest go on.
    pub fn sleep(&self, vcpu: usize, timeout: Option<Duration>) -> Woken {
        let end = timeout.and_then(|time| Instant::now().checked_add(time));
        let mut state = self.lock();
        state.asleep |= 1 << vcpu;
        loop {
            if state.stop {
                return Woken::Stop;
            }
            if state.levels != 0 {
                return Woken::Interrupt(state.levels);
            }
            if state.nudged & 1 << vcpu != 0 {
                state.nudged &= !(1 << vcpu);
                return Woken::Timeout;
            }
            state = match end {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Woken::Timeout;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// vCPU `vcpu` goes on: what is asserted now is injected, unless others sleep.
    pub fn awake(&self, vcpu: usize) {
        let mut state = self.lock();
        state.asleep &= !(1 << vcpu);
        self.agree(&mut state);
    }

    /// Ends each vCPU's sleep, or its next one, as if its time were over.
    pub fn nudge(&self) {
        self.lock().nudged = u64::MAX >> (64 - self.vcpus.max(1));
        self.changed.notify_all();
    }

    /// Ends these sleeps and all later ones.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// The guest has ended an interrupt of `line`.
    pub fn ended(&self, line: u8) {
        let mut state = self.lock();
        let asserted = self.asserted(&state, line) && state.asleep == 0;
        if asserted {
            self.inject.again(line);
        } else {
            state.injected &= !(1 << line);
        }
    }

    fn asserted(&self, state: &State, line: u8) -> bool {
        let nics = self.lines.iter().enumerate();
        nics.filter(|(_, its)| **its == line).any(|(nic, _)| state.levels & (1 << nic) != 0)
    }

    fn agree(&self, state: &mut State) {
        let mut wanted = 0u32;
        for (nic, line) in self.lines.iter().enumerate() {
            if state.levels & (1 << nic) != 0 {
                wanted |= 1 << line;
            }
        }
        if state.asleep != 0 {
            // A sleeper takes new assertions; the end of one concerns all vCPUs.
            wanted &= state.injected;
        }
        let changed = wanted ^ state.injected;
        for line in (0..32).filter(|line| changed & (1 << line) != 0) {
            self.inject.set(line, wanted & (1 << line) != 0);
        }
        state.injected = wanted;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Log(Arc<Seen>);

    impl Inject for Log {
        fn set(&self, line: u8, asserted: bool) {
            self.0.lock().expect("log").push((line, asserted));
        }
        fn again(&self, line: u8) {
            self.0.lock().expect("log").push((line, true));
        }
    }

    type Seen = Mutex<Vec<(u8, bool)>>;

    fn lines(lines: &[u8]) -> (Arc<Intx>, Arc<Seen>) {
        let log = Log::default();
        let seen = Arc::clone(&log.0);
        (Arc::new(Intx::new(lines.to_vec(), 2, Box::new(log))), seen)
    }

    fn take(log: &Seen) -> Vec<(u8, bool)> {
        std::mem::take(&mut log.lock().expect("log"))
    }

    #[test]
    fn shared_line_is_a_wired_or() {
        let (intx, log) = lines(&[11, 10, 11]);
        intx.set(0, true);
        intx.set(2, true);
        intx.set(0, false);
        intx.set(1, true);
        intx.set(2, false);
        assert_eq!(take(&log), [(11, true), (10, true), (11, false)]);
    }

    #[test]
    fn end_of_interrupt_asserts_again_while_a_nic_does() {
        let (intx, log) = lines(&[11, 10]);
        intx.set(0, true);
        intx.ended(11);
        intx.ended(10);
        assert_eq!(take(&log), [(11, true), (11, true)]);
        // Lowered and ended: the next assertion is a new one.
        intx.set(0, false);
        intx.ended(11);
        intx.set(0, true);
        assert_eq!(take(&log), [(11, false), (11, true)]);
    }

    #[test]
    fn sleeper_is_woken_and_nothing_injected() {
        let (intx, log) = lines(&[11]);
        let sleeper = {
            let intx = Arc::clone(&intx);
            std::thread::spawn(move || {
                let woken = intx.sleep(0, Some(Duration::from_secs(60)));
                intx.set(0, false); // what reading ICR does
                intx.awake(0);
                woken
            })
        };
        while intx.lock().asleep == 0 {
            std::thread::yield_now();
        }
        intx.set(0, true);
        intx.wake();
        assert_eq!(sleeper.join().expect("thread"), Woken::Interrupt(1));
        assert_eq!(take(&log), []);
    }

    #[test]
    fn asserted_before_sleep_returns_at_once_and_left_asserted_is_injected() {
        let (intx, log) = lines(&[11]);
        intx.lock().asleep = 1;
        intx.set(0, true);
        assert_eq!(intx.sleep(0, None), Woken::Interrupt(1));
        assert_eq!(take(&log), []);
        intx.awake(0);
        assert_eq!(take(&log), [(11, true)]);
    }

    #[test]
    fn sleep_ends_by_time_and_by_stop() {
        let (intx, _) = lines(&[11]);
        assert_eq!(intx.sleep(0, Some(Duration::from_millis(1))), Woken::Timeout);
        intx.stop();
        assert_eq!(intx.sleep(0, None), Woken::Stop);
    }

    #[test]
    fn while_one_of_two_vcpus_sleeps_it_takes_the_interrupt() {
        let (intx, log) = lines(&[11]);
        assert_eq!(intx.sleep(1, Some(Duration::ZERO)), Woken::Timeout);
        intx.set(0, true);
        assert_eq!(take(&log), [], "vCPU 1 sleeps, and is there to take it");
        assert_eq!(intx.sleep(1, None), Woken::Interrupt(1));
        intx.set(0, false);
        intx.awake(1);
        intx.nudge();
        for vcpu in [0, 1] {
            assert_eq!(intx.sleep(vcpu, None), Woken::Timeout, "each is nudged once");
        }
        intx.awake(0);
        intx.set(0, true);
        assert_eq!(take(&log), []);
        intx.awake(1);
        assert_eq!(take(&log), [(11, true)], "nobody sleeps any more");
    }
}
