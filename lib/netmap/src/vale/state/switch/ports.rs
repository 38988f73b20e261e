//! The table of ports: what is listed, and how ports come and go in it.
//!
//! Who writes: the holder of the root's lock (the functions that take a `&RootLock`). Senders read it without.
//! Invariant: what is read of an entry is checked, whatever a peer wrote there; nobody begins to use a port that is
//! not listed.

use super::*;

/// A port as the table lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Index in the table.
    pub index: PortIndex,
    /// Number of the port's life.
    pub generation: Generation,
    /// Name without the switch.
    pub name: String,
    /// File name of its memory region.
    pub region: String,
    /// Stays when its last handle closes.
    pub persistent: bool,
    /// What it is.
    pub kind: PortKind,
}

/// What a new entry is, and how it is called.
#[derive(Clone, Copy, Debug)]
pub enum NewName<'a> {
    /// A port of that name.
    Port(&'a str),
    /// A monitor of the port of that name.
    MonitorOf(&'a str, Watch),
}

impl NewName<'_> {
    /// The port that it names.
    pub fn port(&self) -> &str {
        match self {
            Self::Port(name) | Self::MonitorOf(name, _) => name,
        }
    }

    /// Its name at `index`.
    pub fn at(&self, index: PortIndex) -> String {
        match self {
            Self::Port(name) => (*name).to_owned(),
            // That of a pipe may be as long as an entry has room for; the end of its id is left out then.
            Self::MonitorOf(of, _) => format!("{}#{}", &of[..of.len().min(LONGEST_SEEN)], index.0),
        }
    }

    fn kind(&self) -> PortKind {
        match self {
            Self::Port(_) => PortKind::Switch,
            Self::MonitorOf(_, watch) => PortKind::Monitor(*watch),
        }
    }
}

/// Characters of a port's name that the name of its monitor has at most: an entry has room for 31.
const LONGEST_SEEN: usize = 27;

/// Name of a port's file.
pub fn port_file(port: &str) -> String {
    format!("port.{port}")
}

impl SwitchFile {
    // ---- reading, without a lock ----

    /// Bytes of the virtio-net header in front of each frame of the port at `index`.
    pub fn header_of(&self, index: PortIndex) -> u8 {
        let flags = self.ports().get(index.at()).map_or(0, |p| p.flags.load(Ordering::Relaxed));
        // A peer may have written anything there.
        Some((flags >> HEADER_SHIFT) as u8).filter(|n| HEADER_LENGTHS.contains(n)).unwrap_or(0)
    }

    /// Which bits of `ptr` in the slots of the port at `index` are an offset; 0: there are no offsets.
    pub fn offset_mask_of(&self, index: PortIndex) -> u64 {
        let flags = self.ports().get(index.at()).map_or(0, |p| p.flags.load(Ordering::Relaxed));
        match (flags >> OFFSETS_SHIFT) as u8 {
            bits @ 1..64 => (1 << bits) - 1,
            0 => 0,
            _ => u64::MAX,
        }
    }

    /// The active ports.
    #[inline]
    pub fn active(&self) -> PortSet {
        let words = std::array::from_fn(|i| self.header().active[i].load(Ordering::Acquire));
        PortSet(words).and(PortSet::ALL)
    }

    /// Generation of the port at `index`, if there is one.
    #[inline]
    pub fn port_generation(&self, index: PortIndex) -> Generation {
        match self.ports().get(index.at()) {
            Some(p) => p.place.active_generation(),
            None => Generation::NONE,
        }
    }

    /// The port at `index`, if it is active and its entry makes sense.
    pub fn listed(&self, index: PortIndex) -> Option<Listed> {
        let p = self.ports().get(index.at())?;
        let generation = p.place.active_generation();
        if generation == Generation::NONE {
            return None;
        }
        Some(Listed {
            index,
            generation,
            name: load_text(&p.name).filter(|n| valid_entry(n))?,
            region: load_text(&p.region).filter(|n| valid_name(n))?,
            persistent: p.flags.load(Ordering::Relaxed) & u64::from(PERSISTENT) != 0,
            kind: PortKind::unpack(p.flags.load(Ordering::Relaxed)),
        })
    }

    /// All active ports.
    pub fn list(&self) -> Vec<Listed> {
        PortIndex::all().filter_map(|i| self.listed(i)).collect()
    }

    /// The active port of that name.
    pub fn find(&self, name: &str) -> Option<Listed> {
        self.list().into_iter().find(|p| p.name == name)
    }

    // ---- changing, under the root's lock ----

    /// Reserves a place for a port that is about to be made. It is not listed yet; if the caller
    /// dies, `reap` frees it again.
    pub fn reserve_port(
        &self,
        _lock: &RootLock,
        name: &NewName<'_>,
        region: &str,
    ) -> Result<(PortIndex, Generation)> {
        let free = self.ports().iter().position(|p| p.place.is_free());
        let Some(index) = free else {
            return Err(Error::Limit {
                name: self.name.clone(),
                what: "the switch has no free port",
                limit: MAX_PORTS as u64,
            });
        };
        let p = &self.ports()[index];
        let generation = self.next_generation();
        let index = PortIndex(index as u8);
        store_text(&p.name, &name.at(index));
        store_text(&p.region, region);
        // Release pairs with the Acquire in `monitor`.
        p.flags.store(name.kind().pack(), Ordering::Release);
        p.place.reserve(generation);
        Ok((index, generation))
    }

