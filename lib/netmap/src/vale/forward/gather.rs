//! Gather: slots are copied out of the sender's ring and checked.

use crate::abi::{NETMAP_MAX_FRAGS, SlotFlags};
use crate::copy;
use crate::ring::RingRef;
use crate::shm::mem::STRIDE;
use crate::sync::core_atomic::Ordering;
use crate::vale::forward::batch::{BATCH, Batch, Fragment, NONE, Outcome};
use crate::vale::forward::indirect::Indirect;

/// Fills the batch from slot `from` on, up to `head` or as far as it holds. Indirect slots may point
/// to what `indirect` allows. The bits `mask` of `ptr` say where in its buffer the data of another slot begin.
pub fn gather(
    batch: &mut Batch,
    ring: RingRef<'_>,
    indirect: &mut Indirect,
    mask: u64,
    from: u32,
    head: u32,
) {
    indirect.begin();
    if mask == 0 {
        take_slots::<false>(batch, ring, indirect, mask, from, head);
    } else {
        take_slots::<true>(batch, ring, indirect, mask, from, head);
    }
    indirect.fetch(batch);
}

fn take_slots<const OFFSETS: bool>(
    batch: &mut Batch,
    ring: RingRef<'_>,
    own_memory: &mut Indirect,
    mask: u64,
    from: u32,
    head: u32,
) {
    let fragments = &mut batch.fragments;
    fragments.clear();
    let mut at = from;
    let mut first = 0; // first fragment of the packet being gathered
    let mut bad = false;
    while at != head {
        let slot = ring.load(at);
        let flags = SlotFlags::from_bits_retain(slot.flags);
        let indirect = flags.contains(SlotFlags::INDIRECT);
        let data = if indirect {
            let address = ring.slots[at as usize].ptr.load(Ordering::Relaxed);
            own_memory.at(address, slot.len, fragments.len())
        } else if OFFSETS {
            let offset = ring.slots[at as usize].ptr.load(Ordering::Relaxed) & mask;
            let data = ring.buffer(slot.buf_idx).filter(|_| fits(offset, slot.len));
            data.map(|data| data.wrapping_add(offset as usize).cast_const())
        } else {
            ring.buffer(slot.buf_idx).map(<*mut u8>::cast_const)
        };
        at = ring.step(at, 1);
        if let Some(data) = data {
            copy::prefetch_read(data); // its addresses are looked at soon
        }
        bad |= data.is_none() || usize::from(slot.len) > STRIDE;
        let data = data.unwrap_or(std::ptr::null());
        let outcome = Outcome::Rest;
        let indirect = indirect || OFFSETS; // whole lines might reach beyond the buffer
        // The capacity is there (`Batch::new`), so this never allocates.
        fragments.push(Fragment { data, len: slot.len, frags: 0, indirect, outcome, next: NONE });
        // A chain that the ring does not end is cut off at `head`, as in netmap.
        if flags.contains(SlotFlags::MOREFRAG) && at != head {
            if fragments.len() - first < NETMAP_MAX_FRAGS {
                continue;
            }
            bad = true; // no end in sight: what follows begins a packet of its own
        }
        if bad {
            fragments[first].outcome = Outcome::Bad;
            fragments[first..].iter_mut().for_each(|fragment| fragment.len = 0);
            bad = false;
        } else {
            fragments[first].frags = (fragments.len() - first) as u8;
        }
        first = fragments.len();
        if first >= BATCH {
            return;
        }
    }
}

/// Whether so many bytes from there on lie within a buffer.
pub fn fits(offset: u64, len: u16) -> bool {
    offset.checked_add(len.into()).is_some_and(|end| end <= STRIDE as u64)
}
