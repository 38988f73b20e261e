//! Rings and tails as careless drivers set them up.

use super::*;

fn icr(rig: &Rig) -> Icr {
    Icr::from_bits_retain(rig.read(regs::ICR))
}

#[test]
fn transmit_tail_outside_of_the_ring_is_one_lap_a_write_and_counted() {
    for tail in [N, N + 1, 0xffff] {
        let mut rig = Rig::plain();
        let at = rig.place(0, &frame(60));
        for begin in [0, 5] {
            (0..N).for_each(|_| rig.legacy(at, 60, LAST));
            for _ in 0..2 {
                rig.write(regs::TDT, tail);
                rig.rounds();
                assert!(rig.nic.before_sleep(), "nothing is left to do");
                rig.nic.after_sleep();
                rig.rounds();
                let sent = rig.nic.with_port(MockPort::take_sent);
                assert_eq!(sent.len(), N as usize, "{tail} {begin}");
                assert!((0..N).all(|index| rig.is_done(index)), "{tail} {begin}");
                assert_eq!(rig.read(regs::TDH), begin);
            }
            // From another place.
            rig.write(regs::TDT, 5);
            rig.rounds();
            rig.nic.with_port(MockPort::take_sent);
            rig.tail = 5;
        }
        assert_eq!(rig.counter(Count::TxBad), 4, "{tail}");
        // And then as it should be.
        rig.legacy(at, 60, LAST);
        assert_eq!(rig.send().len(), 1);
    }
}

#[test]
fn lap_on_a_port_that_takes_little_is_reported_whole() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    (0..N).for_each(|_| rig.legacy(at, 60, LAST));
    for takes in [3, 0, 5] {
        rig.nic.with_port(|port| port.take_next(takes));
    }
    rig.write(regs::TDT, N);
    for _ in 0..20 {
        rig.nic.round(0);
    }
    assert_eq!(rig.nic.with_port(MockPort::take_sent).len(), N as usize);
    assert!((0..N).all(|index| rig.is_done(index)));
}

#[test]
fn tail_that_is_outside_of_a_new_ring_sends_nothing_until_it_is_written() {
    let mut rig = Rig::plain();
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 60, LAST);
    rig.write(regs::TDT, 12);
    rig.rounds();
    rig.nic.with_port(MockPort::take_sent);
    rig.write(regs::TDLEN, 128);
    rig.write(regs::TDH, 0);
    rig.rounds();
    assert_eq!(rig.nic.with_port(MockPort::take_sent).len(), 0);
    rig.write(regs::TCTL, Tctl::EN.bits());
    rig.rounds();
    assert_eq!(rig.read(regs::TDH), 0, "a lap of eight");
    assert_eq!(rig.nic.with_port(MockPort::take_sent).len(), 1);
}

#[test]
fn receive_tail_outside_of_the_ring_leaves_all_descriptors_free() {
    for tail in [N, 0x7fff] {
        let rig = Rig::plain();
        rig.write(regs::RDT, tail);
        for seq in 0..3 * N {
            rig.offer(&frame(60 + seq as usize));
            rig.rounds();
            assert!(rig.nic.before_sleep());
            assert!(rig.nic.awaits().contains(Await::PACKET));
            rig.nic.after_sleep();
            assert_eq!(rig.received(seq % N).1, frame(60 + seq as usize), "{tail}");
        }
        assert_eq!((rig.read(regs::RNBC), rig.counter(Count::RxBad)), (0, 1));
    }
}

#[test]
fn engines_may_be_on_and_tails_written_before_there_are_rings() {
    for tx_mode in [TxMode::Thread, TxMode::Inline] {
        late_rings(Rig::new(Config { tx_mode, ..Config::default() }));
    }
}

fn late_rings(mut rig: Rig) {
    let at = rig.place(0, &frame(60));
    rig.legacy(at, 60, LAST);
    for length in [regs::TDLEN, regs::RDLEN] {
        rig.write(length, 0);
    }
    rig.write(regs::TDT, 1);
    rig.write(regs::RDT, N - 1);
    rig.rounds();
    rig.rounds();
    assert_eq!((rig.counter(Count::TxBad), rig.counter(Count::RxBad)), (1, 1), "refused");
    for length in [regs::TDLEN, regs::RDLEN] {
        rig.write(length, 16 * N);
    }
    rig.offer(&frame(61));
    rig.rounds();
    assert_eq!(rig.nic.with_port(MockPort::take_sent), [frame(60)]);
    assert_eq!(rig.received(0).1, frame(61));
    assert_eq!((rig.counter(Count::TxBad), rig.counter(Count::RxBad)), (1, 1));
}

#[test]
fn few_buffers_and_none_are_told_even_if_there_never_were_more() {
    let rig = Rig::plain();
    rig.write(regs::RDT, 3); // half of 16 is the threshold
    (0..3).for_each(|_| rig.offer(&frame(60)));
    rig.rounds();
    assert_eq!(icr(&rig) - Icr::INT_ASSERTED, Icr::RXT0 | Icr::RXDMT0);
    assert!(rig.nic.before_sleep());
    assert!(rig.nic.awaits().contains(Await::PACKET), "the one that finds no buffer");
    rig.nic.after_sleep();
    rig.offer(&frame(60));
    rig.rounds();
    assert_eq!((icr(&rig) - Icr::INT_ASSERTED, rig.read(regs::RNBC)), (Icr::RXO, 1));
    assert!(rig.nic.before_sleep());
    assert!(!rig.nic.awaits().contains(Await::PACKET), "it is told once");
    rig.nic.after_sleep();
    // The port's ring overflows while the thread sleeps.
    while rig.nic.with_port(|port| port.offer(&frame(60), 2048)) {}
    assert_eq!(rig.read(regs::MPC), 1);
    rig.rounds();
    assert!(icr(&rig).contains(Icr::RXO));
    rig.write(regs::RDT, 5);
    rig.rounds();
    assert_eq!((rig.read(regs::RDH), rig.read(regs::RNBC)), (5, 1));
}
