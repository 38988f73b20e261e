//! The learning table of a switch: which port a MAC address was last seen behind.
//!
//! ```text
//!  bucket: 8 words, one cache line         word: | stamp 8 | port + 1 8 | MAC address 48 |
//! ```
//!
//! An address may stand in either of two buckets (two-choice hashing over 4096 buckets, so 32 Ki
//! words serve 16 Ki addresses without a miss). A word is read and written whole, so an address
//! never goes with another one's port. The hash is seeded per switch, so that nobody can aim
//! addresses at one bucket.
//!
//! Age is a stamp of 8 bits in units of a 64th of the ageing time: a word is stale 65 units after
//! its stamp. Stamps would repeat after 256 units, so `due_for_sweep` makes the first sender of
//! each quarter of the ageing time remove stale words, and all words if nobody has sent for twice
//! the ageing time: then everything is stale.
//!
//! Who writes: any sender (learning and sweeping), control (flush). Invariant: whatever peers write
//! here, a lookup ends after 16 words and yields a port number below 255.

use crate::shm::map::{Map, Shared};
use crate::sync::core_atomic::{AtomicU64, Ordering};
use crate::vale::state::ids::PortIndex;

const BUCKETS: usize = 4096;
const WAYS: usize = 8;
/// Bytes of the table.
pub const BYTES: usize = BUCKETS * WAYS * 8;

const MAC_MASK: u64 = (1 << 48) - 1;
/// Ageing time in stamp units.
const AGE_UNITS: u8 = 64;

/// One cache line of words.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Bucket([AtomicU64; WAYS]);
// SAFETY: atomics.
unsafe impl Shared for Bucket {}

impl Bucket {
    /// A bit for each word that has this address (an empty word has address 0, which the caller
    /// tells apart by the port).
    #[inline(always)]
    fn matches(&self, mac: MacKey) -> u32 {
        let mut bits = 0;
        for (i, word) in self.0.iter().enumerate() {
            let differs = (word.load(Ordering::Relaxed) ^ mac) & MAC_MASK;
            bits |= u32::from(differs == 0) << i;
        }
        bits
    }
}

/// An address as its 6 bytes load from memory, little endian: the first byte lowest.
pub type MacKey = u64;

/// The key of an address.
#[must_use]
pub fn key(mac: [u8; 6]) -> MacKey {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

/// The address of a key.
#[must_use]
pub fn mac(key: MacKey) -> [u8; 6] {
    let b = key.to_le_bytes();
    [b[0], b[1], b[2], b[3], b[4], b[5]]
}

/// Time as the table sees it, read once per batch.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    stamp: u8,
    unit_ms: u64,
    second: u32,
}

impl Clock {
    /// From milliseconds of CLOCK_MONOTONIC and the ageing time (0: never).
    #[must_use]
    pub fn new(now_ms: u64, ageing_ms: u64) -> Self {
        let second = (now_ms >> 10) as u32;
        if ageing_ms == 0 {
            return Self { stamp: 0, unit_ms: 0, second };
        }
        let unit_ms = ageing_ms.div_ceil(u64::from(AGE_UNITS)).max(1);
        Self { stamp: (now_ms / unit_ms) as u8, unit_ms, second }
    }

    /// What addresses are stamped with now.
    #[inline]
    pub fn stamp(&self) -> u8 {
        self.stamp
    }

    /// Coarse time, in units of 1024 ms.
    #[inline]
    pub fn second(&self) -> u32 {
        self.second
    }

    fn age_units(&self, word: u64) -> u8 {
        self.stamp.wrapping_sub((word >> 56) as u8)
    }

    /// A word stamped by a sender whose clock was read a little later has an age just below 256:
    /// that is fresh. The sweep proof bounds real ages by 193.
    fn stale(&self, word: u64) -> bool {
        self.unit_ms != 0 && (AGE_UNITS + 1..=223).contains(&self.age_units(word))
    }

