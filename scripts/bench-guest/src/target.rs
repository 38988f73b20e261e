//! What must be reached, and whether it was: the requirements as data, each judged by the case that
//! measures it.

use std::cell::RefCell;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// That or more.
    AtLeast(f64),
    /// Less.
    Below(f64),
}

/// A requirement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The figure.
    pub what: &'static str,
    /// What it must be.
    pub bound: Bound,
}

const fn least(what: &'static str, bound: f64) -> Target {
    Target { what, bound: Bound::AtLeast(bound) }
}

const fn below(what: &'static str, bound: f64) -> Target {
    Target { what, bound: Bound::Below(bound) }
}

/// Guest to guest over VALE, 64 B, ladder top, 4096 descriptors.
pub const TOP_4096: Target = least("guest to guest, 64 B, top, 4096 descriptors, Mpps", 15.0);
/// The same with 1024.
pub const TOP_1024: Target = least("guest to guest, 64 B, top, 1024 descriptors, Mpps", 8.0);
/// Ladder top as a multiple of plain.
pub const FACTOR: Target = least("ladder top to plain e1000, same run", 100.0);
/// What is to be rare.
pub const NOTIFICATIONS: Target =
    below("kicks + wake-ups + interrupts per packet at the top", 0.005);
/// To nobody.
pub const NULL: Target = least("guest to null:, 64 B, Mpps", 25.0);
/// Ours at the top to QEMU's.
pub const TOP_TO_QEMU: Target = least("ladder top to QEMU's e1000", 50.0);
/// Like with like.
pub const PLAIN_TO_QEMU: Target = least("plain to QEMU's e1000, plain", 1.0);
/// QEMU over sockets and VALE to QEMU over a socket.
pub const SOCKETS_TO_STREAM: Target = least("QEMU by stream: and VALE to a direct stream", 0.95);
/// A lone packet at the top, as a multiple of its time at the bottom. A tie is within 5 %.
pub const LATENCY: Target = below("lone packet, top to plain, median round trip", 1.05);
/// The busiest step.
pub const IDLE: Target = below("idle guest, part of a core", 0.01);
/// To the first packet.
pub const BOOT: Target = below("boot to first packet, ms", 100.0);
/// What is left of the best rate.
pub const LIVELOCK: Target = least("livelock: left at 4 times the capacity, with the remedy", 0.9);
/// How far a faster consumer falls behind a slower one.
pub const DIP: Target = below("fast consumer: dip with the default policy", 0.1);

impl Target {
    /// Whether a figure is good enough. What could not be measured is not.
    pub fn met(&self, figure: f64) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => figure >= bound,
            Bound::Below(bound) => figure < bound,
        }
    }
}

/// Judged targets, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Judged(pub RefCell<Vec<(Target, f64)>>);

impl Judged {
    /// Adds one.
    pub fn add(&self, target: Target, figure: f64) {
        self.0.borrow_mut().push((target, figure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_met_on_its_side_of_the_bound_only() {
        assert!(least("", 15.0).met(15.0) && !least("", 15.0).met(14.9));
        assert!(below("", 0.01).met(0.0099) && !below("", 0.01).met(0.01));
        assert!(!least("", 1.0).met(f64::NAN) && !below("", 1.0).met(f64::NAN));
    }
}
