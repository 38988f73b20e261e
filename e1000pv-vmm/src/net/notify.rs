//! The policy of `--notify`: what an I/O thread does while it has no work, and when it wakes a sleeping guest.
//!
//! ```text
//!   gather=8us   after a round of few packets, let others run for up to that time: more gather
//!   spin=N       without work: look N times more, then
//!   poll=100us   look and let others run in turns, for up to that time, then
//!   block        ask for notifications and sleep     (or busy: never sleep; sleep=20us: look again
//!                                                     after that time, without asking)
//!   wake=75%     a guest that waits is interrupted when that part of its ring is ready for it, or
//!                when the I/O thread is about to go idle; wake=first: at the first packet
//!   timer=50us   ... but no later than that after the first packet
//! ```
//!
//! The reason: with more threads than cores, the number of packets per wake-up determines the rate. The
//! measurements are in docs/design/notification.md.

use std::fmt;
use std::str::FromStr;

use e1000_device::Wake;

/// What an I/O thread does once looking and yielding have found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Ask for notifications and sleep.
    Block,
    /// Look for ever.
    Busy,
    /// Sleep for so many nanoseconds and look again; notifications are not asked for.
    Sleep(u64),
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Empty rounds that follow each other at once.
    pub spin: u32,
    /// Longest time of empty rounds with a `sched_yield` between them.
    pub poll_ns: u64,
    /// Longest pause after a round of few packets.
    pub gather_ns: u64,
    /// What follows after that.
    pub then: Then,
    /// The part of its ring that must be ready before a guest is woken, in percent; with 0 the first packet is
    /// enough.
    pub wake_percent: u32,
    /// Longest time that a guest waits for a packet that has already arrived.
    pub timer_ns: u64,
}

impl Default for Notify {
    /// The best of the policies measured, with both threads of a machine on one core and on two.
    fn default() -> Self {
        let Wake { percent: wake_percent, timer_ns } = Wake::default();
        Self {
            spin: 0,
            poll_ns: 100_000,
            gather_ns: 8_000,
            then: Then::Block,
            wake_percent,
            timer_ns,
        }
    }
}

impl Notify {
    /// The device's part: when a guest that sleeps is woken.
    #[must_use]
    pub fn wake(&self) -> Wake {
        Wake { percent: self.wake_percent, timer_ns: self.timer_ns }
    }
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Not one of the words.
    #[error(
        "Unknown word {word:?}; use gather=TIME, spin=N, poll=TIME, block, busy, sleep=TIME, \
         wake=PERCENT% or wake=first, timer=TIME"
    )]
    Word {
        /// What was found.
        word: String,
    },
    /// The part after the equals sign.
    #[error("Bad value in {word:?}; {want}")]
    Value {
        /// What was found.
        word: String,
        /// What would be right.
        want: &'static str,
    },
}

/// "20us", "1ms", "500ns" in nanoseconds; at most a second.
fn time_ns(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ns = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ns).filter(|&ns| ns <= 1_000_000_000)
}

impl FromStr for Notify {
    type Err = NotifyError;

