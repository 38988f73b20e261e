//! The Communication Status Block: a page of guest memory through which driver and device exchange
//! ring indices and say whether they want to be notified, so that both avoid exits and interrupts.
//!
//! The layout is the one that FreeBSD's e1000 driver was published with, byte for byte. The first
//! 64 bytes are written by the guest and the second 64 by the host (but for `host_txcycles_lim`
//! and the initial values), so that each side keeps its line while the other sleeps.
//!
//! Invariant of both directions, proved by the models beside this file: a side that sleeps has first asked
//! for a notification and then looked again; a side that publishes looks at the other's request afterwards.
//! Each separates its two steps by a full fence. So at least one of them sees the other: a wake-up may be
//! superfluous, but is never lost.
//!
//! Every word may hold anything, since the other side may be hostile: an index is checked against
//! the ring's size where it is loaded, and flags are tested in bit 0 only (FreeBSD's driver writes
//! 2 to say that it has seen the interrupt it asked for).

use core::fmt;

/// Bytes that are mapped at the address in CSBAH:CSBAL.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of the page that have a meaning.
pub const SIZE: u32 = 0x68;
/// "No threshold", in `GuestTxkickAt` and `HostRxkickAt`.
pub const NONE: u32 = u32::MAX;

/// A word of the CSB; the value is its offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Field {
    /// Guest: the slot after the last one to send.
    GuestTdt = 0x00,
    /// Guest, bit 0: wants an interrupt when descriptors were sent.
    GuestNeedTxkick = 0x04,
    /// Guest, bit 0: wants an interrupt when packets were received.
    GuestNeedRxkick = 0x08,
    /// Guest: uses the CSB; while 0 the device is a plain e1000.
    GuestCsbOn = 0x0C,
    /// Guest: receive descriptors up to here, exclusively, belong to the host.
    GuestRdt = 0x10,
    /// Guest: position at which it wants an interrupt; for devices with a threshold here.
    GuestTxkickAt = 0x14,
    /// Guest: MSI-X in use.
    GuestUseMsix = 0x18,
    /// Host: everything before this slot was sent.
    HostTdh = 0x40,
    /// Host, bit 0: asleep, wants TDT to be written.
    HostNeedTxkick = 0x44,
    /// Guest, once: rounds without work after which the host sleeps.
    HostTxcyclesLim = 0x48,
    /// Host: rounds without work so far.
    HostTxcycles = 0x4C,
    /// Host: everything before this slot was received.
    HostRdh = 0x50,
    /// Host: the boolean variant of `HostRxkickAt`; not used by the e1000.
    HostNeedRxkick = 0x54,
    /// Host: copy of the interrupt causes; not used by the e1000.
    HostIsr = 0x58,
    /// Host: wants RDT to be written when `GuestRdt` reaches this value.
    HostRxkickAt = 0x5C,
    /// Guest: address of a ring of virtio-net headers, high half.
    VnetRingHigh = 0x60,
    /// Guest: low half.
    VnetRingLow = 0x64,
}

impl Field {
    /// All fields, in the order of their offsets.
    pub const ALL: [Self; 17] = [
        Self::GuestTdt,
        Self::GuestNeedTxkick,
        Self::GuestNeedRxkick,
        Self::GuestCsbOn,
        Self::GuestRdt,
        Self::GuestTxkickAt,
        Self::GuestUseMsix,
        Self::HostTdh,
        Self::HostNeedTxkick,
        Self::HostTxcyclesLim,
        Self::HostTxcycles,
        Self::HostRdh,
        Self::HostNeedRxkick,
        Self::HostIsr,
        Self::HostRxkickAt,
        Self::VnetRingHigh,
        Self::VnetRingLow,
    ];

    /// Offset in bytes from the start of the page.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> u32 {
        self as u32
    }
}

const _: () = {
    assert!(Field::VnetRingLow.offset() + 4 == SIZE);
    assert!(Field::GuestUseMsix.offset() + 4 + 9 * 4 == Field::HostTdh.offset());
    assert!(Field::HostTdh.offset().is_multiple_of(64), "the halves must not share a cache line");
};

/// Access to a CSB, wherever it lies: a driver's memory, guest memory seen by a device, or a model
/// under loom.
pub trait Csb {
    /// An atomic load, at least Acquire: what the other side wrote before is seen after.
    fn load(&self, field: Field) -> u32;
    /// An atomic store, at least Release: what was written before is seen with it.
    fn store(&self, field: Field, value: u32);
    /// A full (sequentially consistent) fence: orders a store before it and a load after it.
    fn fence(&self);
}

impl<C: Csb + ?Sized> Csb for &C {
    #[inline]
    fn load(&self, field: Field) -> u32 {
        (**self).load(field)
    }

