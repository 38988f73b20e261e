//! Opening and closing: how ports and handles come and go.
//!
//! ```text
//!  open:  lock root - reap - find or make the port - enter the handle - unlock
//!  close: lock root - remove the handle - reap - unlock
//!  make:  reserve a place - region, rings, buffers - files - list it
//! ```
//!
//! Everything here runs under the root's lock and may die at any instruction: the lock goes with
//! the process, and the next `reap` finds a place that is reserved but not listed, or a handle
//! whose process is gone, and removes it with its files. Invariant: a port's files are removed
//! before its place is free, so a name is never reused with old files in the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::name::valid_name;
use crate::options::{BoundRings, Memory, Options, Sizes};
use crate::random::random;
use crate::ring::RingRef;
use crate::rings::{RingCells, make_if, make_rings, populate};
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::mem::Region;
use crate::vale::lifecycle::reap::{self, Sweep, reap};
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::{Opened, Switch};
use crate::vale::state::portfile::{PortFile, Shape};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::{EXCLUSIVE, HandleId, index_of, port_file};

/// How long an opener goes on clearing away what a port of that name left behind.
const CLEARING_PATIENCE: Duration = Duration::from_secs(10);

/// A handle on a VALE port.
#[derive(Debug)]
pub struct Attached {
    /// The switch; its open file keeps the handle alive.
    pub switch: Arc<Switch>,
    /// The port.
    pub port: Arc<PortFiles>,
    /// Identity of the handle.
    pub id: HandleId,
    /// Cell of the handle's netmap_if.
    pub if_cell: u32,
    /// Rings that the handle binds.
    pub bound: BoundRings,
}

/// Opens `switch:port`, making what is missing. `bound` tells which rings the handle binds, given
/// the port's shape.
pub fn open(
    root: &Root,
    switch_name: &str,
    port: &str,
    options: &Options,
    bound: impl Fn(&Shape) -> Result<BoundRings>,
) -> Result<Attached> {
    let full = format!("{switch_name}:{port}");
    let (lock, switch) = lock_for_new(root, switch_name, port)?;
    // From here on an error leaves a port without handles, perhaps a switch without ports.
    let opened = (|| {
        let (port, is_new) = find_or_make(&switch, &lock, port, options)?;
        let shape = &port.file.shape;
        check_rings(shape, &port.region)?;
        let users = switch.live_handles().into_iter().filter(|h| h.port == shape.index);
        let taken = users.into_iter().find(|h| options.exclusive || h.flags & EXCLUSIVE != 0);
        if let Some(user) = taken {
            let how = if options.exclusive { "it is in use" } else { "it is open exclusively" };
            let why = format!("{how} by process {}", user.pid);
            return Err(Error::Busy { name: full.clone(), why });
        }
        let bound = bound(shape)?;
        let extra = options.extra_bufs;
        let if_cell = make_if(&port.region, &shape.rings, &full, &bound, extra)?;
        let flags = if options.exclusive { EXCLUSIVE } else { 0 };
        match switch.add_handle(&lock, shape.index, if_cell, flags) {
            Ok(id) => Ok((Attached { switch: switch.clone(), port, id, if_cell, bound }, is_new)),
            Err(e) => {
                let mut sweep = Sweep::new(&switch);
                let cells = sweep.cells_of_if(&port.region, &shape.region, if_cell);
                port.region.give_back(cells);
                Err(e)
            }
        }
    })();
    match opened {
        Ok((attached, is_new)) => {
            drop(lock);
            if is_new {
                populate(&attached.port.file.shape.rings, &attached.port.region);
            }
            Ok(attached)
        }
        Err(e) => {
            let _ = reap(&switch, &lock); // the first error is the one to report
            Err(e)
        }
    }
}

/// Takes the root's lock and opens a switch, making it if there is none, once nothing is left of an
/// earlier port of that name.
pub fn lock_for_new(root: &Root, switch: &str, port: &str) -> Result<(RootLock, Arc<Switch>)> {
    let start = Instant::now();
    loop {
        let lock = root.lock()?;
        let (opened, rest) = open_switch(root, &lock, switch)?;
        if !rest.iter().any(|&index| opened.entry(index).0.as_deref() == Some(port)) {
            return Ok((lock, opened));
        }
        // Each reaping does a bounded part of the work; others get the lock in between.
        if start.elapsed() > CLEARING_PATIENCE {
            let why = "what its last users left behind is still being cleared away; try again";
            return Err(Error::Busy { name: format!("{switch}:{port}"), why: why.into() });
        }
    }
}

