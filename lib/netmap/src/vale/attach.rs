//! How ports and handles come and go.
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

use std::time::{Duration, Instant};

use crate::abi::{IF_HEADER_BYTES, NETMAP_API, NI_PRIV_MEM, RawIf, SlotValue};
use crate::bell::Bell;
use crate::error::{Error, Result};
use crate::file;
use crate::lock::RootLock;
use crate::mem::{Region, STRIDE, cells_for};
use crate::port::{Memory, Options};
use crate::random::random;
use crate::ring::{RingRef, ring_bytes};
use crate::sync::core_atomic::{AtomicU32, AtomicU64, Ordering};
use crate::vale::portfile::{PortFile, Shape, store_text};
use crate::vale::reap::{self, Sweep, reap};
use crate::vale::root::Root;
use crate::vale::switch::{EXCLUSIVE, HandleId, Opened, Switch, bell_file, port_file};
use crate::vale::{DEFAULT_SLOTS, MAX_RINGS, SLOTS};

/// How long an opener goes on clearing away what a port of that name left behind.
const CLEARING_PATIENCE: Duration = Duration::from_secs(10);

/// Sizes of a port to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Ring pairs: transmit.
    pub tx_rings: u16,
    /// Ring pairs: receive.
    pub rx_rings: u16,
    /// Slots of each TX ring.
    pub tx_slots: u32,
    /// Slots of each RX ring.
    pub rx_slots: u32,
}

impl Sizes {
    /// What the options ask for, with defaults, checked against the limits.
    pub fn from_options(name: &str, o: &Options) -> Result<Self> {
        let sizes = Self {
            tx_rings: o.tx_rings.unwrap_or(1),
            rx_rings: o.rx_rings.unwrap_or(1),
            tx_slots: o.tx_slots.unwrap_or(DEFAULT_SLOTS),
            rx_slots: o.rx_slots.unwrap_or(DEFAULT_SLOTS),
        };
        let invalid = |why: String| Err(Error::Invalid { name: name.into(), why });
        for n in [sizes.tx_rings, sizes.rx_rings] {
            if !(1..=MAX_RINGS).contains(&n) {
                return invalid(format!("{n} rings; a port has 1 to {MAX_RINGS}"));
            }
        }
        for n in [sizes.tx_slots, sizes.rx_slots] {
            if !SLOTS.contains(&n) {
                let (least, most) = (SLOTS.start(), SLOTS.end());
                return invalid(format!("{n} slots; a ring has {least} to {most}"));
            }
        }
        Ok(sizes)
    }

    /// Whether a port of that shape is what the options ask for; `None` fits anything.
    fn fits(shape: &Shape, o: &Options) -> std::result::Result<(), String> {
        let check = |what, asked: Option<u32>, has: u32| match asked {
            Some(n) if n != has => Err(format!("it has {has} {what}, not {n}")),
            _ => Ok(()),
        };
        check("tx rings", o.tx_rings.map(u32::from), shape.tx_cells.len() as u32)?;
        check("rx rings", o.rx_rings.map(u32::from), shape.rx_cells.len() as u32)?;
        check("tx slots", o.tx_slots, shape.tx_slots)?;
        check("rx slots", o.rx_slots, shape.rx_slots)
    }
}

/// A handle on a VALE port.
#[derive(Debug)]
pub struct Attached {
    /// The switch; its open file keeps the handle alive.
    pub switch: Switch,
    /// Ring state and counters.
    pub file: PortFile,
    /// Rings and buffers.
    pub region: Region,
    /// Doorbells, one per ring pair.
    pub bells: Vec<Bell>,
    /// Identity of the handle.
    pub id: HandleId,
    /// Cell of the handle's netmap_if.
    pub if_cell: u32,
}

