//! Tests of both engines, descriptor by descriptor, on a port without a network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use e1000pv::bits::{Ctrl, Icr, Rctl, Tctl};
use e1000pv::csb::{self, Csb, Field};
use e1000pv::desc::{ContextTx, DataTx, LegacyTx, Popts, RxDesc, RxErrors, RxStatus, TxCmd};
use e1000pv::regs;

use super::*;
use crate::harness::{Counted, MockPort, monotonic_ns};
use crate::{Board, Clock, Config, E1000, GuestRam, InterruptLine};

const RAM_BYTES: u64 = 1 << 20;
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;
const CSB_AT: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER_BYTES: u64 = 0x1000;
/// Descriptors of either ring.
const N: u32 = 16;
const SLOTS: usize = 64;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[derive(Debug, Default)]
struct Line(AtomicU32);

impl InterruptLine for Line {
    fn set_intx(&self, level: bool) {
        self.0.fetch_add(u32::from(level), Ordering::Relaxed);
    }
}

impl Clock for Line {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl Board for Line {
    fn set_doorbell(&self, _: bool) {}
    fn wake_io(&self) {}
}

/// A device with both rings set up and no guest: the test plays the guest.
struct Rig {
    nic: E1000<GuestRam, MockPort>,
    ram: GuestRam,
    line: Arc<Line>,
    counters: Arc<Counted>,
    tail: u32,
}

impl Rig {
    fn new(config: Config) -> Self {
        let ram = GuestRam::anonymous(RAM_BYTES).unwrap();
        let line = Arc::new(Line::default());
        let board = Arc::clone(&line) as Arc<dyn Board>;
        let config = Config { mac: MAC, moderation: false, ..config };
        let port = MockPort::new(SLOTS, true);
        let counters = Arc::new(Counted::default());
        let nic = E1000::new(config, ram.clone(), port, board, counters.clone());
        let rig = Self { nic, ram, line, counters, tail: 0 };
        rig.write(regs::TDBAL, TX_RING as u32);
        rig.write(regs::TDLEN, 16 * N);
        rig.write(regs::RDBAL, RX_RING as u32);
        rig.write(regs::RDLEN, 16 * N);
        rig.write(regs::TCTL, Tctl::EN.bits());
        rig.write(regs::RCTL, (Rctl::EN | Rctl::SECRC | Rctl::BAM).bits());
        rig.write(regs::IMS, u32::MAX);
        for i in 0..N {
            rig.give(i, BUFFERS + u64::from(i) * BUFFER_BYTES);
        }
        rig
    }

    fn plain() -> Self {
        Self::new(Config::default())
    }

    /// With a CSB, and a guest that waits for both kinds of interrupt.
    fn with_csb(percent: u32, timer_ns: u64) -> (Self, CsbPage<GuestRam>) {
        let rig = Self::new(Config { wake: Wake { percent, timer_ns }, ..Config::default() });
        let page = CsbPage::new(&rig.ram, CSB_AT).unwrap();
        csb::guest_init(&page, 0);
        page.store(Field::GuestCsbOn, 1);
        page.store(Field::GuestNeedTxkick, 1);
        rig.write(regs::CSBAL, CSB_AT as u32);
        (rig, page)
    }

