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

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::adapter::Adapter;
use crate::error::{Error, Feature, Result};
use crate::kinds;
use crate::layout::Layout;
use crate::name::{Capabilities, PortName};
use crate::netlink::Link;
use crate::options::{MemoryRef, Options, PerDirection};
use crate::ring::{RxRing, TxRing};
use crate::stats::Counters;
use crate::wait::Interest;

mod handles;
pub mod indices;
pub mod readiness;
pub mod wait_set;

/// A handle on a port. Others may have the same port open, and the same rings: syncs of a ring exclude
/// each other. It can move to another thread, but has one user at a time: threads that share a port open a
/// handle each, or `split` one.
#[derive(Debug)]
pub struct Port {
    name: PortName,
    adapter: Box<dyn Adapter>,
    /// Whether what is queued is sent while only packets are awaited.
    pushes: bool,
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
        let mut port = Self::of(name.clone(), kinds::open(name, options)?);
        if let Some(len) = name.conf.vnet_hdr_len.or(options.vnet_hdr_len) {
            port.set_vnet_hdr_len(len)?;
        }
        Ok(port)
    }

    fn of(name: PortName, adapter: Box<dyn Adapter>) -> Self {
        Self { name, adapter, pushes: true }
    }

    /// The name it was opened by.
    #[must_use]
    pub fn name(&self) -> &PortName {
        &self.name
    }

    /// What the port can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.adapter.capabilities()
    }

    /// Whether it can do all of `what`.
    #[must_use]
    pub fn can(&self, what: Capabilities) -> bool {
        self.capabilities().contains(what)
    }

    /// TX rings bound to this handle.
    #[must_use]
    pub fn tx_rings(&self) -> usize {
        self.adapter.rings().tx
    }

    /// RX rings bound to this handle.
    #[must_use]
    pub fn rx_rings(&self) -> usize {
        self.adapter.rings().rx
    }

    /// TX and RX rings of the port, whether they are bound to this handle or not.
    #[must_use]
    pub fn all_rings(&self) -> PerDirection<usize> {
        self.adapter.all_rings()
    }

    /// The `i`th bound TX ring.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    pub fn tx(&mut self, i: usize) -> TxRing<'_> {
        TxRing::new(self.adapter.tx(i))
    }

    /// The `i`th bound RX ring.
    ///
    /// # Panics
    /// There are not that many.
    #[inline]
    pub fn rx(&mut self, i: usize) -> RxRing<'_> {
        RxRing::new(self.adapter.rx(i))
    }

    /// Sends what is queued on all bound TX rings. On a switch, packets for full destinations are
    /// dropped and counted, or stay queued if the switch has `backpressure`.
    ///
    /// # Errors
    /// The device behind the port failed.
    #[inline]
    pub fn txsync(&mut self) -> Result<()> {
        self.adapter.txsync()
    }

    /// Gives back what was read and shows what came, on all bound RX rings.
    ///
    /// # Errors
    /// The device behind the port failed.
    #[inline]
    pub fn rxsync(&mut self) -> Result<()> {
        self.adapter.rxsync()
    }

    /// How often this handle's syncs met a ring whose indices made no sense, and set them right (netmap's
    /// poll reports that as an error).
    #[must_use]
    pub fn reinits(&self) -> u64 {
        self.adapter.reinits()
    }

    /// File descriptor for poll, select or epoll: see `events`, `arm` and `disarm`.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.adapter.fd()
    }

    /// What to poll `fd` for, to wait for `what`. A doorbell is always polled for input.
    #[must_use]
    pub fn events(&self, what: Interest) -> PollFlags {
        self.adapter.events(what.for_adapter())
    }

    /// Passes on all that was sent and that the device behind the port holds back: a `pcap:` port in front
    /// of a pipe waits for its reader, as long as that takes something.
    ///
    /// # Errors
    /// The device failed, or its reader takes nothing.
    pub fn finish(&mut self) -> Result<()> {
        self.adapter.finish()
    }

    /// Whether nothing will ever be received any more: the end of a capture file.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.adapter.ended()
    }

    /// What the device behind the port did to packets beside passing them on, in sentences: which records
    /// of a capture file were left out, cut or changed.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        self.adapter.remarks()
    }

    /// By which means packets come and go, for a port that has several: of a NIC, its queues, and who runs the program
    /// that takes its packets.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        self.adapter.about()
    }

    /// Lets slots of this port point into `[start, start + len)` (`TxSlot::set_indirect`).
    ///
    /// # Errors
    /// The port cannot do it: see `Capabilities::INDIRECT`.
    ///
    /// # Safety
    /// That memory stays mapped and readable while the port is open. Peers on the switch can make
    /// this process send any part of it.
    #[allow(unsafe_code)]
    pub unsafe fn allow_indirect(&mut self, start: *const u8, len: usize) -> Result<()> {
        self.allow(start as usize, len)
    }

    /// As `allow_indirect`, for memory that is always there.
    ///
    /// # Errors
    /// As `allow_indirect`.
    pub fn allow_indirect_static(&mut self, memory: &'static [u8]) -> Result<()> {
        self.allow(memory.as_ptr() as usize, memory.len())
    }

    /// Lets slots of this port point to anything that this process can read, as netmap's do. It is slower than
    /// `allow_indirect`: the data are copied once more, and each sync calls the kernel to read them. What cannot be read is
    /// dropped (`tx_drop_bad`). Whoever can write the switch can make this process send any of its memory, so this is for
    /// programs whose switches are their user's alone.
    ///
    /// # Errors
    /// The port cannot do it: see `Capabilities::INDIRECT`; the root directory is not private: this user's, with mode 0700.
    pub fn allow_indirect_anywhere(&mut self) -> Result<()> {
        self.adapter.allow_indirect_anywhere(&self.name)
    }

    fn allow(&mut self, start: usize, len: usize) -> Result<()> {
        if !self.can(Capabilities::INDIRECT) {
            return Err(Error::unsupported(&self.name, Feature::Indirect));
        }
        self.adapter.allow_indirect(start, len);
        Ok(())
    }

    /// The port's memory region, for `Memory::With`; `None` if it cannot be shared.
    #[must_use]
    pub fn memory(&self) -> Option<MemoryRef> {
        self.adapter.memory()
    }

    /// Where the handle's structures lie in that memory, for a program that maps it by itself; `None`: this
    /// kind of port has no memory that another process can map.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        self.adapter.layout()
    }

    /// The file that the port's memory is in, opened for mapping it: shared, from its start, with
    /// `Layout::mem_size` bytes.
    ///
    /// # Errors
    /// This kind of port has no such file; somebody removed it; no permission, no descriptor left.
    pub fn open_memory(&self) -> Result<OwnedFd> {
        self.adapter.open_memory(&self.name)
    }

    /// Whether buffers can be exchanged between the rings of two ports.
    #[must_use]
    pub fn same_memory(&self, other: &Self) -> bool {
        self.can(Capabilities::ZERO_COPY)
            && other.can(Capabilities::ZERO_COPY)
            && self.adapter.memory_id() == other.adapter.memory_id()
    }

    /// Buffers beside those in rings, asked for by `Options::extra_bufs`.
    #[must_use]
    pub fn extra_buffers(&self) -> Vec<u32> {
        self.adapter.extra_buffers().into_iter().map(|cell| cell.0).collect()
    }

    /// Whether packets can pass, as of the last sync: a tap or NIC that was set down or deleted says so, and a
    /// socket without a peer. A port without a
    /// link is always up.
    #[must_use]
    pub fn link(&self) -> Link {
        self.adapter.link()
    }

    /// Bytes of an Ethernet frame's payload that the interface behind the port takes, as of the last sync. Longer
    /// frames that leave no segmentation to it are dropped and counted.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        self.adapter.mtu()
    }

    /// Hardware address, if the port has one.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.adapter.mac()
    }

    /// The port whose full ring kept packets queued at the last txsync: on a switch with backpressure,
    /// the one that all wait for.
    #[must_use]
    pub fn held_up_by(&self) -> Option<String> {
        self.adapter.held_up_by()
    }

    /// Bytes of the virtio-net header in front of each frame of the port, sent and received: 0, 10 or 12. It belongs to the
    /// port. Between ports of a switch that have the same, frames pass as they are; others get their own headers in front, and
    /// ports without headers get frames complete: checksums, and a packet for each segment. A monitor's is its port's.
    #[must_use]
    pub fn vnet_hdr_len(&self) -> u8 {
        self.adapter.vnet_hdr_len()
    }

    /// Changes that, for all who have the port open. What is queued in rings that nobody else has bound is discarded.
    ///
    /// # Errors
    /// No such headers have that length; another handle has borrowed another length; the port has no such headers, or they
    /// are another's to change; the root's lock cannot be had.
    pub fn set_vnet_hdr_len(&mut self, len: u8) -> Result<()> {
        self.adapter.set_vnet_hdr_len(&self.name, len)
    }

    /// The same for as long as this handle lives, whatever ends it: then the port has the headers that it had before. Nobody
    /// can choose another length meanwhile. What is queued in the other form is discarded, at either end of that time.
    ///
    /// # Errors
    /// As `set_vnet_hdr_len`.
    pub fn borrow_vnet_hdr_len(&mut self, len: u8) -> Result<()> {
        self.adapter.borrow_vnet_hdr_len(&self.name, len)
    }

    /// Counters of the whole port, since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.adapter.counters()
    }

    /// Counts at this port of a switch what another port has dropped that a bridge joins it to (`far_drop_down` and its kin), since
    /// that one's counters are known to this process alone. Does nothing at a port that is none of a switch, or a monitor.
    pub fn count_far_drops(&self, drops: &Counters) {
        self.adapter.count_far_drops(drops);
    }

    /// Slots per TX and RX ring.
    #[must_use]
    pub fn slots(&self) -> PerDirection<u32> {
        self.adapter.slots()
    }
}

#[cfg(test)]
mod tests;
