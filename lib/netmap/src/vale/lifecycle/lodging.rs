//! Ports that are on no switch and yet have their buffers in a region of one, to exchange them with a port there.
//!
//! Such a port has no entry in a table: it is a lodger. Invariant: what it takes of the region is marked as used, and
//! goes back when it ends unless a port of some switch, or another lodger, names it by then.
//!
//! One that registers (`enter`) leaves a registration beside the regions: a bell, which it holds as long as it lives, and a port's file,
//! which says where its rings are. If it is killed, the next lodger of the root finds a bell that nobody holds, and gives
//! the cells back. NICs do not register: the kernel may write to the buffers of a dead process for a while. Their cells then stay
//! unused until the region ends, which is at once where the region was one port's own and that port was the same
//! process's, as with `nm-bridge`.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Errno, Error, Invalid, Result};
use crate::name::valid_name;
use crate::random::random;
use crate::rings::{RingCells, extra_buffers};
use crate::shm::bell::Bell;
use crate::shm::dir::Dir;
use crate::shm::file;
use crate::shm::mem::{Cell, Region};
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::users::{self, InUse};
use crate::vale::state::ids::{Generation, PortIndex};
use crate::vale::state::portfile::{PortFile, Shape};

/// Slots and links that are looked at to find out who else uses a region: those of a few full ones.
const LOOKS: u64 = 1 << 20;

/// What the bell of a lodger is called, but for its number; and the file beside it.
const BELL: &str = "lodger.";
const FILE: &str = ".port";
/// Names beside the regions that are looked at.
const NAMES: usize = 1 << 12;

/// A lodger's registration, which counts as long as this is held.
#[derive(Debug)]
pub struct Registration {
    _bell: Bell,
    name: String,
}

/// Cells of a region that a lodger has, or had.
#[derive(Debug)]
struct Had {
    /// File name of the region.
    name: String,
    region: Arc<Region>,
    cells: HashSet<Cell>,
}

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

    /// Does what changes the region, while nobody else does, and without what dead lodgers had.
    pub fn locked<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _lock = self.root.lock()?;
        self.clear_away();
        work()
    }

    /// Under that lock: registers a lodger with these rings.
    pub fn enter(&self, rings: &RingCells, if_cell: Cell) -> Result<Registration> {
        let memory = self.root.memory()?;
        let name = format!("{BELL}{:016x}", random());
        let taken = || Error::io("make a new file", memory.join(&name))(Errno::EEXIST);
        let bell = Bell::create(memory, &name)?.ok_or_else(taken)?;
        let registration = Registration { _bell: bell, name };
        let shape = Shape {
            index: PortIndex(0),
            // It has no life among ports; this is where its netmap_if is.
            generation: Generation(if_cell.0.into()),
            region: self.name.clone(),
            rings: rings.clone(),
            peer: None,
        };
        PortFile::create(memory, &(registration.name.clone() + FILE), shape)
            .inspect_err(|_| unregister(memory, &registration.name))?;
        Ok(registration)
    }

    /// Gives cells back but those that a port of some switch or another lodger names. If that cannot be told they stay
    /// unused.
    pub fn give_back(&self, registration: Option<Registration>, cells: HashSet<Cell>) {
        let Ok(_lock) = self.root.lock() else { return };
        if let (Some(registration), Ok(memory)) = (&registration, self.root.memory()) {
            unregister(memory, &registration.name);
        }
        let (name, region) = (self.name.clone(), self.region.clone());
        give_back(&self.root, &[Had { name, region, cells }]);
    }

    /// Gives back what dead lodgers of the root had.
    fn clear_away(&self) {
        let Ok(memory) = self.root.memory() else { return };
        let mut left = Vec::new();
        for (name, file) in registrations(memory) {
            if !Bell::is_held(memory, &name) {
                // First: who dies in between leaks cells, and nobody gives them back twice.
                unregister(memory, &name);
                left.extend(file.as_ref().and_then(|file| what_it_has(memory, file)));
            }
        }
        if !left.is_empty() {
            give_back(&self.root, &left);
        }
    }
}

/// The registrations of lodgers, alive or not: name of the bell, and the file as far as it makes sense.
fn registrations(memory: &Dir) -> Vec<(String, Option<PortFile>)> {
    let names = memory.names(NAMES).unwrap_or_default();
    let bells = names.iter().filter_map(|name| name.to_str()?.strip_suffix(FILE));
    let bells = bells.filter(|bell| bell.starts_with(BELL));
    bells
        .map(|bell| (bell.to_owned(), PortFile::open(memory, &format!("{bell}{FILE}")).ok()))
        .collect()
}

/// Removes a registration.
fn unregister(memory: &Dir, name: &str) {
    for name in [name, &format!("{name}{FILE}")] {
        let _ = file::remove(memory, name); // the next one's
    }
}

/// The cells that a lodger names.
fn what_it_has(memory: &Dir, file: &PortFile) -> Option<Had> {
    let shape = &file.shape;
    let region = shared::region(memory, &shape.region).ok()??;
    let if_cell = u32::try_from(shape.generation.0).map(Cell).ok()?;
    let mut cells: HashSet<Cell> = shape.rings.ring_cells().chain([if_cell]).collect();
    cells.extend(shape.rings.buffers(&region));
    cells.extend(extra_buffers(&region, if_cell));
    Some(Had { name: shape.region.clone(), region, cells })
}

/// Gives cells of regions back but those that somebody names. The root's lock is held.
fn give_back(root: &Root, left: &[Had]) {
    let Ok(Some(all)) = users::all(root, "", &HashSet::new()) else { return };
    let Ok(memory) = root.memory() else { return };
    let lodgers: Vec<_> = registrations(memory)
        .iter()
        .filter_map(|(_, file)| what_it_has(memory, file.as_ref()?))
        .collect();
    for Had { name, region, cells } in left {
        let here: Vec<_> = all.iter().filter(|user| user.region == *name).collect();
        if let (InUse::Known(used), _) = users::cells_in_use(&here, region, LOOKS) {
            let others = lodgers.iter().filter(|other| other.name == *name);
            let others: HashSet<Cell> =
                others.flat_map(|other| other.cells.iter().copied()).collect();
            let free = cells.iter().filter(|cell| !used.contains(cell) && !others.contains(cell));
            region.give_back(free.copied());
        }
    }
}
