//! Reception, and whom it wakes when.

use super::*;

#[test]
fn frame_is_received_padded_and_with_crc_unless_stripped() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    rig.offer(&frame(20));
    rig.rounds();
    let (desc, data) = rig.received(0);
    let mut padded = frame(20);
    padded.resize(60, 0);
    assert_eq!(data, padded);
    assert_eq!(desc.status, RxStatus::DD | RxStatus::EOP | RxStatus::IXSM);
    rig.write(regs::RCTL, Rctl::EN.bits());
    rig.offer(&frame(60));
    rig.offer(&frame(61));
    rig.rounds();
    for (index, len) in [(1, 60), (2, 61)] {
        let mut with_crc = frame(len);
        with_crc.resize(len + 4, 0);
        assert_eq!(rig.received(index).1, with_crc);
    }
    assert_eq!(
        (rig.read(regs::RDH), rig.read(regs::GPRC), rig.read(regs::GORCL)),
        (3, 3, 64 + 64 + 65)
    );
}

#[test]
fn long_packet_needs_lpe_and_takes_several_buffers() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    let long = frame(5000);
    rig.offer(&long);
    rig.rounds();
    assert_eq!((rig.read(regs::ROC), rig.read(regs::RDH)), (1, 0));
    rig.write(regs::RCTL, (Rctl::EN | Rctl::SECRC | Rctl::LPE).bits());
    rig.offer(&long);
    rig.rounds();
    let parts: Vec<_> = (0..3).map(|i| rig.received(i)).collect();
    let status: Vec<_> = parts.iter().map(|(desc, _)| desc.status).collect();
    let last = RxStatus::DD | RxStatus::EOP | RxStatus::IXSM;
    assert_eq!(status, [RxStatus::DD, RxStatus::DD, last]);
    assert_eq!(parts.concat_data(), long);
}

trait ConcatData {
    fn concat_data(&self) -> Vec<u8>;
}

impl ConcatData for Vec<(RxDesc, Vec<u8>)> {
    fn concat_data(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, data)| data.clone()).collect()
    }
}

#[test]
fn buffer_size_follows_rctl() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    let small = Rctl::EN | Rctl::SECRC | Rctl::with_buffer_bytes(256);
    rig.write(regs::RCTL, small.bits());
    rig.offer(&frame(256));
    rig.offer(&frame(257));
    rig.rounds();
    let lengths: Vec<u16> = (0..3).map(|i| rig.received(i).0.length).collect();
    assert_eq!(lengths, [256, 256, 1]);
}

#[test]
fn packet_waits_in_the_port_until_there_are_buffers_for_all_of_it() {
    let rig = Rig::plain();
    rig.write(regs::RCTL, (Rctl::EN | Rctl::SECRC | Rctl::LPE).bits());
    rig.write(regs::RDT, 2);
    let long = frame(5000);
    rig.offer(&long);
    rig.offer(&frame(60));
    rig.rounds();
    assert_eq!(
        (rig.read(regs::RDH), rig.read(regs::RNBC), rig.counter(Count::RxNoBuffer)),
        (0, 1, 1)
    );
    assert!(rig.nic.before_sleep(), "a packet that cannot be delivered is no work");
    assert!(!rig.nic.with_port(|port| port.rings_bell()), "nor worth a bell");
    rig.nic.after_sleep();
    rig.write(regs::RDT, 4);
    rig.rounds();
    assert_eq!(rig.read(regs::RDH), 4);
    assert_eq!((0..3).map(|i| rig.received(i)).collect::<Vec<_>>().concat_data(), long);
    assert_eq!(rig.received(3).1, frame(60));
}

#[test]
fn descriptor_without_buffer_is_written_back_and_skipped() {
    let rig = Rig::plain();
    rig.give(0, 0);
    rig.give(2, 0);
    rig.write(regs::RDT, N - 1);
    rig.offer(&frame(60));
    rig.offer(&frame(70));
    rig.rounds();
    assert_eq!(rig.received(0).0.status, RxStatus::DD);
    assert_eq!((rig.received(1).1, rig.received(3).1), (frame(60), frame(70)));
}

