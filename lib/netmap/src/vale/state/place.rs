//! A port's place in the switch's table: how it is reserved, listed, taken off and used again while
//! senders look at it without a lock.
//!
//! ```text
//!   free -> reserved(g) -> listed(g) -> reserved(g) -> free -> reserved(g') ...      g' > g
//! ```
//!
//! Who writes: the holder of the root's lock. Who reads: every sender. Invariant: a sender that
//! sees generation g listed sees all that was made before `activate`; one that opened the port's
//! files and finds g in them has the files of g, whatever happened to the place meanwhile.

use crate::sync::{AtomicU64, Ordering};
use crate::vale::state::ids::Generation;

/// State in the low bits, generation above: one word, so that they never disagree.
#[repr(transparent)]
#[derive(Debug)]
pub struct Place(AtomicU64);

#[cfg(not(loom))]
// SAFETY: an atomic.
unsafe impl crate::shm::map::Shared for Place {}

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const LISTED: u64 = 2;
const STATE: u64 = 3;

impl Place {
    /// Whether no port is or was being made here.
    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) & STATE == FREE
    }

    /// Whether the port of that generation has the place, listed or not.
    pub fn is_of(&self, generation: Generation) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & STATE != FREE && Generation(word >> 2) == generation
    }

    /// Takes the place for a port that is about to be made.
    pub fn reserve(&self, generation: Generation) {
        self.0.store(generation.0 << 2 | RESERVED, Ordering::Release);
    }

    /// Lists the port: its files are complete.
    pub fn activate(&self) {
        let word = self.0.load(Ordering::Relaxed) & !STATE;
        // Pairs with the Acquire in `active_generation`.
        self.0.store(word | LISTED, Ordering::Release);
    }

    /// Generation of the listed port, if there is one.
    #[inline]
    pub fn active_generation(&self) -> Generation {
        // Pairs with the Release in `activate`.
        let word = self.0.load(Ordering::Acquire);
        if word & STATE == LISTED { Generation(word >> 2) } else { Generation::NONE }
    }

    /// Takes the port off the list; its files are about to go.
    pub fn unlist(&self) {
        let word = self.0.load(Ordering::Relaxed) & !STATE;
        self.0.store(word | RESERVED, Ordering::Release);
    }

    /// Frees the place: the files are gone.
    pub fn free(&self) {
        self.0.store(FREE, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A port's file as loom sees it: the generation in its header, and the rest.
    struct PortFile {
        generation: AtomicU64,
        contents: AtomicU64,
    }

    #[test]
    fn loom_sender_uses_only_files_of_the_generation_it_saw() {
        loom::model(|| {
            let place = Arc::new(Place(AtomicU64::new(0)));
            // Two files, one after the other under one name: a reaped port's and its successor's.
            let files =
                Arc::new([1, 2].map(|_| PortFile {
                    generation: AtomicU64::new(0),
                    contents: AtomicU64::new(0),
                }));
            let name = Arc::new(AtomicU64::new(0)); // which file the name leads to
            let keeper = {
                let (place, files, name) = (place.clone(), files.clone(), name.clone());
                thread::spawn(move || {
                    for (i, generation) in [(0, 7), (1, 8)] {
                        place.reserve(Generation(generation));
                        files[i].contents.store(generation * 10, Ordering::Relaxed);
                        files[i].generation.store(generation, Ordering::Relaxed);
                        name.store(i as u64, Ordering::Release);
                        place.activate();
                        if generation == 7 {
                            place.unlist(); // its process died, and somebody reaps
                            place.free();
                        }
                    }
                })
            };
            let seen = place.active_generation().0;
            if seen != 0 {
                let file = &files[name.load(Ordering::Acquire) as usize];
                // `Peer::open`: a file of another generation is not used.
                if file.generation.load(Ordering::Relaxed) == seen {
                    assert_eq!(file.contents.load(Ordering::Relaxed), seen * 10, "half made");
                }
            }
            keeper.join().unwrap();
            assert_eq!(place.active_generation(), Generation(8));
        });
    }
}
