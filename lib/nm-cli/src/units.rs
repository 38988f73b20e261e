//! Counts and rates as people type and read them. SI prefixes only (k = 1000): nobody means 1024 in a
//! packet rate.
//!
//! L2 bits are the frame without CRC, which is what a netmap slot's `len` counts. L1 adds what a wire
//! carries besides (4 CRC + 8 preamble + 12 gap) and pads frames to Ethernet's minimum.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// CRC, preamble and gap: bytes that a frame occupies on the wire beside those in the slot.
pub const L1_OVERHEAD_BYTES: u64 = 24;
/// Shortest frame on a wire, without CRC (IEEE 802.3, 64 bytes with it).
pub const MIN_FRAME_BYTES: u64 = 60;

/// Packets per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Pps(pub f64);

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Bps(pub f64);

/// A number of things: `64`, `10k`, `1.5M`, `200M`, `1G`, `1e6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// What `--rate` takes: `1M` and `10Mpps` are packets, `1Gbps` bits, `50%` a part of the line rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Packets per second; `0` means unlimited, as in pkt-gen.
    Pps(Pps),
    /// Bits per second.
    Bps(Bps),
    /// Percent of a line rate, above 0 and at most 100.
    Percent(f64),
}

/// Frame sizes without CRC: `60`, `60-1514` or `imix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Every frame has this many bytes.
    Fixed(usize),
    /// Uniformly random, both ends included.
    Range(usize, usize),
    /// Simple IMIX: seven of 60, four of 590, one of 1514 bytes.
    Imix,
}

/// Why a number was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// It does not begin with a number.
    #[error("not a number; write it as 64, 10k, 1.5M, 1G or 1e6")]
    NotANumber,
    /// It is below 0.
    #[error("must not be negative")]
    Negative,
    /// It does not fit, or exceeds every real rate.
    #[error("too large")]
    TooLarge,
    /// A count is whole.
    #[error("not a whole number")]
    NotWhole,
    /// What follows a count.
    #[error("unknown suffix {0:?}; k, M, G and T are known")]
    Suffix(String),
    /// What follows a rate.
    #[error("unknown unit {0:?}; write 1M, 10Mpps, 1Gbps or 50%")]
    Unit(String),
    /// A percentage out of range.
    #[error("a percentage is above 0 and at most 100")]
    Percent,
    /// A bit rate of 0.
    #[error("a bit rate is above 0")]
    NoRate,
    /// A rate in packets, or in percent, where bits are meant.
    #[error("not a bit rate; write it as 10Gbps")]
    NotABitRate,
    /// No frame sizes.
    #[error("not a size; write it as 60, 60-1514 or imix")]
    NotASize,
    /// The second size is below the first.
    #[error("the range ends before it begins")]
    Backwards,
}

/// Splits `10Mpps` into its number and the text after it.
fn split(text: &str) -> Result<(f64, &str), UnitError> {
    let text = text.trim();
    let digits = |text: &str| {
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len())
    };
    let mut end = digits(text);
    // 1e6 and 2.5e-3, but not 1e.
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let power = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if power.starts_with(|c: char| c.is_ascii_digit()) {
            let count = power.find(|c: char| !c.is_ascii_digit()).unwrap_or(power.len());
            end = text.len() - power.len() + count;
        }
    }
    let digits = text[..end].replace('_', "");
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((number, text[end..].trim_start())),
        _ if text.starts_with('-') => Err(UnitError::Negative),
        _ => Err(UnitError::NotANumber),
    }
}

/// Takes a leading SI prefix off: `("Mpps")` is `(1e6, "pps")`. The prefix of nothing is 1.
fn prefix(text: &str) -> (f64, &str) {
    let scale = match text.as_bytes().first() {
        Some(b'k' | b'K') => 1e3,
        Some(b'm' | b'M') => 1e6,
        Some(b'g' | b'G') => 1e9,
        Some(b't' | b'T') => 1e12,
        _ => return (1.0, text),
    };
    (scale, &text[1..])
}

