//! Damaged rings: slots, indices and buffers, written over between the calls of three ports.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};

use super::{Input, no_access_beyond_files, small};
use crate::abi::{RawSlot, SlotFlags, SlotValue};
use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::options::{BoundRings, Memory, MemoryRef, PerDirection};
use crate::ring::{RingRef, RxRing, TxRing, TxRingRef, ring_bytes, transfer};
use crate::shm::mem::{Cell, STRIDE, cells_for};
use crate::sync::core_atomic::{AtomicU64, Ordering};
use crate::vale::forward::set_always;
use crate::vale::lifecycle::open;
use crate::vale::lifecycle::root::Root;
use crate::vale::port::ValePort;
use crate::vale::state::ids::RingNumber;
use crate::vale::state::switch::Settings;
use crate::wait::Interest;

/// Bytes that slots may point to: a page.
const WINDOW: usize = 4096;
/// Rings of each kind in each port.
const RINGS: usize = 2;
/// Slots of each ring: more than the longest packet has.
const SLOTS: u32 = 128;

/// Three ports on one switch, the last two in one region, made once per process.
struct Rig {
    ports: Vec<ValePort>,
    /// Slot words as they were made, by port: TX rings, then RX rings.
    words: Vec<Vec<u64>>,
    /// Cells that hold rings, by port: of all ports in its region. A buffer index that names one
    /// makes the next packet overwrite a ring: a peer may do so, but then nothing is certain of it.
    ring_cells: Vec<Vec<u32>>,
    /// Address of the memory that slots may point to.
    window: usize,
    backpressure: bool,
}

fn rig() -> MutexGuard<'static, Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| Mutex::new(Rig::new().expect("a fresh switch")))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Slots come from outside in every word, ring indices, buffer contents and what producers of a ring leave to
/// each other too; yet each sync leaves rings in order and loses no buffer, receivers see whole packets in buffers of their region, senders send
/// nothing from addresses that were not allowed, and an exchange of buffers loses none.
/// (`Rig::txsync`, `rxsync` and `transfer` say it in detail.)
pub fn slots(data: &[u8]) {
    let mut rig = rig();
    let mut input = Input(data);
    rig.reset(input.byte() & 1 != 0);
    for _ in 0..512 {
        if input.0.is_empty() {
            break;
        }
        rig.act(&mut input);
    }
    for port in 0..3 {
        for ring in 0..RINGS {
            rig.txsync(port, ring);
            rig.rxsync(port, ring, usize::MAX);
        }
    }
}

/// A page between two that cannot be read: a packet taken from outside the window ends the process.
fn guarded_window() -> Result<usize> {
    let failed = |e| Error::io("map", "a window")(e);
    let len = NonZeroUsize::new(3 * WINDOW).expect("not 0");
    // SAFETY: an anonymous mapping at an address that the kernel chooses.
    let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
    let base = base.map_err(failed)?;
    // SAFETY: the middle page lies within the mapping.
    let middle = unsafe { base.byte_add(WINDOW) };
    // SAFETY: that page is ours alone, and nothing refers to it yet.
    unsafe { mprotect(middle, WINDOW, ProtFlags::PROT_READ) }.map_err(failed)?;
    Ok(middle.as_ptr() as usize)
}

impl Rig {
    fn new() -> Result<Self> {
        set_always(true);
        let root = Root::open()?;
        let window = guarded_window()?;
        let mut ports: Vec<ValePort> = Vec::new();
        for name in ["x", "y", "z"] {
            let mut options = small(match ports.get(1) {
                Some(y) => Memory::With(MemoryRef(y.at.port.file.shape.region.clone())),
                None => Memory::Private,
            });
            options.tx_slots = Some(SLOTS);
            options.rx_slots = Some(SLOTS);
            options.tx_rings = Some(RINGS as u16);
            options.rx_rings = Some(RINGS as u16);
            let all = |_: &_| Ok(BoundRings::all(PerDirection { tx: RINGS, rx: RINGS }));
            let at = open::open(&root, "valeFuzzS", name, &options, all)?;
            let mut port = ValePort::new(at);
            port.allow_indirect(window, WINDOW);
            ports.push(port);
        }
        no_access_beyond_files();
        let word = |s: &RawSlot| s.word.load(Ordering::Relaxed);
        let words = ports.iter().map(|p| rings(p).flat_map(|r| r.slots.iter().map(word)).collect());
        let ring_cells = |of: &ValePort| {
            let same = |p: &&ValePort| p.at.port.region.id() == of.at.port.region.id();
            let shapes = ports.iter().filter(same).map(|p| &p.at.port.file.shape);
            let starts = shapes.flat_map(|s| s.rings.tx.iter().chain(&s.rings.rx));
            starts
                .flat_map(|cell| cell.run(cells_for(ring_bytes(SLOTS))))
                .map(|cell| cell.0)
                .collect()
        };
        Ok(Self {
            words: words.collect(),
            ring_cells: ports.iter().map(ring_cells).collect(),
            ports,
            window,
            backpressure: false,
        })
    }

