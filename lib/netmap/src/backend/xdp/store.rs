//! Where the kernel has the packets of a queue, and how they come there from the slots, and back.
//!
//! | | copy mode | zero-copy mode |
//! |---|---|---|
//! | memory | the region: buffers of slots, and so of ports of a switch | chunks of the queue's own |
//! | to send | the slot's buffer is lent to the kernel | the packet is copied to the slot's chunk |
//! | received | the buffer takes the place of the slot's | the packet is copied to the slot's buffer |
//! | freed slot | its buffer is lent to the kernel | nothing: the chunk went back at once |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chunks::{self, Chunks};
use super::umem::{self, Umem};
use crate::shm::map::Map;

/// Memory that is registered with a socket.
#[derive(Clone, Debug)]
pub enum Store {
    /// That of the slots' buffers: the kernel copies.
    Lent(Arc<Umem>),
    /// That of the queue: the NIC reads and writes it.
    Own(Arc<Chunks>),
}

/// What the kernel is told of such memory.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// The memory.
    pub memory: &'a Map,
    /// Bytes of a chunk.
    pub chunk: u32,
    /// Whether chunks begin anywhere.
    pub anywhere: bool,
    /// How the socket is bound.
    pub flag: u16,
}

impl Store {
    /// What the kernel is told of it.
    pub fn registration(&self) -> Registration<'_> {
        match self {
            Self::Lent(umem) => Registration {
                memory: umem.region().mapping(),
                chunk: umem::CHUNK,
                anywhere: true,
                flag: libc::XDP_COPY,
            },
            Self::Own(chunks) => Registration {
                memory: chunks.mapping(),
                chunk: chunks::CHUNK,
                anywhere: false,
                flag: zero_copy(),
            },
        }
    }

    /// Whether the NIC reads and writes it.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

/// Whether sockets that are to have zero-copy mode have copy mode, and all else is the same.
static PRETENDED: AtomicBool = AtomicBool::new(false);

/// From now on no driver needs to have zero-copy mode, for tests: no veth has it.
pub fn pretend_zero_copy() {
    PRETENDED.store(true, Ordering::Relaxed);
}

fn zero_copy() -> u16 {
    if PRETENDED.load(Ordering::Relaxed) { libc::XDP_COPY } else { libc::XDP_ZEROCOPY }
}
