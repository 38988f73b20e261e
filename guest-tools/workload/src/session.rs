//! One run of a workload: its devices, its clock, its end, and what it counts.
//!
//! Invariant: a loop of a workload looks once a batch at interrupts, clock and end, and sleeps only
//! through [`Run::wait`].

use e1000pv_driver::{Cpu, Interest, Mmio, Nic, Sleeper, Stats};
use nm_stream::SequenceStats;

use crate::plan::Plan;
use crate::summary::{RoundTrips, Summary};

/// Between two looks at a link that is down.
const LINK_NS: u64 = 10_000_000;
/// Time for the device to send what is queued at the end of a run.
const DRAIN_NS: u64 = 1_000_000_000;

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) bad: u64,
    pub(crate) foreign: u64,
    pub(crate) unsent: u64,
    pub(crate) sequence: SequenceStats,
    pub(crate) rtt: Option<RoundTrips>,
    first_ns: Option<u64>,
    last_ns: u64,
}

/// A run in progress.
pub(crate) struct Run<'a, M: Mmio, C> {
    pub(crate) plan: &'a Plan,
    pub(crate) nics: &'a mut [Nic<M>],
    pub(crate) cpu: &'a C,
    pub(crate) tally: Tally,
    sleeper: Sleeper,
    begin_ns: u64,
    deadline_ns: Option<u64>,
}

impl<'a, M: Mmio, C: Cpu> Run<'a, M, C> {
    /// A run that has not begun.
    pub(crate) fn new(plan: &'a Plan, nics: &'a mut [Nic<M>], cpu: &'a C) -> Self {
        let sleeper = Sleeper::new(cpu, plan.nic.spin_ns);
        let tally = Tally::default();
        Run { plan, nics, cpu, tally, sleeper, begin_ns: 0, deadline_ns: None }
    }

    /// Waits for the link, does the work, and returns the result.
    pub(crate) fn whole(mut self, work: impl FnOnce(&mut Self)) -> Summary {
        self.wait_link();
        let (interrupts, before) = (self.cpu.interrupts(), self.stats());
        self.begin_ns = self.cpu.now_ns();
        let duration_ns = self.plan.duration_ns;
        self.deadline_ns = duration_ns.map(|duration| self.begin_ns.saturating_add(duration));
        work(&mut self);
        self.summary(before, interrupts)
    }

    fn wait_link(&mut self) {
        let end = self.cpu.now_ns().saturating_add(self.plan.wait_link_ns);
        while !self.nics.iter().all(Nic::link_up) {
            let now = self.cpu.now_ns();
            if now >= end || self.cpu.stopping() {
                return;
            }
            let none = [Interest::default(); 2];
            let next = end.min(now + LINK_NS);
            self.sleeper.wait(self.cpu, self.nics, &none[..self.nics.len()], Some(next));
            for nic in self.nics.iter_mut() {
                nic.refresh_link();
            }
        }
    }

    /// Takes notice of interrupts: once a batch.
    #[inline]
    pub(crate) fn serve(&mut self) {
        self.sleeper.serve(self.cpu, self.nics);
    }

    /// True if time is over, or somebody wants the run to end.
    pub(crate) fn over(&self, now_ns: u64) -> bool {
        self.deadline_ns.is_some_and(|deadline| now_ns >= deadline) || self.cpu.stopping()
    }

    /// True if no packet came for as long as the plan says.
    pub(crate) fn quiet(&self, now_ns: u64) -> bool {
        self.quiet_ns().is_some_and(|quiet| now_ns >= quiet)
    }

    /// When waiting for packets ends: a time after the last one, or after the beginning if none came.
    fn quiet_ns(&self) -> Option<u64> {
        match self.tally.first_ns {
            Some(_) => self.plan.idle_ns?.checked_add(self.tally.last_ns),
            None => self.plan.wait_first_ns.or(self.plan.idle_ns)?.checked_add(self.begin_ns),
        }
    }

