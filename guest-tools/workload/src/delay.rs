//! Busy work for each packet: a consumer as slow as an experiment wants it.

use e1000pv_driver::Cpu;

/// Work is done in pieces of at least this, or reading the clock would be most of it.
const PIECE_NS: u64 = 200;

/// Owes work, and does it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    packet_ns: u64,
    owed_ns: u64,
}

impl Delay {
    pub(crate) fn new(packet_ns: u64) -> Delay {
        Delay { packet_ns, owed_ns: 0 }
    }

    /// One packet's work.
    #[inline]
    pub(crate) fn work(&mut self, cpu: &impl Cpu) {
        if self.packet_ns == 0 {
            return;
        }
        self.owed_ns += self.packet_ns;
        if self.owed_ns >= PIECE_NS {
            self.pay(cpu);
        }
    }

    fn pay(&mut self, cpu: &impl Cpu) {
        let end = cpu.now_ns() + self.owed_ns;
        self.owed_ns = 0;
        while cpu.now_ns() < end {
            core::hint::spin_loop();
        }
    }
}
