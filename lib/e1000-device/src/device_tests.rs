//! The whole device, driven through its registers as drivers drive it.

use std::sync::atomic::AtomicU64;

use e1000pv::bits::{Ctrl, Eecd, Mdic, Rah, Rctl, Status, Tctl};
use e1000pv::desc::{LegacyTx, RxDesc, RxStatus, TxCmd, TxStatus};
use e1000pv::{eeprom, phy};

use super::*;
use crate::harness::{Counted, MockPort, monotonic_ns};
use crate::{Clock, GuestRam, InterruptLine};

const RAM: u64 = 1 << 20;
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;
const CSB: u64 = 0x3000;
const BUFFERS: u64 = 0x10000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Remembers what it was told last, and how often it was asked to wake the I/O thread.
#[derive(Debug, Default)]
struct Wires {
    intx: AtomicBool,
    doorbell: AtomicBool,
    wakes: AtomicU64,
}

impl InterruptLine for Wires {
    fn set_intx(&self, level: bool) {
        assert_ne!(self.intx.swap(level, Ordering::Relaxed), level, "told of a change only");
    }
}

impl Clock for Wires {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for Wires {
    fn set_doorbell(&self, on: bool) {
        assert_ne!(self.doorbell.swap(on, Ordering::Relaxed), on, "told of a change only");
    }

    fn wake_io(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    nic: E1000<GuestRam, MockPort>,
    wires: Arc<Wires>,
    ram: GuestRam,
    counters: Arc<Counted>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let ram = GuestRam::anonymous(RAM).unwrap();
        let wires = Arc::new(Wires::default());
        let counters = Arc::new(Counted::default());
        let config = Config { mac: MAC, ..config };
        let port = MockPort::new(64, false);
        let nic = E1000::new(config, ram.clone(), port, wires.clone(), counters.clone());
        Self { nic, wires, ram, counters }
    }

    fn read(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.nic.mmio_read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u32, value: u32) {
        self.nic.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn mdi(&self, command: Mdic) -> Mdic {
        self.write(regs::MDIC, command.bits());
        Mdic::from_bits_retain(self.read(regs::MDIC))
    }

    fn intx(&self) -> bool {
        self.wires.intx.load(Ordering::Relaxed)
    }

    fn doorbell(&self) -> bool {
        self.wires.doorbell.load(Ordering::Relaxed)
    }

    fn wakes(&self) -> u64 {
        self.wires.wakes.swap(0, Ordering::Relaxed)
    }

    /// Rings of 8, transmitter and receiver on, everything unmasked; 7 receive buffers.
    fn open(&self) {
        for (base, low, high, length, head, tail) in [
            (TX_RING, regs::TDBAL, regs::TDBAH, regs::TDLEN, regs::TDH, regs::TDT),
            (RX_RING, regs::RDBAL, regs::RDBAH, regs::RDLEN, regs::RDH, regs::RDT),
        ] {
            self.write(low, base as u32);
            self.write(high, (base >> 32) as u32);
            self.write(length, 128);
            self.write(head, 0);
            self.write(tail, 0);
        }
        for i in 0..8 {
            let buffer_addr = BUFFERS + 2048 * i;
            let d = RxDesc { buffer_addr, ..RxDesc::default() };
            assert!(self.ram.write(RX_RING + 16 * i, &d.to_bytes()));
        }
        self.write(regs::IMS, Icr::all().bits());
        self.write(regs::RCTL, (Rctl::EN | Rctl::BAM | Rctl::SECRC).bits());
        self.write(regs::TCTL, (Tctl::EN | Tctl::PSP).bits());
        self.write(regs::RDT, 7);
    }

    /// Puts a packet of 60 bytes into TX descriptor `i`.
    fn fill(&self, i: u64) {
        let buffer_addr = 0x40000 + 2048 * i;
        assert!(self.ram.write(buffer_addr, &[i as u8; 60]));
        let cmd = TxCmd::EOP | TxCmd::RS | TxCmd::IFCS;
        let d = LegacyTx { buffer_addr, length: 60, cmd, ..LegacyTx::default() };
        assert!(self.ram.write(TX_RING + 16 * i, &d.to_bytes()));
    }

    fn is_sent(&self, i: u64) -> bool {
        let mut bytes = [0; 16];
        assert!(self.ram.read(TX_RING + 16 * i, &mut bytes));
        LegacyTx::from_bytes(bytes).status.contains(TxStatus::DD)
    }

    fn sent(&self) -> u64 {
        path::lock(&self.nic.path).port().sent()
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM as usize];
        assert!(self.ram.read(0, &mut bytes));
        bytes
    }

