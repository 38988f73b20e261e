//! Clearing away what the dead left behind: handles, ports, switches, memory.
//!
//! Everything here runs under the root's lock and may die at any instruction: the lock goes with the
//! process, and the next `reap` finds a place that is reserved but not listed, or a handle whose
//! process is gone, and removes it with its files. Invariant: a port's files are removed before its
//! place is free, so a name is never reused with old files in the way.
//!
//! What there is to clear away was written by processes that may have been hostile, so the work of one
//! call is bounded, whatever they wrote: `LINKS` extra buffers of the dead and `SLOTS` slots and extra buffers of the
//! living are looked at, `users::OPENS` files of other ports are opened, `LONGEST_RETIRING` is waited in all. What remains is the next call's, which goes
//! on where this one stopped. A sender in the middle of a batch does none of it: it takes a dead port
//! off the list (`unlist_if_dead`), and whoever opens, closes or lists next removes it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::name::valid_name;
use crate::rings::chain;
use crate::shm::bell::Bell;
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::mem::{MAX_CELLS, Region};
use crate::vale::lifecycle::named::has_the_buffers;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::lifecycle::users::{self, InUse, OPENS, User};
use crate::vale::state::handles::{ListedHandle, bell_file};
use crate::vale::state::ids::{Generation, HandleIndex, PortIndex, RETIRED};
use crate::vale::state::kring::{Held, OnHeld};
use crate::vale::state::portfile::PortFile;
use crate::vale::state::portset::PortSet;
use crate::vale::state::switch::port_file;

/// Extra buffers that one call looks at: as many as a region has cells, so that the longest honest
/// chain is always finished by the call that begins it.
const LINKS: u32 = MAX_CELLS;
/// Slots of other ports' rings and extra buffers that one call looks at: what those of a few full regions have.
const SLOTS: u64 = 4 * MAX_CELLS as u64;
/// How long one call waits for senders that are in the middle of a batch to a port that goes.
const LONGEST_RETIRING: Duration = Duration::from_millis(20);

/// Removes what nobody alive keeps: handles, ports, the switch. Returns the ports that are dead and
/// have more to clear away than fits one call.
pub fn reap(switch: &Switch, lock: &RootLock) -> Result<Vec<PortIndex>> {
    if !switch.is_current() {
        return Ok(Vec::new()); // somebody removed the directory: what is there now is not ours
    }
    let handles = switch.look_at_handles();
    let (used, kept) = switch.used_and_kept_ports(&handles.alive);
    let mut sweep = Sweep::new(switch);
    let mut wakes = sweep.handles(lock, handles.dead, kept) | switch.forget_dead(lock);
    let mut rest = Vec::new();
    for index in switch.ports_but(lock, kept) {
        wakes |= switch.is_seen(index); // its monitors are to look
        // What is in the way of one port is no other's trouble; it is tried again by the next call.
        if sweep.unfinished.contains(&index) || !sweep.remove_port(lock, index).unwrap_or(false) {
            switch.unlist_port(lock, index); // nobody begins to use it meanwhile
            rest.push(index);
        }
    }
    // A port that only its pipes keep reads nothing: what is for everybody must not wait for it.
    for index in kept.iter().filter(|&index| !used.contains(index)) {
        switch.quiet_port(lock, index);
    }
    if switch.ports_used() == 0 && !switch.settings().persistent {
        return switch.remove(lock).map(|()| Vec::new());
    }
    if wakes {
        // Who died may have published without kicking: wake all who may sleep.
        for handle in switch.handles().all() {
            if let Ok(bell) = Bell::open(switch.dir(), &bell_file(handle.index)) {
                bell.ring();
            }
        }
    }
    Ok(rest)
}

/// Takes the port at `index` off the list if it is dead and the root's lock is free: for the data
/// path, where a full ring may be a dead one.
#[cold]
pub fn unlist_if_dead(switch: &Switch, index: PortIndex) -> Result<()> {
    if switch.port_generation(index) == Generation::NONE || switch.port_is_kept(index) {
        return Ok(());
    }
    let Some(lock) = switch.root().try_lock()? else { return Ok(()) };
    // Again: the port may be another one by now.
    if switch.is_current() && !switch.port_is_kept(index) {
        switch.unlist_port(&lock, index);
    }
    Ok(())
}

