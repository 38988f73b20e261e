//! The forwarder on rings in private memory: no root, no files of ports, no other processes.

mod warm;

use super::*;
use crate::options::Sizes;
use crate::ring::{RxRing, TxRing, TxRingRef};
use crate::rings::make_rings;
use crate::shm::dir::Dir;
use crate::shm::lock::RootLock;
use crate::shm::mem::Region;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::{Generation, HandleIndex, ParticipantId, PortIndex, RingNumber};
use crate::vale::state::portfile::{PortFile, Shape};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::{NewName, Settings};
use crate::vale::state::txstate::Stall;

pub const SLOTS: u32 = 64;

/// Ports that are all there.
pub struct Ports(Vec<(Generation, PortFiles)>);

impl Destinations for Ports {
    fn update(&mut self, index: PortIndex) -> Option<Generation> {
        self.0.get(index.at()).map(|(generation, _)| *generation)
    }

    fn get(&self, index: PortIndex) -> Option<&PortFiles> {
        self.0.get(index.at()).map(|(_, port)| port)
    }

    fn ring(&self, _: HandleIndex, _: PortIndex) -> Rung {
        Rung::Nobody
    }
}

pub struct Rig {
    _temp: tempfile::TempDir,
    lock: RootLock,
    pub switch: SwitchFile,
    /// The ports as destinations.
    pub ports: Ports,
    /// The same ports as senders, with rings and counters of their own.
    pub senders: Vec<(PortFile, Region)>,
    /// Slots sent so far, by port.
    hwcur: Vec<u32>,
    /// By port.
    forwarders: Vec<Forwarder>,
}

impl Rig {
    pub fn new(ports: u8) -> Self {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path(), false).unwrap();
        let lock = RootLock::acquire(&dir).unwrap();
        let switch = SwitchFile::create(&dir, "valeT", 1, 1 << 30).unwrap();
        let half = |index: PortIndex, generation: Generation| {
            let sizes = Sizes { tx_rings: 1, rx_rings: 1, tx_slots: SLOTS, rx_slots: SLOTS };
            let region = Region::anonymous(9000).unwrap();
            let rings = make_rings(&region, sizes).unwrap();
            let shape = Shape { index, generation, region: "r".into(), rings, peer: None };
            (PortFile::anonymous(shape).unwrap(), region)
        };
        let (mut destinations, mut senders) = (Vec::new(), Vec::new());
        for i in 0..ports {
            let (index, generation) =
                switch.reserve_port(&lock, &NewName::Port(&format!("p{i}")), "r").unwrap();
            let (file, region) = half(index, generation);
            destinations.push((generation, PortFiles { file, region: region.into() }));
            senders.push(half(index, generation));
            switch.activate_port(&lock, index);
        }
        let forwarders = (0..ports).map(PortIndex).map(Forwarder::new).collect();
        let (ports, hwcur) = (Ports(destinations), vec![0; ports.into()]);
        Self { _temp: temp, lock, switch, ports, senders, hwcur, forwarders }
    }

    fn backpressure(&self) {
        let (persistent, ageing_ms) = (false, 300_000);
        self.switch.set(&self.lock, Settings { persistent, backpressure: true, ageing_ms });
    }

    fn mirror(&self, port: u8, to: u8) {
        self.switch.set_mirror(&self.lock, PortIndex(port), Some(PortIndex(to)));
    }

    fn tx(&self, port: u8) -> RingRef<'_> {
        let (file, region) = &self.senders[usize::from(port)];
        file.shape.rings.tx_ring(region, RingNumber::FIRST).unwrap()
    }

    /// Queues a frame of `len` bytes between stations, a number in its last byte.
    fn queue(&self, port: u8, src: u8, dst: u8, len: usize, number: u8) {
        let mut frame = vec![0; len];
        frame[..6].copy_from_slice(&[if dst == 0xff { 0xff } else { 2 }, 0, 0, 0, 0, dst]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        frame[len - 1] = number;
        assert!(
            TxRing::new(TxRingRef::new(self.tx(port), self.hwcur[usize::from(port)])).push(&frame)
        );
    }

    /// Sends what is queued.
    fn send(&mut self, port: u8) -> Sent {
        let index = usize::from(port);
        let hwcur = self.hwcur[index];
        let Self { switch, ports, senders, forwarders, .. } = self;
        let (file, region) = &senders[index];
        let ring = file.shape.rings.tx_ring(region, RingNumber::FIRST).unwrap();
        let n = ring.n();
        let head = ring.head_in_order(hwcur, ring.step(hwcur, n - 1)).unwrap();
        let (state, counters) =
            (file.tx_state(RingNumber::FIRST), file.tx_counters(RingNumber::FIRST));
        let from = Source {
            me: ParticipantId::new(6, Generation(1)),
            ring,
            state,
            number: RingNumber::FIRST,
            hwcur,
            head,
            counters,
        };
        let sent = forwarders[index].txsync(switch, ports, &from);
        self.hwcur[index] = sent.hwcur;
        ring.raw
            .tail
            .store(ring.step(sent.hwcur, n - 1), crate::sync::core_atomic::Ordering::Release);
        sent
    }

    /// Numbers of the frames that a port received, which makes room for others.
    pub fn received(&self, port: u8) -> Vec<u8> {
        let port = &self.ports.0[usize::from(port)].1;
        let kring = port.file.kring(RingNumber::FIRST);
        let ring = port.rx_ring(RingNumber::FIRST).unwrap();
        ring.raw.tail.store(kring.published(), crate::sync::core_atomic::Ordering::Release);
        let mut rx = RxRing::new(ring);
        let n = rx.available();
        let last = |slot: crate::ring::Slot<'_>| *slot.frame().to_vec().last().unwrap();
        let numbers = rx.batch(n).filter(|slot| !slot.more_frag()).map(last).collect();
        rx.advance(n);
        kring.free(kring.published());
        numbers
    }
}

