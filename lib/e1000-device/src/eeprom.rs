//! The EEPROM: 64 words read through EERD, or bit by bit through EECD as a Microwire device (8254x
//! manual, sections 5.3, 13.4.3 and 13.4.4).
//!
//! ```text
//!   CS up, then on each rising edge of SK:  DI  1 | 1 0 | a5 .. a0 |
//!                                           DO                     0 | d15 .. d0 | next word
//! ```
//!
//! Invariant: the contents never change. Commands other than read are shifted in and not answered, so a driver
//! that tries to write reports that the write failed.

use e1000pv::bits::{Eecd, Eerd};
use e1000pv::eeprom::{self, WORDS};
use e1000pv::pci;

use crate::state::{self, BadState, Phase};

/// Bits of an address.
const ADDRESS_BITS: u32 = 6;
/// The opcode of a read, after the start bit.
const OPCODE_READ: u32 = 0b10;

/// The EEPROM of one device.
#[derive(Debug)]
pub struct Eeprom {
    words: [u16; WORDS],
    pins: Eecd,
    phase: Phase,
}

impl Eeprom {
    /// One for this address; `paravirt`: of a device that offers the CSB.
    #[must_use]
    pub fn new(mac: [u8; 6], paravirt: bool) -> Self {
        let subsystem = if paravirt { pci::SUBSYSTEM_PARAVIRT } else { pci::SUBSYSTEM_PLAIN };
        Self {
            words: eeprom::image(mac, subsystem, pci::VENDOR_ID),
            pins: Eecd::empty(),
            phase: Phase::Start,
        }
    }

