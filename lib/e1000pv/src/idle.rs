//! The idle call, by which a guest sleeps at the cost of one exit.
//!
//! Sleeping as a PC does (halt, interrupt, handler, ICR read, end of interrupt) costs three entries
//! into the monitor, and more where it emulates the handler. A guest that knows this monitor writes
//! the address of a [`layout`] block to [`PORT`] (32 bits). The monitor returns at once if the
//! block's WAKEUPS differs from SEEN; else it blocks the vCPU until a NIC asserts its interrupt line
//! or TIMEOUT_NS has passed. Then it does what the guest's handler would have done: reads ICR of each
//! NIC that asserts its line (which lowers it), ORs that into its CAUSES, counts in its INTERRUPTS and
//! in WAKEUPS. No interrupt is injected for it. The monitor remembers the last block: there it sets STOP
//! when the machine is to end, and waits a moment for the guest's report. (So a guest makes one call
//! early, with a SEEN that does not fit.)
//!
//! Reading the port gives [`MAGIC`] where there is such a monitor; elsewhere (QEMU) the guest halts.

/// I/O port of the call.
pub const PORT: u16 = 0x5e10;

/// What a read of the port returns.
pub const MAGIC: u32 = 0x1d1e_ca11;

/// NICs in a block, in the order of their PCI device numbers.
pub const NICS: usize = 4;

/// Offsets in the block, little endian, 8-byte aligned; written by both sides, atomically.
pub mod layout {
    /// Per NIC, 16 bytes: {address of ICR (guest's own use), CAUSES, INTERRUPTS, -}, each u32.
    pub const NIC_STRIDE: u64 = 16;
    /// Causes read and not yet taken, in a NIC's part: u32.
    pub const CAUSES: u64 = 4;
    /// Interrupts with a cause, in a NIC's part: u32.
    pub const INTERRUPTS: u64 = 8;
    /// Wake-ups of any kind: u32.
    pub const WAKEUPS: u64 = 64;
    /// Value of WAKEUPS that the guest has seen: u32, written by the guest.
    pub const SEEN: u64 = 68;
    /// Longest sleep, 0 for no limit: u64, written by the guest.
    pub const TIMEOUT_NS: u64 = 72;
    /// Not 0: somebody wants the guest to end its work and report. u32, written by the monitor.
    pub const STOP: u64 = 80;
    /// Bytes in all.
    pub const SIZE: u64 = 88;
}