#[test]
fn buffer_outside_of_memory_costs_the_packet() {
    let rig = Rig::plain();
    rig.give(0, RAM_BYTES - 59);
    rig.write(regs::RDT, N - 1);
    rig.offer(&frame(60));
    rig.offer(&frame(61));
    rig.rounds();
    let mut desc = [0; 16];
    assert!(rig.ram.read(RX_RING, &mut desc));
    let desc = RxDesc::from_bytes(desc);
    assert!(desc.status.contains(RxStatus::DD) && desc.errors == RxErrors::RXE);
    assert_eq!((rig.counter(Count::RxBad), rig.received(1).1), (1, frame(61)));
}

#[test]
fn frames_for_others_are_filtered() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    let mut other = frame(60);
    other[5] = 9;
    let mut everybody = frame(60);
    everybody[..6].fill(0xff);
    for frame in [&frame(60), &other, &everybody, &other, &frame(60)] {
        rig.offer(frame);
    }
    rig.rounds();
    assert_eq!(
        (rig.read(regs::RDH), rig.counter(Count::RxFiltered), rig.read(regs::BPRC)),
        (3, 2, 1)
    );
    assert_eq!(rig.received(1).1, everybody);
}

#[test]
fn tag_is_stripped_if_vlans_are_on() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    rig.write(regs::CTRL, rig.read(regs::CTRL) | Ctrl::VME.bits());
    let mut tagged = frame(100);
    tagged.splice(12..12, [0x81, 0, 0x61, 0x23]);
    rig.offer(&tagged);
    rig.rounds();
    let (desc, data) = rig.received(0);
    assert_eq!((data, desc.special), (frame(100), 0x6123));
    assert!(desc.status.contains(RxStatus::VP));
}

#[test]
fn minimum_threshold_is_raised_when_it_is_crossed() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1); // half of 16 is the threshold
    (0..6).for_each(|_| rig.offer(&frame(60)));
    rig.rounds();
    let causes = |rig: &Rig| Icr::from_bits_retain(rig.read(regs::ICR)) & (Icr::RXT0 | Icr::RXDMT0);
    assert_eq!(causes(&rig), Icr::RXT0);
    (0..2).for_each(|_| rig.offer(&frame(60)));
    rig.rounds();
    assert_eq!(causes(&rig), Icr::RXT0 | Icr::RXDMT0);
}

#[test]
fn packets_from_before_the_ring_was_set_up_are_nobodys() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    rig.offer(&frame(60));
    rig.write(regs::RDH, 0);
    rig.offer(&frame(61));
    rig.rounds();
    assert_eq!((rig.read(regs::RDH), rig.received(0).1), (1, frame(61)));
}

#[test]
fn packets_missed_in_front_of_the_port_are_told() {
    let rig = Rig::plain();
    (0..SLOTS - 1).for_each(|_| rig.offer(&frame(60)));
    (0..3).for_each(|_| assert!(!rig.nic.with_port(|port| port.offer(&frame(60), 2048))));
    rig.rounds();
    assert!(rig.nic.before_sleep());
    assert_eq!(rig.read(regs::MPC), 3);
    assert!(Icr::from_bits_retain(rig.read(regs::ICR)).contains(Icr::RXO));
}

#[test]
fn waiting_guest_is_interrupted_when_it_is_worthwhile() {
    let (rig, page) = Rig::with_csb(50, 50_000);
    page.store(Field::GuestRdt, N - 1);
    (0..7).for_each(|_| rig.offer(&frame(60)));
    rig.nic.round(1_000);
    assert_eq!(rig.interrupts(), 0, "7 of 15 are not half");
    rig.offer(&frame(60));
    rig.nic.round(2_000);
    assert_eq!((rig.interrupts(), page.load(Field::HostRdh)), (1, 8));
}

#[test]
fn waiting_guest_is_interrupted_after_its_time() {
    let (rig, page) = Rig::with_csb(50, 50_000);
    page.store(Field::GuestRdt, N - 1);
    rig.offer(&frame(60));
    rig.nic.round(1_000);
    rig.nic.round(50_000);
    assert_eq!(rig.interrupts(), 0);
    rig.nic.round(51_000);
    assert_eq!(rig.interrupts(), 1);
}

