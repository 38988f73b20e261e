//! The device behind an `e1000:` port: packets between rings and the driver's, link, waiting.
//!
//! Invariant: a packet is copied once in each direction, between a ring's buffer and memory that the device reaches;
//! registers are touched once a batch, or when somebody goes to sleep.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use e1000pv_driver::{Cpu, Dma, Interest as Wanted, Mmio, Nic};
use nix::poll::PollFlags;
use nix::time::{ClockId, clock_gettime};

use super::door::Door;
use crate::backend::parts::Parts;
use crate::backend::{Device, Sent};
use crate::error::{Error, Lack, Result};
use crate::netlink::Link;
use crate::time::now_ms;
use crate::wait::Interest;

/// Bytes of a frame's payload.
const MTU: u32 = 1500;
/// Ethernet header, and with one VLAN tag and an MTU's worth of payload.
const SHORTEST: usize = 14;
const LONGEST: usize = MTU as usize + SHORTEST + 4;
/// How often the device is asked for its link by a busy program, which takes no interrupts: each time costs an exit.
const LOOK_MS: u64 = 100;
/// Packets that are given back to the device together.
const BATCH: usize = 64;
/// How long a device that sends nothing is waited for at the end.
const LONGEST_DRAIN: Duration = Duration::from_millis(200);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_micros(100);

/// The clock; interrupts are a door's business.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Cpu for Clock {
    fn now_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    }

    fn idle(&self, _: u32, _: Option<u64>) {}

    fn interrupts(&self) -> u32 {
        0
    }

    fn take_causes(&self) -> u32 {
        0
    }
}

/// What a device is held by: it ends with the port, when the device has been reset.
pub trait Hold: Debug + Send {
    /// Whether the kernel waits for the device to be given up.
    fn is_asked_back(&self) -> bool {
        false
    }
}

/// A device that runs.
#[derive(Debug)]
pub struct E1000<M: Mmio, D: Dma> {
    name: String,
    /// Present until it is dropped.
    nic: Option<Nic<M>>,
    door: Door,
    about: String,
    looked_ms: u64,
    /// Packets received and read, and not given back to the device.
    read: usize,
    /// Packets received, those included.
    seen: usize,
    left_out: u64,
    /// Ends before the memory.
    hold: Box<dyn Hold>,
    memory: D,
}

impl<M: Mmio, D: Dma> E1000<M, D> {
    /// A device for the port `name`; `hold` ends with it.
    pub fn new(
        name: String,
        nic: Nic<M>,
        memory: D,
        door: Door,
        about: String,
        hold: Box<dyn Hold>,
    ) -> Self {
        Self {
            name,
            nic: Some(nic),
            door,
            about,
            looked_ms: now_ms(),
            read: 0,
            seen: 0,
            left_out: 0,
            hold,
            memory,
        }
    }

    fn nic(&mut self) -> &mut Nic<M> {
        self.nic.as_mut().expect("until it is dropped")
    }

    /// Gives the device the buffers of packets that were read.
    fn give_back(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.seen -= read;
        self.nic().rx_release(read);
    }
}

impl<M: Mmio, D: Dma> Drop for E1000<M, D> {
    fn drop(&mut self) {
        if let Some(nic) = self.nic.take() {
            nic.close(&mut self.memory);
        }
    }
}

impl<M: Mmio + Debug + Send, D: Dma + Debug + Send> Device for E1000<M, D> {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        self.send_parts(&mut Parts::of(packet), &mut [])
    }

    fn send_parts(&mut self, packet: &mut Parts<'_>, _: &mut [u8]) -> Result<Sent> {
        let nic = self.nic();
        match packet.len() {
            ..SHORTEST => return Ok(Sent::Refused),
            SHORTEST..=LONGEST => {}
            _ => return Ok(Sent::TooLong),
        }
        if !nic.link_up() {
            return Ok(Sent::Down);
        }
        if nic.tx_space(1) == 0 {
            return Ok(Sent::Again);
        }
        let slot = nic.tx_slot(0);
        let len = packet.copy_to_words(slot.buffer().words());
        slot.send(len);
        nic.tx_advance(1);
        Ok(Sent::Done)
    }

    fn flush(&mut self) -> Result<()> {
        self.nic().tx_flush(&Clock, false);
        Ok(())
    }

    fn holds_back(&self) -> bool {
        self.nic.as_ref().is_some_and(Nic::tx_held_back)
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.receive_parts(&mut Parts::of_mut(buf), &mut [])
    }

    fn longest(&self) -> usize {
        e1000pv_driver::BUFFER_BYTES
    }

    fn receive_parts(&mut self, room: &mut Parts<'_>, _: &mut [u8]) -> Result<Option<usize>> {
        loop {
            if self.read == self.seen {
                self.give_back();
                self.seen = self.nic().rx_available(BATCH);
                if self.seen == 0 {
                    return Ok(None);
                }
            }
            let at = self.read;
            self.read += 1;
            let slot = self.nic().rx_slot(at);
            let (len, good) = (slot.len(), slot.is_good());
            if good && len > 0 {
                return Ok(Some(room.copy_from_words(slot.buffer().words(), len)));
            }
            self.left_out += 1;
        }
    }

    fn left_out(&self) -> u64 {
        self.left_out
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.door.fd())
    }

    fn events(&self, what: Interest) -> PollFlags {
        // One door for both.
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !what.is_empty());
        events
    }

    fn arm(&mut self, what: Interest) {
        let tells = self.door.tells();
        if tells && !self.door.is_asked() {
            // Causes of the time in which nobody looked would ring at once.
            self.nic().read_causes();
        }
        let nic = self.nic();
        let half = nic.tx_descriptors() as u32 / 2;
        let tx = if what.contains(Interest::TX) { half } else { 0 };
        let wanted = Wanted { rx: what.contains(Interest::RX), tx };
        if tells {
            // The sync that follows looks again.
            let _ = nic.arm(wanted);
        }
        self.door.ask();
    }

    fn peeks(&self) -> bool {
        true
    }

    fn has_news(&self) -> bool {
        self.nic.as_ref().is_some_and(|nic| nic.rx_has(self.read))
    }

    fn finish(&mut self) -> Result<()> {
        let (mut left, mut since) = (usize::MAX, Instant::now());
        loop {
            let nic = self.nic();
            nic.tx_flush(&Clock, false);
            match nic.tx_pending() {
                0 => return Ok(()),
                pending if pending < left => (left, since) = (pending, Instant::now()),
                _ if since.elapsed() > LONGEST_DRAIN => return Ok(()),
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    fn look(&mut self) -> Result<()> {
        if self.read > 0 {
            self.give_back();
        }
        if self.door.rang() {
            let nic = self.nic();
            nic.disarm();
            nic.read_causes();
        }
        let now = now_ms();
        if now.saturating_sub(self.looked_ms) >= LOOK_MS {
            if self.hold.is_asked_back() {
                let lack = Lack::AskedBack;
                return Err(Error::Unavailable { name: self.name.clone(), lack });
            }
            self.looked_ms = now;
            self.nic().refresh_link();
        }
        if self.nic().is_gone() {
            return Err(Error::Unavailable { name: self.name.clone(), lack: Lack::Answer });
        }
        if self.holds_back() {
            self.flush()?;
        }
        Ok(())
    }

    fn link(&self) -> Link {
        match &self.nic {
            Some(nic) if nic.link_up() => Link::Up,
            _ => Link::Down,
        }
    }

    fn mtu(&self) -> Option<u32> {
        Some(MTU)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.nic.as_ref().map(Nic::mac)
    }

    fn about(&self) -> Option<String> {
        Some(self.about.clone())
    }
}
