//! Register accesses: of any width at any offset, through BAR0 or through BAR1's window (8254x
//! manual, sections 13.2 and 13.4).
//!
//! An access is cut into the registers that it touches, in ascending order. A read reads each of them
//! once, as a whole, with its side effects (`effects`), and takes the bytes asked for. A write that covers a
//! register in part leaves the other bytes as they are; where a register's write is a command (ICS,
//! IMC, ...), they count as 0. What is in no register reads 0 and ignores writes. The manual only
//! defines aligned 32-bit accesses; all others are counted as bad, but for 64-bit ones to pairs.

use std::ops::Range;
use std::sync::atomic::Ordering;

use e1000pv::regs;

use crate::counters::Count;
use crate::device::E1000;
use crate::memory::GuestMemory;
use crate::port::NetPort;

/// The part of an access that lies within one register.
struct Part {
    /// Offset of the register.
    register: u32,
    /// The first byte of the register that is accessed.
    first: usize,
    /// Which of the access's bytes these are.
    bytes: Range<usize>,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.bytes.len() == 4
    }
}

/// Cuts an access into registers. What lies beyond all registers is left out.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset.checked_add(done as u64)?;
        if done >= len || at >= u64::from(regs::END) {
            return None;
        }
        let first = (at % 4) as usize;
        let n = (4 - first).min(len - done);
        let part = Part { register: at as u32 & !3, first, bytes: done..done + n };
        done += n;
        Some(part)
    })
}

impl<M: GuestMemory, P: NetPort> E1000<M, P> {
    /// The guest reads through BAR0.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        self.core.counters.bump(Count::RegisterAccesses, 1);
        data.fill(0);
        let mut bad = !data.len().is_multiple_of(4) || offset >= u64::from(regs::END);
        for part in parts(offset, data.len()) {
            let value = self.read_register(part.register);
            bad |= !part.is_whole() || value.is_none();
            let bytes = value.unwrap_or(0).to_le_bytes();
            let n = part.bytes.len();
            data[part.bytes].copy_from_slice(&bytes[part.first..part.first + n]);
        }
        self.count_bad(bad);
    }

    /// The guest writes through BAR0.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) {
        self.core.counters.bump(Count::RegisterAccesses, 1);
        let mut bad = !data.len().is_multiple_of(4) || offset >= u64::from(regs::END);
        for part in parts(offset, data.len()) {
            bad |= !part.is_whole();
            let mut bytes = [0; 4];
            let mut lanes = [0; 4];
            let n = part.bytes.len();
            bytes[part.first..part.first + n].copy_from_slice(&data[part.bytes]);
            lanes[part.first..part.first + n].fill(0xFF);
            let (value, lanes) = (u32::from_le_bytes(bytes), u32::from_le_bytes(lanes));
            bad |= !self.write_register(part.register, value, lanes);
        }
        self.count_bad(bad);
    }

    /// The guest reads through BAR1: IOADDR, or the register that it names.
    pub fn io_read(&self, offset: u64, data: &mut [u8]) {
        let address = u64::from(self.io_address.load(Ordering::Relaxed));
        match offset {
            0..4 => {
                let bytes = (address as u32).to_le_bytes();
                data.fill(0);
                let from = &bytes[offset as usize..];
                let n = from.len().min(data.len());
                data[..n].copy_from_slice(&from[..n]);
            }
            4..8 => self.mmio_read(address + offset - 4, data),
            _ => {
                data.fill(0);
                self.count_bad(true);
            }
        }
    }

    /// The guest writes through BAR1.
    pub fn io_write(&self, offset: u64, data: &[u8]) {
        let address = self.io_address.load(Ordering::Relaxed);
        match offset {
            0..4 => {
                let mut bytes = address.to_le_bytes();
                let to = &mut bytes[offset as usize..];
                let n = to.len().min(data.len());
                to[..n].copy_from_slice(&data[..n]);
                self.io_address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            }
            4..8 => self.mmio_write(u64::from(address) + offset - 4, data),
            _ => self.count_bad(true),
        }
    }

    fn count_bad(&self, bad: bool) {
        if bad {
            self.core.counters.bump(Count::BadAccesses, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_cut_at_register_boundaries() {
        let cut = |offset, len| {
            parts(offset, len).map(|p| (p.register, p.first, p.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(cut(8, 4), [(8, 0, 0..4)]);
        assert_eq!(cut(6, 4), [(4, 2, 0..2), (8, 0, 2..4)]);
        assert_eq!(cut(3, 1), [(0, 3, 0..1)]);
        assert_eq!(cut(8, 8), [(8, 0, 0..4), (12, 0, 4..8)]);
        assert_eq!(cut(u64::from(regs::END) - 2, 8), [(regs::END - 4, 2, 0..2)]);
        assert_eq!(cut(u64::MAX - 1, 8), []);
        assert_eq!(cut(0, 0), []);
    }
}
