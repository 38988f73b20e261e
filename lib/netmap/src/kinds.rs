//! The kinds of ports there are. To add one is to write its file and to name it here.

use std::os::fd::OwnedFd;
use std::str::FromStr;

use crate::adapter::{Adapter, Kind};
use crate::backend::{dgram, e1000, kernel, null, pcap, stream, tap, xdp};
use crate::error::{Error, Feature, Result};
use crate::name::{Capabilities, NameError, NameFault, NameFlags, PortName, RingSel, parse_with};
use crate::options::Options;
use crate::vale::kind as vale;

/// All of them. Of those that a bare word fits, the first is meant.
static KINDS: [Kind; 9] = [
    vale::KIND,
    null::KIND,
    pcap::KIND,
    tap::KIND,
    stream::KIND,
    dgram::KIND,
    xdp::KIND,
    e1000::KIND,
    kernel::KIND,
];

/// Reads a port name. Never panics, whatever it is given.
///
/// # Errors
/// It is none; says at which of its characters.
pub fn parse(name: &str) -> std::result::Result<PortName, NameError> {
    parse_with(name, KINDS.iter().map(|kind| &kind.scheme))
}

/// Opens the port of that name.
pub fn open(name: &PortName, options: &Options) -> Result<Box<dyn Adapter>> {
    name.check()?;
    if name.is_monitor() && name.switch_port().is_none() {
        return Err(Error::unsupported(name, Feature::Monitors));
    }
    if name.is_host_rings() && !name.can(Capabilities::HOST_RINGS) {
        return Err(Error::unsupported(name, Feature::HostRings));
    }
    let has_offsets = || {
        let own_buffers = !name.flags.contains(NameFlags::ZCOPY_MON) && name.pipe().is_none();
        own_buffers && name.switch_port().is_some()
    };
    if options.offsets.is_some() && !has_offsets() {
        return Err(Error::unsupported(name, Feature::Offsets));
    }
    let kind = KINDS.iter().find(|kind| kind.scheme.prefix == name.scheme.prefix);
    let kind = kind.expect("a name has a scheme of the table");
    (kind.open)(name, &options.with_name(name))
}

impl FromStr for PortName {
    type Err = NameError;

    fn from_str(name: &str) -> std::result::Result<PortName, NameError> {
        parse(name)
    }
}

impl PortName {
    /// Holds a name that was built field by field to the rules of the grammar: what does not survive
    /// printing and reading could, for instance, be a switch called `../other`.
    ///
    /// # Errors
    /// These fields do not make a name.
    pub fn check(&self) -> std::result::Result<(), NameError> {
        if self.path().is_some() || self.socket().is_some() {
            return Ok(()); // A path is not ours to judge, and need not even be UTF-8.
        }
        let text = self.to_string();
        let mut back = parse(&text)?;
        if self.rings == RingSel::Nic && back.rings == RingSel::All {
            back.rings = RingSel::Nic;
        }
        if back == *self {
            return Ok(());
        }
        Err(NameError { at: text.len(), name: text, fault: NameFault::NotAName })
    }
}

#[cfg(test)]
mod tests;

/// Takes over the handle that a descriptor names, on a port of whatever kind has such descriptors.
pub fn adopt(fd: OwnedFd) -> Result<(PortName, Box<dyn Adapter>)> {
    vale::adopt(fd)
}