    /// Everything as it was made, so that an input's effect does not depend on the ones before.
    fn reset(&mut self, backpressure: bool) {
        let switch = &self.ports[0].at.switch;
        if self.backpressure != backpressure {
            let settings = Settings { backpressure, ..switch.settings() };
            switch.set(&switch.root().lock().expect("our own root"), settings);
            self.backpressure = backpressure;
        }
        switch.fdb().remove_if(|_, _| true);
        for ((port, words), ring_cells) in self.ports.iter().zip(&self.words).zip(&self.ring_cells)
        {
            for cell in (0..port.at.port.region.cells()).filter(|c| !ring_cells.contains(c)) {
                let start: &[AtomicU64] =
                    port.at.port.region.slice(Cell(cell), 0, 2).expect("a known cell");
                start.iter().for_each(|w| w.store(0, Ordering::Relaxed)); // what routes a packet
            }
            let slots = rings(port).flat_map(|r| r.slots.iter());
            for (slot, &word) in slots.zip(words) {
                slot.word.store(word, Ordering::Relaxed);
                slot.ptr.store(0, Ordering::Relaxed);
            }
            for i in 0..RINGS {
                let (tx, kring) =
                    (port.tx_ring(RingNumber::new(i)), port.at.port.file.kring(RingNumber::new(i)));
                port.at.port.file.tx_state(RingNumber::new(i)).done(0);
                tx.reinit(0, tx.n() - 1);
                kring.publish(0);
                kring.free(0);
                let _ = kring.take_sleepers();
                let _ = kring.take_waiters();
                kring.exchange.scribble(0, 0);
                port.rx_ring(RingNumber::new(i)).reinit(0, 0);
            }
        }
    }

    /// Whether no slot names a cell in which a ring lies.
    fn clean(&self) -> bool {
        let mut ports = self.ports.iter().zip(&self.ring_cells);
        ports.all(|(port, cells)| buffers(port).all(|b| !cells.contains(&b)))
    }

