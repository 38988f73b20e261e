//! What a thread has queued and its port has not taken yet: on a switch with backpressure, or in front of
//! a slow reader, that may be a whole ring. Invariant: a packet is counted as sent when the port has
//! taken it, once; the bytes of a batch that was taken in part are shared out evenly.

use std::collections::VecDeque;

/// Packets that were queued together, or that left together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Slots that they take.
    pub slots: usize,
    /// Packets.
    pub packets: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that they lack to Ethernet's minimum.
    pub pad_bytes: u64,
}

impl Batch {
    fn add(&mut self, other: Batch) {
        self.slots += other.slots;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.pad_bytes += other.pad_bytes;
    }

    /// Takes the first `packets` of it out.
    fn split(&mut self, packets: usize) -> Batch {
        let part = |whole: u64| (u128::from(whole) * packets as u128 / self.packets as u128) as u64;
        let first = Batch {
            slots: part(self.slots as u64) as usize,
            packets,
            bytes: part(self.bytes),
            pad_bytes: part(self.pad_bytes),
        };
        self.slots -= first.slots;
        self.packets -= first.packets;
        self.bytes -= first.bytes;
        self.pad_bytes -= first.pad_bytes;
        first
    }
}

/// Batches in the order in which they were queued.
#[derive(Debug, Default)]
pub struct Backlog {
    batches: VecDeque<Batch>,
    slots: usize,
    packets: usize,
}

impl Backlog {
    /// Notes what was queued.
    pub fn push(&mut self, batch: Batch) {
        self.slots += batch.slots;
        self.packets += batch.packets;
        self.batches.push_back(batch);
    }

    /// Packets that are queued.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Returns what has left, given the slots that the port still holds.
    pub fn settle(&mut self, pending: usize) -> Batch {
        let mut left = Batch::default();
        while let Some(first) = self.batches.front_mut() {
            let gone = self.slots.saturating_sub(pending);
            let batch = if gone >= first.slots {
                self.batches.pop_front().unwrap_or_default()
            } else {
                match first.packets * gone / first.slots {
                    0 => break,
                    packets => first.split(packets),
                }
            };
            self.slots -= batch.slots;
            self.packets -= batch.packets;
            left.add(batch);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_counted_when_their_slots_are_gone() {
        let mut backlog = Backlog::default();
        backlog.push(Batch { slots: 10, packets: 5, bytes: 500, pad_bytes: 0 });
        backlog.push(Batch { slots: 1, packets: 1, bytes: 60, pad_bytes: 0 });
        assert_eq!(backlog.settle(11), Batch::default());
        let left = backlog.settle(6);
        assert_eq!((left.packets, left.bytes), (2, 200), "half a packet has not left");
        assert_eq!(backlog.packets(), 4);
        assert_eq!(backlog.settle(0).packets, 4);
        assert_eq!(backlog.settle(0), Batch::default());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(
            batches in prop::collection::vec((1usize..50, 1usize..4, 60u64..9000), 1..20),
            pending in prop::collection::vec(any::<u16>(), 0..40),
        ) {
            let (mut backlog, mut all, mut left) =
                (Backlog::default(), Batch::default(), Batch::default());
            for (packets, slots, len) in batches {
                let batch = Batch {
                    slots: packets * slots, packets, bytes: packets as u64 * len, pad_bytes: 0,
                };
                backlog.push(batch);
                all.add(batch);
            }
            // Whatever a peer makes of the number of slots.
            for pending in pending {
                left.add(backlog.settle(pending.into()));
                prop_assert_eq!(left.packets + backlog.packets(), all.packets);
            }
            left.add(backlog.settle(0));
            prop_assert_eq!(left, all);
        }
    }
}
