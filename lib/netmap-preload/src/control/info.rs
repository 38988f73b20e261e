//! Sizes of ports, and where the pools of a memory lie.

use netmap::{Direction, Options, Port};
use nix::errno::Errno;

use crate::abi::{PoolsInfo, PortInfo};
use crate::control::{name, register};
use crate::request::Request;
use crate::table::Ref;

/// PORT_INFO_GET. A port that is not there is made for the moment.
pub fn port(request: &mut Request) -> Result<(), Errno> {
    let asked: PortInfo = request.body()?;
    let name = name::port(request.name())?;
    let port = look(&name, asked.mem_id)?;
    let layout = port.layout().ok_or(Errno::ENXIO)?;
    let (rings, slots) = (port.all_rings(), port.slots());
    request.answer(PortInfo {
        memsize: layout.mem_size,
        tx_slots: slots.tx,
        rx_slots: slots.rx,
        tx_rings: rings.tx as u16, // few
        rx_rings: rings.rx as u16,
        host_tx_rings: 0,
        host_rx_rings: 0,
        mem_id: layout.mem_id,
        pad: [0; 3],
    })
}

/// A handle that binds no rings.
fn look(name: &netmap::PortName, mem_id: u16) -> Result<Port, Errno> {
    let memory = register::memory(mem_id);
    let options = Options { direction: Direction::Neither, memory, ..Options::default() };
    register::open(name, &options)
}

/// POOLS_INFO_GET.
pub fn pools(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    let asked: PoolsInfo = request.body()?;
    let bound = at.netmap(|netmap| netmap.is_bound().then(|| netmap.layout(fd))).flatten();
    let pools = match bound {
        Some(layout) => layout?.pools(),
        None => {
            look(&name::port(request.name())?, asked.mem_id)?.layout().ok_or(Errno::ENXIO)?.pools()
        }
    };
    request.answer(PoolsInfo {
        memsize: pools.mem_size,
        mem_id: pools.mem_id,
        pad: [0; 3],
        if_pool_offset: pools.ifs.offset,
        if_objtotal: pools.ifs.objects,
        if_objsize: pools.ifs.object_bytes,
        ring_pool_offset: pools.rings.offset,
        ring_objtotal: pools.rings.objects,
        ring_objsize: pools.rings.object_bytes,
        buf_pool_offset: pools.bufs.offset,
        buf_objtotal: pools.bufs.objects,
        buf_objsize: pools.bufs.object_bytes,
    })
}
