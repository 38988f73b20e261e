//! The four rings between a socket and the kernel, as each side sees them: who fills one and who empties it.
//!
//! ```text
//!   producer: writes entries, then `producer`; reads `consumer`      fill, transmit: we
//!   consumer: reads `producer`, then entries, then writes `consumer` receive, completion: we
//! ```
//!
//! Both indices run through all 32-bit numbers; the entry is the index modulo the ring's length, a power of two.
//! Invariant: entries are addressed by masked indices alone, and never more are taken for filled or free than the ring
//! has, whatever the other side's index says.

use crate::shm::map::Map;
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};

/// A flag in a ring: the kernel does not look at it unless it is called.
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// A packet in a ring: where it is, and how many bytes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address in the registered memory.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// A mapped ring, and where things are in it.
#[derive(Debug)]
pub struct Ring {
    map: Map,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    /// Number of entries, less one.
    mask: u32,
    /// Words of 64 bits that an entry has.
    words: usize,
}

/// How a ring is laid out in its mapping.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Offset of the producer's index.
    pub producer: usize,
    /// Offset of the consumer's index.
    pub consumer: usize,
    /// Offset of the flags.
    pub flags: usize,
    /// Offset of the entries.
    pub entries: usize,
    /// Number of entries, a power of two.
    pub count: u32,
    /// Words of 64 bits that an entry has: 1 or 2.
    pub words: usize,
}

impl Layout {
    /// Bytes to map.
    pub fn bytes(&self) -> usize {
        self.entries + self.count as usize * self.words * size_of::<u64>()
    }
}

impl Ring {
    /// The ring in that mapping, if it fits there.
    pub fn new(map: Map, layout: Layout) -> Option<Self> {
        let Layout { producer, consumer, flags, entries, count, words } = layout;
        for index in [producer, consumer, flags] {
            map.at::<AtomicU32>(index)?;
        }
        map.slice::<AtomicU64>(entries, count as usize * words)?;
        let whole = count.is_power_of_two() && matches!(words, 1 | 2);
        let mask = count.wrapping_sub(1);
        whole.then_some(Self { map, producer, consumer, flags, entries, mask, words })
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        self.map.at(offset).expect("looked at when it was made")
    }

    fn entry(&self, index: u32) -> &[AtomicU64] {
        let at = self.entries + (index & self.mask) as usize * self.words * size_of::<u64>();
        self.map.slice(at, self.words).expect("looked at when it was made")
    }

    fn needs_wakeup(&self) -> bool {
        self.index(self.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// How many entries lie between two indices: what the other side says may be nonsense.
    fn between(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from).min(self.mask + 1)
    }
}

/// The side of a ring that fills it.
#[derive(Debug)]
pub struct Producer {
    ring: Ring,
    /// The next entry to fill. Private: nobody can change it.
    next: u32,
    /// How far the kernel was when it was last looked at.
    consumer: u32,
}

impl Producer {
    /// An empty ring.
    pub fn new(ring: Ring) -> Self {
        Self { ring, next: 0, consumer: 0 }
    }

    /// Entries that the kernel has not taken yet, of those published.
    pub fn waiting(&mut self) -> u32 {
        // Pairs with the kernel's store after it has read an entry, which may be written again.
        self.consumer = self.ring.index(self.ring.consumer).load(Ordering::Acquire);
        self.ring.between(self.consumer, self.next)
    }

    /// Whether there is room for `n` entries.
    pub fn has_room(&mut self, n: u32) -> bool {
        let free = |producer: &Self| {
            producer.ring.mask + 1 - producer.ring.between(producer.consumer, producer.next)
        };
        free(self) >= n || {
            self.waiting();
            free(self) >= n
        }
    }

