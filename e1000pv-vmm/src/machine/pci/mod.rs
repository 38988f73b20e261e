//! The PCI bus: configuration mechanism #1 (PCI 2.3, 3.2.2.3.2) and the same as memory (ECAM), where the NICs answer, and
//! what they may do.
//!
//! Invariants: an [`Endpoint`] has been told what COMMAND allows when the write of it ends; [`Decode`] says at every moment what the configuration space says; it is changed here
//! only, under the bus's lock, and read without one.

pub mod config;
pub mod identity;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use config::{ConfigSpace, May};

/// Enable bit of the address register.
const ENABLE: u32 = 1 << 31;
/// Not at any address.
const NOWHERE: u32 = u32::MAX;

/// Where a NIC answers now.
#[derive(Debug)]
pub struct Decode {
    /// BAR0, or `NOWHERE`; a BAR is aligned, so it is never that.
    memory: AtomicU32,
    /// BAR1, or `NOWHERE`.
    io: AtomicU32,
}

impl Decode {
    fn of(space: &ConfigSpace) -> Decode {
        let decode = Decode { memory: AtomicU32::new(NOWHERE), io: AtomicU32::new(NOWHERE) };
        decode.set(space);
        decode
    }

    fn set(&self, space: &ConfigSpace) {
        self.memory.store(space.memory_at().unwrap_or(NOWHERE), Ordering::Relaxed);
        self.io.store(space.io_at().map_or(NOWHERE, u32::from), Ordering::Relaxed);
    }

    /// The address of BAR0, if it decodes.
    pub fn memory(&self) -> Option<u32> {
        Some(self.memory.load(Ordering::Relaxed)).filter(|at| *at != NOWHERE)
    }

    /// The port of BAR1, if it decodes.
    pub fn io(&self) -> Option<u16> {
        u16::try_from(self.io.load(Ordering::Relaxed)).ok()
    }
}

/// The device behind a function's configuration space.
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// BAR0 is here now.
    fn moved(&self, memory: Option<u32>);
    /// This is what it may do now.
    fn may(&self, may: May);
    /// Whether it asserts INTx, or would if it might.
    fn is_interrupting(&self) -> bool;
    /// It has been without power: everything is as after power-on.
    fn reset(&self);
}

#[derive(Debug)]
struct Function {
    slot: u8,
    space: ConfigSpace,
    /// As it was plugged in.
    initial: ConfigSpace,
    device: Option<(Arc<Decode>, Arc<dyn Endpoint>)>,
}

/// Bus 0.
#[derive(Debug)]
pub struct PciBus {
    /// CONFIG_ADDRESS.
    address: u32,
    functions: Vec<Function>,
}

impl Default for PciBus {
    fn default() -> PciBus {
        PciBus::new()
    }
}

impl PciBus {
    /// A bus with nothing but its host bridge.
    pub fn new() -> PciBus {
        let space = identity::host_bridge();
        let bridge = Function { slot: 0, initial: space.clone(), space, device: None };
        PciBus { address: 0, functions: vec![bridge] }
    }

    /// Plugs a function in. Its device is told at once where it is and what it may do.
    pub fn add(&mut self, slot: u8, space: ConfigSpace, device: Arc<dyn Endpoint>) -> Arc<Decode> {
        let decode = Arc::new(Decode::of(&space));
        device.may(space.may());
        device.moved(decode.memory());
        let device = Some((Arc::clone(&decode), device));
        self.functions.push(Function { slot, initial: space.clone(), space, device });
        decode
    }

    /// All functions are as they were plugged in, and their devices as after power-on.
    pub fn reset(&mut self) {
        self.address = 0;
        for function in &mut self.functions {
            function.space = function.initial.clone();
            let Some((decode, device)) = &function.device else { continue };
            device.reset();
            device.may(function.space.may());
            let before = decode.memory();
            decode.set(&function.space);
            if decode.memory() != before {
                device.moved(decode.memory());
            }
        }
    }

    /// Reads CONFIG_ADDRESS. It has 32 bits; narrower accesses are not for it.
    pub fn read_address(&self, data: &mut [u8]) {
        // For other widths the caller has already filled in all ones, which absent ports read as.
        if let Ok(all) = <&mut [u8; 4]>::try_from(data) {
            *all = self.address.to_le_bytes();
        }
    }

