//! A pipe against a naive model: two ends with two handles each, and whatever programs do in whatever order. The same
//! packets in the same order, exactly the model's room after each step, and no buffer in two places.

mod common;

use std::collections::{HashSet, VecDeque};

use common::{frame, open, slots};
use netmap::{Options, Port, SlotFlags};
use proptest::prelude::*;

const SLOTS: usize = 64;

#[derive(Clone, Debug)]
enum Op {
    /// Queues packets; the first slot of each gets another buffer, if that is asked for.
    Push {
        end: usize,
        handle: usize,
        lens: Vec<usize>,
        exchange: bool,
    },
    /// Queues a slot of a packet whose end comes later.
    Part {
        end: usize,
        handle: usize,
    },
    /// Takes back what was not sent.
    Withdraw {
        end: usize,
        handle: usize,
    },
    Txsync {
        end: usize,
        handle: usize,
    },
    /// Sees what is there, reads so many packets, and releases them now or with the next look. The first slot of
    /// each gets another buffer, if that is asked for.
    Read {
        end: usize,
        handle: usize,
        max: usize,
        exchange: bool,
        release: bool,
    },
}

/// What one end sends.
#[derive(Default)]
struct Direction {
    queued: Vec<(Vec<u8>, bool)>,
    flight: VecDeque<(Vec<u8>, bool)>,
    /// Read and not released.
    held: usize,
    /// Free slots as the sender knows them.
    space: usize,
}

impl Direction {
    fn out(&self) -> usize {
        self.queued.len() + self.flight.len() + self.held
    }

    fn push(&mut self, bytes: &[u8], more: bool) {
        self.queued.push((bytes.to_vec(), more));
        self.space -= 1;
    }

    fn txsync(&mut self) {
        let whole = self.queued.iter().rposition(|(_, more)| !more).map_or(0, |last| last + 1);
        self.flight.extend(self.queued.drain(..whole));
        self.space = SLOTS - 1 - self.out();
    }

    /// The next packet, and its slots.
    fn next(&mut self) -> Option<(Vec<u8>, usize)> {
        let last = self.flight.iter().position(|(_, more)| !more)?;
        let bytes = self.flight.drain(..=last).flat_map(|(bytes, _)| bytes).collect();
        self.held += last + 1;
        Some((bytes, last + 1))
    }
}

/// Both ends' ports, and buffers that are in no ring.
struct Rig {
    ports: [[Port; 2]; 2],
    pool: Vec<u32>,
    number: u32,
}

impl Rig {
    fn push(&mut self, end: usize, handle: usize, len: usize, exchange: bool, to: &mut Direction) {
        let (port, packet) = (&mut self.ports[end][handle], frame(9, 1, self.number, len));
        self.number += 1;
        let mut tx = port.tx(0);
        if exchange && tx.space() > 0 {
            let at = self.number as usize % self.pool.len();
            self.pool[at] = tx.slot(0).swap_buffer(self.pool[at]);
        }
        let parts: Vec<&[u8]> = packet.chunks(tx.buf_bytes()).collect();
        let fits = parts.len() <= to.space;
        assert_eq!(tx.push(&packet), fits);
        for (i, part) in parts.iter().enumerate().filter(|_| fits) {
            to.push(part, i + 1 < parts.len());
        }
    }

    fn part(&mut self, end: usize, handle: usize, to: &mut Direction) {
        let mut tx = self.ports[end][handle].tx(0);
        assert_eq!(tx.space(), to.space);
        if to.space > 0 {
            let bytes = [self.number as u8; 100];
            tx.slot(0).frame().write(0, &bytes);
            tx.slot(0).set(bytes.len(), SlotFlags::MOREFRAG);
            tx.advance(1);
            to.push(&bytes, true);
        }
    }

