//! What is to be sent, to whom it may go, and how far it came.

use crate::ring::RingRef;
use crate::stats::SharedCounters;
use crate::vale::forward::warm;
use crate::vale::state::fdb::Clock;
use crate::vale::state::handleset::Rung;
use crate::vale::state::ids::{Generation, HandleIndex, ParticipantId, PortIndex, RingNumber};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::SwitchFile;
use crate::vale::state::txstate::{Stall, TxState};

/// The other ports, as far as a sender asks for them.
pub trait Destinations {
    /// Makes sure that the port at `index` can be used if that is possible, and returns its
    /// generation. Called once per run or batch and port.
    fn update(&mut self, index: PortIndex) -> Option<Generation>;

    /// The port at `index`, if `update` found one.
    fn get(&self, index: PortIndex) -> Option<&PortFiles>;

    /// Rings a handle, if it is on that port.
    fn ring(&self, handle: HandleIndex, port: PortIndex) -> Rung;
}

/// A TX ring to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The process that sends.
    pub me: ParticipantId,
    /// The ring.
    pub ring: RingRef<'a>,
    /// Its number.
    pub number: RingNumber,
    /// Its state, of which the caller is the owner.
    pub state: &'a TxState,
    /// First slot not sent.
    pub hwcur: u32,
    /// First slot not to be sent.
    pub head: u32,
    /// What happened on it.
    pub counters: &'a SharedCounters,
}

/// How far a txsync of a ring came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// First slot not sent: `head`, unless backpressure stopped the batch.
    pub hwcur: u32,
    /// Where backpressure stopped it.
    pub stall: Option<Stall>,
    /// A port whose ring was full: it may be a dead one.
    pub full: Option<PortIndex>,
}

/// How far a run or batch came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Slots done with.
    pub slots: u32,
    /// Bytes of the packets in them.
    pub bytes: u64,
    /// Whether it is all that a run may send at once, and the next one may go on.
    pub portion: bool,
    /// A port that was full.
    pub full: Option<PortIndex>,
    /// Where backpressure stopped it.
    pub stall: Option<Stall>,
}

/// Lengths of virtio-net headers that differ: the sender's, and the destination's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub from: u8,
    pub to: u8,
}

/// What one txsync works on.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The process that sends.
    pub me: ParticipantId,
    /// Its port.
    pub port: PortIndex,
    /// The switch that it is on.
    pub switch: &'a SwitchFile,
    /// The time of the learning table.
    pub clock: &'a Clock,
    /// What happened on the ring.
    pub counters: &'a SharedCounters,
    /// The ring.
    pub ring: RingRef<'a>,
    /// Its state.
    pub state: &'a TxState,
    /// Its number.
    pub ring_no: RingNumber,
    /// First slot not to be sent.
    pub head: u32,
    /// Backpressure.
    pub lossless: bool,
    /// Generations up to this one were given out before anything was looked up: a port of a later
    /// one cannot be the one that was meant.
    pub epoch: Generation,
    /// Bytes of the virtio-net header in front of each frame.
    pub header: u8,
    /// Bytes of the cache that two rings should fit.
    pub cache: usize,
    /// Bytes of a packet, about.
    pub average_len: usize,
    /// Warm buffers are cheaper, or being tried.
    pub warm: bool,
}

impl Job<'_> {
    /// What packets become for a port; `None`: they pass as they are. A destination's ring is held before this is asked: whoever
    /// changes the length empties the ring afterwards, and waits for who holds it.
    #[inline]
    pub fn form_for(&self, port: PortIndex) -> Option<Form> {
        let (from, to) = (self.header, self.switch.header_of(port));
        (to != from).then_some(Form { from, to })
    }

    /// Whether to write packets to warm buffers of a ring of `n` slots.
    #[inline]
    pub fn uses_warm(&self, n: u32) -> bool {
        self.warm && warm::is_worth_it(self.average_len, self.ring.n() + n, self.cache)
    }
}
