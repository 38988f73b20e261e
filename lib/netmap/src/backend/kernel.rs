//! `netmap:IF`, or a bare interface name: a NIC through the netmap kernel module. The names are
//! understood, so that what is missing can be said.

use crate::adapter::Kind;
use crate::error::{Error, Lack};
use crate::name::{Capabilities, Dashes, Scheme, Syntax};

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "netmap",
        syntax: Syntax::Interface { dashes: Dashes::BeginRing },
        is_bare: |_| true,
        capabilities: Capabilities::RECEIVE
            .union(Capabilities::SEVERAL_RINGS)
            .union(Capabilities::SEVERAL_HANDLES)
            .union(Capabilities::HOST_RINGS)
            .union(Capabilities::LINK_STATE)
            .union(Capabilities::HARDWARE_ADDRESS),
    },
    open: |name, _| Err(Error::Unavailable { name: name.to_string(), lack: Lack::Netmap }),
};
