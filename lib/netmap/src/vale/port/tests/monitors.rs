//! Zero-copy monitors: where buffers are after whatever happens, deaths among it.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::options::{BoundRings, Memory};
use crate::vale::lifecycle::persist;
use crate::vale::state::kring::{Held, OnHeld};
use crate::vale::state::repair::{Numbered, SeenRing};
use crate::vale::state::watch::Watch;

const FIRST: RingNumber = RingNumber::FIRST;

fn small() -> Options {
    Options { tx_slots: Some(64), rx_slots: Some(64), ..Options::default() }
}

fn open_small(root: &Root, name: &str) -> ValePort {
    let bound = |_: &Shape| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
    ValePort::new(open::open(root, "valeA", name, &small(), bound).expect("opened"))
}

/// A zero-copy monitor of what `x` sends and receives.
fn open_monitor(root: &Root) -> ValePort {
    let watch = Watch { of: None, ring: None, tx: true, rx: true, zero_copy: true };
    let bound = |_: &Shape| Ok(BoundRings { tx: vec![], rx: vec![RingNumber::FIRST] });
    let at = open::open_monitor(
        root,
        SwitchPort { switch: "valeA", port: "x" },
        watch,
        &Options::default(),
        bound,
    );
    ValePort::new(at.expect("opened"))
}

/// Buffers that the rings of ports name.
fn named(ports: &[&ValePort]) -> Vec<Cell> {
    let of = |p: &&ValePort| {
        let files = p.at.port.clone();
        files.file.shape.rings.buffers(&files.region).collect::<Vec<_>>()
    };
    let mut all: Vec<Cell> = ports.iter().flat_map(of).collect();
    all.sort_unstable();
    all
}

/// Lets a process die that syncs a ring of `x`, after some stores of an exchange between that ring's slot 5 and
/// the first free slot of the monitor.
fn die(x: &ValePort, monitor: &ValePort, seen: SeenRing, stores: usize) {
    let file = &x.at.port.file;
    if seen.is_rx {
        assert_eq!(file.kring(FIRST).reader.take(dead(), |_| false), owner::Taken::Free);
    } else {
        assert!(file.tx_state(FIRST).begin(dead(), |_| false).is_some());
    }
    let kring = monitor.at.port.file.kring(FIRST);
    assert_eq!(kring.hold(dead(), |_| OnHeld::GiveUp), Held::Fresh);
    let ring = if seen.is_rx { x.rx_ring(FIRST) } else { x.tx_ring(FIRST) };
    let tail = kring.producer_tail();
    let (a, b) = (&ring.slots[5].word, &monitor.rx_ring(FIRST).slots[tail as usize].word);
    kring.exchange.cross_and_die(seen, Numbered::new(5, a), Numbered::new(tail, b), stores);
}

const RINGS: [SeenRing; 2] =
    [SeenRing { is_rx: false, number: FIRST }, SeenRing { is_rx: true, number: FIRST }];

#[test]
fn heirs_of_who_died_between_a_ring_and_its_monitor_find_each_buffer_once() {
    for (seen, heir_reads) in RINGS.into_iter().flat_map(|seen| [(seen, false), (seen, true)]) {
        for stores in 0..=3 {
            let (_temp, root) = root();
            let (mut x, mut y) = (open_small(&root, "x"), open_small(&root, "y"));
            let mut monitor = open_monitor(&root);
            let before = named(&[&x, &monitor]);
            // Something to read, and given back, but not synced.
            queue(&y, 0..10);
            y.txsync().unwrap();
            x.rxsync().unwrap();
            RxRing::new(x.rx(0)).advance(10);
            queue(&x, 20..23);
            die(&x, &monitor, seen, stores);
            // Its heir, or one of another ring that meets what it has left at the monitor.
            if heir_reads {
                x.rxsync().unwrap();
            } else {
                x.txsync().unwrap();
            }
            assert!(!monitor.at.port.file.kring(FIRST).exchange.is_pending());
            assert_eq!(named(&[&x, &monitor]), before, "{seen:?} {heir_reads} {stores}");
            // What was under way is not seen, and nothing twice.
            let expected: Vec<u8> = match heir_reads {
                true if seen.is_rx => Vec::new(),
                true => (0..10).collect(),
                false => (20..23).collect(),
            };
            assert_eq!(received(&mut monitor), expected);
            queue(&y, 30..33);
            y.txsync().unwrap();
            queue(&x, 40..42);
            x.txsync().unwrap();
            let _ = (received(&mut x), x.rxsync(), received(&mut y), y.rxsync());
            let news: Vec<u8> = received(&mut monitor).into_iter().filter(|n| *n >= 30).collect();
            assert_eq!(news, [40, 41, 30, 31, 32]);
            assert_eq!(named(&[&x, &monitor]), before);
        }
    }
}

