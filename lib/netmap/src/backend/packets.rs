//! Rings in front of a packet device: the adapter that tap and pcap ports share.
//!
//! Invariant: a packet that the device cannot take now stays queued.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags, SlotValue};
use crate::adapter::Adapter;
use crate::backend::parts::Parts;
use crate::backend::{Device, Sent};
use crate::error::{Error, Invalid, Result};
use crate::name::{Capabilities, PortName, RingSel};
use crate::netlink::Link;
use crate::options::{BoundRings, MemoryRef, Options, PerDirection, Places};
use crate::private_rings::PrivateRings;
use crate::ring::{RingRef, TxRingRef};
use crate::ring_number::RingNumber;
use crate::shm::file::FileId;
use crate::shm::mem::Cell;
use crate::stats::{C, Counters};
use crate::sync::core_atomic::Ordering;
use crate::wait::Interest;

/// Longest packet: what 64 KiB of Ethernet payload and its headers need.
pub const PACKET_BYTES: usize = 65536 + 64;

/// Slots that are made ready for short packets, beyond what the longest one may need.
const AHEAD: usize = 16;

/// Refuses what a port with one private ring pair cannot be asked for.
pub fn one_ring_pair(name: &PortName) -> Result<()> {
    match name.rings {
        RingSel::One(asked) if asked > 0 => {
            Err(Error::invalid(name, Invalid::NoRing { asked, has: 1 }))
        }
        _ => Ok(()),
    }
}

/// Devices with rings: a ring pair each. Handles that have halves of a pair share its device, which each has to itself for
/// the time of a sync.
#[derive(Debug)]
pub struct Packets<D> {
    rings: PrivateRings,
    devices: Arc<[Mutex<D>]>,
    doors: Doors,
    capabilities: Capabilities,
    /// Room for a packet, for devices that need it in one piece.
    packet: Vec<u8>,
    /// The device of a receive ring failed after it had given packets; told once these were read.
    failed: Vec<Option<Error>>,
}

/// What a handle polls.
#[derive(Debug)]
enum Doors {
    /// Its one device's: a copy of the descriptor, once it has had one, and whether it has one now. A device may get it,
    /// and lose it, in a sync.
    One { device: usize, fd: Option<OwnedFd>, has_fd: bool },
    /// All of its devices', and what these are asked for.
    Several { all: Epoll, asked: EpollFlags },
}

impl<D: Device> Packets<D> {
    /// A ring pair in front of each of the devices that `open` returns for a number of pairs, `most` at most.
    pub fn new(
        name: &PortName,
        options: &Options,
        capabilities: Capabilities,
        most: u16,
        open: impl FnOnce(usize) -> Result<Vec<D>>,
    ) -> Result<Self> {
        let shares = capabilities.contains(Capabilities::ZERO_COPY);
        let rings = PrivateRings::new(&name.to_string(), options, most, shares)?;
        let devices: Arc<[_]> = open(rings.all().tx)?.into_iter().map(Mutex::new).collect();
        assert_eq!(devices.len(), rings.all().tx, "a device for each ring pair");
        Self::with(rings, devices, capabilities)
    }

    fn with(
        rings: PrivateRings,
        devices: Arc<[Mutex<D>]>,
        capabilities: Capabilities,
    ) -> Result<Self> {
        let doors = Doors::new(rings.bound(), &devices)?;
        let failed = rings.bound().rx.iter().map(|_| None).collect();
        let mut port =
            Self { rings, devices, doors, capabilities, packet: vec![0; PACKET_BYTES], failed };
        let devices = port.devices.clone();
        if let Doors::One { device, .. } = port.doors {
            port.doors.look_at(&*lock(&devices[device]))?;
        }
        Ok(port)
    }

    /// A device that stands for all where they are queues of one thing.
    fn any(&self) -> MutexGuard<'_, D> {
        lock(&self.devices[0])
    }
}

impl Doors {
    fn new<D: Device>(bound: &BoundRings, devices: &[Mutex<D>]) -> Result<Self> {
        let mut used: Vec<usize> = bound.tx.iter().chain(&bound.rx).map(|ring| ring.at()).collect();
        used.sort_unstable();
        used.dedup();
        if used.len() <= 1 {
            let device = used.first().copied().unwrap_or(0);
            return Ok(Self::One { device, fd: None, has_fd: false });
        }
        let asked = EpollFlags::EPOLLIN;
        let watch = || {
            let all = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            for &device in &used {
                if let Some(fd) = lock(&devices[device]).fd() {
                    all.add(fd, EpollEvent::new(asked, device as u64))?;
                }
            }
            Ok::<_, Errno>(all)
        };
        let all = watch().map_err(Error::io("watch the queues of", "the device"))?;
        Ok(Self::Several { all, asked })
    }

    fn look_at<D: Device>(&mut self, device: &D) -> Result<()> {
        let Self::One { fd, has_fd, .. } = self else { return Ok(()) };
        let now = device.fd();
        *has_fd = now.is_some();
        if let (None, Some(now)) = (&fd, now) {
            let copied = now.try_clone_to_owned();
            *fd = Some(copied.map_err(Error::io("copy the descriptor of", "the device"))?);
        }
        Ok(())
    }

