//! Address ranges `IP[:PORT[-IP:PORT]]`, as in pkt-gen.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Port when none is given, as in pkt-gen.
pub const DEFAULT_PORT: u16 = 1234;

/// Addresses and ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrRange {
    /// First address.
    pub first: IpAddr,
    /// Last address, same family, not below the first.
    pub last: IpAddr,
    /// First port.
    pub first_port: u16,
    /// Last port, not below the first.
    pub last_port: u16,
}

/// Why a range was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// No IP address.
    #[error("{0:?} is not an address; write 10.0.0.1:1234 or [fd00::1]:1234")]
    Address(String),
    /// No port.
    #[error("{0:?} is not a port (0 to 65535)")]
    Port(String),
    /// From IPv4 to IPv6, or back.
    #[error("the range begins and ends in different address families")]
    Families,
    /// The last address or port is below the first.
    #[error("the range ends before it begins")]
    Backwards,
}

/// `10.0.0.1`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]`, `[fd00::1]:80`.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), RangeError> {
    let bad = || RangeError::Address(text.to_owned());
    let port = |text: &str| text.parse().map_err(|_| RangeError::Port(text.to_owned()));
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        return match rest.strip_prefix(':') {
            Some(number) => Ok((address.into(), Some(port(number)?))),
            None if rest.is_empty() => Ok((address.into(), None)),
            None => Err(bad()),
        };
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    let (address, number) = text.split_once(':').ok_or_else(bad)?;
    Ok((address.parse::<Ipv4Addr>().map_err(|_| bad())?.into(), Some(port(number)?)))
}

impl FromStr for AddrRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<AddrRange, RangeError> {
        let (low, high) =
            text.split_once('-').map_or((text, None), |(low, high)| (low, Some(high)));
        let (first, first_port) = endpoint(low)?;
        let first_port = first_port.unwrap_or(DEFAULT_PORT);
        let (last, last_port) = match high {
            Some(high) => endpoint(high)?,
            None => (first, None),
        };
        let last_port = last_port.unwrap_or(first_port);
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::Families);
        }
        if last < first || last_port < first_port {
            return Err(RangeError::Backwards);
        }
        Ok(AddrRange { first, last, first_port, last_port })
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |ip: IpAddr, port: u16| std::net::SocketAddr::new(ip, port);
        write!(f, "{}", end(self.first, self.first_port))?;
        if self.single() { Ok(()) } else { write!(f, "-{}", end(self.last, self.last_port)) }
    }
}

impl AddrRange {
    /// One address with pkt-gen's port.
    pub fn one(address: IpAddr) -> AddrRange {
        AddrRange {
            first: address,
            last: address,
            first_port: DEFAULT_PORT,
            last_port: DEFAULT_PORT,
        }
    }

    /// True if the range is one address and one port.
    pub fn single(self) -> bool {
        self.first == self.last && self.first_port == self.last_port
    }

    /// True if both ends are IPv6.
    pub fn is_ipv6(self) -> bool {
        self.first.is_ipv6()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grammar_of_pkt_gen_and_ipv6() {
        let range: AddrRange = "10.0.0.1:5-10.0.0.9:7".parse().expect("valid");
        assert_eq!((range.first_port, range.last_port), (5, 7));
        let range: AddrRange = "[fd00::1]:9-[fd00::2]:9".parse().expect("valid");
        assert_eq!(range.to_string(), "[fd00::1]:9-[fd00::2]:9");
        assert_eq!("10.0.0.1".parse::<AddrRange>().map(|r| r.first_port), Ok(DEFAULT_PORT));
        assert!("fd00::1".parse::<AddrRange>().is_ok_and(AddrRange::single));
        for text in [
            "",
            "10.0.0",
            "10.0.0.1:99999",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-fd00::1",
            "[fd00::1",
            "[10.0.0.1]:1",
            "host:1",
        ] {
            assert!(text.parse::<AddrRange>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn parser_never_panics(text in ".{0,40}") {
            let _ = text.parse::<AddrRange>();
        }
    }
}
