//! tx: numbered packets, as fast as the ring takes them or at a rate.
//!
//! Per packet: three words of the frame and one of the descriptor. What does not change between packets
//! is written once into each buffer, during the ring's first turn.

use e1000pv_driver::{Cpu, Interest, Mmio, Nic};
use nm_stream::{Kind, Mark};

use crate::pacer::Pacer;
use crate::packet::{Addresses, Template};
use crate::plan::Plan;
use crate::session::Run;

/// A wait shorter than this is spun: going to sleep and waking up takes longer.
const SPIN_NS: u64 = 60_000;

/// The addresses of packets that a device sends.
pub(crate) fn addresses(plan: &Plan, own_mac: [u8; 6]) -> Addresses {
    Addresses {
        src_mac: plan.src.unwrap_or(own_mac),
        dst_mac: plan.dst,
        src_ip: plan.src_ip,
        dst_ip: plan.dst_ip,
        src_port: plan.src_port,
        dst_port: plan.dst_port,
    }
}

/// A mark of this run: the clock tells runs apart.
pub(crate) fn mark(kind: Kind, now_ns: u64) -> Mark {
    let run = (now_ns ^ now_ns >> 16 ^ now_ns >> 32) as u16;
    Mark { seq: 0, run, kind, thread: 0, value: 0 }
}

/// Makes packets in the slots of a ring.
struct Filler {
    template: Template,
    seq: u64,
    /// Buffers that do not hold the template yet: those of the first turn.
    fresh: usize,
}

impl Filler {
    /// Fills `count` free slots.
    #[inline]
    fn fill<M: Mmio>(&mut self, nic: &mut Nic<M>, count: usize) {
        if self.fresh > 0 {
            let lay = count.min(self.fresh);
            nic.tx_batch(lay).for_each(|slot| self.template.lay(slot.buffer()));
            self.fresh -= lay;
        }
        let (template, size) = (&self.template, self.template.size());
        let mut seq = self.seq;
        nic.tx_batch(count).for_each(|slot| {
            template.stamp(slot.buffer(), seq as u32, seq);
            slot.send(size);
            seq += 1;
        });
        self.seq = seq;
        nic.tx_advance(count);
    }
}

/// Sends until the run ends.
pub(crate) fn run<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>) {
    let (plan, cpu) = (run.plan, run.cpu);
    let start = cpu.now_ns();
    let addresses = addresses(plan, run.nics[0].mac());
    let template = Template::new(&addresses, plan.size, mark(Kind::Seq, start));
    let fresh = run.nics[0].tx_descriptors();
    let mut filler = Filler { template, seq: 0, fresh };
    let burst = run.burst(0);
    let mut pacer = plan.rate.map(|rate| Pacer::new(rate.pps(plan.size), burst, start));
    let worthwhile = run.worthwhile(0);
    loop {
        run.serve();
        let now = cpu.now_ns();
        if run.over(now) {
            break;
        }
        let allowed = match pacer.as_mut().map_or(Ok(burst), |pacer| pacer.ready(now)) {
            Ok(allowed) => run.left(allowed),
            Err(due) => {
                pause(run, now, due);
                continue;
            }
        };
        if allowed == 0 {
            break;
        }
        if run.nics[0].tx_space(allowed) < allowed {
            run.wait(&[Interest { tx: worthwhile, rx: false }], None);
            continue;
        }
        if run.tally.packets == 0 {
            run.stamp(now);
        }
        filler.fill(&mut run.nics[0], allowed);
        run.nics[0].tx_flush(cpu, true);
        run.tally.packets += allowed as u64;
        if let Some(pacer) = &mut pacer {
            pacer.charge(allowed);
        }
    }
    run.drain(0);
    if run.tally.packets > 0 {
        run.stamp(cpu.now_ns());
    }
    run.tally.packets -= run.tally.unsent;
    run.tally.bytes = run.tally.packets * filler.template.size() as u64;
}

/// Waits until `due_ns`: asleep while there is time, spinning at the end.
fn pause<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>, now_ns: u64, due_ns: u64) {
    if due_ns - now_ns > SPIN_NS + SPIN_NS / 2 {
        run.wait(&[Interest::default()], Some(due_ns - SPIN_NS));
    } else {
        // Nothing new, but a kick that was put off may have waited for long enough.
        run.nics[0].tx_flush(run.cpu, true);
        core::hint::spin_loop();
    }
}
