//! `xdp:IF`: a NIC through AF_XDP, a ring pair for each of its queues (docs/design/host-and-nics.md).
//!
//! Invariant: while such a port is open, all that the chosen queues receive comes here and the host's stack sees none of
//! it; when the last handle goes, whatever ends it, the interface is as it was.
//!
//! Follows the kernel's `Documentation/networking/af_xdp.rst`.

use crate::adapter::{Adapter, Kind};
use crate::error::{Error, Feature, Result};
use crate::name::{Capabilities, Dashes, PortName, RingSel, Scheme, Syntax};
use crate::netns::{self, Home};
use crate::options::Options;

pub use store::pretend_zero_copy;

mod chunks;
mod host;
mod port;
mod program;
mod queue;
#[allow(unsafe_code)]
mod raw;
mod ring;
mod socket;
mod store;
mod umem;

/// What such a port can do.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::HOST_RINGS)
    .union(Capabilities::TAKES_INTERFACE)
    .union(Capabilities::LINK_STATE)
    .union(Capabilities::HARDWARE_ADDRESS);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "xdp",
        syntax: Syntax::Interface { dashes: Dashes::InNameBeforeRing },
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        let Some(netns) = &name.netns else { return open(name, options, None) };
        let port = name.to_string();
        let namespace = netns::open(netns, &port)?;
        let home = Home::of(netns, &namespace);
        netns::inside(namespace, &port, || open(name, options, home))
    },
};

/// Opens a port of an interface of the calling thread's namespace, which has the name `home`, if one was used to find it.
fn open(name: &PortName, options: &Options, home: Option<Home>) -> Result<Box<dyn Adapter>> {
    match name.rings {
        RingSel::Host | RingSel::HostOne(0) => host::open(name, options, home),
        RingSel::HostOne(_) => Err(Error::unsupported(name, Feature::HostRings)),
        _ => Ok(Box::new(port::Xdp::open(name, options, home)?)),
    }
}
