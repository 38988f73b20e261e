//! When the packets of a capture are due: each at its distance from the ones before it, whatever the
//! clock did that stamped them.
//!
//! Invariant: due times never go back, no gap exceeds the longest one that was allowed, and what is more
//! than [`LATE_NS`] late moves the schedule: neither a silent wait of days nor a burst of what was missed.

use std::time::Duration;

/// A step back of more than this is another time; less is packets out of order, as several queues of a
/// NIC leave them.
const BACK_NS: i128 = 1_000_000_000;
/// Being late by more than this is forgiven: after SIGCONT nobody wants what was missed at once.
pub const LATE_NS: u64 = 1_000_000_000;
/// Time between two passes through a file that has no time between its packets.
pub const PASS_NS: u64 = 1_000_000_000;

/// What is odd about the time of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// So long a gap, which is shortened.
    Gap(Duration),
    /// A step back by so much; the gap before is repeated in its place.
    Back(Duration),
}

/// Where a replay stands in time.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Gaps of the file are divided by this.
    times: f64,
    longest_ns: u64,
    /// A time in the file and when it is due; all others count from there.
    anchor: Option<(i128, u64)>,
    /// Latest time in the file since then.
    latest: i128,
    /// When the last packet was due, and how long after the one before.
    last_due_ns: u64,
    gap_ns: u64,
    /// Of this pass: when it began, and its packets.
    begin_ns: u64,
    packets: u64,
}

impl Schedule {
    /// At `times` the speed of the file.
    pub fn new(times: f64, longest: Duration) -> Schedule {
        Schedule {
            times,
            longest_ns: longest.as_nanos() as u64,
            anchor: None,
            latest: 0,
            last_due_ns: 0,
            gap_ns: 0,
            begin_ns: 0,
            packets: 0,
        }
    }

    /// When the next packet is due, given its time in the file; the very first is due `now_ns`.
    pub fn due(&mut self, ts: Duration, now_ns: u64) -> (u64, Option<Odd>) {
        let ts = ts.as_nanos() as i128; // 94 bits at most
        self.packets += 1;
        let Some((anchor, anchor_due)) = self.anchor else {
            if self.last_due_ns == 0 {
                self.last_due_ns = now_ns.max(1);
            }
            self.begin_ns = self.last_due_ns;
            self.anchor = Some((ts, self.last_due_ns));
            self.latest = ts;
            return (self.last_due_ns, None);
        };
        let (due, odd) = if self.latest - ts > BACK_NS {
            let back = Odd::Back(nanos(self.latest - ts));
            (self.last_due_ns.saturating_add(self.gap_ns), Some(back))
        } else {
            let offset = ((ts - anchor).max(0) as f64 / self.times) as u64;
            let due = anchor_due.saturating_add(offset).max(self.last_due_ns);
            let gap = due - self.last_due_ns;
            if gap > self.longest_ns {
                let due = self.last_due_ns.saturating_add(self.longest_ns);
                (due, Some(Odd::Gap(Duration::from_nanos(gap))))
            } else {
                (due, None)
            }
        };
        if odd.is_some() {
            (self.anchor, self.latest) = (Some((ts, due)), ts);
        }
        self.latest = self.latest.max(ts);
        if due > self.last_due_ns {
            self.gap_ns = due - self.last_due_ns;
        }
        self.last_due_ns = due;
        (due, odd)
    }

    /// At `now_ns`, with a packet that was due before: moves the schedule if that is too late; returns
    /// by how much.
    pub fn slip(&mut self, now_ns: u64) -> Option<Duration> {
        let late = now_ns.saturating_sub(self.last_due_ns);
        if late <= LATE_NS {
            return None;
        }
        self.anchor = self.anchor.map(|(ts, due)| (ts, due.saturating_add(late)));
        self.begin_ns = self.begin_ns.saturating_add(late);
        self.last_due_ns = now_ns;
        Some(Duration::from_nanos(late))
    }

