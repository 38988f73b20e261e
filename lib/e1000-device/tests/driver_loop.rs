//! The real driver against the real device, in one thread, step by step, in any order: every packet
//! that was accepted arrives once, in order and intact, and nothing stalls.
//!
//! ```text
//!   driver --MMIO--> device --port--> sent     kicks, wake-ups and interrupts are flags here, which
//!   driver <--IRQ--- device <--port-- offered  some later step delivers: late, or without a reason,
//!                                              but never not at all
//! ```
//! Both sides sleep as they do in earnest: the guest until an interrupt, the I/O thread until a kick,
//! a bell or a deadline. The property tests choose the steps; then everybody runs in turns until all
//! is done, within a bounded number of turns.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e1000_device::harness::{Counted, MockPort, monotonic_ns};
use e1000_device::{Board, Config, E1000, GuestRam, InterruptLine, TxMode, Wake};
use e1000pv::regs;
use e1000pv_driver::{
    Block, Config as DriverConfig, Cpu, Discipline, Dma, Interest, Interrupts, Kick, Mmio, Nic,
    Report,
};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const RAM_BYTES: u64 = 2 << 20;
const PORT_SLOTS: usize = 64;
/// Turns in which everything must be done at the end: many more than any packet needs.
const TURNS: usize = 20_000;

#[derive(Debug, Default)]
struct Wires {
    line: AtomicBool,
    doorbell: AtomicBool,
    wake: AtomicBool,
    kick: AtomicBool,
}

impl InterruptLine for Wires {
    fn set_intx(&self, level: bool) {
        assert_ne!(self.line.swap(level, Ordering::Relaxed), level, "only changes are told");
    }
}

impl e1000_device::Clock for Wires {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for Wires {
    fn set_doorbell(&self, on: bool) {
        self.doorbell.store(on, Ordering::Relaxed);
    }

    fn wake_io(&self) {
        self.wake.store(true, Ordering::Relaxed);
    }
}

type Device = E1000<GuestRam, MockPort>;

/// Registers: what KVM and the bus would do.
#[derive(Clone, Debug)]
struct Bus {
    device: Rc<Device>,
    wires: Arc<Wires>,
}

impl Mmio for Bus {
    fn read32(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.device.mmio_read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(&self, offset: u32, value: u32) {
        if offset == regs::TDT && self.wires.doorbell.load(Ordering::Relaxed) {
            self.wires.kick.store(true, Ordering::Relaxed);
        } else {
            self.device.mmio_write(offset.into(), &value.to_le_bytes());
        }
    }
}

#[derive(Debug, Default)]
struct Clock {
    now_ns: Cell<u64>,
}

impl Cpu for Clock {
    fn now_ns(&self) -> u64 {
        self.now_ns.set(self.now_ns.get() + 100);
        self.now_ns.get()
    }

    fn idle(&self, _: u32, _: Option<u64>) {
        unreachable!("the test decides who sleeps");
    }

    fn interrupts(&self) -> u32 {
        0
    }

    fn take_causes(&self) -> u32 {
        0
    }
}

struct Bump {
    ram: GuestRam,
    next: u64,
}

// SAFETY: each block is fresh guest memory, zeroed, at the address that is its bus address, and the
// world keeps the memory until the driver is gone.
unsafe impl Dma for Bump {
    fn allocate(&mut self, bytes: usize, align: usize) -> Option<Block> {
        let bus = self.next.next_multiple_of(align as u64);
        let ptr = self.ram.ptr(bus, bytes)?;
        self.next = bus + bytes as u64;
        // SAFETY: as above.
        Some(unsafe { Block::new(ptr, bus, bytes) })
    }

