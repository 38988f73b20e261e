//! `null:`: takes everything at once, gives nothing.
//!
//! Invariant: the data of packets are not looked at, so that `null:` measures the sender alone, as
//! netmap's NULL ports do.

use std::os::fd::BorrowedFd;

use nix::poll::PollFlags;

use crate::abi::SlotFlags;
use crate::adapter::{Adapter, Kind};
use crate::backend::packets::one_ring_pair;
use crate::error::Result;
use crate::name::{Capabilities, PortName, Scheme, Syntax};
use crate::options::{Options, PerDirection, Places};
use crate::private_rings::PrivateRings;
use crate::ring::{RingRef, TxRingRef};
use crate::shm::file::FileId;
use crate::shm::mem::Cell;
use crate::stats::{C, Counters};
use crate::wait::Interest;

/// What such a port can do: any number can be open, and each is another.
const CAPABILITIES: Capabilities = Capabilities::SEVERAL_HANDLES;

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "null",
        syntax: Syntax::Nothing,
        is_bare: |name| name == "null",
        capabilities: CAPABILITIES,
    },
    open: |name, options| Ok(Box::new(Null::open(name, options)?)),
};

/// A `null:` port.
#[derive(Debug)]
pub struct Null(PrivateRings);

impl Null {
    fn open(name: &PortName, options: &Options) -> Result<Self> {
        one_ring_pair(name)?;
        PrivateRings::new(&name.to_string(), options, 1, false).map(Self)
    }
}

impl Adapter for Null {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn rings(&self) -> PerDirection<usize> {
        self.0.bound().count()
    }

    fn slots(&self) -> PerDirection<u32> {
        self.0.slots()
    }

    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        TxRingRef::new(self.0.tx(ring), self.0.hwcur(ring))
    }

    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.0.rx(ring)
    }

    fn txsync_ring(&mut self, i: usize) -> Result<()> {
        let Some(head) = self.0.queued(i) else { return Ok(()) };
        let (ring, counters) = (self.0.tx(i), self.0.tx_counters(i));
        let (mut at, mut packets, mut bytes, mut dropped) = (self.0.hwcur(i), 0, 0, 0);
        let slots = ring.distance(at, head);
        let (mut len, mut bad) = (0, false); // of the packet so far
        while at != head {
            let slot = ring.load(at);
            let flags = SlotFlags::from_bits_retain(slot.flags);
            at = ring.step(at, 1);
            len += u64::from(slot.len);
            bad |= usize::from(slot.len) > ring.buffer_bytes()
                || flags.contains(SlotFlags::INDIRECT)
                || ring.buffer(slot.buf_idx).is_none();
            if !flags.contains(SlotFlags::MOREFRAG) || at == head {
                dropped += u64::from(bad);
                packets += u64::from(!bad);
                bytes += if bad { 0 } else { len };
                (len, bad) = (0, false);
            }
        }
        counters.add(C::tx_packets, packets);
        counters.add(C::tx_bytes, bytes);
        counters.add(C::tx_drop_bad, dropped);
        counters.add(C::tx_batches, u64::from(slots > 0));
        self.0.sent(i, head);
        Ok(())
    }

    fn rxsync_ring(&mut self, i: usize) -> Result<()> {
        self.0.take_back(i);
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.never()
    }

    fn events(&self, what: Interest) -> PollFlags {
        // An event that never comes for those who want to read, and is there for those who write.
        match what.contains(Interest::TX) {
            true => PollFlags::POLLIN | PollFlags::POLLOUT,
            false => PollFlags::POLLIN,
        }
    }

    fn disarm(&mut self, slept: bool) {
        self.0.woken(slept);
    }

    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>> {
        Ok(Box::new(Self(self.0.give_away(places))))
    }

    fn memory_id(&self) -> FileId {
        self.0.memory_id()
    }

    fn extra_buffers(&self) -> Vec<Cell> {
        self.0.extra_buffers()
    }

    fn counters(&self) -> Counters {
        self.0.counters()
    }
}
