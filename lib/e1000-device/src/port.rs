//! What the device needs of a network port: batches of slots, in both directions.
//!
//! ```text
//!   TX  tx().put.. commit   slots are filled, then queued
//!       tx_sync             the port takes what it can; returns how many slots it left queued
//!   RX  rx_sync             gives back what was read and shows what came
//!       rx().frame..release
//! ```
//!
//! Invariant: slots are taken in the order in which they were queued, and only whole packets; until a
//! slot is taken, the memory it names is still needed. That is all that the consumption callback of
//! the design rests on: what `tx_sync` did not leave queued has been consumed.
//!
//! The engines are generic over this trait, so per packet there is no dynamic call.

use std::fmt;

use shared_bytes::Span;

bitflags::bitflags! {
    /// What a sleep should end with.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Await: u8 {
        /// A packet arrives.
        const PACKET = 1;
        /// A queued slot can be taken.
        const SPACE = 2;
    }
}

/// A network port with one ring pair.
pub trait NetPort: Send + fmt::Debug {
    /// Free slots.
    type Tx<'a>: TxSlots
    where
        Self: 'a;
    /// Received slots.
    type Rx<'a>: RxSlots
    where
        Self: 'a;

    /// Slots of the TX ring: no more are ever queued.
    fn tx_slots(&self) -> usize;
    /// Free TX slots, until the next `tx_sync`.
    fn tx(&mut self) -> Self::Tx<'_>;
    /// Sends what is queued; returns how many slots stay queued, because a destination is full.
    fn tx_sync(&mut self) -> usize;
    /// Slots that were taken and then lost, because the port failed; since it was made.
    fn tx_lost(&self) -> u64;
    /// Takes back what is queued and was not taken; returns how many slots that were.
    fn tx_withdraw(&mut self) -> usize;

    /// Slots of the RX ring: more than one less never wait.
    fn rx_slots(&self) -> usize;
    /// Received slots, until the next `rx_sync`.
    fn rx(&mut self) -> Self::Rx<'_>;
    /// Gives back what was read and shows what came.
    fn rx_sync(&mut self);
    /// Drops all packets that have arrived so far, at the latest in the next `rx_sync`, which has to come before
    /// `rx` in any case. It must not make system calls, because the vCPU thread calls it, whose sandbox does
    /// not permit those of a port.
    fn rx_discard(&mut self);
    /// Packets for this port that were dropped before they reached its ring, since it was made.
    fn rx_missed(&self) -> u64;

    /// Before a sleep: asks to be told of `what`, and looks again. False: there is something already,
    /// so the caller must not sleep. In both cases call `disarm` before going on. How the wake-up is delivered
    /// is agreed between the port and the sleeping thread; usually by a file descriptor.
    fn arm(&mut self, what: Await) -> bool;
    /// After a sleep, or instead of it.
    fn disarm(&mut self);
}

/// Free slots of a port's TX ring.
pub trait TxSlots {
    /// How many are free.
    fn space(&self) -> usize;
    /// How many the ring has; one less can be free at most.
    fn num_slots(&self) -> usize;
    /// Bytes that fit a slot.
    const SLOT_BYTES: usize;
    /// Fills free slot `at` with guest memory: with its address if the port takes addresses
    /// (it was told so when it was opened), else with a copy. At most `SLOT_BYTES`. `more`: the packet goes on in the next
    /// slot.
    fn put(&mut self, at: usize, bytes: Span<'_>, more: bool);
    /// Fills free slot `at` with a copy.
    fn put_copy(&mut self, at: usize, bytes: &[u8], more: bool);
    /// Queues the first `n` free slots.
    fn commit(self, n: usize);
}

/// Received slots of a port's RX ring.
pub trait RxSlots {
    /// How many there are.
    fn available(&self) -> usize;
    /// The bytes in received slot `at`, and whether the packet goes on in the next slot.
    fn frame(&self, at: usize) -> (Span<'_>, bool);
    /// Fetches the bytes in slot `at`, ahead of their use. `at` need not be valid.
    fn prefetch(&self, at: usize);
    /// Gives the first `n` slots back.
    fn release(self, n: usize);
}
