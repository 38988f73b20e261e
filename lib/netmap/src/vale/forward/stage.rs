//! The stage between route and deliver, entered only while the switch has a port that needs it.
//!
//! Today it plans the copies for mirrors: a port may have one, another port that gets what the port
//! sends and what is sent to it. A mirror gets each packet once: none that it sends itself, and none
//! twice that it gets anyway. Copies are lossy even under backpressure, so that who watches never
//! holds up who is watched.

use crate::vale::forward::batch::{Batch, Outcome};
use crate::vale::state::ids::PortIndex;
use crate::vale::state::portset::PortSet;
use crate::vale::state::switch::SwitchFile;

/// Copies of packets, by the port that they go to.
#[derive(Debug, Default)]
pub struct Copies {
    packets: Vec<u16>,
    /// Port, and where its packets end in `packets`.
    ends: Vec<(PortIndex, usize)>,
}

impl Copies {
    /// Plans the copies of a batch that port `me` sends. Those `apart` get none.
    pub fn plan(&mut self, batch: &Batch, switch: &SwitchFile, me: PortIndex, apart: PortSet) {
        self.packets.clear();
        self.ends.clear();
        let active = switch.active().and_not(apart);
        let mine = switch.mirror_of(me);
        let of_others = batch.touched.iter().map(|&port| switch.mirror_of(port));
        let mut mirrors = PortSet::default();
        for to in of_others.chain([mine]).flatten() {
            mirrors.insert(to);
        }
        for to in mirrors.and(active).without(me).iter() {
            let wants = |outcome| match outcome {
                Outcome::Unicast(port) if port == to => false,
                Outcome::Unicast(port) => mine == Some(to) || switch.mirror_of(port) == Some(to),
                Outcome::Nowhere | Outcome::Pause | Outcome::Header => mine == Some(to),
                // What is for everybody it gets anyway.
                Outcome::Flooded | Outcome::Rest | Outcome::Short | Outcome::Bad => false,
            };
            let copied = batch.firsts().filter(|(_, first)| wants(first.outcome));
            self.packets.extend(copied.map(|(packet, _)| packet));
            self.ends.push((to, self.packets.len()));
        }
    }

    /// The ports that get copies, each with its packets in order.
    pub fn by_port(&self) -> impl Iterator<Item = (PortIndex, &[u16])> {
        self.ends.iter().scan(0, |start, &(port, end)| {
            let packets = &self.packets[std::mem::replace(start, end)..end];
            Some((port, packets))
        })
    }
}
