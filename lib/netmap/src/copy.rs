//! Copying packets between shared buffers, with the widest moves the CPU has.
//!
//! Invariant: the copies are written in assembly, which the compiler treats as opaque. So a peer
//! that changes the source meanwhile yields a packet of mixed bytes (its own fault), never
//! undefined behaviour. Whole 64-byte lines are copied, as VALE does: buffers are a multiple of 64
//! long and 64-byte aligned (`mem::STRIDE`), so the surplus stays within the buffer.

use std::arch::asm;

/// A way to move lines, chosen once per batch.
pub trait Isa {
    /// Copies `lines` * 64 bytes.
    ///
    /// # Safety
    /// The CPU has the instructions; both ranges are mapped and `dst` writable; `lines > 0`.
    unsafe fn lines(dst: *mut u8, src: *const u8, lines: usize);
    /// Copies exactly `len` bytes from `src`. What follows them in the last line of `dst` (counted from
    /// `dst`) may be overwritten with zeros, never with what follows at `src`.
    ///
    /// # Safety
    /// The CPU has the instructions; `len` bytes at `src` are mapped, `dst` is mapped and writable up to
    /// the next multiple of 64.
    #[inline(always)]
    unsafe fn packet(dst: *mut u8, src: *const u8, len: usize)
    where
        Self: Sized,
    {
        // SAFETY: the caller's conditions.
        unsafe { exact::<Self>(dst, src, len) };
    }
    /// Call once after a batch: leaves no dirty upper halves behind.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn end() {}
}

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

/// Copies exactly `len` bytes: for sources that are not whole lines (indirect buffers).
///
/// # Safety
/// Both ranges are mapped, `dst` writable, and they do not overlap. (If they do, the bytes copied are
/// some mixture.)
#[inline]
pub unsafe fn bytes(dst: *mut u8, src: *const u8, len: usize) {
    if (16..=SHORT).contains(&len) {
        // SAFETY: the caller's conditions.
        unsafe { short(dst, src, len) };
    } else {
        // SAFETY: the caller's conditions.
        unsafe { string(dst, src, len) };
    }
}

/// [`Isa::packet`] for those who look at the kind per packet: a branch that is always the same.
///
/// # Safety
/// As `Isa::packet`; `kind` is what [`detect`] said.
#[inline(always)]
pub unsafe fn packet(kind: Kind, dst: *mut u8, src: *const u8, len: usize) {
    if kind == Kind::Avx512 {
        // SAFETY: the caller's conditions.
        unsafe { Avx512::packet(dst, src, len) };
    } else {
        // SAFETY: the caller's conditions, of which this needs less.
        unsafe { bytes(dst, src, len) };
    }
}

/// Copies exactly `len` bytes with `I`'s moves: long packets from sources that are not whole lines.
///
/// # Safety
/// As `bytes`; the CPU has the instructions.
#[inline(always)]
pub unsafe fn exact<I: Isa>(dst: *mut u8, src: *const u8, len: usize) {
    if len < 64 {
        // SAFETY: the caller's conditions.
        return unsafe { bytes(dst, src, len) };
    }
    // SAFETY: so many whole lines are not more than `len` bytes.
    unsafe { I::lines(dst, src, len / 64) };
    if !len.is_multiple_of(64) {
        let last = len - 64;
        // SAFETY: the last 64 of at least 64 bytes; some of them are copied again.
        unsafe { I::lines(dst.wrapping_add(last), src.wrapping_add(last), 1) };
    }
}

/// Up to here a loop of 16-byte moves is faster than a string instruction, which takes some ten
/// nanoseconds to begin (measured with the data path of a virtual NIC: 60-byte packets).
const SHORT: usize = 256;

/// # Safety
/// As `bytes`; `len` is at least 16.
#[inline(always)]
unsafe fn short(dst: *mut u8, src: *const u8, len: usize) {
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

/// # Safety
/// As `bytes`.
#[inline(always)]
unsafe fn string(dst: *mut u8, src: *const u8, len: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check<I: Isa>() {
        for n in [1usize, 2, 3, 24, 33] {
            let src: Vec<u8> = (0..n * 64).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut dst = vec![0u8; n * 64 + 64];
            // SAFETY: the vectors hold n lines; the caller checked the CPU.
            unsafe { I::lines(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n * 64], &src[..]);
            assert!(dst[n * 64..].iter().all(|&b| b == 0));
        }
        for n in [0usize, 15, 16, 60, 63, 64, 65, 127, 128, 1514] {
            let src: Vec<u8> = (0..n).map(|i| (i * 7) as u8 | 1).collect();
            let mut dst = vec![0u8; n + 64];
            // SAFETY: the vectors hold n bytes; the caller checked the CPU.
            unsafe { exact::<I>(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n], &src[..]);
            assert!(dst[n..].iter().all(|&b| b == 0));
            dst.fill(0);
            // SAFETY: the source holds n bytes, the destination 64 more; the caller checked the CPU.
            unsafe { I::packet(dst.as_mut_ptr(), src.as_ptr(), n) };
            // SAFETY: as above.
            unsafe { I::end() };
            assert_eq!(&dst[..n], &src[..]);
            assert!(dst[n..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn lines_every_isa_copies_exactly() {
        check::<Sse2>();
        if std::arch::is_x86_feature_detected!("avx") {
            check::<Avx>();
        }
        let has_avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("bmi2");
        if has_avx512 {
            check::<Avx512>();
        }
    }

    #[test]
    fn bytes_any_length_copies_exactly() {
        for n in (0..=300usize).chain([1514]) {
            let src: Vec<u8> = (0..n).map(|i| i as u8 ^ 0x5a).collect();
            let mut dst = vec![0u8; n + 1];
            // SAFETY: both vectors hold n bytes.
            unsafe { bytes(dst.as_mut_ptr(), src.as_ptr(), n) };
            assert_eq!(&dst[..n], &src[..]);
            assert_eq!(dst[n], 0);
        }
    }
}
