//! Ethernet addresses as the tools print and read them: six lower-case hex pairs with colons
//! (IEEE 802 canonical order); input may use `-` as well. In JSON a MAC is a string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A range of addresses, both ends included: `02:00:00:00:00:00-02:00:00:00:00:ff`. A single address is
/// a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacRange {
    /// The first address.
    pub first: Mac,
    /// The last address, not below the first.
    pub last: Mac,
}

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MacError {
    /// No address.
    #[error("not a MAC address; write it as 02:00:00:00:00:01")]
    Address,
    /// The last address of a range is below the first.
    #[error("the MAC range ends before it begins")]
    Backwards,
}

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for group addresses, broadcast among them.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as a number, first octet highest.
    pub fn to_u64(self) -> u64 {
        self.0.iter().fold(0, |value, &octet| value << 8 | u64::from(octet))
    }

    /// The address of the low 48 bits.
    pub fn from_u64(value: u64) -> Mac {
        let bytes = value.to_be_bytes();
        Mac([bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
    }
}

impl From<[u8; 6]> for Mac {
    fn from(octets: [u8; 6]) -> Mac {
        Mac(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let separator = if text.contains(':') { ':' } else { '-' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or(MacError::Address)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacError::Address);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacError::Address)?;
        }
        if parts.next().is_some() { Err(MacError::Address) } else { Ok(Mac(octets)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl MacRange {
    /// How many addresses there are; at least one.
    pub fn count(self) -> u64 {
        self.last.to_u64() - self.first.to_u64() + 1
    }

    /// The `index`-th address, starting again after the last.
    pub fn nth(self, index: u64) -> Mac {
        Mac::from_u64(self.first.to_u64() + index % self.count())
    }
}

impl From<Mac> for MacRange {
    fn from(one: Mac) -> MacRange {
        MacRange { first: one, last: one }
    }
}

impl fmt::Display for MacRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for MacRange {
    type Err = MacError;

    fn from_str(text: &str) -> Result<MacRange, MacError> {
        // Only colons can stand inside a range: the dash is taken.
        if !text.contains(':') || !text.contains('-') {
            return text.parse::<Mac>().map(MacRange::from);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = MacRange { first: first.parse()?, last: last.parse()? };
        if range.last < range.first { Err(MacError::Backwards) } else { Ok(range) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn range_counts_and_wraps() {
        let range: MacRange = "02:00:00:00:00:fe-02:00:00:00:01:01".parse().expect("valid");
        assert_eq!(range.count(), 4);
        assert_eq!(range.nth(2).to_string(), "02:00:00:00:01:00");
        assert_eq!(range.nth(4), range.first);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "02:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "020000000001",
            "02:0:0:0:0:002",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text:?} was accepted");
        }
        assert!("02:00:00:00:00:02-02:00:00:00:00:01".parse::<MacRange>().is_err());
        assert!("02-00-00-00-00-02".parse::<MacRange>().is_ok());
    }

    proptest! {
        #[test]
        fn mac_reads_back_what_it_prints(octets in any::<[u8; 6]>()) {
            let mac = Mac(octets);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(Mac::from_u64(mac.to_u64()), mac);
        }

        #[test]
        fn parser_never_panics(text in ".{0,40}") {
            let _ = text.parse::<MacRange>();
        }
    }
}
