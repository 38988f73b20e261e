//! x86-64: loads, stores and copies in assembly, prefetches, and what this CPU has.
//!
//! Registers that the compiler does not know of (AVX and AVX-512) are used without telling it, because
//! the crate is compiled for the base instruction set and the extensions are chosen at run time.

use std::arch::asm;

use crate::copy::Isa;

/// 64-byte moves. Registers 16 and up have no SSE half, so nothing needs clearing afterwards.
#[derive(Debug)]
pub struct Avx512;
/// 32-byte moves.
#[derive(Debug)]
pub struct Avx;
/// 16-byte moves: every x86-64.
#[derive(Debug)]
pub struct Sse2;

impl Isa for Avx512 {
    #[inline(always)]
    unsafe fn lines(dst: *mut u8, src: *const u8, lines: usize) {
        // SAFETY: per the trait's contract; flags, zmm16 and three scratch registers change.
        unsafe {
            asm!(
                "2:",
                "vmovdqu64 zmm16, [{s}]",
                "vmovdqu64 [{d}], zmm16",
                "add {s}, 64",
                "add {d}, 64",
                "dec {n}",
                "jnz 2b",
                s = inout(reg) src => _,
                d = inout(reg) dst => _,
                n = inout(reg) lines => _,
                options(nostack),
            );
        }
    }

    /// A packet's last line is one masked load and one whole store. Several shorter stores to a line
    /// that another core has would each take a place in the store queue until it comes: measured
    /// 19 against 26 Mpps between two virtual machines (60-byte packets).
    #[inline(always)]
    unsafe fn packet(dst: *mut u8, src: *const u8, len: usize) {
        let (lines, rest) = (len / 64, len % 64);
        if lines > 0 {
            // SAFETY: the caller's conditions; whole lines are part of the packet.
            unsafe { Self::lines(dst, src, lines) };
        }
        if rest > 0 {
            // SAFETY: per the trait's contract; masked bytes are not read. Flags, zmm16, k1 and a scratch
            // register change; the crate is compiled without AVX-512, so nobody else uses the first two.
            unsafe {
                asm!(
                    "mov {mask}, -1",
                    "bzhi {mask}, {mask}, {rest}",
                    "kmovq k1, {mask}",
                    "vmovdqu8 zmm16{{k1}}{{z}}, [{s}]",
                    "vmovdqu64 [{d}], zmm16",
                    s = in(reg) src.wrapping_add(64 * lines),
                    d = in(reg) dst.wrapping_add(64 * lines),
                    rest = in(reg) rest,
                    mask = out(reg) _,
                    options(nostack),
                );
            }
        }
    }
}

