//! Offsets in a port's slots: given to them for the sake of a handle, or with the port.
//!
//! Invariant: those that a port was made with stay. Others end with the port's last handle, whatever ended it, and the slots
//! say 0. At both ends of that time what was queued is discarded, as its data lie where nobody looks for them any more.
//!
//! That is done before the last handle's entry is freed, so a death in between leaves it to the next reaper; and when the
//! port is opened, if whoever freed the entry could not.

use crate::error::{Error, Invalid, Result};
use crate::options::Offsets;
use crate::ring::RingRef;
use crate::shm::lock::RootLock;
use crate::shm::mem::STRIDE;
use crate::sync::core_atomic::Ordering;
use crate::vale::lifecycle::loan::discard;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::{HandleId, PortIndex};
use crate::vale::state::portfiles::PortFiles;

/// Gives the slots of a port offsets, unless they have the same already.
pub fn set(
    switch: &Switch,
    lock: &RootLock,
    port: &PortFiles,
    full: &str,
    offsets: &Offsets,
) -> Result<()> {
    let (bits, index) = (offsets.checked(full, STRIDE as u64)?, port.file.shape.index);
    let mask = if bits < 64 { (1 << bits) - 1 } else { u64::MAX };
    match switch.offset_mask_of(index) {
        0 => {}
        has if has == mask => return Ok(()),
        _ => return Err(Error::invalid(full, Invalid::OtherOffsets)),
    }
    write(port, mask, offsets.initial, offsets.tx_align);
    switch.set_offset_bits(lock, index, bits);
    discard(switch, port, &port.all_rings())
}

/// What all slots and rings of a port say.
fn write(port: &PortFiles, mask: u64, initial: u64, tx_align: u32) {
    for ring in
        port.file.shape.rings.all().filter_map(|(cell, n)| RingRef::new(&port.region, cell, n))
    {
        ring.slots.iter().for_each(|slot| slot.ptr.store(initial, Ordering::Relaxed));
        ring.raw.offset_mask.store(mask, Ordering::Relaxed);
        ring.raw.buf_align.store(tx_align.into(), Ordering::Relaxed);
    }
}

/// Ends the offsets of a port that nobody has open, but for the handle `but` perhaps, which is no more.
pub fn end(switch: &Switch, lock: &RootLock, index: PortIndex, but: Option<HandleId>) {
    // The index may be what some process wrote.
    let lent =
        index.at() < MAX_PORTS && switch.offset_mask_of(index) != 0 && !switch.keeps_offsets(index);
    if !lent || switch.handles().all().any(|h| h.port == index && Some(h.id) != but) {
        return;
    }
    // One that goes with its last handle takes them along.
    let Some(listed) = switch.listed(index).filter(|listed| listed.persistent) else { return };
    let Ok((port, _)) = shared::port(switch, &listed.name) else { return };
    // In this order: a sender that has looked at the bits finds offsets of 0, or is done before its ring is emptied.
    write(&port, 0, 0, 0);
    // Without a place among the processes, whoever opens the port does it again.
    if discard(switch, &port, &port.all_rings()).is_ok() {
        switch.set_offset_bits(lock, index, 0);
    }
}
