//! Counters of the threads. A thread counts in a plain [`Tally`] of its own and publishes it once a
//! batch on its [`Board`], which the main thread reads; nobody waits for anybody.
//!
//! Invariant: a board has one writer. A reader may see a batch half published, never a torn number.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use netmap::Counters;
use nm_cli::latency::Latency;
use nm_cli::report::Flow;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a thread counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
            /// The port's own counters, of which the drops are shown by reason.
            pub port: Counters,
        }

        const FIELDS: usize = [$(stringify!($name)),*].len();

        impl Tally {
            fn to_array(self) -> [u64; FIELDS] {
                [$(self.$name),*]
            }

            fn from_array(values: [u64; FIELDS]) -> Tally {
                let [$($name),*] = values;
                Tally { $($name,)* port: Counters::default() }
            }
        }
    };
}

tally! {
    /// Packets sent.
    tx_packets,
    /// Their bytes.
    tx_bytes,
    /// Bytes that they lack to Ethernet's minimum.
    tx_pad_bytes,
    /// Syncs that sent something.
    tx_batches,
    /// Packets received.
    rx_packets,
    /// Their bytes.
    rx_bytes,
    /// Bytes that they lack to Ethernet's minimum.
    rx_pad_bytes,
    /// Syncs that brought something.
    rx_batches,
    /// Packets that the port dropped, in the direction that matters.
    drops,
    /// Packets that did not come.
    lost,
    /// Packets that came late.
    reordered,
    /// Packets that came again.
    duplicated,
    /// Packets that are not of this test.
    foreign,
    /// Time of the first packet, 0 if there is none.
    first_ns,
    /// Time of the last packet.
    last_ns,
    /// Free slots when last looked at.
    space,
}

impl Tally {
    /// Sent packets as a flow.
    pub fn tx(&self) -> Flow {
        let Tally {
            tx_packets: packets,
            tx_bytes: bytes,
            tx_pad_bytes: pad_bytes,
            tx_batches: batches,
            ..
        } = *self;
        Flow { packets, bytes, pad_bytes, batches, drops: 0 }
    }

    /// Received packets as a flow.
    pub fn rx(&self) -> Flow {
        let Tally {
            rx_packets: packets,
            rx_bytes: bytes,
            rx_pad_bytes: pad_bytes,
            rx_batches: batches,
            ..
        } = *self;
        Flow { packets, bytes, pad_bytes, batches, drops: 0 }
    }

    /// What was counted since `earlier`; times and gauges stay as they are.
    pub fn since(&self, earlier: &Tally) -> Tally {
        let (now, before) = (self.to_array(), earlier.to_array());
        let difference =
            Tally::from_array(std::array::from_fn(|i| now[i].saturating_sub(before[i])));
        Tally {
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            space: self.space,
            port: self.port.since(&earlier.port),
            ..difference
        }
    }

    /// Both threads' packets; the earlier begin, the later end, the smaller space.
    pub fn merge(&self, other: &Tally) -> Tally {
        let (a, b) = (self.to_array(), other.to_array());
        let sum = Tally::from_array(std::array::from_fn(|i| a[i].wrapping_add(b[i])));
        let first_ns = match (self.first_ns, other.first_ns) {
            (0, first) | (first, 0) => first,
            (a, b) => a.min(b),
        };
        Tally {
            first_ns,
            last_ns: self.last_ns.max(other.last_ns),
            space: self.space.min(other.space),
            port: self.port + other.port,
            ..sum
        }
    }

    /// Seconds from the first to the last packet.
    pub fn seconds(&self) -> f64 {
        if self.first_ns == 0 {
            0.0
        } else {
            self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9
        }
    }
}

/// Round trips of a thread.
#[derive(Debug, Default)]
pub struct RoundTrips {
    /// Since the start (or the end of the warm-up).
    pub total: Latency,
    /// Since the last report.
    pub interval: Latency,
}

/// Where a thread publishes. Aligned so that two threads' boards never share a cache line (or the pair
/// that the CPU fetches at once).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Board {
    cells: [AtomicU64; FIELDS],
    /// Counters of the port; written rarely.
    port: Mutex<Counters>,
    /// What had been counted when the warm-up ended.
    base: Mutex<Tally>,
    /// Round trips; locked per reply, which costs little beside a clock read.
    pub round_trips: Mutex<RoundTrips>,
}

impl Board {
    /// Shows a tally.
    pub fn publish(&self, tally: &Tally) {
        for (cell, value) in self.cells.iter().zip(tally.to_array()) {
            // Relaxed: numbers for people, read one by one.
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// Shows the port's counters of a tally, which change less often.
    pub fn publish_port(&self, tally: &Tally) {
        *lock(&self.port) = tally.port;
    }

    /// Forgets what was counted until now: the warm-up is over.
    pub fn rebase(&self, tally: &Tally) {
        *lock(&self.base) = *tally;
        *lock(&self.round_trips) = RoundTrips::default();
    }

    /// What was counted since the warm-up.
    pub fn read(&self) -> Tally {
        let now = Tally::from_array(std::array::from_fn(|i| self.cells[i].load(Ordering::Relaxed)));
        Tally { port: *lock(&self.port), ..now }.since(&lock(&self.base))
    }
}

/// Locks; a thread that panicked while holding the lock has left plain numbers behind.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Mean and standard deviation of the last rates (pkt-gen's `-A`).
#[derive(Clone, Debug, Default)]
pub struct RateWindow {
    rates: std::collections::VecDeque<f64>,
}

impl RateWindow {
    /// pkt-gen's window.
    const LENGTH: usize = 40;

    /// Adds a rate; returns mean and standard deviation.
    pub fn add(&mut self, rate: f64) -> (f64, f64) {
        if self.rates.len() == Self::LENGTH {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        let n = self.rates.len() as f64;
        let mean = self.rates.iter().sum::<f64>() / n;
        let variance = self.rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn board_shows_what_came_after_the_warmup() {
        let board = Board::default();
        let warm = Tally { tx_packets: 10, first_ns: 5, ..Tally::default() };
        board.publish(&warm);
        board.rebase(&warm);
        board.publish(&Tally { tx_packets: 25, first_ns: 50, last_ns: 90, ..Tally::default() });
        let seen = board.read();
        assert_eq!((seen.tx_packets, seen.first_ns, seen.last_ns), (15, 50, 90));
    }

    #[test]
    fn merged_threads_span_both() {
        let a = Tally { rx_packets: 1, first_ns: 10, last_ns: 20, ..Tally::default() };
        let b = Tally { rx_packets: 2, first_ns: 5, last_ns: 15, ..Tally::default() };
        let idle = Tally::default();
        let all = idle.merge(&a).merge(&b);
        assert_eq!((all.rx_packets, all.first_ns, all.last_ns), (3, 5, 20));
        assert!((all.seconds() - 15e-9).abs() < 1e-15);
    }

    #[test]
    fn rate_window_forgets_old_rates() {
        let mut window = RateWindow::default();
        assert_eq!(window.add(1e6), (1e6, 0.0));
        assert_eq!(window.add(3e6), (2e6, 1e6));
        for _ in 0..40 {
            window.add(5.0);
        }
        assert_eq!(window.add(5.0), (5.0, 0.0));
    }
}
