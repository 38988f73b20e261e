//! The fuzz harness of the device: a byte string is a guest and a network, the device must survive
//! both.
//!
//! The first byte chooses the device, the rest is a list of operations: register accesses of every
//! width at every offset, bytes of guest memory (descriptors, packets, the CSB), packets that come
//! in, ports that take nothing, and rounds of the I/O thread. Ready-made operations (open the rings,
//! map the CSB) keep a random string from spending its life in a device that is switched off.
//!
//! Panics only if one of these does not hold: rounds end after bounded work; the line is up only
//! while a cause is unmasked, and the board is told of changes only; nothing is written outside guest
//! memory. The same function is called by the fuzz target (`fuzz/`) and by the replay of its corpus
//! (`tests/corpus.rs`). Not part of the library's API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e1000pv::bits::{Icr, Rctl, Tctl};
use e1000pv::csb::Field;
use e1000pv::desc::{ContextTx, DESC_BYTES, DataTx, LegacyTx, Popts, RxDesc, TxCmd};
use e1000pv::regs::{self, TABLE};

use super::{Board, Config, E1000, SLICE, TxMode};
use crate::counters::NicCounters;
use crate::netport::mock::MockPort;
use crate::ram::{GuestRam, PAGE_BYTES};

/// Guest memory; small, so that random addresses hit something.
const RAM_BYTES: u64 = 1 << 18;
/// Memory in front of and behind it that nobody may write.
const GUARD_BYTES: u64 = 4 * PAGE_BYTES;
/// What the guard bytes hold.
const CANARY: u8 = 0xC5;
/// Operations and rounds of one input: enough for every state, and bounded in time.
const OPERATIONS_MAX: usize = 2000;
const ROUNDS_MAX: usize = 64;
/// Where the ready-made operations put things.
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x3000;
const CSB: u64 = 0x5000;
const BUFFERS: u64 = 0x8000;

/// The input, taken from its front; past its end everything is 0.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(self.0.len().min(n));
        self.0 = rest;
        head
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let head = self.take(N);
        std::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// An address that is mostly memory, and sometimes anything.
    fn address(&mut self) -> u64 {
        match self.byte() {
            0xFF => u64::from_le_bytes(self.bytes()),
            0xFE => RAM_BYTES - u64::from(self.byte()),
            high => (u64::from(high) << 8 | u64::from(self.byte())) << 2,
        }
    }
}

/// Checks that the line is told of its changes, and remembers it.
#[derive(Debug, Default)]
struct Wires {
    intx: AtomicBool,
    doorbell: AtomicBool,
}

impl Board for Wires {
    fn set_intx(&self, level: bool) {
        assert_ne!(self.intx.swap(level, Ordering::Relaxed), level, "INTx did not change");
    }

    fn set_doorbell(&self, on: bool) {
        assert_ne!(self.doorbell.swap(on, Ordering::Relaxed), on, "the doorbell did not change");
    }

    fn wake_io(&self) {}
}

/// Guest memory between guards.
fn memory() -> (GuestRam, GuestRam) {
    let all = GuestRam::anonymous(RAM_BYTES + 2 * GUARD_BYTES).expect("half a megabyte");
    let base = all.ptr(GUARD_BYTES, RAM_BYTES as usize).expect("in the middle");
    // SAFETY: the range lies within `all`, page-aligned, and `all` is what keeps it mapped.
    let ram = unsafe { GuestRam::new(base, RAM_BYTES, Arc::new(all.clone())) };
    for at in [0, GUARD_BYTES + RAM_BYTES] {
        assert!(all.write(at, &[CANARY; GUARD_BYTES as usize]));
    }
    (all, ram)
}

fn assert_guards_intact(all: &GuestRam) {
    for at in [0, GUARD_BYTES + RAM_BYTES] {
        let mut guard = [0; GUARD_BYTES as usize];
        assert!(all.read(at, &mut guard));
        assert!(guard.iter().all(|b| *b == CANARY), "written outside of guest memory");
    }
}

struct Run<'a> {
    input: Input<'a>,
    nic: E1000<MockPort>,
    ram: GuestRam,
    wires: Arc<Wires>,
    now_ns: u64,
    rounds: usize,
}

/// A guest, a network and an I/O thread, as `data` says.
pub fn device(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let chosen = |bit: u8| choice & 1 << bit != 0;
    let config = Config {
        mac: [2, 0, 0, 0, 0, 1],
        csb: !chosen(0),
        more: !chosen(1),
        moderation: !chosen(2),
        tx_mode: if chosen(3) { TxMode::Inline } else { TxMode::Thread },
        ..Config::default()
    };
    let port = MockPort::new(if chosen(5) { 8 } else { 64 }, !chosen(4)).sink();
    let (all, ram) = memory();
    let wires = Arc::new(Wires::default());
    let nic = E1000::new(config, ram.clone(), port, wires.clone(), NicCounters::detached());
    let mut run = Run { input, nic, ram, wires, now_ns: 1 << 40, rounds: 0 };
    for _ in 0..OPERATIONS_MAX {
        if run.input.0.is_empty() {
            break;
        }
        run.operation();
        run.assert_line();
    }
    // Whatever state the device is in: a reset makes it work.
    run.nic.reset();
    run.assert_line();
    run.open(7);
    run.round();
    assert_guards_intact(&all);
}

