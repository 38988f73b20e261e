//! Regions that only this process has, by name, so that several of its ports can be made in one and exchange buffers.
//!
//! Invariant: cells of such a region are given out by whoever holds the lock of `locked`. None comes back: the region ends with
//! the last port in it, and until then a port that exchanged buffers with another may name its cells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Result;
use crate::shm::mem::{RESERVED, Region};

static KNOWN: Mutex<Vec<Weak<Region>>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<Weak<Region>>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|region| region.strong_count() > 0);
    known
}

/// A new one, with room for two ports that need so many cells each.
pub fn make(cells: u32) -> Result<Arc<Region>> {
    let cells = cells.saturating_mul(2).saturating_add(RESERVED);
    let region = Arc::new(Region::anonymous(cells)?);
    known().push(Arc::downgrade(&region));
    Ok(region)
}

/// Its name: no region of a switch can have it.
pub fn name(region: &Region) -> String {
    let id = region.id();
    format!("private-{:x}-{:x}", id.device, id.inode)
}

/// The region of that name.
pub fn named(wanted: &str) -> Option<Arc<Region>> {
    known().iter().filter_map(Weak::upgrade).find(|region| name(region) == wanted)
}

/// Changes which cells are used, alone.
pub fn locked<T>(work: impl FnOnce() -> T) -> T {
    let _alone = known();
    work()
}
