//! What keeps a NIC from taking all that its port has: a rate, or one that is found (`governor`).

use std::sync::Arc;

use crate::host::load::{Load, Meter};
use crate::net::governor::Governor;
use crate::net::limit::Limit;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxLimit {
    /// So many packets a second.
    Rate(u32),
    /// As many as leave the guest's processors some time.
    Auto,
}

/// It at work.
#[derive(Debug)]
pub enum Limiter {
    /// A rate.
    Rate(Limit),
    /// One that is found.
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

    /// How many packets may be taken now; `None`: all.
    pub fn packets(&mut self, now_ns: u64) -> Option<u64> {
        match self {
            Limiter::Rate(limit) => Some(limit.packets(now_ns)),
            Limiter::Auto(governor, meter) => {
                if governor.is_due(now_ns) {
                    governor.judge(now_ns, meter.look(now_ns));
                }
                governor.packets(now_ns)
            }
        }
    }

    /// So many were taken.
    pub fn take(&mut self, packets: u64) {
        match self {
            Limiter::Rate(limit) => limit.take(packets),
            Limiter::Auto(governor, _) => governor.take(packets),
        }
    }

    /// There were more than could be taken.
    pub fn hold_back(&mut self) {
        if let Limiter::Auto(governor, _) = self {
            governor.hold_back();
        }
    }

    /// When there is something to take again.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        match self {
            Limiter::Rate(limit) => limit.next_ns(),
            Limiter::Auto(governor, _) => governor.next_ns(),
        }
    }
}