    fn age_ms(&self, word: u64) -> u64 {
        let age = self.age_units(word);
        u64::from(if age > 223 { 0 } else { age }).saturating_mul(self.unit_ms)
    }
}

/// An entry as control sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub mac: [u8; 6],
    /// Index of the port it was seen behind.
    pub port: PortIndex,
    /// Time since it was last seen, in milliseconds, to a 64th of the ageing time.
    pub age_ms: u64,
}

/// The table, in place.
#[derive(Clone, Copy, Debug)]
pub struct Fdb<'a> {
    buckets: &'a [Bucket],
    seed: u64,
    changes: &'a AtomicU64,
}

impl<'a> Fdb<'a> {
    /// The table at `offset` of a switch file, which is long enough for it, and the word that counts its
    /// changes.
    #[inline]
    pub fn new(map: &'a Map, offset: usize, seed: u64, changes: &'a AtomicU64) -> Option<Self> {
        Some(Self { buckets: map.slice(offset, BUCKETS)?, seed, changes })
    }

    /// How often the table has said something new: as long as the number stays, so do its answers, but
    /// for what gets stale.
    #[inline]
    pub fn changes(&self) -> u64 {
        // Pairs with the Release in `changed`.
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change that has been made.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn hash(&self, mac: MacKey) -> (usize, usize) {
        // Multiply-shift after mixing in the seed; the two indices come from separate bits.
        let x = (mac ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 29)).wrapping_mul(self.seed | 1);
        ((x >> 52) as usize, (x >> 40) as usize % BUCKETS)
    }

    /// The port behind which an address was last seen, unless that is too long ago.
    #[inline]
    pub fn lookup(&self, mac: MacKey, clock: &Clock) -> Option<PortIndex> {
        let (a, b) = self.hash(mac);
        // All 16 words are compared, whichever comes first: with many addresses, where in its
        // buckets one stands is what no branch predictor can know (measured with 16 Ki addresses:
        // 2.4 times the cost of 16 with early exits).
        let mut found = self.buckets[a].matches(mac) | self.buckets[b].matches(mac) << WAYS;
        while found != 0 {
            let i = found.trailing_zeros() as usize;
            let bucket = &self.buckets[if i < WAYS { a } else { b }];
            let w = bucket.0[i % WAYS].load(Ordering::Relaxed);
            // Looked at again: another sender may have changed the word meanwhile.
            if w & MAC_MASK == mac && w >> 48 & 0xff != 0 && !clock.stale(w) {
                return Some(PortIndex((w >> 48) as u8 - 1));
            }
            found &= found - 1;
        }
        None
    }

    /// Notes that `mac` was seen behind `port`. Returns true if that is news (a new or moved
    /// address).
    #[inline]
    pub fn learn(&self, mac: MacKey, port: PortIndex, clock: &Clock) -> bool {
        let new = mac | (u64::from(port.0) + 1) << 48 | u64::from(clock.stamp) << 56;
        let (a, b) = self.hash(mac);
        for word in self.buckets[a].0.iter().chain(&self.buckets[b].0) {
            let w = word.load(Ordering::Relaxed);
            if w == new {
                return false;
            }
            // The first word of an address is the one that counts: if it says something else,
            // or a race left two, that is put right now.
            if w & MAC_MASK == mac && w >> 48 & 0xff != 0 {
                break;
            }
        }
        self.learn_slowly(mac, new, a, b, clock)
    }