    fn map_csb(&self, on: u32) {
        let page = CsbPage::new(&self.ram, CSB).unwrap();
        csb::guest_init(&page, 1);
        page.store(Field::GuestCsbOn, on);
        self.write(regs::CSBAH, 0);
        self.write(regs::CSBAL, CSB as u32);
    }
}

/// What the Linux driver does with this chip until it knows its address.
#[test]
fn probe_of_a_stock_driver_succeeds() {
    let b = Bench::new(Config::default());
    b.write(regs::IMC, u32::MAX);
    b.write(regs::RCTL, 0);
    b.write(regs::TCTL, Tctl::PSP.bits());
    // The reset through BAR1.
    b.nic.io_write(0, &regs::CTRL.to_le_bytes());
    let ctrl = b.read(regs::CTRL);
    b.nic.io_write(4, &(ctrl | Ctrl::RST.bits()).to_le_bytes());
    assert_eq!(b.read(regs::CTRL) & Ctrl::RST.bits(), 0, "clears itself");
    assert_eq!(b.counters.value(Count::Resets), 1);
    b.write(regs::IMC, u32::MAX);
    b.read(regs::ICR);
    b.write(regs::EECD, b.read(regs::EECD) | Eecd::EE_REQ.bits());
    let eecd = Eecd::from_bits_retain(b.read(regs::EECD));
    assert!(eecd.contains(Eecd::EE_GNT | Eecd::EE_PRES) && !eecd.contains(Eecd::EE_SIZE));
    let mut words = [0_u16; eeprom::WORDS];
    for (address, word) in (0..).zip(&mut words) {
        b.write(regs::EERD, address << 8 | 1);
        *word = (b.read(regs::EERD) >> 16) as u16;
    }
    assert_eq!((eeprom::sum(&words), eeprom::mac(&words)), (eeprom::CHECKSUM, MAC));
    let id = [phy::PHY_ID1, phy::PHY_ID2].map(|register| {
        let m = b.mdi(Mdic::command(Mdic::OP_READ, register, 0));
        assert!(m.contains(Mdic::R) && !m.contains(Mdic::E));
        m.data()
    });
    assert_eq!(id, [0x0141, 0x0C20]);
    assert_eq!(b.read(regs::RAL), u32::from_le_bytes([2, 0, 0, 0]));
    assert_eq!(b.read(regs::RAH), u32::from_le_bytes([0, 1, 0, 0]) | Rah::AV.bits());
    let up = Status::LU | Status::FD | Status::SPEED_1000;
    assert!(Status::from_bits_retain(b.read(regs::STATUS)).contains(up));
}

/// The patterns of `ethtool -t`, with the masks that it has for this chip.
#[test]
fn register_test_of_a_stock_driver_succeeds() {
    let b = Bench::new(Config::default());
    let all = u32::MAX;
    for (offset, mask, written) in [
        (regs::FCAL, all, all),
        (regs::FCAH, 0xFFFF, all),
        (regs::FCT, 0xFFFF, all),
        (regs::VET, 0xFFFF, all),
        (regs::RDTR, 0xFFFF, all),
        (regs::RDBAH, all, all),
        (regs::RDLEN, 0x000F_FF80, 0x000F_FFFF),
        (regs::RDH, 0xFFFF, 0xFFFF),
        (regs::RDT, 0xFFFF, 0xFFFF),
        (regs::FCRTH, 0xFFF8, 0xFFF8),
        (regs::FCTTV, 0xFFFF, 0xFFFF),
        (regs::TIPG, 0x3FFF_FFFF, 0x3FFF_FFFF),
        (regs::TDBAH, all, all),
        (regs::TDLEN, 0x000F_FF80, 0x000F_FFFF),
        (regs::RDBAL, 0xFFFF_FFF0, all),
        (regs::TDBAL, 0xFFFF_FFF0, all),
        (regs::TXCW, 0xC000_FFFF, 0xFFFF),
        (regs::TIDV, 0xFFFF, 0xFFFF),
        (regs::RAL + 8 * 15, all, all),
        (regs::RAH + 8 * 15, 0x8003_FFFF, all),
        (regs::MTA + 4 * 127, all, all),
    ] {
        for pattern in [0x5A5A_5A5A, 0xA5A5_A5A5, 0, all] {
            let value = pattern & written;
            b.write(offset, value);
            assert_eq!(b.read(offset) & mask, value & mask, "{offset:#x}");
        }
    }
    for (offset, mask, value) in
        [(regs::RCTL, all, 0), (regs::RCTL, 0x06DF_B3FE, 0x003F_FFFB), (regs::TCTL, all, 0)]
    {
        b.write(offset, value);
        assert_eq!(b.read(offset) & mask, value & mask, "{offset:#x}");
    }
    let status = b.read(regs::STATUS);
    b.write(regs::STATUS, !status);
    assert_eq!(b.read(regs::STATUS), status);
}

#[test]
fn accesses_of_any_width_have_one_meaning() {
    let b = Bench::new(Config::default());
    b.nic.mmio_write(regs::TDBAL.into(), &0x1_2345_6780_u64.to_le_bytes());
    assert_eq!((b.read(regs::TDBAL), b.read(regs::TDBAH)), (0x2345_6780, 1));
    assert_eq!(b.counters.value(Count::BadAccesses), 0, "a pair");
    b.nic.mmio_write(u64::from(regs::TDBAL) + 1, &[0xFF]);
    assert_eq!(b.read(regs::TDBAL), 0x2345_FF80, "the other bytes stay");
    let mut two = [0; 2];
    b.nic.mmio_read(u64::from(regs::TDBAL) + 3, &mut two);
    assert_eq!(two, [0x23, 1], "of this register and of the one behind");
    b.write(regs::ICS, 0xFF00);
    b.nic.mmio_write(regs::IMS.into(), &[0x04]);
    b.nic.mmio_write(regs::IMS.into(), &[0x80]);
    assert_eq!(b.read(regs::IMS), 0x84, "a mask is only added to");
    assert_eq!(b.counters.value(Count::BadAccesses), 4);
}

#[test]
fn every_offset_takes_every_width() {
    let b = Bench::new(Config::default());
    for offset in (0..0x2_0010_u64).chain([u64::MAX - 3]) {
        for width in [1, 2, 3, 4, 8] {
            let mut data = [0xA5; 8];
            b.nic.mmio_read(offset, &mut data[..width]);
            b.nic.mmio_write(offset, &[0x5A; 8][..width]);
        }
    }
    let mut data = [7; 4];
    b.nic.mmio_read(0x1_5000, &mut data);
    assert_eq!(data, [0; 4], "nothing is there");
    b.nic.reset();
    assert_eq!(b.read(regs::RAL), u32::from_le_bytes([2, 0, 0, 0]));
}

#[test]
fn io_window_reaches_registers_and_nothing_else() {
    let b = Bench::new(Config::default());
    let read = |offset| {
        let mut data = [0xFF; 4];
        b.nic.io_read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    b.nic.io_write(0, &regs::VET.to_le_bytes());
    assert_eq!((read(0), read(4)), (regs::VET, 0x8100));
    b.nic.io_write(4, &0x1234_u32.to_le_bytes());
    assert_eq!(b.read(regs::VET), 0x1234);
    assert_eq!(read(8), 0);
    b.nic.io_write(0, &[0xFF; 4]);
    assert_eq!(read(4), 0);
    for offset in 0..64 {
        for width in [1, 2, 4] {
            let mut data = [0; 4];
            b.nic.io_read(offset, &mut data[..width]);
            b.nic.io_write(offset, &[0xFF; 4][..width]);
        }
    }
}

#[test]
fn tail_write_wakes_the_io_thread_and_the_round_sends() {
    let b = Bench::new(Config::default());
    b.open();
    b.fill(0);
    b.wakes();
    b.write(regs::TDT, 1);
    assert_eq!((b.wakes(), b.sent()), (1, 0), "not in the vCPU thread");
    b.nic.round(monotonic_ns());
    assert_eq!((b.sent(), b.is_sent(0), b.intx()), (1, true, true));
    let icr = Icr::from_bits_retain(b.read(regs::ICR));
    assert!(icr.contains(Icr::TXDW | Icr::INT_ASSERTED), "{icr:?}");
    assert!(!b.intx());
    assert_eq!((b.read(regs::GPTC), b.read(regs::GPTC)), (1, 0));
    assert_eq!(b.read(regs::TDH), 1);
}

#[test]
fn inline_the_tail_write_sends() {
    let b = Bench::new(Config { tx_mode: TxMode::Inline, ..Config::default() });
    b.open();
    b.fill(0);
    b.write(regs::TDT, 1);
    assert_eq!((b.sent(), b.is_sent(0), b.intx()), (1, true, true));
    b.map_csb(1);
    assert!(!b.doorbell(), "the vCPU has to come here");
}

#[test]
fn packet_is_received_into_the_guests_buffer() {
    let b = Bench::new(Config::default());
    b.open();
    let mut packet = vec![9; 60];
    packet[..6].copy_from_slice(&MAC);
    b.nic.round(0);
    assert!(path::lock(&b.nic.path).port().offer(&packet, 2048));
    b.nic.round(monotonic_ns());
    let mut bytes = [0; 16];
    assert!(b.ram.read(RX_RING, &mut bytes));
    let d = RxDesc::from_bytes(bytes);
    assert!(d.status.contains(RxStatus::DD | RxStatus::EOP));
    let mut data = vec![0; usize::from(d.length)];
    assert!(b.ram.read(BUFFERS, &mut data));
    assert_eq!(data, packet);
    assert!(Icr::from_bits_retain(b.read(regs::ICR)).contains(Icr::RXT0));
    assert_eq!(b.read(regs::GPRC), 1);
}

#[test]
fn csb_brings_a_doorbell_and_reset_takes_both_away() {
    let b = Bench::new(Config::default());
    b.open();
    b.map_csb(1);
    assert!(b.doorbell() && b.nic.core.csb().is_some());
    b.write(regs::CTRL, Ctrl::RST.bits());
    assert!(!b.doorbell() && b.nic.core.csb().is_none());
    b.open();
    b.map_csb(1);
    b.write(regs::CSBAL, 0);
    assert!(!b.doorbell() && b.nic.core.csb().is_none(), "zero unmaps");
}

#[test]
fn csb_outside_memory_is_counted_and_not_mapped() {
    let b = Bench::new(Config::default());
    for (high, low) in [(0, RAM as u32), (1, 0), (u32::MAX, u32::MAX), (0, 0x3002)] {
        b.write(regs::CSBAH, high);
        b.write(regs::CSBAL, low);
        assert!(!b.doorbell() && b.nic.core.csb().is_none());
    }
    assert_eq!(b.counters.value(Count::CsbBad), 4);
}

#[test]
fn device_without_csb_has_no_such_registers() {
    let b = Bench::new(Config { csb: false, ..Config::default() });
    b.write(regs::CSBAH, 0);
    b.write(regs::CSBAL, CSB as u32);
    assert_eq!(b.read(regs::CSBAL), 0);
    assert!(!b.doorbell());
    b.write(regs::EERD, 0x0B << 8 | 1);
    assert_eq!(b.read(regs::EERD) >> 16, 0x001E);
}

#[test]
fn with_csb_interrupts_come_to_who_waits_only() {
    let b = Bench::new(Config { moderation: false, ..Config::default() });
    b.open();
    b.map_csb(1);
    let page = b.nic.core.csb().unwrap();
    page.store(Field::GuestNeedTxkick, 2);
    for i in 0..2 {
        b.fill(i);
    }
    assert!(b.nic.before_sleep());
    assert!(csb::tx_publish(&page, 1), "asleep, a kick is wanted");
    b.nic.kicked();
    b.nic.after_sleep();
    b.nic.round(monotonic_ns());
    assert!(b.nic.before_sleep());
    b.nic.after_sleep();
    assert_eq!((page.load(Field::HostTdh), b.intx()), (1, false));
    assert!(csb::tx_want_interrupt(&page, || page.load(Field::HostTdh) == 2));
    page.store(Field::GuestTdt, 2);
    b.nic.round(monotonic_ns());
    b.nic.before_sleep();
    assert_eq!((page.load(Field::HostTdh), b.intx()), (2, true));
}

/// The doorbell loses TDT, and a guest that has mapped the CSB may not have switched it on.
#[test]
fn doorbell_of_a_mapped_csb_that_is_off_takes_the_tail_from_it() {
    let b = Bench::new(Config::default());
    b.open();
    b.map_csb(0);
    b.fill(0);
    let page = b.nic.core.csb().unwrap();
    page.store(Field::GuestTdt, 1);
    b.nic.kicked();
    b.nic.round(monotonic_ns());
    assert_eq!((b.sent(), b.is_sent(0)), (1, true));
}

#[test]
fn lost_link_is_told_and_stops_traffic() {
    let b = Bench::new(Config::default());
    b.open();
    b.nic.link(false);
    assert_eq!(b.read(regs::STATUS) & Status::LU.bits(), 0);
    assert!(b.intx());
    assert_eq!(b.read(regs::ICR), (Icr::LSC | Icr::INT_ASSERTED).bits());
    b.fill(0);
    b.write(regs::TDT, 1);
    b.nic.round(monotonic_ns());
    assert_eq!(b.sent(), 0);
    b.nic.link(true);
    assert!(Icr::from_bits_retain(b.nic.core.irq.peek().bits()).contains(Icr::LSC));
    b.nic.round(monotonic_ns());
    assert_eq!(b.sent(), 1);
}

#[test]
fn power_down_of_the_phy_takes_the_link_until_its_reset() {
    let b = Bench::new(Config::default());
    b.mdi(Mdic::command(Mdic::OP_WRITE, phy::PCTRL, phy::PCTRL_POWER_DOWN));
    assert!(!b.nic.core.link_up());
    b.write(regs::CTRL, b.read(regs::CTRL) | Ctrl::PHY_RST.bits());
    assert!(b.nic.core.link_up());
    assert_eq!(b.read(regs::CTRL) & Ctrl::PHY_RST.bits(), 0);
}

#[test]
fn mdi_interrupt_comes_when_it_was_asked_for() {
    let b = Bench::new(Config::default());
    b.mdi(Mdic::command(Mdic::OP_READ, phy::PSTATUS, 0));
    assert_eq!(b.read(regs::ICR), 0);
    b.mdi(Mdic::command(Mdic::OP_READ, phy::PSTATUS, 0) | Mdic::I);
    assert_eq!(b.read(regs::ICR), Icr::MDAC.bits());
}

#[test]
fn postponed_interrupt_of_a_register_write_wakes_the_io_thread_and_comes_in_time() {
    let b = Bench::new(Config::default());
    b.write(regs::ITR, 0xFFFF); // 16.8 ms
    b.write(regs::IMS, Icr::all().bits());
    b.write(regs::ICS, Icr::RXT0.bits());
    assert!(b.intx());
    b.read(regs::ICR);
    b.wakes();
    b.write(regs::ICS, Icr::RXT0.bits());
    assert_eq!((b.intx(), b.wakes()), (false, 1));
    let deadline = b.nic.timer(0).expect("one is postponed");
    assert_eq!(b.nic.timer(deadline - 1), Some(deadline));
    assert_eq!((b.nic.timer(deadline), b.intx()), (None, true));
}

#[test]
fn reset_in_mid_flight_leaves_a_device_that_works() {
    let b = Bench::new(Config::default());
    for _ in 0..3 {
        b.open();
        path::lock(&b.nic.path).port().take_next(0);
        b.fill(0);
        b.write(regs::TDT, 1);
        b.nic.round(monotonic_ns());
        assert!(!b.is_sent(0), "the port is full");
        b.write(regs::CTRL, Ctrl::RST.bits());
        assert!(!b.intx());
        assert_eq!((b.read(regs::TDT), b.read(regs::RCTL), b.read(regs::IMS)), (0, 0, 0));
        b.open();
        b.fill(0);
        b.write(regs::TDT, 1);
        b.nic.round(monotonic_ns());
        b.nic.round(monotonic_ns());
        assert!(b.is_sent(0));
        b.nic.reset();
    }
    assert_eq!(b.sent(), 3, "what the port had not taken was taken back");
}

/// Linux takes a transmitter that stands still for a second for one that hangs, unless STATUS says so.
#[test]
fn a_port_that_is_full_pauses_the_transmitter() {
    let b = Bench::new(Config::default());
    let paused = || Status::from_bits_retain(b.read(regs::STATUS)).contains(Status::TXOFF);
    let sends_what_nobody_takes = || {
        b.open();
        path::lock(&b.nic.path).port().take_next(0);
        b.fill(0);
        b.write(regs::TDT, 1);
        b.nic.round(monotonic_ns());
        assert!(!b.is_sent(0) && paused());
    };
    assert!(!paused());

    sends_what_nobody_takes();
    b.nic.round(monotonic_ns());
    assert!(b.is_sent(0) && !paused(), "the port has taken it");

    b.nic.reset();
    sends_what_nobody_takes();
    b.write(regs::CTRL, Ctrl::RST.bits());
    assert!(!paused(), "nothing is left to wait");

    sends_what_nobody_takes();
    b.nic.set_bus_master(false);
    assert!(!paused(), "nothing is left to wait");
}

/// What a self-test of a driver does with each of the 17 bits (Linux: `ethtool -t`).
#[test]
fn forced_and_negotiated_speeds_are_in_status_and_told() {
    use e1000pv::bits::Speed;

    let b = Bench::new(Config::default());
    b.write(regs::IMS, Icr::LSC.bits());
    let status = || Status::from_bits_retain(b.read(regs::STATUS));
    assert_eq!(status().bits(), 0x383);
    let phy = |register, value| b.mdi(Mdic::command(Mdic::OP_WRITE, register, value));
    let lsc = || Icr::from_bits_retain(b.read(regs::ICR)).contains(Icr::LSC);
    // 100 Mb/s half duplex, forced as Linux does it.
    phy(phy::PCTRL, 0xA000);
    assert!(lsc() && b.read(regs::STATUS) == 0x142);
    assert_eq!(status().speed(), Speed::Mb100);
    // The MAC at 10 Mb/s full duplex, whatever the link is: no change of the link.
    b.write(regs::CTRL, (Ctrl::FRCSPD | Ctrl::FRCDPX | Ctrl::FD).bits());
    assert_eq!((b.read(regs::STATUS), lsc()), (0x103, false));
    b.write(regs::CTRL, 0);
    // Only 10 Mb/s full duplex is offered, then nothing.
    for (offer, told) in [(0x41, 0x003), (0x01, 0x001)] {
        phy(phy::GCON, 0);
        phy(phy::ANA, offer);
        phy(phy::PCTRL, 0x1340);
        assert!(lsc());
        assert_eq!(b.read(regs::STATUS), told, "{offer:#x}");
    }
    b.write(regs::CTRL, Ctrl::PHY_RST.bits());
    assert!(lsc());
    assert_eq!(b.read(regs::STATUS), 0x383);
}

#[test]
fn causes_without_a_name_are_raised_masked_and_cleared_like_others() {
    let b = Bench::new(Config { moderation: false, ..Config::default() });
    b.write(regs::IMC, u32::MAX);
    let _ = b.read(regs::ICR);
    for bit in 0..17 {
        let cause = 1 << bit;
        b.write(regs::ICS, cause);
        assert!(!b.intx(), "bit {bit} is masked");
        b.write(regs::IMS, cause);
        assert!(b.intx(), "bit {bit} was raised before");
        assert_eq!(b.read(regs::IMS), cause);
        assert_eq!(b.read(regs::ICR), cause | 1 << 31, "bit {bit}");
        assert!(!b.intx());
        // The others neither clear it nor stand for it.
        b.write(regs::ICS, cause);
        b.write(regs::ICR, !cause);
        b.write(regs::IMC, !cause);
        assert!(b.intx(), "bit {bit} is still there");
        b.write(regs::ICR, cause);
        assert!(!b.intx());
        b.write(regs::IMC, cause);
        assert_eq!((b.read(regs::IMS), b.read(regs::ICR)), (0, 0));
    }
}

#[test]
fn link_that_the_operator_takes_down_passes_nothing_and_loses_what_came() {
    for tx_mode in [TxMode::Thread, TxMode::Inline] {
        taken_down_and_let_up(&Bench::new(Config { tx_mode, ..Config::default() }));
    }
}

fn taken_down_and_let_up(b: &Bench) {
    b.open();
    b.read(regs::ICR);
    let lsc = || Icr::from_bits_retain(b.read(regs::ICR)).contains(Icr::LSC);
    b.nic.hold_link_down(true);
    assert!(lsc() && b.read(regs::STATUS) & Status::LU.bits() == 0);
    b.nic.link(true);
    assert!(!lsc() && b.read(regs::STATUS) & Status::LU.bits() == 0, "not by the cable");
    b.fill(0);
    b.write(regs::TDT, 1);
    path::lock(&b.nic.path).port().offer(&[0xFF; 60], 2048);
    b.nic.round(0);
    assert_eq!((b.sent(), b.read(regs::RDH)), (0, 0));
    b.nic.hold_link_down(false);
    assert!(lsc() && b.read(regs::STATUS) & Status::LU.bits() != 0);
    path::lock(&b.nic.path).port().offer(&[0xFF; 61], 2048);
    b.nic.round(0);
    assert_eq!((b.sent(), b.read(regs::RDH)), (1, 1), "what came meanwhile is lost");
}

#[path = "device_tests_pci.rs"]
mod pci;
