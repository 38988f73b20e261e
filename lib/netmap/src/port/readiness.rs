//! What of a port is ready, and asking for its doorbell.
//!
//! With backpressure, waiting for queued packets to move is more than waiting for `Interest::TX`: one free
//! slot is no help to a sender whose packets take several, or to one that is done and waits for its last
//! packets to leave. So `SPACE` and `SENT` compare what is queued now with what was queued before. That
//! rule is here and nowhere else.

use crate::error::Result;
use crate::options::PerDirection;
use crate::port::Port;
use crate::ring::{RingRef, TxRing};
use crate::sync::core_atomic::Ordering;
use crate::wait::Interest;

impl Port {
    /// Slots filled and not sent yet, of all bound TX rings; on a pipe, also those that its reader has not
    /// released.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> usize {
        let pending = |i| TxRing::new(self.adapter.tx(i)).pending();
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

    /// Whether waiting for packets alone sends what is queued, too: it does, as in netmap, unless a program
    /// that syncs by itself says no (`NR_NO_TX_POLL`). What such a sync was given and could not send, as a destination was
    /// full on a switch with backpressure, is sent all the same.
    pub fn set_pushes(&mut self, pushes: bool) {
        self.pushes = pushes;
    }

    /// One look of a wait: sends what is queued, receives if that is asked for, and returns what is ready.
    /// `SPACE` is measured against what is queued now.
    ///
    /// # Errors
    /// As `txsync` and `rxsync`.
    pub fn look(&mut self, what: Interest) -> Result<Interest> {
        let before = if what.contains(Interest::SPACE) { self.pending() } else { 0 };
        self.sync_since(what, before)
    }

    /// Where the bound rings end, as a number for each direction: another one means that something was added.
    #[must_use]
    pub fn tails(&self) -> PerDirection<u64> {
        // Beyond any index, so that few rings have a place each.
        const PLACE: u64 = 1 << 13;
        let tail = |ring: RingRef<'_>| u64::from(ring.raw.tail.load(Ordering::Relaxed));
        let join = |sum: u64, tail: u64| sum.wrapping_mul(PLACE).rotate_left(7).wrapping_add(tail);
        let PerDirection { tx, rx } = self.adapter.rings();
        PerDirection {
            tx: (0..tx).map(|i| tail(self.adapter.tx(i).ring)).fold(0, join),
            rx: (0..rx).map(|i| tail(self.adapter.rx(i))).fold(0, join),
        }
    }

    /// Cheaply: whether a sync may show more to read than the program has seen.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.adapter.peek()
    }

    /// Sends what is queued, receives if that is asked for, and returns what is ready.
    pub(super) fn sync_since(&mut self, what: Interest, before: usize) -> Result<Interest> {
        if self.pushes || what.wants_room() || self.adapter.has_unsent() {
            self.txsync()?;
        }
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
