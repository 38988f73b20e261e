//! What `vale-ctl` does, as functions: list, inspect and change switches and ports.
//!
//! Invariant: nothing here disturbs the data path. Readers look at counters that others write;
//! changes are made under the root's lock.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Errno, Error, InUse, Invalid, Result};
use crate::name::{Capabilities, PipeName, PortName, SwitchPort};
use crate::netlink;
use crate::netns;
use crate::options::Options;
use crate::process;
use crate::routes;
pub use crate::routes::DefaultRoute;
use crate::shm::dir::Dir;
use crate::shm::mem::Region;
use crate::stats::Counters;
pub use crate::stats::{RingDir, RingInfo};
use crate::time::now_ms;
use crate::vale::lifecycle::memory;
use crate::vale::lifecycle::open;
use crate::vale::lifecycle::persist;
use crate::vale::lifecycle::reap;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch;
use crate::vale::state::fdb::Clock;
use crate::vale::state::handles::ListedHandle;
use crate::vale::state::ids::PortIndex;
use crate::vale::state::portfile::PortFile;
use crate::vale::state::switch::{DEFAULT_AGEING_MS, Listed, Settings, port_file};
use crate::vale::state::watch::{PortKind, Watch};

/// The root directory that this process uses.
#[must_use]
pub fn root() -> PathBuf {
    Root::locate()
}

/// The root directory, held open, for what programs keep beside the switches; `None` if there is none
/// and `make` does not ask for one.
///
/// # Errors
/// It cannot be used: no permission, no directory, another user's.
pub fn root_dir(make: bool) -> Result<Option<Dir>> {
    let root = if make { Some(Root::open()?) } else { Root::existing()? };
    Ok(root.map(|root| root.dir().clone()))
}

/// What a user should know about the root, a sentence each: it is on a disk; other users have roots, with
/// switches that may have the same names.
#[must_use]
pub fn root_notes() -> Vec<String> {
    let mut notes = Vec::new();
    if let Ok(Some(root)) = Root::existing()
        && !root.is_in_memory()
    {
        notes.push(format!(
            "{} is not on a tmpfs: packets are written to its disk over and over; set NETMAP_ROOT to a \
             directory below /dev/shm",
            root.dir().path().display()
        ));
    }
    let others: Vec<String> = Root::others().iter().map(|p| p.display().to_string()).collect();
    if !others.is_empty() {
        notes.push(format!(
            "switches of this user are in {}; another user has others, which may have the same names, in \
             {} (NETMAP_ROOT can name a common place)",
            root().display(),
            others.join(", ")
        ));
    }
    notes
}

/// A switch as it is now.
#[derive(Clone, Debug)]
pub struct SwitchInfo {
    /// Full name: `valeA`.
    pub name: String,
    /// Stays when its last port goes.
    pub persistent: bool,
    /// Senders wait at full destinations instead of dropping.
    pub backpressure: bool,
    /// After this time an address that was not seen is forgotten; `None`: never.
    pub ageing: Option<Duration>,
    /// Its ports, by index.
    pub ports: Vec<PortInfo>,
    /// Addresses in the learning table.
    pub fdb_entries: usize,
    /// Sum of the ports' counters.
    pub counters: Counters,
}

/// What a monitor sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorInfo {
    /// The port; `None` once that has gone.
    pub of: Option<String>,
    /// Its only ring that is seen; `None`: all.
    pub ring: Option<u8>,
    /// What its program sends is seen.
    pub tx: bool,
    /// What its program receives is seen.
    pub rx: bool,
    /// The monitor gets the buffers themselves.
    pub zero_copy: bool,
}

