//! The netmap API and the VALE switch in user space, on stock Linux.
//!
//! ```text
//!   Port (by name) -- rings, txsync, rxsync, wait          port, ring, frame, name
//!     |                     |
//!   vale: a switch      device: tap, pcap, e1000, null     vale::*, backend::*
//!     |                     |
//!   rings and netmap_ifs in a region                       ring, rings, abi
//!     |
//!   shared files and memory                                shm::*
//! ```
//!
//! A port is opened by name and appears on the fly. Its rings and buffers are laid out as netmap's
//! (API 14), in files on tmpfs that every process on the switch maps; the sender's `txsync` does
//! the forwarding. There is no kernel module and no daemon, and any process may die at any
//! instruction. See `docs/design` for how and why.
//!
//! # Example: two ports on a switch
//! ```
//! # let dir = tempfile::tempdir_in("/dev/shm").unwrap();
//! # // SAFETY: a doc test is a process of its own, with one thread at this point.
//! # unsafe { std::env::set_var("NETMAP_ROOT", dir.path()) };
//! use netmap::{Interest, Port, Wait};
//!
//! let mut x = Port::open("valeA:x")?;
//! let mut y = Port::open("valeA:y")?;
//! assert!(x.tx(0).push(&[0xff; 60])); // broadcast
//! x.txsync()?;
//! y.wait(Interest::RX, Wait::default(), None)?;
//! let mut ring = y.rx(0);
//! for slot in ring.batch(64) {
//!     assert_eq!(slot.frame().to_vec(), [0xff; 60]);
//! }
//! let n = ring.available();
//! ring.advance(n);
//! # Ok::<(), netmap::Error>(())
//! ```

#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the shared-memory layout and the copy loops are written for x86-64");

mod sync;
mod vale;

#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod abi;
#[cfg(not(loom))]
mod adapter;
#[cfg(not(loom))]
mod backend;
#[cfg(not(loom))]
mod cache;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(not(loom))]
mod kinds;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
pub mod name;
#[cfg(not(loom))]
mod netlink;
#[cfg(not(loom))]
mod netns;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
mod port;
#[cfg(not(loom))]
mod private_rings;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod random;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod ring;
mod ring_number;
#[cfg(not(loom))]
mod rings;
#[cfg(not(loom))]
mod routes;
#[cfg(not(loom))]
mod shm;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod stats;
#[cfg(not(loom))]
mod time;
#[cfg(not(loom))]
mod wait;

#[cfg(not(loom))]
pub use shared_bytes::{Span as Frame, copy};
#[cfg(not(loom))]
pub use {
    abi::SlotFlags,
    error::{Error, Result},
    layout::{Layout, Pool, PoolsInfo},
    name::{Capabilities, NameError, PortName, RingSel},
    netlink::Link,
    options::{Direction, MAX_RINGS, Memory, MemoryRef, Offsets, Options, PerDirection, SLOTS},
    port::Port,
    port::indices::{Indices, Ring},
    port::wait_set::{WaitSet, Waited, Watch, WatchFd},
    ring::{Moved, RxRing, Slot, TxRing, TxSlot, transfer, transfer_packets},
    shm::map::{absorb_sigbus, guard_mapping, handle_sigbus_by, place_for_huge, unguard_mapping},
    shm::{
        dir,
        place::{Placing, losses, place_descriptors},
    },
    stats::Counters,
    wait::{Interest, UnknownWait, Wait},
};
