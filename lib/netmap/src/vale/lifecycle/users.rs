//! Who lives in a region, on whatever switch, and which of its cells they name: rings, the buffers in their
//! slots, netmap_ifs, lists of extra buffers.
//!
//! Invariant: a cell goes back only if nobody who lives names it. Programs write slots and lists, and may have
//! died while they moved a buffer from the one to the other, or have overwritten a list's links with packets.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::rc::Rc;

use crate::error::{Errno, Error, Result};
use crate::rings::chain;
use crate::shm::mem::{Cell, MAX_CELLS, Region};
use crate::vale::lifecycle::named::named;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::ids::{HandleIndex, PortIndex};
use crate::vale::state::portfile::PortFile;
use crate::vale::state::switch::port_file;

/// Switches and ports that one call opens to find out who else uses a region.
pub const OPENS: u32 = 4096;

/// A port, on any switch, that lives in some region.
#[derive(Debug)]
pub struct User {
    /// Its switch.
    pub switch: String,
    /// Its index there.
    pub index: PortIndex,
    /// File name of the region that it lives in.
    pub region: String,
    /// Its file; `None`: it cannot be opened, so that nobody knows what the port names.
    file: Option<PortFile>,
    /// The netmap_ifs of its handles.
    if_cells: Vec<Cell>,
}

/// Cells that the living name.
#[derive(Clone, Debug)]
pub enum InUse {
    /// These.
    Known(Rc<HashSet<Cell>>),
    /// It cannot be told. What may be among them stays unused until the region ends: better than used
    /// twice.
    Unknown,
    /// To look is the next call's.
    Later,
}

/// All ports of the root, those among them that are half removed; `None` if there are too many to look at, or one
/// of the switches cannot be used. Handles of `switch` that are `gone` do not count. Of other switches all do: who is dead
/// there is its own reapers' business. An error: this process has too few descriptors, or too little memory, to find
/// out.
pub fn all(root: &Root, switch: &str, gone: &HashSet<HandleIndex>) -> Result<Option<Vec<User>>> {
    let (mut opens, mut users) = (0, Vec::new());
    for name in root.switches()? {
        opens += 1;
        let there = match Switch::open_existing(root, &name) {
            Ok(Some(there)) => there,
            Ok(None) if opens > OPENS => return Ok(None),
            Ok(None) => continue, // nobody is on it
            Err(e) if e.is_shortage() => return Err(e),
            // Others keep it to themselves, and their memory with it.
            Err(e) if e.errno() == Errno::EACCES => continue,
            Err(_) => return Ok(None),
        };
        let mut handles: Vec<_> = there.handles().all().collect();
        handles.retain(|h| name != switch || !gone.contains(&h.index));
        for index in PortIndex::all() {
            let Some(port) = there.name_at(index) else { continue };
            let Some(region) = there.region_at(index) else { continue };
            opens += 1;
            if opens > OPENS {
                return Ok(None);
            }
            let file = match PortFile::open(there.dir(), &port_file(&port)) {
                Ok(file) => Some(file),
                // Half made or half removed: it has no rings, or gives them back no more.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
                Err(e) if e.is_shortage() => return Err(e),
                Err(_) => None,
            };
            let region = file.as_ref().map_or(region, |file| file.shape.region.clone());
            let of = handles.iter().filter(|h| h.port == index).map(|h| h.if_cell).collect();
            users.push(User { switch: name.clone(), index, region, file, if_cells: of });
        }
    }
    Ok(Some(users))
}

/// Cells of a region that these users name, and how many slots and links were looked at to find out: `budget` at
/// most, of which there must be three times `MAX_CELLS` for any honest region.
pub fn cells_in_use(users: &[&User], region: &Region, budget: u64) -> (InUse, u64) {
    let files: Option<Vec<&PortFile>> = users.iter().map(|user| user.file.as_ref()).collect();
    let Some(files) = files else { return (InUse::Unknown, 0) };
    let slots_of = |file: &PortFile| file.shape.rings.all().map(|(_, n)| u64::from(n)).sum::<u64>();
    let slots: u64 = files.iter().map(|file| slots_of(file)).sum();
    let shared: u64 = files.iter().filter(|f| f.shape.peer.is_some()).map(|f| slots_of(f)).sum();
    // Each slot has a buffer of its own, but that of a pipe half of one: more buffers than cells are a lie.
    if slots - shared / 2 > u64::from(MAX_CELLS) {
        return (InUse::Unknown, 0);
    }
    let lists = u64::from(region.cells());
    if slots + lists > budget {
        return (InUse::Later, 0);
    }
    let (mut found, looks) = named(&files, region, (budget - lists) / slots.max(1));
    found.extend(files.iter().flat_map(|file| file.shape.rings.ring_cells()));
    let mut listed = HashSet::new();
    for &if_cell in users.iter().flat_map(|user| &user.if_cells) {
        found.insert(if_cell);
        chain(region, if_cell, &mut listed, u32::MAX); // it ends where it meets another, or itself
    }
    let spent = slots * looks + listed.len() as u64;
    found.extend(listed);
    (InUse::Known(Rc::new(found)), spent)
}

#[cfg(test)]
mod tests;
