//! Warm buffers: which ones packets go to, and that none is lost or doubled, whoever dies when.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::shm::mem::STRIDE;
use crate::sync::core_atomic::Ordering;
use crate::vale::state::ids::{Generation, ParticipantId, RingNumber};
use crate::vale::state::kring::{Held, Kring, OnHeld};
use crate::vale::state::repair::Numbered;

/// An identity that no living handle has.
const DEAD: ParticipantId = ParticipantId::new(6, Generation(1 << 24));
/// Frames that are long enough for warm buffers, and others.
const LENGTHS: [usize; 4] = [60, 400, 1514, 5000];

/// Ports for whose rings every cache is too small.
fn rig(ports: u8) -> Rig {
    let mut rig = Rig::new(ports);
    rig.forwarders.iter_mut().for_each(|forwarder| forwarder.cache = 0);
    rig
}

/// A packet that was received: its source and its number.
type Got = (u8, u8);

impl Rig {
    fn rx(&self, port: u8) -> (&Kring, RingRef<'_>) {
        let port = &self.ports.0[usize::from(port)].1;
        (port.file.kring(RingNumber::FIRST), port.rx_ring(RingNumber::FIRST).unwrap())
    }

    /// Buffers that a port's receive ring names, sorted.
    fn named(&self, port: u8) -> Vec<u32> {
        let (_, ring) = self.rx(port);
        let mut named: Vec<u32> = (0..SLOTS).map(|i| ring.load(i).buf_idx).collect();
        named.sort_unstable();
        named
    }

    /// Reads packets until they have `most` slots and gives these back; notes in which buffers they were.
    fn read(&self, port: u8, most: usize, seen: &mut HashSet<u32>) -> Vec<Got> {
        let (kring, ring) = self.rx(port);
        ring.raw.tail.store(kring.published(), Ordering::Release);
        let mut rx = RxRing::new(ring);
        let (mut got, mut slots, mut src) = (Vec::new(), 0, None);
        for slot in rx.batch(SLOTS as usize) {
            if slots >= most && src.is_none() {
                break; // a packet is read whole
            }
            slots += 1;
            seen.insert(slot.buf_idx());
            let frame = slot.frame().to_vec();
            let from = *src.get_or_insert_with(|| frame[11]);
            if !slot.more_frag() {
                got.push((from, *frame.last().unwrap()));
                src = None;
            }
        }
        rx.advance(slots);
        kring.free(ring.raw.head.load(Ordering::Relaxed));
        got
    }

    fn burst(&mut self, len: usize, n: u8) {
        (0..n).for_each(|number| self.queue(0, 0, 0xff, len, number));
        self.send(0);
    }

    /// Buffers used when bursts of `burst` are read in lumps of `lump` slots, many times over.
    fn buffers_used(&mut self, len: usize, burst: u8, lump: usize) -> usize {
        let mut seen = HashSet::new();
        let mut waiting = 0;
        for round in 0..200 {
            if round == 20 {
                seen.clear(); // by then the ring has come to rest
            }
            self.burst(len, burst);
            waiting += usize::from(burst);
            if waiting >= lump {
                waiting -= self.read(1, lump, &mut seen).len();
            }
        }
        seen.len()
    }

    /// A sender takes a port's ring and is killed after so many stores of the exchange of two free slots.
    fn die(&self, port: u8, (a, b): (u32, u32), stores: usize) {
        let (kring, ring) = self.rx(port);
        assert_eq!(kring.hold(DEAD, |_| OnHeld::GiveUp), Held::Fresh);
        let word = |i: u32| Numbered::new(i, &ring.slots[i as usize].word);
        kring.exchange.swap_and_die(word(a), word(b), stores);
    }

    /// Slots of the free part, from its front.
    fn free(&self, port: u8) -> Vec<u32> {
        let (kring, ring) = self.rx(port);
        let (tail, freed) = (kring.producer_tail(), kring.freed());
        let n = if tail == freed { SLOTS } else { ring.distance(tail, freed) };
        (0..n).map(|k| ring.step(tail, k)).collect()
    }
}

