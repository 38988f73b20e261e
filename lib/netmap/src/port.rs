//! A port, opened by name: rings, sync, waiting.
//!
//! ```no_run
//! use netmap::{Interest, Port, Wait};
//!
//! let mut port = Port::open("valeA:x")?;
//! let _ = port.tx(0).push(b"an Ethernet frame of at least 14 bytes");
//! port.txsync()?;
//! while port.wait(Interest::RX, Wait::default(), None)?.contains(Interest::RX) {
//!     let mut ring = port.rx(0);
//!     let n = ring.available();
//!     let bytes: usize = ring.batch(n).map(|slot| slot.len()).sum();
//!     ring.advance(n);
//!     println!("{n} packets, {bytes} bytes");
//! }
//! # Ok::<(), netmap::Error>(())
//! ```
//!
//! Invariant: the library touches rings only inside `txsync`, `rxsync`, `wait` and `arm`; between
//! these calls the slots in `[head, tail)` are the program's.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::backend::{Device, null::Null, pcap::PcapDevice, tap::Tap};
use crate::device_port::DevicePort;
use crate::error::{Error, Result};
use crate::name::{NameFlags, PortKind, PortName, RingSel};
use crate::options::{BoundRings, Direction, MemoryRef, Options};
use crate::ring::{RxRing, TxRing};
use crate::stats::Counters;
use crate::sync::core_atomic::Ordering;
use crate::vale::lifecycle::open;
use crate::vale::lifecycle::root::Root;
use crate::vale::port::ValePort;
use crate::vale::state::portfile::Shape;
use crate::wait::{Interest, Wait};

mod space;

#[derive(Debug)]
enum Kind {
    Vale(Box<ValePort>),
    Device(Box<DevicePort>),
}

/// A handle on a port. It can move to another thread, but has one user at a time: threads that
/// share a port open one handle each, on a ring each.
#[derive(Debug)]
pub struct Port {
    name: PortName,
    kind: Kind,
}

