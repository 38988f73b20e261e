//! A ring pair of netmap's over a socket: the slots of one, the descriptors of the other, the same buffers.
//!
//! ```text
//!   TX  completed        sent              head                     RX  freed            tail
//!   ....|----------------|-----------------|....                    ....|----------------|....
//!        the kernel has   the program has                                the program has  the kernel has the buffers
//!        the buffers      queued these                                   these            of all these slots
//! ```
//!
//! A sent slot is the program's again when its buffer came back, in the order of the slots, with the buffer that it had.
//! In copy mode a received buffer takes the place of that in the slot that it is put in, which is with the kernel as well: of
//! a slot that is the kernel's, nobody reads the number. In zero-copy mode the kernel has chunks in place of buffers
//! (`store.rs`), and slots keep theirs.
//!
//! Invariant: the kernel has at most as many buffers of a ring as that has slots, so there is always a slot for a packet
//! and room in each of the kernel's rings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use shared_bytes::Span;

use super::chunks::Chunks;
use super::raw;
use super::ring::{Consumer, Packet, Producer};
use super::socket::{Failure, Rings, Socket};
use super::store::Store;
use super::umem::{Purpose, Umem, User, address, fill_address, received_address};
use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags, SlotValue};
use crate::ring::RingRef;
use crate::shm::mem::Cell;
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::{AtomicU32, Ordering};

/// Bytes of an Ethernet header, without which a frame is none.
const ETHERNET: usize = 14;
/// Of a frame in one slot, as VALE says it: the number of its slots is in the upper byte.
const ONE_SLOT: u16 = 1 << 8;

/// A queue that is open, for one handle or several.
#[derive(Debug)]
pub struct Queue {
    // First: it is closed while the rings are still mapped, and what it held is free when they are not.
    tx: Option<Mutex<Tx>>,
    rx: Option<Mutex<Rx>>,
    socket: Socket,
    /// As whom the socket has buffers of the region, if it has.
    user: Option<User>,
    /// First TX slot whose buffer is not back; what `tx` knows, for those who look without a sync.
    completed: AtomicU32,
    /// First TX slot that the kernel was not told of.
    sent: AtomicU32,
    tx_counters: SharedCounters,
    rx_counters: SharedCounters,
    polls: bool,
}

#[derive(Debug)]
struct Tx {
    ring: Producer,
    completion: Consumer,
    completed: u32,
    sent: u32,
    /// Of each slot that was sent, whether its buffer is back, or it had none to give.
    done: Box<[bool]>,
}

#[derive(Debug)]
struct Rx {
    fill: Producer,
    ring: Consumer,
    freed: u32,
    hwtail: u32,
    /// A copy of a frame whose checksum is to be filled in: in memory that others may write, no reference is made to it.
    scratch: Box<[u8]>,
}

