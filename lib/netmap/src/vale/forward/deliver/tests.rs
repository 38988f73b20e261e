//! Delivery of batches that are made by hand: what is dropped, where a batch is cut, who gets what.

use super::*;
use crate::copy::Sse2;
use crate::vale::forward::batch::{NONE, Outcome};
use crate::vale::forward::tests::{Rig, SLOTS};
use crate::vale::state::fdb::Clock;
use crate::vale::state::ids::{Generation, ParticipantId, RETIRED};
use crate::vale::state::kring::{Held, OnHeld};

/// Bytes of a fragment.
const LEN: u16 = 60;
/// The first destination, which the packets of `batch` are for.
const FIRST: PortIndex = PortIndex(1);

/// Packets in memory of their own.
struct Packets {
    batch: Batch,
    _data: Vec<[u8; 64]>,
}

/// Packets of so many fragments each, for port 1. Each fragment ends with its number.
fn packets(frags: &[u8]) -> Packets {
    let all: usize = frags.iter().copied().map(usize::from).sum();
    let mut data = vec![[0; 64]; all];
    let mut batch = Batch::new();
    for (number, data) in (0..).zip(&mut data) {
        data[usize::from(LEN) - 1] = number;
        batch.fragments.push(Fragment {
            data: data.as_ptr(),
            len: LEN,
            frags: 0,
            indirect: false,
            outcome: Outcome::Rest,
            next: NONE,
        });
    }
    let mut first = 0;
    let mut before = None;
    for &n in frags {
        let packet = &mut batch.fragments[usize::from(first)];
        (packet.frags, packet.outcome) = (n, Outcome::Unicast(FIRST));
        match before.replace(first) {
            None => batch.lists[FIRST.at()].first = first,
            Some(before) => batch.fragments[usize::from(before)].next = first,
        }
        first += u16::from(n);
    }
    batch.lists[FIRST.at()].last = before.unwrap_or(NONE);
    batch.touched.push(FIRST);
    Packets { batch, _data: data }
}

/// Sends a batch as port 0, where what is looked up may be of the lives up to `epoch`.
fn send_since(rig: &mut Rig, packets: &Packets, lossless: bool, epoch: Generation) -> Done {
    let clock = Clock::new(0, 0);
    let (file, region) = &rig.senders[0];
    let job = Job {
        me: ParticipantId::new(6, Generation(1)),
        port: PortIndex(0),
        switch: &rig.switch,
        clock: &clock,
        counters: file.tx_counters(RingNumber::FIRST),
        ring: file.shape.rings.tx_ring(region, RingNumber::FIRST).unwrap(),
        state: file.tx_state(RingNumber::FIRST),
        ring_no: RingNumber::FIRST,
        head: 0,
        lossless,
        epoch,
        header: 0,
        cache: usize::MAX,
        average_len: 0,
        warm: false,
    };
    let (mut budget, mut headers) = (WaitBudget::default(), Headers::default());
    let means = &mut Means { budget: &mut budget, headers: &mut headers };
    let (batch, loads) = (&packets.batch, &mut Loads::new());
    deliver::<Sse2>(&job, 0, batch, None, loads, &mut rig.ports, means)
}

fn send(rig: &mut Rig, packets: &Packets, lossless: bool) -> Done {
    let epoch = rig.switch.epoch();
    send_since(rig, packets, lossless, epoch)
}

/// Takes port 1's ring for one that does not let go; true if nobody had it.
fn take_ring(rig: &Rig) -> bool {
    let kring = rig.ports.get(FIRST).unwrap().file.kring(RingNumber::FIRST);
    kring.hold(RETIRED, |_| OnHeld::GiveUp) == Held::Fresh
}

#[test]
fn nothing_overtakes_a_packet_that_found_no_room() {
    let mut rig = Rig::new(2);
    let mut frags = [1; 64];
    frags[60] = 5;
    let packets = packets(&frags);
    let done = send(&mut rig, &packets, false);
    assert_eq!((done.slots, done.full, done.stall), (68, Some(FIRST), None));
    assert_eq!(rig.received(1), (0..60).collect::<Vec<u8>>());
    let counters = rig.senders[0].0.counters();
    assert_eq!((counters.tx_drop_full, counters.tx_drop_bad), (4, 0));
}

