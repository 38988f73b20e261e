//! What a device counts for its host. (What it counts for its guest are the registers of `stats`.)

use std::fmt;

/// Makes an enumeration of counters: place, name, and the list of all.
#[macro_export]
macro_rules! counts {
    ($(#[$doc:meta])* $kind:ident { $($(#[$field:meta])* $variant:ident = $index:expr, $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $kind { $($(#[$field])* $variant = $index),* }

        impl $kind {
            /// All of them, in the order in which they are printed.
            pub const ALL: &[$kind] = &[$($kind::$variant),*];

            /// Its name in JSON and in words.
            pub fn name(self) -> &'static str {
                match self { $($kind::$variant => $name),* }
            }
        }
    };
}

/// Words of one thread's counters. Counters in shared memory should give each thread cache lines of its own.
pub const THREAD_WORDS: usize = 32;

counts! {
    /// What is counted of a NIC, by place. Packets unless the name says otherwise. A counter has one
    /// writer at a time: the thread or the lock that its group names.
    Count {
        // The vCPU thread's.
        /// Writes of TDT that came as exits.
        TdtWrites = 0, "tdt_writes";
        /// Writes of RDT.
        RdtWrites = 1, "rdt_writes";
        /// Reads and writes of registers, TDT and RDT among them.
        RegisterAccesses = 2, "register_accesses";
        /// Reads of ICR, which is how often the guest's interrupt handler ran (or polled).
        IcrReads = 3, "icr_reads";
        /// Accesses of registers that do not exist, or with a width or alignment that is not theirs.
        BadAccesses = 4, "bad_accesses";
        /// Resets, by the guest or by the machine.
        Resets = 5, "resets";

        // The holder of the interrupt lock's.
        /// Times the interrupt line was raised.
        Interrupts = THREAD_WORDS - 8, "interrupts";
        /// Interrupts not raised because the CSB said that nobody waits.
        IrqSuppressed = THREAD_WORDS - 7, "irq_suppressed";
        /// Interrupts put off by moderation.
        IrqPostponed = THREAD_WORDS - 6, "irq_postponed";

        // The I/O thread's (in inline mode, the transmit part belongs to the vCPU thread).
        /// Wake-ups by the TDT doorbell.
        Kicks = THREAD_WORDS, "kicks";
        /// Times the I/O thread was woken from sleep, for whatever reason.
        IoWakeups = THREAD_WORDS + 1, "io_wakeups";
        /// Times the I/O thread went to sleep.
        IoSleeps = THREAD_WORDS + 2, "io_sleeps";
        /// Rounds of service.
        Rounds = THREAD_WORDS + 3, "rounds";
        /// Packets that the guest sent.
        TxPackets = THREAD_WORDS + 4, "tx_packets";
        /// Bytes of these, without CRC.
        TxBytes = THREAD_WORDS + 5, "tx_bytes";
        /// Calls of txsync.
        TxSyncs = THREAD_WORDS + 6, "tx_syncs";
        /// Transmission: bad descriptors, or addresses outside of memory.
        TxBad = THREAD_WORDS + 7, "tx_bad";
        /// Packets that the port did not take.
        TxDropped = THREAD_WORDS + 8, "tx_dropped";
        /// Packets handed to the guest.
        RxPackets = THREAD_WORDS + 9, "rx_packets";
        /// Bytes of these, without CRC.
        RxBytes = THREAD_WORDS + 10, "rx_bytes";
        /// Packets that found no receive buffer.
        RxNoBuffer = THREAD_WORDS + 11, "rx_no_buffer";
        /// Packets that the receive filter refused.
        RxFiltered = THREAD_WORDS + 12, "rx_filtered";
        /// Reception: bad descriptors, addresses outside of memory, or frames of impossible size.
        RxBad = THREAD_WORDS + 13, "rx_bad";
        /// Wild values found in the CSB.
        CsbBad = THREAD_WORDS + 14, "csb_bad";
    }
}

/// The sink of a device's counters.
pub trait Counters: Send + Sync + fmt::Debug {
    /// Adds to a counter. A few times a round, never per packet.
    fn bump(&self, which: Count, n: u64);
}

const _: () = {
    assert!((Count::Resets as usize) < Count::Interrupts as usize);
    assert!((Count::IrqPostponed as usize) < THREAD_WORDS);
    assert!((Count::CsbBad as usize) < 2 * THREAD_WORDS);
};
