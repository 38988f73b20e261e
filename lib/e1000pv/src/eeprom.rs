//! The EEPROM's contents: 64 words, of which hardware and drivers read a few (8254x manual,
//! section 5.6).
//!
//! Invariant: the sum of all words is 0xBABA, which every driver verifies before it believes the
//! address.

/// Words of the EEPROM.
pub const WORDS: usize = 64;
/// What all words must add up to.
pub const CHECKSUM: u16 = 0xBABA;
/// Word that makes the sum come out.
pub const CHECKSUM_WORD: usize = 0x3F;

/// The image for a device with address `mac` and PCI subsystem identity `subsystem`.
#[must_use]
pub const fn image(mac: [u8; 6], subsystem: u16, subsystem_vendor: u16) -> [u16; WORDS] {
    let mut words = [0_u16; WORDS];
    let mut i = 0;
    while i < 3 {
        words[i] = u16::from_le_bytes([mac[2 * i], mac[2 * i + 1]]);
        i += 1;
    }
    // Compatibility bits: nothing that a driver would have to work around.
    words[0x03] = 0x0000;
    // No product board assembly number.
    words[0x08] = 0xFFFF;
    words[0x09] = 0xFFFF;
    // Initialization control word 1: signature 01b in bits 15:14, load both PCI ids from here.
    words[0x0A] = 0x4408 | 0x0003;
    words[0x0B] = subsystem;
    words[0x0C] = subsystem_vendor;
    words[0x0D] = crate::pci::DEVICE_ID;
    words[0x0E] = crate::pci::VENDOR_ID;
    // Initialization control word 2: full duplex, link by auto-negotiation.
    words[0x0F] = 0x3000;
    words[CHECKSUM_WORD] = CHECKSUM.wrapping_sub(sum(&words));
    words
}

/// The sum of all words; [`CHECKSUM`] when the image is whole.
#[must_use]
pub const fn sum(words: &[u16; WORDS]) -> u16 {
    let mut sum = 0_u16;
    let mut i = 0;
    while i < WORDS {
        sum = sum.wrapping_add(words[i]);
        i += 1;
    }
    sum
}

/// The address in an image.
#[must_use]
pub const fn mac(words: &[u16; WORDS]) -> [u8; 6] {
    let [a, b] = words[0].to_le_bytes();
    let [c, d] = words[1].to_le_bytes();
    let [e, f] = words[2].to_le_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_image_has_the_checksum_and_its_address(address: [u8; 6], subsystem: u16) {
            let words = image(address, subsystem, 0);
            prop_assert_eq!(sum(&words), CHECKSUM);
            prop_assert_eq!(mac(&words), address);
        }
    }
}
