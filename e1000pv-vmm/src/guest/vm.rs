//! The virtual machine as KVM knows it: memory, interrupt controllers, timer, doorbells.
//!
//! Order, which both kinds of KVM accept (`docs/design/vmm.md`): machine, pages that KVM wants,
//! interrupt controllers, timer, memory, vCPU. The 8259's ELCR is set as PC firmware leaves it: PCI's
//! lines level-triggered (82371 data sheet, ELCR1 and ELCR2).

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use e1000_device::GuestRam;
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_HALT_POLL, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_irqchip, kvm_pit_config,
    kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::host::memory::Memory;
use crate::machine::layout;

/// Where the kernel offers KVM.
pub const DEV_KVM: &str = "/dev/kvm";

/// What the kernel must be able to do.
const NEEDS: [(Cap, &str); 7] = [
    (Cap::Irqchip, "interrupt controllers"),
    (Cap::Pit2, "the interval timer"),
    (Cap::UserMemory, "memory slots"),
    (Cap::SetTssAddr, "task state pages"),
    (Cap::ExtCpuid, "CPUID tables"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::ImmediateExit, "immediate exit"),
];

/// A machine without vCPU.
pub struct Vm {
    /// The system, for what it supports.
    pub kvm: Kvm,
    /// The machine.
    pub fd: Arc<VmFd>,
    memory: Memory,
    /// The interrupt controllers and the timer as they are before a vCPU runs.
    chips: Vec<kvm_irqchip>,
    timer: kvm_pit_state2,
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// Opens KVM. The error is one line that says what to do.
pub fn open_kvm(path: &Path) -> anyhow::Result<Kvm> {
    let shown = path.display();
    let c_path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| anyhow!("{shown:?} is not a path"))?;
    let kvm = Kvm::new_with_path(&c_path).map_err(|e| {
        match io::Error::from_raw_os_error(e.errno()).kind() {
            io::ErrorKind::NotFound => anyhow!(
                "there is no {shown}: this machine has no KVM, or its module is not loaded \
                 (--accel thread runs the bench guest without)"
            ),
            io::ErrorKind::PermissionDenied => anyhow!(
                "{shown} may not be opened: join the group that owns it, usually kvm \
                 (--accel thread runs the bench guest without)"
            ),
            _ => anyhow!("opening {shown}: {}", io::Error::from_raw_os_error(e.errno())),
        }
    })?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => {}
        -1 => bail!("{shown} is not KVM"),
        version => {
            bail!("{shown} speaks version {version} of KVM's interface, not {KVM_API_VERSION}")
        }
    }
    for (cap, what) in NEEDS {
        if !kvm.check_extension(cap) {
            bail!("the KVM of this machine lacks {what}");
        }
    }
    Ok(kvm)
}

fn errno(e: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

impl Vm {
    /// Makes a machine with this memory.
    pub fn new(kvm: Kvm, memory: Memory) -> anyhow::Result<Vm> {
        let fd = kvm.create_vm().map_err(errno).context("creating the virtual machine")?;
        fd.set_identity_map_address(layout::IDENTITY_MAP)
            .and_then(|()| fd.set_tss_address(layout::TSS))
            .map_err(errno)
            .context("placing KVM's own pages")?;
        fd.create_irq_chip().map_err(errno).context("creating the interrupt controllers")?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(errno).context("creating the interval timer")?;
        level_triggered(&fd).map_err(errno).context("setting the interrupt controllers up")?;
        for (slot, piece) in (0..).zip(memory.pieces()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: piece.guest,
                memory_size: piece.bytes,
                userspace_addr: memory.region().as_ptr() as u64 + piece.offset,
            };
            // SAFETY: the range is a piece of a mapping that `memory` owns. The kernel reaches for it
            // while a vCPU runs only, and whoever runs one holds this `Vm`.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(errno)
                .context("giving the guest its memory")?;
        }
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).map(|()| chip)
        };
        let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC].map(chip);
        let chips = chips.into_iter().collect::<Result<_, _>>().map_err(errno);
        let chips = chips.context("asking for the state of the interrupt controllers")?;
        let timer = fd.get_pit2().map_err(errno).context("asking for the state of the timer")?;
        Ok(Vm { kvm, fd: Arc::new(fd), memory, chips, timer })
    }

    /// vCPUs that halt sleep at once, instead of polling for their next interrupt, so that their threads' time tells
    /// whether they halt. A kernel that knows no such request (before 5.9) polls on, for 200 us a halt at most.
    pub fn halt_is_sleep(&self) {
        let none = kvm_enable_cap { cap: KVM_CAP_HALT_POLL, ..Default::default() };
        let _ = self.fd.enable_cap(&none); // as said above
    }

    /// Interrupt controllers and timer are as after power-on, memory is empty. For a machine whose vCPUs do not run and
    /// whose devices leave memory alone.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn reset(&self) -> anyhow::Result<()> {
        let chips = || -> Result<(), kvm_ioctls::Error> {
            self.chips.iter().try_for_each(|chip| self.fd.set_irqchip(chip))?;
            self.fd.set_pit2(&self.timer)
        };
        chips().map_err(errno).context("resetting the interrupt controllers")?;
        self.memory.clear()
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// The device model's view of this memory.
pub fn guest_ram(memory: &Memory) -> GuestRam {
    let region = Arc::clone(memory.region());
    let base = std::ptr::NonNull::new(region.as_ptr()).expect("a mapping is not at address zero");
    let keep: Arc<dyn std::any::Any + Send + Sync> = region;
    // SAFETY: `base` is the start of a page-aligned, readable and writable mapping of this size, which
    // `keep` owns, and whose pieces lie around this hole. vm-memory makes no references to its bytes, and the loader, which copies by it,
    // is done before a vCPU or a device runs.
    unsafe { GuestRam::with_hole(base, memory.bytes(), layout::HOLE, keep) }
}

fn level_triggered(fd: &VmFd) -> Result<(), kvm_ioctls::Error> {
    let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];
    for (chip_id, elcr) in chips.into_iter().zip(layout::level_triggered()) {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        fd.get_irqchip(&mut chip)?;
        chip.chip.pic.elcr = elcr;
        fd.set_irqchip(&chip)?;
    }
    Ok(())
}
