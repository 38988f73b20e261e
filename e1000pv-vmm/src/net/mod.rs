//! The NICs of a machine: what is around each device, and who serves it.

pub mod board;
pub mod iothread;
#[allow(unsafe_code)]
pub mod netdev;
pub mod nics;
pub mod notify;
