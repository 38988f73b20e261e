//! A machine for tests: one CPU and some 82540EMs, small enough to be seen to be right, on one thread.
//! The devices work when the CPU looks at its clock or idles, at moments that a seed chooses; so all
//! orders of notifications are tried, and every run can be repeated.
//!
//! Invariants it checks of the driver: descriptors point into memory, tails stay within the ring, nothing
//! is sent that was not published. It is strict where a lenient device would hide a mistake: a host that
//! sleeps looks at nothing until it is kicked, and idling for ever is a failure.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use e1000pv::bits::{Ctrl, Eerd, Icr, Rctl, Status, Tctl};
use e1000pv::csb::{self, Csb, Field, distance};
use e1000pv::desc::{LegacyTx, RxDesc, RxStatus, TxCmd};
use e1000pv::{eeprom, regs};
use e1000pv_driver::{Block, Cpu, Dma, Mmio};

/// Where devices find memory: above 4 GiB, so that high halves matter.
const BUS_BASE: u64 = 0x1_2000_0000;
/// The subsystem id of the paravirtual device.
pub const PARAVIRT: u16 = e1000pv::pci::SUBSYSTEM_PARAVIRT;

/// Memory that is given out once, as words.
struct Ram {
    words: &'static [AtomicU64],
    used: Cell<usize>,
    /// Bytes that a driver has.
    out: Cell<usize>,
}

impl Ram {
    fn new(bytes: usize) -> Ram {
        // Pages, so that what is a multiple of 4096 here is one for the device as well.
        #[repr(align(4096))]
        struct Page([AtomicU64; 512]);
        let pages: Vec<Page> =
            (0..bytes.div_ceil(4096)).map(|_| Page([const { AtomicU64::new(0) }; 512])).collect();
        let pages: &'static [Page] = pages.leak();
        // SAFETY: pages are arrays of words, without padding between them.
        let words = unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len() * 512) };
        Ram { words, used: Cell::new(0), out: Cell::new(0) }
    }

    fn word(&self, bus: u64) -> &AtomicU64 {
        assert!(bus >= BUS_BASE && bus.is_multiple_of(8), "the device was given address {bus:#x}");
        &self.words[(bus - BUS_BASE) as usize / 8]
    }

    fn read(&self, bus: u64, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).map(|at| self.word(bus + 8 * at as u64));
        let mut bytes: Vec<u8> =
            words.flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    fn write(&self, bus: u64, bytes: &[u8]) {
        for (at, chunk) in bytes.chunks(8).enumerate() {
            // Beyond the frame's end stands what a hostile or careless device leaves there.
            let mut full = [0xee; 8];
            full[..chunk.len()].copy_from_slice(chunk);
            self.word(bus + 8 * at as u64).store(u64::from_le_bytes(full), Ordering::Release);
        }
    }
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// One in so many interrupts is never delivered; 0 is none.
    pub lose_interrupts: u32,
    /// An EEPROM that does not answer.
    pub mute_eeprom: bool,
    /// `host_tdh` holds nonsense now and then.
    pub wild_tdh: bool,
}

/// What answers to a frame.
type Peer = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>>>;

/// One device and what is at the other end of its wire.
pub struct Device {
    regs: HashMap<u32, u32>,
    /// (offset, value) of every write.
    pub log: Vec<(u32, u32)>,
    mac: [u8; 6],
    has_csb: bool,
    faults: Faults,
    icr: u32,
    lost: u32,
    /// TDT was written and the host has not run since; RDT likewise.
    tx_kicked: bool,
    rx_kicked: bool,
    /// CSB: the I/O thread runs, or waits for a kick.
    tx_awake: bool,
    rx_waiting: bool,
    empty_rounds: u32,
    /// Frames that came out of the device.
    pub sent: VecDeque<Vec<u8>>,
    /// Frames on their way into the device.
    pub incoming: VecDeque<Vec<u8>>,
    /// What answers to a sent frame, in place of `sent`.
    pub peer: Option<Peer>,
    /// A time in which the device holds interrupts back.
    pub moderation_ns: u64,
    silent_until: u64,
    link: bool,
}