    /// Writes CONFIG_ADDRESS.
    pub fn write_address(&mut self, data: &[u8]) {
        if let Ok(all) = <[u8; 4]>::try_from(data) {
            self.address = u32::from_le_bytes(all) & (ENABLE | 0x00ff_fffc);
        }
    }

    /// Reads CONFIG_DATA + `offset`; what is not there reads as all ones.
    pub fn read_data(&mut self, offset: usize, data: &mut [u8]) {
        let register = self.selected(offset);
        self.read(register, data);
    }

    /// Writes CONFIG_DATA + `offset`.
    pub fn write_data(&mut self, offset: usize, data: &[u8]) {
        let register = self.selected(offset);
        self.write(register, data);
    }

    /// Reads at `offset` of the configuration as memory; what is not there reads as all ones.
    pub fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        self.read(mapped(offset), data);
    }

    /// Writes at `offset` of the configuration as memory.
    pub fn write_memory(&mut self, offset: u64, data: &[u8]) {
        self.write(mapped(offset), data);
    }

    fn read(&mut self, register: Option<Register>, data: &mut [u8]) {
        data.fill(0xff);
        let Some((function, at)) = self.find(register, data.len()) else { return };
        if let Some((_, device)) = &function.device {
            function.space.set_interrupting(device.is_interrupting());
        }
        function.space.read(at, data);
    }

    fn write(&mut self, register: Option<Register>, data: &[u8]) {
        let Some((function, at)) = self.find(register, data.len()) else { return };
        let (before, space) = (function.space.may(), &mut function.space);
        let moved = space.write(at, data);
        let Some((decode, device)) = &function.device else { return };
        if before.is_powered != space.may().is_powered && space.may().is_powered {
            device.reset();
        }
        if before != space.may() {
            device.may(space.may());
        }
        if moved {
            let before = decode.memory();
            decode.set(space);
            if decode.memory() != before {
                device.moved(decode.memory());
            }
        }
    }

    /// The register that CONFIG_ADDRESS and an offset in CONFIG_DATA name.
    fn selected(&self, offset: usize) -> Option<Register> {
        let (bus, function) = (self.address >> 16 & 0xff, self.address >> 8 & 7);
        let named = self.address & ENABLE != 0 && bus == 0 && function == 0;
        let at = (self.address & 0xfc) as usize + offset;
        named.then_some(Register { slot: (self.address >> 11 & 0x1f) as u8, at })
    }

    /// The function of a register, if there is one, and if an access of so many bytes stays within the doubleword.
    fn find(&mut self, register: Option<Register>, len: usize) -> Option<(&mut Function, usize)> {
        let Register { slot, at } = register.filter(|register| register.at % 4 + len <= 4)?;
        let function = self.functions.iter_mut().find(|function| function.slot == slot)?;
        Some((function, at))
    }
}

/// A configuration register of function 0 of a slot.
#[derive(Clone, Copy, Debug)]
struct Register {
    slot: u8,
    at: usize,
}

