//! CSB mode of a descriptor: where its tables are, and what its loop does.

/// The mode.
#[derive(Clone, Copy, Debug)]
pub struct Csb {
    /// The table that the program writes.
    pub atok: u64,
    /// The table that the loop writes.
    pub ktoa: u64,
    /// The loop's.
    pub state: State,
    /// The loop's thread, while there is a loop.
    pub thread: u32,
}

/// A loop, from SYNC_KLOOP_START to SYNC_KLOOP_STOP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Idle,
    /// It goes on.
    Running,
    /// It is to end; or the next one at once, if there is none.
    Stopping,
}
