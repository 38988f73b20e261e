//! `netmap:IF`, or a bare interface name: a NIC through the netmap kernel module. The names are
//! understood, so that what is missing can be said.

use crate::adapter::{Kind, unsupported};
use crate::name::{Capabilities, Scheme, Syntax};

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "netmap",
        syntax: Syntax::Interface { dashes: false },
        is_bare: |_| true,
        capabilities: Capabilities::RECEIVE
            .union(Capabilities::SEVERAL_RINGS)
            .union(Capabilities::SEVERAL_HANDLES)
            .union(Capabilities::HOST_RINGS)
            .union(Capabilities::LINK_STATE)
            .union(Capabilities::HARDWARE_ADDRESS),
    },
    open: |name, _| {
        Err(unsupported(name, "netmap: needs the kernel module, which is not supported"))
    },
};
