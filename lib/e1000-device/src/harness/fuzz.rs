//! The fuzz harness of the device: a byte string is a guest and a network, the device must survive
//! both.
//!
//! The first byte chooses the device, the rest is a list of operations: register accesses of every
//! width at every offset, bytes of guest memory (descriptors, packets, the CSB), packets that come
//! in, ports that take nothing, and rounds of the I/O thread. Ready-made operations (open the rings,
//! map the CSB, queue a few descriptors) keep a random string from spending its life in a device that is
//! switched off.
//!
//! Panics only if one of these does not hold: rounds end after bounded work; the line is up only
//! while a cause is unmasked, and the board is told of changes only; what is sent is no shorter than an
//! Ethernet header and no longer than the chip's longest packet. Nothing outside of guest memory is read or
//! written: it lies between pages that nobody may touch. The same function is called by the fuzz target
//! (`fuzz/`), by the replay of its corpus (`tests/corpus.rs`), and below with random strings. Not part
//! of the library's API.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e1000pv::bits::{Ctrl, Icr, Rctl, Rxcsum, Tctl};
use e1000pv::csb::Field;
use e1000pv::desc::{DESC_BYTES, RxDesc};
use e1000pv::regs::{self, TABLE};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::{Counted, MockPort};
use crate::filter::TAG_BYTES;
use crate::sizes::ETHER_HEADER;
use crate::{
    Board, Clock, Config, E1000, GuestMemory, GuestRam, InterruptLine, PAGE_BYTES, SLICE, State,
    TxMode, path, state::BadState,
};

mod input;

use input::Input;

/// Guest memory; small, so that random addresses hit something.
const RAM_BYTES: u64 = 1 << 18;
/// Memory in front of and behind it that nobody may touch.
const GUARD_BYTES: usize = 4 * PAGE_BYTES as usize;
/// Longest frame without tag that the chip sends (8254x manual, section 3.3).
const LONGEST: usize = 16288;
/// Operations and rounds of one input: enough for every state, and bounded in time.
const OPERATIONS_MAX: usize = 2000;
const ROUNDS_MAX: usize = 64;
/// Where the ready-made operations put things.
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x3000;
const CSB: u64 = 0x5000;
const BUFFERS: u64 = 0x8000;

/// Checks that the line is told of its changes, and remembers it.
#[derive(Debug, Default)]
struct Wires {
    intx: AtomicBool,
    doorbell: AtomicBool,
    now_ns: AtomicU64,
}

impl InterruptLine for Wires {
    fn set_intx(&self, level: bool) {
        assert_ne!(self.intx.swap(level, Ordering::Relaxed), level, "INTx did not change");
    }
}

impl Clock for Wires {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }
}

impl Board for Wires {
    fn set_doorbell(&self, on: bool) {
        assert_ne!(self.doorbell.swap(on, Ordering::Relaxed), on, "the doorbell did not change");
    }

    fn wake_io(&self) {}
}

/// A mapping that is guest memory in its middle and no memory at both ends.
struct Guarded {
    start: NonNull<std::ffi::c_void>,
}

/// All of such a mapping.
const GUARDED_BYTES: usize = RAM_BYTES as usize + 2 * GUARD_BYTES;

// SAFETY: the address is used to unmap only, by the last owner.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is whole, and `GuestRam` keeps this alive as long as anybody uses it.
        let gone = unsafe { munmap(self.start, GUARDED_BYTES) };
        gone.expect("it was mapped");
    }
}

fn memory() -> GuestRam {
    let all = NonZeroUsize::new(GUARDED_BYTES).expect("not zero");
    // SAFETY: a new mapping, which nobody uses yet.
    let start = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
    let guarded = Guarded { start: start.expect("some address space") };
    // SAFETY: within the mapping.
    let base = unsafe { guarded.start.byte_add(GUARD_BYTES) };
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the middle of the mapping that was just made.
    let opened = unsafe { mprotect(base, RAM_BYTES as usize, access) };
    opened.expect("256 KiB of memory");
    // SAFETY: page-aligned, readable and writable as long as `guarded` lives.
    unsafe { GuestRam::new(base.cast(), RAM_BYTES, Arc::new(guarded)) }
}