/// A port as it is now.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Name without the switch.
    pub name: String,
    /// Index in the switch, 0 to 253.
    pub index: u8,
    /// Stays when its last user closes it.
    pub persistent: bool,
    /// The port that it is a pipe of, if it is the end of one.
    pub pipe_of: Option<String>,
    /// The port that gets copies of what this one sends and receives.
    pub mirror: Option<String>,
    /// Bytes of the virtio-net header in front of each of its frames.
    pub vnet_hdr_len: u8,
    /// If this is no port of the switch, but a monitor: what it sees.
    pub monitor: Option<MonitorInfo>,
    /// Why the port cannot be looked into; sizes, counters and rings are empty then.
    pub damaged: Option<String>,
    /// Number of TX rings.
    pub tx_rings: u16,
    /// Number of RX rings.
    pub rx_rings: u16,
    /// Slots per TX ring.
    pub tx_slots: u32,
    /// Slots per RX ring.
    pub rx_slots: u32,
    /// Name of the memory region.
    pub memory: String,
    /// Number of the region, which `@N` and netmap's programs name it by.
    pub memory_id: u16,
    /// Size of the region's file in bytes.
    pub memory_bytes: u64,
    /// How much of it was ever given out, and so takes memory.
    pub memory_backed_bytes: u64,
    /// Who has it open.
    pub users: Vec<User>,
    /// Sum of the rings' counters.
    pub counters: Counters,
    /// The rings.
    pub rings: Vec<RingInfo>,
}

/// A process that has a port open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Process, in the PID namespace where it opened the port.
    pub pid: u32,
    /// Its command name, with what is not printable escaped; empty if this process cannot see it.
    pub command: String,
}

/// An address that a switch has learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The address.
    pub mac: [u8; 6],
    /// Port behind which it was last seen.
    pub port: String,
    /// Since when it was not seen, to a 64th of the ageing time; zero if ageing is off.
    pub age: Duration,
}

/// Settings for a new switch.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// Stays when its last port goes.
    pub persistent: bool,
    /// Senders wait at full destinations instead of dropping.
    pub backpressure: bool,
    /// After this time an address that was not seen is forgotten; `None`: never.
    pub ageing: Option<Duration>,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            persistent: true,
            backpressure: false,
            ageing: Some(Duration::from_millis(DEFAULT_AGEING_MS)),
        }
    }
}

/// All switches, after clearing away what the dead left, and what is wrong with those that cannot
/// be looked at.
///
/// # Errors
/// The root directory cannot be used.
pub fn list() -> Result<(Vec<SwitchInfo>, Vec<Error>)> {
    let (mut switches, mut errors) = (Vec::new(), Vec::new());
    let Some(root) = Root::existing()? else { return Ok((switches, errors)) };
    let (mut denied, mut locks) = (0, true);
    let names = root.switches()?;
    for name in &names {
        // A root whose lock cannot be had is looked at as it is; nobody waits for it twice.
        if locks && let Err(e) = clear_away_the_dead(&root, name) {
            let waited = matches!(e, Error::Locked { .. });
            locks = !waited;
            if waited {
                errors.push(e);
            }
        }
        match switch::Switch::open_existing(&root, name) {
            Ok(Some(inner)) => switches.push(Switch { inner: Arc::new(inner) }.info()?),
            Ok(None) => {} // it went meanwhile
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                denied += 1;
            }
            Err(e) => errors.push(e),
        }
    }
    if denied > 0 {
        errors.push(Error::Denied { switches: denied, root: root.dir().path().into() });
    }
    if locks && let Ok(lock) = root.lock() {
        let _ = reap::remove_orphans(&root, &lock); // the list is none the worse for them
    }
    Ok((switches, errors))
}

/// Clears away what the dead left of a switch, or of the making or removing of one.
fn clear_away_the_dead(root: &Root, name: &str) -> Result<()> {
    let lock = root.lock()?;
    match switch::Switch::open_existing(root, name)? {
        Some(switch) => reap::reap(&switch, &lock).map(drop),
        None => root.remove_empty(&lock, name).map(drop),
    }
}

/// Names of all switches (`valeA:`) and ports (`valeA:x`) that can be looked at, for whoever offers
/// them at a prompt.
#[must_use]
pub fn names() -> Vec<String> {
    let (switches, _) = list().unwrap_or_default();
    let of_switch = |switch: &SwitchInfo| {
        let switch_name = format!("{}:", switch.name);
        let ports = switch.ports.iter().map(|port| format!("{switch_name}{}", port.name));
        std::iter::once(switch_name.clone()).chain(ports).collect::<Vec<_>>()
    };
    switches.iter().flat_map(of_switch).collect()
}

/// A switch to inspect or change.
#[derive(Debug)]
pub struct Switch {
    inner: Arc<switch::Switch>,
}

