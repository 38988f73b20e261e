//! The state of a vCPU after power-on, to which a reset returns it.
//!
//! Invariants: it is what KVM said before the vCPU ran for the first time. An exit that has been answered is completed
//! first, or the kernel would do that to the registers of the next beginning. The time-stamp counter goes on: guests that
//! begin anew compare it between vCPUs, and each could be set for itself only.

use std::fmt;

use anyhow::Context;
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::guest::boot::{self, Entry};

/// The time-stamp counter.
const MSR_TSC: u32 = 0x10;
/// Pieces that an exit may still have to complete: a store over two pages is two.
const PIECES: usize = 8;

/// A vCPU's state.
pub struct PowerOn {
    index: usize,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    debug: kvm_debugregs,
    mp_state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

impl fmt::Debug for PowerOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerOn").field("index", &self.index).finish_non_exhaustive()
    }
}

fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<kvm_msr_entry> {
    let mut one = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    (vcpu.get_msrs(&mut one).ok()? == 1).then(|| one.as_slice()[0])
}

impl PowerOn {
    /// That of vCPU `index`, which has not run yet.
    ///
    /// # Errors
    /// KVM does not tell.
    pub fn of(kvm: &Kvm, vcpu: &VcpuFd, index: usize) -> anyhow::Result<PowerOn> {
        let ask = || -> Result<PowerOn, kvm_ioctls::Error> {
            let list = kvm.get_msr_index_list()?;
            let msrs = list.as_slice().iter().filter(|msr| **msr != MSR_TSC);
            Ok(PowerOn {
                index,
                regs: vcpu.get_regs()?,
                sregs: vcpu.get_sregs()?,
                fpu: vcpu.get_fpu()?,
                xcrs: vcpu.get_xcrs().ok(), // a processor without XSAVE has none
                lapic: vcpu.get_lapic()?,
                events: vcpu.get_vcpu_events()?,
                debug: vcpu.get_debug_regs()?,
                mp_state: vcpu.get_mp_state()?,
                // What the list has and this processor has not cannot be read.
                msrs: msrs.filter_map(|msr| read_msr(vcpu, *msr)).collect(),
            })
        };
        ask()
            .map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
            .with_context(|| format!("asking for the state of virtual CPU {index}"))
    }

    /// Returns the vCPU to it. The first one is at `entry` then.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn restore(&self, vcpu: &mut VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
        vcpu.set_kvm_immediate_exit(1);
        for _ in 0..PIECES {
            if vcpu.run().is_err() {
                break; // interrupted: nothing is left to complete
            }
        }
        let (mut regs, mut sregs) = (self.regs, self.sregs);
        if self.index == 0 {
            boot::boot_segments(&mut sregs, entry);
            regs = boot::boot_registers(entry);
        }
        vcpu.set_sregs(&sregs)?;
        for msr in &self.msrs {
            let is_so = read_msr(vcpu, msr.index).is_some_and(|now| now.data == msr.data);
            if let (false, Ok(one)) = (is_so, Msrs::from_entries(&[*msr])) {
                // Some that the guest cannot change either change by themselves.
                vcpu.set_msrs(&one)?;
            }
        }
        vcpu.set_fpu(&self.fpu)?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs)?;
        }
        vcpu.set_regs(&regs)?;
        vcpu.set_lapic(&self.lapic)?;
        vcpu.set_vcpu_events(&self.events)?;
        vcpu.set_debug_regs(&self.debug)?;
        vcpu.set_mp_state(self.mp_state)
    }
}
