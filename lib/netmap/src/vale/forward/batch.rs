//! A batch of packets between the ring that they come from and the rings that they go to.
//!
//! Invariant: a fragment in a batch has been copied out of shared memory and checked: its data can be
//! read. Packets are numbered by their first fragment, in the order of the sender's ring.

use crate::abi::NETMAP_MAX_FRAGS;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::PortIndex;

/// Slots taken from a ring at a time, as in netmap's VALE.
pub const BATCH: usize = 1024;
/// No packet. The largest number, so that the smaller of two is the next.
pub const NONE: u16 = u16::MAX;

/// One slot of the batch, checked.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Where the data are.
    pub data: *const u8,
    /// Bytes of data.
    pub len: u16,
    /// In a packet's first fragment: how many it has; 0 if the packet goes nowhere.
    pub frags: u8,
    /// Data is not in a buffer: copy exactly `len` bytes.
    pub indirect: bool,
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// Next packet for the same destination.
    pub next: u16,
}

/// What becomes of a packet, noted in its first fragment, so that a batch that backpressure stopped
/// counts only what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A later fragment of a packet.
    Rest,
    /// To one port.
    Unicast(PortIndex),
    /// To all ports.
    Flooded,
    /// Nowhere: no Ethernet frame.
    Short,
    /// Nowhere: own port, or none.
    Nowhere,
    /// Nowhere: for the neighbour on a link.
    Pause,
    /// Nowhere: not to be trusted.
    Bad,
}

/// Packets for one destination, as a list through `Fragment::next`.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// First packet.
    pub first: u16,
    /// Last packet.
    pub last: u16,
}

/// A list without packets.
const EMPTY: List = List { first: NONE, last: NONE };

/// A batch. Its memory is taken once; filling it takes none.
#[derive(Debug)]
pub struct Batch {
    /// The fragments, in the order of the ring.
    pub fragments: Vec<Fragment>,
    /// Packets for one port, by port.
    pub lists: Vec<List>,
    /// Ports with a list.
    pub touched: Vec<PortIndex>,
    /// Packets for everybody.
    pub floods: Vec<u16>,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            fragments: Vec::with_capacity(BATCH + NETMAP_MAX_FRAGS),
            lists: vec![EMPTY; MAX_PORTS],
            touched: Vec::with_capacity(MAX_PORTS),
            floods: Vec::with_capacity(BATCH + NETMAP_MAX_FRAGS),
        }
    }

    /// Forgets where packets go.
    pub fn clear_routes(&mut self) {
        for &port in &self.touched {
            self.lists[port.at()] = EMPTY;
        }
        self.touched.clear();
        self.floods.clear();
    }

    /// The packet that a fragment is of is not to be trusted.
    pub fn spoil(&mut self, fragment: usize) {
        let is_first = |f: &Fragment| f.frags != 0 || f.outcome == Outcome::Bad;
        let Some(first) = self.fragments[..=fragment].iter().rposition(is_first) else { return };
        let frags = usize::from(std::mem::take(&mut self.fragments[first].frags));
        self.fragments[first].outcome = Outcome::Bad;
        self.fragments[first..first + frags].iter_mut().for_each(|fragment| fragment.len = 0);
    }

    /// Whether some packet is for `port` alone.
    pub fn has_unicast(&self, port: PortIndex) -> bool {
        self.lists[port.at()].first != NONE
    }

    /// The packets of `which` for `port` before fragment `stop`, in order.
    #[inline]
    pub fn packets(&self, port: PortIndex, which: Which, stop: usize) -> Packets<'_> {
        let first = self.lists[port.at()].first;
        Packets {
            fragments: &self.fragments,
            next: if which.unicast { first } else { NONE },
            others: if which.floods { &self.floods } else { &[] },
            stop,
        }
    }

    /// The first fragments of all packets, with their numbers.
    pub fn firsts(&self) -> impl Iterator<Item = (u16, &Fragment)> {
        let is_first = |(_, f): &(usize, &Fragment)| f.frags != 0;
        self.fragments.iter().enumerate().filter(is_first).map(|(i, f)| (i as u16, f))
    }
}

/// Which packets a ring gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// Those for everybody.
    pub floods: bool,
    /// Those for its port alone.
    pub unicast: bool,
}

/// Iterator over packets: two ascending sequences merged.
#[derive(Debug)]
pub struct Packets<'a> {
    /// All fragments of the batch.
    pub fragments: &'a [Fragment],
    /// Next of the list through the fragments.
    pub next: u16,
    /// Next of the others.
    pub others: &'a [u16],
    /// First fragment that is not sent now.
    pub stop: usize,
}

impl Iterator for Packets<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        let other = self.others.first().copied().unwrap_or(NONE);
        let packet = self.next.min(other);
        if usize::from(packet) >= self.stop {
            return None;
        }
        if packet == other {
            self.others = &self.others[1..];
        } else {
            self.next = self.fragments[usize::from(packet)].next;
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sequences_are_merged_up_to_the_stop() {
        let one = Fragment {
            data: std::ptr::null(),
            len: 60,
            frags: 1,
            indirect: false,
            outcome: Outcome::Rest,
            next: NONE,
        };
        let mut fragments = vec![one; 8];
        fragments[1].next = 4;
        fragments[4].next = 7;
        let merged = |stop| -> Vec<u16> {
            Packets { fragments: &fragments, next: 1, others: &[0, 2, 5, 6], stop }.collect()
        };
        assert_eq!(merged(8), [0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(merged(5), [0, 1, 2, 4]);
        assert_eq!(merged(0), []);
    }
}
