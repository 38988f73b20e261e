//! What is around one NIC: its interrupt line, and the doorbell that rings its I/O thread.
//!
//! Invariant: the ioeventfd is registered if and only if the device wants it (a CSB is mapped) and
//! BAR0 decodes, and then at BAR0's present address. Where the kernel refuses one (two BARs at one
//! address, while a guest sizes them), writes of TDT exit with their value, which is always right.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e1000_device::{Board, Clock, InterruptLine};
use e1000pv::regs;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::host::clock::monotonic_ns;
use crate::machine::intx::Intx;

/// The machine around NIC `nic`.
#[derive(Debug)]
pub struct NicBoard {
    nic: usize,
    intx: Arc<Intx>,
    wake: EventFd,
    doorbell: Option<Doorbell>,
}

/// An ioeventfd on TDT.
#[derive(Debug)]
pub struct Doorbell {
    vm: Arc<VmFd>,
    kick: EventFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    bar0: Option<u32>,
    attached: Option<u64>,
}

impl Doorbell {
    /// A doorbell that signals `kick`, not attached.
    pub fn new(vm: Arc<VmFd>, kick: EventFd) -> Doorbell {
        Doorbell { vm, kick, state: Mutex::default() }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wanted = state.bar0.filter(|_| state.wanted);
        let wanted = wanted.map(|bar0| u64::from(bar0) + u64::from(regs::TDT));
        if wanted == state.attached {
            return;
        }
        if let Some(at) = state.attached.take() {
            let gone =
                self.vm.unregister_ioevent(&self.kick, &IoEventAddress::Mmio(at), NoDatamatch);
            debug_assert!(gone.is_ok(), "it was attached there");
        }
        if let Some(at) = wanted {
            // Of any width: a kick only says that there is something to see, and KVM answers a
            // doorbell without a length before it has decoded the instruction.
            let there =
                self.vm.register_ioevent(&self.kick, &IoEventAddress::Mmio(at), NoDatamatch);
            state.attached = there.is_ok().then_some(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two stores leaves the doorbell attached or not, and either state is correct.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NicBoard {
    /// The machine around NIC `nic`: `wake` ends its I/O thread's sleep. Without a doorbell all
    /// writes of TDT come with their value.
    pub fn new(nic: usize, intx: Arc<Intx>, wake: EventFd, doorbell: Option<Doorbell>) -> NicBoard {
        NicBoard { nic, intx, wake, doorbell }
    }
}

impl InterruptLine for NicBoard {
    fn set_intx(&self, level: bool) {
        self.intx.set(self.nic, level);
    }

    fn wake_vcpu(&self) {
        self.intx.wake();
    }
}

impl Clock for NicBoard {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for NicBoard {
    fn set_doorbell(&self, on: bool) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.change(|state| state.wanted = on);
        }
    }

    fn wake_io(&self) {
        // It fails only if 2^64 wake-ups are pending, in which case the thread wakes anyway.
        let _ = self.wake.write(1);
    }
}

impl NicBoard {
    /// BAR0 is here now.
    pub fn moved(&self, memory: Option<u32>) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.change(|state| state.bar0 = memory);
        }
    }
}
