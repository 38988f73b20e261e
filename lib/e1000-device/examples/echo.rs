//! A machine around a device in a few lines: memory, an interrupt line, a clock, and a network that
//! sends everything back. The guest is what follows in `main`.
//!
//! ```text
//! cargo run -p e1000-device --example echo
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e1000_device::{
    Await, Board, Clock, Config, Count, Counters, E1000, GuestMemory, GuestRam, InterruptLine,
    NetPort, RxSlots, TxSlots,
};
use e1000pv::desc::{LegacyTx, RxDesc, TxCmd};
use e1000pv::regs;
use shared_bytes::Span;

const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;
const TX_BUFFER: u64 = 0x1_0000;
const RX_BUFFER: u64 = 0x2_0000;
const SLOTS: usize = 16;
const SLOT_BYTES: usize = 2048;

/// The machine: a line that somebody looks at, and a clock that stands still.
#[derive(Debug, Default)]
struct Machine {
    line: AtomicBool,
}

impl InterruptLine for Machine {
    fn set_intx(&self, level: bool) {
        self.line.store(level, Ordering::Relaxed);
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        0
    }
}

impl Board for Machine {
    fn set_doorbell(&self, _: bool) {}
    fn wake_io(&self) {} // the rounds come anyway
}

impl Counters for Machine {
    fn bump(&self, which: Count, n: u64) {
        if which == Count::TxPackets {
            println!("the device has sent {n} packets");
        }
    }
}

/// A network that sends everything back.
#[derive(Debug, Default)]
struct Echo {
    queued: VecDeque<Box<[u8]>>,
    /// A buffer of our own, which nobody writes while the device reads it.
    arrived: VecDeque<GuestRam>,
    lens: VecDeque<usize>,
}

struct Free<'a>(&'a mut Echo);
struct Arrived<'a>(&'a mut Echo);

impl TxSlots for Free<'_> {
    const SLOT_BYTES: usize = SLOT_BYTES;

    fn space(&self) -> usize {
        SLOTS - 1 - self.0.queued.len()
    }

    fn num_slots(&self) -> usize {
        SLOTS
    }

    fn put(&mut self, at: usize, bytes: Span<'_>, more: bool) {
        self.put_copy(at, &bytes.to_vec(), more);
    }

    fn put_copy(&mut self, _: usize, bytes: &[u8], more: bool) {
        assert!(!more, "short packets only");
        self.0.queued.push_back(bytes.into());
    }

    fn commit(self, _: usize) {}
}

impl RxSlots for Arrived<'_> {
    fn available(&self) -> usize {
        self.0.arrived.len()
    }

    fn frame(&self, at: usize) -> (Span<'_>, bool) {
        (self.0.arrived[at].span(0, self.0.lens[at]).expect("a page each"), false)
    }

    fn prefetch(&self, _: usize) {}

    fn release(self, n: usize) {
        self.0.arrived.drain(..n);
        self.0.lens.drain(..n);
    }
}

impl NetPort for Echo {
    type Tx<'a> = Free<'a>;
    type Rx<'a> = Arrived<'a>;

    fn tx_slots(&self) -> usize {
        SLOTS
    }

    fn tx(&mut self) -> Free<'_> {
        Free(self)
    }

    fn tx_sync(&mut self) -> usize {
        for packet in self.queued.drain(..) {
            let page = GuestRam::anonymous(SLOT_BYTES as u64).expect("memory");
            page.write(0, &packet);
            self.lens.push_back(packet.len());
            self.arrived.push_back(page);
        }
        0
    }

    fn tx_lost(&self) -> u64 {
        0
    }

    fn tx_withdraw(&mut self) -> usize {
        self.queued.drain(..).count()
    }

    fn rx_slots(&self) -> usize {
        SLOTS
    }

    fn rx(&mut self) -> Arrived<'_> {
        Arrived(self)
    }

    fn rx_sync(&mut self) {}

    fn rx_discard(&mut self) {
        self.arrived.clear();
        self.lens.clear();
    }

    fn rx_missed(&self) -> u64 {
        0
    }

    fn arm(&mut self, _: Await) -> bool {
        true
    }

    fn disarm(&mut self) {}
}

fn main() {
    let ram = GuestRam::anonymous(1 << 20).expect("a megabyte");
    let machine = Arc::new(Machine::default());
    let config = Config { mac: [2, 0, 0, 0, 0, 1], ..Config::default() };
    let nic = E1000::new(config, ram.clone(), Echo::default(), machine.clone(), machine.clone());
    let write = |register: u32, value: u32| {
        nic.mmio_write(register.into(), &value.to_le_bytes());
    };
    // What a driver does: rings of eight descriptors, receiver and transmitter on.
    for i in 0..8 {
        let rx = RxDesc { buffer_addr: RX_BUFFER + 2048 * i, ..RxDesc::default() };
        ram.write(RX_RING + 16 * i, &rx.to_bytes());
    }
    for (register, value) in [
        (regs::TDBAL, TX_RING as u32),
        (regs::TDLEN, 128),
        (regs::RDBAL, RX_RING as u32),
        (regs::RDLEN, 128),
        (regs::RCTL, 1 << 1 | 1 << 15),
        (regs::TCTL, 1 << 1),
        (regs::RDT, 7),
        (regs::IMS, 0xFF),
    ] {
        write(register, value);
    }
    // A broadcast, which comes back.
    ram.write(TX_BUFFER, &[0xFF; 60]);
    let cmd = TxCmd::EOP | TxCmd::RS;
    let tx = LegacyTx { buffer_addr: TX_BUFFER, length: 60, cmd, ..LegacyTx::default() };
    ram.write(TX_RING, &tx.to_bytes());
    write(regs::TDT, 1);
    let mut rounds = 0;
    while nic.round(0).work > 0 {
        rounds += 1;
    }
    let mut packet = [0; 60];
    ram.read(RX_BUFFER, &mut packet);
    assert_eq!(packet, [0xFF; 60], "it came back");
    println!(
        "it came back after {rounds} rounds, INTx is {}",
        if machine.line.load(Ordering::Relaxed) { "up" } else { "down" }
    );
    let saved = nic.state().expect("nothing is queued");
    let icr = saved.interrupts.icr;
    println!("saved: {} registers, ICR {icr:#x}", saved.registers.len());
}