    /// Fills the next entry of a ring of addresses; there is room.
    pub fn put(&mut self, address: u64) {
        self.ring.entry(self.next)[0].store(address, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Fills the next entry of a ring of packets; there is room.
    pub fn put_packet(&mut self, packet: Packet) {
        let entry = self.ring.entry(self.next);
        entry[0].store(packet.address, Ordering::Relaxed);
        // Behind the length are options, of which none is used.
        entry[1].store(u64::from(packet.len), Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Lets the kernel see what was put.
    pub fn publish(&self) {
        // Pairs with the kernel's load before it reads entries.
        self.ring.index(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel looks at the ring only when it is called.
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The side of a ring that empties it.
#[derive(Debug)]
pub struct Consumer {
    ring: Ring,
    /// The next entry to read. Private: nobody can change it.
    next: u32,
    /// How far the kernel was when it was last looked at.
    producer: u32,
}

impl Consumer {
    /// A ring from which nothing was taken yet.
    pub fn new(ring: Ring) -> Self {
        Self { ring, next: 0, producer: 0 }
    }

    /// Filled entries. The kernel's index, which is in a cache line of its CPU's, is looked at only if none was left.
    pub fn available(&mut self) -> u32 {
        if self.producer == self.next {
            // Pairs with the kernel's store after it has filled entries.
            self.producer = self.ring.index(self.ring.producer).load(Ordering::Acquire);
        }
        self.ring.between(self.next, self.producer)
    }

    /// Takes an entry of a ring of addresses; there is one.
    pub fn take(&mut self) -> u64 {
        let address = self.ring.entry(self.next)[0].load(Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        address
    }

    /// Takes an entry of a ring of packets; there is one.
    pub fn take_packet(&mut self) -> Packet {
        let entry = self.ring.entry(self.next);
        let address = entry[0].load(Ordering::Relaxed);
        let len = entry[1].load(Ordering::Relaxed) as u32; // options are in the upper half
        self.next = self.next.wrapping_add(1);
        Packet { address, len }
    }

    /// Lets the kernel fill again what was taken.
    pub fn release(&self) {
        // Pairs with the kernel's load before it fills entries.
        self.ring.index(self.ring.consumer).store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::shm::file;

    const COUNT: u32 = 8;

    /// Two views of one ring whose indices begin at `start`.
    fn pair(words: usize, start: u32) -> (Producer, Consumer) {
        let layout =
            Layout { producer: 0, consumer: 128, flags: 196, entries: 320, count: COUNT, words };
        let file = file::anonymous(layout.bytes() as u64).unwrap();
        let ring = || Ring::new(Map::new(&file, layout.bytes()).unwrap(), layout).unwrap();
        let (mut producer, mut consumer) = (Producer::new(ring()), Consumer::new(ring()));
        (producer.next, producer.consumer) = (start, start);
        (consumer.next, consumer.producer) = (start, start);
        producer.publish();
        consumer.release();
        (producer, consumer)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Put(u32),
        Publish,
        Take(u32),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..=COUNT).prop_map(Step::Put),
            Just(Step::Publish),
            (1..=COUNT).prop_map(Step::Take),
            Just(Step::Release),
        ]
    }

    proptest! {
        /// Compared with a queue, from any index on, round the end of the numbers too.
        #[test]
        fn what_is_put_comes_out_once_and_in_order(
            start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
            steps in prop::collection::vec(step(), 0..64),
        ) {
            let (mut producer, mut consumer) = pair(2, start);
            let (mut put, mut published, mut number) = (VecDeque::new(), VecDeque::new(), 0u64);
            // Entries that the producer may not fill again: taken, and not released.
            let mut held = 0;
            for step in steps {
                match step {
                    Step::Put(n) => {
                        let room = COUNT as usize - put.len() - published.len() - held;
                        prop_assert_eq!(producer.has_room(n), n as usize <= room);
                        for _ in 0..(n as usize).min(room) {
                            number += 1;
                            let packet = Packet { address: number << 40, len: number as u32 };
                            producer.put_packet(packet);
                            put.push_back(packet);
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        published.append(&mut put);
                    }
                    Step::Take(n) => {
                        // It may be behind, but never sees what is not there.
                        let n = n.min(consumer.available());
                        for _ in 0..n {
                            prop_assert_eq!(Some(consumer.take_packet()), published.pop_front());
                            held += 1;
                        }
                        prop_assert!(n > 0 || published.is_empty());
                    }
                    Step::Release => {
                        consumer.release();
                        held = 0;
                    }
                }
            }
        }

        /// Whatever the other side's index says, no more is seen than there can be.
        #[test]
        fn index_of_the_other_side_is_never_believed_beyond_the_ring(ours: u32, theirs: u32) {
            let (mut producer, mut consumer) = pair(1, ours);
            consumer.ring.index(0).store(theirs, Ordering::Relaxed);
            prop_assert!(consumer.available() <= COUNT);
            producer.ring.index(128).store(theirs, Ordering::Relaxed);
            prop_assert!(producer.waiting() <= COUNT);
            prop_assert!(!producer.has_room(COUNT + 1));
        }
    }

    #[test]
    fn layout_that_does_not_fit_its_mapping_is_refused() {
        let good =
            Layout { producer: 0, consumer: 64, flags: 128, entries: 192, count: 8, words: 1 };
        let fits = |layout| {
            let file = file::anonymous(256).unwrap();
            Ring::new(Map::new(&file, 256).unwrap(), layout).is_some()
        };
        assert!(fits(good));
        for bad in [
            Layout { producer: 256, ..good },
            Layout { consumer: 2, ..good },
            Layout { entries: 200, ..good },
            Layout { count: 16, ..good },
            Layout { count: 7, ..good },
            Layout { count: 0, ..good },
            Layout { words: 3, entries: 64, ..good },
        ] {
            assert!(!fits(bad), "{bad:?}");
        }
    }
}