/// Removes the memory regions that no port of any switch has. Nothing is removed if that cannot be
/// known: a switch cannot be looked at, or there are too many.
pub fn remove_orphans(root: &Root, lock: &RootLock) -> Result<()> {
    let Ok(memory) = root.memory() else { return Ok(()) };
    let mut used = HashSet::new();
    let switches = root.switches()?;
    if switches.len() > OPENS as usize {
        return Ok(());
    }
    for name in switches {
        match Switch::open_existing(root, &name) {
            Ok(Some(switch)) => {
                used.extend(PortIndex::all().filter_map(|i| switch.entry(i).1));
            }
            Ok(None) => {} // nobody is on it
            Err(_) => return Ok(()),
        }
    }
    for name in memory.names(OPENS as usize).unwrap_or_default() {
        let orphan =
            |name: &&str| valid_name(name) && !used.contains(*name) && Region::is_one(memory, name);
        if let Some(name) = name.to_str().filter(orphan) {
            file::remove(memory, name)?;
        }
    }
    root.remove_temporary(lock);
    Ok(())
}

/// The work of one call, and what is left of its bounds.
#[derive(Debug)]
pub struct Sweep<'a> {
    switch: &'a Switch,
    links: u32,
    slots: u64,
    /// The region whose rings were looked at last, but those of a port, and what they name.
    in_use: Option<(String, Option<PortIndex>, InUse)>,
    /// All ports of the root, once they were asked for; `None` in there: too many to tell.
    users: Option<Option<Vec<User>>>,
    retiring_since: Option<Instant>,
    /// Handles of the switch that nobody holds: what only they name is free.
    gone: HashSet<HandleIndex>,
    /// Ports with dead handles that this call could not finish.
    unfinished: HashSet<PortIndex>,
}

impl<'a> Sweep<'a> {
    /// With all its bounds before it.
    pub fn new(switch: &'a Switch) -> Self {
        let (in_use, users, retiring_since) = (None, None, None);
        let (gone, unfinished) = (HashSet::new(), HashSet::new());
        let (links, slots) = (LINKS, SLOTS);
        Self { switch, links, slots, in_use, users, retiring_since, gone, unfinished }
    }

    /// Removes dead handles and gives back what they had of regions that live on. Returns whether
    /// there were any.
    fn handles(&mut self, lock: &RootLock, dead: Vec<ListedHandle>, kept: PortSet) -> bool {
        let mut dead: Vec<_> =
            dead.into_iter().map(|handle| (self.switch.entry(handle.port).1, handle)).collect();
        self.gone.extend(dead.iter().map(|(_, handle)| handle.index));
        // One region at a time is open.
        dead.sort_by(|a, b| a.0.cmp(&b.0));
        for group in dead.chunk_by(|a, b| a.0 == b.0) {
            let open = |name: &String| Region::open(self.switch.memory().ok()?, name).ok();
            let name = group[0].0.as_ref();
            let region = name.and_then(open);
            let mut seen = HashSet::new();
            for (_, handle) in group {
                let port_goes = !kept.contains(handle.port);
                let region = region.as_ref().zip(name);
                // A port's own region goes with the port, whoever had which part of it.
                let lives_on = region.filter(|(r, _)| r.ports_ever() > 1 || !port_goes);
                let cells = match lives_on {
                    None => Some(Vec::new()),
                    Some((region, name)) => {
                        // The table may lie.
                        self.cells(region, name, handle.if_cell, &mut seen).and_then(|mut cells| {
                            cells.push(handle.if_cell);
                            self.unnamed(region, name, None, cells)
                        })
                    }
                };
                let Some(cells) = cells else {
                    self.unfinished.insert(handle.port);
                    continue;
                };
                self.switch.handles().free(lock, handle.index);
                let _ = file::remove(self.switch.dir(), &bell_file(handle.index)); // the next one's
                // After the handle: who dies in between leaks cells, who did it the other way round
                // would have them given back twice.
                if let Some((region, _)) = lives_on {
                    region.give_back(cells);
                }
            }
        }
        !dead.is_empty()
    }