    /// Asks the devices for what is waited for, which with one of them poll(2) does.
    fn ask<D: Device>(&mut self, what: Interest, bound: &BoundRings, devices: &[Mutex<D>]) {
        let Self::Several { all, asked } = self else { return };
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, what.contains(Interest::RX));
        wanted.set(EpollFlags::EPOLLOUT, what.contains(Interest::TX));
        if wanted == *asked {
            return;
        }
        for (i, device) in RingNumber::first(devices.len()).zip(devices) {
            if (bound.tx.contains(&i) || bound.rx.contains(&i))
                && let Some(fd) = lock(device).fd()
            {
                // It was added, so this fails only without memory: a late wake-up.
                let _ = all.modify(fd, &mut EpollEvent::new(wanted, i.0.into()));
            }
        }
        *asked = wanted;
    }
}

fn lock<D>(device: &Mutex<D>) -> MutexGuard<'_, D> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Device + 'static> Adapter for Packets<D> {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn rings(&self) -> PerDirection<usize> {
        self.rings.bound().count()
    }

    fn all_rings(&self) -> PerDirection<usize> {
        self.rings.all()
    }

    fn slots(&self) -> PerDirection<u32> {
        self.rings.slots()
    }

    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        TxRingRef::new(self.rings.tx(ring), self.rings.hwcur(ring))
    }

    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.rings.rx(ring)
    }

    /// Offers queued packets to the device until it has no room.
    fn txsync_ring(&mut self, i: usize) -> Result<()> {
        let Some(head) = self.rings.queued(i) else { return Ok(()) };
        let devices = self.devices.clone();
        let mut device = lock(&devices[self.rings.bound().tx[i].at()]);
        device.look()?;
        let (ring, counters) = (self.rings.tx(i), self.rings.tx_counters(i));
        let first = self.rings.hwcur(i);
        let mut hwcur = first;
        let mut done = Ok(());
        let mut parts = Parts::new();
        while hwcur != head {
            let (slots, good) = collect(ring, hwcur, head, &mut parts);
            let bytes = parts.len() as u64;
            let sent = match good {
                true => device.send_parts(&mut parts, &mut self.packet),
                false => Ok(Sent::Refused),
            };
            match sent {
                Ok(Sent::Done) => {
                    counters.add(C::tx_packets, 1);
                    counters.add(C::tx_bytes, bytes);
                }
                Ok(Sent::Refused) => counters.add(C::tx_drop_bad, 1),
                Ok(Sent::TooLong) => counters.add(C::tx_drop_long, 1),
                Ok(Sent::Down) => counters.add(C::tx_drop_down, 1),
                Ok(Sent::Again) => break,
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
            hwcur = ring.step(hwcur, slots);
        }
        // What went is passed on and counted, whatever became of the rest.
        if hwcur != first || device.holds_back() {
            done = done.and(device.flush());
            counters.add(C::tx_batches, u64::from(hwcur != first));
        }
        self.rings.sent(i, hwcur);
        done.and(self.doors.look_at(&*device))
    }

    /// Takes packets from the device while there are some and the ring has room.
    fn rxsync_ring(&mut self, i: usize) -> Result<()> {
        if !self.rings.take_back(i) {
            return Ok(());
        }
        let (head, mut hwtail) = (self.rings.freed(i), self.rings.hwtail(i));
        if head == hwtail
            && let Some(error) = self.failed[i].take()
        {
            return Err(error);
        }
        let devices = self.devices.clone();
        let mut device = lock(&devices[self.rings.bound().rx[i].at()]);
        device.look()?;
        let (ring, counters) = (self.rings.rx(i), self.rings.rx_counters(i));
        let (n, stride) = (ring.n(), ring.buffer_bytes());
        let (mut got, left_out) = (0, device.left_out());
        // A packet is taken only when the longest one would fit: a device cannot take it back.
        let most_slots = (PACKET_BYTES.div_ceil(stride) as u32).min(n - 1);
        let mut room = Parts::new();
        loop {
            let free = n - 1 - ring.distance(head, hwtail);
            if free < most_slots {
                break;
            }
            let needed = device.longest().min(PACKET_BYTES).div_ceil(stride);
            if room.count() < needed.min(most_slots as usize) {
                make_room(ring, hwtail, free.min((needed + AHEAD) as u32), &mut room);
            }
            let bytes = match device.receive_parts(&mut room, &mut self.packet) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) if head == hwtail => return Err(error),
                Err(error) => {
                    self.failed[i] = Some(error);
                    break;
                }
            };
            let bytes = bytes.min(PACKET_BYTES);
            let slots = bytes.div_ceil(stride).max(1);
            for k in 0..slots {
                let more = if k + 1 < slots { SlotFlags::MOREFRAG.bits() } else { 0 };
                let len = (bytes - k * stride).min(stride);
                put(ring, hwtail, len as u16, (slots as u16) << 8 | more);
                hwtail = ring.step(hwtail, 1);
            }
            room.used(slots);
            got += 1;
            counters.add(C::rx_packets, 1);
            counters.add(C::rx_bytes, bytes as u64);
        }
        counters.add(C::rx_drop_bad, device.left_out() - left_out);
        counters.add(C::rx_batches, u64::from(got > 0));
        self.rings.received(i, hwtail);
        self.doors.look_at(&*device)
    }

    fn peek(&self) -> bool {
        self.rings.bound().rx.iter().any(|ring| lock(&self.devices[ring.at()]).has_news())
    }

    fn peeks(&self) -> bool {
        self.any().peeks()
    }

    fn about(&self) -> Option<String> {
        self.any().about()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.doors {
            Doors::One { fd: Some(fd), has_fd: true, .. } => fd.as_fd(),
            Doors::One { .. } => self.rings.never(),
            Doors::Several { all, .. } => all.0.as_fd(),
        }
    }

    fn events(&self, what: Interest) -> PollFlags {
        match &self.doors {
            Doors::Several { .. } => {
                let mut events = PollFlags::empty();
                events.set(PollFlags::POLLIN, !what.is_empty());
                events
            }
            Doors::One { device, .. } => lock(&self.devices[*device]).events(what),
        }
    }

    fn arm(&mut self, what: Interest) {
        if let Doors::One { device, .. } = self.doors {
            // The other half, where there is one, waits at the same descriptor.
            let PerDirection { tx, rx } = self.rings.bound().count();
            let all = Interest::RX | Interest::TX;
            lock(&self.devices[device]).arm(if tx + rx == 2 { what } else { all });
        }
        self.doors.ask(what, self.rings.bound(), &self.devices);
    }

    fn disarm(&mut self, slept: bool) {
        self.rings.woken(slept);
    }

    fn finish(&mut self) -> Result<()> {
        self.devices.iter().try_for_each(|device| lock(device).finish())
    }

    fn ended(&self) -> bool {
        self.devices.iter().all(|device| lock(device).ended())
            && self.failed.iter().all(Option::is_none)
            && self.rings.is_read()
    }

    fn remarks(&self) -> Vec<String> {
        self.devices.iter().flat_map(|device| lock(device).remarks()).collect()
    }

    fn vnet_hdr_len(&self) -> u8 {
        self.any().vnet_hdr_len()
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        self.devices.iter().try_for_each(|device| lock(device).set_vnet_hdr_len(name, len))
    }

    fn link(&self) -> Link {
        self.any().link()
    }

    fn mtu(&self) -> Option<u32> {
        self.any().mtu()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.any().mac()
    }

    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>> {
        let mut at = 0..;
        self.failed.retain(|_| at.next().is_some_and(|ring| !places.rx.contains(&ring)));
        let rings = self.rings.give_away(places);
        self.doors = Doors::new(self.rings.bound(), &self.devices)?;
        if let Doors::One { device, .. } = self.doors {
            let devices = self.devices.clone();
            self.doors.look_at(&*lock(&devices[device]))?;
        }
        Ok(Box::new(Self::with(rings, self.devices.clone(), self.capabilities)?))
    }

    fn memory_id(&self) -> FileId {
        self.rings.memory_id()
    }

    fn memory(&self) -> Option<MemoryRef> {
        self.rings.memory()
    }

    fn extra_buffers(&self) -> Vec<Cell> {
        self.rings.extra_buffers()
    }

    fn counters(&self) -> Counters {
        self.rings.counters()
    }
}

