//! The configuration space of one function (PCI 2.3, chapter 6): 256 bytes, of which a mask says which
//! bits may be written.
//!
//! Invariant: a bit outside of the mask keeps its value for ever, but for the two that the device's state shows through (STATUS:
//! interrupt; PMCSR: nothing here wakes, so none). Sizing of BARs needs nothing else:
//! the address bits below a BAR's size are not writable and read as zero.

/// Bytes of a configuration space.
pub const BYTES: usize = 256;

pub(super) const VENDOR_ID: usize = 0x00;
pub(super) const DEVICE_ID: usize = 0x02;
pub(super) const COMMAND: usize = 0x04;
pub(super) const STATUS: usize = 0x06;
pub(super) const REVISION: usize = 0x08;
pub(super) const CLASS: usize = 0x09;
pub(super) const BAR0: usize = 0x10;
pub(super) const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
pub(super) const SUBSYSTEM_ID: usize = 0x2e;
pub(super) const INTERRUPT_LINE: usize = 0x3c;
pub(super) const INTERRUPT_PIN: usize = 0x3d;
const CACHE_LINE: usize = 0x0c;
const LATENCY: usize = 0x0d;

/// COMMAND: answers to I/O ports.
pub const COMMAND_IO: u16 = 1 << 0;
/// COMMAND: answers to memory addresses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// COMMAND: may master the bus.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// COMMAND: may not assert INTx (PCI 2.3).
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// COMMAND: MWI, parity and SERR, which a driver may set without effect.
const COMMAND_KEPT: u16 = 1 << 4 | 1 << 6 | 1 << 8;
/// STATUS: medium DEVSEL timing, fast back-to-back.
const STATUS_VALUE: u16 = 0x0280;
/// STATUS: INTx is asserted, or would be if it were not disabled.
const STATUS_INTERRUPT: u16 = 1 << 3;
/// STATUS: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Where that list begins.
const CAPABILITIES: usize = 0x34;
/// Where the 82540EM has its power management capability.
const POWER_MANAGEMENT: usize = 0xdc;
/// Its id, the end of the list, and PMC: revision 1.1, no D1 and D2, device specific initialisation, PME# from D0
/// and D3.
const POWER_MANAGEMENT_WORDS: [u8; 4] = [0x01, 0x00, 0x22, 0xc8];
/// PMCSR.
const POWER_STATE: usize = POWER_MANAGEMENT + 4;
/// PMCSR: the power state, and PME_En.
const POWER_STATE_KEPT: u16 = 0x103;
/// A BAR's low bit: I/O space.
const BAR_IO: u32 = 1;

/// The identity of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass, programming interface.
    pub class: u32,
    /// Subsystem's vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// INTA# is 1; 0 for none.
    pub interrupt_pin: u8,
}

/// What a BAR asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// 32-bit memory of so many bytes, a power of two.
    Memory(u32),
    /// I/O ports, a power of two.
    Io(u32),
}

/// What a function's device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct May {
    /// Read and write memory.
    pub master: bool,
    /// Assert INTx.
    pub interrupt: bool,
    /// Have power; without it, it may not do the others either.
    pub is_powered: bool,
}

/// A function's registers.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    value: [u8; BYTES],
    /// Bits that a write changes.
    mask: [u8; BYTES],
}