struct Run<'a> {
    choice: u8,
    input: Input<'a>,
    nic: E1000<GuestRam, MockPort>,
    ram: GuestRam,
    wires: Arc<Wires>,
    rounds: usize,
    /// Descriptors of each ring, as `open` made them.
    n: u32,
    /// The tails that the ready-made operations have published.
    tdt: u32,
    rdt: u32,
}

/// A guest, a network and an I/O thread, as `data` says.
///
/// # Panics
/// The device broke one of the rules above: a finding.
pub fn device(data: &[u8]) {
    let mut run = Run::new(data);
    for _ in 0..OPERATIONS_MAX {
        if run.input.0.is_empty() {
            break;
        }
        run.operation();
        run.assert_line();
        assert_sent(&run.take_sent());
    }
    run.end();
}

/// The same, and after `at` operations the state is saved, taken through `pass`, and restored into a
/// second device with memory and network of its own. From then on the two must not differ.
///
/// # Panics
/// The two differ: a finding.
pub fn restored(data: &[u8], at: usize, mut pass: impl FnMut(State) -> State) {
    let mut run = Run::new(data);
    for _ in 0..at.min(OPERATIONS_MAX) {
        run.operation();
    }
    let state = loop {
        // Each try lets the port take more.
        if let Ok(state) = run.nic.state() {
            break pass(state);
        }
    };
    let _ = run.take_sent();
    let _ = run.take_sent();
    let mut twin = run.twin(&state);
    assert_eq!(twin.nic.state().as_ref(), Ok(&state), "restored at once");
    for _ in at..OPERATIONS_MAX {
        if run.input.0.is_empty() {
            break;
        }
        run.operation();
        twin.operation();
        assert_eq!(run.take_sent(), twin.take_sent());
        assert_eq!(run.level(), twin.level(), "INTx");
    }
    assert!(run.contents() == twin.contents(), "guest memory differs");
    assert_eq!(run.nic.state(), twin.nic.state());
    run.end();
    twin.end();
}

/// The state of the device of `data`, all of whose operations were done.
#[must_use]
pub fn state(data: &[u8]) -> State {
    let mut run = Run::new(data);
    while !run.input.0.is_empty() {
        run.operation();
    }
    loop {
        if let Ok(state) = run.nic.state() {
            return state;
        }
    }
}

/// Whether a device with nothing in its memory can be in this state.
///
/// # Errors
/// It can't.
pub fn accepts(state: &State) -> Result<(), BadState> {
    let (wires, counters) = (Arc::new(Wires::default()), Arc::new(Counted::default()));
    let port = MockPort::new(64, true);
    E1000::from_state(config(0), memory(), port, wires, counters, state).map(drop)
}

fn assert_sent(sent: &[Vec<u8>]) {
    for frame in sent {
        let allowed = ETHER_HEADER..=LONGEST + TAG_BYTES;
        assert!(allowed.contains(&frame.len()), "{} bytes were sent", frame.len());
    }
}

/// Some bits of an input's first byte choose the device.
fn config(choice: u8) -> Config {
    let chosen = |bit: u8| choice & 1 << bit != 0;
    Config {
        mac: [2, 0, 0, 0, 0, 1],
        csb: !chosen(0),
        more: !chosen(1),
        moderation: !chosen(2),
        tx_mode: if chosen(3) { TxMode::Inline } else { TxMode::Thread },
        ..Config::default()
    }
}

impl<'a> Run<'a> {
    fn new(data: &'a [u8]) -> Self {
        let mut input = Input(data);
        let choice = input.byte();
        let chosen = |bit: u8| choice & 1 << bit != 0;
        let port = MockPort::new(if chosen(5) { 8 } else { 64 }, !chosen(4));
        let ram = memory();
        let wires = Arc::new(Wires { now_ns: AtomicU64::new(1 << 40), ..Wires::default() });
        let counters = Arc::new(Counted::default());
        let nic = E1000::new(config(choice), ram.clone(), port, wires.clone(), counters);
        let mut run = Run { choice, input, nic, ram, wires, rounds: 0, n: 8, tdt: 0, rdt: 0 };
        if chosen(6) {
            run.open_rings();
        }
        if chosen(7) {
            run.map_csb();
        }
        run
    }

