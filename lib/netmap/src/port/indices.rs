//! Syncs of single rings whose `head` and `cur` come from elsewhere: netmap's CSB mode, where a program keeps them in
//! tables of its own.

use crate::error::Result;
use crate::port::Port;
use crate::ring::RingRef;
use crate::sync::core_atomic::Ordering;

/// A bound ring, numbered as `Port::tx` and `Port::rx` do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Of transmission.
    Tx(usize),
    /// Of reception.
    Rx(usize),
}

/// The indices of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// First slot that the program has not given back; netmap's `hwcur` after a sync.
    pub head: u32,
    /// The program's wake-up point.
    pub cur: u32,
    /// First slot that is not the program's; netmap's `hwtail`.
    pub tail: u32,
}

impl Port {
    fn ring(&self, ring: Ring) -> RingRef<'_> {
        match ring {
            Ring::Tx(i) => self.adapter.tx(i).ring,
            Ring::Rx(i) => self.adapter.rx(i),
        }
    }

    /// The indices of a ring as they are.
    ///
    /// # Panics
    /// There is no such ring.
    #[must_use]
    pub fn indices(&self, ring: Ring) -> Indices {
        let raw = self.ring(ring).raw;
        Indices {
            head: raw.head.load(Ordering::Relaxed),
            cur: raw.cur.load(Ordering::Relaxed),
            tail: raw.tail.load(Ordering::Acquire), // pairs as that in `RingRef::range`
        }
    }

    /// Syncs one ring with these indices of the program's, and tells what they are then. What makes no sense is set
    /// right, as in every sync.
    ///
    /// # Errors
    /// As `txsync` and `rxsync`.
    ///
    /// # Panics
    /// There is no such ring.
    pub fn sync_ring(&mut self, ring: Ring, head: u32, cur: u32) -> Result<Indices> {
        let raw = self.ring(ring).raw;
        raw.head.store(head, Ordering::Relaxed);
        raw.cur.store(cur, Ordering::Relaxed);
        match ring {
            Ring::Tx(i) => self.adapter.txsync_ring(i)?,
            Ring::Rx(i) => self.adapter.rxsync_ring(i)?,
        }
        let mut after = self.indices(ring);
        if let Ring::Tx(i) = ring {
            after.head = self.adapter.tx(i).hwcur; // with backpressure, not all may have gone
        }
        Ok(after)
    }
}
