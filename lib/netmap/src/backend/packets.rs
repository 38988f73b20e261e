//! Rings in front of a packet device: the adapter that tap and pcap ports share.
//!
//! Invariant: a packet that the device cannot take now stays queued.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::PollFlags;

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags, SlotValue};
use crate::adapter::Adapter;
use crate::backend::{Device, Sent};
use crate::error::{Error, Invalid, Result};
use crate::name::{Capabilities, PortName, RingSel};
use crate::netlink::Link;
use crate::options::{BoundRings, Options, PerDirection};
use crate::private_rings::PrivateRings;
use crate::ring::{RingRef, TxRingRef};
use crate::shm::file::FileId;
use crate::stats::{C, Counters};
use crate::sync::core_atomic::Ordering;
use crate::wait::Interest;

/// Longest packet: what 64 KiB of Ethernet payload and its headers need.
const PACKET_BYTES: usize = 65536 + 64;

/// Refuses what a port with one private ring pair cannot be asked for.
pub fn one_ring_pair(name: &PortName) -> Result<()> {
    match name.rings {
        RingSel::One(asked) if asked > 0 => {
            Err(Error::invalid(name, Invalid::NoRing { asked, has: 1 }))
        }
        _ => Ok(()),
    }
}

/// A device with rings, or with one of the two. The halves share the device, which each has to itself for
/// the time of a sync.
#[derive(Debug)]
pub struct Packets<D> {
    rings: PrivateRings,
    device: Arc<Mutex<D>>,
    /// A copy of the device's descriptor, once it has had one, and whether it has one now.
    fd: Option<OwnedFd>,
    has_fd: bool,
    capabilities: Capabilities,
    packet: Vec<u8>,
    /// The device failed after it had given packets; told once these were read.
    failed: Option<Error>,
}

impl<D: Device> Packets<D> {
    /// One ring pair in front of `device`.
    pub fn new(
        device: D,
        name: &PortName,
        options: &Options,
        capabilities: Capabilities,
    ) -> Result<Self> {
        let rings = PrivateRings::new(&name.to_string(), options)?;
        Self::with(rings, Arc::new(Mutex::new(device)), capabilities)
    }

    fn with(
        rings: PrivateRings,
        device: Arc<Mutex<D>>,
        capabilities: Capabilities,
    ) -> Result<Self> {
        let (fd, has_fd, packet, failed) = (None, false, vec![0; PACKET_BYTES], None);
        let mut port = Self { rings, device, fd, has_fd, capabilities, packet, failed };
        let device = port.device.clone();
        port.look_at_fd(&lock(&device))?;
        Ok(port)
    }

    /// A device may get a descriptor, and lose it, in a sync.
    fn look_at_fd(&mut self, device: &D) -> Result<()> {
        let now = device.fd();
        self.has_fd = now.is_some();
        if let (None, Some(now)) = (&self.fd, now) {
            let copied = now.try_clone_to_owned();
            self.fd = Some(copied.map_err(Error::io("copy the descriptor of", "the device"))?);
        }
        Ok(())
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
        self.rings.bound()
    }