impl Port {
    /// Opens a port by name, with default options. A VALE port and its switch are made if they are
    /// not there.
    ///
    /// # Errors
    /// The name is wrong; no permission; no space; a limit; the port is in use exclusively; or
    /// what is in shared memory under that name is damaged.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_with(&name.parse()?, &Options::default())
    }

    /// Opens a port with options.
    ///
    /// # Errors
    /// As `open`; and the options do not fit the port that is there.
    pub fn open_with(name: &PortName, options: &Options) -> Result<Self> {
        name.check()?;
        let options = options.with_name(name);
        let full = name.to_string();
        let unsupported = |why: &str| Error::Invalid { name: full.clone(), why: why.into() };
        if name.flags.intersects(NameFlags::ZCOPY_MON | NameFlags::MON_RX | NameFlags::MON_TX) {
            return Err(unsupported("monitors are not supported yet; open the port without them"));
        }
        if matches!(name.rings, RingSel::Host | RingSel::HostOne(_)) {
            return Err(unsupported("this port has no host rings; bridge it to a tap instead"));
        }
        let device: Box<dyn Device> = match &name.kind {
            PortKind::Vale { switch, port } => {
                let bound = |shape: &Shape| {
                    let (tx, rx) = (shape.rings.tx.len(), shape.rings.rx.len());
                    BoundRings::chosen(&full, name.rings, options.direction, tx, rx)
                };
                let at = open::open(&Root::open()?, switch, port, &options, bound)?;
                let vale = ValePort::new(at)?;
                return Ok(Self { name: name.clone(), kind: Kind::Vale(Box::new(vale)) });
            }
            PortKind::Netmap(_) => {
                return Err(unsupported("netmap: needs the kernel module, which is not supported"));
            }
            PortKind::Tap(tap) => Box::new(Tap::open(tap)?),
            PortKind::Pcap(path) => {
                let (rx, tx) = match options.direction {
                    Direction::Both => (true, true),
                    Direction::RxOnly => (true, false),
                    Direction::TxOnly => (false, true),
                };
                Box::new(PcapDevice::open(path, rx, tx, options.to_ethernet)?)
            }
            PortKind::Null => Box::new(Null),
        };
        if matches!(name.rings, RingSel::One(n) if n > 0) {
            return Err(unsupported("this kind of port has one ring pair, number 0"));
        }
        let port = DevicePort::new(device, &full, &options)?;
        Ok(Self { name: name.clone(), kind: Kind::Device(Box::new(port)) })
    }

    /// The name it was opened by.
    #[must_use]
    pub fn name(&self) -> &PortName {
        &self.name
    }

    /// TX rings bound to this handle.
    #[must_use]
    pub fn tx_rings(&self) -> usize {
        match &self.kind {
            Kind::Vale(p) => p.tx().len(),
            Kind::Device(_) => 1,
        }
    }

    /// RX rings bound to this handle.
    #[must_use]
    pub fn rx_rings(&self) -> usize {
        match &self.kind {
            Kind::Vale(p) => p.rx().len(),
            Kind::Device(_) => 1,
        }
    }

    /// The `i`th bound TX ring. Panics if there are not that many.
    #[inline]
    pub fn tx(&mut self, i: usize) -> TxRing<'_> {
        match &self.kind {
            Kind::Vale(p) => {
                let i = p.tx()[i];
                let hwcur = p.at.file.tx_state(i).hwcur.load(Ordering::Relaxed);
                TxRing::new(p.tx_ring(i), hwcur)
            }
            Kind::Device(p) => {
                assert_eq!(i, 0);
                TxRing::new(p.ring(false), p.hwcur())
            }
        }
    }

    /// The `i`th bound RX ring. Panics if there are not that many.
    #[inline]
    pub fn rx(&mut self, i: usize) -> RxRing<'_> {
        match &self.kind {
            Kind::Vale(p) => RxRing::new(p.rx_ring(p.rx()[i])),
            Kind::Device(p) => {
                assert_eq!(i, 0);
                RxRing::new(p.ring(true))
            }
        }
    }

    /// Sends what is queued on all bound TX rings. On a switch, packets for full destinations are
    /// dropped and counted, or stay queued if the switch has `backpressure`.
    ///
    /// # Errors
    /// The device behind the port failed.
    #[inline]
    pub fn txsync(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Vale(p) => {
                p.txsync();
                Ok(())
            }
            Kind::Device(p) => p.txsync(),
        }
    }

    /// Gives back what was read and shows what came, on all bound RX rings.
    ///
    /// # Errors
    /// The device behind the port failed.
    #[inline]
    pub fn rxsync(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Vale(p) => {
                p.rxsync();
                Ok(())
            }
            Kind::Device(p) => p.rxsync(),
        }
    }

    /// Syncs, and waits until something of `what` is ready or the time is over; returns what is
    /// ready. Queued packets are sent whatever `what` is, as poll(2) on netmap does. Returns
    /// nothing early when a signal arrives.
    ///
    /// # Errors
    /// As `txsync` and `rxsync`.
    pub fn wait(
        &mut self,
        what: Interest,
        how: Wait,
        timeout: Option<Duration>,
    ) -> Result<Interest> {
        self.wait_until(what, how, timeout, |_, ready| ready)
    }

    /// As `wait`, for as much of what is ready as `counts` leaves.
    fn wait_until(
        &mut self,
        what: Interest,
        how: Wait,
        timeout: Option<Duration>,
        counts: impl Fn(&mut Self, Interest) -> Interest,
    ) -> Result<Interest> {
        let sync = |port: &mut Self| {
            let ready = port.sync(what)?;
            Ok(counts(port, ready))
        };
        let ready = sync(self)?;
        if !ready.is_empty() || timeout == Some(Duration::ZERO) {
            return Ok(ready);
        }
        let start = Instant::now();
        let spin = match how {
            Wait::Busy => timeout.unwrap_or(Duration::MAX),
            Wait::Adaptive { spin } => spin.min(timeout.unwrap_or(spin)),
            Wait::Block => Duration::ZERO,
        };
        while start.elapsed() < spin {
            // Time is read once for many looks: a look costs a nanosecond, the clock twenty.
            if self.look(what, 64) {
                let ready = sync(self)?;
                if !ready.is_empty() {
                    return Ok(ready);
                }
            }
        }
        loop {
            let left = timeout.map(|t| t.saturating_sub(start.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(Interest::empty());
            }
            let armed = self.arm(what)?;
            let ready = counts(self, armed);
            if !ready.is_empty() {
                self.calm(false);
                return Ok(ready);
            }
            let slice = left.map_or(self.patience(), |l| l.min(self.patience()));
            let woken = self.sleep(what, slice);
            self.calm(matches!(woken, Ok(true)));
            let woken = match woken {
                Ok(woken) => woken,
                Err(Errno::EINTR) => return sync(self),
                Err(e) => return Err(Error::errno("wait for", self.name.to_string())(e)),
            };
            if !woken && let Kind::Vale(p) = &mut self.kind {
                let _ = p.look_for_death(); // for tidiness only: traffic does not depend on it
            }
            let ready = sync(self)?;
            if !ready.is_empty() {
                return Ok(ready);
            }
        }
    }

    fn sync(&mut self, what: Interest) -> Result<Interest> {
        self.txsync()?;
        if what.contains(Interest::RX) {
            self.rxsync()?;
        }
        Ok(self.ready(what))
    }

    fn ready(&self, what: Interest) -> Interest {
        match &self.kind {
            Kind::Vale(p) => p.ready(what),
            Kind::Device(p) => p.ready(what),
        }
    }

    /// Looks up to `times` whether a sync is worthwhile.
    #[inline]
    fn look(&self, what: Interest, times: u32) -> bool {
        match &self.kind {
            Kind::Vale(p) => {
                for _ in 0..times {
                    if p.peek() {
                        return true;
                    }
                    std::hint::spin_loop();
                }
                // Space shows only by trying.
                what.contains(Interest::TX)
            }
            Kind::Device(_) => true,
        }
    }

    fn patience(&self) -> Duration {
        match &self.kind {
            Kind::Vale(p) => p.patience(),
            Kind::Device(_) => Duration::from_secs(3600),
        }
    }

    fn sleep(&self, what: Interest, time: Duration) -> std::result::Result<bool, Errno> {
        // Rounded up: poll counts milliseconds, and a wait must not become a busy loop at its end.
        let ms = time.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd(), self.events(what))];
        Ok(nix::poll::poll(&mut fds, timeout)? > 0)
    }

    /// File descriptor for poll, select or epoll: see `events`, `arm` and `disarm`.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Vale(p) => p.fd(),
            Kind::Device(p) => p.fd(),
        }
    }

    /// What to poll `fd` for, to wait for `what`. A doorbell is always polled for input.
    #[must_use]
    pub fn events(&self, what: Interest) -> PollFlags {
        match &self.kind {
            Kind::Vale(_) => PollFlags::POLLIN,
            Kind::Device(_) => {
                let mut events = PollFlags::empty();
                if what.contains(Interest::RX) {
                    events |= PollFlags::POLLIN;
                }
                if what.contains(Interest::TX) {
                    events |= PollFlags::POLLOUT;
                }
                events
            }
        }
    }

    /// Before polling `fd`: asks for the doorbell, then syncs and looks again. If something is
    /// ready, it is returned and polling would be wrong. Call `disarm` after polling. As in netmap,
    /// `TX` is ready while any slot is free; one who waits for queued packets to move (on a switch
    /// with backpressure) compares `pending` before and after, or uses `wait_more_space`.
    ///
    /// # Errors
    /// As `txsync` and `rxsync`.
    pub fn arm(&mut self, what: Interest) -> Result<Interest> {
        // The look after asking may get past one full destination and stop at another, which has
        // not been asked yet. Bounded: a peer that makes it go on for ever costs a late wake-up.
        const ROUNDS: usize = 8;
        let mut ready = Interest::empty();
        for _ in 0..ROUNDS {
            let asked = match &mut self.kind {
                Kind::Vale(p) => {
                    let stalls = p.stalls();
                    p.arm(what);
                    Some(stalls)
                }
                Kind::Device(_) => None,
            };
            ready = self.sync(what)?;
            let elsewhere = match &self.kind {
                Kind::Vale(p) => asked.is_some_and(|asked| p.stalls() != asked),
                Kind::Device(_) => false,
            };
            if !ready.is_empty() || !elsewhere {
                break;
            }
        }
        Ok(ready)
    }

    /// After polling: takes the request back and clears the doorbell. Then sync.
    pub fn disarm(&mut self) {
        self.calm(true);
    }

    fn calm(&mut self, slept: bool) {
        match &mut self.kind {
            Kind::Vale(p) => p.disarm(slept),
            Kind::Device(p) if slept => p.woken(),
            Kind::Device(_) => {}
        }
    }

    /// Passes on all that was sent and that the device behind the port holds back: a `pcap:` port in front
    /// of a pipe waits for its reader, as long as that takes something.
    ///
    /// # Errors
    /// The device failed, or its reader takes nothing.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Vale(_) => Ok(()),
            Kind::Device(p) => p.finish(),
        }
    }

    /// Whether nothing will ever be received any more: the end of a capture file.
    #[must_use]
    pub fn ended(&self) -> bool {
        match &self.kind {
            Kind::Vale(_) => false,
            Kind::Device(p) => p.ended(),
        }
    }

    /// What the device behind the port did to packets beside passing them on, in sentences: which records
    /// of a capture file were left out, cut or changed.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        match &self.kind {
            Kind::Vale(_) => Vec::new(),
            Kind::Device(p) => p.remarks(),
        }
    }

    /// Lets slots of this port point into `[start, start + len)` (`TxSlot::set_indirect`).
    ///
    /// # Safety
    /// That memory stays mapped and readable while the port is open. Peers on the switch can make
    /// this process send any part of it.
    pub unsafe fn allow_indirect(&mut self, start: *const u8, len: usize) {
        if let Kind::Vale(p) = &mut self.kind {
            p.allow(start as usize, len);
        }
    }

    /// As `allow_indirect`, for memory that is always there.
    pub fn allow_indirect_static(&mut self, memory: &'static [u8]) {
        if let Kind::Vale(p) = &mut self.kind {
            p.allow(memory.as_ptr() as usize, memory.len());
        }
    }

    /// The port's memory region, for `Memory::With`.
    #[must_use]
    pub fn memory(&self) -> MemoryRef {
        match &self.kind {
            Kind::Vale(p) => MemoryRef(p.at.file.shape.region.clone()),
            Kind::Device(_) => MemoryRef(String::new()), // not shareable: never a valid name
        }
    }

    fn region(&self) -> &crate::shm::mem::Region {
        match &self.kind {
            Kind::Vale(p) => &p.at.region,
            Kind::Device(p) => &p.region,
        }
    }

    /// Whether buffers can be exchanged between the rings of two ports.
    #[must_use]
    pub fn same_memory(&self, other: &Self) -> bool {
        self.region().id() == other.region().id()
    }

    /// Buffers beside those in rings, asked for by `Options::extra_bufs`.
    #[must_use]
    pub fn extra_buffers(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Vale(p) => crate::rings::extra_buffers(&p.at.region, p.at.if_cell),
            Kind::Device(p) => crate::rings::extra_buffers(&p.region, p.if_cell()),
        }
    }

    /// Hardware address, if the port has one.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        match &self.kind {
            Kind::Vale(_) => None,
            Kind::Device(p) => p.mac(),
        }
    }

    /// The port whose full ring kept packets queued at the last txsync: on a switch with backpressure,
    /// the one that all wait for.
    #[must_use]
    pub fn held_up_by(&self) -> Option<String> {
        match &self.kind {
            Kind::Vale(p) => p.held_up_by(),
            Kind::Device(_) => None,
        }
    }

    /// Counters of the whole port, since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        match &self.kind {
            Kind::Vale(p) => p.at.file.counters(),
            Kind::Device(p) => p.counters(),
        }
    }

    /// Slots per TX and RX ring.
    #[must_use]
    pub fn slots(&self) -> (u32, u32) {
        let rings = match &self.kind {
            Kind::Vale(p) => &p.at.file.shape.rings,
            Kind::Device(p) => &p.rings,
        };
        (rings.tx_slots, rings.rx_slots)
    }
}
