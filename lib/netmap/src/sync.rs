//! The one place where atomics come from: `core`'s, or loom's when a protocol is model-checked.
//!
//! Invariant: the protocol cores (`kring`, `place`) name no other atomics, so that what loom proves
//! is what runs. Memory layouts (`abi`, the files of a switch) always use `core`'s, since loom's
//! are not laid out like integers.

/// Atomics whose layout is that of the integer, for what lies in shared memory.
pub mod core_atomic {
    pub use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
}

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the CPU (or loom) that this is a spin loop.
#[inline]
pub fn spin_hint() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Lets another thread run: the lock's holder may be waiting for this very core.
#[inline]
pub fn yield_now() {
    #[cfg(not(loom))]
    std::thread::yield_now();
    #[cfg(loom)]
    loom::thread::yield_now();
}