impl FromStr for Count {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Count, UnitError> {
        // Plain digits keep all 64 bits; a float would round above 2^53.
        if let Ok(exact) = text.trim().parse::<u64>() {
            return Ok(Count(exact));
        }
        let (number, rest) = split(text)?;
        let (scale, rest) = prefix(rest);
        if !rest.is_empty() {
            return Err(UnitError::Suffix(rest.to_owned()));
        }
        let value = number * scale;
        if value >= 2f64.powi(63) {
            return Err(UnitError::TooLarge);
        }
        // 1.1M is 1100000.0000000001 in floating point, still a whole number to its writer.
        let whole = value.round();
        if (value - whole).abs() > 1e-6 * value.max(1.0) {
            Err(UnitError::NotWhole)
        } else {
            Ok(Count(whole as u64))
        }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Rate, UnitError> {
        let (number, rest) = split(text)?;
        if rest == "%" {
            return if number > 0.0 && number <= 100.0 {
                Ok(Rate::Percent(number))
            } else {
                Err(UnitError::Percent)
            };
        }
        let (scale, unit) = prefix(rest);
        let value = number * scale;
        if value > 1e15 {
            return Err(UnitError::TooLarge);
        }
        match unit.to_ascii_lowercase().as_str() {
            "" | "pps" | "p/s" => Ok(Rate::Pps(Pps(value))),
            "bps" | "bit/s" | "b/s" if value > 0.0 => Ok(Rate::Bps(Bps(value))),
            "bps" | "bit/s" | "b/s" => Err(UnitError::NoRate),
            _ => Err(UnitError::Unit(rest.to_owned())),
        }
    }
}

impl FromStr for Bps {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Bps, UnitError> {
        match text.parse()? {
            Rate::Bps(bps) => Ok(bps),
            _ => Err(UnitError::NotABitRate),
        }
    }
}

impl FromStr for Sizes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Sizes, UnitError> {
        let one = |text: &str| match text.trim().parse::<usize>() {
            Ok(size) => Ok(size),
            Err(_) => Err(UnitError::NotASize),
        };
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Sizes::Imix);
        }
        match text.split_once('-') {
            None => one(text).map(Sizes::Fixed),
            Some((low, high)) => match (one(low)?, one(high)?) {
                (low, high) if low > high => Err(UnitError::Backwards),
                (low, high) if low == high => Ok(Sizes::Fixed(low)),
                (low, high) => Ok(Sizes::Range(low, high)),
            },
        }
    }
}

impl Sizes {
    /// Frame sizes of simple IMIX and how many of twelve packets have each.
    pub const IMIX: [(usize, usize); 3] = [(60, 7), (590, 4), (1514, 1)];

    /// Smallest and largest size that can occur.
    pub fn bounds(self) -> RangeInclusive<usize> {
        match self {
            Sizes::Fixed(size) => size..=size,
            Sizes::Range(low, high) => low..=high,
            Sizes::Imix => Self::IMIX[0].0..=Self::IMIX[2].0,
        }
    }

    /// Mean size in bytes.
    pub fn mean(self) -> f64 {
        match self {
            Sizes::Fixed(size) => size as f64,
            Sizes::Range(low, high) => (low + high) as f64 / 2.0,
            Sizes::Imix => {
                Self::IMIX.iter().map(|&(size, n)| (size * n) as f64).sum::<f64>() / 12.0
            }
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size}"),
            Sizes::Range(low, high) => write!(f, "{low}-{high}"),
            Sizes::Imix => f.write_str("imix"),
        }
    }
}

/// Bits on the wire for `packets` frames of `bytes` in all, of which some lacked `pad_bytes` in all
/// to Ethernet's minimum.
pub fn l1_bits(packets: u64, bytes: u64, pad_bytes: u64) -> f64 {
    8.0 * (bytes as f64 + pad_bytes as f64 + packets as f64 * L1_OVERHEAD_BYTES as f64)
}

/// Bytes that a wire would add to a frame of `len` bytes to reach the minimum.
pub fn pad_bytes(len: u64) -> u64 {
    MIN_FRAME_BYTES.saturating_sub(len)
}

/// How numbers are written for people: scaled to three or four digits, or exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Integers without prefix (`--exact`).
    pub exact: bool,
}

impl Units {
    /// `12.35 Mpps`, or `12345678 pps` when exact.
    pub fn pps(self, rate: f64) -> String {
        self.format(rate, "pps")
    }

    /// `9.87 Gbps`, or `9870000000 bps` when exact.
    pub fn bps(self, rate: f64) -> String {
        self.format(rate, "bps")
    }

    /// `200.00 M`, or `200000000`. Below 10 000 a count is exact either way.
    pub fn count(self, count: u64) -> String {
        if count < 10_000 {
            count.to_string()
        } else {
            self.format(count as f64, "").trim_end().to_string()
        }
    }

