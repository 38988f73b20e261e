//! Switches and their ports, as requests name them.
//!
//! netmap's persistent ports are interfaces of the system that can be attached to a switch. Here they are persistent
//! ports of a switch: of one of their own (`UNATTACHED`) until they are attached, and then of the one that they are
//! attached to.
//!
//! Invariant: a name is that of at most one persistent port made by NEWIF.

use netmap::control::{self, PortInfo, SwitchInfo};
use netmap::{Error, PortName};
use nix::errno::Errno;

use crate::handle::errno;

/// The switch of persistent ports that are attached to none.
pub const UNATTACHED: &str = "vale_unattached";
/// All switches, that of unattached ports left out.
pub fn all() -> Result<Vec<SwitchInfo>, Errno> {
    let (mut switches, _) = control::list().map_err(|e| errno(&e))?;
    switches.retain(|switch| switch.name != UNATTACHED);
    Ok(switches)
}

/// The port of that name without a switch, in its switch: made by NEWIF, attached or not.
pub fn find(interface: &str) -> Result<Option<(String, PortInfo)>, Errno> {
    let (switches, _) = control::list().map_err(|e| errno(&e))?;
    let of = |switch: SwitchInfo| {
        let port = switch.ports.into_iter().find(|port| port.persistent && port.name == interface);
        port.map(|port| (switch.name, port))
    };
    Ok(switches.into_iter().find_map(of))
}

/// The full name of the persistent port that is named like an interface.
///
/// # Errors
/// `ENXIO`: there is none.
pub fn resolve(interface: &[u8]) -> Result<String, Errno> {
    let interface = std::str::from_utf8(interface).map_err(|_| Errno::ENXIO)?;
    let (switch, _) = find(interface)?.ok_or(Errno::ENXIO)?;
    Ok(format!("{switch}:{interface}"))
}

/// A port of a switch, by its full name.
pub fn port(name: &PortName) -> Result<Option<PortInfo>, Errno> {
    let at = name.switch_port().ok_or(Errno::EINVAL)?;
    let switch = match control::Switch::open(at.switch) {
        Ok(switch) => switch,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(errno(&e)),
    };
    let info = switch.info().map_err(|e| errno(&e))?;
    Ok(info.ports.into_iter().find(|found| found.name == at.port))
}
