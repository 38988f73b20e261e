//! The port without a machine: the real driver against the device model.
//!
//! The model runs when the port looks at memory or registers as little as in earnest: a step of it is a call here.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e1000_device::harness::{Counted, MockPort, monotonic_ns};
use e1000_device::{Board, Config as DeviceConfig, E1000 as Model, GuestRam, InterruptLine};
use e1000pv_driver::Mmio;

use super::command::{Command, MASTER};
use super::door::Line;
use super::memory::tests::Ram;
use super::*;
use crate::abi::SlotFlags;
use crate::adapter::Adapter;
use crate::error::Errno;
use crate::kinds;
use crate::netlink::Link;
use crate::ring::{RxRing, TxRing};
use crate::stats::Counters;
use crate::wait::Interest;

mod handover;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RAM_BYTES: u64 = 8 << 20;
const PORT_SLOTS: usize = 256;

// A machine: the model, its memory and its wires.

#[derive(Debug)]
struct Wires;

impl InterruptLine for Wires {
    fn set_intx(&self, _: bool) {}
}

impl e1000_device::Clock for Wires {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for Wires {
    fn set_doorbell(&self, _: bool) {}

    fn wake_io(&self) {}
}

/// A device of the model, as a bus shows it: without one, everything reads as ones.
#[derive(Clone)]
struct Bus {
    model: Arc<Model<GuestRam, MockPort>>,
    unplugged: Arc<AtomicBool>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

impl Mmio for Bus {
    fn read32(&self, offset: u32) -> u32 {
        let mut data = [0xff; 4];
        if !self.unplugged.load(Ordering::Relaxed) {
            self.model.mmio_read(offset.into(), &mut data);
        }
        u32::from_le_bytes(data)
    }

    fn write32(&self, offset: u32, value: u32) {
        if !self.unplugged.load(Ordering::Relaxed) {
            self.model.mmio_write(offset.into(), &value.to_le_bytes());
        }
    }
}

/// What a device is held by.
#[derive(Debug, Default)]
struct Held {
    asked_back: AtomicBool,
}

impl Hold for Arc<Held> {
    fn is_asked_back(&self) -> bool {
        self.asked_back.load(Ordering::Relaxed)
    }
}

/// A port over a device of the model.
struct Machine {
    bus: Bus,
    port: Packets<E1000<Bus, Ram>>,
    hold: Arc<Held>,
}

impl Machine {
    fn new(discipline: Discipline, door: Door) -> Self {
        let ram = GuestRam::anonymous(RAM_BYTES).unwrap();
        let config = DeviceConfig { mac: MAC, moderation: false, ..DeviceConfig::default() };
        let port = MockPort::new(PORT_SLOTS, false);
        let board: Arc<dyn Board> = Arc::new(Wires);
        let model = Model::new(config, ram.clone(), port, board, Arc::new(Counted::default()));
        let bus = Bus { model: Arc::new(model), unplugged: Arc::default() };
        let config = Config {
            discipline,
            subsystem_id: SUBSYSTEM_PARAVIRT,
            tx_descriptors: 64,
            rx_descriptors: 64,
            kick: Kick::Batch,
            interrupts: if door.tells() { Interrupts::Wake } else { Interrupts::Never },
            promiscuous: true,
            ..Config::default()
        };
        let mut memory = Ram::new(ram);
        let nic = Nic::new(bus.clone(), &mut memory, &Clock, &config).unwrap();
        assert_eq!((nic.mac(), nic.discipline()), (MAC, discipline));
        let hold = Arc::new(Held::default());
        let name = kinds::parse("e1000:00:03.0@conf:slots=64").unwrap();
        let about = String::new();
        let with = Box::new(hold.clone());
        let device = E1000::new(name.to_string(), nic, memory, door, about, with);
        let options = Options::default().with_name(&name);
        let port = Packets::new(&name, &options, CAPABILITIES, 1, |_| Ok(vec![device])).unwrap();
        Self { bus, port, hold }
    }

    fn polled(discipline: Discipline) -> Self {
        Self::new(discipline, Door::clock().unwrap())
    }

