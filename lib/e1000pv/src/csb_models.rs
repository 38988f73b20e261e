//! Models of both directions: every interleaving, and every value that the memory model lets a load
//! return, of one side that goes to sleep and another that publishes.
//!
//! Each model exists twice: with the rules as they are it must hold; with the fence left out it
//! must fail, or it would prove nothing.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use loom::thread;
use std::vec::Vec;

use super::*;

/// Descriptors of the rings.
const N: u32 = 4;

struct Shared {
    words: Vec<AtomicU32>,
    /// DD of a receive descriptor, which is not in the CSB.
    dd: AtomicU32,
    /// TDT or RDT was written, or an interrupt raised: stays until it is taken.
    bell: AtomicBool,
    fences: bool,
}

impl Shared {
    fn new(fences: bool) -> Arc<Self> {
        let mut shared = Self {
            words: (0..SIZE / 4).map(|_| AtomicU32::new(0)).collect(),
            dd: AtomicU32::new(0),
            bell: AtomicBool::new(false),
            fences,
        };
        shared.words[Field::HostRxkickAt.offset() as usize / 4] = AtomicU32::new(NONE);
        Arc::new(shared)
    }

    fn ring(&self) {
        self.bell.store(true, Ordering::SeqCst);
    }

    fn rung(&self) -> bool {
        self.bell.load(Ordering::SeqCst)
    }
}

impl Csb for Shared {
    fn load(&self, field: Field) -> u32 {
        self.words[field.offset() as usize / 4].load(Ordering::Acquire)
    }

    fn store(&self, field: Field, value: u32) {
        self.words[field.offset() as usize / 4].store(value, Ordering::Release);
    }

    fn fence(&self) {
        if self.fences {
            fence(Ordering::SeqCst);
        }
    }
}

/// TX, guest to host: a host that sleeps is kicked for a published packet.
fn sleeping_host_is_kicked(fences: bool) {
    loom::model(move || {
        let csb = Shared::new(fences);
        let guest = {
            let csb = csb.clone();
            thread::spawn(move || {
                if tx_publish(&*csb, 1) {
                    csb.ring();
                }
            })
        };
        let sleeps = host_tx_sleep(&*csb, 0, N) == Ok(true);
        guest.join().unwrap();
        assert!(!sleeps || csb.rung(), "asleep, a packet in the ring, and no kick");
    });
}

/// As above, but the host has been asleep, is woken by one packet, and the guest sends another:
/// the host's next sleep must see it or be kicked for it.
fn woken_host_sees_what_follows(fences: bool) {
    loom::model(move || {
        let csb = Shared::new(fences);
        csb.store(Field::HostNeedTxkick, 1);
        csb.store(Field::GuestTdt, 1);
        let guest = {
            let csb = csb.clone();
            thread::spawn(move || {
                if tx_publish(&*csb, 2) {
                    csb.ring();
                }
            })
        };
        host_tx_start(&*csb);
        let mut tdh = host_tx_tail(&*csb, N).unwrap();
        let mut sleeps = false;
        for _ in 0..2 {
            host_tx_done(&*csb, tdh);
            sleeps = host_tx_sleep(&*csb, tdh, N) == Ok(true);
            if sleeps {
                break;
            }
            tdh = host_tx_tail(&*csb, N).unwrap();
        }
        guest.join().unwrap();
        assert!(sleeps, "the guest stopped, the host did not");
        assert!(tdh == 2 || csb.rung(), "asleep at {tdh}, and no kick");
    });
}

/// TX, host to guest: a guest that waits for space gets its interrupt.
fn guest_out_of_space_is_interrupted(fences: bool) {
    loom::model(move || {
        let csb = Shared::new(fences);
        let host = {
            let csb = csb.clone();
            thread::spawn(move || {
                host_tx_done(&*csb, 1);
                if host_wants_tx_irq(&*csb) {
                    csb.ring();
                }
            })
        };
        let sleeps = tx_want_interrupt(&*csb, || csb.load(Field::HostTdh) != 0);
        host.join().unwrap();
        assert!(!sleeps || csb.rung(), "waiting for space that is there, and no interrupt");
    });
}

/// RX, host to guest: a guest that waits for packets gets its interrupt.
fn guest_without_packets_is_interrupted(fences: bool) {
    loom::model(move || {
        let csb = Shared::new(fences);
        let host = {
            let csb = csb.clone();
            thread::spawn(move || {
                csb.dd.store(1, Ordering::Release);
                if host_wants_rx_irq(&*csb) {
                    csb.ring();
                }
            })
        };
        let sleeps = rx_want_interrupt(&*csb, || csb.dd.load(Ordering::Acquire) == 0);
        host.join().unwrap();
        assert!(!sleeps || csb.rung(), "waiting for a packet that is there, and no interrupt");
    });
}

/// RX, guest to host: a host that waits for buffers is kicked once the guest gave all of them
/// back, in whatever portions.
fn host_out_of_buffers_is_kicked(fences: bool, portions: &'static [u32]) {
    loom::model(move || {
        let csb = Shared::new(fences);
        let guest = {
            let csb = csb.clone();
            thread::spawn(move || {
                let mut from = 0;
                for &to in portions {
                    if rx_release(&*csb, from, to, N) {
                        csb.ring();
                    }
                    from = to;
                }
            })
        };
        let waits = host_rx_wait(&*csb, 0, 1, N) == Ok(None);
        guest.join().unwrap();
        assert!(!waits || csb.rung(), "waiting for buffers that are there, and no kick");
    });
}

#[test]
fn loom_sleeping_host_is_kicked() {
    sleeping_host_is_kicked(true);
}

#[test]
#[should_panic(expected = "no kick")]
fn loom_sleeping_host_is_lost_without_fence() {
    sleeping_host_is_kicked(false);
}

#[test]
fn loom_woken_host_sees_what_follows() {
    woken_host_sees_what_follows(true);
}

#[test]
#[should_panic(expected = "no kick")]
fn loom_woken_host_misses_what_follows_without_fence() {
    woken_host_sees_what_follows(false);
}

#[test]
fn loom_guest_out_of_space_is_interrupted() {
    guest_out_of_space_is_interrupted(true);
}

#[test]
#[should_panic(expected = "no interrupt")]
fn loom_guest_out_of_space_is_lost_without_fence() {
    guest_out_of_space_is_interrupted(false);
}

#[test]
fn loom_guest_without_packets_is_interrupted() {
    guest_without_packets_is_interrupted(true);
}

#[test]
#[should_panic(expected = "no interrupt")]
fn loom_guest_without_packets_is_lost_without_fence() {
    guest_without_packets_is_interrupted(false);
}

#[test]
fn loom_host_out_of_buffers_is_kicked() {
    host_out_of_buffers_is_kicked(true, &[3]);
    host_out_of_buffers_is_kicked(true, &[1, 3]);
}

#[test]
#[should_panic(expected = "no kick")]
fn loom_host_out_of_buffers_is_lost_without_fence() {
    host_out_of_buffers_is_kicked(false, &[3]);
}
