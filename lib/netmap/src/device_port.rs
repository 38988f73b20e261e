//! Rings in front of a packet device: a tap, a capture file, nothing at all.
//!
//! Invariant: the rings behave as those of a VALE port do (head, cur, tail, one slot empty), in
//! memory that no other process has; a packet that the device cannot take now stays queued.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::EventFd;

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags, SlotValue};
use crate::backend::{Device, Sent};
use crate::error::{Error, Result};
use crate::options::{BoundRings, Options, Sizes};
use crate::ring::RingRef;
use crate::rings::{RingCells, make_if, make_rings};
use crate::shm::mem::{Region, STRIDE};
use crate::stats::{C, Counters, SharedCounters};
use crate::sync::core_atomic::Ordering;
use crate::wait::Interest;

/// Longest packet: what 64 KiB of Ethernet payload and its headers need.
const PACKET_BYTES: usize = 65536 + 64;

/// A device with rings.
#[derive(Debug)]
pub struct DevicePort {
    /// Where the rings are.
    pub(crate) rings: RingCells,
    /// First slot of the TX ring that was not sent.
    hwcur: u32,
    /// First slot of the RX ring that was not given back, and first one not received.
    rx: (u32, u32),
    tx_counters: SharedCounters,
    rx_counters: SharedCounters,
    pub(crate) region: Region,
    device: Box<dyn Device>,
    packet: Vec<u8>,
    if_cell: u32,
    /// The device failed after it had given packets; told once these were read.
    failed: Option<Error>,
    /// What `fd` yields for devices without one: never ready.
    never: EventFd,
}

impl DevicePort {
    /// One ring pair in front of `device`.
    pub fn new(device: Box<dyn Device>, name: &str, options: &Options) -> Result<Self> {
        let sizes = Sizes::from_options(name, options)?;
        if sizes.tx_rings != 1 || sizes.rx_rings != 1 {
            let why = "this kind of port has one ring pair; leave the number of rings out".into();
            return Err(Error::Invalid { name: name.into(), why });
        }
        let region = Region::anonymous()?;
        region.count_port();
        let rings = make_rings(&region, sizes)?;
        let bound = BoundRings { tx: vec![0], rx: vec![0] };
        let if_cell = make_if(&region, &rings, name, &bound, options.extra_bufs)?;
        let never = EventFd::new().map_err(Error::errno("make an event for", name))?;
        Ok(Self {
            rings,
            hwcur: 0,
            rx: (0, 0),
            tx_counters: SharedCounters::new(),
            rx_counters: SharedCounters::new(),
            region,
            device,
            packet: vec![0; PACKET_BYTES],
            if_cell,
            failed: None,
            never,
        })
    }

