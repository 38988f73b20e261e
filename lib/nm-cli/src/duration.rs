//! Times as people type them: `10s`, `500ms`, `1m 30s` (humantime's grammar), and bare numbers in the
//! unit that the option has always had (pkt-gen's `-T` milliseconds, `-w` and `-t` seconds).
//!
//! The functions are clap value parsers.

use std::time::Duration;

/// Sums of a few such times still fit 64-bit nanoseconds; nobody waits longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a time was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// It is none.
    #[error("{0}; write it as 500ms, 10s, 2m or 1h30m")]
    NotATime(humantime::DurationError),
    /// Nobody waits that long.
    #[error("too long: at most a year")]
    TooLong,
    /// It must not be 0.
    #[error("must be longer than 0")]
    Zero,
    /// Reports cannot follow each other faster.
    #[error("an interval is at least 1ms")]
    TooShort,
}

/// Parses a time; a bare number is seconds (`10`, `0.5`, `10s`, `2m`).
///
/// # Errors
/// It is no time, or a longer one than a year.
pub fn seconds(text: &str) -> Result<Duration, DurationError> {
    parse(text, 1.0)
}

/// Parses a time; a bare number is milliseconds (`1000`, `1s`).
///
/// # Errors
/// As [`seconds`].
pub fn milliseconds(text: &str) -> Result<Duration, DurationError> {
    parse(text, 1e-3)
}

/// Parses the time between two reports: as [`milliseconds`], but not below 1 ms.
///
/// # Errors
/// As [`seconds`]; or it is too short.
pub fn interval(text: &str) -> Result<Duration, DurationError> {
    match milliseconds(text)? {
        time if time < Duration::from_millis(1) => Err(DurationError::TooShort),
        time => Ok(time),
    }
}

/// Parses a time that must not be zero; a bare number is seconds.
///
/// # Errors
/// As [`seconds`]; or it is 0.
pub fn nonzero_seconds(text: &str) -> Result<Duration, DurationError> {
    match seconds(text)? {
        Duration::ZERO => Err(DurationError::Zero),
        time => Ok(time),
    }
}

fn parse(text: &str, bare_unit_s: f64) -> Result<Duration, DurationError> {
    let text = text.trim();
    // A number that begins as one: neither `inf` nor `-1`.
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let time = match text.parse::<f64>() {
        Ok(number) if begins => {
            Duration::try_from_secs_f64(number * bare_unit_s).map_err(|_| DurationError::TooLong)?
        }
        _ => humantime::parse_duration(text).map_err(DurationError::NotATime)?,
    };
    if time > LONGEST { Err(DurationError::TooLong) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_take_the_unit_of_the_option() {
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(milliseconds("1000"), Ok(Duration::from_secs(1)));
        assert_eq!(milliseconds("2s"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn units_may_be_put_together_and_numbers_have_exponents() {
        assert_eq!(seconds("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(seconds("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(seconds("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("1e2"), Ok(Duration::from_secs(100)));
        assert_eq!(milliseconds("2.5e3"), Ok(Duration::from_millis(2500)));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in ["", "ten", "-1", "1.2.3", ".", "99999999999999999999999", "10 parsecs"] {
            assert!(seconds(text).is_err(), "{text:?} was accepted");
        }
        assert!(interval("0").is_err());
        assert!(nonzero_seconds("0").is_err());
    }
}