    #[cold]
    fn learn_slowly(&self, mac: MacKey, new: u64, a: usize, b: usize, clock: &Clock) -> bool {
        let mut place: Option<(&AtomicU64, u64)> = None;
        let mut moved = true;
        let mut vacancy: [Option<(&AtomicU64, u64)>; 2] = [None; 2];
        let mut load = [0; 2];
        let mut oldest: Option<(&AtomicU64, u64)> = None;
        for (i, bucket) in [a, b].into_iter().enumerate() {
            if i == 1 && a == b {
                break;
            }
            for word in &self.buckets[bucket].0 {
                let w = word.load(Ordering::Relaxed);
                if w & MAC_MASK == mac && w >> 48 & 0xff != 0 {
                    if place.is_none() {
                        moved = clock.stale(w) || (w ^ new) >> 48 & 0xff != 0;
                        place = Some((word, w));
                    } else {
                        // Two senders learnt the address at once: one word is enough.
                        word.store(0, Ordering::Relaxed);
                    }
                } else if w >> 48 & 0xff == 0 || clock.stale(w) {
                    vacancy[i].get_or_insert((word, w));
                } else {
                    load[i] += 1;
                    if oldest.is_none_or(|(_, o)| clock.age_ms(w) > clock.age_ms(o)) {
                        oldest = Some((word, w));
                    }
                }
            }
        }
        let fewer = usize::from(a != b && load[1] < load[0]);
        let target = place.or(vacancy[fewer]).or(vacancy[1 - fewer]).or(oldest);
        if let Some((word, seen)) = target {
            // If another sender changed the word meanwhile, its news is as good as ours; the next
            // batch learns again.
            let _ = word.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed);
        }
        if moved {
            self.changed();
        }
        moved
    }

    /// Removes the words that `drop` chooses and returns how many.
    pub fn remove_if(&self, mut drop: impl FnMut(MacKey, PortIndex) -> bool) -> usize {
        let mut n = 0;
        for word in self.buckets.iter().flat_map(|b| &b.0) {
            let w = word.load(Ordering::Relaxed);
            if w >> 48 & 0xff != 0
                && drop(w & MAC_MASK, PortIndex((w >> 48) as u8 - 1))
                && word.compare_exchange(w, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                n += 1;
            }
        }
        self.changed();
        n
    }

    /// Removes stale words, or all.
    pub fn sweep(&self, clock: &Clock, all: bool) {
        for word in self.buckets.iter().flat_map(|b| &b.0) {
            let w = word.load(Ordering::Relaxed);
            if w != 0 && (all || clock.stale(w)) {
                let _ = word.compare_exchange(w, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        self.changed();
    }

    /// Marks every address as seen now, in the units of `clock`: for a changed ageing time.
    pub fn restamp(&self, clock: &Clock) {
        for word in self.buckets.iter().flat_map(|b| &b.0) {
            let w = word.load(Ordering::Relaxed);
            if w != 0 {
                let new = w & !(0xff << 56) | u64::from(clock.stamp) << 56;
                let _ = word.compare_exchange(w, new, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        self.changed();
    }

    /// The addresses that a lookup would find.
    pub fn entries(&self, clock: &Clock) -> Vec<Entry> {
        let words = self.buckets.iter().flat_map(|b| &b.0).map(|w| w.load(Ordering::Relaxed));
        words
            .filter(|&w| w >> 48 & 0xff != 0 && !clock.stale(w))
            .map(|w| Entry {
                mac: mac(w & MAC_MASK),
                port: PortIndex((w >> 48) as u8 - 1),
                age_ms: clock.age_ms(w),
            })
            .collect()
    }
}

/// Whether somebody must sweep now: the time of the last sweep goes to `now_ms` and the caller
/// does it. `Some(true)`: all words are stale.
pub fn due_for_sweep(last_ms: &AtomicU64, now_ms: u64, ageing_ms: u64) -> Option<bool> {
    if ageing_ms == 0 {
        return None;
    }
    let last = last_ms.load(Ordering::Relaxed);
    // Another sender may have read its clock later and swept already: no gap.
    let gap = now_ms.saturating_sub(last);
    if gap <= ageing_ms / 4 {
        return None;
    }
    last_ms
        .compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
        .then_some(gap > ageing_ms.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn table() -> Map {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES as u64).unwrap();
        Map::new(&file, BYTES).unwrap()
    }

    fn fdb(map: &Map) -> Fdb<'_> {
        static CHANGES: AtomicU64 = AtomicU64::new(0);
        Fdb::new(map, 0, 0x1234_5678_9abc_def1, &CHANGES).unwrap()
    }

    #[test]
    fn learn_16384_addresses_finds_each() {
        let map = table();
        let fdb = fdb(&map);
        let clock = Clock::new(1000, 300_000);
        for i in 0..16384u64 {
            assert!(fdb.learn(i * 7919 + 2, PortIndex((i % 254) as u8), &clock));
        }
        for i in 0..16384u64 {
            assert_eq!(
                fdb.lookup(i * 7919 + 2, &clock),
                Some(PortIndex((i % 254) as u8)),
                "address {i}"
            );
        }
        assert_eq!(fdb.entries(&clock).len(), 16384);
    }

    #[test]
    fn lookup_after_the_ageing_time_finds_nothing() {
        let map = table();
        let fdb = fdb(&map);
        fdb.learn(42, PortIndex(1), &Clock::new(0, 6400));
        assert_eq!(fdb.lookup(42, &Clock::new(6400, 6400)), Some(PortIndex(1)));
        assert_eq!(fdb.lookup(42, &Clock::new(6500, 6400)), None);
        assert!(fdb.learn(42, PortIndex(1), &Clock::new(6500, 6400)), "stale, so it is news");
        assert_eq!(fdb.lookup(42, &Clock::new(6500, 6400)), Some(PortIndex(1)));
        assert_eq!(fdb.lookup(42, &Clock::new(1 << 40, 0)), Some(PortIndex(1)), "ageing off");
    }

    #[test]
    fn sweep_before_stamps_repeat() {
        let (map, ageing) = (table(), 6400);
        let fdb = fdb(&map);
        let last = AtomicU64::new(0);
        fdb.learn(42, PortIndex(1), &Clock::new(0, ageing));
        // 256 units later the stamp is the same again; the sweep comes first.
        let now = 25_600;
        assert_eq!(
            fdb.lookup(42, &Clock::new(now, ageing)),
            Some(PortIndex(1)),
            "the hazard is real"
        );
        let all = due_for_sweep(&last, now, ageing).unwrap();
        fdb.sweep(&Clock::new(now, ageing), all);
        assert_eq!(fdb.lookup(42, &Clock::new(now, ageing)), None);
        assert_eq!(due_for_sweep(&last, now + ageing / 4, ageing), None);
        assert_eq!(due_for_sweep(&last, now + ageing / 4 + 1, ageing), Some(false));
    }

    #[test]
    fn clock_a_little_behind_sees_fresh_words() {
        let map = table();
        let fdb = fdb(&map);
        let (early, late) = (Clock::new(64_000, 6400), Clock::new(64_100, 6400));
        fdb.learn(42, PortIndex(1), &late);
        assert_eq!(fdb.lookup(42, &early), Some(PortIndex(1)));
        fdb.sweep(&early, false);
        assert_eq!(fdb.entries(&early)[0].age_ms, 0);
        assert_eq!(due_for_sweep(&AtomicU64::new(64_100), 64_000, 6400), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u64..200, 0u8..254, 0u8..10), 1..400)) {
            let map = table();
            let fdb = fdb(&map);
            let clock = Clock::new(77, 300_000);
            let mut model = HashMap::new();
            for (mac, port, op) in ops {
                if op == 0 {
                    fdb.remove_if(|_, p| p == PortIndex(port));
                    model.retain(|_, p| *p != port);
                } else {
                    let news = fdb.learn(mac, PortIndex(port), &clock);
                    prop_assert_eq!(news, model.insert(mac, port) != Some(port));
                }
                for m in 0..200 {
                    prop_assert_eq!(fdb.lookup(m, &clock), model.get(&m).copied().map(PortIndex));
                }
            }
        }
    }
}
