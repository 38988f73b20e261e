//! `xdp:` ports in copy mode.

#![cfg(not(loom))]

mod common;
mod nic;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;
mod veth;

use netmap::error::Invalid;
use netmap::{Error, Interest, Port, SlotFlags, Wait};

use nic::{FOR_EVER, frame, new_pair, receive, send};

fn prepare() {}

#[test]
fn buffer_is_never_given_to_the_kernel_twice() {
    let Some(pair) = new_pair("buffer_is_never_given_to_the_kernel_twice", 1) else { return };
    let (mut from, mut to) = (pair.open(0, ""), pair.open(1, "@conf:slots=64"));
    // Towards the NIC: the same buffer in two slots of a batch, one of the kernel's, none at all.
    let own: Vec<u32> = (0..4).map(|i| from.tx(0).slot(i).buf_idx()).collect();
    for (k, bad) in [own[0], 1, 0, u32::MAX, own[3] + 1_000_000].into_iter().enumerate() {
        let before = from.counters();
        for i in 0..2 {
            from.tx(0).slot(i).frame().write(0, &frame(60, k));
            from.tx(0).slot(i).set(60, SlotFlags::empty());
        }
        let first = from.tx(0).slot(0).buf_idx();
        let mended = from.tx(0).slot(1).swap_buffer(if k == 0 { first } else { bad });
        from.tx(0).advance(2);
        from.txsync().unwrap();
        assert_eq!(receive(&mut to).1, frame(60, k));
        let counted = from.counters().since(&before);
        assert_eq!((counted.tx_packets, counted.tx_drop_bad), (1, 1), "{bad}");
        assert_eq!(from.pending(), 0);
        // The slot is the program's again, some 1000 slots from here; it gets its buffer back.
        let n = from.tx(0).num_slots();
        for _ in 0..n - 2 {
            send(&mut from, 0, &frame(60, 0));
            receive(&mut to);
        }
        from.tx(0).slot(1).swap_buffer(mended);
        send(&mut from, 0, &frame(60, 0));
        send(&mut from, 0, &frame(60, 0));
        receive(&mut to);
        receive(&mut to);
    }
    // From it: a slot that is given back with a buffer that the kernel has already.
    for i in 0..2 {
        send(&mut from, 0, &frame(60, i));
    }
    to.wait(Interest::RX, Wait::default(), Some(FOR_EVER)).unwrap();
    let before = to.counters();
    let given = to.rx(0).slot(0).buf_idx();
    to.rx(0).advance(1);
    to.rxsync().unwrap();
    assert_eq!(to.counters().since(&before).rx_drop_bad, 0);
    to.rx(0).slot(0).swap_buffer(given);
    to.rx(0).advance(1);
    to.rxsync().unwrap();
    assert_eq!(to.counters().since(&before).rx_drop_bad, 1);
    // All but that one still serve, again and again.
    for i in 0..200 {
        send(&mut from, 0, &frame(61, i));
        assert_eq!(receive(&mut to).1, frame(61, i));
    }
}

#[test]
fn driver_without_zero_copy_mode_is_refused_only_if_it_is_to_have_it() {
    let test = "driver_without_zero_copy_mode_is_refused_only_if_it_is_to_have_it";
    let Some(pair) = new_pair(test, 1) else { return };
    let insists = || pair.within(0, || Port::open("xdp:v0@conf:mode=zerocopy"));
    let error = insists().unwrap_err();
    assert!(matches!(error, Error::Invalid { fault: Invalid::NoZeroCopy, .. }), "{error}");
    // Nothing of the try is left.
    let port = pair.open(0, "");
    assert!(port.about().unwrap().ends_with("native XDP, the kernel copies"), "{:?}", port.about());
}