/// The machine.
pub struct World {
    ram: Ram,
    pub devices: RefCell<Vec<Device>>,
    clock: Cell<u64>,
    random: Cell<u64>,
    interrupts: Cell<u32>,
    causes: Cell<u32>,
    /// Sleeps that ended by their time-out.
    pub timeouts: Cell<u32>,
    /// Stop a workload at this time.
    pub stop_at: Cell<Option<u64>>,
    /// Devices do nothing, as if their host were not scheduled.
    pub frozen: Cell<bool>,
}

/// The CPU, the memory, and device 0 in the driver's eyes.
#[derive(Clone)]
pub struct Machine(pub Rc<World>);

/// A device's registers.
pub struct Bar0(Rc<World>, usize);

impl Machine {
    /// Some devices, by what they have.
    pub fn new(seed: u64, csb: &[bool], ram_bytes: usize) -> Machine {
        let devices = csb.iter().enumerate().map(|(at, &has_csb)| Device::new(at as u8, has_csb));
        Machine(Rc::new(World {
            ram: Ram::new(ram_bytes),
            devices: RefCell::new(devices.collect()),
            clock: Cell::new(1_000_000),
            random: Cell::new(seed | 1),
            interrupts: Cell::new(u32::MAX - 3),
            causes: Cell::new(0),
            timeouts: Cell::new(0),
            stop_at: Cell::new(None),
            frozen: Cell::new(false),
        }))
    }

    pub fn bar(&self, device: usize) -> Bar0 {
        Bar0(Rc::clone(&self.0), device)
    }

    pub fn set_faults(&self, device: usize, faults: Faults) {
        self.0.devices.borrow_mut()[device].faults = faults;
    }

    pub fn send_in(&self, device: usize, frame: Vec<u8>) {
        self.0.devices.borrow_mut()[device].incoming.push_back(frame);
    }

    /// Frames not yet received into memory.
    pub fn incoming(&self, device: usize) -> usize {
        self.0.devices.borrow()[device].incoming.len()
    }

    pub fn take_sent(&self, device: usize) -> Vec<Vec<u8>> {
        self.0.devices.borrow_mut()[device].sent.drain(..).collect()
    }

    /// Bytes of memory that drivers have.
    pub fn memory_out(&self) -> usize {
        self.0.ram.out.get()
    }

    pub fn log(&self, device: usize) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.0.devices.borrow_mut()[device].log)
    }

    pub fn set_peer(&self, device: usize, peer: impl FnMut(Vec<u8>) -> Option<Vec<u8>> + 'static) {
        self.0.devices.borrow_mut()[device].peer = Some(Box::new(peer));
    }

    pub fn interrupt_count(&self) -> u32 {
        self.0.interrupts.get().wrapping_sub(u32::MAX - 3)
    }

    pub fn timeouts(&self) -> u32 {
        self.0.timeouts.get()
    }

    fn random(&self, below: u64) -> u64 {
        // xorshift64.
        let mut x = self.0.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.random.set(x);
        x % below
    }

    /// Lets one device work and delivers one interrupt, perhaps; true if anything happened.
    fn step(&self, eager: bool) -> bool {
        if self.0.frozen.get() {
            return false;
        }
        let mut any = false;
        let now = self.0.clock.get();
        for device in self.0.devices.borrow_mut().iter_mut() {
            if eager || self.random(4) == 0 {
                let most = 1 + self.random(12) as u32;
                any |= device.round(&self.0.ram, most);
            }
            if (eager || self.random(3) == 0) && device.line() && now >= device.silent_until {
                any = true;
                self.interrupt(device, now);
            }
        }
        any
    }

    /// The interrupt handler of the platform.
    fn interrupt(&self, device: &mut Device, now: u64) {
        let lose = u64::from(device.faults.lose_interrupts);
        device.silent_until = now + device.moderation_ns;
        if lose > 0 && self.random(lose) == 0 {
            // As if the handler's write to memory were lost: the causes are gone.
            device.icr = 0;
            device.lost += 1;
            return;
        }
        self.0.causes.set(self.0.causes.get() | device.icr);
        device.icr = 0;
        self.0.interrupts.set(self.0.interrupts.get().wrapping_add(1));
    }

    fn earliest(&self) -> Option<u64> {
        let devices = self.0.devices.borrow();
        devices.iter().filter(|device| device.line()).map(|device| device.silent_until).min()
    }
}

