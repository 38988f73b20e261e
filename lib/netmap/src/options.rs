//! What a port should be like: as asked for by a program, and with the defaults filled in.

use crate::error::{Error, Invalid, Result};
use crate::name::{NameFlags, PortName, RingSel};
use crate::ring_number::RingNumber;

/// Most ring pairs of one port.
pub const MAX_RINGS: u16 = 16;
/// Fewest and most slots of a ring.
pub const SLOTS: std::ops::RangeInclusive<u32> = 64..=4096;
/// Slots of a ring unless asked otherwise.
pub const DEFAULT_SLOTS: u32 = 1024;

/// Where a port's rings and buffers live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// In a region of its own.
    #[default]
    Private,
    /// In the region of that number (`@N`), made if missing. Numbers from 32768 on are given to ports' own regions:
    /// one that is missing is an error.
    Id(u16),
    /// In the region of that number, which must be there: whoever has learnt it from a port (`Layout::mem_id`)
    /// means that port's.
    Existing(u16),
    /// In the region of another port.
    With(MemoryRef),
}

/// A memory region, as `Port::memory` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRef(pub(crate) String);

impl std::fmt::Display for MemoryRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which rings of the chosen ones to bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both kinds.
    #[default]
    Both,
    /// Receive rings (`/R`).
    RxOnly,
    /// Transmit rings (`/T`).
    TxOnly,
    /// None: for the port's memory alone (netmap's `NR_REG_NULL`).
    Neither,
}

/// The same for each direction, as a number of rings, or of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerDirection<T> {
    /// Of transmission.
    pub tx: T,
    /// Of reception.
    pub rx: T,
}

/// Data that begin somewhere within their buffers: the low bits of `ptr` in each slot say where
/// (`NETMAP_REQ_OPT_OFFSETS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The largest one that will be used.
    pub max: u64,
    /// What slots have at first.
    pub initial: u64,
    /// How many bits of `ptr` are the offset; 0: all.
    pub bits: u8,
    /// Alignment that transmitted data will have at least; 0: none. Told to programs (`buf_align`), not needed here.
    pub tx_align: u32,
    /// Bytes to be left free behind the data.
    pub min_gap: u64,
}

impl Offsets {
    /// Bits of `ptr` that are the offset, if all this can be.
    pub(crate) fn checked(&self, name: &str, buffer_bytes: u64) -> Result<u8> {
        let bits = if self.bits == 0 { 64 } else { self.bits };
        let all = [self.initial <= self.max, bits <= 64, bits >= 64 || self.max >> bits == 0]
            .into_iter()
            .all(|right| right)
            && (self.tx_align == 0 || self.tx_align.is_power_of_two())
            && self.max.checked_add(self.min_gap).is_some_and(|end| end <= buffer_bytes);
        all.then_some(bits).ok_or_else(|| Error::invalid(name, Invalid::Offsets { buffer_bytes }))
    }
}

/// What a port should be like. What the name says (`@conf:`, `/x`, `@N`) takes precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Slots per TX ring, 64 to 4096; 1024 for a new port.
    pub tx_slots: Option<u32>,
    /// Slots per RX ring, 64 to 4096; 1024 for a new port.
    pub rx_slots: Option<u32>,
    /// TX rings, 1 to 16; 1 for a new port.
    pub tx_rings: Option<u16>,
    /// RX rings, 1 to 16; 1 for a new port.
    pub rx_rings: Option<u16>,
    /// Buffers beside those in the rings, for programs that keep packets. If the memory has not so many, there are
    /// fewer: `Port::extra_buffers` tells.
    pub extra_bufs: u32,
    /// Nobody else may have a ring open that this handle binds.
    pub exclusive: bool,
    /// Memory of a new port.
    pub memory: Memory,
    /// Size of that memory, if it is made for the port. It is fixed then, and shared by all that is made in it
    /// later: other ports, pipes, extra buffers. By default a port's own has twice what the port needs, 32 MiB
    /// at least, and a shared one 256 MiB. Memory is taken as it is given out.
    pub memory_bytes: Option<u64>,
    /// Bytes of the virtio-net header in front of each frame of the port: 0, 10 or 12. It belongs to the port, not to the
    /// handle; `None` leaves it as it is.
    pub vnet_hdr_len: Option<u8>,
    /// Offsets in the port's slots. They are the port's as long as somebody has it open; to ask for others meanwhile is an error. A
    /// port that was made with them (`control::create_port`) keeps them. Others pay nothing for them but that there are no
    /// runs on the switch.
    pub offsets: Option<Offsets>,
    /// Rings to bind.
    pub direction: Direction,
    /// A `pcap:` port whose packets have no Ethernet header gives them one, with these addresses.
    pub to_ethernet: Option<nm_capture::Addresses>,
}

