//! Opening and closing: how ports and handles come and go.
//!
//! ```text
//!  open:  lock root - reap - find or make the port - enter the handle - unlock
//!  close: lock root - remove the handle - reap - unlock
//! ```
//!
//! Everything here runs under the root's lock and may die at any instruction: the lock goes with
//! the process, and the next `reap` finds a place that is reserved but not listed, or a handle
//! whose process is gone, and removes it with its files. Invariant: a port's files are removed
//! before its place is free, so a name is never reused with old files in the way.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Damage, Error, InUse, Lack, Result};
use crate::name::{PipeName, SwitchPort, parse_switch};
use crate::options::{BoundRings, Options};
use crate::rings::{bind_if, make_if, populate};
use crate::shm::bell::Bell;
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::mem::Cell;
use crate::vale::lifecycle::make::{check_rings, find_or_make, make_monitor};
use crate::vale::lifecycle::pipe;
use crate::vale::lifecycle::reap::{self, Sweep, reap};
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::{Opened, Switch};
use crate::vale::lifecycle::{loan, offsets};
use crate::vale::state::handles::{EXCLUSIVE, ListedHandle, NewHandle, bell_file, bell_index};
use crate::vale::state::handleset::HANDLES;
use crate::vale::state::ids::{HandleId, HandleIndex, PortIndex, RingNumber};
use crate::vale::state::portfile::Shape;
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::port_file;
use crate::vale::state::watch::Watch;

/// How long an opener goes on clearing away what a port of that name left behind.
const LONGEST_CLEARING: Duration = Duration::from_secs(10);

/// A handle as whoever opened it has it.
#[derive(Debug)]
pub struct Handle {
    /// Its bell.
    pub bell: Bell,
    /// What it is on.
    pub at: Attached,
}

/// A handle on a VALE port, as this process has it beside its bell. The bell is closed first: the handle
/// then goes unless somebody else has a copy of it.
#[derive(Debug)]
pub struct Attached {
    /// The switch.
    pub switch: Arc<Switch>,
    /// The port.
    pub port: Arc<PortFiles>,
    /// The other end, if the port is one of a pipe.
    pub peer: Option<Arc<PortFiles>>,
    /// Identity of the handle.
    pub id: HandleId,
    /// Cell of the handle's netmap_if.
    pub if_cell: Cell,
    /// Rings that the handle binds.
    pub bound: BoundRings,
}

/// Opens `switch:port`, making what is missing. `bound` tells which rings the handle binds, given
/// the port's shape.
pub fn open(
    root: &Root,
    switch: &str,
    port: &str,
    options: &Options,
    bound: impl Fn(&Shape) -> Result<BoundRings>,
) -> Result<Handle> {
    attach(root, SwitchPort { switch, port }, options, bound, |switch, lock, port, options| {
        match PipeName::of(port) {
            None => find_or_make(switch, lock, port, options, 0),
            Some(pipe) => pipe::find_or_make(switch, lock, pipe, options),
        }
    })
}

/// Opens a new monitor of a port, which is there.
pub fn open_monitor(
    root: &Root,
    seen: SwitchPort<'_>,
    watch: Watch,
    options: &Options,
    bound: impl Fn(&Shape) -> Result<BoundRings>,
) -> Result<Handle> {
    attach(root, seen, options, bound, |switch, lock, port, options| {
        make_monitor(switch, lock, port, options, watch)
    })
}