    /// Cells to give back with a handle of this process that is no more, or never was: its netmap_if, and of its
    /// extra buffers those that nobody else names.
    pub fn cells_of_if(
        &mut self,
        region: &Region,
        name: &str,
        if_cell: u32,
        handle: Option<HandleIndex>,
    ) -> Vec<u32> {
        self.gone.extend(handle);
        let cells = self.cells(region, name, if_cell, &mut HashSet::new()).unwrap_or_default();
        cells.into_iter().chain([if_cell]).collect()
    }

    /// Extra buffers to give back: those in the list of that netmap_if but those that a living port's ring or another
    /// list names, as a program may have put one there when it died. `None` if that is more than this call may
    /// still look at. A cell that was `seen` in another handle's list ends this one: honest lists never meet.
    fn cells(
        &mut self,
        region: &Region,
        name: &str,
        if_cell: u32,
        seen: &mut HashSet<u32>,
    ) -> Option<Vec<u32>> {
        let before = seen.len();
        let (cells, finished) = chain(region, if_cell, seen, self.links);
        self.links = self.links.saturating_sub((seen.len() - before) as u32);
        if !finished {
            for cell in &cells {
                seen.remove(cell); // the next call's
            }
            return None;
        }
        self.unnamed(region, name, None, cells)
    }

    /// Those of the cells that nobody who lives names, but the port at `but`.
    fn unnamed(
        &mut self,
        region: &Region,
        name: &str,
        but: Option<PortIndex>,
        mut cells: Vec<u32>,
    ) -> Option<Vec<u32>> {
        if !cells.is_empty() {
            match self.in_use(region, name, but) {
                InUse::Known(used) => cells.retain(|c| !used.contains(c)),
                InUse::Unknown => cells.clear(),
                InUse::Later => return None,
            }
        }
        Some(cells)
    }

    /// False: that is more than this call may still look at.
    fn remove_port(&mut self, lock: &RootLock, index: PortIndex) -> Result<bool> {
        let switch = self.switch;
        let (name, region) = switch.entry(index);
        switch.unlist_port(lock, index);
        if let Some(name) = name {
            let file = PortFile::open(switch.dir(), &port_file(&name)).ok();
            let left = match region {
                None => Left::Nothing,
                Some(region) => self.what_is_left(index, region, file.as_ref()),
            };
            if matches!(left, Left::Later) {
                return Ok(false);
            }
            file::remove(switch.dir(), &port_file(&name))?;
            // Cells go back after the port's file has gone: who dies in between leaks them, and
            // nobody finds the file again and gives them back twice.
            match left {
                Left::Nothing | Left::Later => {}
                Left::Region(name) => file::remove(switch.memory()?, &name)?,
                Left::Cells(region, cells) => region.give_back(cells),
            }
        }
        if let Some(Some(users)) = &mut self.users {
            users.retain(|u| (u.switch.as_str(), u.index) != (switch.name(), index));
        }
        self.in_use = None;
        switch.free_port(lock, index);
        Ok(true)
    }

    fn what_is_left(&mut self, index: PortIndex, name: String, file: Option<&PortFile>) -> Left {
        let open = |memory| Region::open(memory, &name);
        let Ok(region) = self.switch.memory().and_then(open) else {
            return Left::Region(name); // damaged or half made: of no use to anybody
        };
        // A port without a file may have been about to be made in what is another's alone.
        if region.ports_ever() <= 1 && file.is_some() {
            return Left::Region(name);
        }
        match self.others(&name, Some(index)).map(|others| others.is_empty()) {
            None => return Left::Nothing,
            Some(true) => return Left::Region(name),
            Some(false) => {}
        }
        // A sender may be in the middle of a batch to this port, and write on after it was unlisted.
        // Its ring is held for ever, so that nobody begins another; if that fails, the cells stay
        // unused until the region ends. The same if the port was never listed and has no file.
        let displaced: Vec<u32> = file.into_iter().flat_map(PortFile::displaced).collect();
        let Some(file) = file.filter(|f| self.retire(f, &region)) else { return Left::Nothing };
        let rings = &file.shape.rings;
        let mut cells: Vec<u32> = rings.ring_cells().chain(displaced).collect();
        if has_the_buffers(self.switch, file, &region) {
            cells.extend(rings.buffers(&region));
        }
        // A process killed in the middle of a zero-copy exchange may have left a buffer in two rings.
        match self.unnamed(&region, &name, Some(index), cells) {
            Some(cells) => Left::Cells(region, cells),
            None => Left::Later,
        }
    }