    /// Whether a port has that place, listed or not.
    pub fn is_there(&self, port: PortId) -> bool {
        self.ports().get(port.index.at()).is_some_and(|p| p.place.is_of(port.generation))
    }

    /// Lists a port whose files are complete.
    pub fn list_port(&self, _lock: &RootLock, index: PortIndex) {
        self.ports()[index.at()].place.activate();
    }

    /// Lets a listed port have what is for everybody, or a monitor what it sees.
    pub fn activate_port(&self, lock: &RootLock, index: PortIndex) {
        let set = match PortKind::unpack(self.ports()[index.at()].flags.load(Ordering::Relaxed)) {
            PortKind::Switch => &self.header().active,
            PortKind::Monitor(_) => &self.header().monitors,
        };
        set[index.at() / 64].fetch_or(1 << (index.0 % 64), Ordering::Release);
        self.tell_senders(lock);
    }

    /// Lets a listed port have nothing of what others send from now on, until it is active again.
    pub fn quiet_port(&self, _lock: &RootLock, index: PortIndex) {
        if self.active().contains(index) {
            self.deactivate(index);
        }
    }

    fn deactivate(&self, index: PortIndex) {
        self.header().active[index.at() / 64].fetch_and(!(1 << (index.0 % 64)), Ordering::Release);
        self.fdb().remove_if(|_, port| port == index);
    }

    /// Makes a port stay after its last handle, or not.
    pub fn set_port_persistent(&self, _lock: &RootLock, index: PortIndex, persistent: bool) {
        let flags = &self.ports()[index.at()].flags;
        let others = flags.load(Ordering::Relaxed) & !u64::from(PERSISTENT);
        flags.store(others | if persistent { u64::from(PERSISTENT) } else { 0 }, Ordering::Relaxed);
    }

    /// Chooses the length of the virtio-net headers of the port at `index`, one of `HEADER_LENGTHS`.
    pub fn set_header(&self, _lock: &RootLock, index: PortIndex, header: u8) {
        let flags = &self.ports()[index.at()].flags;
        let others = flags.load(Ordering::Relaxed) & !(0xff << HEADER_SHIFT);
        // Release pairs with the Acquire in `header_seen`.
        flags.store(others | u64::from(header) << HEADER_SHIFT, Ordering::Release);
        // Monitors send nothing, and get what there is.
        let is_port = |i: &PortIndex| self.monitor(*i).is_none();
        self.note(HEADERS, PortIndex::all().filter(is_port).any(|i| self.header_of(i) != 0));
    }

    /// Says how many bits offsets have in the slots of the port at `index`, 1 to 64; 0: there are none.
    pub fn set_offset_bits(&self, _lock: &RootLock, index: PortIndex, bits: u8) {
        let flags = &self.ports()[index.at()].flags;
        let others = flags.load(Ordering::Relaxed) & !(0xff << OFFSETS_SHIFT | OFFSETS_KEPT);
        flags.store(others | u64::from(bits) << OFFSETS_SHIFT, Ordering::Relaxed);
        self.note(OFFSETS, PortIndex::all().any(|i| self.offset_mask_of(i) != 0));
    }

    /// Has the port at `index` keep the offsets that it has when nobody uses it.
    pub fn keep_offsets(&self, _lock: &RootLock, index: PortIndex) {
        self.ports()[index.at()].flags.fetch_or(OFFSETS_KEPT, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn keeps_offsets(&self, index: PortIndex) -> bool {
        let flags = self.ports().get(index.at()).map_or(0, |p| p.flags.load(Ordering::Relaxed));
        flags & OFFSETS_KEPT != 0
    }

    /// Ports that are listed, half made or half removed, but those in `kept` that are listed.
    pub fn ports_but(&self, _lock: &RootLock, kept: PortSet) -> Vec<PortIndex> {
        PortIndex::all()
            .filter(|&i| {
                let place = &self.ports()[i.at()].place;
                !(place.is_free()
                    || (kept.contains(i) && place.active_generation() != Generation::NONE))
            })
            .collect()
    }

    /// Name of the port at `index`, listed or not, as far as it makes sense.
    pub fn name_at(&self, index: PortIndex) -> Option<String> {
        load_text(&self.taken(index)?.name).filter(|name| valid_entry(name))
    }

    /// Name of the region of the port at `index`, listed or not, as far as it makes sense.
    pub fn region_at(&self, index: PortIndex) -> Option<String> {
        load_text(&self.taken(index)?.region).filter(|name| valid_name(name))
    }

    fn taken(&self, index: PortIndex) -> Option<&PortEntry> {
        self.ports().get(index.at()).filter(|entry| !entry.place.is_free())
    }

    /// Takes a port off the list, so that no sender begins to use it.
    pub fn unlist_port(&self, lock: &RootLock, index: PortIndex) {
        self.end_watches(lock, index); // before another port can have the index
        let bit = !(1 << (index.0 % 64));
        for set in [&self.header().active, &self.header().monitors] {
            set[index.at() / 64].fetch_and(bit, Ordering::Release);
        }
        self.set_header(lock, index, 0);
        self.set_offset_bits(lock, index, 0);
        self.ports()[index.at()].place.unlist();
        self.deactivate(index);
    }

    /// Frees a port's place, after its files are gone.
    pub fn free_port(&self, _lock: &RootLock, index: PortIndex) {
        self.ports()[index.at()].place.free();
    }

    /// Number of places in use, listed or not.
    pub fn ports_used(&self) -> usize {
        self.ports().iter().filter(|p| !p.place.is_free()).count()
    }
}
