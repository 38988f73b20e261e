//! The statistics registers (8254x manual, section 13.7): 32-bit counts that stick at their maximum
//! and 64-bit octet counts in pairs, all cleared by reading.
//!
//! The engines count a slice in a [`Tally`] of their own and add it once; the vCPU thread reads. An
//! octet count's low half reads without effect, its high half clears both, so the pair is read low
//! half first, as the manual says.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use e1000pv::regs;

/// Bytes of the CRC, which the octet and size counts include and no port carries.
const CRC: u32 = 4;
const WORDS: usize = (regs::STATISTICS.end - regs::STATISTICS.start) as usize / 4;
/// Classes of sizes, with CRC: up to 64, 127, 255, 511, 1023 bytes, and above.
const CLASSES: usize = 6;
/// The six bytes of an address in a little-endian word.
const MAC_MASK: u64 = (1 << 48) - 1;

/// What a slice of packets adds, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets of these, without CRC.
    pub octets: u64,
    sizes: [u64; CLASSES],
    broadcasts: u64,
    multicasts: u64,
}

impl Tally {
    /// Counts packets in a loop, those of equal length together; drop it to have them all counted.
    pub fn run(&mut self) -> TallyRun<'_> {
        TallyRun { tally: self, bytes: 0, equal: 0 }
    }

    /// Counts a packet of `bytes` without CRC whose first eight bytes are `head` (little endian).
    #[inline(always)]
    pub fn count(&mut self, bytes: u32, head: u64) {
        self.packets += 1;
        self.octets += u64::from(bytes);
        self.sizes[class(bytes)] += 1;
        if head & 1 != 0 {
            let broadcast = head & MAC_MASK == MAC_MASK;
            self.broadcasts += u64::from(broadcast);
            self.multicasts += u64::from(!broadcast);
        }
    }
}

/// Packets being counted.
#[derive(Debug)]
pub struct TallyRun<'a> {
    tally: &'a mut Tally,
    /// The last `equal` packets had so many octets each, and were not for groups.
    bytes: u32,
    equal: u64,
}

impl TallyRun<'_> {
    /// See [`Tally::count`].
    #[inline(always)]
    pub fn count(&mut self, bytes: u32, head: u64) {
        if head & 1 != 0 {
            self.tally.count(bytes, head);
        } else if bytes == self.bytes {
            self.equal += 1;
        } else {
            self.flush();
            (self.bytes, self.equal) = (bytes, 1);
        }
    }

    #[inline]
    fn flush(&mut self) {
        self.tally.packets += self.equal;
        self.tally.octets += u64::from(self.bytes) * self.equal;
        self.tally.sizes[class(self.bytes)] += self.equal;
    }
}

impl Drop for TallyRun<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The class of a packet of `bytes` without CRC.
#[inline(always)]
fn class(bytes: u32) -> usize {
    let length = bytes + CRC;
    if length <= 64 {
        return 0;
    }
    // By the highest bit: 65 to 127 have 7 bits, 128 to 255 have 8, and so on.
    let bits = (u32::BITS - length.leading_zeros()) as usize;
    (bits - 6).min(CLASSES - 1)
}

