//! What the PCI bus allows the device.

use super::*;

#[test]
fn nothing_of_memory_is_touched_while_the_bus_is_not_the_devices() {
    for mode in [TxMode::Thread, TxMode::Inline] {
        let b = Bench::new(Config { tx_mode: mode, ..Config::default() });
        b.open();
        b.nic.set_bus_master(false);
        (0..3).for_each(|i| b.fill(i));
        let before: Vec<u8> = b.memory();
        b.write(regs::TDT, 3);
        assert!(path::lock(&b.nic.path).port().offer(&[0xFF; 60], 2048));
        b.nic.round(0);
        assert!(b.nic.before_sleep(), "there is nothing that may be done");
        b.nic.after_sleep();
        assert_eq!((b.sent(), b.memory() == before), (0, true));
        let state = b.nic.state().unwrap();
        assert!(!state.bus_master);
        b.wakes();
        b.nic.set_bus_master(true);
        assert_ne!(b.wakes(), 0);
        b.nic.round(0);
        b.nic.round(0);
        assert_eq!((b.sent(), b.read(regs::RDH)), (3, 1));
        assert!(b.is_sent(2));
    }
}

#[test]
fn queued_packets_are_taken_back_when_the_bus_is_taken_away() {
    let b = Bench::new(Config::default());
    b.open();
    (0..3).for_each(|i| b.fill(i));
    path::lock(&b.nic.path).port().take_next(1);
    b.write(regs::TDT, 3);
    b.nic.round(0);
    assert_eq!(b.sent(), 1);
    b.nic.set_bus_master(false);
    assert!(b.is_sent(2), "done with, before the write returns");
    assert_eq!(b.counters.value(Count::TxDropped), 2);
    b.nic.set_bus_master(true);
    b.fill(3);
    b.write(regs::TDT, 4);
    b.nic.round(0);
    assert_eq!((b.sent(), b.read(regs::TDH)), (2, 4));
}

#[test]
fn csb_is_left_alone_while_the_bus_is_not_the_devices_and_used_again_after() {
    let b = Bench::new(Config::default());
    b.open();
    b.map_csb(1);
    b.nic.set_bus_master(false);
    assert!(!b.doorbell());
    let page = CsbPage::new(&b.ram, CSB).unwrap();
    page.store(Field::GuestTdt, u32::MAX); // would be a wild index
    page.store(Field::HostNeedTxkick, 77);
    let before = b.memory();
    b.nic.kicked();
    b.nic.round(0);
    b.nic.before_sleep();
    b.nic.after_sleep();
    assert!(b.memory() == before && b.counters.value(Count::CsbBad) == 0);
    assert!(b.nic.state().unwrap().csb.is_some());
    page.store(Field::GuestTdt, 1);
    b.fill(0);
    b.nic.set_bus_master(true);
    assert!(b.doorbell());
    b.nic.round(0);
    assert_eq!((b.sent(), page.load(Field::HostTdh)), (1, 1));
    // Mapped while it was off.
    b.nic.set_bus_master(false);
    b.map_csb(1);
    assert!(!b.doorbell());
    b.nic.set_bus_master(true);
    assert!(b.doorbell());
}
