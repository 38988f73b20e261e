//! Ports that are on no switch and yet have their buffers in a region of one, to exchange them with a port there.
//!
//! Such a port has no entry in a table: it is a lodger. Invariant: what it takes of the region is marked as used, and
//! goes back when it ends unless a port of some switch names it by then. If its process is killed, its cells stay
//! unused until the region ends, which is at once where the region was one port's own and that port was the same
//! process's, as with `nm-bridge`.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Invalid, Result};
use crate::name::valid_name;
use crate::shm::mem::Region;
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::users::{self, InUse};

/// Slots and links that are looked at to find out who else uses a region: those of a few full ones.
const LOOKS: u64 = 1 << 20;

/// A place in a region of a root.
#[derive(Debug)]
pub struct Lodging {
    root: Root,
    name: String,
    region: Arc<Region>,
}

/// A place in the region of that file name; `None`: it is none of this root.
pub fn named(name: &str) -> Result<Option<Lodging>> {
    if !valid_name(name) {
        return Ok(None);
    }
    let root = Root::open()?;
    let region = shared::region(root.memory()?, name)?;
    Ok(region.map(|region| Lodging { root, name: name.to_owned(), region }))
}

/// A place in the region of that number, which is there.
pub fn numbered(port: &str, id: u16) -> Result<Option<Lodging>> {
    let root = Root::open()?;
    match memory::find(root.memory()?, id)? {
        Some(name) => named(&name),
        None => Err(Error::invalid(port, Invalid::NoMemory { id })),
    }
}

impl Lodging {
    /// The region.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Its file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does what changes the region, while nobody else does.
    pub fn locked<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _lock = self.root.lock()?;
        work()
    }

    /// Gives cells back but those that a port of some switch names. If that cannot be told they stay unused.
    pub fn give_back(&self, mut cells: Vec<u32>) {
        let Ok(_lock) = self.root.lock() else { return };
        let Ok(Some(all)) = users::all(&self.root, "", &HashSet::new()) else { return };
        let here: Vec<_> = all.iter().filter(|user| user.region == self.name).collect();
        if let (InUse::Known(used), _) = users::cells_in_use(&here, &self.region, LOOKS) {
            cells.retain(|cell| !used.contains(cell));
            self.region.give_back(cells);
        }
    }
}
