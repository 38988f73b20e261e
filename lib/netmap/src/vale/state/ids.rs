//! What ports, rings, handles and processes are called in a switch: numbers that must not be mixed up.
//!
//! Invariant: a generation is given out once, so an identity is never used twice, and something that was
//! remembered is recognised as gone.

use std::fmt;

pub use crate::ring_number::RingNumber;
use crate::vale::state::MAX_PORTS;

/// Number of one life of a port, a handle or a participant. 0: none. At most 48 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// No life.
    pub const NONE: Self = Self(0);
}

/// A port's place in the switch's table, which others use after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

impl PortIndex {
    /// As an index of an array of ports.
    #[inline]
    pub fn at(self) -> usize {
        self.0.into()
    }

    /// All that a switch can have, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_PORTS as u8).map(Self)
    }
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortId {
    /// Its place.
    pub index: PortIndex,
    /// Its life in that place.
    pub generation: Generation,
}

/// A handle's entry in the switch's table, which others use after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleIndex(pub u32);

impl fmt::Display for HandleIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId {
    /// Its entry.
    pub index: HandleIndex,
    /// Its life in that entry.
    pub generation: Generation,
}

/// A participant, as lock words name it: generation above 16 bits of index + 1. 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParticipantId(u64);

impl ParticipantId {
    /// The participant with that entry and life.
    pub const fn new(index: u16, generation: Generation) -> Self {
        Self(generation.0 << 16 | (index as u64 + 1))
    }

    /// Whom a lock word names, if anybody.
    #[inline]
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    /// What stands in a lock word.
    #[inline]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Its entry, as far as the word makes sense.
    pub fn index(self) -> Option<u16> {
        (self.0 as u16).checked_sub(1)
    }

    /// Its life in that entry.
    pub fn generation(self) -> Generation {
        Generation(self.0 >> 16)
    }
}

/// Holder of the rings of a removed port: nobody may write there any more.
pub const RETIRED: ParticipantId = ParticipantId(u64::MAX);
