//! What is given back when handles close and die, whatever programs did with lists and slots.

use proptest::prelude::*;

use crate::abi::RawIf;
use crate::options::{BoundRings, Memory, Options, PerDirection};
use crate::ring_number::RingNumber;
use crate::rings::extra_buffers;
use crate::shm::bell::Bell;
use crate::shm::mem::RESERVED;
use crate::sync::core_atomic::{AtomicU32, Ordering};
use crate::vale::lifecycle::open::{self, Attached};
use crate::vale::lifecycle::persist;
use crate::vale::lifecycle::reap::reap;

use super::*;

const SLOTS: u32 = 64;

/// What a program does.
#[derive(Clone, Debug)]
enum Op {
    /// Opens a port (even: `x`, odd: `y`) with extra buffers.
    Open { port: u8, extra: u32 },
    /// Exchanges a buffer of its list with one in a slot.
    Swap { handle: u8, entry: u8, slot: u8 },
    /// Moves the first buffers of a list to another one.
    Move { from: u8, to: u8, count: u8 },
    /// Takes buffers out of its list, and keeps them to itself.
    Keep { handle: u8, count: u8 },
    /// Begins an exchange, and dies.
    DieSwapping { handle: u8, entry: u8, slot: u8, first: bool },
    /// Writes over a link of its list, or its beginning.
    Scribble { handle: u8, entry: u8, value: u32 },
    /// Closes, or is killed and cleared away.
    End { handle: u8, killed: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let b = any::<u8>;
    prop_oneof![
        3 => (b(), 0u32..30).prop_map(|(port, extra)| Op::Open { port, extra }),
        6 => (b(), b(), b()).prop_map(|(handle, entry, slot)| Op::Swap { handle, entry, slot }),
        2 => (b(), b(), b()).prop_map(|(from, to, count)| Op::Move { from, to, count }),
        1 => (b(), b()).prop_map(|(handle, count)| Op::Keep { handle, count }),
        1 => (b(), b(), b(), any::<bool>())
            .prop_map(|(handle, entry, slot, first)| Op::DieSwapping { handle, entry, slot, first }),
        2 => (b(), 0u8..8, prop_oneof![8 => 0u32..320, 1 => any::<u32>()])
            .prop_map(|(handle, entry, value)| Op::Scribble { handle, entry, value }),
        3 => (b(), any::<bool>()).prop_map(|(handle, killed)| Op::End { handle, killed }),
    ]
}

/// A handle, with the list that its program believes in.
struct Handle {
    bell: Bell,
    at: Attached,
    list: Vec<Cell>,
    /// The program has written over the list.
    broken: bool,
}

struct World {
    root: Root,
    _temp: tempfile::TempDir,
    region: Region,
    ports: Vec<PortFile>,
    handles: Vec<Handle>,
    /// Whether a program has kept, lost or broken something, so that cells may have leaked.
    leaky: bool,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::at(temp.path());
        for port in ["x", "y"] {
            persist::create_persistent(&root, "valeA", port, &Self::options(0)).unwrap();
        }
        let region = Region::open(root.memory().unwrap(), "1").unwrap();
        let switch = Switch::open_existing(&root, "valeA").unwrap().unwrap();
        let file = |port| PortFile::open(switch.dir(), &port_file(port)).unwrap();
        let ports = vec![file("x"), file("y")];
        Self { root, _temp: temp, region, ports, handles: Vec::new(), leaky: false }
    }

    fn options(extra_bufs: u32) -> Options {
        let slots = Some(SLOTS);
        let memory_bytes = Some(2 << 20);
        let memory = Memory::Id(1);
        Options {
            tx_slots: slots,
            rx_slots: slots,
            memory,
            memory_bytes,
            extra_bufs,
            ..Options::default()
        }
    }

    /// The `i`th of all slots of both ports.
    fn slot(&self, i: u8) -> (&PortFile, bool, usize) {
        let i = usize::from(i);
        (&self.ports[i & 1], i & 2 != 0, i / 4)
    }

    /// Puts a buffer into a slot and returns the one that was there.
    fn exchange(&self, slot: u8, buffer: Cell) -> Cell {
        let (file, is_rx, i) = self.slot(slot);
        let rings = &file.shape.rings;
        let ring = if is_rx {
            rings.rx_ring(&self.region, RingNumber::FIRST)
        } else {
            rings.tx_ring(&self.region, RingNumber::FIRST)
        };
        let ring = ring.unwrap();
        let mut value = ring.load(i as u32);
        let old = Cell(std::mem::replace(&mut value.buf_idx, buffer.0));
        ring.slots[i].word.store(value.pack(), Ordering::Relaxed);
        old
    }

    /// Writes a handle's list as its program believes it to be.
    fn link(&self, handle: usize) {
        let handle = &self.handles[handle];
        let mut next = 0;
        for &buffer in handle.list.iter().rev() {
            self.region.at::<AtomicU32>(buffer, 0).unwrap().store(next, Ordering::Relaxed);
            next = buffer.0;
        }
        self.head(handle).store(next, Ordering::Relaxed);
    }

    fn head(&self, handle: &Handle) -> &AtomicU32 {
        &self.region.at::<RawIf>(handle.at.if_cell, 0).unwrap().ni_bufs_head
    }

