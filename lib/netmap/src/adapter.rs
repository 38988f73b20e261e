//! What a kind of port implements (netmap's word: an adapter), and how a kind is described.
//!
//! A kind is one file with a [`Kind`] in it, and one line in the table of `kinds`. Calls go through
//! here once per sync, never once per packet: packets are in rings, which are the same for all kinds.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::error::{Error, Feature, Result};
use crate::layout::Layout;
use crate::name::{Capabilities, PortName, Scheme};
use crate::netlink::Link;
use crate::options::{MemoryRef, Options, PerDirection, Places};
use crate::ring::{RingRef, TxRingRef};
use crate::shm::file::FileId;
use crate::shm::mem::Cell;
use crate::stats::Counters;
use crate::wait::Interest;

/// A kind of port.
#[derive(Debug)]
pub struct Kind {
    /// How its ports are named, and what they can do.
    pub scheme: Scheme,
    /// Opens a port. The options have been overridden by what the name says.
    pub open: fn(&PortName, &Options) -> Result<Box<dyn Adapter>>,
}

/// An open port. Rings are numbered as bound: the first is 0, whatever its number in the port.
pub trait Adapter: Debug + Send {
    /// What this port can do: what its kind can, or less.
    fn capabilities(&self) -> Capabilities;

    /// Number of TX and RX rings bound.
    fn rings(&self) -> PerDirection<usize>;

    /// Number of TX and RX rings of the port, whoever binds them.
    fn all_rings(&self) -> PerDirection<usize> {
        self.rings()
    }

    /// Slots per TX and RX ring.
    fn slots(&self) -> PerDirection<u32>;

    /// A TX ring.
    ///
    /// # Panics
    /// There is no such ring.
    fn tx(&self, ring: usize) -> TxRingRef<'_>;

    /// An RX ring.
    ///
    /// # Panics
    /// There is no such ring.
    fn rx(&self, ring: usize) -> RingRef<'_>;

    /// Sends what is queued on a ring.
    fn txsync_ring(&mut self, ring: usize) -> Result<()>;

    /// Gives back what was read on a ring and shows what came.
    fn rxsync_ring(&mut self, ring: usize) -> Result<()>;

    /// Sends what is queued on all rings bound.
    fn txsync(&mut self) -> Result<()> {
        (0..self.rings().tx).try_for_each(|ring| self.txsync_ring(ring))
    }

    /// Gives back what was read on all rings bound and shows what came.
    fn rxsync(&mut self) -> Result<()> {
        (0..self.rings().rx).try_for_each(|ring| self.rxsync_ring(ring))
    }

    /// Cheaply: whether a sync may show more to read than the program has seen.
    fn peek(&self) -> bool {
        true
    }

    /// Whether `peek` looks. If it does not, only a sync finds out, by a system call: looking again and again costs
    /// others their time, and a sleep is not dearer.
    fn peeks(&self) -> bool {
        true
    }

    /// What to poll.
    fn fd(&self) -> BorrowedFd<'_>;

    /// What to poll it for: `RX`, `TX` or both. No kind is asked for `SPACE` or `SENT`.
    fn events(&self, what: Interest) -> PollFlags;

    /// Asks to be woken, for the same. The caller syncs and looks again before it sleeps.
    fn arm(&mut self, _what: Interest) {}

    /// Whether that sync met nothing that has not been asked to wake us.
    fn is_armed(&self) -> bool {
        true
    }

    /// Takes the request back. `slept`: there was a sleep, which is counted.
    fn disarm(&mut self, slept: bool);

    /// Lets slots point into `[start, start + len)`.
    fn allow_indirect(&mut self, _start: usize, _len: usize) {}

    /// Lets slots point to anything that this process can read. `name` is the port's.
    fn allow_indirect_anywhere(&mut self, name: &PortName) -> Result<()> {
        Err(Error::unsupported(name, Feature::Indirect))
    }

    /// Bytes of the virtio-net header in front of each frame.
    fn vnet_hdr_len(&self) -> u8 {
        0
    }

    /// Changes that. `name` is the port's.
    fn set_vnet_hdr_len(&mut self, name: &PortName, _len: u8) -> Result<()> {
        Err(Error::unsupported(name, Feature::VnetHeaders))
    }

    /// Whether the last sync could not send all that it was given, and what is left would be sent by another one: whoever waits for
    /// anything sends it then, and is woken for it by the bell.
    fn has_unsent(&self) -> bool {
        false
    }

    /// Changes that for as long as the handle lives.
    fn borrow_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        self.set_vnet_hdr_len(name, len)
    }

    /// Name of the port whose full ring keeps packets queued, if one does.
    fn held_up_by(&self) -> Option<String> {
        None
    }

    /// Passes on what was sent and is held back, and waits for whoever takes it.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether nothing will ever be received any more.
    fn ended(&self) -> bool {
        false
    }

    /// What was done to packets beside passing them on, in sentences.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// By which means packets come and go, where there are several.
    fn about(&self) -> Option<String> {
        None
    }

    /// The link, as of the last sync.
    fn link(&self) -> Link {
        Link::Up
    }

    /// Bytes of a frame's payload that the interface behind the port takes, as of the last sync.
    fn mtu(&self) -> Option<u32> {
        None
    }

    /// Hardware address.
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }

    /// Gives up the port, and keeps the handle in the descriptor that names it, if there is such a one.
    fn into_fd(self: Box<Self>) -> Option<OwnedFd> {
        None
    }

    /// Gives up the descriptor that names the handle, if there is such a one, and goes on without.
    fn detach(&mut self) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    /// How often this handle's syncs met a ring whose indices made no sense, and set them right.
    fn reinits(&self) -> u64 {
        0
    }

    /// Lets another handle have some rings, numbered as bound; those that stay are numbered anew.
    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>>;

    /// The file that the memory of its buffers is in, which distinguishes it from other memory.
    fn memory_id(&self) -> FileId;

    /// That memory, for a port to be made in it.
    fn memory(&self) -> Option<MemoryRef> {
        None
    }

    /// Where the handle's structures lie in that memory, if other processes can map it.
    fn layout(&self) -> Option<Layout> {
        None
    }

    /// The file that it is in, opened anew. `name` is the port's.
    fn open_memory(&self, name: &PortName) -> Result<OwnedFd> {
        Err(Error::unsupported(name, Feature::Memory))
    }

    /// Buffers beside those in rings.
    fn extra_buffers(&self) -> Vec<Cell>;

    /// Counters of the whole port.
    fn counters(&self) -> Counters;

    /// Counts what the port at the other end of a bridge has dropped, if others can look at this one's counters.
    fn count_far_drops(&self, _drops: &Counters) {}
}
