//! Ports that stay when nobody has them open, and what stays as long as they do: mirrors, lengths of headers.

use crate::error::{Error, InUse, Invalid, Result};
use crate::options::Options;
use crate::vale::lifecycle::make::find_or_make;
use crate::vale::lifecycle::open::lock_for_new;
use crate::vale::lifecycle::reap::reap;
use crate::vale::lifecycle::root::Root;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::lifecycle::{loan, offsets};
use crate::vale::state::ids::HandleId;
use crate::vale::state::switch::HEADER_LENGTHS;

/// Makes a persistent port.
pub fn create_persistent(root: &Root, switch_name: &str, port: &str, o: &Options) -> Result<()> {
    let (lock, switch) = lock_for_new(root, switch_name, port)?;
    if switch.find(port).is_some() {
        return Err(Error::Exists { name: format!("{switch_name}:{port}") });
    }
    let full = format!("{switch_name}:{port}");
    let made = header(&full, o.vnet_hdr_len.unwrap_or(0)).and_then(|header| {
        let made = find_or_make(&switch, &lock, port, o, 0)?;
        if let Some(asked) = &o.offsets {
            offsets::set(&switch, &lock, &made.0, &full, asked)?;
            switch.keep_offsets(&lock, made.0.file.shape.index);
        }
        Ok((header, made))
    });
    let result = made.map(|(header, (made, _))| {
        switch.set_header(&lock, made.file.shape.index, header);
        switch.activate_port(&lock, made.file.shape.index);
        switch.set_port_persistent(&lock, made.file.shape.index, true);
    });
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

/// A length of virtio-net headers, if it is one.
pub fn header(port: &str, len: u8) -> Result<u8> {
    let fault = Invalid::VnetHeader { asked: len };
    HEADER_LENGTHS.contains(&len).then_some(len).ok_or_else(|| Error::invalid(port, fault))
}

/// Chooses the length of a port's virtio-net headers. `by`: the handle that asks, if one does.
pub fn set_vnet_hdr_len(
    root: &Root,
    switch_name: &str,
    port: &str,
    by: Option<HandleId>,
    len: u8,
) -> Result<()> {
    let full = format!("{switch_name}:{port}");
    let len = header(&full, len)?;
    let none = || Error::NotFound { name: format!("port {full}") };
    let lock = root.lock()?;
    let switch = Switch::open_existing(root, switch_name)?.ok_or_else(none)?;
    reap(&switch, &lock)?;
    let index = switch.find(port).ok_or_else(none)?.index;
    loan::choose(&switch, &lock, index, by, len)
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