/// The statistics of one device.
pub struct Stats {
    /// By offset; a 64-bit count is whole in its low half's place.
    words: [AtomicU64; WORDS],
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = regs::TABLE.iter().filter(|r| regs::STATISTICS.contains(&r.offset));
        let values = rows.map(|r| (r.name, self.word(r.offset).load(Ordering::Relaxed)));
        f.debug_map().entries(values.filter(|(_, value)| *value != 0)).finish()
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Stats {
    fn word(&self, offset: u32) -> &AtomicU64 {
        &self.words[(offset - regs::STATISTICS.start) as usize / 4]
    }

    /// Adds to the count at `offset`, one of section 13.7's.
    pub fn add(&self, offset: u32, n: u64) {
        if n != 0 {
            // A read-modify-write, because the guest's clearing read may come in between.
            self.word(offset).fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Adds received packets that were stored in host memory (the guest's).
    pub fn received(&self, t: &Tally) {
        self.totals(t, regs::GPRC, regs::TPR, regs::GORCL, regs::TORL);
        self.add(regs::BPRC, t.broadcasts);
        self.add(regs::MPRC, t.multicasts);
        self.sizes(t, regs::PRC64);
    }

    /// Adds packets that the guest sent.
    pub fn transmitted(&self, t: &Tally) {
        self.totals(t, regs::GPTC, regs::TPT, regs::GOTCL, regs::TOTL);
        self.add(regs::BPTC, t.broadcasts);
        self.add(regs::MPTC, t.multicasts);
        self.sizes(t, regs::PTC64);
    }

    fn totals(&self, t: &Tally, good: u32, all: u32, good_octets: u32, all_octets: u32) {
        let octets = t.octets + t.packets * u64::from(CRC);
        self.add(good, t.packets);
        self.add(all, t.packets);
        self.add(good_octets, octets);
        self.add(all_octets, octets);
    }

    fn sizes(&self, t: &Tally, first: u32) {
        for (class, &n) in (0..).zip(&t.sizes) {
            self.add(first + 4 * class, n);
        }
    }

    /// The guest reads the register at `offset`.
    #[must_use]
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            regs::GORCL | regs::GOTCL | regs::TORL | regs::TOTL => {
                self.word(offset).load(Ordering::Relaxed) as u32
            }
            regs::GORCH | regs::GOTCH | regs::TORH | regs::TOTH => {
                (self.word(offset - 4).swap(0, Ordering::Relaxed) >> 32) as u32
            }
            _ => {
                let value = self.word(offset).swap(0, Ordering::Relaxed);
                u32::try_from(value).unwrap_or(u32::MAX)
            }
        }
    }

    /// All counts, word by word.
    pub fn save(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Takes counts as `save` gives them over. False: they are not as many.
    #[must_use]
    pub fn restore(&self, values: &[u64]) -> bool {
        let fits = values.len() == WORDS;
        if fits {
            self.words.iter().zip(values).for_each(|(word, n)| word.store(*n, Ordering::Relaxed));
        }
        fits
    }

    /// All to 0.
    pub fn reset(&self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_manuals_classes() {
        for bytes in 0..20_000 {
            let expected = match bytes + CRC {
                0..=64 => 0,
                65..=127 => 1,
                128..=255 => 2,
                256..=511 => 3,
                512..=1023 => 4,
                _ => 5,
            };
            assert_eq!(class(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn received_packets_are_counted_by_kind_and_size_and_cleared_by_reading() {
        let stats = Stats::default();
        let mut tally = Tally::default();
        tally.count(60, u64::MAX);
        tally.count(60, 0x01);
        tally.count(1514, 0x02);
        stats.received(&tally);
        let octets = 60 + 60 + 1514 + 3 * 4;
        for (offset, value) in [
            (regs::GPRC, 3),
            (regs::TPR, 3),
            (regs::BPRC, 1),
            (regs::MPRC, 1),
            (regs::PRC64, 2),
            (regs::PRC1522, 1),
            (regs::PRC127, 0),
            (regs::GPTC, 0),
        ] {
            assert_eq!(stats.read(offset), value, "{offset:#x}");
            assert_eq!(stats.read(offset), 0, "{offset:#x} again");
        }
        assert_eq!(stats.read(regs::GORCL), octets);
        assert_eq!(stats.read(regs::GORCL), octets, "the low half alone clears nothing");
        assert_eq!(stats.read(regs::GORCH), 0);
        assert_eq!(stats.read(regs::GORCL), 0);
        assert_eq!(stats.read(regs::TORL), octets);
    }

    #[test]
    fn counts_stick_and_octets_carry_into_the_high_half() {
        let stats = Stats::default();
        stats.add(regs::GPTC, 1 << 33);
        stats.add(regs::TOTL, (7 << 32) + 5);
        assert_eq!(stats.read(regs::GPTC), u32::MAX);
        assert_eq!((stats.read(regs::TOTL), stats.read(regs::TOTH)), (5, 7));
    }
}
