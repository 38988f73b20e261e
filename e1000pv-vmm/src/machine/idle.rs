//! The idle call: a guest that has nothing to do asks the monitor to sleep in its place
//! (`e1000pv::idle` has the protocol, and why). One exit instead of halt, interrupt, handler and end of
//! interrupt; nothing is injected for what it returns with.
//!
//! Invariant: the guest's block is touched by bounds-checked atomics only, and a block outside of
//! memory makes the call return at once; so a guest that passes a bad address only wastes its own time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use e1000_device::{GuestMemory, GuestRam};
use e1000pv::idle::{NICS, layout};
use e1000pv::regs;

use crate::machine::intx::{Intx, Woken};
use crate::machine::registers::Registers;

/// The parts of the machine that the call needs.
pub struct Idle {
    ram: GuestRam,
    intx: Arc<Intx>,
    nics: Vec<Arc<dyn Registers>>,
    /// The last block of each vCPU; 0 is none.
    last: Vec<AtomicU32>,
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("nics", &self.nics.len()).finish_non_exhaustive()
    }
}

impl Idle {
    /// The call for a machine with so many vCPUs and these NICs, in the order of their slots.
    pub fn new(
        ram: GuestRam,
        intx: Arc<Intx>,
        vcpus: usize,
        nics: Vec<Arc<dyn Registers>>,
    ) -> Idle {
        let last = (0..vcpus).map(|_| AtomicU32::new(0)).collect();
        Idle { ram, intx, nics, last }
    }

    /// Asks the guest to end its work and report. False: it has never called, and would not hear.
    pub fn ask_to_stop(&self) -> bool {
        let mut heard = false;
        for last in &self.last {
            let block = u64::from(last.load(Ordering::Relaxed));
            if let Some(stop) = self.word(block, layout::STOP).filter(|_| block != 0) {
                stop.store(1, Ordering::Relaxed);
                heard = true;
            }
        }
        if heard {
            self.intx.nudge();
        }
        heard
    }

    /// No vCPU has called.
    pub fn reset(&self) {
        self.last.iter().for_each(|last| last.store(0, Ordering::Relaxed));
    }

    fn word(&self, block: u64, offset: u64) -> Option<&AtomicU32> {
        self.ram.word32(block + offset)
    }

    /// Sleeps on behalf of vCPU `vcpu`, if the block at `block` says that it has seen everything.
    /// `None`: there is no such block.
    pub fn call(&self, vcpu: usize, block: u32) -> Option<()> {
        self.last[vcpu].store(block, Ordering::Relaxed);
        let block = u64::from(block);
        let (wakeups, seen) = (self.word(block, layout::WAKEUPS)?, self.word(block, layout::SEEN)?);
        let timeout = self.ram.words(block + layout::TIMEOUT_NS, 1)?[0].load(Ordering::Relaxed);
        // Pairs with nothing: the vCPU that wrote them is this thread, in its guest.
        if wakeups.load(Ordering::Relaxed) != seen.load(Ordering::Relaxed) {
            return Some(());
        }
        let timeout = (timeout != 0).then_some(Duration::from_nanos(timeout));
        if let Woken::Interrupt(mut levels) = self.intx.sleep(vcpu, timeout) {
            // As an interrupt handler does: until no line is asserted. Bounded, as a device that
            // asserts at once again is served by the next call.
            for _ in 0..2 {
                self.take_causes(block, levels);
                match self.intx.sleep(vcpu, Some(Duration::ZERO)) {
                    Woken::Interrupt(more) => levels = more,
                    _ => break,
                }
            }
        }
        wakeups.fetch_add(1, Ordering::Release);
        self.intx.awake(vcpu);
        Some(())
    }

    /// Reads ICR, which lowers the line, and notes its causes.
    fn take_causes(&self, block: u64, levels: u32) {
        for (nic, registers) in self.nics.iter().enumerate().take(NICS) {
            if levels & (1 << nic) == 0 {
                continue;
            }
            let mut icr = [0; 4];
            registers.mmio_read(u64::from(regs::ICR), &mut icr);
            let part = block + nic as u64 * layout::NIC_STRIDE;
            if let Some(causes) = self.word(part, layout::CAUSES) {
                causes.fetch_or(u32::from_le_bytes(icr), Ordering::Relaxed);
            }
            if let Some(interrupts) = self.word(part, layout::INTERRUPTS) {
                interrupts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;
    use crate::machine::intx::Nowhere;

    /// A NIC of which only ICR exists.
    #[derive(Debug)]
    struct Icr {
        causes: Mutex<u32>,
        intx: Arc<Intx>,
    }

    impl Registers for Icr {
        fn mmio_read(&self, offset: u64, data: &mut [u8]) {
            assert_eq!(offset, u64::from(regs::ICR));
            let causes = std::mem::take(&mut *self.causes.lock().expect("causes"));
            data.copy_from_slice(&causes.to_le_bytes());
            self.intx.set(0, false);
        }
        fn mmio_write(&self, _: u64, _: &[u8]) {}
        fn io_read(&self, _: u64, _: &mut [u8]) {}
        fn io_write(&self, _: u64, _: &[u8]) {}
    }

    fn idle() -> (Idle, Arc<Icr>) {
        let ram = GuestRam::anonymous(1 << 20).expect("a megabyte");
        let intx = Arc::new(Intx::new(vec![11], 1, Box::new(Nowhere)));
        let nic = Arc::new(Icr { causes: Mutex::new(0), intx: Arc::clone(&intx) });
        (Idle::new(ram, intx, 1, vec![Arc::clone(&nic) as Arc<dyn Registers>]), nic)
    }

    fn value(idle: &Idle, offset: u64) -> u32 {
        idle.word(0x1000, offset).expect("memory").load(Ordering::Relaxed)
    }

    #[test]
    fn call_takes_causes_and_counts() {
        let (idle, nic) = idle();
        *nic.causes.lock().expect("causes") = 0x80;
        nic.intx.set(0, true);
        assert_eq!(idle.call(0, 0x1000), Some(()));
        assert_eq!(value(&idle, layout::CAUSES), 0x80);
        assert_eq!(value(&idle, layout::INTERRUPTS), 1);
        assert_eq!(value(&idle, layout::WAKEUPS), 1);
        // The guest has not seen that wake-up yet: no sleep.
        let begin = Instant::now();
        assert_eq!(idle.call(0, 0x1000), Some(()));
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(value(&idle, layout::WAKEUPS), 1);
    }

    #[test]
    fn call_ends_by_its_time() {
        let (idle, _nic) = idle();
        idle.ram.words(0x1000 + layout::TIMEOUT_NS, 1).expect("memory")[0]
            .store(1_000_000, Ordering::Relaxed);
        assert_eq!(idle.call(0, 0x1000), Some(()));
        assert_eq!(value(&idle, layout::WAKEUPS), 1);
        assert_eq!(value(&idle, layout::INTERRUPTS), 0);
    }

    #[test]
    fn call_with_a_block_outside_of_memory_returns() {
        let (idle, _nic) = idle();
        for block in [1 << 20, (1 << 20) - 8, u32::MAX, 0xe000_0000, 0x1001] {
            assert_eq!(idle.call(0, block), None, "{block:x}");
        }
    }
}