    /// One action of the input: 0 to 3 write to shared memory, the others call the library.
    fn act(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let (p, i) = (usize::from(op >> 3 & 3) % 3, usize::from(op >> 5 & 1));
        let (is_rx, other) = (op & 0x40 != 0, op & 0x80 != 0);
        let port = &self.ports[p];
        let ring =
            if is_rx { port.rx_ring(RingNumber::new(i)) } else { port.tx_ring(RingNumber::new(i)) };
        match op & 7 {
            0 if other => {
                // A buffer near the region's end.
                let [at, distance] = input.bytes();
                let end = port.at.port.region.cells();
                let value = SlotValue {
                    buf_idx: end.wrapping_add_signed((distance as i8).into()),
                    len: input.half(),
                    flags: input.half(),
                };
                let slot = &ring.slots[usize::from(at % 128)];
                slot.word.store(value.pack(), Ordering::Relaxed);
            }
            0 => {
                let slot = &ring.slots[usize::from(input.byte() % 128)];
                slot.word.store(u64::from_le_bytes(input.bytes()), Ordering::Relaxed);
            }
            1 => {
                let (at, len) = (input.byte(), input.half());
                let slot = &ring.slots[usize::from(at % 128)];
                let ptr = if other {
                    u64::from_le_bytes(input.bytes())
                } else {
                    let distance = i16::from_le_bytes(input.bytes());
                    (self.window as u64).wrapping_add_signed(distance.into())
                };
                slot.ptr.store(ptr, Ordering::Relaxed);
                let flags = SlotFlags::INDIRECT.bits() | u16::from(at >> 7) << 5;
                let value = SlotValue {
                    buf_idx: SlotValue::unpack(slot.word.load(Ordering::Relaxed)).buf_idx,
                    len,
                    flags,
                };
                slot.word.store(value.pack(), Ordering::Relaxed);
            }
            2 => {
                let which = input.byte();
                let value =
                    if other { u32::from_le_bytes(input.bytes()) } else { input.byte().into() };
                for (bit, index) in
                    [&ring.raw.head, &ring.raw.cur, &ring.raw.tail].iter().enumerate()
                {
                    if which & 1 << bit != 0 {
                        index.store(value, Ordering::Relaxed);
                    }
                }
            }
            3 if other && is_rx => {
                // What a producer leaves to the next one: of the exchange of two buffers, and of warm ones.
                let exchange = &port.at.port.file.kring(RingNumber::new(i)).exchange;
                let [kind, a, b] = input.bytes();
                let repair = if kind & 1 != 0 { u64::from_le_bytes(input.bytes()) } else { 0 };
                exchange.scribble(repair, u64::from_le_bytes(input.bytes()));
                if kind & 2 != 0 {
                    exchange.forge((a % 128).into(), (b % 128).into(), input.half().into());
                }
            }
            3 => {
                let cell = match other {
                    true => input.half().into(),
                    false => ring.load(u32::from(input.byte() % 128)).buf_idx,
                };
                let byte = usize::from(input.byte()) % (STRIDE / 8) * 8;
                let value = u64::from_le_bytes(input.bytes());
                if cell < port.at.port.region.cells()
                    && let Some(word) = port.at.port.region.at::<AtomicU64>(Cell(cell), byte)
                {
                    word.store(value, Ordering::Relaxed);
                }
            }
            4 => {
                let mut frame = vec![0; usize::from(input.half())];
                let addresses = [[2, 0, 0, 0, 0, input.byte()], [2, 0, 0, 0, 0, input.byte()]];
                let head = frame.len().min(12);
                frame[..head].copy_from_slice(&addresses.as_flattened()[..head]);
                let _ = tx(port, i).push(&frame);
            }
            5 => self.txsync(p, i),
            6 => self.rxsync(p, i, input.byte().into()),
            _ if other => self.transfer(p, i, usize::from(input.byte()) % 3, input.byte(), is_rx),
            _ => {
                self.ports[p].arm(Interest::all());
                let _ = (self.ports[p].peek(), self.ports[p].is_armed());
                self.ports[p].disarm(is_rx);
            }
        }
    }

    /// After a txsync every slot of the ring is free or pending, one kept empty; nothing came back
    /// to the sender; and what each receiver got is whole packets: chains of as many slots as each
    /// says, of at most 64, none longer than a buffer.
    fn txsync(&mut self, p: usize, i: usize) {
        let published = |rig: &Self| -> Vec<u32> {
            let krings = rig
                .ports
                .iter()
                .flat_map(|p| (0..RINGS).map(|i| p.at.port.file.kring(RingNumber::new(i))));
            krings.map(|k| k.published()).collect()
        };
        let (before, clean) = (published(self), self.clean());
        let named = self.receive_buffers();
        self.ports[p].txsync_ring(i).expect("a switch does not fail");
        let after = published(self);
        for (before, after) in named.iter().zip(self.receive_buffers()) {
            let each_once = before.windows(2).all(|pair| pair[0] != pair[1]);
            assert!(!clean || !each_once || *before == after, "a buffer was lost or doubled");
        }
        let all = |p: usize| p * RINGS..(p + 1) * RINGS;
        assert_eq!(before[all(p)], after[all(p)], "a port received its own packet");
        assert!(after.iter().all(|&tail| tail < SLOTS), "{after:?}");
        if !clean {
            return;
        }
        let ring = tx(&self.ports[p], i);
        assert_eq!(ring.space() + ring.pending(), ring.num_slots() - 1);
        for (k, (&from, &to)) in before.iter().zip(&after).enumerate() {
            let ring = self.ports[k / RINGS].rx_ring(RingNumber::new(k % RINGS));
            let mut at = from;
            while at != to {
                let frags = SlotFlags::from_bits_retain(ring.load(at).flags).rfrags();
                assert!((1..=64).contains(&frags), "{frags} fragments");
                for left in (0..frags).rev() {
                    assert_ne!(at, to, "a packet was cut off");
                    let slot = ring.load(at);
                    let flags = SlotFlags::from_bits_retain(slot.flags);
                    assert!(usize::from(slot.len) <= STRIDE, "{slot:?}");
                    assert_eq!(flags.rfrags(), frags);
                    assert_eq!(flags.contains(SlotFlags::MOREFRAG), left != 0);
                    at = ring.step(at, 1);
                }
            }
        }
    }