impl Switch {
    /// Opens a switch, after clearing away what the dead left on it.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn open(name: &str) -> Result<Self> {
        check(name)?;
        let missing = || Error::NotFound { name: format!("switch {name}") };
        Self::find(&Root::existing()?.ok_or_else(missing)?, name)
    }

    fn find(root: &Root, name: &str) -> Result<Self> {
        let missing = || Error::NotFound { name: format!("switch {name}") };
        // Before the lock, which would be made in a directory that is no root.
        switch::Switch::open_existing(root, name)?.ok_or_else(missing)?;
        let lock = root.lock()?;
        let inner = switch::Switch::open_existing(root, name)?.ok_or_else(missing)?;
        reap::reap(&inner, &lock)?;
        // Reaping may have removed it.
        let inner = switch::Switch::open_existing(root, name)?.ok_or_else(missing)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a switch; one that is there gets the settings.
    ///
    /// # Errors
    /// The root directory cannot be used, or no space.
    pub fn create(name: &str, options: &SwitchOptions) -> Result<Self> {
        check(name)?;
        let root = Root::open()?;
        let lock = root.lock()?;
        let (inner, _) = open::open_switch(&root, &lock, name)?;
        inner.set(
            &lock,
            Settings {
                persistent: options.persistent,
                backpressure: options.backpressure,
                ageing_ms: ageing_ms(options.ageing),
            },
        );
        Ok(Self { inner })
    }

    /// The switch as it is now.
    ///
    /// # Errors
    /// None at present.
    pub fn info(&self) -> Result<SwitchInfo> {
        let settings = self.inner.settings();
        let handles = self.inner.look_at_handles().alive;
        let listed = self.inner.list();
        let ports: Vec<PortInfo> =
            listed.iter().map(|l| port_info(&self.inner, l, &handles)).collect();
        Ok(SwitchInfo {
            name: self.inner.name().into(),
            persistent: settings.persistent,
            backpressure: settings.backpressure,
            ageing: (settings.ageing_ms != 0).then(|| Duration::from_millis(settings.ageing_ms)),
            fdb_entries: self.inner.fdb().entries(&self.clock()).len(),
            counters: ports.iter().map(|p| p.counters).sum(),
            ports,
        })
    }

    fn clock(&self) -> Clock {
        Clock::new(now_ms(), self.inner.ageing_ms())
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let lock = self.inner.root().lock()?;
        let mut settings = self.inner.settings();
        change(&mut settings);
        self.inner.set(&lock, settings);
        reap::reap(&self.inner, &lock).map(drop)
    }

    /// Sets the ageing time; `None`: never forget. All addresses count as seen now.
    ///
    /// # Errors
    /// The root's lock cannot be had.
    pub fn set_ageing(&self, ageing: Option<Duration>) -> Result<()> {
        self.change(|s| s.ageing_ms = ageing_ms(ageing))
    }

    /// Makes senders wait at full destinations, or drop.
    ///
    /// # Errors
    /// The root's lock cannot be had.
    pub fn set_backpressure(&self, on: bool) -> Result<()> {
        self.change(|s| s.backpressure = on)
    }

    /// Makes the switch stay when its last port goes. One without ports goes at once otherwise.
    ///
    /// # Errors
    /// The root's lock cannot be had.
    pub fn set_persistent(&self, on: bool) -> Result<()> {
        self.change(|s| s.persistent = on)
    }

    /// The addresses learnt, in no particular order.
    ///
    /// # Errors
    /// None at present.
    pub fn fdb(&self) -> Result<Vec<FdbEntry>> {
        let names: std::collections::HashMap<PortIndex, String> =
            self.inner.list().into_iter().map(|l| (l.index, l.name)).collect();
        let entries = self.inner.fdb().entries(&self.clock());
        Ok(entries
            .into_iter()
            .filter_map(|e| {
                let port = names.get(&e.port)?.clone();
                Some(FdbEntry { mac: e.mac, port, age: Duration::from_millis(e.age_ms) })
            })
            .collect())
    }

    /// Forgets addresses, of one port or one address or all, and returns how many.
    ///
    /// # Errors
    /// `NotFound` if there is no such port.
    pub fn fdb_flush(&self, port: Option<&str>, mac: Option<[u8; 6]>) -> Result<usize> {
        let index = match port {
            None => None,
            Some(port) => Some(self.inner.find(port).map(|l| l.index).ok_or_else(|| {
                Error::NotFound { name: format!("port {}:{port}", self.inner.name()) }
            })?),
        };
        let key = mac.map(crate::vale::state::fdb::key);
        Ok(self
            .inner
            .fdb()
            .remove_if(|m, p| index.is_none_or(|i| i == p) && key.is_none_or(|k| k == m)))
    }

    /// Ends the switch's persistence and removes it; it must have no ports.
    ///
    /// # Errors
    /// `Busy` if it has ports.
    pub fn delete(self) -> Result<()> {
        let lock = self.inner.root().lock()?;
        reap::reap(&self.inner, &lock)?;
        let ports = self.inner.list();
        if let Some(first) = ports.first() {
            let by = InUse::HasPorts { ports: ports.len(), first: first.name.clone() };
            return Err(Error::Busy { name: self.inner.name().into(), by });
        }
        let settings = self.inner.settings();
        self.inner.set(&lock, Settings { persistent: false, ..settings });
        reap::reap(&self.inner, &lock).map(drop)
    }
}

