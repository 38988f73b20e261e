//! COMMAND in a device's PCI configuration space: who may reach memory, who may interrupt.
//!
//! Invariant: the register is written as one word. QEMU looks at the bits of the upper byte only when the lower one is
//! written: an interrupt line whose mask was changed by a byte alone would stay as it was.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where it is.
const COMMAND: u64 = 4;
/// The device decodes its memory: there are registers.
pub const MEMORY: u16 = 1 << 1;
/// The device may reach memory.
pub const MASTER: u16 = 1 << 2;
/// The device may not interrupt (PCI 2.3).
pub const NO_INTX: u16 = 1 << 10;

/// The register.
#[derive(Debug)]
pub struct Command {
    file: File,
    /// Where in it the configuration space begins.
    base: u64,
}

impl Command {
    /// That of the device whose configuration space begins at `base` of the file.
    pub fn new(file: File, base: u64) -> Self {
        Self { file, base }
    }

    /// Another handle.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, base: self.base })
    }

    /// Its bits.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read(&self) -> io::Result<u16> {
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, self.base + COMMAND)?;
        Ok(u16::from_le_bytes(word))
    }

    /// Sets all bits.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn write(&self, word: u16) -> io::Result<()> {
        self.file.write_all_at(&word.to_le_bytes(), self.base + COMMAND)
    }

    /// Sets some bits and clears others. The kernel sets `NO_INTX` at an interrupt, so this is for times in which none
    /// can come.
    ///
    /// # Errors
    /// As pread(2) and pwrite(2).
    pub fn change(&self, set: u16, clear: u16) -> io::Result<()> {
        self.write(self.read()? & !clear | set)
    }
}
