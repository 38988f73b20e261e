//! Interrupts that are deferred: causes that have happened and are not raised yet.
//!
//! Of a plain e1000 nothing is deferred: its causes are raised at the end of the round they happened in, and
//! moderation is the interrupt logic's. A guest with a CSB that waits is woken when that is
//! worthwhile: when the wanted part of its ring is ready for it, when the timer is
//! over, or when the I/O thread is about to go idle and nothing more will come.
//!
//! Invariant: causes are lost at a reset only. After `settle` with no time none is left.

use e1000pv::bits::Icr;
use e1000pv::csb;

use crate::config::Wake;
use crate::core::Core;
use crate::csb::CsbPage;
use crate::memory::GuestMemory;
use crate::state;

/// Causes that only matter to a guest that waits for descriptors or packets.
const DATA: Icr = Icr::TXDW.union(Icr::TXQE).union(Icr::RXT0).union(Icr::RXDMT0);

/// How much of a ring is ready for the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Descriptors that the guest may use: sent ones, or received ones.
    pub descriptors: u32,
    /// Descriptors of the ring.
    pub of: u32,
}

impl Ready {
    fn is_worth(self, percent: u32) -> bool {
        // One descriptor of a ring is always empty.
        u64::from(self.descriptors) * 100
            >= u64::from(self.of.saturating_sub(1)) * u64::from(percent)
    }
}

/// Causes not raised yet.
#[derive(Debug)]
pub struct Deferred {
    causes: Icr,
    delayed: bool,
    /// When a guest that waits was first kept waiting.
    since_ns: Option<u64>,
    percent: u32,
    timer_ns: u64,
}

impl Deferred {
    /// Nothing deferred.
    pub fn new(wake: Wake) -> Self {
        Self {
            causes: Icr::empty(),
            delayed: false,
            since_ns: None,
            percent: wake.percent,
            timer_ns: wake.timer_ns,
        }
    }

    /// Adds causes. `delayed`: see `Core::raise`.
    #[inline]
    pub fn add(&mut self, causes: Icr, delayed: bool) {
        self.causes |= causes;
        self.delayed |= delayed;
    }

    /// What there is.
    pub fn save(&self, now_ns: u64) -> state::Deferred {
        let waited_ns = self.since_ns.map(|since_ns| now_ns.saturating_sub(since_ns));
        state::Deferred { causes: self.causes.bits(), delayed: self.delayed, waited_ns }
    }

    /// What there was at `save`.
    pub fn restore(&mut self, from: &state::Deferred, now_ns: u64) {
        self.causes = Icr::from_bits_retain(from.causes);
        self.delayed = from.delayed;
        self.since_ns = from.waited_ns.map(|ns| now_ns.saturating_sub(ns));
    }

    /// Whether nothing is deferred.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// Forgets everything: the device was reset.
    pub fn forget(&mut self) {
        (self.causes, self.delayed, self.since_ns) = (Icr::empty(), false, None);
    }

    /// Raises the causes that are due. Without `now_ns` the I/O thread is about to go idle, and all causes are
    /// due.
    pub fn settle<M: GuestMemory>(
        &mut self,
        core: &Core<M>,
        csb: Option<&CsbPage<M>>,
        tx: Ready,
        rx: Ready,
        now_ns: Option<u64>,
    ) {
        if self.causes.is_empty() {
            return;
        }
        if let (Some(page), Some(now_ns)) = (csb, now_ns)
            && DATA.contains(self.causes)
            && !self.is_due(page, tx, rx, now_ns)
        {
            return;
        }
        core.raise(self.causes, self.delayed);
        self.forget();
    }

    fn is_due<M: GuestMemory>(
        &mut self,
        page: &CsbPage<M>,
        tx: Ready,
        rx: Ready,
        now_ns: u64,
    ) -> bool {
        let tx_waits = self.causes.intersects(Icr::TX) && csb::host_wants_tx_irq(page);
        let rx_waits = self.causes.intersects(Icr::RXT0) && csb::host_wants_rx_irq(page);
        if !tx_waits && !rx_waits {
            self.since_ns = None;
            return false;
        }
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        tx_waits && tx.is_worth(self.percent)
            || rx_waits && rx.is_worth(self.percent)
            || now_ns.saturating_sub(since_ns) >= self.timer_ns
    }
}