impl Isa for Avx {
    #[inline(always)]
    unsafe fn lines(dst: *mut u8, src: *const u8, lines: usize) {
        // SAFETY: per the trait's contract; flags, ymm0-1 and three scratch registers change.
        unsafe {
            asm!(
                "2:",
                "vmovdqu ymm0, [{s}]",
                "vmovdqu ymm1, [{s} + 32]",
                "vmovdqu [{d}], ymm0",
                "vmovdqu [{d} + 32], ymm1",
                "add {s}, 64",
                "add {d}, 64",
                "dec {n}",
                "jnz 2b",
                s = inout(reg) src => _,
                d = inout(reg) dst => _,
                n = inout(reg) lines => _,
                out("xmm0") _, out("xmm1") _,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: clears the upper halves only; no caller keeps values there across this call,
        // because the crate is compiled without AVX.
        unsafe { asm!("vzeroupper", options(nostack, nomem, preserves_flags)) };
    }
}

impl Isa for Sse2 {
    #[inline(always)]
    unsafe fn lines(dst: *mut u8, src: *const u8, lines: usize) {
        // SAFETY: per the trait's contract; flags, xmm0-3 and three scratch registers change.
        unsafe {
            asm!(
                "2:",
                "movdqu xmm0, [{s}]",
                "movdqu xmm1, [{s} + 16]",
                "movdqu xmm2, [{s} + 32]",
                "movdqu xmm3, [{s} + 48]",
                "movdqu [{d}], xmm0",
                "movdqu [{d} + 16], xmm1",
                "movdqu [{d} + 32], xmm2",
                "movdqu [{d} + 48], xmm3",
                "add {s}, 64",
                "add {d}, 64",
                "dec {n}",
                "jnz 2b",
                s = inout(reg) src => _,
                d = inout(reg) dst => _,
                n = inout(reg) lines => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                options(nostack),
            );
        }
    }
}

/// Which implementation this CPU gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64-byte moves.
    Avx512,
    /// 32-byte moves.
    Avx,
    /// 16-byte moves.
    Sse2,
}

/// Asks the CPU, once per handle.
#[must_use]
pub fn detect() -> Kind {
    let has_avx512 = std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("bmi2");
    if has_avx512 {
        Kind::Avx512
    } else if std::arch::is_x86_feature_detected!("avx") {
        Kind::Avx
    } else {
        Kind::Sse2
    }
}

/// Copies exactly `len` bytes by 16-byte moves.
///
/// # Safety
/// As `copy::bytes`; `len` is at least 16.
#[inline(always)]
pub(crate) unsafe fn short(dst: *mut u8, src: *const u8, len: usize) {
    // The last 16 bytes may overlap what the loop has copied, and are the same bytes.
    let last = len - 16;
    // SAFETY: offsets run from 0 to `last` in the loop and to `last + 16` in the last move.
    unsafe {
        asm!(
            "movdqu {v}, [{s} + {last}]",
            "xor {at:e}, {at:e}",
            "test {last}, {last}",
            "jz 3f",
            "2:",
            "movdqu {w}, [{s} + {at}]",
            "movdqu [{d} + {at}], {w}",
            "add {at}, 16",
            "cmp {at}, {last}",
            "jb 2b",
            "3:",
            "movdqu [{d} + {last}], {v}",
            s = in(reg) src,
            d = in(reg) dst,
            last = in(reg) last,
            at = out(reg) _,
            v = out(xmm_reg) _,
            w = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies exactly `len` bytes by a string instruction.
///
/// # Safety
/// As `copy::bytes`.
#[inline(always)]
pub(crate) unsafe fn string(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `rep movsb` copies `len` bytes upwards; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            inout("rsi") src => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Fetches the line at `p` for writing, ahead of a store to it. Any address will do.
#[inline(always)]
pub fn prefetch_write(p: *const u8) {
    // SAFETY: a prefetch never faults and changes no state that the program can see.
    unsafe { asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) };
}

/// Fetches the line at `p` for reading. Any address will do.
#[inline(always)]
pub fn prefetch_read(p: *const u8) {
    // SAFETY: as above.
    unsafe { asm!("prefetcht0 [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) };
}

macro_rules! load {
    ($name:ident, $t:ty, $ins:literal) => {
        /// A load that the compiler does not see through: whoever writes the bytes meanwhile decides
        /// whether the old or the new ones come.
        ///
        /// # Safety
        /// The bytes are mapped.
        #[inline(always)]
        pub(crate) unsafe fn $name(from: *const u8) -> $t {
            let value: $t;
            // SAFETY: the caller's condition; a load has no other effect.
            unsafe {
                asm!($ins, out(reg) value, in(reg) from, options(nostack, readonly, preserves_flags));
            }
            value
        }
    };
}

load!(load_u16, u16, "mov {0:x}, [{1}]");
load!(load_u32, u32, "mov {0:e}, [{1}]");
load!(load_u64, u64, "mov {0}, [{1}]");

/// Two loads of eight bytes, the second so many bytes behind the first, in one piece of assembly: they may overlap, and
/// nothing is put between them.
///
/// # Safety
/// The eight bytes at `from` and those at `from + APART` are mapped.
#[inline(always)]
pub unsafe fn load_two_u64<const APART: usize>(from: *const u8) -> (u64, u64) {
    let (one, other): (u64, u64);
    // SAFETY: the caller's condition; loads have no other effect.
    unsafe {
        asm!(
            "mov {one}, [{p}]",
            "mov {other}, [{p} + {apart}]",
            one = out(reg) one,
            other = out(reg) other,
            p = in(reg) from,
            apart = const APART,
            options(nostack, readonly, preserves_flags),
        );
    }
    (one, other)
}

/// A store that the compiler does not see through.
///
/// # Safety
/// The eight bytes are mapped and writable.
#[inline(always)]
pub(crate) unsafe fn store_u64(to: *mut u8, value: u64) {
    // SAFETY: the caller's condition.
    unsafe { asm!("mov [{}], {}", in(reg) to, in(reg) value, options(nostack, preserves_flags)) };
}
