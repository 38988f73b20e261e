//! The machine as its guest sees it: the bus and its devices, interrupt lines, and how a run ends.

pub mod acpi;
pub mod bus;
pub mod com1;
pub mod cpu;
pub mod exit;
pub mod idle;
pub mod intx;
pub mod layout;
pub mod pci;
pub mod power;
pub mod registers;
pub mod serial;
