//! Receive filters: which frames the guest gets (8254x manual, sections 3.2.1 and 13.5), and VLAN
//! tags (chapter 9).
//!
//! ```text
//!   address:  RA[0] exact -> accept          (one comparison: nearly every frame)
//!             RA[1..16] exact, promiscuous, broadcast, multicast table -> accept, else drop
//!   tag:      VFE and tagged: the table of VLANs has its bit, and CFI is as wanted -> accept
//! ```
//!
//! Invariant: a decision depends on the registers and the frame's first 18 bytes alone. It is made
//! from the registers as they are during the decision; a guest that changes them meanwhile gets a
//! frame by the old or by the new ones.

use e1000pv::bits::{Ctrl, Rah, Rctl};
use e1000pv::regs;

use super::registers::{ReceiveAddress, Registers};

/// The six bytes of an address in a little-endian word.
const MAC_MASK: u64 = (1 << 48) - 1;
/// Bytes of a frame that a filter may look at: Ethernet header and tag.
pub const HEADER_BYTES: usize = 18;
/// Bytes of a VLAN tag.
pub const TAG_BYTES: usize = 4;
/// Where the tag lies: behind both addresses.
pub const TAG_OFFSET: usize = 12;

/// Whether a frame that begins with `header` goes to the guest.
#[must_use]
pub fn accepts(registers: &Registers, header: &[u8; HEADER_BYTES]) -> bool {
    let rctl = Rctl::from_bits_retain(registers.load(regs::RCTL));
    let [h0, h1, h2, h3, h4, h5, h6, h7, ..] = *header;
    let head = u64::from_le_bytes([h0, h1, h2, h3, h4, h5, h6, h7]);
    let exact = {
        let ReceiveAddress { address, high } = registers.receive_address(0);
        high & (Rah::AV.bits() | ASEL) == Rah::AV.bits() && address == head & MAC_MASK
    };
    (exact || accepts_otherwise(registers, rctl, header, head & MAC_MASK))
        && (!rctl.contains(Rctl::VFE) || passes_vlan(registers, rctl, header))
}

/// The address select field: anything but 00b (destination) in bits 17:16.
const ASEL: u32 = 3 << 16;

#[cold]
fn accepts_otherwise(
    registers: &Registers,
    rctl: Rctl,
    header: &[u8; HEADER_BYTES],
    destination: u64,
) -> bool {
    if destination & 1 == 0 {
        if rctl.contains(Rctl::UPE) {
            return true;
        }
    } else {
        let broadcast = destination == MAC_MASK;
        if rctl.contains(Rctl::MPE)
            || broadcast && rctl.contains(Rctl::BAM)
            || in_multicast_table(registers, rctl, destination)
        {
            return true;
        }
    }
    let source = u64::from_le_bytes([
        header[6], header[7], header[8], header[9], header[10], header[11], 0, 0,
    ]);
    (0..regs::RA_COUNT).any(|index| {
        let ReceiveAddress { address, high } = registers.receive_address(index);
        let wanted = match high & ASEL {
            0 => destination,
            s if s == Rah::ASEL_SOURCE.bits() => source,
            _ => return false,
        };
        high & Rah::AV.bits() != 0 && address == wanted
    })
}

/// Twelve bits of the address choose one of 4096 bits (section 13.5.1).
fn in_multicast_table(registers: &Registers, rctl: Rctl, destination: u64) -> bool {
    let last_two = (destination >> 32) as u32;
    let hash = last_two >> rctl.multicast_shift() & 0xFFF;
    registers.element(regs::MTA, 4, hash >> 5) >> (hash & 31) & 1 != 0
}

fn passes_vlan(registers: &Registers, rctl: Rctl, header: &[u8; HEADER_BYTES]) -> bool {
    let Some(tag) = tag(registers, header) else {
        return true;
    };
    let vid = u32::from(tag & 0xFFF);
    let listed = registers.element(regs::VFTA, 4, vid >> 5) >> (vid & 31) & 1 != 0;
    let cfi = tag & 0x1000 != 0;
    listed && (!rctl.contains(Rctl::CFIEN) || cfi == rctl.contains(Rctl::CFI))
}

/// The tag of a frame that has one by VET.
#[must_use]
pub fn tag(registers: &Registers, header: &[u8; HEADER_BYTES]) -> Option<u16> {
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    (u32::from(ethertype) == registers.load(regs::VET) & 0xFFFF)
        .then(|| u16::from_be_bytes([header[14], header[15]]))
}

/// The four bytes to put behind the addresses of a frame that is sent with `special`, if the guest
/// has switched VLANs on.
#[must_use]
pub fn insert(registers: &Registers, special: u16) -> Option<[u8; TAG_BYTES]> {
    let ctrl = Ctrl::from_bits_retain(registers.load(regs::CTRL));
    let [t0, t1] = (registers.load(regs::VET) as u16).to_be_bytes();
    let [s0, s1] = special.to_be_bytes();
    ctrl.contains(Ctrl::VME).then_some([t0, t1, s0, s1])
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