    fn read(
        &mut self,
        end: usize,
        handle: usize,
        max: usize,
        exchange: bool,
        from: &mut Direction,
    ) {
        let port = &mut self.ports[end][handle];
        port.rxsync().expect("synced");
        from.held = 0;
        let mut rx = port.rx(0);
        assert_eq!(rx.available(), from.flight.len());
        for _ in 0..max {
            let Some((expected, slots)) = from.next() else { break };
            let got: Vec<u8> = rx.batch(slots).flat_map(|slot| slot.frame().to_vec()).collect();
            assert_eq!(got, expected);
            assert_eq!(rx.batch(slots).filter(|slot| slot.more_frag()).count(), slots - 1);
            if exchange {
                let at = slots % self.pool.len();
                self.pool[at] = rx.slot(0).swap_buffer(self.pool[at]);
            }
            rx.advance(slots);
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![6 => 14usize..200, 2 => 1500usize..2200, 1 => 4000usize..9000];
    let (end, handle) = (0usize..2, 0usize..2);
    prop_oneof![
        4 => (end.clone(), handle.clone(), prop::collection::vec(len, 1..12), any::<bool>())
            .prop_map(|(end, handle, lens, exchange)| Op::Push { end, handle, lens, exchange }),
        1 => (end.clone(), handle.clone()).prop_map(|(end, handle)| Op::Part { end, handle }),
        1 => (end.clone(), handle.clone()).prop_map(|(end, handle)| Op::Withdraw { end, handle }),
        4 => (end.clone(), handle.clone()).prop_map(|(end, handle)| Op::Txsync { end, handle }),
        4 => (end, handle, 0usize..20, any::<bool>(), any::<bool>()).prop_map(
            |(end, handle, max, exchange, release)| Op::Read { end, handle, max, exchange, release }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn pipe_does_as_the_naive_model(ops in prop::collection::vec(op(), 1..120)) {
        static CASE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let case = CASE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = |end: &str| format!("valeQ{case}:x{end}q");
        let base = open(&format!("valeQ{case}:x"), &Options { extra_bufs: 5, ..slots(64) });
        let pool = base.extra_buffers();
        let ports = ["{", "}"].map(|end| [0, 1].map(|_| open(&name(end), &Options::default())));
        let mut rig = Rig { ports, pool, number: 0 };
        let mut sends = [Direction::default(), Direction::default()];
        for direction in &mut sends {
            direction.space = SLOTS - 1;
        }
        let buffers = |rig: &mut Rig| -> Vec<u32> {
            let of = |port: &mut Port| {
                let mut tx = port.tx(0);
                (0..tx.space()).map(|i| tx.slot(i).buf_idx()).collect::<Vec<_>>()
            };
            let mut all: Vec<u32> = rig.ports.iter_mut().flat_map(|end| of(&mut end[0])).collect();
            all.extend(&rig.pool);
            all
        };
        let at_first: HashSet<u32> = buffers(&mut rig).into_iter().collect();
        prop_assert_eq!(at_first.len(), 2 * (SLOTS - 1) + 5);
        for op in ops {
            match op {
                Op::Push { end, handle, lens, exchange } => {
                    for len in lens {
                        rig.push(end, handle, len, exchange, &mut sends[end]);
                    }
                }
                Op::Part { end, handle } => rig.part(end, handle, &mut sends[end]),
                Op::Withdraw { end, handle } => {
                    let n = rig.ports[end][handle].tx(0).withdraw();
                    prop_assert_eq!(n, sends[end].queued.len());
                    sends[end].queued.clear();
                    sends[end].space += n;
                }
                Op::Txsync { end, handle } => {
                    rig.ports[end][handle].txsync().expect("synced");
                    sends[end].txsync();
                }
                Op::Read { end, handle, max, exchange, release } => {
                    rig.read(end, handle, max, exchange, &mut sends[1 - end]);
                    if release {
                        rig.ports[end][1 - handle].rxsync().expect("synced");
                        sends[1 - end].held = 0;
                    }
                }
            }
            for (end, model) in sends.iter().enumerate() {
                for port in &mut rig.ports[end] {
                    prop_assert_eq!(port.tx(0).space(), model.space);
                    prop_assert_eq!(port.pending(), model.out());
                }
            }
        }
        for (end, sent) in sends.iter_mut().enumerate() {
            rig.ports[end][0].tx(0).withdraw();
            rig.read(1 - end, 0, usize::MAX, false, sent);
            rig.ports[1 - end][0].rxsync().expect("synced");
            rig.ports[end][0].txsync().expect("synced");
            prop_assert_eq!(rig.ports[end][0].tx(0).space(), SLOTS - 1);
        }
        let at_last = buffers(&mut rig);
        let distinct: HashSet<u32> = at_last.iter().copied().collect();
        prop_assert_eq!(distinct.len(), at_last.len(), "a buffer is in two places");
        // In each ring another slot may be the one that is always empty.
        prop_assert!(distinct.difference(&at_first).count() <= 2);
        let counters = rig.ports.each_ref().map(|end| end[0].counters());
        prop_assert_eq!(counters[0].tx_packets + counters[1].tx_packets,
            counters[0].rx_packets + counters[1].rx_packets);
        prop_assert_eq!(counters[0].tx_drops() + counters[1].tx_drops(), 0);
    }
}