    /// A second world that goes on from `state`, the state of this one's device.
    fn twin(&self, state: &State) -> Self {
        let Self { choice, input: Input(rest), rounds, n, tdt, rdt, .. } = *self;
        let ram = memory();
        assert!(ram.write(0, &self.contents()));
        let wires =
            Arc::new(Wires { now_ns: AtomicU64::new(self.wires.now_ns()), ..Wires::default() });
        let counters = Arc::new(Counted::default());
        let port = self.nic.with_port(|port| port.twin());
        let nic =
            E1000::from_state(config(choice), ram.clone(), port, wires.clone(), counters, state);
        let nic = nic.expect("a state that a device was in");
        Run { choice, input: Input(rest), nic, ram, wires, rounds, n, tdt, rdt }
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM_BYTES as usize];
        assert!(self.ram.read(0, &mut bytes));
        bytes
    }

    fn level(&self) -> bool {
        self.wires.intx.load(Ordering::Relaxed)
    }

    fn take_sent(&self) -> Vec<Vec<u8>> {
        self.nic.with_port(MockPort::take_sent)
    }

    /// Whatever state the device is in: a reset makes it work.
    fn end(&mut self) {
        self.nic.reset();
        self.assert_line();
        self.open(7, 0);
        self.round();
    }
}

