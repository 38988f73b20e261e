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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::SlotValue;
    use crate::options::Sizes;
    use crate::ring_number::RingNumber;
    use crate::rings::make_rings;
    use crate::shm::mem::Region;

    const PLAIN: SlotFlags = SlotFlags::empty();
    const MORE: SlotFlags = SlotFlags::MOREFRAG;

    /// A slot as its program, or a peer, has left it.
    #[derive(Clone, Copy)]
    struct Left {
        /// `None`: it names no buffer.
        len: Option<u16>,
        flags: SlotFlags,
    }

    fn left(len: u16, flags: SlotFlags) -> Left {
        Left { len: Some(len), flags }
    }

    /// What becomes of each fragment of a ring with such slots: how many its packet has, and whether that is bad.
    fn gathered(slots: &[Left]) -> Vec<(u8, bool)> {
        let sizes = Sizes { tx_rings: 1, rx_rings: 1, tx_slots: 128, rx_slots: 64 };
        let region = Region::anonymous(9000).unwrap();
        let rings = make_rings(&region, sizes).unwrap();
        let ring = rings.tx_ring(&region, RingNumber::FIRST).unwrap();
        let from = 120; // round the end
        for (k, left) in (0..).zip(slots) {
            let at = ring.step(from, k);
            let mut value = SlotValue { flags: left.flags.bits(), ..ring.load(at) };
            match left.len {
                Some(len) => value.len = len,
                None => value.buf_idx = region.cells(),
            }
            ring.slots[at as usize].word.store(value.pack(), Ordering::Relaxed);
        }
        let mut batch = Batch::new();
        let head = ring.step(from, slots.len() as u32);
        gather(&mut batch, ring, &mut Indirect::default(), 0, from, head);
        batch.fragments.iter().map(|f| (f.frags, f.outcome == Outcome::Bad)).collect()
    }

    #[test]
    fn packet_ends_with_a_slot_that_has_no_more_or_where_the_program_stopped() {
        let slots = [left(60, PLAIN), left(2112, MORE), left(9, PLAIN), left(60, MORE)];
        assert_eq!(gathered(&slots), [(1, false), (2, false), (0, false), (1, false)]);
    }

    #[test]
    fn damage_costs_its_whole_packet_and_no_other() {
        let no_buffer = Left { len: None, flags: PLAIN };
        let indirect = left(60, SlotFlags::INDIRECT);
        for damage in [left(2113, PLAIN), no_buffer, indirect] {
            let chain = [left(60, PLAIN), left(60, MORE), damage, left(60, PLAIN)];
            assert_eq!(gathered(&chain), [(1, false), (0, true), (0, false), (1, false)]);
        }
    }

    #[test]
    fn chain_that_is_too_long_is_bad_and_what_follows_is_a_packet_of_its_own() {
        let mut slots = vec![left(60, MORE); NETMAP_MAX_FRAGS + 1];
        slots.push(left(60, PLAIN));
        let found = gathered(&slots);
        assert_eq!(found.iter().filter(|(_, bad)| *bad).count(), 1);
        assert!(found[0].1);
        assert_eq!(found[NETMAP_MAX_FRAGS..], [(2, false), (0, false)]);
        assert_eq!(gathered(&slots[2..])[0], (NETMAP_MAX_FRAGS as u8, false));
    }
}
