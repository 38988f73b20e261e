//! Busy work for each packet: a consumer as slow as an experiment wants it.

use e1000pv_driver::Cpu;

/// Work of several packets is put together up to this, or reading the clock would be most of it.
const LEAST_NS: u64 = 200;

/// Keeps the CPU busy for a set time per packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    packet_ns: u64,
    due_ns: u64,
}

impl Delay {
    pub(crate) fn new(packet_ns: u64) -> Delay {
        Delay { packet_ns, due_ns: 0 }
    }

    /// One packet's work.
    #[inline]
    pub(crate) fn work(&mut self, cpu: &impl Cpu) {
        if self.packet_ns == 0 {
            return;
        }
        self.due_ns += self.packet_ns;
        if self.due_ns >= LEAST_NS {
            self.spend(cpu);
        }
    }

    fn spend(&mut self, cpu: &impl Cpu) {
        let end = cpu.now_ns() + self.due_ns;
        self.due_ns = 0;
        while cpu.now_ns() < end {
            core::hint::spin_loop();
        }
    }
}
