//! Loopback: what is sent comes back, and nothing else.

use e1000pv::bits::Mdic;
use e1000pv::phy;

use super::*;

fn phy(rig: &Rig, control: u16) {
    rig.write(regs::MDIC, Mdic::command(Mdic::OP_WRITE, phy::PCTRL, control).bits());
}

/// Switches loopback on, in each of the ways there are.
const WAYS: [fn(&Rig); 4] = [
    |rig| phy(rig, 0x4140),
    |rig| rig.write(regs::RCTL, rig.read(regs::RCTL) | 1 << 6),
    |rig| rig.write(regs::RCTL, rig.read(regs::RCTL) | 2 << 6),
    |rig| rig.write(regs::RCTL, rig.read(regs::RCTL) | 3 << 6),
];

fn off(rig: &Rig) {
    rig.write(regs::RCTL, (Rctl::EN | Rctl::SECRC | Rctl::BAM).bits());
    phy(rig, 0x1140);
}

#[test]
fn frames_come_back_and_never_leave_the_port() {
    for (way, loops) in WAYS.into_iter().enumerate() {
        for config in [Config::default(), Config { more: false, ..Config::default() }] {
            let mut rig = Rig::new(config);
            rig.write(regs::RDT, N - 1);
            loops(&rig);
            rig.offer(&frame(90)); // comes while nobody listens to the wire
            let at = rig.place(0x8_0000, &frame(1024));
            rig.legacy(at, 1024, LAST);
            rig.legacy(at, 500, TxCmd::empty());
            rig.legacy(at + 500, 100, LAST);
            assert!(rig.send().is_empty(), "{way}");
            assert_eq!((rig.read(regs::TDH), rig.read(regs::RDH)), (3, 2), "{way}");
            assert_eq!((rig.received(0).1, rig.received(1).1), (frame(1024), frame(600)), "{way}");
            assert_eq!((rig.read(regs::GPTC), rig.read(regs::GPRC)), (2, 2));
            assert!(rig.nic.before_sleep());
            rig.nic.after_sleep();
            off(&rig);
            rig.legacy(at, 60, LAST);
            assert_eq!(rig.send(), [frame(60)], "{way}: on the wire again");
            rig.offer(&frame(70));
            rig.rounds();
            assert_eq!((rig.read(regs::RDH), rig.received(2).1), (3, frame(70)), "{way}");
        }
    }
}

#[test]
fn loopback_needs_no_cable() {
    for loops in WAYS {
        let mut rig = Rig::plain();
        rig.nic.link(false);
        rig.write(regs::RDT, N - 1);
        loops(&rig);
        let at = rig.place(0x8_0000, &frame(60));
        rig.legacy(at, 60, LAST);
        assert!(rig.send().is_empty());
        assert_eq!(rig.received(0).1, frame(60));
    }
}

#[test]
fn loopback_of_a_sender_in_the_vcpu_thread_comes_back_by_the_other() {
    let mut rig = Rig::new(Config { tx_mode: TxMode::Inline, ..Config::default() });
    rig.write(regs::RDT, N - 1);
    phy(&rig, 0x4140);
    let at = rig.place(0x8_0000, &frame(60));
    rig.legacy(at, 60, LAST);
    rig.write(regs::TDT, rig.tail);
    assert!(!rig.nic.before_sleep(), "there is something to receive");
    rig.nic.after_sleep();
    rig.rounds();
    assert_eq!(rig.received(0).1, frame(60));
}

#[test]
fn sender_that_overruns_its_own_receiver_goes_on() {
    let mut rig = Rig::plain();
    rig.write(regs::RDT, 4);
    phy(&rig, 0x4140);
    let at = rig.place(0x8_0000, &frame(60));
    let packets = 10 * SLOTS as u32;
    for _ in 0..packets / 8 {
        (0..8).for_each(|_| rig.legacy(at, 60, LAST));
        assert!(rig.send().is_empty());
        assert_eq!(rig.read(regs::TDH), rig.tail, "transmission is not held up");
    }
    let waiting = SLOTS as u32 - 1;
    assert_eq!(rig.read(regs::RDH), 4);
    assert_eq!(rig.read(regs::MPC), packets - waiting - 4);
}

#[test]
fn switching_loopback_loses_what_is_on_its_way_and_counts_it() {
    let mut rig = Rig::plain();
    let at = rig.place(0x8_0000, &frame(60));
    (0..3).for_each(|_| rig.legacy(at, 60, LAST));
    rig.nic.with_port(|port| port.take_next(1));
    rig.nic.with_port(|port| port.take_next(0));
    rig.write(regs::TDT, rig.tail);
    rig.nic.round(0);
    phy(&rig, 0x4140);
    assert_eq!(rig.counter(Count::TxDropped), 2);
    assert_eq!(rig.send().len(), 1);
    assert_eq!(rig.read(regs::TDH), 3, "they are done with");
    rig.legacy(at, 60, LAST);
    assert!(rig.send().is_empty());
    assert_eq!(rig.read(regs::RDH), 0, "no buffers");
    off(&rig);
    rig.write(regs::RDT, N - 1);
    rig.rounds();
    assert_eq!(rig.read(regs::RDH), 0, "it was on its way");
}

#[test]
fn mac_reset_ends_the_macs_loopback_and_not_the_phys() {
    for (way, stays) in [(1, false), (0, true)] {
        let rig = Rig::plain();
        WAYS[way](&rig);
        rig.write(regs::CTRL, Ctrl::RST.bits());
        assert_eq!(crate::path::lock(&rig.nic.path).is_looped(), stays);
        rig.write(regs::CTRL, Ctrl::PHY_RST.bits());
        assert!(!crate::path::lock(&rig.nic.path).is_looped());
    }
}

#[test]
fn frames_on_their_way_back_are_saved_and_restored() {
    let mut rig = Rig::plain();
    phy(&rig, 0x4140);
    let at = rig.place(0x8_0000, &frame(60));
    rig.legacy(at, 60, LAST);
    assert!(rig.send().is_empty());
    let state = rig.nic.state().unwrap();
    assert_eq!(state.loopback.len(), 1);
    let port = MockPort::new(SLOTS, true);
    let (board, config) = (Arc::clone(&rig.line) as Arc<dyn Board>, rig.nic.core.config.clone());
    let counters = rig.counters.clone();
    let nic = E1000::from_state(config, rig.ram.clone(), port, board, counters, &state).unwrap();
    rig.nic = nic;
    rig.write(regs::RDT, N - 1);
    rig.rounds();
    assert_eq!(rig.received(0).1, frame(60));
}
