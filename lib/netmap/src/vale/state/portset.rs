//! A set of ports.

use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::PortIndex;

/// A set of ports of a switch, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet(pub [u64; 4]);

impl PortSet {
    /// All that a switch can have.
    pub const ALL: Self = Self([u64::MAX, u64::MAX, u64::MAX, (1 << (MAX_PORTS % 64)) - 1]);

    /// Puts a port in.
    #[inline]
    pub fn insert(&mut self, port: PortIndex) {
        self.0[port.at() / 64] |= 1 << (port.0 % 64);
    }

    /// Whether a port is in it.
    #[inline]
    pub fn contains(self, port: PortIndex) -> bool {
        self.0[port.at() / 64] & 1 << (port.0 % 64) != 0
    }

    /// The ports in both.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// All but one.
    #[inline]
    #[must_use]
    pub fn without(mut self, port: PortIndex) -> Self {
        self.0[port.at() / 64] &= !(1 << (port.0 % 64));
        self
    }

    /// The port in it, if there is just one.
    pub fn only(self) -> Option<PortIndex> {
        let mut ports = self.iter();
        ports.next().filter(|_| ports.next().is_none())
    }

    /// Its ports, ascending.
    pub fn iter(self) -> impl Iterator<Item = PortIndex> {
        let Self(mut words) = self;
        let mut word = 0;
        std::iter::from_fn(move || {
            while word < words.len() {
                let bits = words[word];
                if bits != 0 {
                    words[word] = bits & (bits - 1);
                    return Some(PortIndex((word * 64) as u8 + bits.trailing_zeros() as u8));
                }
                word += 1;
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_knows_its_ports_in_order_and_an_only_one() {
        let mut set = PortSet::default();
        assert_eq!(set.only(), None);
        [253, 0, 63, 64].into_iter().for_each(|port| set.insert(PortIndex(port)));
        let ports: Vec<u8> = set.iter().map(|port| port.0).collect();
        assert_eq!(ports, [0, 63, 64, 253]);
        assert!(
            set.contains(PortIndex(253)) && !set.contains(PortIndex(1)) && set.only().is_none()
        );
        let rest = [0, 63, 64].map(PortIndex).into_iter().fold(set, PortSet::without);
        assert_eq!(rest.only(), Some(PortIndex(253)));
        assert_eq!(PortSet([u64::MAX; 4]).and(PortSet::ALL).iter().count(), MAX_PORTS);
    }
}
