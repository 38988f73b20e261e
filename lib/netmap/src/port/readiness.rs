//! What of a port is ready, and asking for its doorbell.
//!
//! With backpressure, waiting for queued packets to move is more than waiting for `Interest::TX`: one free
//! slot is no help to a sender whose packets take several, or to one that is done and waits for its last
//! packets to leave. So `SPACE` and `SENT` compare what is queued now with what was queued before. That
//! rule is here and nowhere else.

use crate::error::Result;
use crate::options::PerDirection;
use crate::port::Port;
use crate::ring::{TxRing, TxRingRef};
use crate::wait::Interest;

impl Port {
    /// Slots filled and not sent yet, of all bound TX rings.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> usize {
        let pending = |i| {
            let TxRingRef { ring, hwcur } = self.adapter.tx(i);
            TxRing::new(ring, hwcur).pending()
        };
        (0..self.tx_rings()).map(pending).sum()
    }

    /// Before polling `fd`: asks for the doorbell, then syncs and looks again. If something is
    /// ready, it is returned and polling would be wrong. Call `disarm` after polling, for at most
    /// `WaitSet::LONGEST_SLEEP`. `SPACE` is measured against what is queued now.
    ///
    /// # Errors
    /// As `txsync` and `rxsync`.
    pub fn arm(&mut self, what: Interest) -> Result<Interest> {
        let before = self.pending();
        self.arm_since(what, before)
    }

    /// As `arm`, when `before` slots were queued as the wait began.
    pub(super) fn arm_since(&mut self, what: Interest, before: usize) -> Result<Interest> {
        // The look after asking may get past one full destination and stop at another, which has
        // not been asked yet. Bounded: a peer that makes it go on for ever costs a late wake-up.
        const ROUNDS: usize = 8;
        let mut ready = Interest::empty();
        for _ in 0..ROUNDS {
            self.adapter.arm(what.for_adapter());
            ready = self.sync_since(what, before)?;
            if !ready.is_empty() || self.adapter.is_armed() {
                break;
            }
        }
        Ok(ready)
    }

    /// After polling: takes the request back and clears the doorbell. Then sync.
    pub fn disarm(&mut self) {
        self.adapter.disarm(true);
    }

    /// Sends what is queued, receives if that is asked for, and returns what is ready.
    pub(super) fn sync_since(&mut self, what: Interest, before: usize) -> Result<Interest> {
        self.txsync()?;
        if what.contains(Interest::RX) {
            self.rxsync()?;
        }
        Ok(self.ready_since(what, before))
    }

    fn ready_since(&self, what: Interest, before: usize) -> Interest {
        let PerDirection { tx, rx } = self.adapter.rings();
        let mut ready = Interest::empty();
        let readable = || (0..rx).any(|i| self.adapter.rx(i).is_ready());
        ready.set(Interest::RX, what.contains(Interest::RX) && readable());
        if what.wants_room() {
            let writable = || (0..tx).any(|i| self.adapter.tx(i).ring.is_ready());
            ready.set(Interest::TX, what.contains(Interest::TX) && writable());
            let now = self.pending();
            ready.set(Interest::SPACE, before == 0 || now < before);
            ready.set(Interest::SENT, now == 0);
        }
        ready & what
    }
}
