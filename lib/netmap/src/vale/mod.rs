//! VALE: a learning switch in shared memory whose ports forward for themselves.
//!
//! ```text
//!   port                a handle: which rings, which doorbells, what sync means
//!     |     \
//!     |      peers      the other ports, opened on first use
//!     |     /     \
//!   forward     lifecycle   create, open, reap, persist: everything under the root's lock
//!     |           |
//!      \         /
//!        state          the switch's file, the ports' files, the learning table: layout and atomics
//! ```
//!
//! `forward` works on views of rings and memory, and does not know whose they are.

#[cfg(not(loom))]
pub mod bound;
#[cfg(not(loom))]
pub mod forward;
#[cfg(not(loom))]
pub mod kind;
#[cfg(not(loom))]
pub mod lifecycle;
#[cfg(not(loom))]
pub mod peers;
#[cfg(not(loom))]
pub mod pipe;
#[cfg(not(loom))]
pub mod port;
pub mod state;
