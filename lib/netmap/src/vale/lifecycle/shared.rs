//! What a process has open, once for all its handles: switches, ports' files, regions.
//!
//! Invariant: what is shared is what the name leads to now, and says what it said when it was opened; else
//! it is opened anew, with an error that says what is wrong. Nothing is kept open by being known here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Result;
use crate::shm::dir::Dir;
use crate::shm::file::FileId;
use crate::shm::fork;
use crate::shm::lock::RootLock;
use crate::shm::mem::Region;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::{Opened, Switch};
use crate::vale::state::portfile::PortFile;
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::port_file;

static SWITCHES: Mutex<Vec<Weak<Switch>>> = Mutex::new(Vec::new());
static REGIONS: Mutex<Vec<Weak<Region>>> = Mutex::new(Vec::new());

fn lock<T>(known: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of those still open that `is` wants; those that are not are forgotten.
fn find<T>(known: &mut Vec<Weak<T>>, is: impl Fn(&T) -> bool) -> Option<Arc<T>> {
    known.retain(|weak| weak.strong_count() > 0);
    known.iter().filter_map(Weak::upgrade).find(|found| is(found))
}

/// The switch of that name, made if there is none.
pub fn switch(root: &Root, root_lock: &RootLock, name: &str) -> Result<(Arc<Switch>, Opened)> {
    let _section = fork::section();
    let mut known = lock(&SWITCHES);
    if let Some(found) = find(&mut known, |s: &Switch| is_that(s, root, name)) {
        return Ok((found, Opened::Found));
    }
    let (switch, how) = Switch::open_or_create(root, root_lock, name)?;
    let switch = Arc::new(switch);
    known.push(Arc::downgrade(&switch));
    Ok((switch, how))
}

/// The region of that name; `None` if there is none.
pub fn region(memory: &Dir, name: &str) -> Result<Option<Arc<Region>>> {
    let Ok(there) = memory.stat_at(name) else { return Ok(None) };
    let _section = fork::section();
    let mut known = lock(&REGIONS);
    if let Some(found) = find(&mut known, |r: &Region| r.id() == FileId::from(&there)) {
        return Ok(Some(found));
    }
    let region = Arc::new(Region::open(memory, name)?);
    known.push(Arc::downgrade(&region));
    Ok(Some(region))
}

/// Makes a new region known.
pub fn add_region(region: Region) -> Arc<Region> {
    let _section = fork::section();
    let region = Arc::new(region);
    lock(&REGIONS).push(Arc::downgrade(&region));
    region
}

/// The switch of that name, if there is one.
pub fn existing_switch(root: &Root, name: &str) -> Result<Option<Arc<Switch>>> {
    let _section = fork::section();
    let mut known = lock(&SWITCHES);
    if let Some(found) = find(&mut known, |s: &Switch| is_that(s, root, name)) {
        return Ok(Some(found));
    }
    let switch = Switch::open_existing(root, name)?.map(Arc::new);
    known.extend(switch.as_ref().map(Arc::downgrade));
    Ok(switch)
}

fn is_that(switch: &Switch, root: &Root, name: &str) -> bool {
    switch.name() == name && switch.root().is_same(root) && switch.is_current() && switch.is_whole()
}

/// The files of the port `name` of a switch, and whether they were opened just now.
pub fn port(switch: &Switch, name: &str) -> Result<(Arc<PortFiles>, bool)> {
    let _section = fork::section();
    let mut known = lock(switch.ports());
    let there = switch.dir().stat_at(&port_file(name)).ok().map(|s| FileId::from(&s));
    let here = |p: &PortFiles| Some(p.file.id()) == there && p.file.is_as_opened();
    if let Some(found) = find(&mut known, here) {
        return Ok((found, false));
    }
    let file = PortFile::open(switch.dir(), &port_file(name))?;
    let memory = switch.memory()?;
    let region = match region(memory, &file.shape.region)? {
        Some(region) => region,
        None => Arc::new(Region::open(memory, &file.shape.region)?), // the error says why
    };
    let files = Arc::new(PortFiles { file, region });
    known.push(Arc::downgrade(&files));
    Ok((files, true))
}