impl Cpu for Machine {
    fn now_ns(&self) -> u64 {
        self.step(false);
        self.0.clock.set(self.0.clock.get() + 1 + self.random(2000));
        self.0.clock.get()
    }

    fn idle(&self, seen: u32, timeout_ns: Option<u64>) {
        let end = timeout_ns.map(|timeout| self.0.clock.get() + timeout);
        while self.interrupts() == seen {
            let now = self.0.clock.get();
            if end.is_some_and(|end| now >= end) {
                self.0.timeouts.set(self.0.timeouts.get() + 1);
                assert!(self.0.timeouts.get() < 100_000, "this sleeps for ever");
                return;
            }
            if self.step(true) {
                self.0.clock.set(now + 500);
                continue;
            }
            // Nothing can happen before a moderated interrupt or the time-out.
            let next = [self.earliest().filter(|_| !self.0.frozen.get()), end];
            let next = next.into_iter().flatten().min();
            self.0.clock.set(next.expect("idle for ever").max(now + 1));
        }
    }

    fn interrupts(&self) -> u32 {
        self.0.interrupts.get()
    }

    fn take_causes(&self) -> u32 {
        self.0.causes.take()
    }

    fn stopping(&self) -> bool {
        self.0.stop_at.get().is_some_and(|stop| self.0.clock.get() >= stop)
    }
}

// SAFETY: each block is a fresh piece of leaked, zeroed memory; the devices reach the same words.
unsafe impl Dma for Machine {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let ram = &self.0.ram;
        let from = ram.used.get().next_multiple_of(align);
        let words = ram.words.get(from / 8..(from + bytes).div_ceil(8))?;
        ram.used.set(from + bytes);
        ram.out.set(ram.out.get() + bytes);
        let ptr = NonNull::new(words.as_ptr().cast_mut().cast())?;
        // SAFETY: as above.
        Some(unsafe { Block::new(ptr, BUS_BASE + from as u64, bytes) })
    }

    fn free(&mut self, block: Block) {
        self.0.ram.out.set(self.0.ram.out.get() - block.bytes());
    }
}

impl Mmio for Bar0 {
    fn read32(&self, offset: u32) -> u32 {
        let mut devices = self.0.devices.borrow_mut();
        let device = &mut devices[self.1];
        match offset {
            regs::ICR => std::mem::take(&mut device.icr),
            regs::STATUS => Status::FD.bits() | if device.link { Status::LU.bits() } else { 0 },
            _ => device.reg(offset),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.devices.borrow_mut()[self.1].write(offset, value);
    }
}

/// The CSB, seen by the host.
#[derive(Clone, Copy)]
struct Page<'a>(&'a Ram, u64);

