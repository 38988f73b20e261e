//! A port of `lib/netmap` as the device's network: a VALE switch, a tap, a capture file, nothing.
//!
//! Invariants: guest memory is made known to the port (`allow_indirect`) together with a handle that
//! keeps it mapped, so a slot that points there is good as long as the port is open; a peer that
//! writes addresses into our slots reaches guest memory at most. A device that fails loses packets,
//! which are counted, and never stops the guest.

use std::fmt;
use std::os::fd::BorrowedFd;

use e1000_device::{Await, GuestRam, NetPort, RxSlots, TxSlots};
use netmap::{Capabilities, Interest, Link, Options, Port, PortName, RxRing, SlotFlags, TxRing};
use nix::poll::PollFlags;
use shared_bytes::Span;

use crate::host::clock::monotonic_ns;
use crate::net::iothread::Polled;
use crate::net::limiter::Limiter;

/// A netmap port.
pub struct NetmapPort {
    port: Port,
    /// Slots point into guest memory: one copy, made inside txsync.
    indirect: bool,
    lost: u64,
    /// The port's count of received packets at the moment when those in the ring were to be dropped.
    stale: Option<u64>,
    /// `--rx-limit`.
    limit: Option<Limiter>,
    /// Of the received slots so many may be taken: whole packets. Without a limit all.
    open: usize,
    /// Dropped after the port, whose slots point there.
    _ram: GuestRam,
}

impl fmt::Debug for NetmapPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, indirect, lost, .. } = self;
        let name = port.name().to_string();
        f.debug_struct("NetmapPort")
            .field("name", &name)
            .field("indirect", indirect)
            .field("lost", lost)
            .finish_non_exhaustive()
    }
}

impl NetmapPort {
    /// Opens the port. `indirect` asks for one copy instead of two; only a switch can do that, other
    /// kinds copy.
    ///
    /// # Errors
    /// As `netmap::Port::open_with`.
    pub fn open(
        name: &PortName,
        options: &Options,
        ram: &GuestRam,
        indirect: bool,
    ) -> netmap::Result<Self> {
        let mut port = Port::open_with(name, options)?;
        if port.can(Capabilities::OFFLOAD_HEADERS) {
            // The device knows nothing of them: frames are to come complete, and go as they are, as long as the machine runs.
            port.borrow_vnet_hdr_len(0)?;
        }
        let indirect = indirect && name.can(Capabilities::INDIRECT);
        if indirect {
            let len = usize::try_from(ram.bytes()).expect("it is mapped");
            // SAFETY: the memory stays mapped and readable while `_ram` lives, which is dropped after
            // the port. That peers on the switch may make us send any part of the guest's memory is
            // said in docs/trust.md.
            unsafe { port.allow_indirect(ram.base().as_ptr(), len) }?;
        }
        let (limit, open) = (None, usize::MAX);
        Ok(Self { port, indirect, lost: 0, stale: None, limit, open, _ram: ram.clone() })
    }

    /// Takes so many packets from the port as that lets through; the others wait there, and when it is full their
    /// senders drop them.
    #[must_use]
    pub fn with_limit(mut self, limit: Option<Limiter>) -> Self {
        self.limit = limit;
        self.open = if self.limit.is_some() { 0 } else { usize::MAX };
        self
    }

    /// Whether packets are there that the limit holds back.
    fn holds_back(&mut self) -> bool {
        self.limit.is_some() && self.open == 0 && self.port.rx(0).available() > 0
    }

    /// Opens the slots of as many whole packets as the limit allows now.
    #[cold]
    fn open_slots(&mut self) {
        let Some(limit) = &mut self.limit else { return };
        let Some(room) = limit.room(monotonic_ns()) else {
            self.open = usize::MAX;
            return;
        };
        let rx = self.port.rx(0);
        let (mut cost, mut open, mut uncounted) = (0, 0, None);
        for at in 0..rx.available() {
            if at == open && cost >= room {
                break;
            }
            let slot = rx.slot(at);
            cost += limit.cost(slot.frame(), slot.more_frag(), &mut uncounted);
            if !slot.more_frag() {
                open = at + 1;
            }
        }
        self.open = open;
        if open > 0 && cost >= room {
            limit.close();
        }
    }

