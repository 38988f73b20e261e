//! A handle on a monitor: what its name asks for, what it can do, when it has seen all.

use crate::error::{Error, Invalid, Result};
use crate::name::{Capabilities, NameFlags, PortName, RingSel};
use crate::sync::core_atomic::Ordering;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::port::ValePort;
use crate::vale::state::ids::{PortIndex, RingNumber};
use crate::vale::state::watch::{PortKind, Watch};

/// What a monitor can do. Whoever opens the same name again gets a monitor of his own.
pub const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::PASSABLE);

/// What a monitor of that name sees; `None` if it names a port.
pub fn watch(name: &PortName) -> Result<Option<Watch>> {
    let (tx, rx) = (NameFlags::MON_TX, NameFlags::MON_RX);
    if !name.is_monitor() {
        return Ok(None);
    }
    if !name.flags.intersects(tx | rx) {
        return Err(Error::invalid(name, Invalid::SeesNothing));
    }
    Ok(Some(Watch {
        of: None, // found when it is made
        ring: match name.rings {
            RingSel::One(ring) => Some(RingNumber(ring.min(u8::MAX.into()) as u8)), // checked when it is bound
            _ => None,
        },
        tx: name.flags.contains(tx),
        rx: name.flags.contains(rx),
        zero_copy: name.flags.contains(NameFlags::ZCOPY_MON),
    }))
}

/// The name by which the port or monitor at `index` is opened.
pub fn name_of(switch: &Switch, index: PortIndex) -> Result<PortName> {
    let listed = switch.listed(index);
    let seen = match listed.as_ref().map(|listed| listed.kind) {
        Some(PortKind::Monitor(Watch { of: Some(of), .. })) => switch.listed(of),
        _ => None,
    };
    // One that sees nothing any more still has the name of what it saw.
    let entry = seen.as_ref().or(listed.as_ref()).map_or("", |listed| &listed.name);
    let port = entry.split_once('#').map_or(entry, |(port, _)| port);
    let mut name: PortName = format!("{}:{port}", switch.name()).parse()?;
    if let Some(PortKind::Monitor(watch)) = listed.map(|listed| listed.kind) {
        let flag = |is: bool, flag| if is { flag } else { NameFlags::empty() };
        name.flags = flag(watch.tx, NameFlags::MON_TX)
            | flag(watch.rx, NameFlags::MON_RX)
            | flag(watch.zero_copy, NameFlags::ZCOPY_MON);
        name.rings = watch.ring.map_or(RingSel::All, |ring| RingSel::One(ring.0.into()));
    }
    Ok(name)
}

impl ValePort {
    /// The port that this monitor sees, until that goes.
    pub(super) fn sees(&self) -> Option<PortIndex> {
        let shape = &self.at.port.file.shape;
        let now = self.at.switch.monitor(shape.index);
        now.filter(|(generation, _)| *generation == shape.generation)?.1.of
    }

    /// Whether the port that this monitor saw has gone, and all that it saw has been read.
    pub(super) fn sees_nothing_any_more(&self) -> bool {
        self.sees().is_none()
            && self.at.rx_rings().all(|i| {
                let head = self.rx_ring(i).raw.head.load(Ordering::Relaxed);
                self.at.port.file.kring(i).published() == head
            })
    }
}
