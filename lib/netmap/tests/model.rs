//! Forwarding against a naive switch: the same operations, the same packets in the same order at
//! every ring of every port, and the same drop counters.

mod common;

use std::collections::{HashMap, VecDeque};

use common::{frame, mac, open, read};
use netmap::{Options, Port};
use proptest::prelude::*;

const SLOTS: u32 = 64;

#[derive(Clone, Debug)]
enum Op {
    /// Port sends frames (dst, src, len) on a ring in one txsync.
    Send { port: usize, ring: usize, frames: Vec<(u8, u8, usize)> },
    /// Port reads up to so many packets from a ring.
    Read { port: usize, ring: usize, max: usize },
    /// All addresses are forgotten.
    Flush,
}

/// The switch as one would write it without caring for speed.
struct Naive {
    rings: Vec<usize>,
    fdb: HashMap<[u8; 6], usize>,
    queues: Vec<Vec<VecDeque<Vec<u8>>>>,
    full: Vec<u64>,
    short: u64,
    no_port: u64,
}

fn cells(frame: &[u8]) -> usize {
    frame.len().div_ceil(2112).max(1)
}

impl Naive {
    fn new(rings: &[usize]) -> Self {
        Self {
            rings: rings.to_vec(),
            fdb: HashMap::new(),
            queues: rings.iter().map(|&n| vec![VecDeque::new(); n]).collect(),
            full: vec![0; rings.len()],
            short: 0,
            no_port: 0,
        }
    }

    fn send(&mut self, from: usize, ring: usize, frames: &[Vec<u8>]) {
        let mut blocked = HashMap::new();
        for f in frames {
            if f.len() < 14 {
                self.short += 1;
                continue;
            }
            let (dst, src): ([u8; 6], [u8; 6]) =
                (f[..6].try_into().unwrap(), f[6..12].try_into().unwrap());
            if src[0] & 1 == 0 {
                self.fdb.insert(src, from);
            }
            let known = if dst[0] & 1 == 0 { self.fdb.get(&dst).copied() } else { None };
            let to: Vec<(usize, usize)> = match known {
                Some(p) if p == from => {
                    self.no_port += 1;
                    vec![]
                }
                Some(p) => vec![(p, ring % self.rings[p])],
                None => (0..self.rings.len()).filter(|&p| p != from).map(|p| (p, 0)).collect(),
            };
            for (p, r) in to {
                let queue = &mut self.queues[p][r];
                let used: usize = queue.iter().map(|f| cells(f)).sum();
                let is_full: &mut bool = blocked.entry((p, r)).or_default();
                *is_full |= used + cells(f) > SLOTS as usize - 1;
                if *is_full {
                    self.full[p] += 1;
                } else {
                    queue.push_back(f.clone());
                }
            }
        }
    }
}

fn op(ports: usize) -> impl Strategy<Value = Op> {
    let len =
        prop_oneof![6 => 14usize..200, 2 => 1500usize..2200, 1 => 4000usize..9000, 1 => 1usize..14];
    let station = prop_oneof![8 => 0u8..12, 1 => Just(0xff)];
    let frames = prop::collection::vec((station, 0u8..12, len), 1..12);
    prop_oneof![
        4 => (0..ports, 0usize..3, frames).prop_map(|(port, ring, frames)| Op::Send { port, ring, frames }),
        3 => (0..ports, 0usize..3, 0usize..40).prop_map(|(port, ring, max)| Op::Read { port, ring, max }),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn switch_forwards_as_the_naive_model(
        rings in prop::collection::vec(1usize..4, 2..6),
        ops in prop::collection::vec(op(5), 1..60),
    ) {
        static CASE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let case = CASE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let switch = format!("valeM{case}");
        // Long packets go to warm buffers in every other case.
        netmap::fuzz::always_warm(case.is_multiple_of(2));
        let mut ports: Vec<Port> = rings
            .iter()
            .enumerate()
            .map(|(i, &n)| {
                let rings = Some(n as u16);
                let o = Options { tx_rings: rings, rx_rings: rings, ..common::slots(SLOTS) };
                open(&format!("{switch}:p{i}"), &o)
            })
            .collect();
        let mut model = Naive::new(&rings);
        let mut number = 0;
        for op in ops {
            match op {
                Op::Send { port, ring, frames } if port < ports.len() => {
                    let ring = ring % rings[port];
                    let mut sent = Vec::new();
                    for (dst, src, len) in frames {
                        number += 1;
                        let f = frame(dst, src, number, len);
                        if ports[port].tx(ring).push(&f) {
                            sent.push(f);
                        }
                    }
                    ports[port].txsync().unwrap();
                    prop_assert_eq!(ports[port].tx(ring).space(), SLOTS as usize - 1);
                    model.send(port, ring, &sent);
                }
                Op::Read { port, ring, max } if port < ports.len() => {
                    let ring = ring % rings[port];
                    let got = read(&mut ports[port], ring, max);
                    let queue = &mut model.queues[port][ring];
                    let want: Vec<_> = queue.drain(..max.min(queue.len())).collect();
                    prop_assert_eq!(got, want);
                }
                Op::Flush => {
                    netmap::control::Switch::open(&switch).unwrap().fdb_flush(None, None).unwrap();
                    model.fdb.clear();
                }
                _ => {}
            }
        }
        let mut drops = [0; 2];
        for (i, port) in ports.iter_mut().enumerate() {
            for r in 0..rings[i] {
                let got = read(port, r, usize::MAX);
                let want: Vec<_> = model.queues[i][r].drain(..).collect();
                prop_assert_eq!(got, want);
            }
            let c = port.counters();
            prop_assert_eq!(c.rx_drop_full, model.full[i], "drops at port {}", i);
            drops[0] += c.tx_drop_short;
            drops[1] += c.tx_drop_no_port;
        }
        prop_assert_eq!(drops, [model.short, model.no_port]);
        let learnt: HashMap<[u8; 6], usize> = netmap::control::Switch::open(&switch)
            .unwrap()
            .fdb()
            .unwrap()
            .into_iter()
            .map(|e| (e.mac, e.port[1..].parse().unwrap()))
            .collect();
        prop_assert_eq!(learnt, model.fdb);
    }
}

#[test]
fn naive_model_is_not_vacuous() {
    // The model itself, by hand: unknown floods, known goes to one, own port is dropped.
    let mut m = Naive::new(&[1, 1, 1]);
    m.send(0, 0, &[frame(5, 1, 0, 60)]);
    assert_eq!(m.queues[1][0].len() + m.queues[2][0].len(), 2);
    m.send(1, 0, &[frame(1, 5, 1, 60)]);
    assert_eq!((m.queues[0][0].len(), m.queues[2][0].len()), (1, 1));
    m.send(0, 0, &[frame(1, 1, 2, 60)]);
    assert_eq!((m.no_port, m.fdb[&mac(5)]), (1, 1));
}