    /// `1.23 us` for 1230 ns, or `1230 ns` when exact.
    pub fn ns(self, ns: f64) -> String {
        match ns {
            _ if self.exact || ns < 1e3 => format!("{ns:.0} ns"),
            _ if ns < 1e6 => format!("{:.2} us", ns / 1e3),
            _ if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
            _ => format!("{:.2} s", ns / 1e9),
        }
    }

    fn format(self, value: f64, unit: &str) -> String {
        let (scaled, prefix) = match value {
            _ if self.exact || value < 1e3 => (value, ""),
            _ if value < 999.995e3 => (value / 1e3, "k"),
            _ if value < 999.995e6 => (value / 1e6, "M"),
            _ if value < 999.995e9 => (value / 1e9, "G"),
            _ => (value / 1e12, "T"),
        };
        if prefix.is_empty() {
            format!("{scaled:.0} {unit}")
        } else {
            format!("{scaled:.2} {prefix}{unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_may_have_exponents() {
        for (text, count) in
            [("1e6", 1_000_000), ("2.5e3", 2500), ("1E+2", 100), ("1e3k", 1_000_000)]
        {
            assert_eq!(text.parse::<Count>(), Ok(Count(count)), "{text}");
        }
        assert_eq!("1e6pps".parse::<Rate>(), Ok(Rate::Pps(Pps(1e6))));
        assert_eq!("2.5e9bps".parse::<Rate>(), Ok(Rate::Bps(Bps(2.5e9))));
        for text in ["1e", "e6", "1e-1", "1e99", "1ee3", "1e6e"] {
            assert!(text.parse::<Count>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn count_suffixes_are_si() {
        for (text, value) in [
            ("0", 0),
            ("64", 64),
            ("10k", 10_000),
            ("1.5M", 1_500_000),
            ("200M", 200_000_000),
            ("1G", 1_000_000_000),
            ("1_000", 1000),
            ("1.1M", 1_100_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<Count>(), Ok(Count(value)), "{text}");
        }
        for text in ["", "M", "-1", "1Mi", "1.5", "99999999T", "1 k k", "0x10", "NaN", "inf"] {
            assert!(text.parse::<Count>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn rate_units_are_told_apart() {
        assert_eq!("1M".parse(), Ok(Rate::Pps(Pps(1e6))));
        assert_eq!("10Mpps".parse(), Ok(Rate::Pps(Pps(1e7))));
        assert_eq!("1Gbps".parse(), Ok(Rate::Bps(Bps(1e9))));
        assert_eq!("2.5 Gbit/s".parse(), Ok(Rate::Bps(Bps(2.5e9))));
        assert_eq!("50%".parse(), Ok(Rate::Percent(50.0)));
        for text in ["fast", "10Mfoo", "0%", "101%", "0bps", "-5", "10MM", ""] {
            assert!(text.parse::<Rate>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_fixed_range_and_imix() {
        assert_eq!("60".parse(), Ok(Sizes::Fixed(60)));
        assert_eq!("60-1514".parse(), Ok(Sizes::Range(60, 1514)));
        assert_eq!("IMIX".parse::<Sizes>().map(Sizes::bounds), Ok(60..=1514));
        for text in ["1514-60", "a", "60-", "-60", ""] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn l1_of_minimum_frames_is_the_famous_number() {
        // 14.88 Mpps of 60-byte frames fill 10 Gbit/s.
        assert!((l1_bits(14_880_952, 14_880_952 * 60, 0) / 1e10 - 1.0).abs() < 1e-6);
        assert_eq!(l1_bits(1, 30, pad_bytes(30)), l1_bits(1, 60, pad_bytes(60)));
    }

    #[test]
    fn human_numbers_never_show_a_thousand_of_a_prefix() {
        let human = Units { exact: false };
        assert_eq!(human.pps(12_345_678.0), "12.35 Mpps");
        assert_eq!(human.pps(999_999.0), "1.00 Mpps");
        assert_eq!(human.count(9_999), "9999");
        assert_eq!(human.count(200_000_000), "200.00 M");
        assert_eq!(human.ns(1230.0), "1.23 us");
        assert_eq!(Units { exact: true }.bps(9.87e9), "9870000000 bps");
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,20}") {
            let _ = (text.parse::<Count>(), text.parse::<Rate>(), text.parse::<Sizes>());
            if let Ok(Sizes::Range(low, high)) = text.parse() {
                prop_assert!(low < high);
            }
        }

        #[test]
        fn count_reads_back_what_it_prints(n in any::<u64>()) {
            prop_assert_eq!(n.to_string().parse(), Ok(Count(n)));
        }
    }
}
