//! The bench guest: boots by PVH, finds its network interfaces, does what the kernel command line
//! says, prints the outcome as one line of JSON, and ends the machine. `docs/design/guest-image.md`.
//!
//! Invariant: all Rust runs at CPL 3, on one CPU, never in an interrupt.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod arch;
#[allow(unsafe_code)]
mod boot_info;
#[allow(unsafe_code)]
mod clock;
mod console;
mod cpu;
#[allow(unsafe_code)]
mod heap;
#[allow(unsafe_code)]
mod io;
#[allow(unsafe_code)]
mod irq;
#[allow(unsafe_code)]
mod mem;
mod pci;
#[allow(unsafe_code)]
mod start;