impl Run<'_> {
    fn write(&self, offset: u32, value: u32) {
        self.nic.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn assert_line(&self) {
        let irq = &self.nic.core().irq;
        let pending = irq.peek().intersects(irq.ims());
        let level = self.wires.intx.load(Ordering::Relaxed);
        assert!(!level || pending, "INTx is up without a cause");
    }

    fn round(&mut self) {
        if self.rounds == ROUNDS_MAX {
            return;
        }
        self.rounds += 1;
        self.now_ns += 10_000;
        let next = self.nic.round(self.now_ns);
        // Half of the largest ring that fits into memory, and what one slice goes beyond that.
        let most = RAM_BYTES as usize / DESC_BYTES / 2 + 2 * SLICE;
        assert!(next.work as usize <= most, "{} is more than one round's work", next.work);
    }

    fn operation(&mut self) {
        match self.input.byte() % 20 {
            0 => self.register_write(),
            1 | 2 => self.raw_access(),
            3 => self.window_access(),
            4 => self.memory_write(),
            5 => self.descriptor(TX_RING),
            6 => self.descriptor(RX_RING),
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
                super::path::lock(&self.nic.path).port().take_next(slots);
            }
            _ => match self.input.byte() % 8 {
                0 => self.nic.reset(),
                1 => self.nic.link(false),
                2 => self.nic.link(true),
                3 => {
                    let _ = self.nic.timer(self.now_ns + 1_000_000);
                }
                _ => {
                    let cause = self.input.byte() % 17;
                    self.write(regs::ICS, 1 << cause);
                }
            },
        }
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

    /// A descriptor of a kind and with flags that mean something.
    fn descriptor(&mut self, ring: u64) {
        let at = ring + DESC_BYTES as u64 * u64::from(self.input.byte());
        let kind = self.input.byte();
        let buffer_addr = self.input.address();
        let flags = self.input.byte();
        let length = self.input.half();
        let cmd = TxCmd::from_bits_retain(flags).difference(TxCmd::DEXT);
        let bytes = match kind % 6 {
            _ if ring == RX_RING => RxDesc { buffer_addr, ..RxDesc::default() }.to_bytes(),
            0 => LegacyTx {
                buffer_addr,
                length: length % 2048,
                cmd,
                cso: kind,
                css: flags,
                ..LegacyTx::default()
            }
            .to_bytes(),
            1 | 2 => DataTx {
                buffer_addr,
                dtalen: u32::from(length),
                dcmd: cmd | TxCmd::DEXT,
                popts: Popts::from_bits_retain(kind >> 4),
                special: length,
                ..DataTx::default()
            }
            .to_bytes(),
            3 => ContextTx {
                ipcss: 14,
                ipcso: 24,
                ipcse: 33,
                tucss: 34,
                tucso: 50,
                paylen: u32::from(length),
                tucmd: cmd | TxCmd::DEXT,
                hdrlen: 54,
                mss: u16::from(kind) * 8,
                ..ContextTx::default()
            }
            .to_bytes(),
            _ => self.input.bytes(),
        };
        self.ram.write(at, &bytes);
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
        let eighths = self.input.byte();
        self.open(eighths);
    }

    fn open(&mut self, eighths: u8) {
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
        let count = u64::from(bytes) / DESC_BYTES as u64;
        for i in 0..count {
            let buffer_addr = BUFFERS + 2048 * (i % 64);
            let rx = RxDesc { buffer_addr, ..RxDesc::default() };
            self.ram.write(RX_RING + 16 * i, &rx.to_bytes());
        }
        let rctl = Rctl::EN | Rctl::BAM | Rctl::UPE | Rctl::MPE;
        self.write(regs::RCTL, rctl.bits() | u32::from(eighths >> 5) << 16);
        self.write(regs::TCTL, (Tctl::EN | Tctl::PSP).bits());
        self.write(regs::IMS, Icr::all().bits());
        self.write(regs::RDT, count as u32 - 1);
        self.write(regs::TDT, 0);
    }

    fn map_csb(&mut self) {
        self.ram.store_u32(CSB + u64::from(Field::GuestCsbOn.offset()), 1);
        self.write(regs::CSBAH, 0);
        self.write(regs::CSBAL, CSB as u32);
    }

    fn idle(&mut self) {
        let _ = self.nic.before_sleep();
        let _ = self.nic.timer(self.now_ns);
        self.nic.after_sleep();
    }

    fn packet_comes(&mut self) {
        let kind = self.input.byte();
        let mut packet = vec![kind; usize::from(self.input.half()) % 9000];
        let head = self.input.take(usize::from(kind) % 64);
        let n = head.len().min(packet.len());
        packet[..n].copy_from_slice(&head[..n]);
        let slot_bytes = if kind & 0x80 == 0 { 2048 } else { 256 };
        super::path::lock(&self.nic.path).port().offer(&packet, slot_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn random_guests_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            device(&data);
        }
    }
}
