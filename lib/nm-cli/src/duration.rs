//! Times as people type them: `10s`, `500ms`, `1m 30s` (humantime's grammar), and bare numbers in the
//! unit that the option has always had (pkt-gen's `-T` milliseconds, `-w` and `-t` seconds).
//!
//! The functions are clap value parsers.

use std::time::Duration;

/// Sums of a few such times still fit 64-bit nanoseconds; nobody waits longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses a time; a bare number is seconds (`10`, `0.5`, `10s`, `2m`).
pub fn seconds(text: &str) -> Result<Duration, String> {
    parse(text, 1.0)
}

/// Parses a time; a bare number is milliseconds (`1000`, `1s`).
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    parse(text, 1e-3)
}

/// Parses the time between two reports: as [`milliseconds`], but not below 1 ms.
pub fn interval(text: &str) -> Result<Duration, String> {
    match milliseconds(text)? {
        time if time < Duration::from_millis(1) => Err("an interval is at least 1ms".to_string()),
        time => Ok(time),
    }
}

/// Parses a time that must not be zero; a bare number is seconds.
pub fn nonzero_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be longer than 0".to_string()),
        time => Ok(time),
    }
}

fn parse(text: &str, bare_unit_s: f64) -> Result<Duration, String> {
    let text = text.trim();
    // A number that begins as one: neither `inf` nor `-1`.
    let bare =
        text.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok();
    let time = if bare {
        let number: f64 = text.parse().map_err(|_| "not a number".to_string())?;
        Duration::try_from_secs_f64(number * bare_unit_s).map_err(|_| "too long".to_string())?
    } else {
        humantime::parse_duration(text)
            .map_err(|why| format!("{why}; write it as 500ms, 10s, 2m or 1h30m"))?
    };
    if time > LONGEST { Err("too long: at most a year".to_string()) } else { Ok(time) }
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