    /// Begins the file again, a mean gap after its last packet; false if it has no such gap, so that a
    /// pass is due after [`PASS_NS`].
    pub fn again(&mut self) -> bool {
        let length = self.last_due_ns - self.begin_ns;
        let mean = length.checked_div(self.packets.saturating_sub(1)).filter(|mean| *mean > 0);
        self.last_due_ns = self.last_due_ns.saturating_add(mean.unwrap_or(PASS_NS));
        (self.anchor, self.packets) = (None, 0);
        mean.is_some()
    }
}

fn nanos(ns: i128) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(ns: u64) -> Duration {
        Duration::from_nanos(ns)
    }

    #[test]
    fn due_times_keep_the_distance_from_the_first_packet() {
        let mut schedule = Schedule::new(2.0, at(60 * SECOND));
        assert_eq!(schedule.due(at(50_000), 1000), (1000, None));
        assert_eq!(schedule.due(at(54_000), 9999), (3000, None));
        assert_eq!(schedule.due(at(53_000), 9999), (3000, None), "out of order: at once");
        assert_eq!(schedule.due(at(56_000), 9999), (4000, None));
    }

    #[test]
    fn a_gap_of_days_is_shortened_and_said() {
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        schedule.due(at(0), 5);
        let gap = 280 * 24 * 3600 * SECOND;
        assert_eq!(schedule.due(at(gap), 5), (5 + 60 * SECOND, Some(Odd::Gap(at(gap)))));
        assert_eq!(
            schedule.due(at(gap + 7), 5),
            (12 + 60 * SECOND, None),
            "and it goes on from there"
        );
    }

    #[test]
    fn a_clock_that_steps_back_keeps_the_pace() {
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        let hour = 3600 * SECOND;
        let times = [hour, hour + SECOND, 2 * SECOND, 3 * SECOND];
        let dues: Vec<u64> = times.iter().map(|ts| schedule.due(at(*ts), 1).0).collect();
        assert_eq!(dues, [1, 1 + SECOND, 1 + 2 * SECOND, 1 + 3 * SECOND]);
        // Steps too small to tell from disorder, many in a row, make no burst either.
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        schedule.due(at(hour - SECOND), 1);
        let dues: Vec<u64> =
            (0..20).map(|n| schedule.due(at(hour - n * SECOND * 9 / 10), 1).0).collect();
        assert!(dues[19] > 9 * SECOND, "{dues:?}");
    }

    #[test]
    fn a_long_stop_moves_the_schedule_and_a_short_one_does_not() {
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        schedule.due(at(0), 1);
        assert_eq!(schedule.slip(SECOND), None);
        assert_eq!(schedule.slip(1 + 5 * SECOND), Some(at(5 * SECOND)));
        assert_eq!(schedule.due(at(SECOND), 0), (1 + 6 * SECOND, None));
    }

    #[test]
    fn passes_go_on_at_the_files_pace_or_once_a_second() {
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        schedule.due(at(100), 1);
        schedule.due(at(300), 1);
        assert!(schedule.again());
        assert_eq!(schedule.due(at(100), 0).0, 1 + 400);
        let mut schedule = Schedule::new(1.0, at(60 * SECOND));
        schedule.due(at(100), 1);
        assert!(!schedule.again());
        assert_eq!(schedule.due(at(100), 0).0, 1 + SECOND);
    }

    proptest! {
        #[test]
        fn due_times_never_go_back_nor_leap(
            times in prop::collection::vec(any::<u64>(), 1..40), speed in 0.001f64..1e6,
        ) {
            let longest = at(60 * SECOND);
            let mut schedule = Schedule::new(speed, longest);
            let mut last = 1;
            for ts in times {
                let (due, _) = schedule.due(Duration::new(ts, 999_999_999), 1);
                prop_assert!(due >= last && due - last <= 60 * SECOND);
                last = due;
            }
        }
    }
}
