//! The rules on one thread: layout, thresholds, wild values. What two threads may do to each other
//! is in `csb_models.rs`.

use core::cell::{Cell, RefCell};

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

/// A CSB in ordinary memory that remembers what was done to it.
struct Page {
    words: RefCell<[u32; SIZE as usize / 4]>,
    stores: RefCell<Vec<(Field, u32)>>,
    /// A value that the other side stores into a field at the next fence.
    at_fence: Cell<Option<(Field, u32)>>,
}

impl Page {
    fn new() -> Self {
        Self {
            words: RefCell::new([0; SIZE as usize / 4]),
            stores: RefCell::default(),
            at_fence: Cell::new(None),
        }
    }

    fn poke(&self, field: Field, value: u32) {
        self.words.borrow_mut()[field.offset() as usize / 4] = value;
    }
}

impl Csb for Page {
    fn load(&self, field: Field) -> u32 {
        self.words.borrow()[field.offset() as usize / 4]
    }

    fn store(&self, field: Field, value: u32) {
        self.poke(field, value);
        self.stores.borrow_mut().push((field, value));
    }

    fn fence(&self) {
        if let Some((field, value)) = self.at_fence.take() {
            self.poke(field, value);
        }
    }
}

/// The offsets that are compiled into FreeBSD's driver.
#[test]
fn layout_is_the_published_one() {
    let offsets: Vec<u32> = Field::ALL.iter().map(|f| f.offset()).collect();
    assert_eq!(
        offsets,
        [
            0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x40, 0x44, 0x48, 0x4C, 0x50, 0x54, 0x58,
            0x5C, 0x60, 0x64
        ]
    );
    assert_eq!((SIZE, PAGE_BYTES), (104, 4096));
}

#[test]
fn fresh_page_asks_for_the_first_kick_and_the_first_interrupt() {
    let csb = Page::new();
    csb.poke(Field::VnetRingLow, 77);
    guest_init(&csb, 3);
    assert!(!host_csb_on(&csb), "the guest switches it on when the rings are ready");
    assert!(tx_publish(&csb, 1));
    assert!(host_wants_rx_irq(&csb));
    assert!(!host_wants_tx_irq(&csb));
    assert!(!rx_release(&csb, 0, 255, 256));
    assert_eq!(csb.load(Field::HostTxcyclesLim), 3);
    assert_eq!(csb.load(Field::VnetRingLow), 0);
}

#[test]
fn flags_count_in_bit_0_only() {
    let csb = Page::new();
    for (value, wanted) in [(0, false), (1, true), (2, false), (3, true), (u32::MAX - 1, false)] {
        csb.poke(Field::GuestNeedTxkick, value);
        csb.poke(Field::GuestNeedRxkick, value);
        csb.poke(Field::HostNeedTxkick, value);
        assert_eq!(host_wants_tx_irq(&csb), wanted);
        assert_eq!(host_wants_rx_irq(&csb), wanted);
        assert_eq!(tx_publish(&csb, 5), wanted);
    }
}

#[test]
fn host_does_not_sleep_on_a_packet_published_while_it_asked() {
    let csb = Page::new();
    csb.at_fence.set(Some((Field::GuestTdt, 4)));
    assert_eq!(host_tx_sleep(&csb, 3, 8), Ok(false));
    assert_eq!(csb.load(Field::HostNeedTxkick), 0);
    assert_eq!(host_tx_sleep(&csb, 4, 8), Ok(true));
    assert_eq!(csb.load(Field::HostNeedTxkick), 1);
}

#[test]
fn guest_does_not_sleep_on_progress_made_while_it_asked() {
    let csb = Page::new();
    csb.at_fence.set(Some((Field::HostTdh, 4)));
    assert!(!tx_want_interrupt(&csb, || csb.load(Field::HostTdh) == 4));
    assert_eq!(csb.load(Field::GuestNeedTxkick), 0);
    csb.at_fence.set(Some((Field::HostRdh, 4)));
    assert!(!rx_want_interrupt(&csb, || csb.load(Field::HostRdh) != 4));
    assert_eq!(csb.load(Field::GuestNeedRxkick), 0);
    assert!(rx_want_interrupt(&csb, || true));
    assert_eq!(csb.load(Field::GuestNeedRxkick), 1);
}

#[test]
fn flags_that_are_as_they_should_be_are_not_written() {
    let csb = Page::new();
    csb.poke(Field::HostRxkickAt, NONE);
    host_tx_start(&csb);
    host_rx_start(&csb);
    tx_no_interrupt(&csb);
    rx_no_interrupt(&csb);
    assert!(csb.stores.borrow().is_empty(), "{:?}", csb.stores.borrow());
}