    /// Packets that the count leaves, at most `most`.
    pub(crate) fn left(&self, most: usize) -> usize {
        let left = self.plan.count.map(|count| count.saturating_sub(self.tally.packets));
        left.map_or(most, |left| usize::try_from(left).unwrap_or(most).min(most))
    }

    /// Notes when packets were handled.
    #[inline]
    pub(crate) fn stamp(&mut self, now_ns: u64) {
        self.tally.first_ns.get_or_insert(now_ns);
        self.tally.last_ns = now_ns;
    }

    /// Sleeps until there is something to do, `until_ns`, or the run's end.
    pub(crate) fn wait(&mut self, interests: &[Interest], until_ns: Option<u64>) {
        let ends = [self.deadline_ns, self.quiet_ns(), until_ns];
        let end = ends.into_iter().flatten().min();
        self.sleeper.wait(self.cpu, self.nics, interests, end);
    }

    /// Packets that are handled at once: half of the device's ring, so that the device can work on the other half.
    pub(crate) fn burst(&self, nic: usize) -> usize {
        self.plan.burst.min(self.nics[nic].tx_descriptors() / 2)
    }

    /// Free slots that are worth waking up for.
    pub(crate) fn worthwhile(&self, nic: usize) -> u32 {
        self.nics[nic].tx_descriptors() as u32 / 2
    }

    /// Sends what is queued, and counts what does not leave in time.
    pub(crate) fn drain(&mut self, nic: usize) {
        let end = self.cpu.now_ns().saturating_add(DRAIN_NS);
        // The deadline of the run does not apply to packets that are still queued.
        self.deadline_ns = None;
        loop {
            let pending = self.nics[nic].tx_pending();
            let now = self.cpu.now_ns();
            if pending == 0 || now >= end {
                self.tally.unsent += pending as u64;
                return;
            }
            let mut interests = [Interest::default(); 2];
            interests[nic].tx = self.nics[nic].tx_descriptors() as u32 - 1;
            self.sleeper.wait(self.cpu, self.nics, &interests, Some(end));
        }
    }

    fn stats(&self) -> Stats {
        self.nics.iter().map(Nic::stats).fold(Stats::default(), |sum, one| Stats {
            tdt_writes: sum.tdt_writes + one.tdt_writes,
            rdt_writes: sum.rdt_writes + one.rdt_writes,
            mmio_reads: sum.mmio_reads + one.mmio_reads,
            mmio_writes: sum.mmio_writes + one.mmio_writes,
            tx_dropped: sum.tx_dropped + one.tx_dropped,
            csb_bad: sum.csb_bad + one.csb_bad,
            rx_overruns: sum.rx_overruns + one.rx_overruns,
            expired: sum.expired + one.expired,
        })
    }

    fn summary(&self, before: Stats, interrupts: u32) -> Summary {
        let (after, tally) = (self.stats(), &self.tally);
        Summary {
            function: self.plan.function,
            driver: self.nics[0].discipline(),
            ring: self.nics[0].tx_descriptors() as u32,
            packets: tally.packets,
            bytes: tally.bytes,
            duration_ns: tally.first_ns.map_or(0, |first| tally.last_ns.saturating_sub(first)),
            lost: tally.sequence.lost,
            reordered: tally.sequence.reordered,
            duplicated: tally.sequence.duplicated,
            bad: tally.bad,
            foreign: tally.foreign,
            unsent: tally.unsent,
            stats: Stats {
                tdt_writes: after.tdt_writes - before.tdt_writes,
                rdt_writes: after.rdt_writes - before.rdt_writes,
                mmio_reads: after.mmio_reads - before.mmio_reads,
                mmio_writes: after.mmio_writes - before.mmio_writes,
                tx_dropped: after.tx_dropped - before.tx_dropped,
                csb_bad: after.csb_bad - before.csb_bad,
                rx_overruns: after.rx_overruns - before.rx_overruns,
                expired: after.expired - before.expired,
            },
            interrupts: self.cpu.interrupts().wrapping_sub(interrupts),
            idles: self.sleeper.idles(),
            lost_interrupts: self.sleeper.lost_interrupts(),
            rtt: tally.rtt,
        }
    }
}