    /// The port, for its counters.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Translates what the device waits for to netmap's terms, which the device does not know. A guest that switches
    /// its transmitter off leaves the device with packets that it takes for unsent, though the port has
    /// sent them: space for those is there, and no reason to stay awake.
    fn interest(&self, what: Await) -> Interest {
        let mut interest = Interest::empty();
        interest.set(Interest::RX, what.contains(Await::PACKET));
        interest.set(Interest::SPACE, what.contains(Await::SPACE) && self.port.pending() > 0);
        interest
    }

    /// Sends what is queued, or drops it if the port fails: packets are not retried on a port that fails with every
    /// sync, since the guest could not make progress otherwise.
    fn sync_or_lose(&mut self) {
        if self.port.txsync().is_err() {
            self.lost += self.port.tx(0).withdraw() as u64;
        }
    }

    /// Drops the packets in the ring except those that arrived after the first `known`. The count is in shared
    /// memory, so a peer that falsifies it can cause packets to be lost, and nothing worse.
    #[cold]
    fn drop_stale(&mut self, known: u64) {
        let _ = self.port.rxsync();
        let came_since = self.port.counters().rx_packets.wrapping_sub(known);
        let mut rx = self.port.rx(0);
        let available = rx.available();
        let ends = (0..available).filter(|&at| !rx.slot(at).more_frag());
        let whole = ends.clone().count() as u64;
        let stale = whole.saturating_sub(came_since) as usize;
        let slots = ends.take(stale).last().map_or(0, |at| at + 1);
        rx.advance(slots);
    }
}

/// Free slots.
#[derive(Debug)]
pub struct NetmapTx<'a> {
    ring: TxRing<'a>,
    indirect: bool,
}

fn more_flag(more: bool) -> SlotFlags {
    if more { SlotFlags::MOREFRAG } else { SlotFlags::empty() }
}

impl TxSlots for NetmapTx<'_> {
    const SLOT_BYTES: usize = 2048 + 64;

    #[inline]
    fn space(&self) -> usize {
        self.ring.space()
    }

    #[inline]
    fn num_slots(&self) -> usize {
        self.ring.num_slots()
    }

    #[inline]
    fn put(&mut self, at: usize, bytes: Span<'_>, more: bool) {
        let slot = self.ring.slot(at);
        if self.indirect {
            slot.set_indirect(bytes.as_ptr(), bytes.len(), more_flag(more));
            return;
        }
        slot.frame().write_span(bytes);
        slot.set(bytes.len(), more_flag(more));
    }

    #[inline]
    fn put_copy(&mut self, at: usize, bytes: &[u8], more: bool) {
        let slot = self.ring.slot(at);
        slot.frame().write(0, bytes);
        slot.set(bytes.len(), more_flag(more));
    }

    #[inline]
    fn commit(mut self, n: usize) {
        self.ring.advance(n);
    }
}

/// Received slots.
#[derive(Debug)]
pub struct NetmapRx<'a> {
    ring: RxRing<'a>,
    limit: Option<&'a mut Limiter>,
    open: &'a mut usize,
}

impl RxSlots for NetmapRx<'_> {
    #[inline]
    fn available(&self) -> usize {
        self.ring.available().min(*self.open)
    }

    #[inline]
    fn frame(&self, at: usize) -> (Span<'_>, bool) {
        let slot = self.ring.slot(at);
        (slot.frame(), slot.more_frag())
    }

    #[inline]
    fn prefetch(&self, at: usize) {
        if at < self.ring.available() {
            self.ring.slot(at).frame().prefetch();
        }
    }

    #[inline]
    fn release(mut self, n: usize) {
        if let Some(limit) = self.limit {
            let mut uncounted = None;
            let slots = (0..n).map(|at| self.ring.slot(at));
            let costs =
                slots.map(|slot| limit.cost(slot.frame(), slot.more_frag(), &mut uncounted));
            limit.take(costs.sum());
            *self.open = self.open.saturating_sub(n);
        }
        self.ring.advance(n);
    }
}

impl NetPort for NetmapPort {
    type Tx<'a> = NetmapTx<'a>;
    type Rx<'a> = NetmapRx<'a>;

