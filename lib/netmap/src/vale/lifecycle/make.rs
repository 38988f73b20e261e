//! Ports found or made, with their rings and files.
//!
//! ```text
//!  make: reserve a place - region, rings, buffers - files - list it
//! ```
//!
//! Runs under the root's lock and may die at any instruction: the next `reap` finds a place that is reserved but
//! not listed. Invariant: a port is listed when all that it consists of is there.

use std::sync::Arc;

use crate::error::{Damage, Error, Feature, Invalid, Result};
use crate::name::PipeName;
use crate::options::{Memory, MemoryRef, Options, SLOTS, Sizes};
use crate::ring::RingRef;
use crate::rings::{RingCells, cells_needed, make_rings};
use crate::shm::file;
use crate::shm::lock::RootLock;
use crate::shm::mem::{Region, cells_within};
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::portfile::{PortFile, Shape};
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::{Listed, NewName, port_file};
use crate::vale::state::watch::Watch;

/// Whether a port with these rings is what the options ask for; what they leave open fits anything.
fn fits(has: &RingCells, o: &Options) -> std::result::Result<(), Invalid> {
    let check = |what, asked: Option<u32>, has: u32| match asked {
        Some(asked) if asked != has => Err(Invalid::Shape { what, asked, has }),
        _ => Ok(()),
    };
    check("tx rings", o.tx_rings.map(u32::from), has.tx.len() as u32)?;
    check("rx rings", o.rx_rings.map(u32::from), has.rx.len() as u32)?;
    check("tx slots", o.tx_slots, has.tx_slots)?;
    check("rx slots", o.rx_slots, has.rx_slots)
}

/// Whether memory that is there has the size that the options ask for, or more.
fn is_roomy(region: &Region, o: &Options) -> std::result::Result<(), Invalid> {
    match o.memory_bytes {
        Some(asked) if region.cells() < cells_within(asked) => {
            Err(Invalid::MemoryTooSmall { asked, has: region.bytes() })
        }
        _ => Ok(()),
    }
}

/// A port's rings lie within its region, whatever its file says.
pub fn check_rings(shape: &Shape, region: &Region) -> Result<()> {
    for (cell, n) in shape.rings.all() {
        if RingRef::new(region, cell, n).is_none() {
            let path = region.path().to_path_buf();
            return Err(Error::Damaged { path, damage: Damage::Rings });
        }
    }
    Ok(())
}

/// The port of that name, made if there is none, and whether this process had it not open before. In memory
/// that is made for it there is room for so many cells beside its own.
pub fn find_or_make(
    switch: &Switch,
    lock: &RootLock,
    port: &str,
    options: &Options,
    room: u32,
) -> Result<(Arc<PortFiles>, bool)> {
    if let Some(listed) = switch.find(port) {
        return find(switch, &listed, options);
    }
    let sizes = Sizes::from_options(&format!("{}:{port}", switch.name()), options)?;
    make(switch, lock, &NewName::Port(port), sizes, options, room)
}

/// Makes a monitor: an entry of its own, with receive rings for those of the port that it sees.
pub fn make_monitor(
    switch: &Switch,
    lock: &RootLock,
    port: &str,
    options: &Options,
    watch: Watch,
) -> Result<(Arc<PortFiles>, bool)> {
    let full = format!("{}:{port}", switch.name());
    let none = || Error::NotFound { name: format!("port {full}") };
    let listed = switch.find(port).ok_or_else(none)?;
    let (seen, _) = shared::port(switch, port)?;
    let Shape { index, rings, region, .. } = &seen.file.shape;
    if *index != listed.index {
        let path = switch.dir().join(&port_file(port));
        return Err(Error::Damaged { path, damage: Damage::OtherPort });
    }
    if watch.zero_copy && seen.file.shape.peer.is_some() {
        return Err(Error::unsupported(full, Feature::BuffersOfPipes));
    }
    let most = rings.tx.len().max(rings.rx.len()) as u16;
    if let Some(asked) = options.rx_rings.filter(|&asked| asked != most) {
        let (what, asked, has) = ("rings", asked.into(), most.into());
        return Err(Error::invalid(full, Invalid::Shape { what, asked, has }));
    }
    let slots = options.rx_slots.unwrap_or(rings.tx_slots.max(rings.rx_slots));
    let memory = match (watch.zero_copy, is_in(&options.memory, region)) {
        (false, _) => options.memory.clone(),
        (true, true) => Memory::With(MemoryRef(region.clone())),
        (true, false) => return Err(Error::invalid(full, Invalid::Memory { has: region.clone() })),
    };
    let of_monitor = Options {
        // A port has at least one ring to send on. Nobody binds this one.
        tx_rings: Some(1),
        tx_slots: Some(*SLOTS.start()),
        rx_rings: Some(most),
        rx_slots: Some(slots),
        memory,
        ..options.clone()
    };
    let sizes = Sizes::from_options(&full, &of_monitor)?;
    let name = NewName::MonitorOf(port, Watch { of: Some(*index), ..watch });
    make(switch, lock, &name, sizes, &of_monitor, 0)
}

