//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3), by which a change
//! of a field costs a few additions whatever the packet's length.
//!
//! Invariant: a sum is any number that equals the ones-complement sum of the 16-bit words modulo
//! 2^16 - 1, and is zero only if all words are. So sums may be added, and may be made of wider words
//! (RFC 1071, section 2): 2^16 is 1 in this arithmetic.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

/// The sum of the 16-bit big-endian words; an odd last byte is padded with zero. Sums of parts can be
/// added as long as all parts but the last have even length. Cannot overflow below 16 GiB.
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    // Four bytes at a time, for half of the additions.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words.iter().map(|&word| u64::from(u32::from_be_bytes(word))).sum();
    sum + u64::from(u32::from_be_bytes(last))
}

/// Folds the carries of a sum back into 16 bits. Of what contains a right checksum, 0xffff is left.
#[inline]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    // Without a loop: guests do this for each packet.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Folds a sum of 64-bit words to one that [`fold`] takes.
#[inline]
#[must_use]
pub fn fold_wide(sum: u128) -> u64 {
    let (low, carry) = (sum as u64).overflowing_add((sum >> 64) as u64);
    // A carry out leaves a small sum, so this one does not carry.
    low + u64::from(carry)
}

/// The value of a checksum field for a sum of all that it covers.
#[inline]
#[must_use]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The same in UDP, where a field of zero says that there is no checksum (RFC 768): a checksum of zero
/// is sent as all ones, which is the same number.
#[inline]
#[must_use]
pub const fn nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

/// The checksum after bytes that it covers changed from `old` to `new`. Both have the same even length
/// and begin at an even offset of what is covered.
#[inline]
#[must_use]
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
    extern crate std;
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    /// RFC 1071 to the letter: word by word, carries folded in at once.
    fn naive(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |sum: u16, word| {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&bytes)), !0xddf2);
        assert_eq!(fold(sum(&[0x12])), 0x1200);
    }

    #[test]
    fn example_of_rfc_1624() {
        // HC 0xdd2f, m 0x5555 to 0x3285: HC' must be 0, the case that equation 2 gets wrong.
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
        assert_eq!((nonzero(0), nonzero(1)), (0xffff, 1));
    }

    proptest! {
        #[test]
        fn sum_equals_the_naive_one_in_parts_of_even_length(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..100,
        ) {
            let (head, tail) = bytes.split_at((2 * at).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(head) + sum(tail)), naive(&bytes));
        }

        #[test]
        fn fold_keeps_the_number_and_only_zero_is_zero(sum in any::<u64>(), wide in any::<u128>()) {
            prop_assert_eq!(u64::from(fold(sum)) % 0xffff, sum % 0xffff);
            prop_assert_eq!(fold(sum) == 0, sum == 0);
            // The sum of at most 2^32 words of 64 bits.
            let wide = wide >> 32;
            prop_assert_eq!(u128::from(fold_wide(wide)) % 0xffff, wide % 0xffff);
        }

        #[test]
        fn words_of_the_other_byte_order_give_the_same_bytes(
            words in proptest::collection::vec(any::<u64>(), 1..40),
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let sum_of_words = words.iter().map(|&word| u128::from(word)).sum();
            prop_assert_eq!(fold(fold_wide(sum_of_words)).to_le_bytes(), fold(sum(&bytes)).to_be_bytes());
        }

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
