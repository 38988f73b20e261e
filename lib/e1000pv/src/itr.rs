//! Units of the interrupt timers (8254x manual, sections 13.4.18, 13.4.30, 13.4.31, 13.4.41 and
//! 13.4.44).
//!
//! ITR counts in 256 ns, the four delay registers in 1.024 us; 0 switches each of them off.

/// One unit of ITR.
pub const ITR_UNIT_NS: u64 = 256;
/// One unit of RDTR, RADV, TIDV and TADV.
pub const DELAY_UNIT_NS: u64 = 1024;

/// The interval in ITR, in nanoseconds.
#[inline]
#[must_use]
pub const fn itr_ns(register: u32) -> u64 {
    (register & 0xFFFF) as u64 * ITR_UNIT_NS
}

/// The delay in RDTR, RADV, TIDV or TADV, in nanoseconds.
#[inline]
#[must_use]
pub const fn delay_ns(register: u32) -> u64 {
    (register & 0xFFFF) as u64 * DELAY_UNIT_NS
}

/// The value of ITR for at most `per_second` interrupts; 0 means without limit.
#[must_use]
pub const fn itr_for_rate(per_second: u32) -> u32 {
    if per_second == 0 {
        return 0;
    }
    let units = 1_000_000_000 / (per_second as u64 * ITR_UNIT_NS);
    if units > 0xFFFF { 0xFFFF } else { units as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_thousand_per_second_is_488_units() {
        assert_eq!(itr_for_rate(8000), 488);
        assert_eq!(itr_ns(488), 124_928);
        assert_eq!(itr_for_rate(0), 0);
        assert_eq!(itr_for_rate(1), 0xFFFF, "the slowest there is");
    }

    #[test]
    fn only_the_low_half_counts() {
        assert_eq!(itr_ns(0xFFFF_0001), 256);
        assert_eq!(delay_ns(0x8000_0002), 2048);
    }
}
