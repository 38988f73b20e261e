//! Forwarding: what a sender's txsync does with the packets of one TX ring.
//!
//! ```text
//!  run     plain packets to one port, straight from ring to ring, as long as they last
//!  batch   whatever comes then, up to 1024 slots:
//!            gather   slots of the ring -> fragments (checked copies: address, length, chain)
//!            route    fragments -> one list per destination, one list of packets for everybody
//!            stage    only while a port on the switch needs it: copies for mirrors, and what
//!                     packets become for ports with other virtio-net headers
//!            deliver  per destination: hold its ring, put what fits, finish
//! ```
//!
//! Invariants. Nothing is copied that does not fit. A packet is published whole or not at all, in
//! the order of the sender's ring. The data path allocates nothing; it locks, fences and calls the
//! kernel at most once per run or batch and destination.
//!
//! Everything read from shared memory is copied out and checked first; peers can cost packets, not
//! safety. Whose rings and memory these are is not known here: the caller brings its ring, and
//! `Destinations` those of the others, and the bells of who sleeps there.

mod batch;
#[allow(unsafe_code)]
mod deliver;
mod gather;
mod hand_over;
#[allow(unsafe_code)]
mod headers;
mod indirect;
#[allow(unsafe_code)]
mod inner;
mod job;
#[allow(unsafe_code)]
mod lookup;
mod memo;
#[allow(unsafe_code)]
mod route;
#[allow(unsafe_code)]
mod run;
mod show;
mod stage;
#[cfg(test)]
mod tests;
mod trial;
mod warm;
#[allow(unsafe_code)]
mod writer;

use std::time::Instant;

use crate::abi::SlotFlags;
use crate::cache;
use crate::copy::{self, Isa};
use crate::ring::RingRef;
use crate::stats::C;
use crate::time::now_ms;
use crate::vale::forward::batch::{Batch, Outcome};
use crate::vale::forward::deliver::{Loads, Means};
use crate::vale::forward::headers::Headers;
use crate::vale::forward::indirect::Indirect;
use crate::vale::forward::inner::{Buffers, Window};
use crate::vale::forward::job::{Done, Job};
use crate::vale::forward::lookup::Lookup;
use crate::vale::forward::memo::Memo;
use crate::vale::forward::stage::Copies;
use crate::vale::forward::trial::Trial;
use crate::vale::forward::writer::WaitBudget;
use crate::vale::state::fdb::{self, Clock};
use crate::vale::state::ids::PortIndex;
use crate::vale::state::switch::SwitchFile;

pub use hand_over::Used;
pub use job::{Destinations, Sent, Source};
pub use show::PassedOn;
pub use trial::set_always;

/// The forwarding state of one handle. Private memory: nobody else sees it.
#[derive(Debug)]
pub struct Forwarder {
    port: PortIndex,
    isa: copy::Kind,
    indirect: Indirect,
    batch: Batch,
    copies: Copies,
    headers: Headers,
    memo: Memo,
    loads: Loads,
    /// What is left of it in this sync.
    budget: WaitBudget,
    /// Bytes of the cache that two rings should fit.
    cache: usize,
    /// Bytes of a packet in the last txsync, on average.
    average_len: usize,
    /// Whether long packets go to warm buffers.
    trial: Trial,
}

#[allow(unsafe_code)]
// SAFETY: the raw pointers in `batch` are used within one call of `txsync` only; what they point
// to is reachable from any thread.
unsafe impl Send for Forwarder {}

impl Forwarder {
    /// For a handle on `port`.
    pub fn new(port: PortIndex) -> Self {
        Self {
            port,
            isa: copy::detect(),
            indirect: Indirect::default(),
            batch: Batch::new(),
            copies: Copies::new(),
            headers: Headers::default(),
            memo: Memo::new(),
            loads: Loads::new(),
            budget: WaitBudget::default(),
            cache: if trial::is_always() { 0 } else { cache::level_2() },
            average_len: 0,
            trial: Trial::new(),
        }
    }

    /// Lets slots point into `[start, start + len)`.
    pub fn allow(&mut self, start: usize, len: usize) {
        self.indirect.allow(start, len);
    }

    /// Lets slots point to anything that this process can read.
    pub fn allow_anywhere(&mut self) {
        self.indirect.allow_anywhere();
    }

    /// Begins a sync of a port, all of whose rings share what it may wait for others.
    pub fn begin(&mut self) {
        self.budget = WaitBudget::default();
    }

    /// Sends the slots of a TX ring.
    pub fn txsync(
        &mut self,
        switch: &SwitchFile,
        to: &mut impl Destinations,
        from: &Source<'_>,
    ) -> Sent {
        match self.isa {
            copy::Kind::Avx512 => self.send::<copy::Avx512>(switch, to, from),
            copy::Kind::Avx => self.send::<copy::Avx>(switch, to, from),
            copy::Kind::Sse2 => self.send::<copy::Sse2>(switch, to, from),
        }
    }

