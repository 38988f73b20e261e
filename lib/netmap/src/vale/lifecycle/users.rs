//! Who lives in a region, on whatever switch, and which of its cells they name: rings, the buffers in their
//! slots, netmap_ifs, lists of extra buffers.
//!
//! Invariant: a cell goes back only if nobody who lives names it. Programs write slots and lists, and may have
//! died while they moved a buffer from the one to the other, or have overwritten a list's links with packets.

use std::collections::HashSet;
use std::rc::Rc;

use crate::rings::chain;
use crate::shm::mem::{MAX_CELLS, Region};
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
    /// Its file.
    pub file: PortFile,
    /// The netmap_ifs of its handles.
    if_cells: Vec<u32>,
}

/// Cells that the living name.
#[derive(Clone, Debug)]
pub enum InUse {
    /// These.
    Known(Rc<HashSet<u32>>),
    /// It cannot be told. What may be among them stays unused until the region ends: better than used
    /// twice.
    Unknown,
    /// To look is the next call's.
    Later,
}

/// All ports of the root that can be opened; `None` if there are too many to look at. Handles of `switch` that
/// are `gone` do not count. Of other switches all do that are listed: who is dead there is its own reapers' business.
pub fn all(root: &Root, switch: &str, gone: &HashSet<HandleIndex>) -> Option<Vec<User>> {
    let mut opens = OPENS;
    let mut users = Vec::new();
    for name in root.switches().ok()? {
        opens = opens.checked_sub(1)?;
        let Ok(Some(there)) = Switch::open_existing(root, &name) else { continue };
        let mut handles: Vec<_> = there.handles().all().collect();
        handles.retain(|h| name != switch || !gone.contains(&h.index));
        for listed in there.list() {
            opens = opens.checked_sub(1)?;
            if let Ok(file) = PortFile::open(there.dir(), &port_file(&listed.name)) {
                let index = listed.index;
                let of = handles.iter().filter(|h| h.port == index).map(|h| h.if_cell).collect();
                users.push(User { switch: name.clone(), index, file, if_cells: of });
            }
        }
    }
    Some(users)
}

/// Cells of a region that these users name, and how many slots and links were looked at to find out: `budget` at
/// most, of which there must be three times `MAX_CELLS` for any honest region.
pub fn cells_in_use(users: &[&User], region: &Region, budget: u64) -> (InUse, u64) {
    let files: Vec<&PortFile> = users.iter().map(|user| &user.file).collect();
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
