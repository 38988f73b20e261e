//! A histogram of times in constant memory: 64 buckets for each power of two, so a percentile is at most
//! 1.6 % above the truth; minimum, maximum and mean are exact.

/// Bits of a value below its leading one that choose the bucket.
const FINE_BITS: u32 = 6;
const FINE: usize = 1 << FINE_BITS;
/// Values from 2^38 ns (275 s) on count as that.
const TOP_BITS: u32 = 38;
const BUCKETS: usize = (TOP_BITS - FINE_BITS + 1) as usize * FINE;

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: [u32; BUCKETS],
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << TOP_BITS) - 1);
    if ns < FINE as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - FINE_BITS;
    (shift as usize + 1) * FINE + (ns >> shift) as usize - FINE
}

/// The highest value of a bucket.
fn ceiling(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let shift = bucket / FINE - 1;
    ((((bucket % FINE) + FINE) as u64 + 1) << shift) - 1
}

impl Histogram {
    /// Empty.
    pub const fn new() -> Histogram {
        Histogram { buckets: [0; BUCKETS], count: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Adds a time.
    pub fn record(&mut self, ns: u64) {
        let bucket = &mut self.buckets[bucket(ns)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.sum = self.sum.saturating_add(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// Number of times.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The shortest, 0 if there is none.
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The longest.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The arithmetic mean.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// A time that so many of a thousand are not above; 0 if there is none.
    pub fn per_mille(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            below += u64::from(count);
            if below >= rank {
                // The value of a bucket is its upper bound, which may exceed the largest time.
                return ceiling(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_is_all_zero() {
        let empty = Histogram::new();
        assert_eq!((empty.min(), empty.mean(), empty.max(), empty.per_mille(500)), (0, 0, 0, 0));
    }

    #[test]
    fn buckets_are_in_order_without_gaps() {
        for at in 1..BUCKETS {
            assert_eq!(bucket(ceiling(at - 1) + 1), at);
            assert_eq!(bucket(ceiling(at)), at);
        }
    }

    proptest! {
        #[test]
        fn percentiles_are_within_a_bucket_of_the_sorted_times(
            mut times in proptest::collection::vec(0u64..1 << 36, 1..300), per_mille in 1u64..=1000,
        ) {
            let mut histogram = Histogram::new();
            times.iter().for_each(|&ns| histogram.record(ns));
            times.sort_unstable();
            let rank = (times.len() as u64 * per_mille).div_ceil(1000) as usize;
            let (truth, told) = (times[rank - 1], histogram.per_mille(per_mille));
            prop_assert!(told >= truth && told as f64 <= truth as f64 * (1.0 + 1.0 / 64.0));
            prop_assert_eq!(histogram.max(), times[times.len() - 1]);
            prop_assert_eq!(histogram.min(), times[0]);
            let sum: u64 = times.iter().sum::<u64>();
            prop_assert_eq!(histogram.mean(), sum / times.len() as u64);
        }

        #[test]
        fn extremes_saturate(times in proptest::collection::vec(any::<u64>(), 1..5)) {
            let mut histogram = Histogram::new();
            let times: Vec<u64> = times;
            times.iter().for_each(|&ns| histogram.record(ns));
            prop_assert_eq!(histogram.count(), times.len() as u64);
        }
    }
}
