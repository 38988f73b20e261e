//! Which handles live, and which ports they keep.
//!
//! Invariant: a handle lives while somebody holds its bell. What cannot be looked at counts as alive: a
//! living handle must never be taken for a dead one.

use crate::shm::bell::Bell;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::MAX_PORTS;
use crate::vale::state::handles::{ListedHandle, bell_file};
use crate::vale::state::ids::{HandleIndex, PortIndex};
use crate::vale::state::portset::PortSet;

/// The handles of a switch at one moment.
#[derive(Debug)]
pub struct Handles {
    /// Those that somebody holds.
    pub alive: Vec<ListedHandle>,
    /// Entries that nobody holds.
    pub dead: Vec<ListedHandle>,
}

impl Switch {
    /// Whether somebody holds the handle at `index`.
    pub fn is_alive(&self, index: HandleIndex) -> bool {
        Bell::is_held(self.dir(), &bell_file(index))
    }

    /// Who lives and who does not. What is to be decided by it is decided by one look: between two,
    /// somebody may die.
    pub fn look_at_handles(&self) -> Handles {
        let (alive, dead) = self.handles().all().partition(|h| self.is_alive(h.index));
        Handles { alive, dead }
    }

    /// Handles on a port that are alive.
    pub fn live_handles_of(&self, port: PortIndex) -> impl Iterator<Item = ListedHandle> {
        self.handles().all().filter(move |h| h.port == port && self.is_alive(h.index))
    }

    /// Whether a port has a live handle or is persistent.
    #[cold]
    pub fn port_is_kept(&self, index: PortIndex) -> bool {
        self.listed(index).is_some_and(|p| p.persistent)
            || self.live_handles_of(index).next().is_some()
    }

    /// Ports that are kept by one of these handles or because they are persistent.
    pub fn kept_ports(&self, alive: &[ListedHandle]) -> PortSet {
        let live = alive.iter().map(|h| h.port).filter(|&port| port.at() < MAX_PORTS);
        let persistent = self.list().into_iter().filter(|l| l.persistent).map(|l| l.index);
        let mut kept = PortSet::default();
        live.chain(persistent).for_each(|port| kept.insert(port));
        kept
    }
}