    fn slots(&self) -> PerDirection<u32> {
        self.rings.slots()
    }

    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        assert_eq!(ring, 0);
        TxRingRef::new(self.rings.tx(), self.rings.hwcur())
    }

    fn rx(&self, ring: usize) -> RingRef<'_> {
        assert_eq!(ring, 0);
        self.rings.rx()
    }

    /// Offers queued packets to the device until it has no room.
    fn txsync_ring(&mut self, _: usize) -> Result<()> {
        let Some(head) = self.rings.queued() else { return Ok(()) };
        let shared = self.device.clone();
        let mut device = lock(&shared);
        device.look()?;
        let (ring, counters) = (self.rings.tx(), self.rings.tx_counters());
        let first = self.rings.hwcur();
        let mut hwcur = first;
        let mut done = Ok(());
        while hwcur != head {
            let (slots, bytes) = collect(ring, hwcur, head, &mut self.packet);
            let sent = match bytes {
                Some(n) => device.send(&self.packet[..n]),
                None => Ok(Sent::Refused),
            };
            match sent {
                Ok(Sent::Done) => {
                    counters.add(C::tx_packets, 1);
                    counters.add(C::tx_bytes, bytes.unwrap_or(0) as u64);
                }
                Ok(Sent::Refused) => counters.add(C::tx_drop_bad, 1),
                Ok(Sent::Again) => break,
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
            hwcur = ring.step(hwcur, slots);
        }
        // What went is passed on and counted, whatever became of the rest.
        if hwcur != first {
            done = done.and(device.flush());
            counters.add(C::tx_batches, 1);
        }
        self.rings.sent(hwcur);
        done.and(self.look_at_fd(&device))
    }

    /// Takes packets from the device while there are some and the ring has room.
    fn rxsync_ring(&mut self, _: usize) -> Result<()> {
        if !self.rings.take_back() {
            return Ok(());
        }
        let (head, mut hwtail) = (self.rings.freed(), self.rings.hwtail());
        if head == hwtail
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        let shared = self.device.clone();
        let mut device = lock(&shared);
        device.look()?;
        let (ring, counters) = (self.rings.rx(), self.rings.rx_counters());
        let (n, stride) = (ring.n(), ring.buffer_bytes());
        let (mut got, left_out) = (0, device.left_out());
        // A packet is taken only when the longest one would fit: a device cannot take it back.
        let most_slots = PACKET_BYTES.div_ceil(stride) as u32;
        while n - 1 - ring.distance(head, hwtail) >= most_slots.min(n - 1) {
            let bytes = match device.receive(&mut self.packet) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) if head == hwtail => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
            let packet = &self.packet[..bytes.min(PACKET_BYTES)];
            let slots = packet.len().div_ceil(stride).max(1);
            for (i, part) in packet.chunks(stride).enumerate() {
                let more = if i + 1 < slots { SlotFlags::MOREFRAG.bits() } else { 0 };
                put(ring, hwtail, part, (slots as u16) << 8 | more);
                hwtail = ring.step(hwtail, 1);
            }
            got += 1;
            counters.add(C::rx_packets, 1);
            counters.add(C::rx_bytes, packet.len() as u64);
        }
        counters.add(C::rx_drop_bad, device.left_out() - left_out);
        counters.add(C::rx_batches, u64::from(got > 0));
        self.rings.received(hwtail);
        self.look_at_fd(&device)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().filter(|_| self.has_fd).map_or(self.rings.never(), AsFd::as_fd)
    }

    fn events(&self, what: Interest) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, what.contains(Interest::RX));
        events.set(PollFlags::POLLOUT, what.contains(Interest::TX));
        events
    }

    fn disarm(&mut self, slept: bool) {
        self.rings.rx_counters().add(C::wakeups, slept.into());
    }

    fn finish(&mut self) -> Result<()> {
        lock(&self.device).finish()
    }

    fn ended(&self) -> bool {
        lock(&self.device).ended() && self.failed.is_none() && self.rings.is_read()
    }

    fn remarks(&self) -> Vec<String> {
        lock(&self.device).remarks()
    }

    fn vnet_hdr_len(&self) -> u8 {
        lock(&self.device).vnet_hdr_len()
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        lock(&self.device).set_vnet_hdr_len(name, len)
    }

    fn link(&self) -> Link {
        lock(&self.device).link()
    }

    fn mtu(&self) -> Option<u32> {
        lock(&self.device).mtu()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        lock(&self.device).mac()
    }

    fn give_away(&mut self, rings: &BoundRings) -> Result<Box<dyn Adapter>> {
        let rings = self.rings.give_away(rings);
        Ok(Box::new(Self::with(rings, self.device.clone(), self.capabilities)?))
    }

    fn memory_id(&self) -> FileId {
        self.rings.memory_id()
    }

    fn extra_buffers(&self) -> Vec<u32> {
        self.rings.extra_buffers()
    }

    fn counters(&self) -> Counters {
        self.rings.counters()
    }
}

/// Gathers the packet at `from` in `out`: its slots, and its bytes unless it is malformed.
fn collect(ring: RingRef<'_>, from: u32, head: u32, out: &mut [u8]) -> (u32, Option<usize>) {
    let (mut at, mut slots, mut bytes, mut bad) = (from, 0, 0, false);
    loop {
        let slot = ring.load(at);
        let flags = SlotFlags::from_bits_retain(slot.flags);
        let len = usize::from(slot.len);
        match ring.buffer(slot.buf_idx) {
            Some(data)
                if len <= ring.buffer_bytes()
                    && bytes + len <= out.len()
                    && !flags.contains(SlotFlags::INDIRECT) =>
            {
                // SAFETY: `len` bytes lie within the buffer and within `out`, both just checked.
                unsafe { crate::copy::bytes(out[bytes..].as_mut_ptr(), data, len) };
                bytes += len;
            }
            _ => bad = true,
        }
        at = ring.step(at, 1);
        slots += 1;
        if !flags.contains(SlotFlags::MOREFRAG) || at == head {
            return (slots, (!bad).then_some(bytes));
        }
        bad |= slots as usize >= NETMAP_MAX_FRAGS;
    }
}

fn put(ring: RingRef<'_>, at: u32, part: &[u8], flags: u16) {
    let buf_idx = ring.load(at).buf_idx;
    let mut len = 0;
    if let Some(to) = ring.buffer(buf_idx) {
        // SAFETY: a part is at most as long as a buffer.
        unsafe { crate::copy::bytes(to, part.as_ptr(), part.len()) };
        len = part.len() as u16;
    }
    ring.slots[at as usize].word.store(SlotValue { buf_idx, len, flags }.pack(), Ordering::Relaxed);
}