/// Opens what `make` finds or makes.
fn attach(
    root: &Root,
    SwitchPort { switch: switch_name, port }: SwitchPort<'_>,
    options: &Options,
    bound: impl Fn(&Shape) -> Result<BoundRings>,
    make: impl FnOnce(&Switch, &RootLock, &str, &Options) -> Result<(Arc<PortFiles>, bool)>,
) -> Result<Handle> {
    let full = format!("{switch_name}:{port}");
    let (lock, switch) = lock_for_new(root, switch_name, port)?;
    // From here on an error leaves a port without handles, perhaps a switch without ports.
    let opened = (|| {
        let (port, is_new) = make(&switch, &lock, port, options)?;
        let shape = &port.file.shape;
        check_rings(shape, &port.region)?;
        let peer = pipe::other_end(&switch, &port)?;
        let bound = bound(shape)?;
        let mut users = switch.live_handles_of(shape.index).filter(|h| h.bound.shares(&bound));
        let taken = users.find(|h| options.exclusive || h.flags & EXCLUSIVE != 0);
        if let Some(user) = taken {
            let pid = user.pid;
            let by = match options.exclusive {
                true => InUse::Open { pid },
                false => InUse::Exclusively { pid },
            };
            return Err(Error::Busy { name: full.clone(), by });
        }
        if let Some(peer) = &peer
            && switch.live_handles_of(shape.index).next().is_none()
        {
            pipe::resume(&port, peer);
        }
        offsets::end(&switch, &lock, shape.index, None);
        if let Some(asked) = &options.offsets {
            offsets::set(&switch, &lock, &port, &full, asked)?;
        }
        let extra = options.extra_bufs;
        let if_cell = make_if(&port.region, &shape.rings, &full, &bound, extra)?;
        let flags = if options.exclusive { EXCLUSIVE } else { 0 };
        let new = NewHandle { port: shape.index, if_cell, flags, bound: &bound, loan: None };
        match enter(&switch, &lock, &new) {
            Ok((bell, id)) => {
                if peer.is_none() {
                    switch.activate_port(&lock, shape.index);
                }
                let switch = switch.clone();
                Ok((
                    Handle { bell, at: Attached { switch, port, peer, id, if_cell, bound } },
                    is_new,
                ))
            }
            Err(e) => {
                let mut sweep = Sweep::new(&switch);
                let cells = sweep.cells_of_if(&port.region, &shape.region, if_cell, None);
                port.region.give_back(cells.unwrap_or_default());
                Err(e)
            }
        }
    })();
    match opened {
        Ok((handle, is_new)) => {
            drop(lock);
            if is_new {
                populate(&handle.at.port.file.shape.rings, &handle.at.port.region);
            }
            Ok(handle)
        }
        Err(e) => {
            let _ = reap(&switch, &lock); // the first error is the one to report
            Err(e)
        }
    }
}

/// Enters a handle, with a bell of its own.
fn enter(switch: &Switch, lock: &RootLock, new: &NewHandle<'_>) -> Result<(Bell, HandleId)> {
    switch.me()?; // before anybody hears of it
    for index in (0..HANDLES as u32).map(HandleIndex) {
        // A free entry whose bell is held is one that a peer has scribbled over: the next one will do.
        if switch.handles().get(index).is_none()
            && let Some(bell) = Bell::create(switch.dir(), &bell_file(index))?
        {
            return Ok((bell, switch.enter_handle(lock, index, new)));
        }
    }
    Err(switch.no_free_handle())
}

/// Takes over the handle that a descriptor names: its bell, opened by `open` in whatever process.
pub fn adopt(fd: OwnedFd) -> Result<Handle> {
    let place = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = std::fs::read_link(&place).map_err(Error::io("look up the descriptor", place))?;
    let no_handle = || Error::Unavailable { name: path.display().to_string(), lack: Lack::Handle };
    let part = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let index = part(&path).and_then(|name| bell_index(&name)).ok_or_else(no_handle)?;
    let dir = path.parent().ok_or_else(no_handle)?;
    let name = part(dir).filter(|name| parse_switch(name).is_ok()).ok_or_else(no_handle)?;
    let root = Root::existing_at(dir.parent().ok_or_else(no_handle)?)?.ok_or_else(no_handle)?;

    let lock = root.lock()?;
    let switch = shared::existing_switch(&root, &name)?.ok_or_else(no_handle)?;
    let bell = Bell::of_owner(fd, switch.dir(), &bell_file(index)).ok_or_else(no_handle)?;
    let entry = switch.handles().get(index).ok_or_else(no_handle)?;
    let listed = switch.listed(entry.port).ok_or_else(no_handle)?;
    let (port, is_new) = shared::port(&switch, &listed.name)?;
    let shape = &port.file.shape;
    check_rings(shape, &port.region)?;
    let within = |rings: &[RingNumber], n: usize| rings.iter().all(|i| i.at() < n);
    if (shape.index, shape.generation) != (listed.index, listed.generation)
        || !within(&entry.bound.tx, shape.rings.tx.len())
        || !within(&entry.bound.rx, shape.rings.rx.len())
    {
        return Err(Error::Damaged {
            path: switch.dir().join(&port_file(&listed.name)),
            damage: Damage::OtherPort,
        });
    }
    let peer = pipe::other_end(&switch, &port)?;
    switch.me()?;
    switch.handles().take(&lock, index);
    drop(lock);
    if is_new {
        populate(&port.file.shape.rings, &port.region);
    }
    let ListedHandle { id, if_cell, bound, .. } = entry;
    Ok(Handle { bell, at: Attached { switch, port, peer, id, if_cell, bound } })
}