    fn free(&mut self, _: Block) {}
}

/// A random configuration of driver and device.
#[derive(Clone, Debug)]
struct Setup {
    discipline: Discipline,
    kick: Kick,
    report: Report,
    masked: bool,
    tx_descriptors: u32,
    rx_descriptors: u32,
    kick_batch: u32,
    txcycles_lim: u32,
    more: bool,
    indirect: bool,
    inline: bool,
    wake: u32,
}

fn setup() -> impl Strategy<Value = Setup> {
    let discipline = prop_oneof![
        1 => Just(Discipline::Plain),
        1 => Just(Discipline::Combine),
        2 => Just(Discipline::Csb),
    ];
    let ways = (discipline, any::<[bool; 6]>());
    let sizes = (1u32..=4, 1u32..=4, 0u32..8, 0u32..3);
    let wake = prop_oneof![Just(0), Just(75), Just(100)];
    (ways, sizes, wake).prop_map(|((discipline, flags), (tx, rx, kick_batch, limit), wake)| {
        let [each, batch, masked, more, indirect, inline] = flags;
        Setup {
            discipline,
            kick: if each { Kick::Packet } else { Kick::Batch },
            report: if batch { Report::Batch } else { Report::All },
            masked,
            tx_descriptors: 8 * tx,
            rx_descriptors: 8 * rx,
            kick_batch,
            txcycles_lim: limit,
            more,
            indirect,
            inline,
            wake,
        }
    })
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The guest sends so many packets of such a size.
    Send { count: usize, bytes: usize, more: bool },
    /// The guest looks at so many received packets.
    Receive(usize),
    /// The guest goes to sleep, if it can.
    Sleep,
    /// An interrupt reaches the guest, if the line is up.
    Interrupt,
    /// The guest's handler runs for nothing.
    SpuriousInterrupt,
    /// The I/O thread does one thing.
    Device,
    /// It is woken for nothing.
    SpuriousKick,
    /// The network offers packets, in slots of such a size.
    Offer { count: usize, bytes: usize, slot_bytes: usize },
    /// The network takes at most so many slots in the next sync.
    Take(usize),
    /// Time passes.
    Time(u64),
    /// The driver resets the device.
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..20, 14usize..=1514, any::<bool>())
            .prop_map(|(count, bytes, more)| Step::Send { count, bytes, more }),
        3 => (1usize..20).prop_map(Step::Receive),
        2 => Just(Step::Sleep),
        3 => Just(Step::Interrupt),
        1 => Just(Step::SpuriousInterrupt),
        6 => Just(Step::Device),
        1 => Just(Step::SpuriousKick),
        3 => (1usize..20, 14usize..=1514, 64usize..2048)
            .prop_map(|(count, bytes, slot_bytes)| Step::Offer { count, bytes, slot_bytes }),
        2 => (0usize..8).prop_map(Step::Take),
        1 => (0u64..200_000).prop_map(Step::Time),
    ]
}

fn frame(to: [u8; 6], from: [u8; 6], number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &[0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.extend((frame.len()..bytes).map(|i| (number as usize * 31 + i * 7) as u8));
    frame.truncate(bytes.max(18));
    frame
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().expect("four bytes"))
}

/// Packets of one direction: what was accepted, and how far they have arrived.
#[derive(Debug, Default)]
struct Stream {
    accepted: Vec<Vec<u8>>,
    arrived: usize,
    /// What was under way at a reset may be lost: those before here.
    forgiven: usize,
}

impl Stream {
    fn accept(&mut self, frame: Vec<u8>) {
        self.accepted.push(padded(frame));
    }

    fn arrive(&mut self, frame: &[u8]) {
        let number = number(frame) as usize;
        assert!(number >= self.arrived, "{number} again or out of order, after {}", self.arrived);
        let may_skip = number <= self.forgiven;
        assert!(number == self.arrived || may_skip, "{number} came, but {} did not", self.arrived);
        assert_eq!(frame, self.accepted[number], "packet {number} was changed");
        self.arrived = number + 1;
    }

    fn forgive(&mut self) {
        self.forgiven = self.accepted.len();
    }

    fn is_done(&self) -> bool {
        self.arrived.max(self.forgiven) == self.accepted.len()
    }
}

