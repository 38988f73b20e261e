//! What can keep a device from starting. Once it runs, nothing fails: faults of the device are counted
//! ([`crate::Stats`]).

use core::fmt;

/// Why a device did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A ring has a size that the device does not know.
    RingSize {
        /// Transmit descriptors asked for.
        tx: u32,
        /// Receive descriptors asked for.
        rx: u32,
    },
    /// The platform has no more memory, or gave some that the device cannot use.
    NoMemory,
    /// The reset did not end.
    Reset,
    /// Neither EEPROM nor RAL/RAH hold a station address.
    NoAddress,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::RingSize { tx, rx } => write!(
                f,
                "rings of {tx} and {rx} descriptors; a multiple of 8 from 8 to 4096 is possible"
            ),
            Error::NoMemory => f.write_str("not enough memory for rings and buffers"),
            Error::Reset => f.write_str("the device does not come out of reset"),
            Error::NoAddress => f.write_str("the device has no station address"),
        }
    }
}

impl core::error::Error for Error {}
