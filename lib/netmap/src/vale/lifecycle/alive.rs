//! Which handles live, and which ports they keep.
//!
//! Invariant: a handle lives while somebody holds its bell. What cannot be looked at counts as alive: a
//! living handle must never be taken for a dead one.

use crate::name::PipeName;
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

/// Ports that some handles need.
#[derive(Clone, Copy, Debug)]
pub struct NeededPorts {
    /// In use by one of the handles, or persistent.
    pub used: PortSet,
    /// These, and those for which it is enough that their pipes are in use.
    pub kept: PortSet,
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

    /// Whether a port has a live handle, is persistent, or is kept by those who use its pipes.
    #[cold]
    pub fn port_is_kept(&self, index: PortIndex) -> bool {
        let ports = self.list();
        let Some(port) = ports.iter().find(|l| l.index == index) else { return false };
        let mut users = PortSet::default();
        let keepers = ports.iter().filter(|l| l.index == index || keeps(&l.name, &port.name));
        keepers.for_each(|l| users.insert(l.index));
        let mut handles = self.handles().all().filter(|h| h.port.at() < MAX_PORTS);
        port.persistent || handles.any(|h| users.contains(h.port) && self.is_alive(h.index))
    }

    /// Ports that these handles need.
    pub fn needed_ports(&self, alive: &[ListedHandle]) -> NeededPorts {
        let ports = self.list();
        let live = alive.iter().map(|h| h.port).filter(|&port| port.at() < MAX_PORTS);
        let persistent = ports.iter().filter(|l| l.persistent).map(|l| l.index);
        let mut used = PortSet::default();
        live.chain(persistent).for_each(|port| used.insert(port));
        let mut kept = used;
        for pipe in
            ports.iter().filter(|l| used.contains(l.index) && PipeName::of(&l.name).is_some())
        {
            let kept_with_it = ports.iter().filter(|l| keeps(&pipe.name, &l.name));
            kept_with_it.for_each(|l| kept.insert(l.index));
        }
        NeededPorts { used, kept }
    }
}

/// Whether whoever uses the port `one` keeps the port `other`, too: the ends of a pipe keep each other, and
/// their base.
fn keeps(one: &str, other: &str) -> bool {
    let Some(pipe) = PipeName::of(one) else { return false };
    pipe.base == other || PipeName::of(other) == Some(pipe.peer())
}
