//! The stage between route and deliver, entered only while the switch has a port that needs it: who watches.
//!
//! Two kinds of watchers get copies of packets. A mirror is a port of the switch that gets what another one
//! sends and what is sent to it; a monitor is none, and gets what really leaves a ring or comes into one. A
//! mirror gets each packet once: none that it sends itself, and none twice that it gets anyway.
//! Copies are lossy even under backpressure, so that who watches never holds up who is watched.

use crate::stats::RingDir;
use crate::vale::forward::batch::{Batch, Outcome};
use crate::vale::forward::job::{Destinations, Job};
use crate::vale::state::MAX_PORTS;
use crate::vale::state::ids::{PortIndex, RingNumber};
use crate::vale::state::portset::PortSet;
use crate::vale::state::switch::SwitchFile;
use crate::vale::state::watch::Watch;

/// Who gets copies of a batch's packets.
#[derive(Debug)]
pub struct Copies {
    mirrors: PortSet,
    monitors: Vec<(PortIndex, Watch)>,
}

impl Copies {
    /// Nobody.
    pub fn new() -> Self {
        Self { mirrors: PortSet::default(), monitors: Vec::with_capacity(MAX_PORTS) }
    }

    /// Finds out who watches, and opens what can be opened of that.
    pub fn plan(&mut self, batch: &Batch, job: &Job<'_>, destinations: &mut impl Destinations) {
        let Job { switch, port: me, .. } = *job;
        let active = switch.active();
        let mut found = |index| destinations.update(index).filter(|&g| g <= job.epoch);
        let of_others = batch.touched.iter().map(|&port| switch.mirror_of(port));
        self.mirrors = PortSet::default();
        for to in of_others.chain([switch.mirror_of(me)]).flatten() {
            if to != me && active.contains(to) && found(to).is_some() {
                self.mirrors.insert(to);
            }
        }
        self.monitors.clear();
        let monitors = switch.monitors().iter().filter_map(|at| Some((at, switch.monitor(at)?)));
        for (at, (generation, watch)) in monitors {
            // The port was looked at before and after its flags were read: they are this one's.
            if !watch.zero_copy && watch.of.is_some() && found(at) == Some(generation) {
                self.monitors.push((at, watch));
            }
        }
    }

    /// The monitors that see a ring.
    pub fn monitors(
        &self,
        port: PortIndex,
        dir: RingDir,
        ring: RingNumber,
    ) -> impl Iterator<Item = PortIndex> {
        self.monitors
            .iter()
            .filter(move |(_, watch)| watch.sees(port, dir, ring))
            .map(|&(monitor, _)| monitor)
    }

    /// The mirrors that get copies of what port `me` sends, each with its packets in order.
    pub fn mirrors<'a>(
        &self,
        batch: &'a Batch,
        switch: &'a SwitchFile,
        me: PortIndex,
    ) -> impl Iterator<Item = (PortIndex, impl Iterator<Item = u16> + use<'a>)> + use<'a> {
        let mine = switch.mirror_of(me);
        self.mirrors.iter().map(move |to| {
            let wants = move |outcome| match outcome {
                Outcome::Unicast(port) if port == to => false,
                Outcome::Unicast(port) => mine == Some(to) || switch.mirror_of(port) == Some(to),
                Outcome::Nowhere | Outcome::Pause => mine == Some(to),
                // What is for everybody it gets anyway.
                Outcome::Flooded | Outcome::Rest | Outcome::Short | Outcome::Bad => false,
            };
            let copied = batch.firsts().filter(move |(_, first)| wants(first.outcome));
            (to, copied.map(|(packet, _)| packet))
        })
    }
}
