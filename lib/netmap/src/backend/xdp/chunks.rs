//! Memory of a queue's own, which a NIC in zero-copy mode reads and writes: two pages for each RX slot, one for each TX slot.
//!
//! ```text
//!   chunk  0 ...                      rx, rx + 1 ...
//!          | two for each RX slot    | one for each TX slot    |
//!          | 256 of the kernel, packet| packet                 |
//! ```
//!
//! In that mode a chunk has to be in one piece for the NIC, and the kernel and the driver use the bytes in front of a
//! packet. Neither is so for the cells of a region, which cross pages and lie side by side. So packets are copied
//! between chunk and slot, which the kernel would have done in copy mode.
//!
//! Invariant: an address that the kernel names leads to a chunk as a whole or to nothing.

use shared_bytes::Span;

use super::ring::Packet;
use super::umem::HEADROOM;
use crate::error::{Error, Result};
use crate::shm::file;
use crate::shm::map::Map;

/// Bytes of a chunk: a page, which is always in one piece.
pub const CHUNK: u32 = 4096;

/// The chunks of a queue.
#[derive(Debug)]
pub struct Chunks {
    map: Map,
    rx: u32,
    tx: u32,
}

impl Chunks {
    /// Chunks for so many packets to come and to go, of the port with that name.
    pub fn new(port: &str, rx: u32, tx: u32) -> Result<Self> {
        let bytes = (rx + tx) as usize * CHUNK as usize;
        let file = file::anonymous(bytes as u64)?;
        let map = Map::new(&file, bytes).map_err(Error::io("map memory for", port))?;
        Ok(Self { map, rx, tx })
    }

    /// The memory.
    pub fn mapping(&self) -> &Map {
        &self.map
    }

    /// What the fill ring is given of each chunk for a packet to come.
    pub fn to_fill(&self) -> impl ExactSizeIterator<Item = u64> + use<> {
        (0..self.rx).map(|chunk| u64::from(chunk) * u64::from(CHUNK))
    }

    /// Address of the packet of a TX slot, and where it is written to. The slot is one of the ring's.
    pub fn to_send(&self, slot: u32) -> (u64, Span<'_>) {
        let at = (self.rx + slot) as usize * CHUNK as usize;
        (at as u64, self.map.span(at, CHUNK as usize).expect("a chunk for each slot"))
    }

    /// The TX slot whose packet is at that address.
    pub fn sent(&self, address: u64) -> Option<u16> {
        let chunk = address / u64::from(CHUNK);
        let slot = chunk.checked_sub(self.rx.into()).filter(|&slot| slot < self.tx.into());
        slot.and_then(|slot| u16::try_from(slot).ok())
    }

    /// A packet that came, and what the fill ring is given of its chunk when it has been read.
    pub fn received(&self, packet: Packet) -> Option<(Span<'_>, u64)> {
        let chunk = packet.address & !u64::from(CHUNK - 1);
        let (from, len) = (packet.address - chunk, u64::from(packet.len));
        let is_one = chunk / u64::from(CHUNK) < self.rx.into();
        // Ours to look at is what lies behind the kernel's part.
        if !is_one || from < HEADROOM || from + len > CHUNK.into() {
            return None;
        }
        Some((self.map.span(packet.address as usize, packet.len as usize)?, chunk))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_lead_to_their_slot_or_to_nothing(rx in 0..64_u32, tx in 1..64_u32, any: u64, near in 0..600_000_u64, len: u32) {
            let chunks = Chunks::new("xdp:x", rx, tx).unwrap();
            let end = u64::from(rx + tx) * u64::from(CHUNK);
            for slot in 0..tx {
                let (address, room) = chunks.to_send(slot);
                prop_assert_eq!(chunks.sent(address), Some(slot as u16));
                prop_assert_eq!(room.len(), CHUNK as usize);
                let packet = Packet { address: address + HEADROOM, len: 60 };
                prop_assert!(chunks.received(packet).is_none());
            }
            for chunk in chunks.to_fill() {
                prop_assert_eq!(chunks.sent(chunk), None);
                let most = CHUNK - HEADROOM as u32;
                let (packet, back) = chunks.received(Packet { address: chunk + HEADROOM, len: most }).unwrap();
                prop_assert_eq!((packet.len(), back), (most as usize, chunk));
                let longer = Packet { address: chunk + HEADROOM, len: most + 1 };
                let before = Packet { address: chunk, len: 60 };
                prop_assert!(chunks.received(longer).is_none() && chunks.received(before).is_none());
            }
            for address in [any, near] {
                if let Some((packet, back)) = chunks.received(Packet { address, len }) {
                    prop_assert!(packet.len() == len as usize && back + u64::from(CHUNK) <= end);
                    prop_assert!(back + HEADROOM <= address && address + u64::from(len) <= back + u64::from(CHUNK));
                }
                prop_assert!(chunks.sent(address).is_none_or(|slot| u32::from(slot) < tx));
            }
        }
    }
}
