//! Ports that stay when nobody has them open, and mirrors, which stay as long as their ports.

use crate::error::{Error, InUse, Invalid, Result};
use crate::options::Options;
use crate::vale::lifecycle::open::{find_or_make, lock_for_new};
use crate::vale::lifecycle::reap::reap;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::Switch;

/// Makes a persistent port.
pub fn create_persistent(root: &Root, switch_name: &str, port: &str, o: &Options) -> Result<()> {
    let (lock, switch) = lock_for_new(root, switch_name, port)?;
    if switch.find(port).is_some() {
        return Err(Error::Exists { name: format!("{switch_name}:{port}") });
    }
    let made = find_or_make(&switch, &lock, port, o);
    let result =
        made.map(|(made, _)| switch.set_port_persistent(&lock, made.file.shape.index, true));
    reap(&switch, &lock)?;
    result
}

/// Gives a port a mirror, another port of the switch, or takes it away.
pub fn set_mirror(root: &Root, switch_name: &str, port: &str, to: Option<&str>) -> Result<()> {
    let lock = root.lock()?;
    let none = |port: &str| Error::NotFound { name: format!("port {switch_name}:{port}") };
    let switch = Switch::open_existing(root, switch_name)?.ok_or_else(|| none(port))?;
    reap(&switch, &lock)?;
    let index = |port: &str| switch.find(port).map(|l| l.index).ok_or_else(|| none(port));
    if to == Some(port) {
        let name = format!("{switch_name}:{port}");
        return Err(Error::invalid(name, Invalid::OwnMirror));
    }
    let (of, to) = (index(port)?, to.map(index).transpose()?);
    switch.set_mirror(&lock, of, to);
    Ok(())
}

/// Ends a port's persistence; it must not be open.
pub fn delete_persistent(root: &Root, switch_name: &str, port: &str) -> Result<()> {
    let full = format!("{switch_name}:{port}");
    let lock = root.lock()?;
    let none = || Error::NotFound { name: format!("port {full}") };
    let switch = Switch::open_existing(root, switch_name)?.ok_or_else(none)?;
    reap(&switch, &lock)?;
    let listed = switch.find(port).ok_or_else(none)?;
    if let Some(user) = switch.live_handles_of(listed.index).next() {
        return Err(Error::Busy { name: full, by: InUse::Open { pid: user.pid } });
    }
    switch.set_port_persistent(&lock, listed.index, false);
    reap(&switch, &lock).map(drop)
}