    /// Holds all receive rings of a removed port for ever. False: some sender does not let go.
    fn retire(&mut self, file: &PortFile, region: &Region) -> bool {
        let start = *self.retiring_since.get_or_insert_with(Instant::now);
        (0..file.shape.rings.rx.len()).all(|i| {
            let held = file.kring(i).hold(RETIRED, |owner| {
                if owner == RETIRED || self.switch.is_dead(owner) {
                    OnHeld::Dead
                } else if start.elapsed() > LONGEST_RETIRING {
                    OnHeld::GiveUp
                } else {
                    OnHeld::Wait
                }
            });
            // A sender that died there may have left a buffer in two slots.
            let ring = file.shape.rings.rx_ring(region, i).filter(|_| held != Held::No);
            ring.inspect(|&ring| file.kring(i).mend(ring)).is_some()
        })
    }

    /// Ports that live in the region `name`, but the one at `but` of this switch. `None`: it cannot be
    /// told.
    fn others(&mut self, name: &str, but: Option<PortIndex>) -> Option<Vec<&User>> {
        let (switch, gone) = (self.switch, &self.gone);
        let users =
            self.users.get_or_insert_with(|| users::all(switch.root(), switch.name(), gone));
        let here = users.as_ref()?.iter().filter(|u| {
            let is_that = u.switch == switch.name() && but == Some(u.index);
            u.file.shape.region == name && !is_that
        });
        Some(here.collect())
    }

    /// Cells of the region that those name.
    fn in_use(&mut self, region: &Region, name: &str, but: Option<PortIndex>) -> InUse {
        if let Some((of, without, found)) = &self.in_use
            && of == name
            && *without == but
        {
            return found.clone();
        }
        let budget = self.slots;
        let Some(others) = self.others(name, but) else { return InUse::Unknown };
        let (found, spent) = users::cells_in_use(&others, region, budget);
        self.slots = budget - spent;
        if !matches!(found, InUse::Later) {
            self.in_use = Some((name.into(), but, found.clone()));
        }
        found
    }
}

/// What a removed port leaves of memory.
#[derive(Debug)]
enum Left {
    /// What this call may not look at any more.
    Later,
    /// Nothing that anybody could use.
    Nothing,
    /// A region that nobody else lives in.
    Region(String),
    /// Cells of a region with other users.
    Cells(Region, Vec<u32>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::RawIf;
    use crate::options::{Memory, Options};
    use crate::sync::core_atomic::{AtomicU32, Ordering};
    use crate::vale::lifecycle::persist;
    use crate::vale::state::ids::ParticipantId;
    use crate::vale::state::portfile::Shape;

    const EXTRA: u32 = 3000;
    const HANDLES: u32 = 1900;

    /// A switch with one persistent port `x` in the shared region 1, and another port `y` there.
    fn rig() -> (tempfile::TempDir, Root) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::at(temp.path());
        for port in ["x", "y"] {
            let options = Options {
                memory: Memory::Id(1),
                tx_slots: Some(64),
                rx_slots: Some(64),
                ..Options::default()
            };
            persist::create_persistent(&root, "valeA", port, &options).unwrap();
        }
        (temp, root)
    }

    /// Lets a sweep remove the dead handles.
    fn sweep_handles(sweep: &mut Sweep<'_>, switch: &Switch, lock: &RootLock) -> bool {
        let handles = switch.look_at_handles();
        sweep.handles(lock, handles.dead, switch.used_and_kept_ports(&handles.alive).1)
    }