#[test]
fn long_packets_go_to_the_buffers_that_were_given_back_last() {
    for (burst, lump, most) in [(4, 4, 8), (1, 1, 2), (2, 16, 24), (16, 4, 64), (20, 20, 40)] {
        let used = rig(2).buffers_used(1514, burst, lump);
        assert!(used <= most, "bursts of {burst}, read {lump} at a time: {used} buffers");
    }
}

#[test]
fn short_packets_and_rings_that_fit_the_cache_go_round() {
    assert_eq!(rig(2).buffers_used(60, 4, 4), SLOTS as usize);
    let mut rig = Rig::new(2);
    let ring = 2 * SLOTS as usize * 1536;
    rig.forwarders[0].cache = ring;
    rig.forwarders[0].trial = Trial::warm();
    assert_eq!(rig.buffers_used(1514, 4, 4), SLOTS as usize);
    rig.forwarders[0].cache = ring - 1;
    assert!(rig.buffers_used(1514, 4, 4) <= 8);
    // Nor where it was tried and is not cheaper.
    rig.forwarders[0].trial = Trial::new();
    assert_eq!(rig.buffers_used(1514, 4, 4), SLOTS as usize);
}

#[test]
fn packets_in_batches_and_floods_go_to_warm_buffers_too() {
    let mut rig = rig(4);
    let mut seen = [(); 3].map(|()| HashSet::new());
    for round in 0..100u8 {
        if round == 20 {
            seen.iter_mut().for_each(HashSet::clear);
        }
        for port in 1..3 {
            rig.queue(port, port, 0xff, 60, 0); // stations 1 and 2 stay where they are
            rig.send(port);
        }
        for number in 0..6 {
            // To one, to the other, to all; of one slot, and of three.
            let (dst, len) = ([1, 2, 0xff][number % 3], [1514, 5000][number / 3]);
            rig.queue(0, 0, dst, len, number as u8);
        }
        rig.send(0);
        (1..4).for_each(|port| drop(rig.read(port, 64, &mut seen[usize::from(port) - 1])));
        drop(rig.read(0, 64, &mut HashSet::new()));
    }
    for seen in seen {
        assert!(seen.len() < 48, "{} of {SLOTS} buffers", seen.len());
    }
}

#[test]
fn sender_killed_in_an_exchange_leaves_each_buffer_to_its_heir_once() {
    for stores in 0..=3 {
        for (front, back) in [(0, 1), (0, 60), (3, 20), (20, 3)] {
            let mut rig = rig(2);
            let before = rig.named(1);
            rig.burst(1514, 5);
            rig.read(1, 3, &mut HashSet::new());
            let free = rig.free(1);
            rig.die(1, (free[front], free[back]), stores);
            rig.burst(1514, 3);
            assert_eq!(rig.named(1), before, "after {stores} stores");
            assert!(!rig.rx(1).0.exchange.is_pending());
            let numbers = rig.received(1);
            assert_eq!(numbers, [3, 4, 0, 1, 2]);
        }
    }
}

#[test]
fn exchange_is_mended_however_the_next_sender_gets_the_ring() {
    let mut rig = rig(2);
    let before = rig.named(1);
    rig.die(1, (0, 63), 2);
    assert_ne!(rig.named(1), before);
    // As if the heir had let go without a look, because the ring's state was damaged then.
    rig.rx(1).0.release_hold(DEAD);
    rig.burst(60, 1);
    assert_eq!(rig.named(1), before);
}

