//! A driver for the Intel 82540EM, real or virtual: plain, with send combining, or with a communication
//! status block (CSB). `docs/design/guest-driver.md` is its design; names are those of the 8254x manual.
//!
//! no_std, and allocation-free after [`Nic::new`]. It runs wherever [`Mmio`], [`Dma`] and [`Cpu`] do: in
//! a bare-metal guest, or on a host thread against the device model.
//!
//! Unsafe code is in `arch`, `dma` and `mmio` only.

#![no_std]
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod arch;
mod config;
#[allow(unsafe_code)]
mod dma;
mod error;
mod kick;
#[allow(unsafe_code)]
mod mmio;
mod nic;
mod platform;
mod rx;
mod start;
mod tx;
mod wait;

pub use config::{Config, Discipline, Interrupts, Kick, RING_MAX, RING_MIN, Report};
pub use dma::{BUFFER_BYTES, BUFFER_STRIDE, BUFFER_WORDS, Block, Buffer, Dma};
pub use error::Error;
pub use mmio::Bar;
pub use nic::{Forwarded, Interest, Nic, Stats};
pub use platform::{Cpu, Mmio};
pub use rx::RxSlot;
pub use start::quiesce;
pub use tx::TxSlot;
pub use wait::Sleeper;