    /// The buffers that each receive ring names, sorted.
    fn receive_buffers(&self) -> Vec<Vec<u32>> {
        let rings =
            self.ports.iter().flat_map(|port| (0..RINGS).map(|i| port.rx_ring(RingNumber::new(i))));
        rings
            .map(|ring| {
                let mut named: Vec<u32> = (0..ring.n()).map(|k| ring.load(k).buf_idx).collect();
                named.sort_unstable();
                named
            })
            .collect()
    }

    /// After an rxsync the program sees exactly what was published and not yet freed, and the
    /// frame of each slot is a buffer of the region, whatever the slot says.
    fn rxsync(&mut self, p: usize, i: usize, read: usize) {
        self.ports[p].rxsync_ring(i).expect("a switch does not fail");
        let port = &self.ports[p];
        let (kring, region) = (port.at.port.file.kring(RingNumber::new(i)), &port.at.port.region);
        let mut ring = RxRing::new(port.rx_ring(RingNumber::new(i)));
        let expected =
            port.rx_ring(RingNumber::new(i)).distance(kring.consumer_cur(), kring.published());
        assert_eq!(ring.available(), expected as usize);
        for slot in ring.batch(usize::MAX) {
            let frame = slot.frame();
            let offset = frame.as_ptr() as usize - region.buffers().first as usize;
            assert!(offset.is_multiple_of(STRIDE) && offset / STRIDE < region.cells() as usize);
            assert!(frame.len() <= STRIDE);
            assert_eq!(frame.to_vec().len(), frame.len());
        }
        ring.advance(ring.available().min(read));
    }

    /// A transfer moves no more than was there, fitted and was asked for, and leaves in the rings
    /// the very buffers that were there.
    fn transfer(&mut self, p: usize, i: usize, to: usize, most: u8, zero_copy: bool) {
        let in_rings = || {
            let mut all: Vec<(u64, u32)> = Vec::new();
            for port in &self.ports {
                all.extend(buffers(port).map(|b| (port.at.port.region.id().inode, b)));
            }
            all.sort_unstable();
            all
        };
        let (before, clean) = (in_rings(), self.clean());
        let mut from = RxRing::new(self.ports[p].rx_ring(RingNumber::new(i)));
        let mut into = tx(&self.ports[to], i);
        let room = from.available().min(into.space()).min(most.into());
        let moved = transfer(&mut from, &mut into, most.into(), zero_copy);
        assert!(moved.slots <= room && moved.packets <= moved.slots, "{moved:?}");
        assert!(moved.bytes <= moved.slots * STRIDE, "{moved:?}");
        assert!(!clean || before == in_rings(), "a buffer was lost or doubled");
    }
}

fn tx(port: &ValePort, i: usize) -> TxRing<'_> {
    let hwcur = port.at.port.file.tx_state(RingNumber::new(i)).hwcur();
    TxRing::new(TxRingRef::new(port.tx_ring(RingNumber::new(i)), hwcur))
}

/// TX rings, then RX rings.
fn rings(port: &ValePort) -> impl Iterator<Item = RingRef<'_>> {
    let tx = (0..RINGS).map(|i| port.tx_ring(RingNumber::new(i)));
    tx.chain((0..RINGS).map(|i| port.rx_ring(RingNumber::new(i))))
}

/// Buffers that the port's slots name.
fn buffers(port: &ValePort) -> impl Iterator<Item = u32> {
    rings(port).flat_map(|r| (0..r.n()).map(move |i| r.load(i).buf_idx))
}
