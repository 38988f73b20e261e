//! Exits of a guest that makes up ports, addresses, widths and values.

use e1000_device::harness::{Counted, MockPort};
use e1000_device::{Board, Clock, Config, E1000, GuestRam, InterruptLine};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::machine::com1::Edge;
use crate::machine::intx::{Intx, Nowhere};
use crate::machine::pci::config::May;
use crate::machine::pci::{Endpoint, identity};
use crate::machine::serial::{Console, Sink};
use crate::stats::counters::VmCounters;

#[derive(Debug)]
struct Line(Arc<Intx>);

impl InterruptLine for Line {
    fn set_intx(&self, level: bool) {
        self.0.set(0, level);
    }
}

impl Clock for Line {
    fn now_ns(&self) -> u64 {
        crate::host::clock::monotonic_ns()
    }
}

impl Board for Line {
    fn set_doorbell(&self, _: bool) {}
    fn wake_io(&self) {}
}

#[derive(Debug)]
struct Function(Arc<E1000<GuestRam, MockPort>>);

impl Endpoint for Function {
    fn moved(&self, _: Option<u32>) {}

    fn may(&self, may: May) {
        self.0.set_bus_master(may.master);
        self.0.set_intx_disabled(!may.interrupt);
    }

    fn is_interrupting(&self) -> bool {
        self.0.is_interrupting()
    }

    fn reset(&self) {
        self.0.reset();
    }
}

/// A machine with one NIC, whose idle call never sleeps.
fn machine() -> (Bus, Cpu, Arc<E1000<GuestRam, MockPort>>) {
    let ram = GuestRam::anonymous(1 << 20).expect("a megabyte");
    let intx = Arc::new(Intx::new(vec![layout::irq(0)], 1, Box::new(Nowhere)));
    intx.stop();
    let line = Arc::new(Line(Arc::clone(&intx)));
    let board = line as Arc<dyn Board>;
    let port = MockPort::new(64, true);
    let counters = Arc::new(Counted::default());
    let nic = Arc::new(E1000::new(Config::default(), ram.clone(), port, board, counters));
    let registers = Arc::clone(&nic) as Arc<dyn Registers>;
    let mut pci = PciBus::new();
    let decode =
        pci.add(layout::slot(0), identity::nic(0, true), Arc::new(Function(Arc::clone(&nic))));
    let idle = Arc::new(Idle::new(ram, intx, 1, vec![Arc::clone(&registers)]));
    let edge = Edge::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
    let room = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
    let console = Console::new(Sink::Null, Box::new(|| {}));
    let com1 = Arc::new(Com1::new(edge, room, console).expect("a descriptor"));
    let slots = vec![Slot { decode, registers }];
    let counters = VmCounters::new("bus", 1, 1).expect("a page").vcpu(0);
    let power = Arc::new(Power::new(Box::new(Nowhere)));
    (Bus::new(pci, slots, com1, power, Some(idle)), Cpu { index: 0, counters }, nic)
}

/// Ports at which devices answer, those at and beyond the ends of their ranges, and arbitrary ones.
fn ports() -> impl Strategy<Value = u16> {
    let near = |port: u16| (0u16..9).prop_map(move |add| port.wrapping_add(add).wrapping_sub(1));
    prop_oneof![
        near(layout::COM1.start),
        near(layout::PCI_ADDRESS),
        near(layout::PCI_DATA.start),
        near(layout::bar1(0)),
        near(IDLE_PORT),
        near(layout::KEYBOARD_COMMAND),
        any::<u16>(),
    ]
}

fn addresses() -> impl Strategy<Value = u64> {
    let bar0 = u64::from(layout::bar0(0));
    prop_oneof![
        (0..u64::from(layout::BAR0_BYTES) + 8).prop_map(move |offset| bar0 + offset),
        any::<u64>(),
        (0u64..16).prop_map(|less| u64::MAX - less),
    ]
}

#[test]
fn nic_moved_to_address_0_answers_nothing_at_the_end_of_the_address_space() {
    let (bus, cpu, _) = machine();
    let select = 1u32 << 31 | u32::from(layout::slot(0)) << 11 | 0x10;
    assert_eq!(bus.port_out(&cpu, layout::PCI_ADDRESS, &select.to_le_bytes()), None);
    assert_eq!(bus.port_out(&cpu, layout::PCI_DATA.start, &[0; 4]), None);
    for address in [u64::MAX, u64::MAX - 7] {
        let mut data = [0; 8];
        bus.mmio_read(&cpu, address, &mut data);
        assert_eq!(data, [0xff; 8], "{address:x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn exits_of_any_kind_are_answered(
        exits in prop::collection::vec(
            (ports(), addresses(), any::<[u8; 8]>(), 0usize..4, 0u8..5), 1..200)
    ) {
        let (bus, cpu, nic) = machine();
        for (port, address, mut data, width, kind) in exits {
            let width = 1 << width;
            match kind {
                0 => bus.port_in(&cpu, port, &mut data[..width.min(4)]),
                // Some writes end the guest, which is an answer.
                1 => drop(bus.port_out(&cpu, port, &data[..width.min(4)])),
                2 => bus.mmio_read(&cpu, address, &mut data[..width]),
                3 => bus.mmio_write(&cpu, address, &data[..width]),
                _ => {
                    nic.round(0);
                }
            }
        }
    }
}
