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
use crate::rings::{Chain, chain};
use crate::shm::bell::Bell;
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::mem::{Cell, MAX_CELLS, Region};
use crate::vale::lifecycle::alive::NeededPorts;
use crate::vale::lifecycle::named::has_the_buffers;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::lifecycle::users::{self, InUse, OPENS, User};
use crate::vale::lifecycle::{loan, offsets};
use crate::vale::state::handles::{ListedHandle, bell_file};
use crate::vale::state::ids::{Generation, HandleIndex, PortIndex, RETIRED, RingNumber};
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
    let NeededPorts { used, kept } = switch.needed_ports(&handles.alive);
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
                used.extend(PortIndex::all().filter_map(|i| switch.region_at(i)));
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
            dead.into_iter().map(|handle| (self.switch.region_at(handle.port), handle)).collect();
        self.gone.extend(dead.iter().map(|(_, handle)| handle.index));
        // One region at a time is open.
        dead.sort_by(|a, b| a.0.cmp(&b.0));
        for group in dead.chunk_by(|a, b| a.0 == b.0) {
            let name = group[0].0.as_ref();
            let memory = self.switch.memory().ok();
            let open = name.zip(memory).map(|(name, memory)| usable(Region::open(memory, name)));
            let Ok(region) = open.transpose() else {
                self.unfinished.extend(group.iter().map(|(_, handle)| handle.port));
                continue;
            };
            let region = region.flatten();
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
                if !port_goes {
                    loan::end(self.switch, lock, handle);
                    offsets::end(self.switch, lock, handle.port, Some(handle.id));
                }
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
    /// extra buffers those that nobody else names. `None`: that cannot be told now.
    pub fn cells_of_if(
        &mut self,
        region: &Region,
        name: &str,
        if_cell: Cell,
        handle: Option<HandleIndex>,
    ) -> Option<Vec<Cell>> {
        self.gone.extend(handle);
        let cells = self.cells(region, name, if_cell, &mut HashSet::new())?;
        Some(cells.into_iter().chain([if_cell]).collect())
    }

    /// Extra buffers to give back: those in the list of that netmap_if but those that a living port's ring or another
    /// list names, as a program may have put one there when it died. `None` if that is more than this call may
    /// still look at. A cell that was `seen` in another handle's list ends this one: honest lists never meet.
    fn cells(
        &mut self,
        region: &Region,
        name: &str,
        if_cell: Cell,
        seen: &mut HashSet<Cell>,
    ) -> Option<Vec<Cell>> {
        let before = seen.len();
        let Chain { cells, is_whole } = chain(region, if_cell, seen, self.links);
        self.links = self.links.saturating_sub((seen.len() - before) as u32);
        if !is_whole {
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
        mut cells: Vec<Cell>,
    ) -> Option<Vec<Cell>> {
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
        let (name, region) = (switch.name_at(index), switch.region_at(index));
        switch.unlist_port(lock, index);
        if let Some(name) = name {
            let file = usable(PortFile::open(switch.dir(), &port_file(&name)))?;
            let left = match region {
                None => Left::Nothing,
                Some(region) => self.what_is_left(index, region, file.as_ref())?,
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

    fn what_is_left(
        &mut self,
        index: PortIndex,
        name: String,
        file: Option<&PortFile>,
    ) -> Result<Left> {
        let Some(region) = usable(Region::open(self.switch.memory()?, &name))? else {
            return Ok(Left::Region(name)); // damaged or half made: of no use to anybody
        };
        // A port without a file may have been about to be made in what is another's alone.
        if region.ports_ever() <= 1 && file.is_some() {
            return Ok(Left::Region(name));
        }
        match self.others(&name, Some(index))?.map(|others| others.is_empty()) {
            None => return Ok(Left::Nothing),
            Some(true) => return Ok(Left::Region(name)),
            Some(false) => {}
        }
        // A sender may be in the middle of a batch to this port, and write on after it was unlisted.
        // Its ring is held for ever, so that nobody begins another; if that fails, the cells stay
        // unused until the region ends. The same if the port was never listed and has no file.
        let displaced: Vec<Cell> = file.into_iter().flat_map(PortFile::displaced).collect();
        let Some(file) = file.filter(|f| self.retire(f, &region)) else { return Ok(Left::Nothing) };
        let rings = &file.shape.rings;
        let mut cells: Vec<Cell> = rings.ring_cells().chain(displaced).collect();
        if has_the_buffers(self.switch, file, &region) {
            cells.extend(rings.buffers(&region));
        }
        // A process killed in the middle of a zero-copy exchange may have left a buffer in two rings.
        Ok(match self.unnamed(&region, &name, Some(index), cells) {
            Some(cells) => Left::Cells(region, cells),
            None => Left::Later,
        })
    }

    /// Holds all receive rings of a removed port for ever. False: some sender does not let go.
    fn retire(&mut self, file: &PortFile, region: &Region) -> bool {
        let start = *self.retiring_since.get_or_insert_with(Instant::now);
        RingNumber::first(file.shape.rings.rx.len()).all(|i| {
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
    /// told. An error: not now.
    fn others(&mut self, name: &str, but: Option<PortIndex>) -> Result<Option<Vec<&User>>> {
        let switch = self.switch;
        if self.users.is_none() {
            self.users = Some(users::all(switch.root(), switch.name(), &self.gone)?);
        }
        let here = self.users.as_ref().and_then(Option::as_ref).map(|users| {
            let is_that = |u: &User| u.switch == switch.name() && but == Some(u.index);
            users.iter().filter(|u| u.region == name && !is_that(u)).collect()
        });
        Ok(here)
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
        let (found, spent) = match self.others(name, but) {
            Ok(Some(others)) => users::cells_in_use(&others, region, budget),
            Ok(None) => (InUse::Unknown, 0),
            Err(_) => (InUse::Later, 0),
        };
        self.slots = budget - spent;
        if !matches!(found, InUse::Later) {
            self.in_use = Some((name.into(), but, found.clone()));
        }
        found
    }
}

/// What can be used of what was opened. An error: it could not be opened for want of something, which says nothing.
fn usable<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(e) if e.is_shortage() => Err(e),
        Err(_) => Ok(None),
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
    Cells(Region, Vec<Cell>),
}

#[cfg(test)]
mod tests;