/// Whether a port in that region is what was asked for.
fn is_in(asked: &Memory, region: &str) -> bool {
    match asked {
        Memory::Private => true,
        Memory::Id(n) | Memory::Existing(n) => *n == memory::id(region),
        Memory::With(m) => m.0 == region,
    }
}

/// Makes an entry of the table with all that belongs to it, and lists it.
fn make(
    switch: &Switch,
    lock: &RootLock,
    name: &NewName<'_>,
    sizes: Sizes,
    options: &Options,
    room: u32,
) -> Result<(Arc<PortFiles>, bool)> {
    let full = format!("{}:{}", switch.name(), name.port());
    let needed = cells_needed(sizes).saturating_add(options.extra_bufs).saturating_add(1);
    let needed = needed.saturating_add(room);
    let memory = switch.memory()?;
    let chosen = memory::choose(lock, memory, &full, options)?;
    let cells = chosen.cells(&full, options, needed)?;
    let region_name = chosen.name;
    let (index, generation) = switch.reserve_port(lock, name, &region_name)?;
    let name = name.at(index);
    let region = match shared::region(memory, &region_name)? {
        Some(region) => {
            is_roomy(&region, options).map_err(|fault| Error::invalid(full, fault))?;
            region
        }
        None => shared::add_region(Region::create(memory, &region_name, cells)?),
    };
    region.count_port();
    let rings = make_rings(&region, sizes)?;
    let shape = Shape { index, generation, region: region_name, rings, peer: None };
    let (made, is_new) = make_file(switch, &name, shape.clone())
        .and_then(|()| shared::port(switch, &name))
        .inspect_err(|_| give_up(switch, &region, &[Made { name: &name, rings: &shape.rings }]))?;
    // Last: from now on senders open all of the above.
    switch.list_port(lock, index);
    Ok((made, is_new))
}

/// Makes the file of an entry that is not listed yet.
pub fn make_file(switch: &Switch, name: &str, shape: Shape) -> Result<()> {
    file::remove(switch.dir(), &port_file(name))?;
    PortFile::create(switch.dir(), &port_file(name), shape).map(drop)
}

/// What was made of a port that is not listed yet.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its rings.
    pub rings: &'a RingCells,
}

/// Gives back the cells of entries that were not listed and cannot be: with their files, so that nobody finds them
/// there and gives them back again.
#[cold]
pub fn give_up(switch: &Switch, region: &Region, made: &[Made<'_>]) {
    let gone = |made: &Made<'_>| file::remove(switch.dir(), &port_file(made.name)).is_ok();
    if made.iter().all(gone) {
        for Made { rings, .. } in made {
            region.give_back(rings.buffers(region).collect::<Vec<_>>());
            region.give_back(rings.ring_cells());
        }
    }
}

/// A port that is there, if it is what the options ask for, and whether this process had it not open before.
pub fn find(switch: &Switch, listed: &Listed, options: &Options) -> Result<(Arc<PortFiles>, bool)> {
    let (found, is_new) = shared::port(switch, &listed.name)?;
    let shape = &found.file.shape;
    if shape.index != listed.index || shape.peer.is_some() != PipeName::of(&listed.name).is_some() {
        return Err(Error::Damaged {
            path: switch.dir().join(&port_file(&listed.name)),
            damage: Damage::OtherPort,
        });
    }
    let misfit = fits(&shape.rings, options).and_then(|()| is_roomy(&found.region, options));
    let elsewhere = || Invalid::Memory { has: shape.region.clone() };
    let misfit = misfit.err().or_else(|| (!is_in(&options.memory, &shape.region)).then(elsewhere));
    match misfit {
        None => Ok((found, is_new)),
        Some(fault) => Err(Error::invalid(format!("{}:{}", switch.name(), listed.name), fault)),
    }
}
