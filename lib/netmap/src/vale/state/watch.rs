//! What an entry of the table of ports is: a port of the switch, or a monitor of one, and what that sees.
//!
//! Who writes it: the holder of the root's lock, before the entry is listed; and once more when the port that a
//! monitor sees goes. Invariant: while a monitor names a port by its index, the port that had that index when
//! the monitor was made is still there (`SwitchFile::unlist_port`).

use crate::stats::RingDir;
use crate::vale::state::ids::{PortIndex, RingNumber};

/// What an entry of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A port of the switch: packets are forwarded from it and to it.
    Switch,
    /// A monitor: it gets copies of what another port sends and receives, and nothing else.
    Monitor(Watch),
}

/// What a monitor sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The port; `None` once that has gone.
    pub of: Option<PortIndex>,
    /// Its only ring that is seen; `None`: all.
    pub ring: Option<RingNumber>,
    /// What its program sends is seen.
    pub tx: bool,
    /// What its program receives is seen.
    pub rx: bool,
    /// The monitor gets the slots' buffers for its own, instead of copies.
    pub zero_copy: bool,
}

const KIND: u64 = 0b110;
const MONITOR: u64 = 0b010;
const OF_SHIFT: u32 = 16;
const RING_SHIFT: u32 = 24;
const RING: u64 = 0x1f;
const TX: u64 = 1 << 29;
const RX: u64 = 1 << 30;
const ZERO_COPY: u64 = 1 << 31;

impl PortKind {
    /// The bits of an entry's flags that say what it is.
    pub const BITS: u64 = KIND | 0xffff << OF_SHIFT;

    /// As bits of an entry's flags.
    pub fn pack(self) -> u64 {
        let Self::Monitor(watch) = self else { return 0 };
        let bit = |is: bool, bit: u64| if is { bit } else { 0 };
        let of = watch.of.map_or(0, |of| u64::from(of.0) + 1);
        let ring = watch.ring.map_or(0, |ring| (u64::from(ring.0) + 1) & RING);
        let what = bit(watch.tx, TX) | bit(watch.rx, RX) | bit(watch.zero_copy, ZERO_COPY);
        MONITOR | of << OF_SHIFT | ring << RING_SHIFT | what
    }

    /// What an entry's flags say. What makes no sense is a monitor of nothing.
    pub fn unpack(flags: u64) -> Self {
        if flags & KIND == 0 {
            return Self::Switch;
        }
        let of = ((flags >> OF_SHIFT) as u8).checked_sub(1).map(PortIndex);
        let ring = (flags >> RING_SHIFT & RING) as u8;
        Self::Monitor(Watch {
            of: of.filter(|_| flags & KIND == MONITOR),
            ring: ring.checked_sub(1).map(RingNumber),
            tx: flags & TX != 0,
            rx: flags & RX != 0,
            zero_copy: flags & ZERO_COPY != 0,
        })
    }
}

impl Watch {
    /// Whether it sees a ring of a port.
    pub fn sees(&self, port: PortIndex, dir: RingDir, ring: RingNumber) -> bool {
        let direction = match dir {
            RingDir::Tx => self.tx,
            RingDir::Rx => self.rx,
        };
        direction && self.of == Some(port) && self.ring.is_none_or(|only| only == ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_hold_every_kind_beside_what_else_is_in_them() {
        let others = !PortKind::BITS;
        for of in [None, Some(PortIndex(0)), Some(PortIndex(253))] {
            for ring in [None, Some(RingNumber(0)), Some(RingNumber(15))] {
                for bits in 0..8 {
                    let (tx, rx, zero_copy) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                    let kind = PortKind::Monitor(Watch { of, ring, tx, rx, zero_copy });
                    assert_eq!(kind.pack() & others, 0);
                    assert_eq!(PortKind::unpack(kind.pack() | others), kind);
                }
            }
        }
        assert_eq!(PortKind::unpack(others), PortKind::Switch);
    }

    #[test]
    fn kind_that_nobody_knows_sees_nothing() {
        for flags in [4, 6, 6 | 5 << OF_SHIFT | TX, u64::MAX] {
            let PortKind::Monitor(watch) = PortKind::unpack(flags) else { panic!("{flags:#x}") };
            assert!(PortIndex::all().all(|port| !watch.sees(port, RingDir::Tx, RingNumber::FIRST)));
        }
    }
}
