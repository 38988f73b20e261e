//! The 82540EM, with the CSB of the paravirtual e1000: a device model without a monitor in it.
//!
//! ```text
//!   vCPU thread                                     I/O thread
//!   mmio_read, mmio_write, io_*                     kicked, round, before_sleep, timer
//!        |                                               |
//!        |   registers, irq, stats, csb (atomics and     |
//!        +-> small locks: Core)                        <-+
//!        |                                               |
//!        |   tx, rx, port (DataPath, one lock: reset,    |
//!        +-> ring set-up, inline transmission)         <-+  (held for one slice at a time)
//!
//!   below: GuestMemory   Board (InterruptLine, Clock)   NetPort   Counters
//! ```
//!
//! What is around it are four small traits; there is no KVM here, and no kind of network. So the driver's
//! tests, the fuzz harness and a guest that is a thread run the very device that virtual machines see.
//!
//! Invariants: what `core` holds needs no lock that is held for longer than a few stores; the lock of the
//! engines is held for a slice of at most [`SLICE`] packets, so a vCPU that needs it waits no longer
//! than that. Locks nest in one order: engines, interrupts, CSB. Nothing a guest does makes the
//! device panic, loop or fail: it is counted, and the device does what its page in docs/design says.
//!
//! `docs/design/e1000-device.md` tells the whole; `examples/echo.rs` is a whole machine around a
//! device.

#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod board;
mod config;
mod core;
pub mod counters;
pub mod csb;
mod deferred;
mod device;
mod eeprom;
mod effects;
mod filter;
#[cfg(feature = "harness")]
pub mod harness;
mod irq;
mod loopback;
mod memory;
mod mmio;
mod offload;
mod path;
mod phy;
pub mod port;
mod queue;
#[allow(unsafe_code)]
mod ram;
mod registers;
mod ring;
mod rx;
mod rx_modes;
mod rx_packet;
mod sizes;
pub mod state;
mod stats;
mod tx;
mod tx_packet;

pub use board::{Board, Clock, InterruptLine};
pub use config::{Config, TxMode, Wake};
pub use counters::{Count, Counters};
pub use device::E1000;
pub use memory::GuestMemory;
pub use path::{Next, Size};
pub use port::{Await, NetPort, RxSlots, TxSlots};
pub use ram::{GuestRam, PAGE_BYTES};

pub use state::State;

/// Packets that an engine handles in one slice, at most: what a vCPU may have to wait for.
pub const SLICE: usize = 256;
