//! An exact rate: packet k is due k / rate after the start, whatever happened before, so errors never add
//! up. As few packets go together as 20 us hold, as in nm-pktgen; packets that are more than a
//! second late are not made up for.

/// Packets due within this time go together.
const TICK_NS: u64 = 20_000;
/// Packets that are later than this are not made up for.
const DEBT_NS: u64 = 1_000_000_000;
const SECOND_NS: u128 = 1_000_000_000;

/// A schedule.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    pps: u64,
    start_ns: u64,
    sent: u64,
    /// Packets that go together.
    quantum: u64,
    /// Packets that go together at most.
    burst: u64,
}

impl Pacer {
    /// `pps` packets a second (not 0) from `start_ns` on, `burst` at most at once.
    pub fn new(pps: u64, burst: usize, start_ns: u64) -> Pacer {
        let (pps, burst) = (pps.max(1), burst.max(1) as u64);
        let in_a_tick = (u128::from(pps) * u128::from(TICK_NS)).div_ceil(SECOND_NS) as u64;
        Pacer { pps, start_ns, sent: 0, quantum: in_a_tick.clamp(1, burst), burst }
    }

    /// When packet number `k` is due.
    fn due_ns(&self, k: u64) -> u64 {
        let after = (u128::from(k) * SECOND_NS).div_ceil(self.pps.into());
        self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// How many packets may go now, or when the next one is due.
    pub fn ready(&mut self, now_ns: u64) -> Result<usize, u64> {
        let due = self.due_ns(self.sent);
        if now_ns < due {
            return Err(due);
        }
        let late_ns = now_ns - due;
        if late_ns > DEBT_NS {
            self.start_ns += late_ns;
            return Ok(self.quantum as usize);
        }
        let due = (u128::from(late_ns) * u128::from(self.pps) / SECOND_NS) as u64 + 1;
        Ok(due.max(self.quantum).min(self.burst) as usize)
    }

    /// Notes what went.
    pub fn charge(&mut self, packets: usize) {
        self.sent += packets as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A sender that takes `busy_ns` a burst and oversleeps by `late_ns`.
    fn simulate(pps: u64, burst: usize, time_ns: u64, late_ns: u64) -> (u64, usize) {
        let mut pacer = Pacer::new(pps, burst, 1000);
        let (mut now, mut sent, mut largest) = (1000, 0, 0);
        while now < 1000 + time_ns {
            match pacer.ready(now) {
                Ok(packets) => {
                    sent += packets as u64;
                    largest = largest.max(packets);
                    pacer.charge(packets);
                    now += 100 + 5 * packets as u64;
                }
                Err(due) => {
                    assert!(due > now, "the wait goes forward");
                    now = due + late_ns;
                }
            }
        }
        (sent, largest)
    }

    #[test]
    fn rates_are_met_without_drift() {
        for pps in [1000, 33_333, 1_000_000, 10_000_000] {
            let (sent, largest) = simulate(pps, 512, 2_000_000_000, 900);
            assert!(sent.abs_diff(2 * pps) <= pps / 500 + 1, "{pps} pps: {sent}");
            assert!(largest == 1 || pps > 1000);
        }
    }

    #[test]
    fn long_stop_is_forgiven_and_a_short_one_made_up() {
        let mut pacer = Pacer::new(1000, 512, 0);
        assert_eq!(pacer.ready(100_000_000), Ok(101));
        let mut pacer = Pacer::new(1000, 512, 0);
        assert_eq!(pacer.ready(100_000_000_000), Ok(1));
        pacer.charge(1);
        assert!(pacer.ready(100_000_000_001).is_err(), "the schedule was moved");
    }

    proptest! {
        #[test]
        fn never_ahead_of_schedule_by_more_than_a_burst(
            pps in 1u64..20_000_000, burst in 1usize..1024, late_ns in 0u64..1_000_000,
        ) {
            let (sent, largest) = simulate(pps, burst, 50_000_000, late_ns);
            prop_assert!(largest <= burst);
            prop_assert!(sent <= pps / 20 + burst as u64 + 1);
        }
    }
}