    fn dead(switch: &Switch) -> usize {
        switch.look_at_handles().dead.len()
    }

    fn open(root: &Root) -> (Switch, Region) {
        let switch = Switch::open_existing(root, "valeA").unwrap().unwrap();
        let region = Region::open(root.memory().unwrap(), "1").unwrap();
        (switch, region)
    }

    /// A netmap_if whose chain of extra buffers begins at `head`.
    fn netmap_if(region: &Region, head: u32) -> u32 {
        let cell = region.take_run(1).unwrap();
        let nif: &RawIf = region.at(cell, 0).unwrap();
        nif.ni_bufs_head.store(head, Ordering::Relaxed);
        cell
    }

    fn chain_up(region: &Region, cells: &[u32]) {
        for pair in cells.windows(2) {
            region.at::<AtomicU32>(pair[0], 0).unwrap().store(pair[1], Ordering::Relaxed);
        }
        let last = *cells.last().unwrap();
        region.at::<AtomicU32>(last, 0).unwrap().store(0, Ordering::Relaxed);
    }

    #[test]
    fn forged_dead_handles_with_one_long_chain_cost_one_walk() {
        let (_temp, root) = rig();
        let (switch, region) = open(&root);
        let lock = root.lock().unwrap();
        let extra = region.take(EXTRA).unwrap();
        chain_up(&region, &extra);
        for i in 0..HANDLES {
            let if_cell = netmap_if(&region, extra[i as usize % 7]);
            switch.handles().forge_dead(i, PortIndex(0), if_cell);
        }
        let mut sweep = Sweep::new(&switch);
        assert!(sweep_handles(&mut sweep, &switch, &lock));
        let walked = LINKS - sweep.links;
        assert!(walked <= EXTRA, "{walked} links of {EXTRA} cells were followed");
        assert!((dead(&switch) == 0) && sweep.unfinished.is_empty());
        // All of it is free again, and was given back once.
        let again = region.take(EXTRA + HANDLES).unwrap();
        assert_eq!(again.iter().collect::<HashSet<_>>().len(), again.len());
    }

    #[test]
    fn forged_dead_handles_with_chains_of_their_own_cost_one_look_at_the_rings() {
        let (_temp, root) = rig();
        let (switch, region) = open(&root);
        let lock = root.lock().unwrap();
        for (i, &cell) in region.take(500).unwrap().iter().enumerate() {
            chain_up(&region, &[cell]);
            switch.handles().forge_dead(i as u32, PortIndex(0), netmap_if(&region, cell));
        }
        let mut sweep = Sweep::new(&switch);
        assert!(sweep_handles(&mut sweep, &switch, &lock));
        let looked_at = SLOTS - sweep.slots;
        assert_eq!(looked_at, 4 * 64, "two ports with two rings of 64 slots");
        assert!((dead(&switch) == 0));
    }

    #[test]
    fn ports_beyond_the_bound_are_removed_by_later_calls() {
        let (_temp, root) = rig();
        let (switch, _region) = open(&root);
        let lock = root.lock().unwrap();
        let port = switch.find("y").unwrap().index;
        switch.set_port_persistent(&lock, port, false);
        let mut sweep = Sweep::new(&switch);
        sweep.slots = 100;
        assert!(!sweep.remove_port(&lock, port).unwrap());
        assert_eq!(switch.entry(port).0.as_deref(), Some("y"));
        assert!(reap(&switch, &lock).unwrap().is_empty());
        assert_eq!(switch.entry(port).0, None);
    }

    #[test]
    fn reaping_goes_on_where_its_bound_stopped_it() {
        let (_temp, root) = rig();
        let (switch, region) = open(&root);
        let lock = root.lock().unwrap();
        let extra = region.take(300).unwrap();
        let port = switch.find("y").unwrap().index;
        switch.set_port_persistent(&lock, port, false);
        for (i, part) in extra.chunks(100).enumerate() {
            chain_up(&region, part);
            switch.handles().forge_dead(i as u32, port, netmap_if(&region, part[0]));
        }
        for left in [2, 1, 0] {
            let mut sweep = Sweep::new(&switch);
            sweep.links = 150;
            sweep_handles(&mut sweep, &switch, &lock);
            assert_eq!(dead(&switch), left);
            // A port is not removed while its handles have memory to give back.
            assert_eq!(sweep.unfinished.contains(&port), left > 0);
        }
        assert!(reap(&switch, &lock).unwrap().is_empty());
        assert!(switch.find("y").is_none() && switch.find("x").is_some());
        let again = region.take(300).unwrap();
        assert_eq!(again.iter().collect::<HashSet<_>>().len(), 300);
    }

