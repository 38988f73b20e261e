//! forward: a middlebox between two devices, in both directions, by exchanging buffers: no byte is copied
//! or looked at.
//!
//! A full ring on one side is back-pressure, not loss: packets stay in the other side's receive ring,
//! and when that is full the switch drops packets before any work was spent on them.

use e1000pv_driver::{Cpu, Interest, Mmio};

use crate::delay::Delay;
use crate::session::Run;

/// Forwards until the run ends.
pub(crate) fn run<M: Mmio, C: Cpu>(run: &mut Run<'_, M, C>) {
    let mut delay = Delay::new(run.plan.delay_ns);
    loop {
        run.serve();
        let now = run.cpu.now_ns();
        if run.left(1) == 0 || run.over(now) || run.quiet(now) {
            break;
        }
        let mut moved = false;
        let mut interests = [Interest::default(); 2];
        for (from, to) in [(0, 1), (1, 0)] {
            let most = run.left(run.burst(to));
            let received = run.nics[from].rx_available(most);
            if received == 0 {
                interests[from].rx = true;
                continue;
            }
            let count = run.nics[to].tx_space(received).min(received);
            if count == 0 {
                interests[to].tx = run.worthwhile(to);
                continue;
            }
            move_packets(run, &mut delay, from, count);
            moved = true;
        }
        if moved {
            run.stamp(now);
        } else {
            run.wait(&interests, None);
        }
    }
    run.drain(0);
    run.drain(1);
    run.tally.packets -= run.tally.unsent;
}

fn move_packets<M: Mmio, C: Cpu>(
    run: &mut Run<'_, M, C>,
    delay: &mut Delay,
    from: usize,
    count: usize,
) {
    let [first, second] = &mut *run.nics else {
        unreachable!("forward is given two devices");
    };
    let (from, to) = if from == 0 { (first, second) } else { (second, first) };
    (0..count).for_each(|_| delay.work(run.cpu));
    let moved = from.forward(to, count);
    to.tx_flush(run.cpu, true);
    run.tally.packets += u64::from(moved.packets);
    run.tally.bytes += moved.bytes;
    run.tally.bad += u64::from(moved.bad);
}