#[test]
fn who_meets_an_exchange_of_somebody_alive_leaves_it_alone_and_the_monitor_loses() {
    let (_temp, root) = root();
    let (mut x, _y) = (open_small(&root, "x"), open_small(&root, "y"));
    let mut monitor = open_monitor(&root);
    let before = named(&[&x, &monitor]);
    die(&x, &monitor, RINGS[1], 2);
    // Somebody else, alive, has taken over the receive ring, and has not come to mending.
    let (me, file) = (x.at.switch.me().unwrap(), x.at.port.clone());
    assert_eq!(file.file.kring(FIRST).reader.take(me, |_| true), owner::Taken::FromTheDead);
    queue(&x, 0..3);
    x.txsync().unwrap();
    assert!(monitor.at.port.file.kring(FIRST).exchange.is_pending());
    assert_eq!(received(&mut monitor), []);
    file.file.kring(FIRST).reader.give(me);
    queue(&x, 3..6);
    x.txsync().unwrap();
    assert_eq!(received(&mut monitor), [3, 4, 5]);
    assert_eq!(named(&[&x, &monitor]), before);
}

#[test]
fn buffers_of_a_monitor_that_died_in_an_exchange_go_back_with_it() {
    for (seen, stores) in RINGS.into_iter().flat_map(|seen| (0..=3).map(move |n| (seen, n))) {
        let (_temp, root) = root();
        let shared = Options { memory: Memory::Id(1), memory_bytes: Some(4 << 20), ..small() };
        for name in ["x", "y"] {
            persist::create_persistent(&root, "valeA", name, &shared).unwrap();
        }
        let bound = |_: &Shape| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
        let at = open::open(&root, "valeA", "x", &Options::default(), bound).unwrap();
        let (x, monitor) = (ValePort::new(at), open_monitor(&root));
        let before = named(&[&x, &monitor]);
        die(&x, &monitor, seen, stores);
        drop(monitor);
        assert!(x.at.switch.monitors().iter().next().is_none());
        // What `x` does not have is free.
        let (region, mut now) = (&x.at.port.region, named(&[&x]));
        now.extend(region.take(region.free()).unwrap());
        let once: HashSet<Cell> = now.iter().copied().collect();
        assert_eq!(once.len(), now.len(), "{seen:?} {stores}: a buffer was given out twice");
        assert!(before.iter().all(|b| once.contains(b)), "{seen:?} {stores}: a buffer was lost");
    }
}

#[test]
fn words_about_exchanges_that_peers_made_up_exchange_nothing() {
    for (word, slot) in [(u64::MAX, 0), (1 << 63 | 1 << 56, 0), (1 << 63 | 17 << 56 | 7, 4095)] {
        let (_temp, root) = root();
        let (mut x, mut y) = (open_small(&root, "x"), open_small(&root, "y"));
        let mut monitor = open_monitor(&root);
        let before = named(&[&x, &monitor]);
        let kring = monitor.at.port.file.kring(FIRST);
        kring.exchange.scribble(word | slot << 32 | slot << 44, 0);
        for round in 0..3 {
            queue(&x, round..round + 1);
            x.txsync().unwrap();
            queue(&y, round..round + 1);
            y.txsync().unwrap();
            let _ = received(&mut x);
            x.rxsync().unwrap();
            let _ = (received(&mut y), received(&mut monitor));
        }
        assert_eq!(named(&[&x, &monitor]), before, "{word:#x}");
        assert!(!monitor.at.port.file.kring(FIRST).exchange.is_pending());
    }
}

