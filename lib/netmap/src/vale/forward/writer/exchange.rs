//! Writing to the ring of a zero-copy monitor: buffers change places with those of a ring that it sees.
//!
//! Invariant: whoever writes holds both rings, the one that is seen by its sync. So a death in between leaves both
//! in the name of the dead, and whoever takes the one over takes the other, and mends (`state::repair`).

use crate::abi::{SlotFlags, SlotValue};
use crate::ring::RingRef;
use crate::sync::core_atomic::Ordering;
use crate::vale::forward::inner::Buffers;
use crate::vale::forward::writer::{Lease, WaitBudget, Writer, lease, take};
use crate::vale::state::ids::{ParticipantId, RingNumber};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::repair::{Numbered, SeenRing};
use crate::vale::state::switch::SwitchFile;

impl<'a> Writer<'a> {
    /// Writes where `lease` says, for `me`, who holds the ring, to buffers at offsets that `offset_mask` tells.
    pub fn of_monitor(
        to: &'a PortFiles,
        lease: Lease,
        me: ParticipantId,
        offset_mask: u64,
    ) -> Self {
        let ring = to.rx_ring(lease.ring).expect("`hold` has seen it");
        Self {
            to,
            me,
            ring: lease.ring,
            slots: ring.slots,
            buffers: Buffers::of(ring.buffers),
            tail: lease.tail as usize,
            space: lease.space,
            offset_mask,
            warm: None,
            packets: 0,
            bytes: 0,
            bad: 0,
            dropped: 0,
        }
    }

    /// Puts the `len` bytes in the buffer of a slot into the next one by exchanging the two buffers. There is
    /// space, and both are of one region; the caller counts packets, and calls `exchanged` in the end.
    pub fn exchange(&mut self, from: SeenRing, a: Numbered<'_>, len: u16, flags: u16) {
        let slot = &self.slots[self.tail];
        let theirs = SlotValue::unpack(a.word().load(Ordering::Relaxed));
        let own = SlotValue::unpack(slot.word.load(Ordering::Relaxed));
        let is_buffer = |idx| self.buffers.at(idx).is_some();
        if is_buffer(theirs.buf_idx) && is_buffer(own.buf_idx) {
            // Its program is told, as it may have prepared what that buffer holds.
            let changed = theirs.flags | SlotFlags::BUF_CHANGED.bits();
            let to_a = SlotValue { buf_idx: own.buf_idx, flags: changed, ..theirs };
            let to_b = SlotValue { buf_idx: theirs.buf_idx, len, flags };
            let exchange = &self.to.file.kring(self.ring).exchange;
            let b = Numbered::new(self.tail as u32, &slot.word);
            exchange.cross(from, a, to_a.pack(), b, to_b.pack());
            self.bytes += u64::from(len);
        } else {
            // Damaged by a peer: shown without its data.
            slot.word.store(SlotValue { len: 0, flags, ..own }.pack(), Ordering::Relaxed);
            self.bad += 1;
        }
        self.tail = if self.tail + 1 == self.slots.len() { 0 } else { self.tail + 1 };
        self.space -= 1;
    }

    /// There are no more exchanges before this is published.
    pub fn exchanged(&self) {
        self.to.file.kring(self.ring).exchange.done();
    }
}

/// Holds a ring of a zero-copy monitor, unless an exchange with a ring that somebody else syncs must be ended
/// first.
pub fn hold_of_monitor(
    switch: &SwitchFile,
    monitor: &PortFiles,
    ring: RingNumber,
    me: ParticipantId,
    budget: &mut WaitBudget,
) -> Option<Lease> {
    let kring = monitor.file.kring(ring);
    if !take(switch, kring, me, budget) {
        return None;
    }
    if kring.exchange.crossed().is_some() {
        kring.release_hold(me);
        return None;
    }
    lease(monitor, ring, me).ok()
}

/// For who syncs the ring `seen`: puts right what a death between that ring and ring `ring` of its monitor has
/// left. There is no such ring: nothing was going on.
pub fn mend(
    switch: &SwitchFile,
    monitor: &PortFiles,
    ring: RingNumber,
    seen: Option<RingRef<'_>>,
    me: ParticipantId,
    budget: &mut WaitBudget,
) {
    let kring = monitor.file.kring(ring);
    let Some(own) = monitor.rx_ring(ring) else { return };
    if take(switch, kring, me, budget) {
        match seen {
            Some(seen) => kring.mend_with(own, seen),
            None => kring.exchange.done(),
        }
        kring.release_hold(me);
    }
}