/// Opens a switch without what the dead left on it, making it if there is none, or none any more;
/// returns it with the ports that are dead and not cleared away yet.
pub fn open_switch(root: &Root, lock: &RootLock, name: &str) -> Result<(Arc<Switch>, Vec<u8>)> {
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
    /// Closes the handle; with the last one goes the port, with the last port the switch.
    pub fn close(&self) -> Result<()> {
        let lock = self.switch.root().lock()?;
        let PortFiles { file, region, .. } = &*self.port;
        let name = &file.shape.region;
        let cells = Sweep::new(&self.switch).cells_of_if(region, name, self.if_cell);
        self.switch.remove_handle(&lock, index_of(self.id));
        // After the handle: who dies in between leaks cells, who did it the other way round
        // would have them given back twice.
        region.give_back(cells);
        // Somebody removed the switch's directory: what was this port's alone goes with its user.
        if !self.switch.is_current() && region.ports_ever() <= 1 {
            region.remove(self.switch.memory()?, name)?;
        }
        reap(&self.switch, &lock).map(drop)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.close().is_err() {
            // The next reaper's: others of this process may have the switch's file open for long.
            self.switch.abandon(self.id);
        }
    }
}

/// Whether a port with these rings is what the options ask for; what they leave open fits anything.
fn fits(has: &RingCells, o: &Options) -> std::result::Result<(), String> {
    let check = |what, asked: Option<u32>, has: u32| match asked {
        Some(n) if n != has => Err(format!("it has {has} {what}, not {n}")),
        _ => Ok(()),
    };
    check("tx rings", o.tx_rings.map(u32::from), has.tx.len() as u32)?;
    check("rx rings", o.rx_rings.map(u32::from), has.rx.len() as u32)?;
    check("tx slots", o.tx_slots, has.tx_slots)?;
    check("rx slots", o.rx_slots, has.rx_slots)
}

/// A port's rings lie within its region, whatever its file says.
fn check_rings(shape: &Shape, region: &Region) -> Result<()> {
    for (cell, n) in shape.rings.all() {
        if RingRef::new(region, cell, n).is_none() {
            let path = region.path().to_path_buf();
            let why = "the port's rings lie beyond its end; close the port in all programs";
            return Err(Error::Damaged { path, why: why.into() });
        }
    }
    Ok(())
}

/// The port of that name, made if there is none, and whether this process had it not open before.
pub fn find_or_make(
    switch: &Switch,
    lock: &RootLock,
    port: &str,
    options: &Options,
) -> Result<(Arc<PortFiles>, bool)> {
    let full = format!("{}:{port}", switch.name());
    if let Some(listed) = switch.find(port) {
        let (found, is_new) = shared::port(switch, port, true)?;
        let shape = &found.file.shape;
        if shape.index != listed.index {
            return Err(Error::Damaged {
                path: switch.dir().join(&port_file(port)),
                why: "it belongs to another port; close the port in all programs".into(),
            });
        }
        let misfit = fits(&shape.rings, options).err().or_else(|| match &options.memory {
            Memory::Private => None,
            Memory::Id(n) if n.to_string() == shape.region => None,
            Memory::With(m) if m.0 == shape.region => None,
            Memory::Id(_) | Memory::With(_) => {
                Some(format!("its memory region is {}", shape.region))
            }
        });
        return match misfit {
            None => Ok((found, is_new)),
            Some(why) => Err(Error::Invalid {
                name: full,
                why: format!("the port is open already and {why}; ask for what it has"),
            }),
        };
    }
    let sizes = Sizes::from_options(&full, options)?;
    let region_name = match &options.memory {
        Memory::Private => format!("p{:015x}", random() >> 4),
        Memory::Id(n) => n.to_string(),
        Memory::With(m) => m.0.clone(),
    };
    if !valid_name(&region_name) {
        return Err(Error::Invalid {
            name: full,
            why: "the other port's memory cannot be shared: it is not a VALE port's".into(),
        });
    }
    let (index, generation) = switch.reserve_port(lock, port, &region_name)?;
    let memory = switch.memory()?;
    let region = match shared::region(memory, &region_name)? {
        Some(region) => region,
        None => shared::add_region(Region::create(memory, &region_name)?),
    };
    region.count_port();
    let rings = make_rings(&region, sizes)?;
    let shape = Shape { index, generation, region: region_name, rings };
    file::remove(switch.dir(), &port_file(port))?;
    PortFile::create(switch.dir(), &port_file(port), shape)?;
    let (made, is_new) = shared::port(switch, port, true)?;
    // Last: from now on senders open all of the above.
    switch.activate_port(lock, index);
    Ok((made, is_new))
}