    /// The address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        eeprom::mac(&self.words)
    }

    /// Pins low, no command begun.
    pub fn reset(&mut self) {
        self.pins = Eecd::empty();
        self.phase = Phase::Start;
    }

    /// Pins and command.
    pub fn save(&self) -> state::Eeprom {
        state::Eeprom { pins: self.pins.bits(), phase: self.phase }
    }

    /// Restores what `save` returned.
    pub fn restore(&mut self, from: &state::Eeprom) -> Result<(), BadState> {
        let possible = match from.phase {
            Phase::Command { bits, .. } => bits < 2 + ADDRESS_BITS,
            Phase::Read { left, .. } => (1..=16).contains(&left),
            Phase::Start | Phase::Ignored => true,
        };
        if !possible {
            return Err(BadState("the command to the EEPROM"));
        }
        (self.pins, self.phase) = (Eecd::from_bits_retain(from.pins), from.phase);
        Ok(())
    }

    fn word(&self, address: u32) -> u16 {
        self.words[address as usize % WORDS]
    }

    /// EERD is written: its new value. A read is done at once.
    #[must_use]
    pub fn write_eerd(&self, value: u32) -> u32 {
        let eerd = Eerd::from_bits_retain(value);
        if !eerd.contains(Eerd::START) {
            return value & !Eerd::DONE.bits();
        }
        Eerd::done(eerd.address(), self.word(eerd.address()))
    }

    /// EECD is read.
    #[must_use]
    pub fn read_eecd(&self) -> u32 {
        let granted = if self.pins.contains(Eecd::EE_REQ) { Eecd::EE_GNT } else { Eecd::empty() };
        (self.pins | granted | Eecd::EE_PRES).bits()
    }

    /// EECD is written.
    pub fn write_eecd(&mut self, value: u32) {
        const INPUTS: u32 = Eecd::SK.bits()
            | Eecd::CS.bits()
            | Eecd::DI.bits()
            | 0x30 // FWE: flash writes, of which there are none
            | Eecd::EE_REQ.bits();
        let before = self.pins;
        let output = before & Eecd::DO;
        self.pins = Eecd::from_bits_retain(value & INPUTS) | output;
        if !self.pins.contains(Eecd::CS) {
            self.phase = Phase::Start;
            self.pins.remove(Eecd::DO);
        } else if self.pins.contains(Eecd::SK) && !before.contains(Eecd::SK) {
            let input = self.pins.contains(Eecd::DI);
            self.clock(input);
        }
    }

    /// A rising edge of SK while selected.
    fn clock(&mut self, input: bool) {
        let mut output = false;
        self.phase = match self.phase {
            Phase::Start if input => Phase::Command { bits: 0, shifted: 0 },
            Phase::Start => Phase::Start,
            Phase::Command { bits, shifted } => {
                let shifted = shifted << 1 | u32::from(input);
                if bits + 1 < 2 + ADDRESS_BITS {
                    Phase::Command { bits: bits + 1, shifted }
                } else if shifted >> ADDRESS_BITS == OPCODE_READ {
                    // DO is 0 now: the dummy bit in front of the data.
                    Phase::Read { word: shifted & ((1 << ADDRESS_BITS) - 1), left: 16 }
                } else {
                    Phase::Ignored
                }
            }
            Phase::Read { word, left } => {
                output = self.word(word) >> (left - 1) & 1 != 0;
                match left - 1 {
                    0 => Phase::Read { word: (word + 1) % WORDS as u32, left: 16 },
                    left => Phase::Read { word, left },
                }
            }
            Phase::Ignored => Phase::Ignored,
        };
        self.pins.set(Eecd::DO, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0x12, 0x34, 0x56];

    fn clock(e: &mut Eeprom, bit: bool) -> bool {
        let di = if bit { Eecd::DI } else { Eecd::empty() };
        e.write_eecd((Eecd::CS | di).bits());
        e.write_eecd((Eecd::CS | di | Eecd::SK).bits());
        let out = e.read_eecd() & Eecd::DO.bits() != 0;
        e.write_eecd((Eecd::CS | di).bits());
        out
    }

    /// As drivers do it: standby, opcode 110b in three bits, six bits of address, sixteen of data.
    fn bit_bang(e: &mut Eeprom, opcode: u32, address: u32) -> u16 {
        e.write_eecd(0);
        for i in (0..3).rev() {
            clock(e, opcode >> i & 1 != 0);
        }
        for i in (0..6).rev() {
            clock(e, address >> i & 1 != 0);
        }
        (0..16).fold(0, |word, _| word << 1 | u16::from(clock(e, false)))
    }

    #[test]
    fn both_ways_of_reading_give_the_same_words_and_the_checksum() {
        let mut e = Eeprom::new(MAC, true);
        let mut sum = 0_u16;
        for address in 0..64 {
            let word = bit_bang(&mut e, 0b110, address);
            let eerd = e.write_eerd(address << 8 | Eerd::START.bits());
            assert_eq!(eerd, Eerd::done(address, word), "{address:#x}");
            sum = sum.wrapping_add(word);
        }
        assert_eq!(sum, eeprom::CHECKSUM);
        assert_eq!(bit_bang(&mut e, 0b110, 0), 0x0002);
    }

    #[test]
    fn read_goes_on_with_the_next_word() {
        let mut e = Eeprom::new(MAC, true);
        let first = bit_bang(&mut e, 0b110, 1);
        let second = (0..16).fold(0, |word, _| word << 1 | u16::from(clock(&mut e, false)));
        assert_eq!((first, second), (e.word(1), e.word(2)));
    }

    #[test]
    fn commands_that_write_are_silent_and_change_nothing() {
        let mut e = Eeprom::new(MAC, false);
        for opcode in [0b100, 0b101, 0b111] {
            assert_eq!(bit_bang(&mut e, opcode, 0), 0);
        }
        assert_eq!(bit_bang(&mut e, 0b110, 0x3F), e.word(0x3F));
        assert_eq!(e.mac(), MAC);
    }

    #[test]
    fn request_is_granted_while_it_lasts() {
        let mut e = Eeprom::new(MAC, true);
        e.write_eecd(Eecd::EE_REQ.bits());
        assert_ne!(e.read_eecd() & Eecd::EE_GNT.bits(), 0);
        e.write_eecd(0);
        assert_eq!(e.read_eecd() & Eecd::EE_GNT.bits(), 0);
    }

    #[test]
    fn eerd_without_start_does_nothing_and_addresses_wrap() {
        let e = Eeprom::new(MAC, true);
        assert_eq!(e.write_eerd(0x100) & Eerd::DONE.bits(), 0);
        assert_eq!(e.write_eerd(0x4001) >> 16, u32::from(e.word(0)));
    }
}