    #[allow(unsafe_code)]
    fn send<I: Isa>(
        &mut self,
        switch: &SwitchFile,
        to: &mut impl Destinations,
        from: &Source<'_>,
    ) -> Sent {
        let (now, ageing) = (now_ms(), switch.ageing_ms());
        let clock = Clock::new(now, ageing);
        if let Some(all) = fdb::due_for_sweep(switch.last_sweep_ms(), now, ageing) {
            switch.fdb().sweep(&clock, all);
        }
        let modes = switch.modes();
        let job = Job {
            me: from.me,
            port: self.port,
            switch,
            clock: &clock,
            counters: from.counters,
            ring: from.ring,
            state: from.state,
            ring_no: from.number,
            head: from.head,
            lossless: modes.backpressure,
            header: switch.header_of(self.port),
            epoch: switch.epoch(),
            cache: self.cache,
            average_len: self.average_len,
            warm: self.cache == 0 || self.trial.is_warm(),
        };
        let is_long = self.average_len >= warm::LONG;
        let since = (is_long && self.trial.measures()).then(Instant::now);
        let mut sent = Sent { hwcur: from.hwcur, stall: None, full: None };
        // In turns, so that traffic which changes its destination often is still sent in batches. A
        // run has no stage.
        let has_runs = !(modes.copies || modes.headers || modes.offsets) && job.header == 0;
        let mut runs = has_runs;
        let (mut slots, mut bytes) = (0, 0);
        while sent.hwcur != job.head && sent.stall.is_none() {
            let done = if !runs {
                self.batch::<I>(&job, to, sent.hwcur, modes.copies)
            } else if let Some(window) = self.one_window(job.ring, sent.hwcur) {
                self.run::<I, Window>(&job, to, sent.hwcur, window)
            } else {
                let buffers = Buffers::of(job.ring.buffers);
                self.run::<I, Buffers>(&job, to, sent.hwcur, buffers)
            };
            runs = (!runs || done.portion) && has_runs;
            (slots, bytes) = (slots + u64::from(done.slots), bytes + done.bytes);
            sent.hwcur = job.ring.step(sent.hwcur, done.slots);
            job.state.done(sent.hwcur);
            sent.stall = done.stall;
            sent.full = done.full.or(done.stall.map(|s| s.port)).or(sent.full);
        }
        if is_long && slots > 0 {
            self.trial.sent(slots, since.map(|since| since.elapsed()));
        }
        // The average of short packets is not worth a division.
        let long = slots > 0 && bytes >= slots * warm::LONG as u64;
        self.average_len = if long { (bytes / slots) as usize } else { 0 };
        // SAFETY: `detect` found these instructions.
        unsafe { I::end() };
        sent
    }

    /// The window to take a run from: that slot points to memory, and there is but one that it may.
    fn one_window(&self, ring: RingRef<'_>, at: u32) -> Option<Window> {
        let flags = SlotFlags::from_bits_retain(ring.load(at).flags);
        self.indirect.one_window().filter(|_| flags.contains(SlotFlags::INDIRECT))
    }

    #[inline(always)]
    fn run<I: Isa, S: inner::Source>(
        &mut self,
        job: &Job<'_>,
        to: &mut impl Destinations,
        from: u32,
        source: S,
    ) -> Done {
        let look = Lookup::new(job.switch.fdb(), job.clock, job.port, &mut self.memo);
        run::run::<I, S>(job, look, to, &mut self.budget, from, source)
    }

    /// Whatever comes: fragments, indirect data, several destinations, floods, damage.
    #[inline(never)]
    fn batch<I: Isa>(
        &mut self,
        job: &Job<'_>,
        to: &mut impl Destinations,
        from: u32,
        staged: bool,
    ) -> Done {
        let mask = job.switch.offset_mask_of(job.port);
        gather::gather(&mut self.batch, job.ring, &mut self.indirect, mask, from, job.head);
        let look = Lookup::new(job.switch.fdb(), job.clock, job.port, &mut self.memo);
        if job.header == 0 {
            route::route::<false>(&mut self.batch, look, 0);
        } else {
            route::route::<true>(&mut self.batch, look, job.header.into());
        }
        if staged {
            self.copies.plan(&self.batch, job, to);
        }
        let copies = staged.then_some(&self.copies);
        self.headers.begin();
        let means = &mut Means { budget: &mut self.budget, headers: &mut self.headers };
        let mut done =
            deliver::deliver::<I>(job, from, &self.batch, copies, &mut self.loads, to, means);
        done.bytes = count(&self.batch, done.slots as usize, job);
        done
    }
}

/// Counts the first `sent` fragments; returns their bytes.
fn count(batch: &Batch, sent: usize, job: &Job<'_>) -> u64 {
    let counters = job.counters;
    let (mut packets, mut bytes) = (0, 0);
    let (mut flooded, mut short, mut nowhere, mut bad, mut pause) = (0, 0, 0, 0, 0);
    for fragment in &batch.fragments[..sent] {
        packets += u64::from(fragment.frags != 0);
        bytes += u64::from(fragment.len);
        match fragment.outcome {
            Outcome::Rest | Outcome::Unicast(_) => {}
            Outcome::Flooded => flooded += 1,
            Outcome::Short => short += 1,
            Outcome::Nowhere => nowhere += 1,
            Outcome::Bad => bad += 1,
            Outcome::Pause => pause += 1,
        }
    }
    if sent > 0 {
        counters.add(C::tx_packets, packets);
        counters.add(C::tx_bytes, bytes);
        counters.add(C::tx_batches, 1);
        counters.add(C::flooded, flooded);
        counters.add(C::tx_drop_short, short);
        counters.add(C::tx_drop_no_port, nowhere);
        counters.add(C::tx_drop_bad, bad);
        counters.add(C::tx_drop_pause, pause);
    }
    bytes
}
