//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3), so that a change
//! of a field costs a few additions whatever the packet's length.

/// Ones-complement sum of the 16-bit big-endian words; an odd last byte is padded with zero. Sums of
/// parts can be added as long as all parts but the last have even length.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, last) = bytes.as_chunks::<2>();
    let sum: u64 = words.iter().map(|&word| u64::from(u16::from_be_bytes(word))).sum();
    sum + last.first().map_or(0, |&byte| u64::from(byte) << 8)
}

/// Folds the carries of a sum and complements it: the value of a checksum field.
pub fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum after bytes that it covers changed from `old` to `new`. Both have the same even length
/// and begin at an even offset of what is covered.
pub fn update(check: u16, old: &[u8], new: &[u8]) -> u16 {
    let (old, new) = (old.as_chunks::<2>().0, new.as_chunks::<2>().0);
    let mut sum = u64::from(!check);
    for (old, new) in old.iter().zip(new) {
        sum += u64::from(!u16::from_be_bytes(*old)) + u64::from(u16::from_be_bytes(*new));
    }
    finish(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(finish(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), !0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    #[test]
    fn example_of_rfc_1624() {
        // HC 0xdd2f, m 0x5555 to 0x3285: HC' must be 0, the case that equation 2 gets wrong.
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    proptest! {
        #[test]
        fn update_equals_a_new_computation(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64),
            new in any::<[u8; 4]>(),
            at in 0usize..2,
        ) {
            // An all-zero input has two representations of zero; a header never is one.
            bytes[6] = 0x45;
            let check = finish(sum(&bytes));
            let old = [bytes[at * 2], bytes[at * 2 + 1], bytes[at * 2 + 2], bytes[at * 2 + 3]];
            bytes[at * 2..at * 2 + 4].copy_from_slice(&new);
            bytes[6] = 0x45;
            let new = [bytes[at * 2], bytes[at * 2 + 1], bytes[at * 2 + 2], bytes[at * 2 + 3]];
            prop_assert_eq!(update(check, &old, &new), finish(sum(&bytes)));
        }
    }
}