    /// Words that are not there keep their default, but gather, spin and poll are 0 once any word
    /// about the I/O thread's waiting is given: `block` blocks at once.
    fn from_str(text: &str) -> Result<Self, NotifyError> {
        const TIME: &str = "a time is a number with ns, us or ms, at most a second";
        const COUNT: &str = "a count is a number up to 1000000";
        const PART: &str = "a part is 0% to 100%, or first";
        let mut policy = Self::default();
        let is_waiting = |word: &str| !word.starts_with("wake=") && !word.starts_with("timer=");
        if text.split(',').any(is_waiting) {
            (policy.gather_ns, policy.spin, policy.poll_ns) = (0, 0, 0);
        }
        for word in text.split(',') {
            let bad = |want| NotifyError::Value { word: word.into(), want };
            let count =
                |v: &str| v.parse().ok().filter(|&n| n <= 1_000_000).ok_or_else(|| bad(COUNT));
            let time = |v: &str| time_ns(v).ok_or_else(|| bad(TIME));
            match word.split_once('=') {
                None if word == "block" => policy.then = Then::Block,
                None if word == "busy" => policy.then = Then::Busy,
                Some(("spin", v)) => policy.spin = count(v)?,
                Some(("poll", v)) => policy.poll_ns = time(v)?,
                Some(("gather", v)) => policy.gather_ns = time(v)?,
                Some(("sleep", v)) => policy.then = Then::Sleep(time(v)?.max(1)),
                Some(("wake", "first")) => policy.wake_percent = 0,
                Some(("wake", v)) => {
                    let part = v.strip_suffix('%').and_then(|p| p.parse().ok());
                    policy.wake_percent = part.filter(|&p| p <= 100).ok_or_else(|| bad(PART))?;
                }
                Some(("timer", v)) => policy.timer_ns = time(v)?,
                _ => return Err(NotifyError::Word { word: word.into() }),
            }
        }
        Ok(policy)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gather_ns > 0 {
            write!(f, "gather={},", Time(self.gather_ns))?;
        }
        if self.spin > 0 {
            write!(f, "spin={},", self.spin)?;
        }
        if self.poll_ns > 0 {
            write!(f, "poll={},", Time(self.poll_ns))?;
        }
        match self.then {
            Then::Block => f.write_str("block")?,
            Then::Busy => f.write_str("busy")?,
            Then::Sleep(ns) => write!(f, "sleep={}", Time(ns))?,
        }
        match self.wake_percent {
            0 => f.write_str(",wake=first")?,
            percent => write!(f, ",wake={percent}%")?,
        }
        write!(f, ",timer={}", Time(self.timer_ns))
    }
}

struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0ns"),
            ns if ns % 1_000_000 == 0 => write!(f, "{}ms", ns / 1_000_000),
            ns if ns % 1_000 == 0 => write!(f, "{}us", ns / 1_000),
            ns => write!(f, "{ns}ns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_str_words_in_any_order() {
        let policy: Notify = "block,timer=1ms,spin=50,gather=2us,wake=first".parse().unwrap();
        let want = Notify {
            gather_ns: 2_000,
            spin: 50,
            poll_ns: 0,
            then: Then::Block,
            wake_percent: 0,
            timer_ns: 1_000_000,
        };
        assert_eq!(policy, want);
        assert_eq!("wake=75%".parse(), Ok(Notify::default()));
        assert_eq!("sleep=20us".parse::<Notify>().unwrap().then, Then::Sleep(20_000));
    }

    #[test]
    fn from_str_nonsense_says_what_would_be_right() {
        for (text, part) in [
            ("", "Unknown word \"\""),
            ("spin", "Unknown word \"spin\""),
            ("block=3", "Unknown word"),
            ("yield=3", "Unknown word"),
            ("poll=3", "a time is"),
            ("gather=1s", "a time is"),
            ("spin=x", "a count is"),
            ("spin=1000001", "a count is"),
            ("timer=20", "a time is"),
            ("timer=us", "a time is"),
            ("sleep=2000ms", "a time is"),
            ("timer=99999999999999999999ns", "a time is"),
            ("wake=101%", "a part is"),
            ("wake=50", "a part is"),
        ] {
            let error = text.parse::<Notify>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn display_reads_back(
            gather_ns in 0u64..=1_000_000_000, spin in 0u32..=1_000_000,
            poll_ns in 0u64..=1_000_000_000, then in 0u64..1_000_000_002, wake_percent in 0u32..=100, timer_ns in 0u64..=1_000_000_000,
        ) {
            let then = match then { 0 => Then::Block, 1_000_000_001 => Then::Busy, ns => Then::Sleep(ns) };
            let policy = Notify { gather_ns, spin, poll_ns, then, wake_percent, timer_ns };
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }
}
