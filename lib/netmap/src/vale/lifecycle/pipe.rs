//! Pipes come and go: both ends at once, with their rings, in the memory of their base.
//!
//! Invariant: while one end is in use, the other and the base stay (`alive`), so the rings of an end whose user
//! died go on with its next one. Buffers belong to both ends and are given back once, with the end that
//! goes last.

use std::sync::Arc;

use crate::abi::SlotFlags;
use crate::error::{Damage, Error, Result};
use crate::name::{PipeEnd, PipeName};
use crate::options::{Options, Sizes};
use crate::rings::{cells_needed, make_pipe_rings};
use crate::shm::lock::RootLock;
use crate::sync::core_atomic::Ordering;
use crate::vale::lifecycle::make::{
    Made, check_rings, find, find_or_make as find_or_make_base, give_up, make_file,
};
use crate::vale::lifecycle::shared;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::ids::{PortId, RingNumber};
use crate::vale::state::portfile::Shape;
use crate::vale::state::portfiles::PortFiles;
use crate::vale::state::switch::{NewName, port_file};

/// Most pipes of one port.
pub const MAX_PIPES: usize = 64;

/// That end of a pipe, made with the other one, and its base, if there is none; and whether this process had
/// it not open before.
pub fn find_or_make(
    switch: &Switch,
    lock: &RootLock,
    pipe: PipeName<'_>,
    options: &Options,
) -> Result<(Arc<PortFiles>, bool)> {
    let name = pipe.to_string();
    let full = format!("{}:{name}", switch.name());
    let of_base = Options {
        memory: options.memory.clone(),
        memory_bytes: options.memory_bytes,
        ..Options::default()
    };
    // Rings twice, each pair with one set of buffers.
    let rings = cells_needed(Sizes::from_options(&full, options)?).saturating_mul(2);
    let room = rings.saturating_add(options.extra_bufs);
    let (base, _) = find_or_make_base(switch, lock, pipe.base, &of_base, room)?;
    if let Some(listed) = switch.find(&name) {
        return find(switch, &listed, options);
    }
    let ports = switch.list();
    let pipes = ports.iter().filter_map(|l| PipeName::of(&l.name));
    let taken = pipes.filter(|p| p.base == pipe.base && p.end == PipeEnd::Master).count();
    if taken >= MAX_PIPES {
        let what = "the port has no room for another pipe";
        return Err(Error::Limit { name: full, what, limit: MAX_PIPES as u64 });
    }
    let has = base.file.shape.rings.slots();
    let (tx_slots, rx_slots) =
        (options.tx_slots.or(Some(has.tx)), options.rx_slots.or(Some(has.rx)));
    let sizes = Sizes::from_options(&full, &Options { tx_slots, rx_slots, ..options.clone() })?;

    let region = &base.region;
    let names = [name, pipe.peer().to_string()];
    let mut places = Vec::new();
    for name in &names {
        places.push(switch.reserve_port(lock, &NewName::Port(name), &base.file.shape.region)?);
        region.count_port();
    }
    let (one, other) = make_pipe_rings(region, sizes)?;
    let rings = [&one, &other];
    let shape = |at: usize| {
        let (index, generation) = places[at];
        let (peer_index, peer_generation) = places[1 - at];
        let peer = Some(PortId { index: peer_index, generation: peer_generation });
        let region = base.file.shape.region.clone();
        Shape { index, generation, region, rings: rings[at].clone(), peer }
    };
    let made = (0..2)
        .try_for_each(|at| make_file(switch, &names[at], shape(at)))
        .and_then(|()| shared::port(switch, &names[0]))
        .inspect_err(|_| {
            let made = |at: usize| Made { name: &names[at], rings: rings[at] };
            give_up(switch, region, &[made(0), made(1)]);
        })?;
    // Last, as of any port.
    for (index, _) in places {
        switch.list_port(lock, index);
    }
    Ok(made)
}

/// The other end of a pipe; `None`: the port is none.
pub fn other_end(switch: &Switch, port: &PortFiles) -> Result<Option<Arc<PortFiles>>> {
    let shape = &port.file.shape;
    let Some(peer) = shape.peer else { return Ok(None) };
    let Some(listed) = switch.listed(peer.index) else {
        return Err(Error::NotFound { name: format!("other end of a pipe of {}", switch.name()) });
    };
    let (other, _) = shared::port(switch, &listed.name)?;
    check_rings(&other.file.shape, &other.region)?;
    if !other.file.shape.is_pipe_with(shape) {
        let path = switch.dir().join(&port_file(&listed.name));
        return Err(Error::Damaged { path, damage: Damage::OtherPort });
    }
    Ok(Some(other))
}

/// For the first user of an end after the death of the last one: takes away what that one had queued of a
/// packet without its end, to which the next packet would be added. Whole packets are sent.
pub fn resume(port: &PortFiles, peer: &PortFiles) {
    let rings = &port.file.shape.rings;
    for i in RingNumber::first(rings.tx.len()) {
        let Some(ring) = rings.tx_ring(&port.region, i) else { continue };
        let (kring, n) = (peer.file.kring(i), ring.n());
        let (from, freed) = (kring.published(), kring.freed());
        if from >= n || freed >= n {
            continue; // damaged: the next sync begins anew
        }
        let Some(head) = ring.head_in_order(from, ring.step(freed, n - 1)) else { continue };
        let more = |k: &u32| ring.load(ring.step(from, *k)).flags & SlotFlags::MOREFRAG.bits() != 0;
        let queued = ring.distance(from, head);
        let whole = (0..queued).rev().find(|k| !more(k)).map_or(0, |k| k + 1);
        if whole < queued {
            ring.raw.head.store(ring.step(from, whole), Ordering::Relaxed);
            ring.raw.cur.store(ring.step(from, whole), Ordering::Relaxed);
        }
    }
}