    #[inline]
    fn store(&self, field: Field, value: u32) {
        (**self).store(field, value);
    }

    #[inline]
    fn fence(&self) {
        (**self).fence();
    }
}

/// An index that lies outside its ring: the guest is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wild {
    /// Where it was found.
    pub field: Field,
    /// What was found.
    pub value: u32,
}

impl fmt::Display for Wild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of the CSB is {}, which is outside its ring", self.field, self.value)
    }
}

impl core::error::Error for Wild {}

/// Stores a value only if it changes, since reading leaves the cache line with the other side and writing does not.
#[inline]
fn set(csb: &impl Csb, field: Field, value: u32) {
    if csb.load(field) != value {
        csb.store(field, value);
    }
}

/// How many slots a ring of `n` has from `from` up to `to`, both below `n`.
#[inline]
#[must_use]
pub const fn distance(from: u32, to: u32, n: u32) -> u32 {
    if to >= from { to - from } else { to + n - from }
}

// The guest's side.

/// The guest fills in a page before it writes its address to CSBAH and CSBAL. The first packet in
/// either direction is notified, whatever the host does with the page.
pub fn guest_init(csb: &impl Csb, txcycles_lim: u32) {
    for field in Field::ALL {
        csb.store(field, 0);
    }
    csb.store(Field::GuestTxkickAt, NONE);
    csb.store(Field::HostRxkickAt, NONE);
    csb.store(Field::HostNeedTxkick, 1);
    csb.store(Field::GuestNeedRxkick, 1);
    csb.store(Field::HostTxcyclesLim, txcycles_lim);
    csb.fence();
}

/// Publishes the descriptors before `tdt`. True: the host sleeps, and TDT must be written.
#[inline]
#[must_use]
pub fn tx_publish(csb: &impl Csb, tdt: u32) -> bool {
    csb.store(Field::GuestTdt, tdt);
    // Between our index and the host's flag; pairs with the fence in `host_tx_sleep`.
    csb.fence();
    tx_kick_wanted(csb)
}

/// Whether the host still wants the kick that an earlier `tx_publish` asked for and that was put
/// off.
#[inline]
#[must_use]
pub fn tx_kick_wanted(csb: &impl Csb) -> bool {
    csb.load(Field::HostNeedTxkick) & 1 != 0
}

/// Asks for an interrupt when descriptors were sent. True: `progress` saw none, and the guest may
/// wait; false: there is some, and the request is withdrawn.
#[must_use]
pub fn tx_want_interrupt(csb: &impl Csb, progress: impl FnOnce() -> bool) -> bool {
    csb.store(Field::GuestNeedTxkick, 1);
    // Between our flag and the host's index; pairs with the fence in `host_wants_tx_irq`.
    csb.fence();
    if progress() {
        csb.store(Field::GuestNeedTxkick, 0);
        return false;
    }
    true
}

/// No interrupt for sent descriptors.
#[inline]
pub fn tx_no_interrupt(csb: &impl Csb) {
    set(csb, Field::GuestNeedTxkick, 0);
}

/// Gives the host the receive descriptors up to `to`, exclusively; it had them up to `from`. True:
/// the host waits for one of the positions just passed, and RDT must be written.
#[inline]
#[must_use]
pub fn rx_release(csb: &impl Csb, from: u32, to: u32, n: u32) -> bool {
    csb.store(Field::GuestRdt, to);
    // Between our index and the host's threshold; pairs with the fence in `host_rx_wait`.
    csb.fence();
    let at = csb.load(Field::HostRxkickAt);
    at < n && at != from && distance(from, at, n) <= distance(from, to, n)
}

/// Asks for an interrupt when packets come in. True: `empty` confirms that there is none, and the
/// guest may wait; false: the request is withdrawn.
#[must_use]
pub fn rx_want_interrupt(csb: &impl Csb, empty: impl FnOnce() -> bool) -> bool {
    csb.store(Field::GuestNeedRxkick, 1);
    // Between our flag and the host's descriptors; pairs with the fence in `host_wants_rx_irq`.
    csb.fence();
    if empty() {
        return true;
    }
    csb.store(Field::GuestNeedRxkick, 0);
    false
}

/// No interrupt for received packets.
#[inline]
pub fn rx_no_interrupt(csb: &impl Csb) {
    set(csb, Field::GuestNeedRxkick, 0);
}

// The host's side.

/// Whether the guest uses the CSB that it mapped.
#[inline]
#[must_use]
pub fn host_csb_on(csb: &impl Csb) -> bool {
    csb.load(Field::GuestCsbOn) != 0
}