/// Opens `switch:port`, making what is missing. `bound` tells which rings the handle binds, given
/// their number: (tx, rx).
pub fn open(
    root: &Root,
    switch_name: &str,
    port: &str,
    options: &Options,
    bound: impl Fn(&Shape) -> Result<(Vec<usize>, Vec<usize>)>,
) -> Result<Attached> {
    let full = format!("{switch_name}:{port}");
    let (lock, mut switch) = lock_for_new(root, switch_name, port)?;
    // From here on an error leaves a port without handles, perhaps a switch without ports.
    let opened = (|| {
        let (index, file, region) = find_or_make(&switch, &lock, port, options)?;
        check_rings(&file.shape, &region)?;
        let users: Vec<_> = switch.live_handles().into_iter().filter(|h| h.port == index).collect();
        let taken = users.iter().find(|h| options.exclusive || h.flags & EXCLUSIVE != 0);
        if let Some(user) = taken {
            let how = if options.exclusive { "it is in use" } else { "it is open exclusively" };
            let why = format!("{how} by process {}", user.pid);
            return Err(Error::Busy { name: full.clone(), why });
        }
        let (tx, rx) = bound(&file.shape)?;
        let shape = &file.shape;
        let bells = make_bells(&switch, port, shape)?;
        let if_cell = make_if(&region, shape, &full, &tx, &rx, options.extra_bufs)?;
        let flags = if options.exclusive { EXCLUSIVE } else { 0 };
        match switch.add_handle(&lock, index, if_cell, flags) {
            Ok(id) => Ok((file, region, bells, id, if_cell)),
            Err(e) => {
                region.give_back(Sweep::new(&switch).cells_of_if(
                    &region,
                    &file.shape.region,
                    if_cell,
                ));
                Err(e)
            }
        }
    })();
    match opened {
        Ok((file, region, bells, id, if_cell)) => {
            drop(lock);
            populate(&file.shape, &region);
            Ok(Attached { switch, file, region, bells, id, if_cell })
        }
        Err(e) => {
            let _ = reap(&switch, &lock); // the first error is the one to report
            Err(e)
        }
    }
}

