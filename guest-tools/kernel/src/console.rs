//! The first serial port (16550, COM1): text out, nothing in.

use core::fmt;

use crate::arch::{inb, outb};

const COM1: u16 = 0x3f8;
const LCR: u16 = COM1 + 3;
const LSR: u16 = COM1 + 5;
/// Transmitter holding register (and FIFO) empty.
const THRE: u8 = 1 << 5;
/// Bytes that fit in the empty FIFO: the line status is read once for so many.
const FIFO: usize = 16;

/// Writes to the serial port. Every byte is an exit from the virtual machine (20 us on software
/// KVM): for results and errors only.
#[derive(Debug)]
pub struct Console;

impl Console {
    /// 8 bits, no parity, FIFO on.
    pub fn init() {
        outb(LCR, 0x03);
        outb(COM1 + 2, 0x07);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for chunk in s.as_bytes().chunks(FIFO) {
            while inb(LSR) & THRE == 0 {
                core::hint::spin_loop();
            }
            for &byte in chunk {
                outb(COM1, byte);
            }
        }
        Ok(())
    }
}
