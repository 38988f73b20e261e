//! Length of the virtio-net header before each packet of a port.

use nix::errno::Errno;

use crate::abi::PortHdr;
use crate::control::Request;

/// PORT_HDR_SET.
pub fn set(request: &mut Request) -> Result<(), Errno> {
    let _: PortHdr = request.body()?;
    Err(Errno::EOPNOTSUPP)
}

/// PORT_HDR_GET.
pub fn get(request: &mut Request) -> Result<(), Errno> {
    let _: PortHdr = request.body()?;
    Err(Errno::EOPNOTSUPP)
}
