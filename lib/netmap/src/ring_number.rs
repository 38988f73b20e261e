//! What rings are called: numbers that must not be mixed up with places among the rings that a handle binds.

/// A ring's number among the rings of its port and direction, not its place among those that a handle binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingNumber(pub u8);

impl RingNumber {
    /// The ring that every port has, which gets what is for everybody.
    pub const FIRST: Self = Self(0);

    /// The ring of that index of a port's rings.
    #[inline]
    pub fn new(index: usize) -> Self {
        Self(u8::try_from(index).expect("no port has so many rings"))
    }

    /// The first `n`, ascending.
    pub fn first(n: usize) -> impl Iterator<Item = Self> + Clone {
        (0..n).map(Self::new)
    }

    /// As an index of an array of rings.
    #[inline]
    pub fn at(self) -> usize {
        self.0.into()
    }

    /// As a set of one.
    #[inline]
    pub fn bit(self) -> u32 {
        1 << self.0
    }

    /// The ring that packets of a ring of this number go to, of a port that has `n`.
    #[inline]
    pub fn among(self, n: usize) -> Self {
        Self((self.at() % n) as u8)
    }
}