fn lock<T>(side: &Option<Mutex<T>>) -> MutexGuard<'_, T> {
    let side = side.as_ref().expect("a handle binds rings of its direction only");
    side.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// A ring pair with these slots, or the half of one that there is a ring for. All buffers of the RX ring are given to
    /// the kernel, unless it has chunks.
    pub fn new(
        socket: Socket,
        rings: Rings,
        tx_slots: u32,
        rx_ring: Option<RingRef<'_>>,
        polls: bool,
    ) -> Self {
        let Rings { fill, rx, tx, completion } = rings;
        let lent = match socket.store() {
            Store::Lent(umem) => Some((umem, umem.enter())),
            Store::Own(_) => None,
        };
        let tx = tx.map(|ring| Tx {
            ring,
            completion,
            completed: 0,
            sent: 0,
            done: vec![false; tx_slots as usize].into(),
        });
        let counters = SharedCounters::new();
        let rx = rx.zip(rx_ring).map(|(ring, slots)| {
            let scratch = vec![0; slots.buffer_bytes()].into();
            let mut rx = Rx { fill, ring, freed: 0, hwtail: 0, scratch };
            if let Some((umem, user)) = lent {
                for slot in 0..slots.n() {
                    rx.give(umem, user, Cell(slots.load(slot).buf_idx), &counters);
                }
                rx.fill.publish();
            }
            rx
        });
        let user = lent.map(|(_, user)| user);
        Self {
            tx: tx.map(Mutex::new),
            rx: rx.map(Mutex::new),
            socket,
            user,
            completed: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            tx_counters: SharedCounters::new(),
            rx_counters: counters,
            polls,
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether its packets are in memory of its own, for zero-copy mode.
    pub fn is_own(&self) -> bool {
        self.store().is_own()
    }

    fn store(&self) -> &Store {
        self.socket.store()
    }

    fn user(&self) -> User {
        self.user.expect("entered when the queue was made")
    }

    /// First TX slot that is not the program's again, and first that was not sent.
    pub fn sent(&self) -> (u32, u32) {
        (self.completed.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// Gives queued packets of up to `longest` bytes to the kernel, and takes back the buffers of those that went.
    pub fn txsync(&self, slots: RingRef<'_>, longest: usize) -> Result<(), Failure> {
        let mut tx = lock(&self.tx);
        let tx = &mut *tx;
        tx.take_back(self.store(), slots.n());
        let tail = slots.step(tx.completed, slots.n() - 1);
        let head = slots.head_in_order(tx.completed, tail).filter(|&head| {
            // What was sent cannot be taken back.
            slots.distance(tx.completed, head) >= slots.distance(tx.completed, tx.sent)
        });
        match head {
            Some(head) => {
                let from = match self.store() {
                    Store::Lent(umem) => Source::Buffers(umem, self.user()),
                    Store::Own(chunks) => Source::Chunks(chunks),
                };
                tx.send(from, slots, head, longest, &self.tx_counters);
            }
            None => {
                slots.reinit(tx.sent, tail);
                self.tx_counters.add(C::reinits, 1);
            }
        }
        let kicked = tx.kick(&self.socket);
        tx.take_back(self.store(), slots.n());
        self.completed.store(tx.completed, Ordering::Relaxed);
        self.sent.store(tx.sent, Ordering::Relaxed);
        let tail = slots.step(tx.completed, slots.n() - 1);
        slots.raw.tail.store(tail, Ordering::Release);
        kicked
    }

    /// Drops and counts queued packets, and takes back the buffers of those that went.
    pub fn discard(&self, slots: RingRef<'_>) {
        let mut tx = lock(&self.tx);
        let tx = &mut *tx;
        tx.take_back(self.store(), slots.n());
        let tail = slots.step(tx.completed, slots.n() - 1);
        match slots.head_in_order(tx.completed, tail) {
            Some(head)
                if slots.distance(tx.completed, head) >= slots.distance(tx.completed, tx.sent) =>
            {
                tx.discard(slots, head, &self.tx_counters);
            }
            _ => {
                slots.reinit(tx.sent, tail);
                self.tx_counters.add(C::reinits, 1);
            }
        }
        tx.take_back(self.store(), slots.n());
        self.completed.store(tx.completed, Ordering::Relaxed);
        self.sent.store(tx.sent, Ordering::Relaxed);
        let tail = slots.step(tx.completed, slots.n() - 1);
        slots.raw.tail.store(tail, Ordering::Release);
    }

    /// Gives buffers that were read to the kernel, and shows the packets that came.
    pub fn rxsync(&self, slots: RingRef<'_>) -> Result<(), Failure> {
        let mut rx = lock(&self.rx);
        let rx = &mut *rx;
        let counters = &self.rx_counters;
        let Some(head) = slots.head_in_order(rx.freed, rx.hwtail) else {
            slots.reinit(rx.freed, rx.hwtail);
            counters.add(C::reinits, 1);
            return Ok(());
        };
        let mut called = Ok(());
        match self.store() {
            Store::Lent(umem) if head != rx.freed => {
                while rx.freed != head {
                    rx.give(umem, self.user(), Cell(slots.load(rx.freed).buf_idx), counters);
                    rx.freed = slots.step(rx.freed, 1);
                }
                rx.fill.publish();
                if rx.fill.needs_wakeup() {
                    called = raw::receive(self.socket.fd()).map_err(Failure::from);
                }
            }
            Store::Lent(_) => {}
            Store::Own(_) => rx.freed = head,
        }
        let room = slots.n() - 1 - slots.distance(rx.freed, rx.hwtail);
        if self.polls && rx.ring.available() == 0 {
            called = raw::receive(self.socket.fd()).map_err(Failure::from);
        }
        let come = rx.ring.available().min(room);
        if come > 0 {
            match self.store() {
                Store::Lent(umem) => rx.show(umem, slots, come, counters),
                Store::Own(chunks) => rx.show_copies(chunks, slots, come, counters),
            }
            slots.raw.tail.store(rx.hwtail, Ordering::Release);
        }
        if self.store().is_own() && called.is_ok() && !self.polls && rx.fill.needs_wakeup() {
            // It has found the ring empty, perhaps before the last chunks went there.
            called = raw::receive(self.socket.fd()).map_err(Failure::from);
        }
        match called {
            Err(Failure::Later) => Ok(()),
            called => called,
        }
    }

    /// Cheaply: whether an rxsync may show something.
    pub fn has_news(&self) -> bool {
        self.polls || lock(&self.rx).ring.available() > 0
    }

    /// Counts sleeps.
    pub fn count_wakeup(&self) {
        self.rx_counters.add(C::wakeups, 1);
    }

    /// What happened on the pair.
    pub fn counters(&self) -> Counters {
        let mut counters = self.tx_counters.read() + self.rx_counters.read();
        // A socket of an interface that is gone has counted nothing any more.
        if let Ok(kernel) = raw::statistics(self.socket.fd()) {
            // In zero-copy mode `rx_fill_ring_empty_descs` says how often a driver has looked for more buffers than there were;
            // what it had none for, the NIC has dropped and counted.
            let unfilled =
                if self.socket.is_zero_copy() { 0 } else { kernel.rx_fill_ring_empty_descs };
            counters.rx_drop_full += unfilled + kernel.rx_ring_full;
            // Longer than a buffer, for one; without a buffer, which is counted as full.
            counters.rx_drop_bad += kernel.rx_dropped.saturating_sub(unfilled);
            counters.tx_drop_bad += kernel.tx_invalid_descs;
        }
        counters
    }

    /// Ends the pair: closes the socket, and returns the buffers that rings and slots had.
    pub fn close(self, umem: &Umem, tx: RingRef<'_>, rx: RingRef<'_>) -> Vec<Cell> {
        let read = self.rx.as_ref().filter(|_| self.user.is_some()).map(|_| {
            let side = lock(&self.rx);
            (side.freed, rx.distance(side.freed, side.hwtail))
        });
        let user = self.user;
        drop(self);
        // With the kernel; all TX slots, which name theirs wherever they are; RX slots that are the program's, or all.
        let mut found = user.map_or_else(Vec::new, |user| umem.leave(user));
        found.extend(tx.named_buffers());
        let (from, n) = read.unwrap_or((0, rx.n()));
        found.extend((0..n).map(|k| Cell(rx.load(rx.step(from, k)).buf_idx)));
        found
    }
}

/// Where the kernel finds what is to be sent.
#[derive(Clone, Copy)]
enum Source<'a> {
    Buffers(&'a Umem, User),
    Chunks(&'a Chunks),
}

impl Tx {
    /// Takes back the buffers of packets that went.
    fn take_back(&mut self, store: &Store, slots: u32) {
        let n = self.completion.available();
        for _ in 0..n {
            let address = self.completion.take();
            let slot = match store {
                Store::Lent(umem) => {
                    umem.take_back(address).and_then(|(_, purpose)| match purpose {
                        Purpose::Send(slot) => Some(slot),
                        Purpose::Fill => None,
                    })
                }
                Store::Own(chunks) => chunks.sent(address),
            };
            if let Some(done) = slot.and_then(|slot| self.done.get_mut(usize::from(slot))) {
                *done = true;
            }
        }
        if n > 0 {
            self.completion.release();
        }
        while self.completed != self.sent && std::mem::take(&mut self.done[self.completed as usize])
        {
            self.completed = if self.completed + 1 == slots { 0 } else { self.completed + 1 };
        }
    }

    fn send(
        &mut self,
        from: Source<'_>,
        slots: RingRef<'_>,
        head: u32,
        longest: usize,
        counters: &SharedCounters,
    ) {
        let (mut packets, mut bytes) = (0, 0);
        let first = self.sent;
        while self.sent != head {
            let at = self.sent;
            let chunk = match from {
                Source::Buffers(..) => None,
                Source::Chunks(chunks) => Some(chunks.to_send(at)),
            };
            let (n, packet) = gather(slots, at, head, longest, chunk.map(|(_, room)| room));
            let given = match packet {
                Ok(slot) if usize::from(slot.len) < ETHERNET => {
                    counters.add(C::tx_drop_short, 1);
                    false
                }
                Ok(slot) => {
                    let room = self.ring.has_room(1);
                    let address = match (from, chunk) {
                        (Source::Buffers(umem, user), _) => {
                            let (cell, purpose) = (Cell(slot.buf_idx), Purpose::Send(at as u16));
                            (room && umem.give(cell, user, purpose)).then(|| address(cell))
                        }
                        (Source::Chunks(_), chunk) => chunk.map(|(at, _)| at).filter(|_| room),
                    };
                    if let Some(address) = address {
                        self.ring.put_packet(Packet { address, len: u32::from(slot.len) });
                        packets += 1;
                        bytes += u64::from(slot.len);
                    } else {
                        counters.add(C::tx_drop_bad, 1);
                    }
                    address.is_some()
                }
                Err(why) => {
                    counters.add(why, 1);
                    false
                }
            };
            // Only the first slot of a packet has a buffer to wait for, and only if it went.
            for k in 0..n {
                self.done[slots.step(at, k) as usize] = k > 0 || !given;
            }
            self.sent = slots.step(at, n);
        }
        if self.sent != first {
            self.ring.publish();
            counters.add(C::tx_packets, packets);
            counters.add(C::tx_bytes, bytes);
            counters.add(C::tx_batches, 1);
        }
    }

    fn discard(&mut self, slots: RingRef<'_>, head: u32, counters: &SharedCounters) {
        let mut packets = 0;
        while self.sent != head {
            let flags = SlotFlags::from_bits_retain(slots.load(self.sent).flags);
            self.done[self.sent as usize] = true;
            self.sent = slots.step(self.sent, 1);
            packets += u64::from(!flags.contains(SlotFlags::MOREFRAG) || self.sent == head);
        }
        counters.add(C::tx_drop_down, packets);
    }

    /// Has the kernel send what is in its ring, as far as it does now.
    fn kick(&mut self, socket: &Socket) -> Result<(), Failure> {
        let mut left = self.ring.waiting();
        while left > 0 && self.ring.needs_wakeup() {
            match raw::send(socket.fd()).map_err(Failure::from) {
                Ok(()) | Err(Failure::Later) => {}
                failed => return failed,
            }
            let now = self.ring.waiting();
            if now >= left {
                break; // nothing went: the interface is down, or there is no room
            }
            left = now;
        }
        Ok(())
    }
}

/// The packet that begins at `at`: how many slots it has, and its first slot with all its data, unless it is not whole or
/// longer than `longest`, which is at most a buffer: then what is to be counted. The data are put together in the first
/// buffer, or in `chunk`.
fn gather(
    slots: RingRef<'_>,
    at: u32,
    head: u32,
    longest: usize,
    chunk: Option<Span<'_>>,
) -> (u32, Result<SlotValue, C>) {
    let first = slots.load(at);
    let flags = |slot: &SlotValue| SlotFlags::from_bits_retain(slot.flags);
    let is_good = |slot: &SlotValue| {
        usize::from(slot.len) <= slots.buffer_bytes()
            && slots.buffer(slot.buf_idx).is_some()
            && !flags(slot).contains(SlotFlags::INDIRECT)
    };
    let (mut good, mut n, mut last) = (is_good(&first), 1, first);
    let mut len = usize::from(first.len);
    if let Some(chunk) = chunk.filter(|_| good && len <= longest) {
        chunk.write_span(slots.frame(first, len));
    }
    while flags(&last).contains(SlotFlags::MOREFRAG) && slots.step(at, n) != head {
        last = slots.load(slots.step(at, n));
        n += 1;
        good &= is_good(&last) && n as usize <= NETMAP_MAX_FRAGS;
        let end = len + usize::from(last.len);
        if good && end <= longest {
            // Behind what the first buffer has: the kernel is given one buffer a packet.
            let whole = SlotValue { len: end as u16, ..first };
            let to = chunk.unwrap_or_else(|| slots.frame(whole, end)).after(len);
            to.write_span(slots.frame(last, usize::from(last.len)));
        }
        len = end;
    }
    good &= !flags(&last).contains(SlotFlags::MOREFRAG);
    let whole = match (good, len <= longest) {
        (true, true) => Ok(SlotValue { len: len as u16, ..first }),
        (true, false) => Err(C::tx_drop_long),
        (false, _) => Err(C::tx_drop_bad),
    };
    (n, whole)
}

impl Rx {
    /// Gives the kernel a buffer for a packet to come.
    fn give(&mut self, umem: &Umem, user: User, cell: Cell, counters: &SharedCounters) {
        if self.fill.has_room(1) && umem.give(cell, user, Purpose::Fill) {
            self.fill.put(fill_address(cell));
        } else {
            counters.add(C::rx_drop_bad, 1);
        }
    }

    /// Puts packets that came in slots; there are as many.
    fn show(&mut self, umem: &Umem, slots: RingRef<'_>, come: u32, counters: &SharedCounters) {
        let (mut packets, mut bytes) = (0, 0);
        for _ in 0..come {
            let packet = self.ring.take_packet();
            let Some((cell, _)) = umem.take_back(received_address(packet.address)) else {
                counters.add(C::rx_drop_bad, 1); // no address that the kernel was given
                continue;
            };
            let len = packet.len.min(slots.buffer_bytes() as u32) as u16;
            self.show_one(slots, SlotValue { buf_idx: cell.0, len, flags: ONE_SLOT });
            packets += 1;
            bytes += u64::from(len);
        }
        self.ring.release();
        counters.add(C::rx_packets, packets);
        counters.add(C::rx_bytes, bytes);
        counters.add(C::rx_batches, 1);
    }

    /// Copies packets that came to the buffers of slots; there are as many. Their chunks go back to the kernel.
    fn show_copies(
        &mut self,
        chunks: &Chunks,
        slots: RingRef<'_>,
        come: u32,
        counters: &SharedCounters,
    ) {
        let (mut packets, mut bytes) = (0, 0);
        for _ in 0..come {
            let Some((packet, chunk)) = chunks.received(self.ring.take_packet()) else {
                counters.add(C::rx_drop_bad, 1); // no address that the kernel was given
                continue;
            };
            let slot = slots.load(self.hwtail);
            if packet.len() <= slots.buffer_bytes() {
                let len = packet.len() as u16;
                let slot = SlotValue { buf_idx: slot.buf_idx, len, flags: ONE_SLOT };
                slots.frame(slot, packet.len()).write_span(packet);
                self.show_one(slots, slot);
                packets += 1;
                bytes += u64::from(len);
            } else {
                counters.add(C::rx_drop_bad, 1);
            }
            if self.fill.has_room(1) {
                self.fill.put(chunk);
            }
        }
        self.fill.publish();
        self.ring.release();
        counters.add(C::rx_packets, packets);
        counters.add(C::rx_bytes, bytes);
        counters.add(C::rx_batches, 1);
    }

    /// Shows one packet, in the buffer that its slot is to name.
    fn show_one(&mut self, slots: RingRef<'_>, slot: SlotValue) {
        self.complete(slots, slot);
        let word = &slots.slots[self.hwtail as usize].word;
        word.store(slot.pack(), Ordering::Relaxed);
        self.hwtail = slots.step(self.hwtail, 1);
    }

    /// Fills in the checksum of a frame whose sender, a stack on this host, has left that to a NIC.
    fn complete(&mut self, slots: RingRef<'_>, slot: SlotValue) {
        let frame = slots.frame(slot, usize::from(slot.len));
        let copy = &mut self.scratch[..frame.len()];
        frame.copy_to(copy);
        if offload::finish_partial(copy) {
            frame.write(0, copy);
        }
    }
}
