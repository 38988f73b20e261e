//! Counters: plain values to compute with, and their home in shared memory.
//!
//! Invariant: each shared counter has one writer at a time (the ring's sender, or the producer
//! that holds the ring), so adding is a load and a store; those of a bridge's far end may have several, and are added
//! to in one step. Readers in any process disturb nobody and may see a batch half counted, never a torn number.

use std::ops::{Add, AddAssign};

use crate::sync::core_atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened on a ring, a port or a switch since it was made. Packets unless the name
        /// says otherwise.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64),* }

        /// Index of each counter in shared memory.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum C { $($name),* }

        impl Counters {
            /// How many counters there are.
            pub const LEN: usize = [$(stringify!($name)),*].len();

            /// All counters with their names, in a fixed order.
            #[must_use]
            pub fn named(&self) -> [(&'static str, u64); Self::LEN] {
                [$((stringify!($name), self.$name)),*]
            }

            fn from_array(a: [u64; Self::LEN]) -> Self {
                Self { $($name: a[C::$name as usize]),* }
            }

            fn to_array(self) -> [u64; Self::LEN] {
                [$(self.$name),*]
            }
        }
    };
}

counters! {
    /// Packets taken from TX rings.
    tx_packets,
    /// Bytes of these, without CRC.
    tx_bytes,
    /// Runs and batches in which they were taken.
    tx_batches,
    /// Packets put into RX rings.
    rx_packets,
    /// Bytes of these.
    rx_bytes,
    /// Publications to RX rings.
    rx_batches,
    /// Copies not made because a destination's ring was full (at the sender).
    tx_drop_full,
    /// Copies not made because the destination is the sender itself, has gone, cannot be opened, or
    /// is damaged.
    tx_drop_no_port,
    /// Frames shorter than an Ethernet header.
    tx_drop_short,
    /// Packets with a slot that names no buffer or memory that was not allowed, a length beyond it, a
    /// broken chain, or more fragments than the destination's ring has slots.
    tx_drop_bad,
    /// Copies not made because another sender held the destination's ring for too long.
    tx_drop_busy,
    /// Packets that found this RX ring full (at the receiver).
    rx_drop_full,
    /// Slots lost because they named no buffer: this RX ring's memory is damaged. On a `pcap:` port,
    /// records that are no frames; on a port of a socket, lengths that no frame has; at a mirror, frames that cannot be
    /// completed for it.
    rx_drop_bad,
    /// Packets sent to all ports: broadcast, multicast, unknown destination.
    flooded,
    /// Doorbells rung.
    doorbells_rung,
    /// Publications whose receiver was awake, so that no doorbell was needed.
    doorbells_suppressed,
    /// Times that the port's owner slept and was woken.
    wakeups,
    /// Times that a ring's indices were found broken and were reset.
    reinits,
    /// PAUSE frames (to 01:80:c2:00:00:01), which are for the neighbour on a link and go no further.
    tx_drop_pause,
    /// Slots that a handle was sending when it died: they may have been sent, and are not sent again.
    tx_drop_dead,
    /// Copies not made because the destination has no virtio-net headers, and the frame cannot be completed.
    tx_drop_vnet_hdr,
    /// Frames longer than the interface takes, for a port with an MTU.
    tx_drop_long,
    /// Packets for an interface that is set down.
    tx_drop_down,
    /// At a port of a switch that a bridge joins to another port: packets read here that found what is behind that
    /// down, or nobody there.
    far_drop_down,
    /// The same: packets longer than the interface behind it takes.
    far_drop_long,
    /// The same: packets that it refused, for whatever other reason.
    far_drop_bad,
    /// The same, the other way: packets that came there, and were lost before they were sent here.
    far_drop_rx,
}

