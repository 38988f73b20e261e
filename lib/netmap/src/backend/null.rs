//! `null:`: takes everything at once, gives nothing.
//!
//! Invariant: `send` never refuses, `receive` never yields; with `is_sink` the port need not even
//! look at the data, so that `null:` measures the sender alone, as netmap's NULL ports do.

use std::os::fd::BorrowedFd;

use crate::backend::{Device, Sent};
use crate::error::Result;

/// The device behind `null:`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Device for Null {
    fn send(&mut self, _packet: &[u8]) -> Result<Sent> {
        Ok(Sent::Done)
    }

    fn receive(&mut self, _buf: &mut [u8]) -> Result<Option<usize>> {
        Ok(None)
    }

    fn is_sink(&self) -> bool {
        true
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_takes_all_and_gives_nothing() {
        let mut null = Null;
        assert_eq!(null.send(&[0; 60]).unwrap(), Sent::Done);
        assert_eq!(null.receive(&mut [0; 64]).unwrap(), None);
        assert!(null.is_sink() && !null.ended() && null.fd().is_none());
    }
}