    fn tx_slots(&self) -> usize {
        self.port.slots().tx as usize
    }

    #[inline]
    fn tx(&mut self) -> NetmapTx<'_> {
        NetmapTx { ring: self.port.tx(0), indirect: self.indirect }
    }

    #[inline]
    fn tx_sync(&mut self) -> usize {
        self.sync_or_lose();
        self.port.tx(0).pending()
    }

    fn tx_lost(&self) -> u64 {
        self.lost
    }

    fn tx_withdraw(&mut self) -> usize {
        self.port.tx(0).withdraw()
    }

    fn rx_slots(&self) -> usize {
        self.port.slots().rx as usize
    }

    #[inline]
    fn rx(&mut self) -> NetmapRx<'_> {
        NetmapRx { ring: self.port.rx(0), limit: self.limit.as_mut(), open: &mut self.open }
    }

    #[inline]
    fn rx_sync(&mut self) {
        if let Some(known) = self.stale.take() {
            self.drop_stale(known);
        }
        // A port that fails shows no packets; the loop that polls its descriptor finds out why.
        let _ = self.port.rxsync();
        if self.limit.is_some() {
            self.open_slots();
        }
    }

    fn rx_discard(&mut self) {
        // Not by a sync: of a tap it is a system call, and on a switch with backpressure it opens the
        // doorbells of senders that wait.
        self.stale = Some(self.port.counters().rx_packets);
    }

    fn rx_missed(&self) -> u64 {
        self.port.counters().rx_drop_full
    }

    fn arm(&mut self, what: Await) -> bool {
        // What is held back is there already; a time ends that sleep (`due_ns`).
        let held = if self.holds_back() { Await::PACKET } else { Await::empty() };
        let interest = self.interest(what.difference(held));
        if interest.is_empty() {
            return true;
        }
        match self.port.arm(interest) {
            Ok(ready) => ready.is_empty(),
            Err(_) => {
                let lost = self.port.tx(0).withdraw();
                self.lost += lost as u64;
                lost == 0
            }
        }
    }

    fn disarm(&mut self) {
        self.port.disarm();
    }
}