struct World {
    nic: Nic<Bus>,
    bus: Bus,
    clock: Clock,
    out: Stream,
    into: Stream,
    guest_sleeps: bool,
    device_sleeps: bool,
    _ram: GuestRam,
}

impl World {
    fn new(setup: &Setup) -> Self {
        let ram = GuestRam::anonymous(RAM_BYTES).expect("memory");
        let wires = Arc::new(Wires::default());
        let tx_mode = if setup.inline { TxMode::Inline } else { TxMode::Thread };
        let config = Config {
            mac: MAC,
            moderation: false,
            more: setup.more,
            tx_mode,
            wake: Wake { percent: setup.wake, ..Wake::default() },
            ..Config::default()
        };
        let port = MockPort::new(PORT_SLOTS, setup.indirect);
        let board: Arc<dyn Board> = Arc::clone(&wires) as Arc<dyn Board>;
        let device = E1000::new(config, ram.clone(), port, board, Arc::new(Counted::default()));
        let bus = Bus { device: Rc::new(device), wires };
        let clock = Clock::default();
        let config = DriverConfig {
            discipline: setup.discipline,
            subsystem_id: e1000pv::pci::SUBSYSTEM_PARAVIRT,
            tx_descriptors: setup.tx_descriptors,
            rx_descriptors: setup.rx_descriptors,
            kick: setup.kick,
            report: setup.report,
            interrupts: if setup.masked { Interrupts::Masked } else { Interrupts::Always },
            kick_batch: setup.kick_batch,
            txcycles_lim: setup.txcycles_lim,
            ..DriverConfig::default()
        };
        let mut dma = Bump { ram: ram.clone(), next: 4096 };
        let nic = Nic::new(bus.clone(), &mut dma, &clock, &config).expect("a device");
        assert_eq!(nic.mac(), MAC);
        Self {
            nic,
            bus,
            clock,
            out: Stream::default(),
            into: Stream::default(),
            guest_sleeps: false,
            device_sleeps: false,
            _ram: ram,
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Send { count, bytes, more } => self.send(count, bytes, more),
            Step::Receive(count) => self.receive(count),
            Step::Sleep => self.sleep(),
            Step::Interrupt => self.interrupt(),
            Step::SpuriousInterrupt => self.nic.interrupted(0),
            Step::Device => self.device(),
            Step::SpuriousKick => self.bus.wires.kick.store(true, Ordering::Relaxed),
            Step::Offer { count, bytes, slot_bytes } => self.offer(count, bytes, slot_bytes),
            Step::Take(slots) => self.bus.device.with_port(|port| port.take_next(slots)),
            Step::Time(ns) => self.clock.now_ns.set(self.clock.now_ns.get() + ns),
            Step::Reset => self.reset(),
        }
        self.collect();
    }

    fn send(&mut self, count: usize, bytes: usize, more: bool) {
        if self.guest_sleeps {
            return;
        }
        let count = self.nic.tx_space(count).min(count);
        for i in 0..count {
            let frame = frame(PEER, MAC, self.out.accepted.len() as u32, bytes);
            let slot = self.nic.tx_slot(i);
            slot.buffer().write(&frame);
            slot.send(frame.len());
            self.out.accept(frame);
        }
        self.nic.tx_advance(count);
        self.nic.tx_flush(&self.clock, more);
    }

    fn receive(&mut self, count: usize) {
        if self.guest_sleeps {
            return;
        }
        let count = self.nic.rx_available(count);
        for i in 0..count {
            let slot = self.nic.rx_slot(i);
            let mut frame = vec![0; slot.len()];
            slot.buffer().read(&mut frame);
            assert!(slot.is_good());
            self.into.arrive(&frame);
        }
        self.nic.rx_release(count);
    }