impl Options {
    /// These options, overridden by what `name` says.
    #[must_use]
    pub fn with_name(&self, name: &PortName) -> Self {
        let mut o = self.clone();
        o.tx_slots = name.conf.tx_slots.or(o.tx_slots);
        o.rx_slots = name.conf.rx_slots.or(o.rx_slots);
        o.tx_rings = name.conf.tx_rings.or(o.tx_rings);
        o.rx_rings = name.conf.rx_rings.or(o.rx_rings);
        o.memory_bytes = name.conf.mem_mib.map(|mib| u64::from(mib) << 20).or(o.memory_bytes);
        o.vnet_hdr_len = name.conf.vnet_hdr_len.or(o.vnet_hdr_len);
        o.exclusive |= name.flags.contains(NameFlags::EXCLUSIVE);
        if let Some(id) = name.mem_id {
            o.memory = Memory::Id(id);
        }
        if name.flags.contains(NameFlags::RX_ONLY) {
            o.direction = Direction::RxOnly;
        }
        if name.flags.contains(NameFlags::TX_ONLY) {
            o.direction = Direction::TxOnly;
        }
        o
    }
}

/// Sizes of a port to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Ring pairs: transmit.
    pub tx_rings: u16,
    /// Ring pairs: receive.
    pub rx_rings: u16,
    /// Slots of each TX ring.
    pub tx_slots: u32,
    /// Slots of each RX ring.
    pub rx_slots: u32,
}

impl Sizes {
    /// What the options ask for, with defaults, checked against the limits.
    pub fn from_options(name: &str, o: &Options) -> Result<Self> {
        let sizes = Self {
            tx_rings: o.tx_rings.unwrap_or(1),
            rx_rings: o.rx_rings.unwrap_or(1),
            tx_slots: o.tx_slots.unwrap_or(DEFAULT_SLOTS),
            rx_slots: o.rx_slots.unwrap_or(DEFAULT_SLOTS),
        };
        for asked in [sizes.tx_rings, sizes.rx_rings] {
            if !(1..=MAX_RINGS).contains(&asked) {
                return Err(Error::invalid(name, Invalid::Rings { asked, most: MAX_RINGS }));
            }
        }
        for asked in [sizes.tx_slots, sizes.rx_slots] {
            if !SLOTS.contains(&asked) {
                let (least, most) = (*SLOTS.start(), *SLOTS.end());
                return Err(Error::invalid(name, Invalid::Slots { asked, least, most }));
            }
        }
        Ok(sizes)
    }
}

/// The TX and the RX rings that a handle binds. Programs know them by their places here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundRings {
    /// Transmit.
    pub tx: Vec<RingNumber>,
    /// Receive.
    pub rx: Vec<RingNumber>,
}

/// Places among the rings that a handle binds.
pub type Places = PerDirection<Vec<usize>>;

impl BoundRings {
    /// How many there are.
    pub fn count(&self) -> PerDirection<usize> {
        PerDirection { tx: self.tx.len(), rx: self.rx.len() }
    }

    /// Whether there is a ring that both have.
    pub fn shares(&self, other: &Self) -> bool {
        let common = |a: &[RingNumber], b: &[RingNumber]| a.iter().any(|i| b.contains(i));
        common(&self.tx, &other.tx) || common(&self.rx, &other.rx)
    }

    /// All rings of a port that has so many.
    pub fn all(has: PerDirection<usize>) -> Self {
        Self { tx: RingNumber::first(has.tx).collect(), rx: RingNumber::first(has.rx).collect() }
    }

    /// The rings at these places.
    ///
    /// # Panics
    /// There is no such place.
    pub fn at(&self, places: &Places) -> Self {
        let of = |rings: &[RingNumber], at: &[usize]| at.iter().map(|&i| rings[i]).collect();
        Self { tx: of(&self.tx, &places.tx), rx: of(&self.rx, &places.rx) }
    }

    /// Those that another handle has not.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let rest = |rings: &[RingNumber], taken: &[RingNumber]| {
            rings.iter().copied().filter(|i| !taken.contains(i)).collect()
        };
        Self { tx: rest(&self.tx, &other.tx), rx: rest(&self.rx, &other.rx) }
    }

    /// What a name and options choose of a port with that many rings.
    pub fn chosen(
        name: &str,
        rings: RingSel,
        direction: Direction,
        has: PerDirection<usize>,
    ) -> Result<Self> {
        let mut bound = Self::all(has);
        if let RingSel::One(asked) = rings {
            let most = has.tx.max(has.rx);
            if usize::from(asked) >= most {
                let has = most as u16; // at most MAX_RINGS
                return Err(Error::invalid(name, Invalid::NoRing { asked, has }));
            }
            bound.tx.retain(|i| u16::from(i.0) == asked);
            bound.rx.retain(|i| u16::from(i.0) == asked);
        }
        Ok(match direction {
            Direction::Both => bound,
            Direction::RxOnly => Self { tx: Vec::new(), ..bound },
            Direction::TxOnly => Self { rx: Vec::new(), ..bound },
            Direction::Neither => Self::default(),
        })
    }
}