impl Csb for Page<'_> {
    fn load(&self, field: Field) -> u32 {
        let word = self.0.word(self.1 + u64::from(field.offset() & !7)).load(Ordering::Acquire);
        if field.offset() & 4 == 0 { word as u32 } else { (word >> 32) as u32 }
    }

    fn store(&self, field: Field, value: u32) {
        let word = self.0.word(self.1 + u64::from(field.offset() & !7));
        let old = word.load(Ordering::Acquire);
        let new = if field.offset() & 4 == 0 {
            old >> 32 << 32 | u64::from(value)
        } else {
            old & 0xffff_ffff | u64::from(value) << 32
        };
        word.store(new, Ordering::Release);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Device {
    fn new(at: u8, has_csb: bool) -> Device {
        Device {
            regs: HashMap::new(),
            log: Vec::new(),
            mac: [2, 0, 0, 0, 0, at + 1],
            has_csb,
            faults: Faults::default(),
            icr: 0,
            lost: 0,
            tx_kicked: false,
            rx_kicked: false,
            tx_awake: false,
            rx_waiting: false,
            empty_rounds: 0,
            sent: VecDeque::new(),
            incoming: VecDeque::new(),
            peer: None,
            moderation_ns: 0,
            silent_until: 0,
            link: true,
        }
    }

    fn reg(&self, offset: u32) -> u32 {
        self.regs.get(&offset).copied().unwrap_or(0)
    }

    fn line(&self) -> bool {
        self.icr & self.reg(regs::IMS) != 0
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.log.push((offset, value));
        match offset {
            regs::CTRL if value & Ctrl::RST.bits() != 0 => self.reset(),
            regs::IMC => {
                let mask = self.reg(regs::IMS) & !value;
                self.regs.insert(regs::IMS, mask);
            }
            regs::IMS => {
                let mask = self.reg(regs::IMS) | value;
                self.regs.insert(regs::IMS, mask);
            }
            regs::EERD if value & Eerd::START.bits() != 0 => {
                let word = Eerd::from_bits_retain(value).address();
                let image = eeprom::image(self.mac, 0, 0);
                let read = Eerd::done(word, image[word as usize]);
                self.regs.insert(offset, if self.faults.mute_eeprom { 0 } else { read });
            }
            regs::TDT => {
                assert!(value < self.tx_n() || value == 0, "TDT {value}");
                self.regs.insert(offset, value);
                self.tx_kicked = true;
            }
            regs::RDT => {
                assert!(value < self.rx_n() || value == 0, "RDT {value}");
                self.regs.insert(offset, value);
                self.rx_kicked = true;
            }
            _ => {
                self.regs.insert(offset, value);
            }
        }
    }

    fn reset(&mut self) {
        self.regs.clear();
        self.icr = 0;
        (self.tx_kicked, self.rx_kicked) = (false, false);
        (self.tx_awake, self.rx_waiting) = (false, false);
        let [a, b, c, d, e, f] = self.mac;
        self.regs.insert(regs::RAL, u32::from_le_bytes([a, b, c, d]));
        self.regs.insert(regs::RAH, u32::from_le_bytes([e, f, 0, 0x80]));
    }

    fn tx_n(&self) -> u32 {
        self.reg(regs::TDLEN) / 16
    }

    fn rx_n(&self) -> u32 {
        self.reg(regs::RDLEN) / 16
    }

    fn pair(&self, low: u32, high: u32) -> u64 {
        u64::from(self.reg(high)) << 32 | u64::from(self.reg(low))
    }

    /// The CSB's address, if there is one that is on.
    fn csb(&self, ram: &Ram) -> Option<u64> {
        let bus = self.pair(regs::CSBAL, regs::CSBAH);
        (self.has_csb && bus != 0 && csb::host_csb_on(&Page(ram, bus))).then_some(bus)
    }

    /// The I/O thread runs for a while; true if it did anything.
    fn round(&mut self, ram: &Ram, most: u32) -> bool {
        let csb = self.csb(ram);
        let sent = self.reg(regs::TCTL) & Tctl::EN.bits() != 0
            && self.tx_n() > 0
            && match csb {
                Some(bus) => self.transmit_csb(ram, Page(ram, bus), most),
                None => self.transmit_plain(ram, most),
            };
        let received = self.reg(regs::RCTL) & Rctl::EN.bits() != 0
            && self.rx_n() > 0
            && match csb {
                Some(bus) => self.receive_csb(ram, Page(ram, bus), most),
                None => self.receive_plain(ram, most),
            };
        sent | received
    }

    /// Sends the packets before `tail`; returns how many, and whether one wanted a report.
    fn transmit(&mut self, ram: &Ram, tail: u32, most: u32) -> (u32, bool) {
        let (n, base) = (self.tx_n(), self.pair(regs::TDBAL, regs::TDBAH));
        let mut head = self.reg(regs::TDH);
        let (mut sent, mut reported) = (0, false);
        while head != tail && sent < most {
            let at = base + u64::from(head) * 16;
            let bytes = ram.read(at, 16).try_into().expect("16 bytes");
            let descriptor = LegacyTx::from_bytes(bytes);
            assert!(descriptor.cmd.contains(TxCmd::EOP | TxCmd::IFCS), "{descriptor:?}");
            assert!((60..=1514).contains(&descriptor.length), "{descriptor:?}");
            self.out(ram.read(descriptor.buffer_addr, descriptor.length.into()));
            if descriptor.cmd.contains(TxCmd::RS) {
                reported = true;
                let fields = ram.word(at + 8).load(Ordering::Acquire);
                ram.word(at + 8).store(fields | 1 << 32, Ordering::Release);
            }
            head = if head + 1 == n { 0 } else { head + 1 };
            sent += 1;
        }
        self.regs.insert(regs::TDH, head);
        (sent, reported)
    }

    fn out(&mut self, frame: Vec<u8>) {
        match &mut self.peer {
            Some(peer) => self.incoming.extend(peer(frame)),
            None => self.sent.push_back(frame),
        }
    }

    fn transmit_plain(&mut self, ram: &Ram, most: u32) -> bool {
        self.tx_kicked = false;
        let (sent, reported) = self.transmit(ram, self.reg(regs::TDT), most);
        if reported {
            self.icr |= Icr::TXDW.bits();
        }
        sent > 0
    }

    fn transmit_csb(&mut self, ram: &Ram, page: Page<'_>, most: u32) -> bool {
        if self.tx_kicked {
            // An eventfd: its value is lost.
            self.tx_kicked = false;
            self.tx_awake = true;
            csb::host_tx_start(&page);
        }
        if !self.tx_awake {
            return false;
        }
        let n = self.tx_n();
        let tail = csb::host_tx_tail(&page, n).expect("a tail within the ring");
        let (sent, reported) = self.transmit(ram, tail, most);
        let head = self.reg(regs::TDH);
        if self.faults.wild_tdh && sent.is_multiple_of(2) {
            csb::host_tx_done(&page, head + 7 * n);
        } else {
            csb::host_tx_done(&page, head);
        }
        if sent > 0 && csb::host_wants_tx_irq(&page) {
            // As QEMU does: no cause without a report or an empty queue.
            let drained = if head == tail { Icr::TXQE.bits() } else { 0 };
            self.icr |= drained | if reported { Icr::TXDW.bits() } else { 0 };
        }
        self.empty_rounds = if sent > 0 { 0 } else { self.empty_rounds + 1 };
        if self.empty_rounds >= page.load(Field::HostTxcyclesLim) {
            self.empty_rounds = 0;
            csb::host_tx_done(&page, head);
            self.tx_awake = !csb::host_tx_sleep(&page, head, n).expect("a tail within the ring");
        }
        true
    }

    /// Receives up to `free` frames; returns how many.
    fn receive(&mut self, ram: &Ram, free: u32, most: u32) -> u32 {
        let (n, base) = (self.rx_n(), self.pair(regs::RDBAL, regs::RDBAH));
        let mut head = self.reg(regs::RDH);
        let mut received = 0;
        while received < free.min(most) {
            let Some(frame) = self.incoming.pop_front() else {
                break;
            };
            let at = base + u64::from(head) * 16;
            let bytes = ram.read(at, 16).try_into().expect("16 bytes");
            let descriptor = RxDesc::from_bytes(bytes);
            assert!(descriptor.status.is_empty(), "given back with {descriptor:?}");
            ram.write(descriptor.buffer_addr, &frame);
            let done = RxDesc {
                length: frame.len() as u16,
                status: RxStatus::DD | RxStatus::EOP,
                ..descriptor
            };
            ram.word(at + 8).store(done.write_back(), Ordering::Release);
            head = if head + 1 == n { 0 } else { head + 1 };
            received += 1;
        }
        self.regs.insert(regs::RDH, head);
        received
    }

    fn receive_plain(&mut self, ram: &Ram, most: u32) -> bool {
        let free = distance(self.reg(regs::RDH), self.reg(regs::RDT), self.rx_n());
        let received = self.receive(ram, free, most);
        if received > 0 {
            self.icr |= Icr::RXT0.bits();
        }
        received > 0
    }

    fn receive_csb(&mut self, ram: &Ram, page: Page<'_>, most: u32) -> bool {
        if std::mem::take(&mut self.rx_kicked) {
            self.rx_waiting = false;
        }
        if self.incoming.is_empty() || self.rx_waiting {
            return false;
        }
        let (n, head) = (self.rx_n(), self.reg(regs::RDH));
        let Some(free) = csb::host_rx_wait(&page, head, 1, n).expect("a tail within the ring")
        else {
            self.rx_waiting = true;
            return true;
        };
        let received = self.receive(ram, free, most);
        csb::host_rx_done(&page, self.reg(regs::RDH));
        if csb::host_wants_rx_irq(&page) {
            self.icr |= Icr::RXT0.bits();
        }
        received > 0
    }
}