#[test]
fn known_addresses_go_to_one_port_and_others_to_all() {
    let mut rig = Rig::new(3);
    rig.queue(1, 1, 0xff, 60, 1);
    rig.send(1);
    assert_eq!([0, 1, 2].map(|p| rig.received(p)), [vec![1], vec![], vec![1]]);
    for number in 2..5 {
        rig.queue(0, 0, 1, 60, number);
    }
    rig.queue(0, 0, 9, 60, 5);
    rig.send(0);
    assert_eq!([0, 1, 2].map(|p| rig.received(p)), [vec![], vec![2, 3, 4, 5], vec![5]]);
}

#[test]
fn what_a_sender_remembers_is_what_the_table_says_now() {
    let mut rig = Rig::new(4);
    let sent_to_1 = |rig: &mut Rig, number: u8| {
        (0..3).for_each(|port| drop(rig.received(port)));
        rig.queue(3, 3, 1, 60, number);
        rig.send(3);
        [0, 1, 2].map(|port| rig.received(port) == [number])
    };
    // Unknown, then learnt, then moved by another port, then forgotten: seen with the next packet.
    assert_eq!(sent_to_1(&mut rig, 1), [true, true, true]);
    rig.queue(1, 1, 0xff, 60, 2);
    rig.send(1);
    assert_eq!(sent_to_1(&mut rig, 3), [false, true, false]);
    rig.queue(2, 1, 0xff, 60, 4);
    rig.send(2);
    assert_eq!(sent_to_1(&mut rig, 5), [false, false, true]);
    rig.switch.fdb().remove_if(|_, _| true);
    assert_eq!(sent_to_1(&mut rig, 6), [true, true, true]);
    // The sender is learnt again, too, though it has been sending all the time.
    rig.queue(0, 0, 3, 60, 7);
    rig.send(0);
    assert_eq!((rig.received(3), rig.received(1)), (vec![2, 4, 7], vec![]));
    // In the middle of a batch: the station turns up behind the sender itself.
    rig.queue(1, 1, 0xff, 60, 8);
    rig.send(1);
    assert_eq!(sent_to_1(&mut rig, 9), [false, true, false]);
    (0..3).for_each(|port| drop(rig.received(port)));
    rig.queue(3, 3, 1, 60, 10);
    rig.queue(3, 1, 2, 60, 11);
    rig.queue(3, 3, 1, 60, 12);
    rig.send(3);
    assert_eq!(rig.received(1), [10, 11]);
}

#[test]
fn with_backpressure_the_batch_stops_before_what_does_not_fit_everywhere() {
    let mut rig = Rig::new(3);
    rig.backpressure();
    for number in 0..60 {
        rig.queue(0, 0, 0xff, 60, number);
    }
    rig.send(0);
    assert_eq!(rig.received(1).len(), 60);
    for number in 60..80 {
        rig.queue(0, 0, 0xff, 60, number);
    }
    let sent = rig.send(0);
    assert_eq!(sent.stall, Some(Stall { port: PortIndex(2), ring: RingNumber::FIRST }));
    assert_eq!(rig.received(1), [60, 61, 62]);
    assert_eq!(rig.received(2).len(), 63);
    assert_eq!(rig.send(0).stall, None);
    assert_eq!(rig.received(1), (63..80).collect::<Vec<u8>>());
    assert_eq!(rig.received(2), (63..80).collect::<Vec<u8>>());
}

