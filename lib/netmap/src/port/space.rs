//! Waiting for queued packets to move, which on a switch with backpressure is more than waiting for
//! `Interest::TX`: that is ready while any slot is free, as in netmap, and one free slot is no help to a
//! sender whose packets take several, or to one that is done and waits for its last packets to leave.

use std::time::Duration;

use crate::error::Result;
use crate::port::Port;
use crate::wait::{Interest, Wait};

impl Port {
    /// Slots filled and not sent yet, of all bound TX rings.
    #[inline]
    #[must_use]
    pub fn pending(&mut self) -> usize {
        (0..self.tx_rings()).map(|ring| self.tx(ring).pending()).sum()
    }

    /// Sends what is queued, and waits until some of it has gone or the time is over: true if there is
    /// more space than before, or nothing was queued. Returns early when a signal arrives, as `wait`.
    ///
    /// # Errors
    /// As `txsync`.
    pub fn wait_more_space(&mut self, how: Wait, timeout: Option<Duration>) -> Result<bool> {
        let before = self.pending();
        let gone = |port: &mut Port, _| {
            let some = before == 0 || port.pending() < before;
            if some { Interest::TX } else { Interest::empty() }
        };
        Ok(!self.wait_until(Interest::TX, how, timeout, gone)?.is_empty())
    }
}
