//! The machine as its guest sees it: who answers where, interrupt lines, and how it ends.

pub mod bus;
pub mod cpu;
pub mod exit;
pub mod idle;
pub mod intx;
pub mod layout;
pub mod pci;
pub mod registers;
pub mod serial;
