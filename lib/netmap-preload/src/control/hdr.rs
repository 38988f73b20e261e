//! Length of the virtio-net header before each packet of a port.

use netmap::control;
use nix::errno::Errno;

use crate::abi::PortHdr;
use crate::control::{name, switches};
use crate::handle::errno;
use crate::request::Request;

/// PORT_HDR_SET.
pub fn set(request: &mut Request) -> Result<(), Errno> {
    let asked: PortHdr = request.body()?;
    let name = name::port(request.name())?;
    let len = u8::try_from(asked.hdr_len).map_err(|_| Errno::EINVAL)?;
    control::set_vnet_hdr_len(&name, len).map_err(|e| errno(&e))
}

/// PORT_HDR_GET.
pub fn get(request: &mut Request) -> Result<(), Errno> {
    let mut body: PortHdr = request.body()?;
    let name = name::port(request.name())?;
    let port = switches::port(&name)?.ok_or(Errno::ENXIO)?;
    body.hdr_len = port.vnet_hdr_len.into();
    request.answer(body)
}