/// The host is awake and needs no kicks.
#[inline]
pub fn host_tx_start(csb: &impl Csb) {
    set(csb, Field::HostNeedTxkick, 0);
    // A publisher that saw the old flag has its index visible to the load that follows.
    csb.fence();
}

/// The guest's tail of the transmit ring.
///
/// # Errors
/// `Wild`: the guest wrote an index that the ring does not have.
#[inline]
pub fn host_tx_tail(csb: &impl Csb, n: u32) -> Result<u32, Wild> {
    index(csb, Field::GuestTdt, n)
}

/// Asks for a kick. `Ok(true)`: nothing was published beyond `tdh`, and the host may sleep;
/// `Ok(false)`: there is work, and the request is withdrawn.
///
/// # Errors
/// `Wild`: the guest wrote an index that the ring does not have.
pub fn host_tx_sleep(csb: &impl Csb, tdh: u32, n: u32) -> Result<bool, Wild> {
    csb.store(Field::HostNeedTxkick, 1);
    // Between our flag and the guest's index; pairs with the fence in `tx_publish`.
    csb.fence();
    if host_tx_tail(csb, n)? == tdh {
        return Ok(true);
    }
    csb.store(Field::HostNeedTxkick, 0);
    Ok(false)
}

/// Everything before `tdh` is sent, its DD bits written. [`host_wants_tx_irq`] comes after it.
#[inline]
pub fn host_tx_done(csb: &impl Csb, tdh: u32) {
    csb.store(Field::HostTdh, tdh);
}

/// After [`host_tx_done`]: whether the guest waits for sent descriptors.
#[inline]
#[must_use]
pub fn host_wants_tx_irq(csb: &impl Csb) -> bool {
    // Between our index and the guest's flag; pairs with the fence in `tx_want_interrupt`.
    csb.fence();
    csb.load(Field::GuestNeedTxkick) & 1 != 0
}

/// The guest's tail of the receive ring.
///
/// # Errors
/// `Wild`: the guest wrote an index that the ring does not have.
#[inline]
pub fn host_rx_tail(csb: &impl Csb, n: u32) -> Result<u32, Wild> {
    index(csb, Field::GuestRdt, n)
}

/// The host has receive descriptors and needs no kicks.
#[inline]
pub fn host_rx_start(csb: &impl Csb) {
    set(csb, Field::HostRxkickAt, NONE);
}

/// Looks for `need` free descriptors from `rdh` on in a ring of `n`. `Ok(Some(free))`: there are
/// that many, at least `need`. `Ok(None)`: there are not, a kick was asked for, and the host may
/// wait.
///
/// The kick is asked for when three quarters of what the guest still holds are free, so that the
/// faster host does not make the guest write RDT for each single descriptor; but never at a point
/// where `need` would not be met, or a host that waits for a long packet would wait for ever.
///
/// # Errors
/// `Wild`: the guest wrote an index that the ring does not have.
pub fn host_rx_wait(csb: &impl Csb, rdh: u32, need: u32, n: u32) -> Result<Option<u32>, Wild> {
    let rdt = host_rx_tail(csb, n)?;
    let free = distance(rdh, rdt, n);
    if free >= need {
        host_rx_start(csb);
        return Ok(Some(free));
    }
    // free < n always; need is at most what a ring can hold.
    let missing = need.min(n - 1).saturating_sub(free);
    let step = (1 + (n - free - 1) * 3 / 4).max(missing);
    csb.store(Field::HostRxkickAt, (rdt + step) % n);
    // Between our threshold and the guest's index; pairs with the fence in `rx_release`.
    csb.fence();
    let free = distance(rdh, host_rx_tail(csb, n)?, n);
    if free >= need {
        csb.store(Field::HostRxkickAt, NONE);
        return Ok(Some(free));
    }
    Ok(None)
}

/// Everything before `rdh` is received, its DD bits written. [`host_wants_rx_irq`] comes after it.
#[inline]
pub fn host_rx_done(csb: &impl Csb, rdh: u32) {
    csb.store(Field::HostRdh, rdh);
}

/// After the DD bits were written: whether the guest waits for packets.
#[inline]
#[must_use]
pub fn host_wants_rx_irq(csb: &impl Csb) -> bool {
    // Between our descriptors and the guest's flag; pairs with the fence in `rx_want_interrupt`.
    csb.fence();
    csb.load(Field::GuestNeedRxkick) & 1 != 0
}

#[inline]
fn index(csb: &impl Csb, field: Field, n: u32) -> Result<u32, Wild> {
    let value = csb.load(field);
    if value < n { Ok(value) } else { Err(Wild { field, value }) }
}

#[cfg(all(test, loom))]
#[path = "csb_models.rs"]
mod loom_models;
#[cfg(test)]
#[path = "csb_tests.rs"]
mod tests;