    /// The device works until it has nothing to do.
    fn run(&self) {
        for _ in 0..100 {
            self.bus.model.kicked();
            self.bus.model.after_sleep();
            let next = self.bus.model.round(monotonic_ns());
            self.bus.model.timer(monotonic_ns());
            if next.work == 0 && !next.again {
                break;
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        TxRing::new(self.port.tx(0)).push(frame)
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.port.txsync().unwrap();
        self.run();
        self.port.txsync().unwrap();
        self.run();
        self.bus.model.with_port(MockPort::take_sent)
    }

    fn offer(&self, frame: &[u8]) -> bool {
        self.bus.model.with_port(|port| port.offer(frame, 2048))
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        self.run();
        self.port.rxsync().unwrap();
        let mut ring = RxRing::new(self.port.rx(0));
        let frames = ring.batch(1000).map(|slot| slot.frame().to_vec()).collect();
        let n = ring.available();
        ring.advance(n);
        frames
    }

    fn counters(&self) -> Counters {
        self.port.counters()
    }
}

/// A frame that knows its number, to the device.
fn frame(number: usize, bytes: usize) -> Vec<u8> {
    let mut frame = [&MAC[..], &[2, 0, 0, 0, 0, 2, 0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.extend((frame.len()..bytes).map(|i| (number * 31 + i * 7) as u8));
    frame
}

const ALL: [Discipline; 3] = [Discipline::Plain, Discipline::Combine, Discipline::Csb];

#[test]
fn packets_go_both_ways_in_order_and_whole() {
    for discipline in ALL {
        let mut machine = Machine::polled(discipline);
        let sizes = [60, 61, 64, 1000, 1514, 1518];
        let (mut out, mut back) = (0, 0);
        for round in 0..50 {
            let batch: Vec<_> = (0..1 + round % 20)
                .map(|i| frame(out + i, sizes[(out + i) % sizes.len()]))
                .collect();
            assert!(batch.iter().all(|frame| machine.send(frame)), "room in an empty ring");
            assert_eq!(machine.sent(), batch, "{discipline:?}");
            out += batch.len();
            let batch: Vec<_> = (0..1 + round * 7 % 40)
                .map(|i| frame(back + i, sizes[(back + i) % sizes.len()].min(1514)))
                .collect();
            assert!(batch.iter().all(|frame| machine.offer(frame)));
            let mut got = Vec::new();
            for _ in 0..5 {
                got.extend(machine.received());
            }
            assert_eq!(got, batch, "{discipline:?}");
            back += batch.len();
        }
        let counters = machine.counters();
        assert_eq!(counters.tx_packets, out as u64);
        assert_eq!(counters.rx_packets, back as u64);
        assert_eq!((counters.tx_drop_bad, counters.rx_drop_bad), (0, 0));
    }
}

#[test]
fn frame_in_several_slots_leaves_as_one_and_what_no_device_takes_is_dropped() {
    let mut machine = Machine::polled(Discipline::Plain);
    let whole = frame(7, 1500);
    {
        let mut ring = TxRing::new(machine.port.tx(0));
        let parts = [&whole[..100], &whole[100..101], &whole[101..]];
        for (i, part) in parts.iter().enumerate() {
            let slot = ring.slot(i);
            slot.frame().write(0, part);
            let more = i + 1 < parts.len();
            slot.set(part.len(), if more { SlotFlags::MOREFRAG } else { SlotFlags::empty() });
        }
        ring.advance(parts.len());
    }
    assert!(machine.send(&frame(8, 1519)) && machine.send(&[0; 13]) && machine.send(&frame(9, 60)));
    assert_eq!(machine.sent(), [whole, frame(9, 60)]);
    let counters = machine.counters();
    assert_eq!((counters.tx_drop_long, counters.tx_drop_bad), (1, 1));
}

#[test]
fn full_device_keeps_packets_queued_and_they_follow() {
    for discipline in ALL {
        let mut machine = Machine::polled(discipline);
        let mut sent = Vec::new();
        let mut next = 0;
        // The device does nothing meanwhile, where it is not kicked in the place of an exit.
        for _ in 0..10 {
            while machine.send(&frame(next, 60)) {
                next += 1;
            }
            machine.port.txsync().unwrap();
        }
        for _ in 0..10 {
            sent.extend(machine.sent());
        }
        assert!(next >= 63, "{discipline:?}");
        assert_eq!(sent, (0..next).map(|i| frame(i, 60)).collect::<Vec<_>>(), "{discipline:?}");
    }
}

#[test]
fn link_that_is_down_is_told_and_drops_what_is_sent() {
    let mut machine = Machine::polled(Discipline::Plain);
    assert_eq!(machine.port.link(), Link::Up);
    machine.bus.model.hold_link_down(true);
    let until = |machine: &mut Machine, link| {
        // It is asked for now and then.
        let start = std::time::Instant::now();
        while machine.port.link() != link {
            machine.port.rxsync().unwrap();
            std::thread::yield_now();
            assert!(start.elapsed() < std::time::Duration::from_secs(20), "{link:?}");
        }
    };
    until(&mut machine, Link::Down);
    assert!(machine.send(&frame(0, 60)));
    assert!(machine.sent().is_empty());
    assert_eq!(machine.counters().tx_drop_down, 1);
    machine.bus.model.hold_link_down(false);
    until(&mut machine, Link::Up);
    assert!(machine.send(&frame(1, 60)));
    assert_eq!(machine.sent(), [frame(1, 60)]);
}

/// What ends a machine that goes on sending and receiving.
fn error_of(machine: &mut Machine) -> Error {
    let start = std::time::Instant::now();
    loop {
        let _ = machine.send(&frame(0, 60));
        match machine.port.txsync().and_then(|()| machine.port.rxsync()) {
            Err(error) => return error,
            Ok(()) => assert!(start.elapsed() < std::time::Duration::from_secs(20)),
        }
    }
}

#[test]
fn unplugged_device_is_an_error_and_no_panic() {
    let mut machine = Machine::polled(Discipline::Combine);
    machine.bus.unplugged.store(true, Ordering::Relaxed);
    let error = error_of(&mut machine);
    assert_eq!(error.errno(), Errno::ENXIO);
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[test]
fn device_that_the_kernel_waits_for_is_an_error() {
    let mut machine = Machine::polled(Discipline::Combine);
    assert!(machine.send(&frame(0, 60)));
    machine.port.txsync().unwrap();
    machine.hold.asked_back.store(true, Ordering::Relaxed);
    let error = error_of(&mut machine);
    assert_eq!(error.errno(), Errno::ENXIO);
    assert!(error.to_string().contains("wants the device back"), "{error}");
    assert!(machine.port.rxsync().is_err(), "it goes on waiting");
}

#[test]
fn closed_port_leaves_a_device_that_touches_no_memory() {
    let Machine { bus, port, hold } = Machine::polled(Discipline::Csb);
    drop(port);
    assert_eq!(bus.read32(e1000pv::regs::RCTL) & 2, 0);
    assert_eq!(bus.read32(e1000pv::regs::TCTL) & 2, 0);
    assert_eq!(bus.read32(e1000pv::regs::RDLEN), 0);
    assert_eq!(Arc::strong_count(&hold), 1, "what accompanied it has gone");
}

/// uio_pci_generic, as far as a port sees it: a number that is there when an interrupt came, and COMMAND.
#[test]
fn line_is_open_only_before_a_sleep() {
    let events = tempfile::NamedTempFile::new().unwrap();
    let config = tempfile::tempfile().unwrap();
    config.set_len(64).unwrap();
    let command = Command::new(config, 0);
    command.write(0x0103).unwrap();
    let door = Door::uio(events.reopen().unwrap(), command.try_clone().unwrap()).unwrap();
    assert_eq!(command.read().unwrap(), 0x0503, "masked, and nothing else changed");
    command.change(MASTER, 0).unwrap();
    let mut machine = Machine::new(Discipline::Plain, door);
    let enabled = |bus: &Bus| bus.read32(e1000pv::regs::IMS);
    assert_ne!(enabled(&machine.bus), 0);
    machine.port.arm(Interest::RX);
    assert_eq!(command.read().unwrap(), 0x0107, "open");
    assert!(machine.offer(&frame(1, 60)));
    machine.run();
    assert!(machine.bus.model.is_interrupting());
    // The kernel masks the line and tells.
    command.write(0x0507).unwrap();
    fs::write(events.path(), 1u32.to_ne_bytes()).unwrap();
    assert_eq!(machine.received(), [frame(1, 60)]);
    assert!(!machine.bus.model.is_interrupting(), "ICR was read");
    assert_eq!(command.read().unwrap(), 0x0507, "masked until the next sleep");
    machine.port.arm(Interest::RX);
    assert_eq!(command.read().unwrap(), 0x0107);
}

/// The same by VFIO: an eventfd that counts interrupts, and one that takes the mask away.
#[test]
fn line_of_vfio_is_unmasked_only_before_a_sleep() {
    let line = Line::new().unwrap();
    let (events, unmask) =
        [&line.events, &line.unmask].map(|end| end.as_fd().try_clone_to_owned().unwrap()).into();
    let unmasked = || {
        let mut count = [0; 8];
        nix::unistd::read(&unmask, &mut count).is_ok()
    };
    let mut machine = Machine::new(Discipline::Plain, Door::vfio(line));
    assert!(!unmasked(), "masked");
    machine.port.arm(Interest::RX);
    assert!(unmasked());
    machine.port.arm(Interest::RX);
    assert!(!unmasked(), "once is enough");
    assert!(machine.offer(&frame(1, 60)));
    machine.run();
    assert!(machine.bus.model.is_interrupting());
    // The kernel masks the line and tells.
    nix::unistd::write(&events, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(machine.received(), [frame(1, 60)]);
    assert!(!machine.bus.model.is_interrupting(), "ICR was read");
    assert!(!unmasked(), "masked until the next sleep");
    machine.port.arm(Interest::RX);
    assert!(unmasked());
}

/// What came while the program was awake does not ring when it goes to sleep, and is seen by the look before it.
#[test]
fn causes_of_busy_times_are_taken_before_a_sleep() {
    let config = tempfile::tempfile().unwrap();
    config.set_len(64).unwrap();
    let events = fs::File::open("/dev/null").unwrap();
    let door = Door::uio(events, Command::new(config, 0)).unwrap();
    let mut machine = Machine::new(Discipline::Plain, door);
    assert!(machine.offer(&frame(1, 60)));
    assert_eq!(machine.received().len(), 1);
    assert!(machine.bus.model.is_interrupting());
    machine.port.arm(Interest::RX);
    assert!(!machine.bus.model.is_interrupting());
}
