//! Values on the command line: counts, durations, rates, addresses. No floating point: `1.5M` is exactly
//! 1500000, and what is not a whole number is refused.

/// Highest rate that is accepted; a higher one is a typing error.
const BITS_MAX: u64 = 1_000_000_000_000_000;

/// A number that is digits * 10^exponent.
#[derive(Clone, Copy)]
struct Number {
    digits: u64,
    exponent: i32,
}

/// Splits a number off the front: `1.5`, `1_000`, `1e6`; also returns the rest.
fn number(text: &str) -> Option<(Number, &str)> {
    let (digits, decimals, rest) = digits(text)?;
    let (power, rest) = exponent(rest).unwrap_or((0, rest));
    let exponent = power.checked_sub(i32::try_from(decimals).ok()?)?;
    Some((Number { digits, exponent }, rest))
}

/// Takes `e6`, `E-3` off the front, if that is what is there.
fn exponent(text: &str) -> Option<(i32, &str)> {
    let after = text.strip_prefix(['e', 'E'])?;
    let digits = after.strip_prefix(['-', '+']).unwrap_or(after);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (power, rest) = after.split_at(after.len() - digits.len() + end);
    Some((power.parse().ok()?, rest))
}

/// Splits digits off the front: without the point, how many stood behind it, the rest.
fn digits(text: &str) -> Option<(u64, u32, &str)> {
    let (mut value, mut decimals, mut point, mut digits) = (0u64, 0u32, false, 0);
    let mut rest = text;
    for (at, character) in text.char_indices() {
        rest = &text[at..];
        match character {
            '0'..='9' => {
                let digit = u64::from(character as u32 - '0' as u32);
                value = value.checked_mul(10)?.checked_add(digit)?;
                digits += 1;
                decimals += u32::from(point);
            }
            '_' if digits > 0 => {}
            '.' if !point && digits > 0 => point = true,
            _ => break,
        }
        rest = &text[at + character.len_utf8()..];
    }
    (digits > 0).then_some((value, decimals, rest))
}

impl Number {
    /// The number times `scale`, if that is whole.
    fn times(self, scale: u64) -> Option<u64> {
        let product = u128::from(self.digits) * u128::from(scale);
        let power = 10u128.checked_pow(self.exponent.unsigned_abs());
        let value = match (product, self.exponent) {
            (0, _) => 0,
            (_, 0..) => product.checked_mul(power?)?,
            _ => {
                power.filter(|&power| product.is_multiple_of(power)).map(|power| product / power)?
            }
        };
        u64::try_from(value).ok()
    }
}

/// Takes an SI prefix off the front; k is 1000.
fn prefix(text: &str) -> (u64, &str) {
    let scale = match text.as_bytes().first() {
        Some(b'k' | b'K') => 1_000,
        Some(b'm' | b'M') => 1_000_000,
        Some(b'g' | b'G') => 1_000_000_000,
        _ => return (1, text),
    };
    (scale, &text[1..])
}

/// `64`, `10k`, `1.5M`, `1e6`.
pub fn count(text: &str) -> Option<u64> {
    let (number, rest) = number(text)?;
    let (scale, rest) = prefix(rest);
    if rest.is_empty() { number.times(scale) } else { None }
}

/// `5s`, `100ms`, `50us`, `200ns`, `2m`, `1h`; a bare number counts units of `bare_ns`.
pub fn duration_ns(text: &str, bare_ns: u64) -> Option<u64> {
    let (number, unit) = number(text)?;
    let scale = match unit {
        "" => bare_ns,
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    number.times(scale)
}

/// A rate: packets, or bits of frames without CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Packets a second.
    Pps(u64),
    /// Bits a second.
    Bps(u64),
}

impl Rate {
    /// Packets a second of `size` bytes.
    pub fn pps(self, size: usize) -> u64 {
        match self {
            Rate::Pps(pps) => pps,
            Rate::Bps(bps) => (bps / (8 * size.max(1) as u64)).max(1),
        }
    }
}

/// `1M`, `1e6`, `10Mpps`, `1Gbps`; not 0.
pub fn rate(text: &str) -> Option<Rate> {
    let (number, rest) = number(text)?;
    let (scale, unit) = prefix(rest);
    let value = number.times(scale).filter(|value| (1..=BITS_MAX).contains(value))?;
    match unit {
        "" | "pps" => Some(Rate::Pps(value)),
        "bps" => Some(Rate::Bps(value)),
        _ => None,
    }
}

/// `02:00:00:00:00:01`.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 {
            return None;
        }
        if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// `10.0.0.1`.
pub fn ip(text: &str) -> Option<[u8; 4]> {
    text.parse::<core::net::Ipv4Addr>().ok().map(|ip| ip.octets())
}

/// `on` or `off`.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;
    use std::string::String;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_have_prefixes_and_are_whole() {
        let known = [("0", 0), ("64", 64), ("10k", 10_000), ("1.5M", 1_500_000), ("1_000", 1000)];
        known.iter().for_each(|&(text, value)| assert_eq!(count(text), Some(value), "{text}"));
        let powers =
            [("1e6", 1_000_000), ("1.5E3", 1500), ("20e-1k", 2000), ("0e-99", 0), ("1e+2", 100)];
        powers.iter().for_each(|&(text, value)| assert_eq!(count(text), Some(value), "{text}"));
        for wrong in
            ["1e", "1e-1", "e6", "1e20", "1e99999999999", "1e-99999999999", "1e6e6", "1e1.5"]
        {
            assert_eq!(count(wrong), None, "{wrong}");
        }
        for wrong in
            ["", "k", "1.5", "-1", "1x", "1kk", ".5k", "1.2.3k", "99999999999999999999", "٣"]
        {
            assert_eq!(count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_ns("5", 1_000_000_000), Some(5_000_000_000));
        assert_eq!(duration_ns("0.5s", 1), Some(500_000_000));
        assert_eq!(duration_ns("2m", 1), Some(120_000_000_000));
        assert_eq!(duration_ns("200", 1), Some(200));
        assert_eq!(duration_ns("0.5ns", 1), None);
        assert_eq!(duration_ns("1h", 1), Some(3_600_000_000_000));
        assert_eq!(duration_ns("1e-3s", 1), Some(1_000_000));
        assert_eq!(duration_ns("5y", 1), None);
    }

    #[test]
    fn rates_are_packets_or_bits() {
        assert_eq!(rate("1M"), Some(Rate::Pps(1_000_000)));
        assert_eq!(rate("10Mpps"), Some(Rate::Pps(10_000_000)));
        assert_eq!(rate("1e6pps"), Some(Rate::Pps(1_000_000)));
        assert_eq!(rate("1Gbps").map(|rate| rate.pps(1250)), Some(100_000));
        assert_eq!((rate("0"), rate("1Mb")), (None, None));
    }

    #[test]
    fn addresses_are_complete() {
        assert_eq!(mac("02:0:0a:00:FF:1"), Some([2, 0, 10, 0, 255, 1]));
        assert_eq!(ip("10.1.0.1"), Some([10, 1, 0, 1]));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "02:00:00:00:00:+1", "0"] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
        assert_eq!(ip("10.1.0"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = (count(&text), duration_ns(&text, 1), rate(&text), mac(&text), ip(&text));
        }

        #[test]
        fn plain_numbers_keep_all_bits(value: u64) {
            prop_assert_eq!(count(&format!("{value}")), Some(value));
        }
    }
}