    /// The ring of that direction.
    #[inline]
    pub fn ring(&self, is_rx: bool) -> RingRef<'_> {
        ring(&self.rings, &self.region, is_rx)
    }

    /// Cell of the netmap_if.
    pub fn if_cell(&self) -> u32 {
        self.if_cell
    }

    /// First slot of the TX ring that was not sent.
    pub fn hwcur(&self) -> u32 {
        self.hwcur
    }

    /// What happened on both rings.
    pub fn counters(&self) -> Counters {
        self.tx_counters.read() + self.rx_counters.read()
    }

    /// Hardware address.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.device.mac()
    }

    /// Offers queued packets to the device until it has no room.
    pub fn txsync(&mut self) -> Result<()> {
        let ring = ring(&self.rings, &self.region, false);
        let counters = &self.tx_counters;
        let n = ring.n();
        let mut hwcur = self.hwcur;
        let Some(head) = ring.head_in_order(hwcur, ring.step(hwcur, n - 1)) else {
            ring.reinit(hwcur, ring.step(hwcur, n - 1));
            counters.add(C::reinits, 1);
            return Ok(());
        };
        let first = hwcur;
        let mut done = Ok(());
        while hwcur != head {
            let (slots, bytes) =
                collect(ring, hwcur, head, &mut self.packet, self.device.is_sink());
            let sent = match bytes {
                Some(n) => self.device.send(&self.packet[..n.min(PACKET_BYTES)]),
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
            done = done.and(self.device.flush());
            counters.add(C::tx_batches, 1);
            self.hwcur = hwcur;
        }
        ring.raw.tail.store(ring.step(hwcur, n - 1), Ordering::Release);
        done
    }

    /// Takes packets from the device while there are some and the ring has room.
    pub fn rxsync(&mut self) -> Result<()> {
        let ring = ring(&self.rings, &self.region, true);
        let counters = &self.rx_counters;
        let n = ring.n();
        let (hwcur, mut hwtail) = self.rx;
        let Some(head) = ring.head_in_order(hwcur, hwtail) else {
            ring.reinit(hwcur, hwtail);
            counters.add(C::reinits, 1);
            return Ok(());
        };
        self.rx.0 = head;
        if head == hwtail
            && let Some(error) = self.failed.take()
        {
            return Err(error);
        }
        let (mut got, left_out) = (0, self.device.left_out());
        // A packet is taken only when the longest one would fit: a device cannot take it back.
        let most_slots = PACKET_BYTES.div_ceil(STRIDE) as u32;
        while n - 1 - ring.distance(head, hwtail) >= most_slots.min(n - 1) {
            let bytes = match self.device.receive(&mut self.packet) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) if head == hwtail => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            };
            let packet = &self.packet[..bytes.min(PACKET_BYTES)];
            let slots = packet.len().div_ceil(STRIDE).max(1);
            for (i, part) in packet.chunks(STRIDE).enumerate() {
                let more = if i + 1 < slots { SlotFlags::MOREFRAG.bits() } else { 0 };
                put(ring, hwtail, part, (slots as u16) << 8 | more);
                hwtail = ring.step(hwtail, 1);
            }
            got += 1;
            counters.add(C::rx_packets, 1);
            counters.add(C::rx_bytes, packet.len() as u64);
        }
        counters.add(C::rx_drop_bad, self.device.left_out() - left_out);
        if got > 0 {
            counters.add(C::rx_batches, 1);
            self.rx.1 = hwtail;
        }
        ring.raw.tail.store(hwtail, Ordering::Release);
        Ok(())
    }

    /// Passes on what the device holds back.
    pub fn finish(&mut self) -> Result<()> {
        self.device.finish()
    }

    /// Whether nothing will ever be received any more: the device has ended, and all was read.
    pub fn ended(&self) -> bool {
        let ring = self.ring(true);
        self.device.ended()
            && self.failed.is_none()
            && ring.raw.head.load(Ordering::Relaxed) == self.rx.1
    }

    /// What the device did to packets beside passing them on.
    pub fn remarks(&self) -> Vec<String> {
        self.device.remarks()
    }

    /// What is ready now, after a sync.
    pub fn ready(&self, what: Interest) -> Interest {
        let mut ready = Interest::empty();
        for (interest, is_rx) in [(Interest::RX, true), (Interest::TX, false)] {
            let raw = self.ring(is_rx).raw;
            let some = raw.cur.load(Ordering::Relaxed) != raw.tail.load(Ordering::Relaxed);
            if what.contains(interest) && some {
                ready |= interest;
            }
        }
        ready
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.fd().unwrap_or_else(|| self.never.as_fd())
    }

    /// Counts a wake-up.
    pub fn woken(&self) {
        self.rx_counters.add(C::wakeups, 1);
    }
}

fn ring<'a>(rings: &RingCells, region: &'a Region, is_rx: bool) -> RingRef<'a> {
    let ring = if is_rx { rings.rx_ring(region, 0) } else { rings.tx_ring(region, 0) };
    ring.expect("private memory, sized for the ring")
}

/// Gathers the packet at `from` in `out`: its slots, and its bytes unless it is malformed. A sink's
/// data is not copied.
fn collect(
    ring: RingRef<'_>,
    from: u32,
    head: u32,
    out: &mut [u8],
    sink: bool,
) -> (u32, Option<usize>) {
    let (mut at, mut slots, mut bytes, mut bad) = (from, 0, 0, false);
    loop {
        let slot = ring.load(at);
        let flags = SlotFlags::from_bits_retain(slot.flags);
        let len = usize::from(slot.len);
        match ring.buffer(slot.buf_idx) {
            Some(data)
                if len <= STRIDE
                    && bytes + len <= out.len()
                    && !flags.contains(SlotFlags::INDIRECT) =>
            {
                if !sink {
                    // SAFETY: `len` bytes lie within the buffer (<= STRIDE) and within `out`.
                    unsafe { crate::copy::bytes(out[bytes..].as_mut_ptr(), data, len) };
                }
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
        // SAFETY: a part is at most STRIDE bytes, the size of the buffer.
        unsafe { crate::copy::bytes(to, part.as_ptr(), part.len()) };
        len = part.len() as u16;
    }
    ring.slots[at as usize].word.store(SlotValue { buf_idx, len, flags }.pack(), Ordering::Relaxed);
}