impl ConfigSpace {
    /// The header of a function, with no BARs.
    pub fn new(who: Identity) -> ConfigSpace {
        let mut space = ConfigSpace { value: [0; BYTES], mask: [0; BYTES] };
        space.preset(VENDOR_ID, &who.vendor.to_le_bytes());
        space.preset(DEVICE_ID, &who.device.to_le_bytes());
        space.preset(STATUS, &STATUS_VALUE.to_le_bytes());
        space.preset(REVISION, &[who.revision]);
        space.preset(CLASS, &who.class.to_le_bytes()[..3]);
        space.preset(SUBSYSTEM_VENDOR_ID, &who.subsystem_vendor.to_le_bytes());
        space.preset(SUBSYSTEM_ID, &who.subsystem.to_le_bytes());
        space.preset(INTERRUPT_PIN, &[who.interrupt_pin]);
        let command =
            COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE | COMMAND_KEPT;
        space.writable(COMMAND, &command.to_le_bytes());
        space.writable(CACHE_LINE, &[0xff]);
        space.writable(LATENCY, &[0xff]);
        space.writable(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR `index`, at `address`.
    ///
    /// # Panics
    /// If the size is not a power of two of at least 16 (memory) or 4 (ports), or the address is not
    /// aligned to it.
    pub fn add_bar(&mut self, index: usize, bar: Bar, address: u32) {
        let (size, flags) = match bar {
            Bar::Memory(size) => (size, 0),
            Bar::Io(size) => (size, BAR_IO),
        };
        assert!(size.is_power_of_two() && size >= if flags == 0 { 16 } else { 4 });
        assert!(address.is_multiple_of(size));
        let at = BAR0 + 4 * index;
        self.preset(at, &(address | flags).to_le_bytes());
        // Sixteen bits are all the port addresses that a PC has.
        let space = if flags == BAR_IO { 0xffff } else { u32::MAX };
        self.writable(at, &(!(size - 1) & space).to_le_bytes());
    }

    /// Adds the capability of power management (PCI Power Management 1.1): D0 and D3hot.
    pub fn add_power_management(&mut self) {
        let status = self.word(STATUS) | STATUS_CAPABILITIES;
        self.preset(STATUS, &status.to_le_bytes());
        self.preset(CAPABILITIES, &[POWER_MANAGEMENT as u8]);
        self.preset(POWER_MANAGEMENT, &POWER_MANAGEMENT_WORDS);
        self.writable(POWER_STATE, &POWER_STATE_KEPT.to_le_bytes());
    }

    fn has_power(&self) -> bool {
        self.word(POWER_STATE) & 3 != 3
    }

    /// What COMMAND and the power state allow.
    pub fn may(&self) -> May {
        let (command, is_powered) = (self.word(COMMAND), self.has_power());
        May {
            master: is_powered && command & COMMAND_MASTER != 0,
            interrupt: is_powered && command & COMMAND_INTX_DISABLE == 0,
            is_powered,
        }
    }

    /// STATUS shows whether the device interrupts.
    pub fn set_interrupting(&mut self, interrupting: bool) {
        let others = self.word(STATUS) & !STATUS_INTERRUPT;
        let status = others | if interrupting { STATUS_INTERRUPT } else { 0 };
        self.preset(STATUS, &status.to_le_bytes());
    }

    /// Sets a register as firmware does.
    pub fn preset(&mut self, at: usize, bytes: &[u8]) {
        self.value[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn writable(&mut self, at: usize, mask: &[u8]) {
        self.mask[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Reads registers; all ones beyond the space.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.value.get(at + i).copied().unwrap_or(0xff);
        }
    }

    /// Writes registers. True if that may have moved what the function answers to. A function that gets its power
    /// back is as new, but for power management.
    pub fn write(&mut self, at: usize, data: &[u8]) -> bool {
        let (before, had_power) = (self.decoding(), self.has_power());
        let state = self.value[POWER_STATE];
        for (i, &byte) in data.iter().enumerate() {
            if let (Some(value), Some(mask)) = (self.value.get_mut(at + i), self.mask.get(at + i)) {
                *value = *value & !mask | byte & mask;
            }
        }
        if self.mask[POWER_STATE] != 0 && matches!(self.value[POWER_STATE] & 3, 1 | 2) {
            // A state that there is not: the write is ignored.
            self.value[POWER_STATE] = state;
        }
        if !had_power && self.has_power() {
            self.preset(COMMAND, &[0; 2]);
            for at in BAR0..BAR0 + 8 {
                self.value[at] &= !self.mask[at];
            }
        }
        self.decoding() != before
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.value[at], self.value[at + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    /// Where the function answers to memory accesses by BAR0: nowhere unless COMMAND allows it.
    pub fn memory_at(&self) -> Option<u32> {
        let answers = self.word(COMMAND) & COMMAND_MEMORY != 0 && self.has_power();
        answers.then(|| self.dword(BAR0) & !0xf)
    }

    /// Where it answers to port accesses by BAR1.
    pub fn io_at(&self) -> Option<u16> {
        let address = (self.dword(BAR0 + 4) & !3) as u16;
        (self.word(COMMAND) & COMMAND_IO != 0 && self.has_power()).then_some(address)
    }

    fn decoding(&self) -> (Option<u32>, Option<u16>) {
        (self.memory_at(), self.io_at())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x100e,
            revision: 3,
            class: 0x02_0000,
            subsystem_vendor: 0x8086,
            subsystem: 0x1101,
            interrupt_pin: 1,
        });
        space.add_bar(0, Bar::Memory(0x2_0000), 0xe000_0000);
        space.add_bar(1, Bar::Io(64), 0xc000);
        space.preset(COMMAND, &(COMMAND_IO | COMMAND_MEMORY).to_le_bytes());
        space
    }

    fn dword(space: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn bars_tell_their_size_and_move() {
        let mut space = space();
        for (bar, sizing, size) in [(0, !0x1_ffff, 0x2_0000), (1, 0xffc1, 64)] {
            let at = BAR0 + 4 * bar;
            let address = dword(&space, at);
            space.write(at, &u32::MAX.to_le_bytes());
            assert_eq!(dword(&space, at), sizing, "BAR {bar}");
            assert_eq!((dword(&space, at) & !0xf & 0xffff).wrapping_neg() & 0xffff & (size - 1), 0);
            assert!(space.write(at, &address.to_le_bytes()));
            assert_eq!(dword(&space, at), address);
        }
        assert!(space.write(BAR0, &0xf000_0000u32.to_le_bytes()));
        assert_eq!(space.memory_at(), Some(0xf000_0000));
        assert!(space.write(COMMAND, &COMMAND_MASTER.to_le_bytes()));
        assert_eq!((space.memory_at(), space.io_at()), (None, None));
        assert!(!space.write(INTERRUPT_LINE, &[5]));
        assert_eq!(dword(&space, INTERRUPT_LINE), 0x0105);
    }

    #[test]
    fn absent_bars_and_identity_cannot_be_written() {
        let mut space = space();
        let before: Vec<u32> = [0, 8, 0x18, 0x2c, 0x30, 0x34].map(|at| dword(&space, at)).into();
        for at in (0..BYTES).step_by(4) {
            space.write(at, &u32::MAX.to_le_bytes());
        }
        let after: Vec<u32> = [0, 8, 0x18, 0x2c, 0x30, 0x34].map(|at| dword(&space, at)).into();
        assert_eq!(before, after);
        assert_eq!(dword(&space, 0x2c), 0x1101_8086);
        assert_eq!(dword(&space, 0x34), 0, "no capabilities");
    }

    proptest! {
        #[test]
        fn any_write_leaves_bars_aligned(
            writes in prop::collection::vec((0usize..300, any::<[u8; 4]>(), 0usize..=4), 0..50)
        ) {
            let mut space = space();
            for (at, data, len) in writes {
                space.write(at, &data[..len]);
                prop_assert!(space.memory_at().is_none_or(|at| at.is_multiple_of(0x2_0000)));
                prop_assert!(space.io_at().is_none_or(|at| at.is_multiple_of(64)));
            }
            prop_assert_eq!(dword(&space, 0), 0x100e_8086);
        }
    }
}