/// Takes the root's lock and opens a switch, making it if there is none, once nothing is left of an
/// earlier port of that name.
fn lock_for_new(root: &Root, switch: &str, port: &str) -> Result<(RootLock, Switch)> {
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
pub fn open_switch(root: &Root, lock: &RootLock, name: &str) -> Result<(Switch, Vec<u8>)> {
    let (switch, how) = Switch::open_or_create(root, lock, name)?;
    if how == Opened::Replaced {
        reap::remove_orphans(root, lock)?;
    }
    if how != Opened::Found {
        return Ok((switch, Vec::new()));
    }
    let rest = reap(&switch, lock)?;
    // If only the dead were on it, it is gone now and `switch` is a file without a name.
    Ok((Switch::open_or_create(root, lock, name)?.0, rest))
}

/// Makes a persistent port.
pub fn create_persistent(root: &Root, switch_name: &str, port: &str, o: &Options) -> Result<()> {
    let (lock, switch) = lock_for_new(root, switch_name, port)?;
    if switch.find(port).is_some() {
        return Err(Error::Exists { name: format!("{switch_name}:{port}") });
    }
    let made = find_or_make(&switch, &lock, port, o);
    let result = made.map(|(index, ..)| switch.set_port_persistent(&lock, index, true));
    reap(&switch, &lock)?;
    result
}

/// Ends a port's persistence; it must not be open.
pub fn delete_persistent(root: &Root, switch_name: &str, port: &str) -> Result<()> {
    let full = format!("{switch_name}:{port}");
    let lock = root.lock()?;
    let none = || Error::NotFound { name: format!("port {full}") };
    let switch = Switch::open_existing(root, switch_name)?.ok_or_else(none)?;
    reap(&switch, &lock)?;
    let listed = switch.find(port).ok_or_else(none)?;
    if let Some(user) = switch.live_handles().iter().find(|h| h.port == listed.index) {
        let why = format!("process {} has it open; end it first", user.pid);
        return Err(Error::Busy { name: full, why });
    }
    switch.set_port_persistent(&lock, listed.index, false);
    reap(&switch, &lock).map(drop)
}

impl Attached {
    /// Closes the handle; with the last one goes the port, with the last port the switch.
    pub fn close(&self) -> Result<()> {
        let lock = self.switch.root().lock()?;
        let name = &self.file.shape.region;
        if let Some(mine) = self.switch.my_handle() {
            let cells = Sweep::new(&self.switch).cells_of_if(&self.region, name, self.if_cell);
            self.switch.remove_handle(&lock, mine);
            // After the handle: who dies in between leaks cells, who did it the other way round
            // would have them given back twice.
            self.region.give_back(cells);
        }
        // Somebody removed the switch's directory: what was this port's alone goes with its user.
        if !self.switch.is_current() && self.region.ports_ever() <= 1 {
            self.region.remove(self.switch.memory()?, name)?;
        }
        reap(&self.switch, &lock).map(drop)
    }
}

/// A port's rings lie within its region, whatever its file says.
fn check_rings(shape: &Shape, region: &Region) -> Result<()> {
    let all = shape.tx_cells.iter().map(|&c| (c, shape.tx_slots));
    for (cell, n) in all.chain(shape.rx_cells.iter().map(|&c| (c, shape.rx_slots))) {
        if RingRef::new(region, cell, n).is_none() {
            let path = region.path().to_path_buf();
            let why = "the port's rings lie beyond its end; close the port in all programs";
            return Err(Error::Damaged { path, why: why.into() });
        }
    }
    Ok(())
}

/// Makes a port's doorbells, or opens those that are there: one per ring pair.
fn make_bells(switch: &Switch, port: &str, shape: &Shape) -> Result<Vec<Bell>> {
    let pairs = shape.tx_cells.len().max(shape.rx_cells.len());
    (0..pairs).map(|i| Bell::create(switch.dir(), &bell_file(port, i))).collect()
}

fn find_or_make(
    switch: &Switch,
    lock: &RootLock,
    port: &str,
    options: &Options,
) -> Result<(u8, PortFile, Region)> {
    let full = format!("{}:{port}", switch.name());
    if let Some(listed) = switch.find(port) {
        let file = PortFile::open(switch.dir(), &port_file(port))?;
        let region = Region::open(switch.memory()?, &file.shape.region)?;
        if file.shape.index != listed.index {
            return Err(Error::Damaged {
                path: switch.dir().join(&port_file(port)),
                why: "it belongs to another port; close the port in all programs".into(),
            });
        }
        let misfit = Sizes::fits(&file.shape, options).err().or_else(|| match &options.memory {
            Memory::Private => None,
            Memory::Id(n) if n.to_string() == file.shape.region => None,
            Memory::With(m) if m.0 == file.shape.region => None,
            Memory::Id(_) | Memory::With(_) => {
                Some(format!("its memory region is {}", file.shape.region))
            }
        });
        return match misfit {
            None => Ok((listed.index, file, region)),
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
    if !crate::vale::valid_name(&region_name) {
        return Err(Error::Invalid {
            name: full,
            why: "the other port's memory cannot be shared: it is not a VALE port's".into(),
        });
    }
    let (index, generation) = switch.reserve_port(lock, port, &region_name)?;
    let memory = switch.memory()?;
    let region = match memory.stat_at(&region_name) {
        Ok(_) => Region::open(memory, &region_name)?,
        Err(_) => Region::create(memory, &region_name)?,
    };
    region.count_port();
    let (tx_cells, rx_cells) = make_rings(&region, sizes)?;
    let shape = Shape {
        index,
        generation,
        tx_slots: sizes.tx_slots,
        rx_slots: sizes.rx_slots,
        region: region_name,
        tx_cells,
        rx_cells,
    };
    file::remove(switch.dir(), &port_file(port))?;
    let file = PortFile::create(switch.dir(), &port_file(port), shape)?;
    make_bells(switch, port, &file.shape)?;
    // Last: from now on senders open all of the above.
    switch.activate_port(lock, index);
    Ok((index, file, region))
}

/// Takes cells for rings and buffers, and fills the rings' headers and slots. Used for every kind
/// of port. On error everything is given back.
pub fn make_rings(region: &Region, sizes: Sizes) -> Result<(Vec<u32>, Vec<u32>)> {
    let rings: Vec<(u32, bool, u16)> = (0..sizes.tx_rings)
        .map(|i| (sizes.tx_slots, false, i))
        .chain((0..sizes.rx_rings).map(|i| (sizes.rx_slots, true, i)))
        .collect();
    // One growth for all, so that a lack of space shows before anything is taken.
    let total: u32 = rings.iter().map(|(n, ..)| n + cells_for(ring_bytes(*n)) + 1).sum();
    region.reserve(total + 2)?;
    let (mut tx, mut rx) = (Vec::new(), Vec::new());
    let mut taken: Vec<u32> = Vec::new();
    let made = (|| {
        for (n, is_rx, number) in rings {
            let cells = cells_for(ring_bytes(n));
            let cell = region.take_run(cells)?;
            taken.extend(cell..cell + cells);
            let buffers = region.take(n)?;
            taken.extend(&buffers);
            fill_ring(region, cell, n, is_rx, number, &buffers);
            if is_rx { rx.push(cell) } else { tx.push(cell) }
        }
        Ok(())
    })();
    match made {
        Ok(()) => Ok((tx, rx)),
        Err(e) => {
            region.give_back(taken);
            Err(e)
        }
    }
}

fn fill_ring(region: &Region, cell: u32, n: u32, is_rx: bool, number: u16, buffers: &[u32]) {
    let ring = RingRef::new(region, cell, n).expect("the cells were just taken");
    let raw = ring.raw;
    let to_buffer_0 = Region::offset(0) as i64 - Region::offset(cell) as i64;
    raw.buf_ofs.store(to_buffer_0, Ordering::Relaxed);
    raw.num_slots.store(n, Ordering::Relaxed);
    raw.nr_buf_size.store(STRIDE as u32, Ordering::Relaxed);
    raw.ringid_dir.store(u32::from(number) | u32::from(is_rx) << 16, Ordering::Relaxed);
    raw.head.store(0, Ordering::Relaxed);
    raw.cur.store(0, Ordering::Relaxed);
    // A TX ring begins with all slots free, an RX ring with none received.
    raw.tail.store(if is_rx { 0 } else { n - 1 }, Ordering::Relaxed);
    raw.flags.store(0, Ordering::Relaxed);
    for (slot, &buf_idx) in ring.slots.iter().zip(buffers) {
        slot.word.store(SlotValue { buf_idx, len: 0, flags: 0 }.pack(), Ordering::Relaxed);
        slot.ptr.store(0, Ordering::Relaxed);
    }
}

/// Makes the pages of a port's rings and buffers present.
pub fn populate(shape: &Shape, region: &Region) {
    if region.ports_ever() == 1 {
        region.populate(0..region.cells());
    } else {
        // In a shared region, what is ours is scattered: touch the rings only.
        for (cells, n) in [(&shape.tx_cells, shape.tx_slots), (&shape.rx_cells, shape.rx_slots)] {
            for &cell in cells {
                region.populate(cell..cell + cells_for(ring_bytes(n)));
            }
        }
    }
}

/// Makes a handle's netmap_if: which rings it binds, and its extra buffers.
pub fn make_if(
    region: &Region,
    shape: &Shape,
    name: &str,
    tx: &[usize],
    rx: &[usize],
    extra_bufs: u32,
) -> Result<u32> {
    let rings = shape.tx_cells.len() + shape.rx_cells.len();
    let cells = cells_for(IF_HEADER_BYTES + 8 * rings);
    assert_eq!(cells, 1, "the largest netmap_if fits a buffer");
    let cell = region.take_run(1)?;
    let extra = match region.take(extra_bufs) {
        Ok(extra) => extra,
        Err(e) => {
            region.give_back([cell]);
            return Err(e);
        }
    };
    let nif: &RawIf = region.at(cell, 0).expect("just taken");
    store_text(&nif.ni_name, &name[..name.len().min(15)]);
    nif.ni_version.store(NETMAP_API, Ordering::Relaxed);
    nif.ni_flags.store(NI_PRIV_MEM, Ordering::Relaxed);
    nif.ni_tx_rings.store(shape.tx_cells.len() as u32, Ordering::Relaxed);
    nif.ni_rx_rings.store(shape.rx_cells.len() as u32, Ordering::Relaxed);
    nif.ni_host_tx_rings.store(0, Ordering::Relaxed);
    nif.ni_host_rx_rings.store(0, Ordering::Relaxed);
    let offset = |i: usize| -> &AtomicU64 {
        region.at(cell, IF_HEADER_BYTES + 8 * i).expect("fits the cell")
    };
    let all = shape.tx_cells.iter().enumerate().map(|(i, c)| (*c, tx.contains(&i)));
    let all = all.chain(shape.rx_cells.iter().enumerate().map(|(i, c)| (*c, rx.contains(&i))));
    for (i, (ring, bound)) in all.enumerate() {
        let distance = Region::offset(ring) as i64 - Region::offset(cell) as i64;
        // 0 tells the program that the ring is not its business.
        offset(i).store(if bound { distance as u64 } else { 0 }, Ordering::Relaxed);
    }
    // A chain through the first word of each buffer, ended by 0.
    let mut next = 0;
    for &buffer in extra.iter().rev() {
        region.at::<AtomicU32>(buffer, 0).expect("just taken").store(next, Ordering::Relaxed);
        next = buffer;
    }
    nif.ni_bufs_head.store(next, Ordering::Relaxed);
    Ok(cell)
}