    /// As the driver's `Sleeper`: flush, ask, look again.
    fn sleep(&mut self) {
        if self.guest_sleeps {
            return;
        }
        self.nic.tx_flush(&self.clock, false);
        let tx = self.nic.tx_descriptors() as u32 - 1;
        let tx = if self.nic.tx_space(tx as usize) < tx as usize { tx } else { 0 };
        self.guest_sleeps = self.nic.arm(Interest { rx: true, tx });
        if !self.guest_sleeps {
            self.nic.disarm();
        }
    }

    fn interrupt(&mut self) {
        if !self.bus.wires.line.load(Ordering::Relaxed) {
            return;
        }
        let causes = self.bus.read32(regs::ICR);
        assert!(!self.bus.wires.line.load(Ordering::Relaxed), "reading ICR takes the line down");
        self.nic.disarm();
        self.guest_sleeps = false;
        self.nic.interrupted(causes);
    }

    /// The I/O thread: wakes up if there is a reason, else does a round, else goes to sleep.
    fn device(&mut self) {
        let (device, wires) = (&self.bus.device, &self.bus.wires);
        let now_ns = self.clock.now_ns();
        if self.device_sleeps {
            let kicked = wires.kick.swap(false, Ordering::Relaxed);
            let woken = wires.wake.swap(false, Ordering::Relaxed);
            // The bell: there is something to receive, or the network takes slots again.
            let bell = device.with_port(|port| port.rings_bell());
            let late = device.timer(now_ns).is_some_and(|at| at <= now_ns);
            if !(kicked || woken || bell || late) {
                return;
            }
            if kicked {
                device.kicked();
            }
            device.after_sleep();
            self.device_sleeps = false;
            return;
        }
        let next = device.round(now_ns);
        device.timer(now_ns);
        if next.work > 0 || next.again {
            return;
        }
        self.device_sleeps = device.before_sleep();
        if !self.device_sleeps {
            device.after_sleep();
        }
    }

    fn offer(&mut self, count: usize, bytes: usize, slot_bytes: usize) {
        for _ in 0..count {
            let frame = frame(MAC, PEER, self.into.accepted.len() as u32, bytes);
            if self.bus.device.with_port(|port| port.offer(&frame, slot_bytes)) {
                self.into.accept(frame);
            }
        }
    }

    fn reset(&mut self) {
        self.collect();
        self.nic.reset(&self.clock).expect("a device");
        self.guest_sleeps = false;
        self.out.forgive();
        self.into.forgive();
    }

    /// What the network got.
    fn collect(&mut self) {
        for frame in self.bus.device.with_port(MockPort::take_sent) {
            self.out.arrive(&frame);
        }
    }

    /// Everybody runs in turns until all has arrived and both sides sleep.
    fn settle(&mut self) {
        for turn in 0..TURNS {
            self.run(&Step::Device);
            self.run(&Step::Interrupt);
            self.run(&Step::Receive(3));
            if turn % 3 == 0 {
                self.run(&Step::Sleep);
            }
            if self.out.is_done() && self.into.is_done() && self.guest_sleeps && self.device_sleeps
            {
                return;
            }
        }
        panic!(
            "stalled: sent {}/{}, received {}/{}, guest sleeps: {}, device sleeps: {}, {:?}",
            self.out.arrived,
            self.out.accepted.len(),
            self.into.arrived,
            self.into.accepted.len(),
            self.guest_sleeps,
            self.device_sleeps,
            self.bus.wires,
        );
    }
}

fn play(setup: &Setup, steps: &[Step]) {
    let mut world = World::new(setup);
    steps.iter().for_each(|step| world.run(step));
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_whatever_the_order(
        setup in setup(), steps in prop::collection::vec(step(), 0..120)
    ) {
        play(&setup, &steps);
    }

    #[test]
    fn resets_in_mid_flight_lose_only_what_was_under_way(
        setup in setup(),
        steps in prop::collection::vec(prop_oneof![12 => step(), 1 => Just(Step::Reset)], 0..150)
    ) {
        play(&setup, &steps);
    }
}