fn ageing_ms(ageing: Option<Duration>) -> u64 {
    // A day-long maximum keeps products within range; below a millisecond would mean never.
    ageing.map_or(0, |a| (a.as_millis() as u64).clamp(1, 1 << 40))
}

fn check(switch: &str) -> Result<()> {
    crate::name::parse_switch(switch)?;
    Ok(())
}

/// Makes a port that stays when its last user closes it.
///
/// # Errors
/// `Exists`; the name is not a VALE port's; no space; a limit.
pub fn create_port(name: &PortName, options: &Options) -> Result<()> {
    let SwitchPort { switch, port } = vale(name)?;
    persist::create_persistent(&Root::open()?, switch, port, &options.with_name(name))
}

/// Removes a port made by `create_port`; nobody may have it open.
///
/// # Errors
/// `NotFound`, `Busy`.
pub fn delete_port(name: &PortName) -> Result<()> {
    let SwitchPort { switch, port } = vale(name)?;
    let root = Root::existing()?.ok_or_else(|| Error::NotFound { name: format!("port {name}") })?;
    persist::delete_persistent(&root, switch, port)
}

/// Gives a port a mirror: another port of the same switch, which gets copies of what the port sends and of
/// what is sent to it. `None` takes it away. The mirror ends with either port.
///
/// # Errors
/// `NotFound`; the two are one port, or of two switches.
pub fn set_mirror(name: &PortName, to: Option<&PortName>) -> Result<()> {
    let SwitchPort { switch, port } = vale(name)?;
    let to = match to.map(vale).transpose()? {
        Some(other) if other.switch != switch => {
            let fault = Invalid::ForeignMirror { switch: switch.into() };
            return Err(Error::invalid(format!("{}:", other.switch), fault));
        }
        to => to.map(|to| to.port),
    };
    let none = || Error::NotFound { name: format!("port {name}") };
    let root = Root::existing()?.ok_or_else(none)?;
    persist::set_mirror(&root, switch, port, to)
}

/// Chooses the length of a port's virtio-net headers: 0, 10 or 12. See `Port::vnet_hdr_len`.
///
/// # Errors
/// `NotFound`; another length.
pub fn set_vnet_hdr_len(name: &PortName, len: u8) -> Result<()> {
    let SwitchPort { switch, port } = vale(name)?;
    let none = || Error::NotFound { name: format!("port {name}") };
    persist::set_vnet_hdr_len(&Root::existing()?.ok_or_else(none)?, switch, port, None, len)
}

/// Whether the interface `name` is a tap, or a tun, in the network namespace `netns`, or else in the calling thread's; `None`:
/// there is none of that name. The kernel is asked by a socket, since /sys may be that of another namespace.
///
/// # Errors
/// There is no such namespace, or no such socket, or the kernel refuses the name.
pub fn is_tap(name: &str, netns: Option<&str>) -> Result<Option<bool>> {
    let look = || match netlink::Watch::new(name) {
        Ok(watch) => Ok(Some(watch.interface().is_tun)),
        Err(error) if error.errno() == Errno::ENODEV => Ok(None),
        Err(error) => Err(error),
    };
    match netns {
        None => look(),
        Some(netns) => netns::inside(netns::open(netns, name)?, name, look),
    }
}

