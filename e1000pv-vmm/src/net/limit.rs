//! `--rx-limit`: how many packets a second a NIC takes from its port, once that is known.
//!
//! A guest that gets more packets than it can handle spends its time on those that it drops in the end, at a
//! socket's queue, and handles fewer than it could (receive livelock). What the NIC leaves in the port's
//! ring fills that up, and then its senders drop, for whom it is cheapest; the guest spends nothing.
//!
//! Invariant: in any time t the NIC takes at most a burst, and one packet, more than rate * t.

/// What may be taken at once after a pause: so many packets, which no queue minds, as long as they are no more than what comes
/// in the longest time. A thread that wakes up late, for the host's other work or its coarse timers, does not fall behind
/// then. Fast rates have what comes in the shortest time, less than the distance of interrupts that drivers set.
const BURST: u64 = 64;
const LONGEST_NS: u64 = 5_000_000;
const SHORTEST_NS: u64 = 1_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// A bucket that fills with time. It holds times, so that nothing is lost by rounding.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Between two packets.
    packet_ns: u64,
    /// When the bucket was, or will be, empty.
    empty_ns: u64,
}

impl Limit {
    /// A burst, as a time.
    fn burst_ns(&self) -> u64 {
        (BURST * self.packet_ns).clamp(SHORTEST_NS, LONGEST_NS)
    }

    /// Of `per_second` packets, which is not 0.
    #[must_use]
    pub fn new(per_second: u32) -> Limit {
        Limit { packet_ns: SECOND_NS / u64::from(per_second.max(1)), empty_ns: 0 }
    }

    /// How many packets may be taken now.
    #[must_use]
    pub fn packets(&mut self, now_ns: u64) -> u64 {
        // One packet more than the burst: who looks rarely loses no part of a packet's time.
        let most_ns = self.burst_ns() + self.packet_ns;
        self.empty_ns = self.empty_ns.max(now_ns.saturating_sub(most_ns));
        now_ns.saturating_sub(self.empty_ns) / self.packet_ns.max(1)
    }

    /// So many were taken.
    pub fn take(&mut self, packets: u64) {
        self.empty_ns += packets * self.packet_ns;
    }

    /// When there is something to take again: half of the shortest burst, so that a wake-up is worth it.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.empty_ns + self.packet_ns.max(SHORTEST_NS / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all it may at each of those times; how many.
    fn taken(limit: &mut Limit, times_ns: impl Iterator<Item = u64>) -> u64 {
        let take = |now_ns| {
            let packets = limit.packets(now_ns);
            limit.take(packets);
            packets
        };
        times_ns.map(take).sum()
    }

    #[test]
    fn limit_holds_whenever_it_is_looked_at() {
        for per_second in [1, 7, 1_000, 10_000, 1_000_000] {
            for step_ns in [1_000, 333_333, 5_000_000, SECOND_NS] {
                let mut limit = Limit::new(per_second);
                let start_ns = 77 * SECOND_NS;
                let times = (0..).map(|i| start_ns + i * step_ns);
                let times = times.take_while(|&at| at <= start_ns + 3 * SECOND_NS);
                let packets = taken(&mut limit, times);
                let burst = u64::from(per_second) * limit.burst_ns() / SECOND_NS + 1;
                let most = 3 * u64::from(per_second) + burst;
                assert!(packets <= most, "{per_second} by {step_ns}: {packets} > {most}");
                if step_ns <= limit.burst_ns() {
                    assert!(packets + 1 >= 3 * u64::from(per_second), "{per_second}: {packets}");
                }
            }
        }
    }

    #[test]
    fn a_pause_is_made_up_for_by_a_burst_at_most() {
        let mut limit = Limit::new(10_000);
        assert_eq!(taken(&mut limit, [SECOND_NS, 2 * SECOND_NS].into_iter()), 102);
        let next_ns = limit.next_ns();
        assert_eq!(next_ns, 2 * SECOND_NS + SHORTEST_NS / 2);
        assert_eq!((limit.packets(2 * SECOND_NS + 99_999), limit.packets(next_ns)), (0, 5));
    }

    #[test]
    fn a_burst_is_small_and_short() {
        for (per_second, burst) in [(100, 0), (1_000, 5), (20_000, 64), (100_000, 100)] {
            let limit = Limit::new(per_second);
            assert_eq!(limit.burst_ns() / limit.packet_ns, burst, "{per_second}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing_twice() {
        let mut limit = Limit::new(2);
        assert_eq!(taken(&mut limit, [SECOND_NS; 5].into_iter()), 1);
        assert_eq!(limit.next_ns(), 3 * SECOND_NS / 2 - LONGEST_NS);
    }
}
