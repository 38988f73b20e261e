//! `xdp:IF^`: the host's stack behind a NIC whose packets a port has taken, as netmap's host rings.
//!
//! ```text
//!   program                      kernel
//!   xdp:IF^   RX ring <--- tap <--- passage: what the stack sends on IF
//!             TX ring ---> tap ---> passage: the stack receives it on IF
//! ```
//!
//! The tap is a means: nobody gives it an address, and it goes with the port. Two small programs pass packets between it and
//! the interface, whose addresses, routes and sockets stay where they are. What an AF_XDP socket sends does not pass
//! there, so `xdp:IF` and `xdp:IF^` together see each packet once.
//!
//! Invariant: the passages end before or with the tap, so the stack loses no packet to a port that is not there. The port
//! ends with the interface.

use crate::adapter::Adapter;
use crate::backend::packets::Packets;
use crate::backend::tap::{self, Tap};
use crate::error::{Errno, Error, InUse, Invalid, Lack, Result};
use crate::name::{Address, Capabilities, PortName, XdpMode};
use crate::netlink::Watch;
use crate::netns::Home;
use crate::options::Options;

use super::program::{Passage, Redirect};
use super::socket::lacks_capabilities;

/// What such a port can do.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE.union(Capabilities::LINK_STATE);

/// The tap behind the host rings of an interface.
pub fn tap_of(interface: i32) -> String {
    format!("nmh{interface}")
}

/// Opens the host rings of an interface of this namespace.
pub fn open(name: &PortName, options: &Options, home: Option<Home>) -> Result<Box<dyn Adapter>> {
    let port = name.to_string();
    let interface = name.interface().unwrap_or_default();
    let watch = Watch::of_port(name)?;
    let index = watch.interface().index;
    runs_natively(&port, interface, index.cast_unsigned())?;
    let tap_name = tap_of(index);
    let of_tap = PortName::new(&tap::KIND.scheme, Address::Interface(tap_name.clone()));
    let mut queues = Tap::open_for(&port, &of_tap, 1).map_err(|error| match error {
        Error::Busy { name, by: InUse::Tap } => Error::Busy { name, by: InUse::HostRings },
        error => error,
    })?;
    let tap = queues.first_mut().expect("one was asked for");
    // Else the stack would greet its neighbours there by itself. A kernel without IPv6 does not.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{tap_name}/disable_ipv6"), "1");
    let tap_index = Watch::new(&tap_name)?.interface().index.cast_unsigned();
    let index = index.cast_unsigned();
    let passages = Passage::of_received(tap_index, index)
        .and_then(|received| Ok([received, Passage::of_sent(index, tap_index)?]))
        .map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => lacks_capabilities(&port),
            Errno::EINVAL | Errno::EOPNOTSUPP => {
                Error::Unavailable { name: port.clone(), lack: Lack::Tcx }
            }
            errno => Error::io("lead the stack's packets to", &port)(errno),
        })?;
    tap.accompany(Box::new(passages), watch, home);
    // The number of rings in the name is that of the NIC's.
    let options = Options { tx_rings: None, rx_rings: None, ..options.clone() };
    Ok(Box::new(Packets::new(name, &options, CAPABILITIES, 1, |_| Ok(queues))?))
}

/// Whether the interface's driver runs programs. The kernel's own XDP sees what is handed to the stack, too, and
/// would give it to the port again, for ever.
fn runs_natively(port: &str, interface: &str, index: u32) -> Result<()> {
    let needs_native = || Err(Error::invalid(port, Invalid::HostRingsAndGeneric));
    match Redirect::load(port, 1)?.attach(port, interface, index, Some(XdpMode::Native)) {
        Err(Error::Busy { by: InUse::XdpProgram { native: true, .. }, .. }) | Ok(_) => Ok(()),
        Err(Error::Busy { by: InUse::XdpProgram { .. }, .. }) => needs_native(),
        Err(Error::Invalid { fault: Invalid::NoNativeXdp, .. }) => needs_native(),
        Err(error) => Err(error),
    }
}