    #[test]
    fn sender_takes_a_dead_port_off_the_list_and_leaves_the_rest_to_others() {
        let (_temp, root) = rig();
        let (switch, _region) = open(&root);
        let port = {
            let lock = root.lock().unwrap();
            let port = switch.find("y").unwrap().index;
            switch.set_port_persistent(&lock, port, false);
            switch.handles().forge_dead(0, port, u32::MAX);
            port
        };
        unlist_if_dead(&switch, port).unwrap();
        assert!(switch.find("y").is_none());
        let lock = root.lock().unwrap();
        assert_eq!(dead(&switch), 1, "that is work for who opens or lists");
        assert!(reap(&switch, &lock).unwrap().is_empty());
        assert!((dead(&switch) == 0) && switch.entry(port).0.is_none());
    }

    #[test]
    fn port_whose_handle_dies_while_others_are_looked_at_waits_for_the_next_look() {
        let (_temp, root) = rig();
        let bound = |_: &Shape| Ok(crate::options::BoundRings { tx: vec![0], rx: vec![0] });
        let (bell, at) =
            crate::vale::lifecycle::open::open(&root, "valeA", "z", &Options::default(), bound)
                .unwrap();
        let (switch, lock) = (at.switch.clone(), root.lock().unwrap());
        let handles = switch.look_at_handles();
        drop(bell); // it is dead now, and its entry is there
        let (_, kept) = switch.used_and_kept_ports(&handles.alive);
        Sweep::new(&switch).handles(&lock, handles.dead, kept);
        let index = switch.find("z").unwrap().index;
        assert!(!switch.ports_but(&lock, kept).contains(&index), "an entry names that index");
        assert!(reap(&switch, &lock).unwrap().is_empty());
        assert!(switch.find("z").is_none() && dead(&switch) == 0);
    }

    /// An identity that no living handle has.
    const DEAD: ParticipantId = ParticipantId::new(6, Generation(1 << 24));

    #[test]
    fn buffer_that_a_dead_sender_left_in_no_slot_goes_back_with_its_port() {
        for stores in 0..=3 {
            let (_temp, root) = rig();
            let (switch, region) = open(&root);
            let lock = root.lock().unwrap();
            let file = PortFile::open(switch.dir(), &port_file("y")).unwrap();
            let buffers: HashSet<u32> = file.shape.rings.buffers(&region).collect();
            // A sender to `y` is killed while it exchanges two buffers.
            let (kring, ring) = (file.kring(0), file.shape.rings.rx_ring(&region, 0).unwrap());
            assert_eq!(kring.hold(DEAD, |_| OnHeld::GiveUp), Held::Fresh);
            let word = |i: u32| (i, &ring.slots[i as usize].word);
            kring.exchange.swap_and_die(word(3), word(60), stores);
            switch.set_port_persistent(&lock, switch.find("y").unwrap().index, false);
            assert!(reap(&switch, &lock).unwrap().is_empty());
            // All its cells are free: they are given out again before any that never were.
            let (end, mut again) = (region.end_of_given(), HashSet::new());
            while region.end_of_given() == end {
                again.extend(region.take(1).unwrap());
            }
            assert!(again.is_superset(&buffers), "a buffer was lost after {stores} stores");
        }
    }

    #[test]
    fn regions_of_no_port_are_removed_and_others_stay() {
        let (_temp, root) = rig();
        let memory = root.memory().unwrap();
        drop(Region::create(memory, "p0123", 99).unwrap());
        remove_orphans(&root, &root.lock().unwrap()).unwrap();
        assert_eq!(memory.names(9).unwrap(), ["1"]);
    }
}
