//! The cursor that walks an address range: ports first, then addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nm_cli::addr::AddrRange;

/// A position in a range.
#[derive(Clone, Debug)]
pub struct Cursor {
    range: AddrRange,
    /// The current address.
    pub address: IpAddr,
    /// The current port.
    pub port: u16,
}

/// What a step changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The port only.
    Port,
    /// Address and maybe port.
    Address,
    /// Address and port went back to the first ones.
    Wrapped,
}

fn successor(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(1)).into(),
    }
}

impl Cursor {
    /// At the beginning of a range.
    pub fn new(range: AddrRange) -> Cursor {
        Cursor { range, address: range.first, port: range.first_port }
    }

    /// Goes to the next port, or the next address after the last port, or back to the beginning.
    pub fn step(&mut self) -> Step {
        if self.port < self.range.last_port {
            self.port += 1;
            return Step::Port;
        }
        self.port = self.range.first_port;
        if self.address < self.range.last {
            self.address = successor(self.address);
            return Step::Address;
        }
        self.address = self.range.first;
        Step::Wrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_walks_ports_then_addresses_then_wraps() {
        let mut cursor = Cursor::new("10.0.0.255:1-10.0.1.0:2".parse().expect("valid"));
        let mut seen = vec![(cursor.address, cursor.port)];
        while cursor.step() != Step::Wrapped {
            seen.push((cursor.address, cursor.port));
        }
        let text: Vec<String> = seen.iter().map(|(a, p)| format!("{a}:{p}")).collect();
        assert_eq!(text, ["10.0.0.255:1", "10.0.0.255:2", "10.0.1.0:1", "10.0.1.0:2"]);
        assert_eq!((cursor.address, cursor.port), seen[0]);
    }
}
