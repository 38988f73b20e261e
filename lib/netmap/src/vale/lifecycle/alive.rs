//! Which handles live, and which ports they keep.
//!
//! Invariant: a handle lives while somebody holds its bell. What cannot be looked at counts as alive: a
//! living handle must never be taken for a dead one.

use crate::shm::bell::Bell;
use crate::shm::lock::RootLock;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::portset::PortSet;
use crate::vale::state::switch::{ListedHandle, bell_file};

impl Switch {
    /// Whether somebody holds the handle at `index`.
    pub fn is_alive(&self, index: u32) -> bool {
        Bell::is_held(self.dir(), &bell_file(index))
    }

    /// Handles that are alive.
    pub fn live_handles(&self) -> Vec<ListedHandle> {
        self.all_handles().filter(|h| self.is_alive(h.index)).collect()
    }

    /// Entries of handles that nobody holds.
    pub fn dead_handles(&self, _lock: &RootLock) -> Vec<ListedHandle> {
        self.all_handles().filter(|h| !self.is_alive(h.index)).collect()
    }

    /// Whether a port has a live handle or is persistent.
    #[cold]
    pub fn port_is_kept(&self, index: u8) -> bool {
        self.listed(index).is_some_and(|p| p.persistent)
            || self.all_handles().any(|h| h.port == index && self.is_alive(h.index))
    }

    /// Ports that are kept by a live handle or because they are persistent.
    pub fn kept_ports(&self) -> PortSet {
        let live = self.live_handles().into_iter().map(|h| h.port);
        let persistent = self.list().into_iter().filter(|l| l.persistent).map(|l| l.index);
        let mut kept = PortSet::default();
        live.chain(persistent).filter(|&port| port != u8::MAX).for_each(|port| kept.insert(port));
        kept
    }
}
