//! What the device model of the 82540EM and its driver share: the register table, the bits in the
//! registers, descriptors, EEPROM, PHY, PCI identity, interrupt throttling units, and the
//! Communication Status Block (CSB) of the paravirtual e1000 with the rules of both its sides.
//!
//! Names are those of the *PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual* (Intel 317453, "the 8254x manual"); section numbers in this crate are that manual's.
//! Everything here is a value or a pure function: memory is accessed only through the [`csb::Csb`] that the
//! caller passes.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(test)]
extern crate std;

pub mod bits;
pub mod csb;
pub mod desc;
pub mod eeprom;
pub mod idle;
pub mod itr;
pub mod pci;
pub mod phy;
pub mod regs;