/// The packet at `from`: its slots, and where its bytes are; false if it is malformed.
fn collect<'a>(ring: RingRef<'a>, from: u32, head: u32, parts: &mut Parts<'a>) -> (u32, bool) {
    let (mut at, mut slots, mut good) = (from, 0, true);
    parts.clear();
    loop {
        let slot = ring.load(at);
        let flags = SlotFlags::from_bits_retain(slot.flags);
        good = good
            && !flags.contains(SlotFlags::INDIRECT)
            && parts.push(ring, slot.buf_idx, slot.len.into())
            && parts.len() <= PACKET_BYTES;
        at = ring.step(at, 1);
        slots += 1;
        if !flags.contains(SlotFlags::MOREFRAG) || at == head {
            return (slots, good);
        }
    }
}

/// The buffers of the slots from `at` on, `free` at most.
fn make_room<'a>(ring: RingRef<'a>, at: u32, free: u32, room: &mut Parts<'a>) {
    room.clear();
    for k in 0..free.min(NETMAP_MAX_FRAGS as u32) {
        // A slot that names no buffer loses its part of a packet to buffer 0, which is nobody's.
        room.push_room(ring, ring.load(ring.step(at, k)).buf_idx);
    }
}

/// Tells in a slot how much of a packet is in its buffer.
fn put(ring: RingRef<'_>, at: u32, len: u16, flags: u16) {
    let buf_idx = ring.load(at).buf_idx;
    let len = if ring.buffer(buf_idx).is_some() { len } else { 0 };
    ring.slots[at as usize].word.store(SlotValue { buf_idx, len, flags }.pack(), Ordering::Relaxed);
}
