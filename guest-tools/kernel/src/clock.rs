//! Time: the TSC, whose frequency the hypervisor tells (CPUID leaf 0x40000010) or the interval
//! timer (8254, channel 2) shows.

use crate::arch::{inb, outb, tsc};

unsafe extern "C" {
    static tsc_khz: u32;
}

/// 8254: input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Ticks to count while measuring: 5 ms.
const PIT_TICKS: u16 = 5966;

/// Converts the TSC to nanoseconds by a multiplication: ns = tsc * mult / 2^32.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    mult: u64,
}

impl Clock {
    /// Asks the hypervisor, or measures.
    pub fn new() -> Self {
        // SAFETY: boot.s wrote it once, before any Rust ran.
        let told = unsafe { (&raw const tsc_khz).read_volatile() };
        let khz = if told != 0 { u64::from(told) } else { measure_khz() };
        Self { mult: (1_000_000u64 << 32) / khz.max(1) }
    }

    /// Nanoseconds since the TSC was zero.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        ((u128::from(tsc()) * u128::from(self.mult)) >> 32) as u64
    }
}

fn measure_khz() -> u64 {
    // Gate of channel 2 on, speaker off; mode 0 (output rises at terminal count), low byte first.
    outb(0x61, inb(0x61) & !0x02 | 0x01);
    outb(0x43, 0xb0);
    outb(0x42, PIT_TICKS as u8);
    outb(0x42, (PIT_TICKS >> 8) as u8);
    let start = tsc();
    while inb(0x61) & 0x20 == 0 {}
    (tsc() - start) * PIT_HZ / (u64::from(PIT_TICKS) * 1000)
}
