//! Cursors and indices of a ring in private memory.

use proptest::prelude::*;

use super::*;
use crate::options::Sizes;
use crate::ring_number::RingNumber;
use crate::rings::{RingCells, make_rings};

const SLOTS: u32 = 64;

struct Rig {
    region: Region,
    cells: RingCells,
}

impl Rig {
    fn new() -> Self {
        let region = Region::anonymous(9000).unwrap();
        let sizes = Sizes { tx_rings: 1, rx_rings: 1, tx_slots: SLOTS, rx_slots: SLOTS };
        let cells = make_rings(&region, sizes).unwrap();
        Self { region, cells }
    }

    fn tx(&self) -> RingRef<'_> {
        self.cells.tx_ring(&self.region, RingNumber::FIRST).unwrap()
    }

    fn set(&self, head: u32, cur: u32, tail: u32) -> RingRef<'_> {
        let ring = self.tx();
        ring.raw.head.store(head, Ordering::Relaxed);
        ring.raw.cur.store(cur, Ordering::Relaxed);
        ring.raw.tail.store(tail, Ordering::Relaxed);
        ring
    }
}

proptest! {
    /// netmap's rule, said by walking round the ring.
    #[test]
    fn head_is_in_order_just_if_a_walk_from_hwcur_meets_head_cur_and_tail_in_turn(
        hwcur in 0..SLOTS, hwtail in 0..SLOTS, head in 0..SLOTS + 2, cur in 0..SLOTS + 2,
    ) {
        let rig = Rig::new();
        let ring = rig.set(head, cur, hwtail);
        let walk: Vec<u32> = (0..SLOTS).map(|k| (hwcur + k) % SLOTS).collect();
        let at = |slot: u32| walk.iter().position(|&w| w == slot);
        let in_order = match (at(head), at(cur), at(hwtail)) {
            (Some(head), Some(cur), Some(tail)) => head <= cur && cur <= tail,
            _ => false,
        };
        prop_assert_eq!(ring.head_in_order(hwcur, hwtail), in_order.then_some(head));
    }

    /// A cursor believes no index that a peer made up.
    #[test]
    fn cursor_over_any_indices_stays_within_the_ring(head: u32, cur: u32, tail: u32, hwcur: u32) {
        let rig = Rig::new();
        let ring = rig.set(head, cur, tail);
        let mut tx = TxRing::new(TxRingRef::new(ring, hwcur));
        prop_assert!(tx.space() < SLOTS as usize && tx.pending() < SLOTS as usize);
        let n = tx.space();
        if n > 0 {
            prop_assert!(tx.slot(n - 1).index() < SLOTS as usize);
        }
        tx.advance(n);
        prop_assert_eq!(tx.space(), 0);
        let rx = RxRing::new(ring);
        prop_assert_eq!(rx.batch(usize::MAX).count(), rx.available());
        prop_assert!(!ring.is_ready() || rx.available() > 0, "woken to find nothing");
    }
}

#[test]
fn packets_go_round_the_ring_and_a_packet_without_room_is_not_begun() {
    let rig = Rig::new();
    let ring = rig.set(SLOTS - 2, SLOTS - 2, 3); // five are free
    let mut tx = TxRing::new(TxRingRef::new(ring, SLOTS - 2));
    let stride = tx.buf_bytes();
    assert!(!tx.push(&vec![1; 5 * stride + 1]));
    assert_eq!((tx.space(), tx.pending()), (5, 0));
    assert!(tx.push(&vec![1; 3 * stride]) && tx.push(&[2; 60]) && tx.push(&[]));
    assert_eq!((tx.space(), tx.pending()), (0, 5));
    let slots: Vec<_> = [SLOTS - 2, SLOTS - 1, 0, 1, 2].map(|i| ring.load(i)).into();
    let more =
        |slot: &SlotValue| SlotFlags::from_bits_retain(slot.flags).contains(SlotFlags::MOREFRAG);
    assert_eq!(slots.iter().map(more).collect::<Vec<_>>(), [true, true, false, false, false]);
    assert_eq!(slots.iter().map(|s| s.len).collect::<Vec<_>>(), [2112, 2112, 2112, 60, 0]);
    assert_eq!(tx.withdraw(), 5);
    assert_eq!((tx.space(), tx.pending()), (5, 0));
}

#[test]
fn damaged_ring_is_mended_without_touching_what_is_sound() {
    let rig = Rig::new();
    let ring = rig.set(7, 5, 9); // cur behind head
    let sound = ring.load(0);
    let bad = [
        SlotValue { buf_idx: u32::MAX, len: 60, flags: 1 },
        SlotValue { len: u16::MAX, ..ring.load(2) },
    ];
    ring.slots[1].word.store(bad[0].pack(), Ordering::Relaxed);
    ring.slots[2].word.store(bad[1].pack(), Ordering::Relaxed);
    assert_eq!(ring.head_in_order(4, 9), None);
    ring.reinit(4, 9);
    assert_eq!(ring.head_in_order(4, 9), Some(4));
    assert_eq!(ring.load(0), sound);
    assert_eq!(ring.load(1), SlotValue { buf_idx: 0, len: 0, flags: 1 });
    assert_eq!(ring.load(2), SlotValue { len: 0, ..bad[1] });
}

#[test]
#[should_panic(expected = "slot beyond tail")]
fn slot_that_is_not_the_programs_is_refused() {
    let rig = Rig::new();
    let mut tx = TxRing::new(TxRingRef::new(rig.set(0, 0, 2), 0));
    let _ = tx.slot(2);
}