#[test]
fn wild_indices_are_reported_with_their_field() {
    let csb = Page::new();
    csb.poke(Field::GuestTdt, 8);
    csb.poke(Field::GuestRdt, u32::MAX);
    let tdt = Wild { field: Field::GuestTdt, value: 8 };
    let rdt = Wild { field: Field::GuestRdt, value: u32::MAX };
    assert_eq!(host_tx_tail(&csb, 8), Err(tdt));
    assert_eq!(host_tx_sleep(&csb, 0, 8), Err(tdt));
    assert_eq!(host_rx_tail(&csb, 8), Err(rdt));
    assert_eq!(host_rx_wait(&csb, 0, 1, 8), Err(rdt));
    // One that goes wild between the two looks.
    csb.poke(Field::GuestRdt, 0);
    csb.at_fence.set(Some((Field::GuestRdt, 9)));
    assert_eq!(host_rx_wait(&csb, 0, 1, 8), Err(Wild { field: Field::GuestRdt, value: 9 }));
}

/// With an empty ring of 256, 191 of the 255 that the guest holds must come back, and one more.
#[test]
fn receive_threshold_is_three_quarters_of_what_the_guest_holds() {
    let csb = Page::new();
    csb.poke(Field::GuestRdt, 10);
    assert_eq!(host_rx_wait(&csb, 10, 1, 256), Ok(None));
    assert_eq!(csb.load(Field::HostRxkickAt), 10 + 1 + 191);
}

#[test]
fn host_does_not_wait_for_descriptors_released_while_it_asked() {
    let csb = Page::new();
    csb.at_fence.set(Some((Field::GuestRdt, 2)));
    assert_eq!(host_rx_wait(&csb, 0, 2, 256), Ok(Some(2)));
    assert_eq!(csb.load(Field::HostRxkickAt), NONE);
}

/// A driver may write anything into the host's half; no value may make the guest's rule panic.
#[test]
fn threshold_outside_the_ring_is_no_threshold() {
    let csb = Page::new();
    for at in [8, 9, NONE - 1, NONE] {
        csb.poke(Field::HostRxkickAt, at);
        assert!(!rx_release(&csb, 0, 7, 8), "{at}");
    }
}

proptest! {
    #[test]
    fn batch_release_kicks_as_one_slot_at_a_time_would(
        n in 2_u32..64, from in 0_u32..64, step in 0_u32..63, at in 0_u32..80,
    ) {
        let (from, step) = (from % n, step % n);
        let csb = Page::new();
        csb.poke(Field::HostRxkickAt, at);
        let one_by_one = (1..=step).any(|i| (from + i) % n == at);
        prop_assert_eq!(rx_release(&csb, from, (from + step) % n, n), one_by_one);
    }

    /// Whatever the host waits for, the kick comes no later than when it is there, and the kick
    /// means that it is there.
    #[test]
    fn kick_comes_when_the_host_has_enough(
        n in 2_u32..64, rdh in 0_u32..64, free in 0_u32..63, need in 1_u32..63,
    ) {
        let (rdh, free, need) = (rdh % n, free % n, 1 + (need - 1) % (n - 1));
        let csb = Page::new();
        let mut rdt = (rdh + free) % n;
        csb.poke(Field::GuestRdt, rdt);
        let answer = host_rx_wait(&csb, rdh, need, n);
        if free >= need {
            prop_assert_eq!(answer, Ok(Some(free)));
            prop_assert_eq!(csb.load(Field::HostRxkickAt), NONE);
        } else {
            prop_assert_eq!(answer, Ok(None));
            let mut kicked = false;
            for now in free + 1..n {
                let next = (rdt + 1) % n;
                let kick = rx_release(&csb, rdt, next, n);
                prop_assert!(!kick || now >= need, "kicked at {} of {}", now, need);
                kicked |= kick;
                rdt = next;
            }
            prop_assert!(kicked, "the guest gave everything back, and the host still waits");
        }
    }

    #[test]
    fn no_content_makes_a_rule_panic(words: [u32; 17], n in 2_u32..5000, tdh: u32, need: u32) {
        let csb = Page::new();
        for (field, word) in Field::ALL.iter().zip(words) {
            csb.poke(*field, word);
        }
        let tdh = tdh % n;
        host_tx_start(&csb);
        let _ = host_tx_tail(&csb, n);
        let _ = host_tx_sleep(&csb, tdh, n);
        let _ = host_rx_wait(&csb, tdh, need, n);
        let at = csb.load(Field::HostRxkickAt);
        prop_assert!(at < n || at == words[14] || at == NONE);
        let _ = (host_wants_rx_irq(&csb), host_wants_tx_irq(&csb), host_csb_on(&csb));
    }
}