impl Counters {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (a, b) = (self.to_array(), earlier.to_array());
        Self::from_array(std::array::from_fn(|i| a[i].saturating_sub(b[i])))
    }

    /// Packets dropped on the sending side, for whatever reason.
    #[must_use]
    pub fn tx_drops(&self) -> u64 {
        let reasons = [
            self.tx_drop_full,
            self.tx_drop_no_port,
            self.tx_drop_short,
            self.tx_drop_bad,
            self.tx_drop_busy,
            self.tx_drop_pause,
            self.tx_drop_dead,
            self.tx_drop_vnet_hdr,
            self.tx_drop_long,
            self.tx_drop_down,
        ];
        reasons.into_iter().fold(0, u64::wrapping_add)
    }

    /// Packets dropped at the receiving side, for whatever reason.
    #[must_use]
    pub fn rx_drops(&self) -> u64 {
        self.rx_drop_full.wrapping_add(self.rx_drop_bad)
    }

    /// Packets that were received, and dropped by what a bridge joins the port to.
    #[must_use]
    pub fn far_drops(&self) -> u64 {
        self.far_drop_down.wrapping_add(self.far_drop_long).wrapping_add(self.far_drop_bad)
    }
}

impl Add for Counters {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let (a, b) = (self.to_array(), other.to_array());
        // Wrapping: a peer may have scribbled over them.
        Self::from_array(std::array::from_fn(|i| a[i].wrapping_add(b[i])))
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

/// Direction of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingDir {
    /// Transmit.
    Tx,
    /// Receive.
    Rx,
}

/// A ring as it is now.
#[derive(Clone, Debug)]
pub struct RingInfo {
    /// Direction.
    pub dir: RingDir,
    /// Number.
    pub index: u16,
    /// Slots occupied now: not sent, or not read.
    pub used: u32,
    /// What happened on it.
    pub counters: Counters,
}

/// Words that a set of counters takes in shared memory, with room for more.
const WORDS: usize = 32;

/// Counters in shared memory.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct SharedCounters([AtomicU64; WORDS]);

const _: () = assert!(Counters::LEN <= WORDS);
// SAFETY: atomics.
unsafe impl crate::shm::map::Shared for SharedCounters {}

impl SharedCounters {
    /// In memory of one's own.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Adds to one counter; the caller is its only writer now.
    #[inline]
    pub fn add(&self, which: C, n: u64) {
        let c = &self.0[which as usize];
        c.store(c.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds the drops of the port at the other end of a bridge. Several programs may have a port, and each may be a bridge.
    pub fn add_far(&self, drops: &Counters) {
        let other =
            drops.tx_drops().wrapping_sub(drops.tx_drop_down).wrapping_sub(drops.tx_drop_long);
        let far = [
            (C::far_drop_down, drops.tx_drop_down),
            (C::far_drop_long, drops.tx_drop_long),
            (C::far_drop_bad, other),
            (C::far_drop_rx, drops.rx_drops()),
        ];
        for (which, n) in far {
            if n > 0 {
                // Relaxed: as for all counters, nothing else is told by it.
                self.0[which as usize].fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// Reads all.
    pub fn read(&self) -> Counters {
        Counters::from_array(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_counters_read_back_by_name() {
        let shared = SharedCounters([const { AtomicU64::new(0) }; WORDS]);
        shared.add(C::tx_drop_full, 3);
        shared.add(C::reinits, 1);
        shared.add(C::tx_drop_full, 4);
        let c = shared.read();
        assert_eq!((c.tx_drop_full, c.reinits, c.tx_drops()), (7, 1, 7));
        assert_eq!(c.named()[C::tx_drop_full as usize], ("tx_drop_full", 7));
        let twice = c + c;
        assert_eq!(twice.since(&c), c);
    }

    #[test]
    fn far_drops_are_apart_from_those_of_the_port_itself() {
        let far = Counters {
            tx_drop_down: 1,
            tx_drop_long: 2,
            tx_drop_bad: 4,
            tx_drop_short: 8,
            rx_drop_bad: 16,
            tx_packets: 99,
            ..Counters::default()
        };
        let shared = SharedCounters::new();
        shared.add_far(&far);
        shared.add_far(&Counters::default());
        let c = shared.read();
        assert_eq!((c.far_drop_down, c.far_drop_long, c.far_drop_bad), (1, 2, 12));
        assert_eq!((c.far_drop_rx, c.far_drops()), (16, 15));
        assert_eq!((c.tx_drops(), c.rx_drops(), c.tx_packets), (0, 0, 0));
    }
}
