//! The registers that govern reception, and the results, of one slice.

use e1000pv::bits::{Ctrl, Rah, Rctl, Rxcsum};
use e1000pv::regs;

use crate::core::Core;
use crate::memory::GuestMemory;
use crate::offload;
use crate::sizes::CRC_BYTES;
use crate::stats::Tally;

/// What the registers say, copied once per slice.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    /// RCTL.
    pub rctl: Rctl,
    /// RXCSUM.
    pub rxcsum: Rxcsum,
    /// Tags are stripped.
    pub strips_tags: bool,
    /// Bytes of a buffer.
    pub buffer_bytes: usize,
    /// Bytes that follow each frame.
    pub crc_bytes: usize,
    /// An address filter compares source addresses.
    by_source: bool,
}

impl Modes {
    /// Looks at them.
    pub fn of<M: GuestMemory>(core: &Core<M>) -> Self {
        let reg = |offset| core.registers.load(offset);
        let rctl = Rctl::from_bits_retain(reg(regs::RCTL));
        Self {
            rctl,
            rxcsum: Rxcsum::from_bits_retain(reg(regs::RXCSUM)),
            strips_tags: Ctrl::from_bits_retain(reg(regs::CTRL)).contains(Ctrl::VME),
            buffer_bytes: rctl.buffer_bytes() as usize,
            crc_bytes: if rctl.contains(Rctl::SECRC) { 0 } else { CRC_BYTES },
            by_source: (0..regs::RA_COUNT).any(|index| {
                let high = core.registers.receive_address(index).high;
                high & (Rah::AV | Rah::ASEL_SOURCE).bits() == (Rah::AV | Rah::ASEL_SOURCE).bits()
            }),
        }
    }

    /// Whether more of a frame than its length and destination matters.
    pub fn looks_inside(&self) -> bool {
        self.strips_tags
            || self.by_source
            || self.rctl.contains(Rctl::VFE)
            || offload::checks(self.rxcsum)
    }
}

/// The results of a slice.
#[derive(Debug, Default)]
pub struct Work {
    /// Delivered packets.
    pub tally: Tally,
    /// Slots processed.
    pub slots: usize,
    /// Packets processed.
    pub packets: u32,
    /// Of these, refused by the filters.
    pub filtered: u64,
    /// Of these, malformed; and descriptors with addresses outside of memory.
    pub bad: u64,
}
