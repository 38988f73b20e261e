//! The ports of switches as a kind of port: how they are named, what they can do, how one is opened. The end of
//! a pipe is opened in the same way, and sends in another.

use std::os::fd::OwnedFd;

use crate::adapter::{Adapter, Kind};
use crate::error::Result;
use crate::name::{PortName, Scheme, Syntax};
use crate::options::{BoundRings, Direction, Options, PerDirection};
use crate::vale::lifecycle::open::{self, Handle};
use crate::vale::lifecycle::root::Root;
use crate::vale::pipe::PipePort;
use crate::vale::port::{self, ValePort, monitor};
use crate::vale::state::portfile::Shape;

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "vale",
        syntax: Syntax::SwitchPort,
        is_bare: |_| false,
        capabilities: port::CAPABILITIES,
    },
    open: |name, options| Ok(adapter(open(name, options)?)),
};

/// Opens a port, making it and its switch if they are not there.
fn open(name: &PortName, options: &Options) -> Result<Handle> {
    let of = name.switch_port().expect("the syntax of the kind");
    let watch = monitor::watch(name)?;
    // A monitor sends nothing.
    let direction = if watch.is_some() { Direction::RxOnly } else { options.direction };
    let bound = |shape: &Shape| {
        let has = PerDirection { tx: shape.rings.tx.len(), rx: shape.rings.rx.len() };
        BoundRings::chosen(&name.to_string(), name.rings, direction, has)
    };
    let root = Root::open()?;
    match watch {
        None => open::open(&root, of.switch, of.port, options, bound),
        Some(watch) => open::open_monitor(&root, of, watch, options, bound),
    }
}

fn adapter(handle: Handle) -> Box<dyn Adapter> {
    match handle.at.peer.clone() {
        None => Box::new(ValePort::new(handle)),
        Some(peer) => Box::new(PipePort::new(handle, peer)),
    }
}

/// Takes over the handle that a descriptor names, with its port's name.
pub fn adopt(fd: OwnedFd) -> Result<(PortName, Box<dyn Adapter>)> {
    let handle = open::adopt(fd)?;
    let name = monitor::name_of(&handle.at.switch, handle.at.port.file.shape.index)?;
    Ok((name, adapter(handle)))
}