#[test]
fn a_ringful_is_published_in_two_portions() {
    let mut rig = Rig::new(2);
    for lossless in [false, true] {
        if lossless {
            rig.backpressure();
        }
        for (burst, publications) in [(32, 1), (60, 2)] {
            for number in 0..burst {
                rig.queue(0, 0, 1, 60, number);
            }
            let before = rig.ports.0[1].1.file.counters().rx_batches;
            assert_eq!(rig.send(0).stall, None);
            assert_eq!(rig.ports.0[1].1.file.counters().rx_batches - before, publications);
            assert_eq!(rig.received(1), (0..burst).collect::<Vec<u8>>());
        }
    }
}

#[test]
fn what_finds_no_room_in_any_portion_is_dropped_and_counted_once() {
    let mut rig = Rig::new(2);
    for number in 0..40 {
        rig.queue(0, 0, 1, 60, number);
    }
    rig.send(0);
    for number in 40..100 {
        rig.queue(0, 0, 1, 60, number);
    }
    assert_eq!(rig.send(0).full, Some(PortIndex(1)));
    assert_eq!(rig.received(1), (0..63).collect::<Vec<u8>>());
    assert_eq!(rig.senders[0].0.counters().tx_drop_full, 37);
}

#[test]
fn fragments_of_a_packet_stay_together() {
    let mut rig = Rig::new(2);
    rig.queue(0, 0, 0xff, 5000, 1);
    rig.send(0);
    let port = &rig.ports.0[1].1;
    assert_eq!(port.file.kring(RingNumber::FIRST).published(), 3, "three slots of 2112 bytes");
    assert_eq!(rig.received(1), [1]);
}

#[test]
fn mirror_gets_once_what_its_port_sends_and_receives() {
    let mut rig = Rig::new(4);
    // Stations 0, 1 and 2 behind the ports of these numbers.
    for port in 0..3 {
        rig.queue(port, port, 0xff, 60, port);
        rig.send(port);
    }
    (0..4).for_each(|port| drop(rig.received(port)));
    rig.mirror(1, 3);
    rig.queue(0, 0, 1, 60, 10); // to the mirrored port
    rig.queue(0, 0, 2, 60, 11); // past it
    rig.queue(0, 0, 0xff, 60, 12); // to all, the mirror among them
    rig.queue(0, 0, 1, 60, 13);
    rig.send(0);
    rig.queue(1, 1, 0, 60, 14); // from it
    rig.queue(1, 1, 1, 60, 15); // from it to itself: goes nowhere, but was sent
    rig.send(1);
    assert_eq!(rig.received(3), [12, 10, 13, 14, 15]);
    assert_eq!(rig.received(1), [10, 12, 13]);
    assert_eq!(rig.received(0), [14]);
    assert_eq!(rig.received(2), [11, 12]);
}

#[test]
fn ports_that_mirror_each_other_make_no_loop() {
    let mut rig = Rig::new(3);
    rig.mirror(0, 1);
    rig.mirror(1, 0);
    rig.queue(2, 2, 0xff, 60, 1);
    rig.send(2);
    assert_eq!([0, 1, 2].map(|p| rig.received(p)), [vec![1], vec![1], vec![]]);
    rig.queue(0, 0, 2, 60, 2);
    rig.queue(1, 1, 2, 60, 3);
    rig.send(0);
    rig.send(1);
    assert_eq!([0, 1, 2].map(|p| rig.received(p)), [vec![3], vec![2], vec![2, 3]]);
}

#[test]
fn full_mirror_neither_holds_up_nor_is_charged_to_the_sender() {
    let mut rig = Rig::new(3);
    rig.queue(1, 1, 0xff, 60, 0);
    rig.send(1);
    (0..3).for_each(|port| drop(rig.received(port)));
    rig.backpressure();
    rig.mirror(0, 2);
    for round in 0..4 {
        for number in 0..40 {
            rig.queue(0, 0, 1, 60, number);
        }
        assert_eq!(rig.send(0).stall, None, "round {round}");
        assert_eq!(rig.received(1).len(), 40);
    }
    assert_eq!(rig.received(2).len(), 63);
    assert_eq!(rig.senders[0].0.counters().tx_drops(), 0);
    assert_eq!(rig.ports.0[2].1.file.counters().rx_drop_full, 160 - 63);
}

#[test]
fn mirror_ends_with_its_port() {
    let rig = Rig::new(3);
    rig.mirror(0, 2);
    rig.mirror(1, 0);
    assert!(rig.switch.modes().copies);
    rig.switch.unlist_port(&rig.lock, PortIndex(2));
    let mirrors = [0, 1].map(|port| rig.switch.mirror_of(PortIndex(port)));
    assert_eq!(mirrors, [None, Some(PortIndex(0))]);
    rig.switch.unlist_port(&rig.lock, PortIndex(0));
    assert!(!rig.switch.modes().copies);
}