/// Takes the root's lock and opens a switch, making it if there is none, once nothing is left of an
/// earlier port of that name.
pub fn lock_for_new(root: &Root, switch: &str, port: &str) -> Result<(RootLock, Arc<Switch>)> {
    let start = Instant::now();
    loop {
        let lock = root.lock()?;
        let (opened, rest) = open_switch(root, &lock, switch)?;
        let pipe = PipeName::of(port).map(|pipe| (pipe.base, pipe.peer().to_string()));
        let needed = |left: &str| {
            left == port || pipe.as_ref().is_some_and(|(base, peer)| left == *base || left == peer)
        };
        if !rest.iter().any(|&index| opened.name_at(index).is_some_and(|left| needed(&left))) {
            return Ok((lock, opened));
        }
        // Each reaping does a bounded part of the work; others get the lock in between.
        if start.elapsed() > LONGEST_CLEARING {
            return Err(Error::Busy { name: format!("{switch}:{port}"), by: InUse::ClearingAway });
        }
    }
}

/// Opens a switch without what the dead left on it, making it if there is none, or none any more;
/// returns it with the ports that are dead and not cleared away yet.
pub fn open_switch(
    root: &Root,
    lock: &RootLock,
    name: &str,
) -> Result<(Arc<Switch>, Vec<PortIndex>)> {
    let (switch, how) = shared::switch(root, lock, name)?;
    if how == Opened::Replaced {
        reap::remove_orphans(root, lock)?;
    }
    if how != Opened::Found {
        return Ok((switch, Vec::new()));
    }
    let rest = reap(&switch, lock)?;
    // If only the dead were on it, it is gone now and `switch` is a file without a name.
    Ok((shared::switch(root, lock, name)?.0, rest))
}

impl Attached {
    /// Index of the handle.
    #[inline]
    pub fn index(&self) -> HandleIndex {
        self.id.index
    }

    /// Name of its bell.
    pub fn bell(&self) -> String {
        bell_file(self.index())
    }

    /// Lets a new handle have some of the rings; they are no longer this one's.
    pub fn give_away(&mut self, rings: BoundRings) -> Result<Handle> {
        let lock = self.switch.root().lock()?;
        let PortFiles { file, region, .. } = &*self.port;
        let shape = &file.shape;
        let listed = self.switch.listed(shape.index).filter(|l| l.generation == shape.generation);
        let entry = self.switch.handles().get(self.index()).filter(|h| h.id == self.id);
        let (Some(listed), Some(entry)) = (listed, entry) else {
            return Err(Error::NotFound {
                name: format!("port of {} any more", self.switch.name()),
            });
        };
        let full = format!("{}:{}", self.switch.name(), listed.name);
        let if_cell = make_if(region, &shape.rings, &full, &rings, 0)?;
        let ListedHandle { flags, loan, .. } = entry;
        let new = NewHandle { port: shape.index, if_cell, flags, bound: &rings, loan };
        let (bell, id) =
            enter(&self.switch, &lock, &new).inspect_err(|_| region.give_back([if_cell]))?;
        self.bound = self.bound.without(&rings);
        self.switch.handles().bind(&lock, self.index(), &self.bound);
        bind_if(region, &shape.rings, self.if_cell, &self.bound);
        let (switch, port, peer) = (self.switch.clone(), self.port.clone(), self.peer.clone());
        Ok(Handle { bell, at: Self { switch, port, peer, id, if_cell, bound: rings } })
    }

    /// Closes the handle, if nobody has a copy of its bell any more; with the last handle goes the port,
    /// with the last port the switch.
    fn close(&self) -> Result<()> {
        let lock = self.switch.root().lock()?;
        let index = self.index();
        let entry = self.switch.handles().get(index).filter(|h| h.id == self.id);
        if let Some(entry) = entry {
            if self.switch.is_alive(index) {
                return Ok(());
            }
            let PortFiles { file, region, .. } = &*self.port;
            let name = &file.shape.region;
            let mut sweep = Sweep::new(&self.switch);
            // What cannot be told now is a dead handle's from now on, and the next reaper's.
            if let Some(cells) = sweep.cells_of_if(region, name, self.if_cell, Some(index)) {
                // Who sees a port that goes has its last packets still to read.
                if self.switch.port_is_kept(entry.port) {
                    loan::end(&self.switch, &lock, &entry);
                }
                offsets::end(&self.switch, &lock, entry.port, Some(entry.id));
                self.switch.handles().free(&lock, index);
                let _ = file::remove(self.switch.dir(), &self.bell()); // the next one of that index does
                // After the handle: who dies in between leaks cells, who did it the other way round
                // would have them given back twice.
                region.give_back(cells);
            }
            // Somebody removed the switch's directory: what was this port's alone goes with its user.
            if !self.switch.is_current() && region.ports_ever() <= 1 {
                region.remove(self.switch.memory()?, name)?;
            }
        }
        reap(&self.switch, &lock).map(drop)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.close(); // what is left is the next reaper's
    }
}

#[cfg(test)]
mod tests;