/// The register at an offset of the configuration as memory: bits 19:15 are the slot, 14:12 the function, 11:0 the
/// register. The functions are of PCI, which has 256 bytes of them.
fn mapped(offset: u64) -> Option<Register> {
    let (slot, function, at) = (offset >> 15 & 0x1f, offset >> 12 & 7, offset as usize & 0xfff);
    (function == 0 && at < config::BYTES).then_some(Register { slot: slot as u8, at })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[derive(Debug, Default)]
    struct Log {
        moved: Mutex<Vec<Option<u32>>>,
        may: Mutex<Vec<May>>,
        interrupting: AtomicBool,
        resets: AtomicU32,
    }

    impl Endpoint for Log {
        fn moved(&self, memory: Option<u32>) {
            self.moved.lock().expect("log").push(memory);
        }

        fn may(&self, may: May) {
            self.may.lock().expect("log").push(may);
        }

        fn is_interrupting(&self) -> bool {
            self.interrupting.load(Ordering::Relaxed)
        }

        fn reset(&self) {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn select(bus: &mut PciBus, slot: u32, register: u32) {
        bus.write_address(&(ENABLE | slot << 11 | register).to_le_bytes());
    }

    fn read(bus: &mut PciBus, slot: u32, register: u32) -> u32 {
        select(bus, slot, register);
        let mut data = [0; 4];
        bus.read_data(0, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(bus: &mut PciBus, slot: u32, register: u32, value: u32) {
        select(bus, slot, register);
        bus.write_data(0, &value.to_le_bytes());
    }

    #[test]
    fn scan_finds_bridge_and_nics_and_nothing_else() {
        let mut bus = PciBus::new();
        bus.add(3, identity::nic(0, true), Arc::new(Log::default()));
        bus.add(4, identity::nic(1, false), Arc::new(Log::default()));
        let found: Vec<(u32, u32)> = (0..32)
            .map(|slot| (slot, read(&mut bus, slot, 0)))
            .filter(|(_, id)| *id != u32::MAX)
            .collect();
        assert_eq!(found, [(0, 0x1237_8086), (3, 0x100e_8086), (4, 0x100e_8086)]);
        assert_eq!(read(&mut bus, 3, 8) >> 8, 0x02_0000);
        assert_eq!(read(&mut bus, 3, 0x2c) >> 16, 0x1101);
        assert_ne!(read(&mut bus, 4, 0x2c) >> 16, 0x1101);
        assert_eq!(read(&mut bus, 3, 0x3c) & 0xffff, 0x0100 | 11);
        assert_eq!(read(&mut bus, 4, 0x10), 0xe002_0000);
        assert_eq!(read(&mut bus, 4, 0x14), 0xc041);
    }

    #[test]
    fn configuration_as_memory_is_the_same_as_by_ports() {
        let mut bus = PciBus::new();
        let log = Arc::new(Log::default());
        let decode = bus.add(3, identity::nic(0, true), Arc::clone(&log) as Arc<dyn Endpoint>);
        for slot in [0, 3, 4] {
            for register in (0..256).step_by(4) {
                let mut data = [0; 4];
                bus.read_memory(u64::from(slot << 15 | register), &mut data);
                let by_ports = read(&mut bus, slot, register);
                assert_eq!(u32::from_le_bytes(data), by_ports, "{slot} {register:x}");
            }
        }
        bus.write_memory(3 << 15 | 0x10, &0xe800_0000u32.to_le_bytes());
        assert_eq!(decode.memory(), Some(0xe800_0000));
        let mut data = [0; 4];
        // Another function, beyond PCI's registers, across a doubleword, and as wide as an access can be.
        for (offset, len) in [(3 << 15 | 1 << 12, 4), (3 << 15 | 0x100, 4), (3 << 15 | 2, 4)] {
            bus.read_memory(offset, &mut data[..len]);
            assert_eq!(data, [0xff; 4], "{offset:x}");
        }
        let mut wide = [0; 8];
        bus.read_memory(3 << 15, &mut wide);
        assert_eq!(wide, [0xff; 8]);
        bus.write_memory(3 << 15 | 0x0c, &wide);
        assert_eq!(read(&mut bus, 3, 0x0c), 0, "nothing was written");
    }

    #[test]
    fn other_buses_functions_and_a_disabled_address_read_as_ones() {
        let mut bus = PciBus::new();
        for address in [0, ENABLE | 1 << 16, ENABLE | 1 << 8] {
            bus.write_address(&address.to_le_bytes());
            let mut data = [0; 4];
            bus.read_data(0, &mut data);
            assert_eq!(data, [0xff; 4], "{address:x}");
        }
        select(&mut bus, 0, 0);
        let mut data = [0; 4];
        bus.read_data(2, &mut data);
        assert_eq!(data, [0xff; 4], "across the register's end");
        bus.read_data(2, &mut data[..2]);
        assert_eq!(data[..2], [0x37, 0x12]);
    }

    #[test]
    fn moving_a_bar_is_told_once_and_decoded_at_once() {
        let mut bus = PciBus::new();
        let log = Arc::new(Log::default());
        let decode = bus.add(3, identity::nic(0, true), Arc::clone(&log) as Arc<dyn Endpoint>);
        assert_eq!((decode.memory(), decode.io()), (Some(0xe000_0000), Some(0xc000)));
        write(&mut bus, 3, 0x10, 0xe800_0000);
        assert_eq!(decode.memory(), Some(0xe800_0000));
        write(&mut bus, 3, 0x14, 0xd000);
        assert_eq!(decode.io(), Some(0xd000));
        write(&mut bus, 3, 0x04, 0);
        assert_eq!((decode.memory(), decode.io()), (None, None));
        write(&mut bus, 3, 0x10, 0xe900_0000);
        write(&mut bus, 3, 0x04, 6);
        assert_eq!(decode.memory(), Some(0xe900_0000));
        let told = log.moved.lock().expect("log").clone();
        assert_eq!(told, [Some(0xe000_0000), Some(0xe800_0000), None, Some(0xe900_0000)]);
    }

    const ALLOWED: May = May { master: true, interrupt: true, is_powered: true };

    #[test]
    fn command_tells_the_device_what_it_may_do_and_status_what_it_wants() {
        let mut bus = PciBus::new();
        let log = Arc::new(Log::default());
        bus.add(3, identity::nic(0, true), Arc::clone(&log) as Arc<dyn Endpoint>);
        assert_eq!(read(&mut bus, 3, 4), 0x0290_0007, "as firmware leaves it");
        for command in [6, 6, 0x406, 0x402, 2] {
            write(&mut bus, 3, 4, command);
            assert_eq!(read(&mut bus, 3, 4) & 0xffff, command, "reads back");
        }
        let may = std::mem::take(&mut *log.may.lock().expect("log"));
        let none = May { master: false, ..ALLOWED };
        let (quiet, mute) = (May { interrupt: false, ..ALLOWED }, May { interrupt: false, ..none });
        assert_eq!(may, [ALLOWED, quiet, mute, none]);
        log.interrupting.store(true, Ordering::Relaxed);
        for command in [0x406, 6] {
            write(&mut bus, 3, 4, command);
            assert_eq!(read(&mut bus, 3, 4) >> 16, 0x0298, "whether disabled or not");
        }
        log.interrupting.store(false, Ordering::Relaxed);
        assert_eq!(read(&mut bus, 3, 4) >> 16, 0x0290);
    }

    #[test]
    fn without_power_nothing_answers_and_power_brings_it_back_as_new() {
        let mut bus = PciBus::new();
        let log = Arc::new(Log::default());
        let decode = bus.add(3, identity::nic(0, true), Arc::clone(&log) as Arc<dyn Endpoint>);
        write(&mut bus, 3, 4, 7);
        let capability = read(&mut bus, 3, 0x34);
        assert_eq!(read(&mut bus, 3, capability) & 0xffff, 1, "power management, the last one");
        let state = capability + 4;
        write(&mut bus, 3, state, 1);
        assert_eq!(read(&mut bus, 3, state), 0, "there is no D1");
        write(&mut bus, 3, state, 0x103);
        assert_eq!(read(&mut bus, 3, state), 0x103);
        assert_eq!((decode.memory(), decode.io()), (None, None));
        let off = May { master: false, interrupt: false, is_powered: false };
        assert_eq!(log.may.lock().expect("log").last(), Some(&off));
        assert_eq!(log.resets.load(Ordering::Relaxed), 0);
        write(&mut bus, 3, state, 0x100);
        assert_eq!(log.resets.load(Ordering::Relaxed), 1);
        assert_eq!(read(&mut bus, 3, 4) & 0xffff, 0, "not initialised");
        assert_eq!((read(&mut bus, 3, 0x10), read(&mut bus, 3, 0x14)), (0, 1));
        assert_eq!(read(&mut bus, 3, state), 0x100, "power management keeps what it has");
        write(&mut bus, 3, 0x10, 0xe000_0000);
        write(&mut bus, 3, 4, 6);
        assert_eq!(decode.memory(), Some(0xe000_0000));
        assert_eq!(log.may.lock().expect("log").last(), Some(&ALLOWED));
    }
}