impl Run<'_> {
    fn write(&self, offset: u32, value: u32) {
        self.nic.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn assert_line(&self) {
        let irq = &self.nic.core.irq;
        let pending = irq.peek().intersects(irq.ims());
        assert!(!self.level() || pending, "INTx is up without a cause");
    }

    fn round(&mut self) {
        if self.rounds == ROUNDS_MAX {
            return;
        }
        self.rounds += 1;
        self.wires.now_ns.fetch_add(10_000, Ordering::Relaxed);
        let next = self.nic.round(self.wires.now_ns());
        // Half of the largest ring that fits into memory, and what one slice goes beyond that.
        let most = RAM_BYTES as usize / DESC_BYTES / 2 + 2 * SLICE;
        assert!(next.work as usize <= most, "{} is more than one round's work", next.work);
    }

    fn operation(&mut self) {
        match self.input.byte() % 25 {
            0 => self.register_write(),
            1 | 2 => self.raw_access(),
            3 => self.window_access(),
            4 => self.memory_write(),
            5 => {
                let at = TX_RING + DESC_BYTES as u64 * u64::from(self.input.byte());
                let descriptor = self.input.tx_descriptor();
                self.ram.write(at, &descriptor);
            }
            6 => {
                let at = RX_RING + DESC_BYTES as u64 * u64::from(self.input.byte());
                let descriptor = self.input.rx_descriptor();
                self.ram.write(at, &descriptor);
            }
            7 => self.csb_write(),
            8 => self.open_rings(),
            9 => self.map_csb(),
            10 => {
                let tail = self.input.byte();
                self.write(regs::TDT, tail.into());
            }
            11 => {
                let tail = self.input.byte();
                self.write(regs::RDT, tail.into());
            }
            12 | 13 => self.round(),
            14 => self.idle(),
            15 => self.nic.kicked(),
            16 | 17 => self.packet_comes(),
            18 => {
                let slots = usize::from(self.input.byte());
                path::lock(&self.nic.path).port().take_next(slots);
            }
            19 => match self.input.byte() % 8 {
                0 => self.nic.reset(),
                1 => self.nic.link(false),
                2 => self.nic.link(true),
                3 => {
                    let _ = self.nic.timer(self.wires.now_ns() + 1_000_000);
                }
                4 => path::lock(&self.nic.path).port().damage(),
                _ => {
                    let cause = self.input.byte() % 17;
                    self.write(regs::ICS, 1 << cause);
                }
            },
            20 | 21 => self.transmit(),
            22 => self.give_buffers(),
            23 => self.modes(),
            _ => {
                let command = self.input.byte();
                self.nic.set_bus_master(command & 4 != 0);
                self.nic.set_intx_disabled(command & 1 != 0);
            }
        }
    }

    /// As a driver does: a few descriptors at the tail, and the new tail to register and CSB.
    fn transmit(&mut self) {
        let kind = self.input.byte();
        for _ in 0..=kind % 8 {
            let descriptor = self.input.tx_descriptor();
            self.ram.write(TX_RING + DESC_BYTES as u64 * u64::from(self.tdt), &descriptor);
            self.tdt = (self.tdt + 1) % self.n;
        }
        self.ram.store_u32(CSB + u64::from(Field::GuestTdt.offset()), self.tdt);
        self.write(regs::TDT, self.tdt);
        if kind & 0x80 == 0 {
            self.round();
        }
    }

    /// Likewise for reception.
    fn give_buffers(&mut self) {
        let kind = self.input.byte();
        for _ in 0..=kind % 8 {
            let descriptor = self.input.rx_descriptor();
            self.ram.write(RX_RING + DESC_BYTES as u64 * u64::from(self.rdt), &descriptor);
            self.rdt = (self.rdt + 1) % self.n;
        }
        self.ram.store_u32(CSB + u64::from(Field::GuestRdt.offset()), self.rdt);
        self.write(regs::RDT, self.rdt);
    }

    /// Registers that change how packets pass through the device.
    fn modes(&mut self) {
        let [rctl, ctrl, rest, rxcsum] = self.input.bytes();
        self.write(regs::CTRL, if ctrl & 1 == 0 { 0 } else { Ctrl::VME.bits() });
        self.write(regs::VET, u32::from_be_bytes([0, 0, 0x81, ctrl & 0x7E]));
        let pads = if ctrl & 0x80 == 0 { Tctl::PSP } else { Tctl::empty() };
        self.write(regs::TCTL, (Tctl::EN | pads).bits());
        let rctl = u32::from(rctl) << 16 | u32::from(rest & 0xFC);
        let rctl =
            Rctl::from_bits_retain(rctl) | if rest & 1 == 0 { Rctl::SECRC } else { Rctl::BSEX };
        self.write(regs::RCTL, (rctl | Rctl::EN | Rctl::BAM).bits());
        let checks = if rest & 2 == 0 { Rxcsum::empty() } else { Rxcsum::IPOFLD | Rxcsum::TUOFLD };
        self.write(regs::RXCSUM, checks.bits() | u32::from(rxcsum));
    }

    /// A register that exists.
    fn register_write(&mut self) {
        let row = &TABLE[usize::from(self.input.byte()) % TABLE.len()];
        let index = u32::from(self.input.byte()) % row.count;
        let value = self.input.word();
        self.write(row.offset + index * row.stride, value);
    }

    /// Any width at any offset.
    fn raw_access(&mut self) {
        let at = u64::from(self.input.word() % 0x2_0010);
        let kind = self.input.byte();
        let width = [1, 2, 4, 8][usize::from(kind >> 1) % 4];
        let mut data = self.input.bytes::<8>();
        if kind & 1 == 0 {
            self.nic.mmio_read(at, &mut data[..width]);
        } else {
            self.nic.mmio_write(at, &data[..width]);
        }
    }

    fn window_access(&mut self) {
        let kind = self.input.byte();
        let at = u64::from(kind >> 3);
        let width = [1, 2, 4][usize::from(kind >> 1) % 3];
        let mut data = self.input.bytes::<4>();
        if kind & 1 == 0 {
            self.nic.io_read(at, &mut data[..width]);
        } else {
            self.nic.io_write(at, &data[..width]);
        }
    }

    fn memory_write(&mut self) {
        let at = self.input.address();
        let len = usize::from(self.input.byte());
        let bytes = self.input.take(len);
        self.ram.write(at, bytes);
    }

    fn csb_write(&mut self) {
        let field = Field::ALL[usize::from(self.input.byte()) % Field::ALL.len()];
        let value = match self.input.byte() {
            0xFF => self.input.word(),
            small => u32::from(small),
        };
        self.ram.store_u32(CSB + u64::from(field.offset()), value);
    }

    fn open_rings(&mut self) {
        let [eighths, special] = self.input.bytes();
        self.open(eighths, special);
        if special & 1 != 0 {
            self.modes();
        }
    }

    fn open(&mut self, eighths: u8, fill: u8) {
        let bytes = (u32::from(eighths % 32) + 1) * 128;
        for (base, low, length, head) in [
            (TX_RING, regs::TDBAL, regs::TDLEN, regs::TDH),
            (RX_RING, regs::RDBAL, regs::RDLEN, regs::RDH),
        ] {
            self.write(low, base as u32);
            self.write(low + 4, 0);
            self.write(length, bytes);
            self.write(head, 0);
        }
        self.n = bytes / DESC_BYTES as u32;
        for i in 0..u64::from(self.n) {
            let buffer_addr = BUFFERS + 2048 * (i % 64);
            let rx = RxDesc { buffer_addr, ..RxDesc::default() };
            self.ram.write(RX_RING + 16 * i, &rx.to_bytes());
        }
        self.ram.write(BUFFERS, &[fill; 256]);
        let rctl = Rctl::EN | Rctl::BAM | Rctl::UPE | Rctl::MPE;
        self.write(regs::RCTL, rctl.bits() | u32::from(eighths >> 5) << 16);
        self.write(regs::TCTL, (Tctl::EN | Tctl::PSP).bits());
        self.write(regs::IMS, Icr::all().bits());
        (self.tdt, self.rdt) = (0, self.n - 1);
        for (field, value) in [(Field::GuestTdt, self.tdt), (Field::GuestRdt, self.rdt)] {
            self.ram.store_u32(CSB + u64::from(field.offset()), value);
        }
        self.write(regs::RDT, self.rdt);
        self.write(regs::TDT, self.tdt);
    }

    fn map_csb(&mut self) {
        self.ram.store_u32(CSB + u64::from(Field::GuestCsbOn.offset()), 1);
        self.write(regs::CSBAH, 0);
        self.write(regs::CSBAL, CSB as u32);
    }

    fn idle(&mut self) {
        let _ = self.nic.before_sleep();
        let _ = self.nic.timer(self.wires.now_ns());
        self.nic.after_sleep();
    }

    fn packet_comes(&mut self) {
        let kind = self.input.byte();
        let mut packet = vec![kind; usize::from(self.input.half()) % 9000];
        let head = self.input.take(usize::from(kind) % 64);
        let n = head.len().min(packet.len());
        packet[..n].copy_from_slice(&head[..n]);
        let slot_bytes = if kind & 0x80 == 0 { 2048 } else { 256 };
        path::lock(&self.nic.path).port().offer(&packet, slot_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A working device, and operations of a driver: each begins with its number, what follows is random.
    fn driver() -> impl Strategy<Value = Vec<u8>> {
        let begin = any::<[u8; 7]>().prop_map(|mut begin| {
            begin[0] |= 1 << 6; // open the rings ...
            begin[2] |= 1; // ... and set modes
            begin.to_vec()
        });
        let number =
            prop_oneof![6 => Just(20u8), 1 => Just(22), 1 => Just(23), 1 => Just(16), 1 => 0..25u8];
        let rest = proptest::collection::vec(any::<u8>(), 0..120);
        let operation = (number, rest).prop_map(|(number, rest)| [vec![number], rest].concat());
        (begin, proptest::collection::vec(operation, 1..20))
            .prop_map(|(begin, operations)| [vec![begin], operations].concat().concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn random_guests_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            device(&data);
        }

        #[test]
        fn guests_with_any_descriptors_do_no_harm(data in driver()) {
            device(&data);
        }

        #[test]
        fn restored_device_goes_on_as_the_saved_one(data in driver(), at in 0usize..20) {
            restored(&data, at, |state| state);
        }

        #[test]
        fn restored_device_of_a_random_guest_goes_on(
            data in proptest::collection::vec(any::<u8>(), 0..1000), at in 0usize..100,
        ) {
            restored(&data, at, |state| state);
        }
    }
}