/// What happens to a ring.
#[derive(Clone, Debug)]
enum Event {
    Send { from: u8, to: u8, len: usize, n: u8 },
    Read { port: u8, slots: usize },
    Die { port: u8, a: usize, b: usize, stores: usize },
    Forge { port: u8, repair: u64, hint: u64 },
    ForgeSlots { port: u8, a: u32, b: u32, buf_idx: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    let port = 0u8..3;
    let send = (port.clone(), 0u8..4, prop::sample::select(LENGTHS.to_vec()), 1u8..40);
    prop_oneof![
        6 => send.prop_map(|(from, to, len, n)| {
            let n = n.min((60 / len.div_ceil(STRIDE)) as u8);
            Event::Send { from, to: if to == 3 { 0xff } else { to }, len, n }
        }),
        4 => (port.clone(), 0usize..70).prop_map(|(port, slots)| Event::Read { port, slots }),
        1 => (port.clone(), 0usize..64, 0usize..64, 0usize..4)
            .prop_map(|(port, a, b, stores)| Event::Die { port, a, b, stores }),
        1 => (port.clone(), any::<u64>(), any::<u64>())
            .prop_map(|(port, repair, hint)| Event::Forge { port, repair, hint }),
        1 => (port, 0u32..64, 0u32..64, 0u32..400)
            .prop_map(|(port, a, b, buf_idx)| Event::ForgeSlots { port, a, b, buf_idx }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is sent, read, broken off and made up, each ring's slots name each of its buffers once as
    /// soon as the ring is held again, and packets arrive whole and in the order of their sender.
    #[test]
    fn ring_keeps_each_buffer_once(events in prop::collection::vec(event(), 1..80)) {
        let mut rig = rig(3);
        let before = [0, 1, 2].map(|port| rig.named(port));
        let mut sent = [(); 3].map(|()| Vec::new());
        let mut next = HashMap::new();
        let mut dead = [false; 3];
        for event in events {
            match event {
                Event::Send { from, to, len, n } => {
                    for _ in 0..n {
                        let sent = &mut sent[usize::from(from)];
                        let number = sent.len() as u8;
                        sent.push(number);
                        rig.queue(from, from, to, len, number);
                    }
                    rig.send(from);
                }
                Event::Read { port, slots } => {
                    for (from, number) in rig.read(port, slots, &mut HashSet::new()) {
                        // Some are lost when a ring is full; what comes is a part of what was sent, in order.
                        let next = next.entry((port, from)).or_insert(0);
                        let later = &sent[usize::from(from)][*next..];
                        let found = later.iter().position(|&sent| sent == number);
                        prop_assert!(found.is_some(), "{number} from {from} at {port}");
                        *next += found.unwrap() + 1;
                    }
                }
                Event::Die { port, a, b, stores } => {
                    let free = rig.free(port);
                    let (a, b) = (free[a % free.len()], free[b % free.len()]);
                    if a != b && rig.rx(port).0.hold(DEAD, |_| OnHeld::GiveUp) == Held::Fresh {
                        rig.rx(port).0.release_hold(DEAD);
                        rig.die(port, (a, b), stores);
                        dead[usize::from(port)] = true;
                    }
                }
                // The word of an exchange that was broken off is lost if a peer writes over it.
                Event::Forge { port, repair, hint } => {
                    let exchange = &rig.rx(port).0.exchange;
                    exchange.hint.store(hint, Ordering::Relaxed);
                    if !dead[usize::from(port)] {
                        exchange.scribble(repair, hint);
                    }
                }
                Event::ForgeSlots { port, a, b, buf_idx } => {
                    if !dead[usize::from(port)] {
                        rig.rx(port).0.exchange.forge(a, b, buf_idx);
                    }
                }
            }
            for port in 0..3 {
                dead[usize::from(port)] &= rig.rx(port).0.exchange.is_pending();
                if !dead[usize::from(port)] {
                    prop_assert_eq!(&rig.named(port), &before[usize::from(port)]);
                }
            }
        }
        // Each ring is held once more.
        for port in 0..3 {
            rig.queue(port, port, 0xff, 60, 0);
            rig.send(port);
        }
        for port in 0..3 {
            prop_assert_eq!(&rig.named(port), &before[usize::from(port)]);
            prop_assert!(!rig.rx(port).0.exchange.is_pending());
        }
    }
}