    fn write(&self, offset: u32, value: u32) {
        self.nic.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn read(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.nic.mmio_read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn counter(&self, which: Count) -> u64 {
        self.counters.value(which)
    }

    fn interrupts(&self) -> u32 {
        self.line.0.load(Ordering::Relaxed)
    }

    fn rounds(&self) {
        for _ in 0..100 {
            let next = self.nic.round(0);
            if next.work == 0 {
                return;
            }
        }
        panic!("rounds go on for ever");
    }

    // Transmission.

    /// Puts bytes to memory and returns where.
    fn place(&self, at: u64, bytes: &[u8]) -> u64 {
        assert!(self.ram.write(BUFFERS + at, bytes));
        BUFFERS + at
    }

    fn push(&mut self, desc: [u8; 16]) {
        assert!(self.ram.write(TX_RING + 16 * u64::from(self.tail), &desc));
        self.tail = (self.tail + 1) % N;
    }

    fn legacy(&mut self, address: u64, length: u16, cmd: TxCmd) {
        let desc = LegacyTx { buffer_addr: address, length, cmd, ..LegacyTx::default() };
        self.push(desc.to_bytes());
    }

    fn send(&self) -> Vec<Vec<u8>> {
        self.write(regs::TDT, self.tail);
        self.rounds();
        self.nic.with_port(MockPort::take_sent)
    }

    fn is_done(&self, index: u32) -> bool {
        let mut desc = [0; 16];
        assert!(self.ram.read(TX_RING + 16 * u64::from(index), &mut desc));
        desc[12] & 1 != 0
    }

    // Reception.

    fn give(&self, index: u32, address: u64) {
        let desc = RxDesc { buffer_addr: address, ..RxDesc::default() };
        assert!(self.ram.write(RX_RING + 16 * u64::from(index), &desc.to_bytes()));
    }

    fn offer(&self, frame: &[u8]) {
        assert!(self.nic.with_port(|port| port.offer(frame, 2048)));
    }

    fn received(&self, index: u32) -> (RxDesc, Vec<u8>) {
        let mut desc = [0; 16];
        assert!(self.ram.read(RX_RING + 16 * u64::from(index), &mut desc));
        let desc = RxDesc::from_bytes(desc);
        let mut data = vec![0; desc.length.into()];
        assert!(self.ram.read(desc.buffer_addr, &mut data));
        (desc, data)
    }
}

fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = [&MAC[..], &[2, 0, 0, 0, 0, 2], &[0x88, 0xb5]].concat();
    frame.extend((14..bytes).map(|i| (i * 13) as u8));
    frame
}

const LAST: TxCmd = TxCmd::EOP.union(TxCmd::RS);

#[test]
fn packet_over_several_descriptors_is_sent_as_one() {
    let mut rig = Rig::plain();
    let all = frame(300);
    let at = rig.place(0, &all);
    rig.legacy(at, 5, TxCmd::RS);
    rig.legacy(at + 5, 200, TxCmd::empty());
    rig.legacy(at + 205, 95, LAST);
    assert_eq!(rig.send(), [all]);
    assert!(rig.is_done(0) && !rig.is_done(1) && rig.is_done(2));
    assert_eq!((rig.read(regs::TDH), rig.read(regs::GPTC)), (3, 1));
}

#[test]
fn port_with_damaged_indices_is_mended_by_a_sync() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 60, LAST);
    rig.nic.with_port(MockPort::damage);
    assert!(rig.send().is_empty());
    assert_eq!(rig.send(), [frame(60)]);
}

#[test]
fn first_part_of_a_packet_waits_for_the_rest() {
    let mut rig = Rig::plain();
    let all = frame(100);
    let at = rig.place(0, &all);
    rig.legacy(at, 60, TxCmd::empty());
    assert!(rig.send().is_empty());
    rig.legacy(at + 60, 40, LAST);
    assert_eq!(rig.send(), [all]);
}

#[test]
fn packet_with_a_bad_address_is_dropped_and_the_next_is_sent() {
    let mut rig = Rig::plain();
    let all = frame(60);
    let at = rig.place(0, &all);
    for address in [RAM_BYTES - 59, RAM_BYTES, u64::MAX - 5] {
        rig.legacy(address, 60, LAST);
    }
    rig.legacy(RAM_BYTES, 10, TxCmd::empty());
    rig.legacy(at, 60, LAST);
    rig.legacy(at, 60, LAST);
    assert_eq!(rig.send(), [all]);
    assert_eq!(rig.counter(Count::TxBad), 4);
    assert!(rig.is_done(0) && rig.is_done(4) && rig.is_done(5));
}

#[test]
fn short_frames_are_padded_if_asked_for_and_fragments_dropped() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 20, LAST);
    rig.legacy(at, 13, LAST);
    rig.legacy(at, 0, LAST);
    assert_eq!(rig.send(), [frame(60)[..20].to_vec()]);
    assert_eq!(rig.counter(Count::TxBad), 2);
    rig.write(regs::TCTL, (Tctl::EN | Tctl::PSP).bits());
    rig.legacy(at, 20, LAST);
    let mut padded = frame(60)[..20].to_vec();
    padded.resize(60, 0);
    assert_eq!(rig.send(), [padded]);
}

#[test]
fn frame_longer_than_a_slot_takes_several_and_one_too_long_is_dropped() {
    let mut rig = Rig::plain();
    let all = frame(9000);
    let at = rig.place(0, &all);
    rig.legacy(at, 9000, LAST);
    rig.legacy(at, 16289, LAST);
    assert_eq!(rig.send(), [all]);
    assert_eq!(rig.counter(Count::TxBad), 1);
}

#[test]
fn tag_is_inserted_if_vlans_are_on() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    let desc = LegacyTx {
        buffer_addr: at,
        length: 60,
        cmd: LAST | TxCmd::VLE,
        special: 0x6123,
        ..LegacyTx::default()
    };
    rig.push(desc.to_bytes());
    assert_eq!(rig.send(), [frame(60)], "CTRL.VME is clear");
    rig.write(regs::CTRL, rig.read(regs::CTRL) | Ctrl::VME.bits());
    rig.push(desc.to_bytes());
    let mut tagged = frame(60);
    tagged.splice(12..12, [0x81, 0, 0x61, 0x23]);
    assert_eq!(rig.send(), [tagged]);
}