impl Polled for NetmapPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.port.fd()
    }

    fn events(&mut self, what: Await) -> PollFlags {
        let held = if self.holds_back() { Await::PACKET } else { Await::empty() };
        let interest = self.interest(what.difference(held));
        if interest.is_empty() { PollFlags::empty() } else { self.port.events(interest) }
    }

    fn due_ns(&mut self, postponed_ns: Option<u64>) -> Option<u64> {
        let held = self.holds_back();
        self.limit.as_mut()?.due_ns(held, postponed_ns)
    }

    fn link(&mut self) -> Link {
        if self.port.link() != Link::Up {
            // A device without a link syncs nothing, and only syncs look at the link.
            let _ = self.port.rxsync();
        }
        self.port.link()
    }

    fn name(&self) -> String {
        self.port.name().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use e1000_device::GuestMemory;
    use netmap::control::{Switch, SwitchOptions};

    use super::*;
    use crate::host::load::{Load, Meter};
    use crate::net::governor::Governor;
    use crate::net::limiter::RxLimit;

    fn open(port: &str, ram: &GuestRam, indirect: bool) -> NetmapPort {
        // A switch of this process and test, so that tests can run at the same time.
        let name = format!("vale{}{port}", std::process::id());
        NetmapPort::open(&name.parse().unwrap(), &Options::default(), ram, indirect).unwrap()
    }

    fn received(port: &mut NetmapPort) -> Vec<Vec<u8>> {
        port.rx_sync();
        let rx = port.rx();
        let n = rx.available();
        let frames = (0..n)
            .map(|at| {
                let (span, more) = rx.frame(at);
                assert!(!more);
                let mut frame = vec![0; span.len()];
                span.copy_to(&mut frame);
                frame
            })
            .collect();
        rx.release(n);
        frames
    }

    #[test]
    fn headers_of_a_port_are_none_of_the_guests() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let mut from = open("h:from@conf:vnet-hdr=12", &ram, false);
        let mut to = open("h:to@conf:vnet-hdr=10", &ram, false);
        let frame = [[0xff; 30], [1; 30]].concat();
        assert!(ram.write(100, &frame));
        let mut tx = from.tx();
        tx.put(0, ram.span(100, 60).unwrap(), false);
        tx.commit(1);
        assert_eq!(from.tx_sync(), 0);
        assert_eq!(received(&mut to), [frame]);
        // A port without any has none as long as the machine runs.
        let plain = open("h:plain", &ram, false);
        for port in [&from, &to, &plain] {
            netmap::control::set_vnet_hdr_len(port.port.name(), 12).expect_err("a guest has it");
        }
    }

    #[test]
    fn put_by_address_is_copied_in_sync_and_by_value_at_once() {
        let ram = GuestRam::anonymous(4096).unwrap();
        for (indirect, want) in [(true, 2), (false, 1)] {
            let mut from = open("s:from", &ram, indirect);
            let mut to = open("s:to", &ram, false);
            let frame = |byte| [[0xff; 30], [byte; 30]].concat();
            assert!(ram.write(100, &frame(1)));
            let mut tx = from.tx();
            tx.put(0, ram.span(100, 60).unwrap(), false);
            tx.commit(1);
            assert!(ram.write(100, &frame(2)));
            assert_eq!(from.tx_sync(), 0);
            assert_eq!(received(&mut to), [frame(want)], "indirect: {indirect}");
        }
    }

    #[test]
    fn discard_drops_what_came_before_and_nothing_that_came_after() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let (mut from, mut to) = (open("d:x", &ram, false), open("d:y", &ram, false));
        let mut send = |lens: &[usize]| {
            for &len in lens {
                let mut tx = from.tx();
                tx.put_copy(0, &[0xff; 60], len > 60);
                tx.put_copy(1, &[0xff; 60], false);
                tx.commit(len.div_ceil(60));
                from.tx_sync();
            }
        };
        // One that was read, one that was seen, one that was not, in two slots.
        send(&[60, 60]);
        to.rx_sync();
        to.rx().release(1);
        send(&[120]);
        to.rx_discard();
        send(&[60]);
        assert_eq!(received(&mut to), [[0xff; 60]]);
        send(&[60]);
        to.rx_discard();
        to.rx_discard();
        assert_eq!(received(&mut to), [[0; 0]; 0]);
        send(&[60]);
        assert_eq!(received(&mut to), [[0xff; 60]]);
    }

    #[test]
    fn limited_port_gives_whole_packets_and_leaves_the_others_to_time() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let mut from = open("l:x", &ram, false);
        let limit = Limiter::new(RxLimit::Rate(1), &Load::new(1));
        let mut to = open("l:y", &ram, false).with_limit(Some(limit));
        let mut tx = from.tx();
        for (at, more) in [true, false, false, false].into_iter().enumerate() {
            tx.put_copy(at, &[0xff; 60], more);
        }
        tx.commit(4);
        assert_eq!(from.tx_sync(), 0);

        assert_eq!(to.due_ns(None), None, "nothing is known of packets yet");
        to.rx_sync();
        let rx = to.rx();
        assert_eq!((rx.available(), rx.frame(0).1, rx.frame(1).1), (2, true, false));
        rx.release(2);

        // The next is due in a second: longer than this takes.
        to.rx_sync();
        assert_eq!(to.rx().available(), 0);
        assert!(to.due_ns(None).is_some_and(|due_ns| due_ns > monotonic_ns()));
        assert!(to.arm(Await::PACKET), "what is held back is no reason to stay awake");
        assert_eq!(to.events(Await::PACKET), PollFlags::empty());
        to.disarm();
    }

    #[test]
    fn window_is_closed_by_its_packets_and_opened_by_a_sleep() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let (load, enlisted, stop) = (Load::new(1), Barrier::new(2), AtomicBool::new(false));
        let mut from = open("w:x", &ram, false);
        let limit = |load| Limiter::Auto(Governor::with_windows(monotonic_ns()), Meter::new(load));
        let mut to = open("w:y", &ram, false).with_limit(Some(limit(&load)));
        let mut tx = from.tx();
        for at in 0..200 {
            tx.put_copy(at, &[0xff; 60], false);
        }
        tx.commit(200);
        assert_eq!(from.tx_sync(), 0);
        std::thread::scope(|scope| {
            let vcpu = scope.spawn(|| {
                load.enlist(0);
                enlisted.wait();
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park();
                }
            });
            enlisted.wait();
            to.rx_sync();
            let rx = to.rx();
            assert_eq!(rx.available(), 139, "a window of the smallest");
            rx.release(139);
            assert_eq!(to.due_ns(None), None, "it is not known that packets wait");
            to.rx_sync();
            assert_eq!(to.rx().available(), 0);
            assert!(to.due_ns(None).is_some());
            while to.rx().available() == 0 {
                vcpu.thread().unpark();
                std::thread::yield_now();
                to.rx_sync();
            }
            assert_eq!(to.rx().available(), 61);
            assert_eq!(to.due_ns(None), None, "there is room");
            stop.store(true, Ordering::Relaxed);
            vcpu.thread().unpark();
        });
    }

    #[test]
    fn segments_of_connections_pass_an_open_window_uncounted_and_wait_at_a_closed_one() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let mut from = open("t:x", &ram, false);
        let limit =
            Limiter::Auto(Governor::with_windows(monotonic_ns()), Meter::new(&Load::new(1)));
        let mut to = open("t:y", &ram, false).with_limit(Some(limit));
        // Ethernet, IPv4, TCP with ACK: 1514 bytes, in one slot or in two.
        let mut segment = [0; 1514];
        (segment[12], segment[14], segment[23], segment[47]) = (8, 0x45, 6, 0x10);
        let mut send = |frame: &[u8], n: usize| {
            let mut tx = from.tx();
            let slots = (0..n).map(|at| (at, frame.len() > 700 && at % 2 == 0));
            for (at, more) in slots {
                tx.put_copy(at, if at % 2 == 0 { frame } else { &frame[..60] }, more);
            }
            tx.commit(n);
            assert_eq!(from.tx_sync(), 0);
        };
        send(&segment, 200);
        to.rx_sync();
        assert_eq!(to.rx().available(), 200, "more than a window of them");
        to.rx().release(200);
        send(&[0xff; 60], 139);
        send(&segment, 20);
        to.rx_sync();
        assert_eq!(to.rx().available(), 139, "the window");
        to.rx().release(139);
        to.rx_sync();
        assert_eq!(to.rx().available(), 0, "in the order of their coming");
    }

    #[test]
    fn arm_tells_of_packets_only_if_they_are_awaited() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let (mut from, mut to) = (open("a:x", &ram, false), open("a:y", &ram, false));
        assert!(to.arm(Await::PACKET));
        to.disarm();
        let mut tx = from.tx();
        tx.put_copy(0, &[0xff; 60], false);
        tx.commit(1);
        assert_eq!(from.tx_withdraw(), 1);
        let mut tx = from.tx();
        tx.put_copy(0, &[0xff; 61], false);
        tx.commit(1);
        from.tx_sync();
        assert!(to.arm(Await::empty()));
        to.disarm();
        assert!(!to.arm(Await::PACKET));
        to.disarm();
        assert_eq!(received(&mut to), [[0xff; 61]]);
    }

    #[test]
    fn arm_for_space_stays_awake_only_if_something_moved() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let name = format!("vale{}b", std::process::id());
        let lossless = SwitchOptions { backpressure: true, ..SwitchOptions::default() };
        let switch = Switch::create(&name, &lossless).unwrap();
        let (mut from, mut to) = (open("b:x", &ram, false), open("b:y", &ram, false));
        assert!(from.arm(Await::SPACE), "nothing is queued, so nothing can move");
        from.disarm();
        while from.tx().space() > 0 {
            let mut tx = from.tx();
            tx.put_copy(0, &[0xff; 60], false);
            tx.commit(1);
            from.tx_sync();
        }
        assert!(from.arm(Await::SPACE), "nobody reads");
        from.disarm();
        assert_eq!(received(&mut to).len(), to.rx_slots() - 1);
        to.rx_sync();
        assert!(!from.arm(Await::SPACE));
        from.disarm();
        drop((from, to));
        switch.delete().unwrap();
    }
}
