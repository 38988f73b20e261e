//! Models of the exchange of buffers by producers that hold a ring and die.

use crate::sync::{AtomicU64, Ordering};
use crate::vale::state::ids::ParticipantId;
use crate::vale::state::kring::loom_models::{id, kring};
use crate::vale::state::kring::{Held, Kring, OnHeld};
use crate::vale::state::repair::*;
use loom::sync::Arc;
use loom::thread;

type Slots = [AtomicU64; 3];

fn slots() -> Arc<Slots> {
    Arc::new([10, 11, 12].map(AtomicU64::new))
}

fn slot(slots: &Slots, i: u32) -> Numbered<'_> {
    Numbered::new(i, &slots[i as usize])
}

fn named(slots: &Slots) -> Vec<u64> {
    let mut all: Vec<_> = slots.iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
    all.sort_unstable();
    all
}

/// Takes the ring, mends it if that is needed, exchanges two buffers, lets go.
fn produce(k: &Kring, slots: &Slots, me: ParticipantId, (a, b): (u32, u32)) {
    let judge = |owner| if owner == id(9) { OnHeld::Dead } else { OnHeld::Wait };
    assert_ne!(k.hold(me, judge), Held::No);
    if k.exchange.is_pending() {
        k.exchange.mend(|i| slots.get(i as usize), |_| true);
    }
    assert_eq!(named(slots), [10, 11, 12], "a buffer is lost or in two slots");
    k.exchange.swap(slot(slots, a), slot(slots, b));
    k.exchange.done();
    k.release_hold(me);
}

#[test]
fn loom_heirs_of_the_dead_find_each_buffer_once() {
    // The holder dies after each of the stores of two exchanges and what ends them.
    for died_after in 0..=7 {
        loom::model(move || {
            let (k, slots) = (kring(), slots());
            assert_eq!(k.hold(id(9), |_| OnHeld::GiveUp), Held::Fresh);
            let first = died_after.min(3);
            k.exchange.swap_and_die(slot(&slots, 0), slot(&slots, 2), first);
            if died_after > 3 {
                k.exchange.swap_and_die(slot(&slots, 1), slot(&slots, 0), died_after - 3);
            }
            if died_after == 7 {
                k.exchange.done();
            }
            let spawn = |me: ParticipantId, pair: (u32, u32)| {
                let (k, slots) = (k.clone(), slots.clone());
                thread::spawn(move || produce(&k, &slots, me, pair))
            };
            let (one, other) = (spawn(id(1), (0, 1)), spawn(id(2), (2, 0)));
            one.join().unwrap();
            other.join().unwrap();
            assert_eq!(named(&slots), [10, 11, 12]);
            assert!(!k.exchange.is_pending());
        });
    }
}

#[test]
fn loom_heir_that_dies_while_it_mends_is_inherited_as_well() {
    loom::model(|| {
        let (k, slots) = (kring(), slots());
        assert_eq!(k.hold(id(9), |_| OnHeld::GiveUp), Held::Fresh);
        k.exchange.swap_and_die(slot(&slots, 0), slot(&slots, 2), 2);
        // Its one store but the last, which clears the word.
        slots[2].store(10, Ordering::Release);
        let heir = {
            let (k, slots) = (k.clone(), slots.clone());
            thread::spawn(move || produce(&k, &slots, id(1), (0, 1)))
        };
        produce(&k, &slots, id(2), (1, 2));
        heir.join().unwrap();
        assert_eq!(named(&slots), [10, 11, 12]);
    });
}

#[test]
fn loom_consumer_sees_the_buffer_that_was_put_in() {
    loom::model(|| {
        let (k, slots) = (kring(), slots());
        let producer = {
            let (k, slots) = (k.clone(), slots.clone());
            thread::spawn(move || {
                assert_ne!(k.hold(id(1), |_| OnHeld::Wait), Held::No);
                k.exchange.swap(slot(&slots, 0), slot(&slots, 2));
                k.exchange.done();
                k.publish(1);
                k.release_hold(id(1));
            })
        };
        if k.published() == 1 {
            assert_eq!(slots[0].load(Ordering::Relaxed), 12);
        }
        producer.join().unwrap();
    });
}
