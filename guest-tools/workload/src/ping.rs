//! ping: one packet at a time to an echo or a pong, and the time until it is back, by this guest's clock,
//! which travels in the packet.
//!
//! Invariant: an answer counts if it is to the packet that is waited for, and once. After
//! [`ANSWER_NS`] that packet is lost, and its late answer is foreign.

use e1000pv_driver::{Cpu, Interest, Mmio};
use nm_stream::{Kind, Mark};

use crate::check::{Seen, judge};
use crate::histogram::Histogram;
use crate::packet::Template;
use crate::session::Run;
use crate::summary::RoundTrips;
use crate::tx;

/// A ping without an answer for this long is lost.
const ANSWER_NS: u64 = 1_000_000_000;

/// Sends and measures until the run ends.
pub(crate) fn run<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>) {
    let (plan, cpu) = (run.plan, run.cpu);
    let own = tx::mark(Kind::Ping, cpu.now_ns());
    let addresses = tx::addresses(plan, run.nics[0].mac());
    let template = Template::new(&addresses, plan.size, own);
    let mut histogram = Histogram::new();
    let mut seq = 0u32;
    let mut due = cpu.now_ns();
    loop {
        run.serve();
        let now = cpu.now_ns();
        if run.left(1) == 0 || run.over(now) {
            break;
        }
        if now < due {
            listen(run, own, None);
            run.wait(&[Interest { rx: true, tx: 0 }], Some(due));
            continue;
        }
        if run.nics[0].tx_space(1) == 0 {
            run.wait(&[Interest { rx: false, tx: 1 }], None);
            continue;
        }
        // Late pings are not sent in a burst, in which they would delay each other.
        due = now.saturating_add(plan.interval_ns);
        let slot = run.nics[0].tx_slot(0);
        template.lay(slot.buffer());
        template.stamp(slot.buffer(), seq, cpu.now_ns());
        slot.send(template.size());
        run.nics[0].tx_advance(1);
        run.nics[0].tx_flush(cpu, false);
        run.stamp(now);
        run.tally.packets += 1;
        run.tally.bytes += template.size() as u64;
        match answer(run, own, seq) {
            Answer::After(ns) => histogram.record(ns),
            Answer::None => run.tally.sequence.lost += 1,
            // A ping in flight at the end of the run is neither answered nor lost.
            Answer::Ended => {
                run.tally.packets -= 1;
                run.tally.bytes -= template.size() as u64;
            }
        }
        seq = seq.wrapping_add(1);
    }
    run.tally.rtt = Some(RoundTrips::of(&histogram));
}

enum Answer {
    After(u64),
    None,
    Ended,
}

/// Waits for the answer to packet `seq`.
fn answer<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>, own: Mark, seq: u32) -> Answer {
    let end = run.cpu.now_ns() + ANSWER_NS;
    loop {
        run.serve();
        if let Some(sent_ns) = listen(run, own, Some(seq)) {
            let now = run.cpu.now_ns();
            run.stamp(now);
            return Answer::After(now.saturating_sub(sent_ns));
        }
        let now = run.cpu.now_ns();
        if now >= end {
            return Answer::None;
        }
        if run.over(now) {
            return Answer::Ended;
        }
        run.wait(&[Interest { rx: true, tx: 0 }], Some(end));
    }
}

/// Takes what has been received; the time in the awaited answer, if it is there.
fn listen<M: Mmio, C: Cpu>(
    run: &mut Run<'_, M, C>,
    own: Mark,
    mut awaited: Option<u32>,
) -> Option<u64> {
    let mut sent_ns = None;
    loop {
        let count = run.nics[0].rx_available(run.plan.burst);
        if count == 0 {
            return sent_ns;
        }
        for slot in run.nics[0].rx_batch(count) {
            let seen = if slot.is_good() { judge(slot.buffer(), slot.len()) } else { Seen::Bad };
            match seen {
                Seen::Marked(mark)
                    if mark.kind == Kind::Pong
                        && mark.stream() == own.stream()
                        && awaited == Some(mark.seq) =>
                {
                    awaited = None;
                    sent_ns = Some(mark.value);
                }
                Seen::Bad => run.tally.bad += 1,
                _ => run.tally.foreign += 1,
            }
        }
        run.nics[0].rx_release(count);
    }
}
