//! What keeps a NIC from taking all that its port has: a rate, or the guest itself (`governor`).

use std::sync::Arc;

use crate::host::load::{Load, Meter};
use crate::net::governor::Governor;
use crate::net::limit::Limit;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxLimit {
    /// So many packets a second.
    Rate(u32),
    /// As many as the guest consumes.
    Auto,
}

/// It at work.
#[derive(Debug)]
pub enum Limiter {
    /// A rate.
    Rate(Limit),
    /// Windows.
    Auto(Governor, Meter),
}

impl Limiter {
    /// `load` is that of the guest's vCPUs.
    #[must_use]
    pub fn new(limit: RxLimit, load: &Arc<Load>) -> Limiter {
        match limit {
            RxLimit::Rate(per_second) => Limiter::Rate(Limit::new(per_second)),
            RxLimit::Auto => Limiter::Auto(Governor::default(), Meter::new(load)),
        }
    }

    /// What may be taken now, as a cost: packets as long as there is some of it left; `None`: all.
    pub fn room(&mut self, now_ns: u64) -> Option<u64> {
        match self {
            Limiter::Rate(limit) => Some(limit.packets(now_ns)),
            Limiter::Auto(governor, meter) => governor.room(now_ns, meter),
        }
    }

    /// What a slot with so many bytes costs; `more`: its packet goes on in the next one.
    #[must_use]
    pub fn cost(&self, bytes: usize, more: bool) -> u64 {
        match self {
            Limiter::Rate(_) => u64::from(!more),
            Limiter::Auto(..) => Governor::cost(bytes),
        }
    }

    /// All that is allowed now may be taken next.
    pub fn close(&mut self) {
        if let Limiter::Auto(governor, meter) = self {
            governor.close(meter);
        }
    }

    /// So much was taken.
    pub fn take(&mut self, cost: u64) {
        match self {
            Limiter::Rate(limit) => limit.take(cost),
            Limiter::Auto(governor, _) => governor.take(cost),
        }
    }

    /// When to ask for room again, of a thread that is about to sleep. `held`: packets are held back. `postponed_ns`: when
    /// the guest will be told of what it has got, if it was not yet.
    pub fn due_ns(&mut self, held: bool, postponed_ns: Option<u64>) -> Option<u64> {
        match self {
            Limiter::Rate(limit) => held.then(|| limit.next_ns()),
            Limiter::Auto(governor, meter) => governor.due_ns(postponed_ns, meter),
        }
    }
}