#[test]
fn packet_that_no_ring_of_that_size_could_hold_is_dropped_alone() {
    for lossless in [false, true] {
        let mut rig = Rig::new(2);
        let packets = packets(&[1, SLOTS as u8, 2]);
        let done = send(&mut rig, &packets, lossless);
        assert_eq!((done.slots, done.full, done.stall), (67, None, None), "lossless: {lossless}");
        assert_eq!(rig.received(1), [0, 66]);
        let counters = rig.senders[0].0.counters();
        assert_eq!((counters.tx_drop_full, counters.tx_drop_bad), (0, 1));
    }
}

#[test]
fn lossless_batch_is_cut_before_what_does_not_fit_and_rings_are_let_go() {
    let mut rig = Rig::new(2);
    let mut frags = [1; 64];
    frags[60] = 5;
    let packets = packets(&frags);
    let done = send(&mut rig, &packets, true);
    let stall = Some(Stall { port: FIRST, ring: RingNumber::FIRST });
    assert_eq!((done.slots, done.full, done.stall), (60, None, stall));
    assert_eq!(rig.received(1), (0..60).collect::<Vec<u8>>());
    assert_eq!(rig.senders[0].0.counters().tx_drops(), 0);
    assert!(take_ring(&rig));
}

#[test]
fn ring_of_another_costs_the_packets_or_holds_up_a_lossless_batch() {
    let mut rig = Rig::new(2);
    assert!(take_ring(&rig));
    let packets = packets(&[1, 2, 1]);
    let done = send(&mut rig, &packets, false);
    assert_eq!((done.slots, done.stall), (4, None));
    assert_eq!(rig.senders[0].0.counters().tx_drop_busy, 3);
    let done = send(&mut rig, &packets, true);
    let stall = Some(Stall { port: FIRST, ring: RingNumber::FIRST });
    assert_eq!((done.slots, done.stall), (0, stall));
    assert_eq!(rig.senders[0].0.counters().tx_drops(), 3);
}

#[test]
fn port_that_was_made_after_the_lookup_is_not_the_one_that_was_meant() {
    let mut rig = Rig::new(3);
    let mut packets = packets(&[1, 1]);
    let before = Generation(rig.ports.update(FIRST).unwrap().0 - 1);
    let done = send_since(&mut rig, &packets, false, before);
    assert_eq!((done.slots, rig.received(1)), (2, vec![]));
    assert_eq!(rig.senders[0].0.counters().tx_drop_no_port, 2);
    // What is for everybody is for it, too.
    packets.batch.clear_routes();
    packets.batch.floods.push(0);
    send_since(&mut rig, &packets, false, before);
    assert_eq!([1, 2].map(|port| rig.received(port)), [[0], [0]]);
}

#[test]
fn what_is_for_everybody_and_for_one_is_merged_in_order() {
    for lossless in [false, true] {
        let mut rig = Rig::new(3);
        let mut packets = packets(&[1, 1]);
        // The packets 0 and 1 are for port 1; between and behind them are others for all.
        let Batch { fragments, lists, floods, .. } = &mut packets.batch;
        fragments.insert(1, Fragment { outcome: Outcome::Flooded, next: NONE, ..fragments[0] });
        fragments.push(Fragment { outcome: Outcome::Flooded, next: NONE, ..fragments[2] });
        (fragments[0].next, lists[FIRST.at()].last) = (2, 2);
        floods.extend([1, 3]);
        send(&mut rig, &packets, lossless);
        assert_eq!(rig.received(1), [0, 0, 1, 1]);
        assert_eq!(rig.received(2), [0, 1]);
        assert!(rig.received(0).is_empty());
    }
}

#[test]
fn misfits_are_remembered_by_number() {
    let mut misfits = Misfits::default();
    assert!(!misfits.contains(0));
    let numbers = [0, 63, 64, (BATCH + NETMAP_MAX_FRAGS - 1) as u16];
    numbers.into_iter().for_each(|packet| misfits.insert(packet));
    assert_eq!(misfits.count, 4);
    assert!(numbers.into_iter().all(|packet| misfits.contains(packet)));
    assert!([1, 62, 65].into_iter().all(|packet| !misfits.contains(packet)));
}