#[test]
fn legacy_checksum_is_inserted() {
    let mut rig = Rig::plain();
    let mut all = frame(60);
    all[40..42].fill(0);
    let desc = LegacyTx {
        buffer_addr: rig.place(0, &all),
        length: 60,
        cso: 40,
        css: 14,
        cmd: LAST | TxCmd::IC,
        ..LegacyTx::default()
    };
    rig.push(desc.to_bytes());
    let sent = rig.send();
    let sum =
        sent[0][14..].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "with its checksum a packet sums to ones");
}

#[test]
fn done_means_taken_by_the_port() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    (0..4).for_each(|_| rig.legacy(at, 60, LAST));
    rig.nic.with_port(|port| port.take_next(3));
    rig.nic.with_port(|port| port.take_next(0));
    rig.write(regs::TDT, rig.tail);
    rig.nic.round(0);
    assert_eq!((rig.read(regs::TDH), rig.is_done(2), rig.is_done(3)), (3, true, false));
    assert_eq!(rig.read(regs::ICR) & Icr::TX.bits(), Icr::TXDW.bits(), "not empty yet");
    rig.nic.round(0); // takes nothing
    assert_eq!(rig.read(regs::TDH), 3);
    rig.nic.round(0);
    assert_eq!((rig.read(regs::TDH), rig.is_done(3)), (4, true));
    assert!(Icr::from_bits_retain(rig.read(regs::ICR)).contains(Icr::TX));
}

#[test]
fn reset_takes_back_what_the_port_has_not_taken() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    (0..4).for_each(|_| rig.legacy(at, 60, LAST));
    rig.nic.with_port(|port| port.take_next(1));
    rig.write(regs::TDT, rig.tail);
    rig.nic.round(0);
    rig.write(regs::CTRL, Ctrl::RST.bits());
    rig.nic.round(0);
    assert_eq!(rig.nic.with_port(|port| port.sent()), 1);
    assert!(rig.nic.before_sleep(), "nothing is left to do");
}

#[test]
fn wild_index_in_the_csb_stops_the_data_path_until_a_reset() {
    for field in [Field::GuestTdt, Field::GuestRdt] {
        let (mut rig, page) = Rig::with_csb(75, 50_000);
        let at = rig.place(0, &frame(60));
        rig.legacy(at, 60, LAST);
        page.store(Field::GuestTdt, 1);
        page.store(field, N);
        rig.rounds();
        page.store(field, 1);
        rig.rounds();
        assert_eq!(rig.counter(Count::CsbBad), 1);
        assert!(rig.nic.before_sleep(), "there is nothing to do");
        rig.nic.after_sleep();
        let sent = rig.nic.with_port(|port| port.sent());
        assert_eq!(sent, u64::from(field == Field::GuestRdt), "TX was there first");
        rig.write(regs::CSBAL, CSB_AT as u32);
        rig.rounds();
        assert_eq!(rig.nic.with_port(|port| port.sent()), 1, "the CSB was mapped anew");
    }
}

#[test]
fn round_says_whether_its_work_was_worth_it() {
    let mut rig = Rig::plain();
    let address = rig.place(0, &frame(60));
    // Rings of 16: half of one bounds a round, a quarter is enough.
    for (packets, size) in [
        (0, Size::One),
        (1, Size::One),
        (2, Size::Few),
        (3, Size::Few),
        (4, Size::Enough),
        (9, Size::Many),
    ] {
        for _ in 0..packets {
            rig.legacy(address, 60, TxCmd::EOP);
        }
        rig.write(regs::TDT, rig.tail);
        let next = rig.nic.round(0);
        assert_eq!((next.work, next.size), (packets, size));
        assert_eq!(rig.send().len(), packets as usize);
    }
}

#[test]
fn silly_rings_do_nothing() {
    for (base, length) in
        [(0, 0), (RAM_BYTES as u32, 128), (TX_RING as u32, u32::MAX), (0xffff_fff0, 256)]
    {
        let rig = Rig::plain();
        for (low, len, tail) in
            [(regs::TDBAL, regs::TDLEN, regs::TDT), (regs::RDBAL, regs::RDLEN, regs::RDT)]
        {
            rig.write(low, base);
            rig.write(len, length);
            rig.write(tail, 5);
        }
        rig.offer(&frame(60));
        rig.rounds();
        assert!(rig.nic.before_sleep(), "{base:#x} {length:#x}");
        assert_eq!(rig.nic.with_port(|port| (port.sent(), port.waiting())), (0, 1));
    }
}

#[path = "path_tests_loopback.rs"]
mod loopback;

#[path = "path_tests_rings.rs"]
mod rings;

#[path = "path_tests_rx.rs"]
mod reception;

#[path = "path_tests_tso.rs"]
mod segmentation;
