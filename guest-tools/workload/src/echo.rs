//! echo: answers pings (ours and nm-pktgen's) by sending them back in the buffer they came in. With `all`
//! it answers every sound UDP packet over IPv4 but a pong: two programs that answer everything would
//! answer each other without end.

use e1000pv_driver::{Cpu, Interest, Mmio};
use nm_stream::Kind;

use crate::check::{Seen, judge};
use crate::delay::Delay;
use crate::packet;
use crate::session::Run;

/// Answers until the run ends.
pub(crate) fn run<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>) {
    let burst = run.burst(0);
    let worthwhile = run.worthwhile(0);
    let mut delay = Delay::new(run.plan.delay_ns);
    loop {
        run.serve();
        let most = run.left(burst);
        let now = run.cpu.now_ns();
        if most == 0 || run.over(now) || run.quiet(now) {
            break;
        }
        let count = run.nics[0].rx_available(most);
        if count == 0 {
            run.wait(&[Interest { rx: true, tx: 0 }], None);
            continue;
        }
        let room = run.nics[0].tx_space(count).min(count);
        if room == 0 {
            run.wait(&[Interest { rx: false, tx: worthwhile }], None);
            continue;
        }
        answer(run, &mut delay, room);
        run.nics[0].tx_flush(run.cpu, true);
        run.stamp(now);
    }
    run.drain(0);
    run.tally.packets -= run.tally.unsent;
}

/// Takes `count` packets, and sends back those that are to be answered; there is space for all.
fn answer<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>, delay: &mut Delay, count: usize) {
    let mut answers = 0;
    for i in 0..count {
        let slot = run.nics[0].rx_slot(i);
        let (buffer, len) = (slot.buffer(), slot.len());
        let seen = if slot.is_good() { judge(buffer, len) } else { Seen::Bad };
        let mark = match seen {
            Seen::Marked(mark) if mark.kind == Kind::Ping => Some(mark),
            Seen::Marked(mark) if run.plan.all && mark.kind == Kind::Seq => Some(mark),
            Seen::Plain if run.plan.all => None,
            Seen::Bad => {
                run.tally.bad += 1;
                continue;
            }
            _ => {
                run.tally.foreign += 1;
                continue;
            }
        };
        packet::turn(buffer, mark);
        run.nics[0].reflect(i, answers, len);
        answers += 1;
        run.tally.bytes += len as u64;
        delay.work(run.cpu);
    }
    run.nics[0].tx_advance(answers);
    run.nics[0].rx_release(count);
    run.tally.packets += answers as u64;
}