/// What happens to two ports and the monitor of the first.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// `x` sends a packet of so many slots.
    Send(u32),
    /// `y` sends `x` one.
    Receive(u32),
    /// `x` gives so many packets back.
    GiveBack(usize),
    /// The monitor reads so many.
    Look(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1u32..4).prop_map(Op::Send),
        (1u32..4).prop_map(Op::Receive),
        (0usize..40).prop_map(Op::GiveBack),
        (0usize..40).prop_map(Op::Look),
    ]
}

/// A queue of packets: a number, whether it was seen on transmission, and slots.
#[derive(Debug, Default)]
struct Model {
    packets: VecDeque<(u32, bool, u32)>,
    used: u32,
}

impl Model {
    /// Whether there was room.
    fn push(&mut self, packet: (u32, bool, u32)) -> bool {
        let fits = self.used + packet.2 <= 63;
        if fits {
            self.used += packet.2;
            self.packets.push_back(packet);
        }
        fits
    }

    fn pop(&mut self, n: usize) -> Vec<(u32, bool, u32)> {
        let n = n.min(self.packets.len());
        let packets: Vec<_> = self.packets.drain(..n).collect();
        self.used -= packets.iter().map(|p| p.2).sum::<u32>();
        packets
    }
}

/// Reads at most `n` packets of a ring as the model has them.
fn look(port: &mut ValePort, n: usize) -> Vec<(u32, bool, u32)> {
    port.rxsync().unwrap();
    let mut ring = RxRing::new(port.rx(0));
    let (mut packets, mut slots, mut used) = (Vec::new(), 0, 0);
    for slot in ring.batch(usize::MAX) {
        if packets.len() == n {
            break;
        }
        slots += 1;
        used += 1;
        if !slot.more_frag() {
            let frame = slot.frame();
            let number = u32::from_le_bytes(std::array::from_fn(|i| frame.u8_at(20 + i)));
            let sent = slot.flags().contains(crate::abi::SlotFlags::TXMON);
            assert_eq!(slot.flags().rfrags(), slots as usize);
            packets.push((number, sent, std::mem::take(&mut slots)));
        }
    }
    ring.advance(used);
    port.rxsync().unwrap();
    packets
}

/// Sends one packet of so many slots with its number in the last one.
fn push(port: &mut ValePort, number: u32, slots: u32) {
    let mut frame = vec![0xff; (slots as usize - 1) * 2112 + 60];
    let at = frame.len() - 40;
    frame[at..at + 4].copy_from_slice(&number.to_le_bytes());
    assert!(TxRing::new(port.tx(0)).push(&frame));
    port.txsync().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn buffers_and_packets_are_where_a_model_has_them(ops in prop::collection::vec(op(), 1..200)) {
        let (_temp, root) = root();
        let (mut x, mut y) = (open_small(&root, "x"), open_small(&root, "y"));
        let mut monitor = open_monitor(&root);
        let before = named(&[&x, &monitor]);
        prop_assert_eq!(before.iter().collect::<HashSet<_>>().len(), before.len());
        let (mut at_x, mut at_monitor) = (Model::default(), Model::default());
        for (number, op) in (0u32..).zip(ops) {
            match op {
                Op::Send(slots) => {
                    push(&mut x, number, slots);
                    prop_assert_eq!(look(&mut y, 9), [(number, false, slots)]);
                    at_monitor.push((number, true, slots));
                }
                Op::Receive(slots) => {
                    push(&mut y, number, slots);
                    at_x.push((number, false, slots));
                }
                Op::GiveBack(n) => {
                    let read = at_x.pop(n);
                    prop_assert_eq!(&look(&mut x, n), &read);
                    // Once one does not fit, none of those after it is seen.
                    let _ = read.into_iter().all(|packet| at_monitor.push(packet));
                }
                Op::Look(n) => prop_assert_eq!(look(&mut monitor, n), at_monitor.pop(n)),
            }
            prop_assert_eq!(named(&[&x, &monitor]), before.clone());
        }
    }
}