#[test]
fn waiting_guest_is_interrupted_before_the_host_sleeps() {
    let (mut rig, page) = Rig::with_csb(100, 1_000_000);
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 60, TxCmd::EOP);
    page.store(Field::GuestTdt, 1);
    page.store(Field::GuestNeedRxkick, 0);
    rig.nic.round(0);
    assert_eq!((rig.interrupts(), page.load(Field::HostTdh)), (1, 1), "all is free again");
    rig.read(regs::ICR);
    rig.legacy(at, 60, TxCmd::EOP);
    page.store(Field::GuestTdt, 2);
    rig.legacy(at, 60, TxCmd::EOP);
    rig.nic.with_port(|port| port.take_next(1));
    rig.nic.with_port(|port| port.take_next(0));
    page.store(Field::GuestTdt, 3);
    rig.nic.round(0);
    assert_eq!(rig.interrupts(), 1, "one is left");
    assert!(rig.nic.before_sleep());
    assert_eq!((rig.interrupts(), page.load(Field::HostNeedTxkick)), (2, 1));
    rig.nic.after_sleep();
    assert_eq!(page.load(Field::HostNeedTxkick), 0);
}

#[test]
fn guest_that_waits_for_nothing_is_left_alone() {
    let (mut rig, page) = Rig::with_csb(0, 50_000);
    page.store(Field::GuestNeedTxkick, 2); // FreeBSD's way to say that it has seen the interrupt
    page.store(Field::GuestNeedRxkick, 0);
    page.store(Field::GuestRdt, N - 1);
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 60, LAST);
    page.store(Field::GuestTdt, 1);
    rig.offer(&frame(60));
    rig.rounds();
    assert!(rig.nic.before_sleep());
    assert_eq!((rig.interrupts(), page.load(Field::HostTdh), page.load(Field::HostRdh)), (0, 1, 1));
}

#[test]
fn guest_without_buffers_is_asked_for_a_kick_at_three_quarters() {
    let (rig, page) = Rig::with_csb(75, 50_000);
    page.store(Field::GuestRdt, 4);
    (0..6).for_each(|_| rig.offer(&frame(60)));
    rig.rounds();
    assert_eq!(page.load(Field::HostRxkickAt), csb::NONE, "not while it is awake");
    assert!(rig.nic.before_sleep());
    assert_eq!(page.load(Field::HostRxkickAt), (4 + 1 + 15 * 3 / 4) % N);
    rig.nic.after_sleep();
    assert_eq!(page.load(Field::HostRxkickAt), csb::NONE);
    page.store(Field::GuestRdt, 3);
    rig.rounds();
    assert_eq!(page.load(Field::HostRdh), 6);
}

#[test]
fn frames_up_to_1522_bytes_are_not_long() {
    let rig = Rig::plain();
    rig.write(regs::RDT, N - 1);
    for len in [1515, 1518, 1519] {
        rig.offer(&frame(len));
    }
    rig.rounds();
    assert_eq!((rig.read(regs::RDH), rig.read(regs::ROC)), (2, 1));
    assert_eq!((rig.received(0).1, rig.received(1).1), (frame(1515), frame(1518)));
}

#[test]
fn ring_without_any_buffer_drops_packets_and_lets_the_thread_sleep() {
    let rig = Rig::plain();
    (0..N).for_each(|index| rig.give(index, 0));
    rig.write(regs::RDT, N - 1);
    rig.offer(&frame(60));
    rig.offer(&frame(60));
    rig.rounds();
    assert!(rig.nic.before_sleep(), "nothing to do");
    rig.nic.after_sleep();
    assert_eq!((rig.counter(Count::RxBad), rig.read(regs::RDH)), (2, 0));
    rig.give(0, BUFFERS);
    rig.offer(&frame(61));
    rig.rounds();
    assert_eq!(rig.received(0).1, frame(61));
}
