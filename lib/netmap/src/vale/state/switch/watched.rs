//! Who sees a port's packets: mirrors, which are ports of the switch, and monitors, which are not.
//!
//! ```text
//!   mirror    its index stands in the flags of the port that it sees
//!   monitor   its own flags say which port it sees, and what of it, and once that has gone, which headers it had;
//!             a set in the header has them all
//! ```
//!
//! Who writes: the holder of the root's lock. Invariant: nobody sees a port that is no longer the one that was
//! meant, since every watch of a port ends when that is taken off the list; and senders look for watchers
//! exactly while there are some, by two bits of the switch's flags.

use super::*;
use crate::sync::fence;

impl SwitchFile {
    /// The port that gets copies of what the port at `index` sends and receives.
    pub fn mirror_of(&self, index: PortIndex) -> Option<PortIndex> {
        let flags = self.ports().get(index.at())?.flags.load(Ordering::Relaxed);
        ((flags >> MIRROR_SHIFT) as u8).checked_sub(1).map(PortIndex)
    }

    /// The monitors on the switch, whatever they see.
    #[inline]
    pub fn monitors(&self) -> PortSet {
        let words = std::array::from_fn(|i| self.header().monitors[i].load(Ordering::Acquire));
        PortSet(words).and(PortSet::ALL)
    }

    /// Generation of the monitor at `index`, if there is one, and what it sees.
    pub fn monitor(&self, index: PortIndex) -> Option<(Generation, Watch)> {
        let p = self.ports().get(index.at())?;
        let generation = p.place.active_generation();
        // Acquire: what is read here is not older than the place, which the caller looks at again.
        match PortKind::unpack(p.flags.load(Ordering::Acquire)) {
            PortKind::Monitor(watch) if generation != Generation::NONE => Some((generation, watch)),
            _ => None,
        }
    }

    /// The length of the headers of the port at `index`; of a monitor, those of the port that it sees, or saw last: what came from it
    /// may not have been read yet.
    pub fn header_seen(&self, index: PortIndex) -> u8 {
        let sees = || self.monitor(index).and_then(|(_, watch)| watch.of);
        if let Some(of) = sees() {
            let len = self.header_of(of);
            // Pairs with the Release in `set_header`: a port that goes is seen no more before its header is taken away.
            fence(Ordering::Acquire);
            if sees() == Some(of) {
                return len;
            }
        }
        self.header_of(index)
    }

    /// Whether some monitor sees the port at `index`.
    pub fn is_seen(&self, index: PortIndex) -> bool {
        let of = |at| self.monitor(at).and_then(|(_, watch)| watch.of);
        self.monitors().iter().any(|at| of(at) == Some(index))
    }

    /// Chooses the port that gets copies of what the port at `index` sends and receives, or none.
    pub fn set_mirror(&self, lock: &RootLock, index: PortIndex, to: Option<PortIndex>) {
        let flags = &self.ports()[index.at()].flags;
        let others = flags.load(Ordering::Relaxed) & !(0xff << MIRROR_SHIFT);
        // The largest index is 253, so that one more fits a byte.
        let to = to.map_or(0, |to| u64::from(to.0) + 1);
        flags.store(others | to << MIRROR_SHIFT, Ordering::Relaxed);
        self.tell_senders(lock);
    }

    /// Says in the switch's flags whether senders have mirrors and monitors to look for.
    pub(super) fn tell_senders(&self, _lock: &RootLock) {
        let watches = || self.monitors().iter().filter_map(|i| self.monitor(i));
        let seeing = |zero_copy| {
            watches().any(|(_, watch)| watch.zero_copy == zero_copy && watch.of.is_some())
        };
        let mirrors = PortIndex::all().any(|i| self.mirror_of(i).is_some());
        let h = self.header();
        let mut flags = h.flags.load(Ordering::Relaxed) & !(COPIES | EXCHANGES);
        if mirrors || seeing(false) {
            flags |= COPIES;
        }
        if seeing(true) {
            flags |= EXCHANGES;
        }
        h.flags.store(flags, Ordering::Relaxed);
    }

    /// A port goes: nobody sees it any more, and it sees nobody.
    pub(super) fn end_watches(&self, lock: &RootLock, index: PortIndex) {
        let mirrored = |&i: &PortIndex| i == index || self.mirror_of(i) == Some(index);
        for i in PortIndex::all().filter(mirrored) {
            self.set_mirror(lock, i, None);
        }
        for i in self.monitors().iter() {
            if let Some((_, watch)) = self.monitor(i)
                && (i == index || watch.of == Some(index))
            {
                self.blind(i, watch);
            }
        }
        self.tell_senders(lock);
    }

    /// Lets a monitor see nothing any more. Its entry says from then on which headers the packets have that it saw.
    fn blind(&self, index: PortIndex, watch: Watch) {
        let flags = &self.ports()[index.at()].flags;
        let header = watch.of.map_or(0, |of| self.header_of(of));
        let others = flags.load(Ordering::Relaxed) & !(PortKind::BITS | 0xff << HEADER_SHIFT);
        let kind = PortKind::Monitor(Watch { of: None, ..watch });
        flags.store(others | kind.pack() | u64::from(header) << HEADER_SHIFT, Ordering::Release);
    }
}
