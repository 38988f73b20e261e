//! rx: reads every byte of every packet, checks it, and counts.

use e1000pv_driver::{Cpu, Interest, Mmio};
use nm_stream::{Kind, Streams};

use crate::check::{Seen, judge};
use crate::delay::Delay;
use crate::session::Run;

/// Senders that are distinguished; packets of further ones count as foreign.
const SENDERS: usize = 16;

/// Receives until the run ends.
pub(crate) fn run<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>) {
    let mut streams = Streams::<SENDERS>::new();
    let mut delay = Delay::new(run.plan.delay_ns);
    loop {
        run.serve();
        let most = run.left(run.plan.burst);
        if most == 0 {
            break;
        }
        let count = run.nics[0].rx_available(most);
        if count > 0 {
            take(run, &mut streams, &mut delay, count);
        }
        let now = run.cpu.now_ns();
        if count > 0 {
            run.stamp(now);
        }
        if run.over(now) || run.quiet(now) {
            break;
        }
        if count == 0 {
            run.wait(&[Interest { rx: true, tx: 0 }], None);
        }
    }
    run.tally.sequence = streams.stats();
}

/// Takes `count` packets, and gives their buffers back.
#[inline]
fn take<M: Mmio, C: Cpu>(
    run: &mut Run<'_, M, C>,
    streams: &mut Streams<SENDERS>,
    delay: &mut Delay,
    count: usize,
) {
    let (mut bytes, mut bad, mut foreign) = (0, 0, 0);
    for slot in run.nics[0].rx_batch(count) {
        let len = slot.len();
        let seen = if slot.is_good() { judge(slot.buffer(), len) } else { Seen::Bad };
        match seen {
            Seen::Marked(mark)
                if mark.kind == Kind::Seq && streams.note(mark.stream(), mark.value) => {}
            Seen::Bad => bad += 1,
            _ => foreign += 1,
        }
        if seen != Seen::Bad {
            bytes += len as u64;
        }
        delay.work(run.cpu);
    }
    run.nics[0].rx_release(count);
    run.tally.packets += count as u64 - bad;
    run.tally.bytes += bytes;
    run.tally.bad += bad;
    run.tally.foreign += foreign;
}
