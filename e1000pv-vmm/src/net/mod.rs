//! The NICs of a machine: the board around each device, its port, and the I/O thread that serves it.

pub mod board;
pub mod governor;
pub mod iothread;
pub mod limit;
pub mod limiter;
#[allow(unsafe_code)]
pub mod netdev;
pub mod nics;
pub mod notify;
