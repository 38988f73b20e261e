//! The register file: one atomic word per register, shared by the vCPU thread, which writes what the
//! guest writes, and the engines, which read their rings' registers and write heads.
//!
//! Invariant: a word never has bits set that the table (`e1000pv::regs`) does not let it have, unless
//! the device itself stored them. There is no lock: a register is one word, and what belongs together
//! (a ring's base, length and indices) is copied out by its engine and checked as a whole.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use e1000pv::regs::{self, END, Register, TABLE};

const WORDS: usize = END as usize / 4;

/// All registers of one device.
pub struct Registers {
    words: Box<[AtomicU32; WORDS]>,
}

fn offsets() -> impl Iterator<Item = u32> {
    TABLE.iter().flat_map(|r| (0..r.count).map(|index| r.offset + index * r.stride))
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = TABLE.iter().filter(|r| r.count == 1).map(|r| (r.name, self.load(r.offset)));
        f.debug_map().entries(rows.filter(|(_, value)| *value != 0)).finish()
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

impl Registers {
    /// Registers as after power-on.
    #[must_use]
    pub fn new() -> Self {
        let words: Box<[AtomicU32]> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
        let words = words.try_into().expect("that many were made");
        let registers = Self { words };
        registers.reset();
        registers
    }

    /// All registers to their values after reset; the statistics are not here.
    pub fn reset(&self) {
        for r in TABLE {
            for index in 0..r.count {
                self.store(r.offset + index * r.stride, r.reset);
            }
        }
    }

    /// A register's value. Acquire pairs with the Release in `store`: whoever sees a tail sees what
    /// its writer did before, such as filling in descriptors.
    ///
    /// # Panics
    /// Beyond the last register; offsets from the guest go through `e1000pv::regs::lookup` first.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, offset: u32) -> u32 {
        self.words[offset as usize / 4].load(Ordering::Acquire)
    }

    /// Stores what the device decided.
    ///
    /// # Panics
    /// As `load`.
    #[inline(always)]
    pub fn store(&self, offset: u32, value: u32) {
        self.words[offset as usize / 4].store(value, Ordering::Release);
    }

    /// The values of all registers, in the order of the table.
    pub fn save(&self) -> Vec<u32> {
        offsets().map(|offset| self.load(offset)).collect()
    }

    /// Takes values as `save` gives them over. False: they are not as many.
    #[must_use]
    pub fn restore(&self, values: &[u32]) -> bool {
        let fits = values.len() == offsets().count();
        if fits {
            offsets().zip(values).for_each(|(offset, value)| self.store(offset, *value));
        }
        fits
    }

    /// Stores what the guest wrote, as far as the register lets it, and returns the new value.
    pub fn write(&self, register: &Register, offset: u32, value: u32) -> u32 {
        let kept = self.load(offset) & !register.writable;
        let new = kept | value & register.writable;
        self.store(offset, new);
        new
    }

    /// Element `index` of an array of registers.
    #[inline]
    #[must_use]
    pub fn element(&self, base: u32, stride: u32, index: u32) -> u32 {
        self.load(base + index * stride)
    }

    /// Receive address `index`.
    #[inline]
    #[must_use]
    pub fn receive_address(&self, index: u32) -> ReceiveAddress {
        let low = self.element(regs::RAL, 8, index);
        let high = self.element(regs::RAH, 8, index);
        ReceiveAddress { address: u64::from(low) | u64::from(high & 0xFFFF) << 32, high }
    }
}

/// An entry of the table of receive addresses, RAL and RAH.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveAddress {
    /// The six bytes as the low 48 bits, first byte lowest.
    pub address: u64,
    /// RAH, whose flags say what the address is for.
    pub high: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_gives_the_tables_values() {
        let registers = Registers::new();
        registers.store(regs::RCTL, 2);
        registers.store(regs::MTA + 4 * 127, 7);
        registers.reset();
        for r in TABLE {
            assert_eq!(registers.load(r.offset + (r.count - 1) * r.stride), r.reset, "{}", r.name);
        }
    }

    #[test]
    fn write_changes_writable_bits_only() {
        let registers = Registers::new();
        let row = regs::lookup(regs::PBA).unwrap().register;
        registers.write(row, regs::PBA, 0xFFFF_FF10);
        assert_eq!(registers.load(regs::PBA), 0x0010_0010);
    }
}
