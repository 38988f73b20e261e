//! e1000pv-vmm: a small virtual machine monitor for KVM, with a paravirtual e1000 on netmap ports.
//!
//! ```text
//!   cli -> plan -> run                      what was typed, what it means, a machine's life
//!            kvm_guest | thread_guest       who executes the guest
//!   vcpu -> bus -> pci, serial, idle        exits, and who answers them
//!            |
//!          nics: e1000 -- board: intx, doorbell
//!            |     `----- iothread -- netport: netdev (lib/netmap)
//!          memory, vm, boot                 RAM, the machine in the kernel, the first instruction
//! ```
//!
//! `docs/design/vmm.md` is the page of the monitor; the device has its own.
//!
//! Unsafe code is in the modules that say so below, and nowhere else.

#![deny(unsafe_code)]
// They panic where the output fails: nm_cli::say!, and writes whose errors are looked at.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod board;
#[allow(unsafe_code)]
pub mod boot;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod counters;
pub mod exit;
pub mod guest;
pub mod guest_image;
pub mod idle;
pub mod intx;
pub mod iothread;
pub mod kvm_guest;
pub mod layout;
pub mod machines;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod netdev;
#[allow(unsafe_code)]
pub mod nics;
pub mod notify;
pub mod pci;
pub mod plan;
pub mod report;
mod run;
#[cfg_attr(test, allow(unsafe_code))]
pub mod sandbox;
pub mod serial;
#[allow(unsafe_code)]
pub mod terminal;
#[allow(unsafe_code)]
pub mod thread_guest;
#[allow(unsafe_code)]
pub mod vcpu;
#[allow(unsafe_code)]
pub mod vm;

pub use run::run;