/// The default route that goes through the NIC that the port takes from the host, if one does: of IPv4 or IPv6, of any table that a
/// rule may lead to, in the network namespace that the port's name says, or else the calling thread's. It may name the NIC, or
/// what the NIC carries: a bridge, bond, team or VLAN. Who opens the port may cut himself off from the machine. Host rings
/// (`IF^`) take no NIC.
///
/// # Errors
/// There is no such namespace, or the routes cannot be read.
pub fn takes_default_route(name: &PortName) -> Result<Option<DefaultRoute>> {
    let takes = name.can(Capabilities::TAKES_INTERFACE) && !name.is_host_rings();
    let Some(interface) = name.interface().filter(|_| takes) else { return Ok(None) };
    let look = || routes::default_through(interface);
    let Some(netns) = &name.netns else { return look() };
    let port = name.to_string();
    netns::inside(netns::open(netns, &port)?, &port, look)
}

/// What whoever is about to open such a port should be told, if it [takes a default route](takes_default_route) from the
/// host. Nothing if that cannot be found out: opening the port tells what is wrong.
#[must_use]
pub fn default_route_note(name: &PortName) -> Option<String> {
    let route = takes_default_route(name).ok().flatten()?;
    let interface = &route.interface;
    Some(format!(
        "warning: the {route}; the host gets nothing of {interface} while {name} is open; its host rings ({interface}^) keep \
         the host connected"
    ))
}

/// A port that packets are forwarded to.
fn vale(name: &PortName) -> Result<SwitchPort<'_>> {
    name.check()?;
    if name.is_monitor() {
        return Err(Error::invalid(name, Invalid::Monitor));
    }
    match name.pipe() {
        Some(_) => Err(Error::invalid(name, Invalid::Pipe)),
        None => name.switch_port().ok_or_else(|| Error::invalid(name, Invalid::NotOnASwitch)),
    }
}

fn port_info(switch: &switch::Switch, listed: &Listed, handles: &[ListedHandle]) -> PortInfo {
    let users = handles.iter().filter(|h| h.port == listed.index);
    let mut info = PortInfo {
        name: listed.name.clone(),
        index: listed.index.0,
        persistent: listed.persistent,
        pipe_of: PipeName::of(&listed.name).map(|pipe| pipe.base.to_owned()),
        mirror: switch.mirror_of(listed.index).and_then(|to| switch.listed(to)).map(|to| to.name),
        vnet_hdr_len: switch.header_seen(listed.index),
        monitor: monitor_info(switch, listed.kind),
        damaged: None,
        tx_rings: 0,
        rx_rings: 0,
        tx_slots: 0,
        rx_slots: 0,
        memory: listed.region.clone(),
        memory_id: memory::id(&listed.region),
        memory_bytes: 0,
        memory_backed_bytes: 0,
        users: users.map(|h| User { pid: h.pid, command: process::command(h.pid) }).collect(),
        counters: Counters::default(),
        rings: Vec::new(),
    };
    if let Err(e) = look_inside(switch, &mut info) {
        info.damaged = Some(match std::error::Error::source(&e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        });
    }
    info
}

fn monitor_info(switch: &switch::Switch, kind: PortKind) -> Option<MonitorInfo> {
    let PortKind::Monitor(watch) = kind else { return None };
    let of = watch.of.and_then(|of| switch.listed(of)).map(|of| of.name);
    let Watch { ring, tx, rx, zero_copy, .. } = watch;
    let ring = ring.map(|ring| ring.0);
    Some(MonitorInfo { of, ring, tx, rx, zero_copy })
}

fn look_inside(switch: &switch::Switch, info: &mut PortInfo) -> Result<()> {
    let file = PortFile::open(switch.dir(), &port_file(&info.name))?;
    let shape = &file.shape;
    let region = Region::open(switch.memory()?, &shape.region)?;
    info.tx_rings = shape.rings.tx.len() as u16;
    info.rx_rings = shape.rings.rx.len() as u16;
    info.tx_slots = shape.rings.tx_slots;
    info.rx_slots = shape.rings.rx_slots;
    info.memory.clone_from(&shape.region);
    info.memory_bytes = region.bytes();
    info.memory_backed_bytes = region.bytes_backed();
    info.rings = file.rings(&region);
    info.counters = info.rings.iter().map(|r| r.counters).sum();
    Ok(())
}