    fn open(&mut self, port: u8, extra: u32) {
        let port = ["x", "y"][usize::from(port & 1)];
        let bound = |_: &_| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
        let opened = open::open(&self.root, "valeA", port, &Self::options(extra), bound).unwrap();
        let open::Handle { bell, at } = opened;
        let list = extra_buffers(&self.region, at.if_cell);
        assert!(list.len() == extra as usize || self.leaky, "{} of {extra}", list.len());
        self.handles.push(Handle { bell, at, list, broken: false });
    }

    fn end(&mut self, handle: usize, killed: bool) {
        let Handle { bell, at, .. } = self.handles.remove(handle);
        drop(bell);
        if killed {
            let switch = at.switch.clone();
            std::mem::forget(at);
            reap(&switch, &self.root.lock().unwrap()).unwrap();
        } else {
            drop(at);
        }
    }

    fn act(&mut self, op: &Op) {
        let n = self.handles.len();
        let of = |handle: u8| usize::from(handle) % n.max(1);
        match *op {
            Op::Open { port, extra } if n < 5 => self.open(port, extra),
            _ if n == 0 => {}
            Op::Open { .. } => {}
            Op::Swap { handle, entry, slot } => {
                let h = of(handle);
                if !self.handles[h].broken && !self.handles[h].list.is_empty() {
                    let i = usize::from(entry) % self.handles[h].list.len();
                    self.handles[h].list[i] = self.exchange(slot, self.handles[h].list[i]);
                    self.link(h);
                }
            }
            Op::Move { from, to, count } => {
                let (from, to) = (of(from), of(to));
                if from != to && !self.handles[from].broken && !self.handles[to].broken {
                    let list = &mut self.handles[from].list;
                    let moved: Vec<Cell> = list.drain(..list.len().min(count.into())).collect();
                    self.handles[to].list.extend(moved);
                    self.link(from);
                    self.link(to);
                }
            }
            Op::Keep { handle, count } => {
                let h = of(handle);
                if !self.handles[h].broken {
                    let list = &mut self.handles[h].list;
                    list.truncate(list.len().saturating_sub(count.into()));
                    self.link(h);
                    self.leaky = true;
                }
            }
            Op::DieSwapping { handle, entry, slot, first } => {
                let h = of(handle);
                if !self.handles[h].broken && !self.handles[h].list.is_empty() {
                    let i = usize::from(entry) % self.handles[h].list.len();
                    let old = self.exchange(slot, self.handles[h].list[i]);
                    if first {
                        // The other way round: the list first, the slot not any more.
                        let mine = self.handles[h].list[i];
                        self.exchange(slot, old);
                        self.handles[h].list[i] = old;
                        let _lost = mine;
                        self.link(h);
                    }
                    self.leaky = true;
                    self.end(h, true);
                }
            }
            Op::Scribble { handle, entry, value } => {
                let h = of(handle);
                let handle = &self.handles[h];
                let link = match handle.list.get(usize::from(entry)) {
                    Some(&buffer) => self.region.at::<AtomicU32>(buffer, 0).unwrap(),
                    None => self.head(handle),
                };
                link.store(value, Ordering::Relaxed);
                self.handles[h].broken = true;
                self.leaky = true;
            }
            Op::End { handle, killed } => self.end(of(handle), killed),
        }
    }

    /// Cells that somebody alive rightly has.
    fn named(&self) -> HashSet<Cell> {
        let mut named: HashSet<Cell> = Cell::between(0, RESERVED).collect();
        for file in &self.ports {
            named.extend(file.shape.rings.ring_cells());
            named.extend(file.shape.rings.buffers(&self.region));
        }
        for handle in &self.handles {
            named.insert(handle.at.if_cell);
            if !handle.broken {
                named.extend(&handle.list);
            }
        }
        named
    }

    fn check(&self) {
        let named = self.named();
        for &cell in &named {
            assert!(self.region.used(cell), "{cell:?} is free, and somebody has it");
        }
        let used = self.region.cells() - self.region.free();
        assert!(
            self.leaky || used == named.len() as u32,
            "{used} cells used, {} named",
            named.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 200 }))]
    #[test]
    fn what_the_living_have_is_never_free_and_honest_programs_lose_nothing(
        ops in prop::collection::vec(op(), 1..60)
    ) {
        let mut world = World::new();
        for op in &ops {
            world.act(op);
            world.check();
        }
        while !world.handles.is_empty() {
            world.end(0, false);
            world.check();
        }
    }
}

#[test]
fn list_that_packets_were_written_over_gives_back_no_ring() {
    let mut world = World::new();
    world.open(0, 5);
    world.open(1, 5);
    // A program that takes its buffers out, and dies: the first word of a frame to 02:00:00:00:... leads to
    // cell 2, where a ring begins.
    let first = world.handles[0].list[0];
    world.region.at::<AtomicU32>(first, 0).unwrap().store(2, Ordering::Relaxed);
    assert!(world.ports[0].shape.rings.ring_cells().any(|cell| cell == Cell(2)));
    world.handles[0].broken = true;
    world.leaky = true;
    world.end(0, true);
    world.check();
    assert!(!world.region.used(first));
}

#[test]
fn list_that_leads_into_another_ones_gives_back_its_own_part() {
    let mut world = World::new();
    world.open(0, 5);
    world.open(1, 5);
    let (mine, other) = (world.handles[0].list.clone(), world.handles[1].list[2]);
    world.region.at::<AtomicU32>(mine[3], 0).unwrap().store(other.0, Ordering::Relaxed);
    world.handles[0].broken = true;
    world.leaky = true;
    world.end(0, false);
    world.check();
    assert_eq!(mine.iter().filter(|&&cell| world.region.used(cell)).count(), 1);
}
