//! The legacy API: NIOCREGIF and NIOCGINFO with a `nmreq`, translated.
//!
//! Invariant: each is the request of the new API that it stands for, with the same errors.

use nix::errno::Errno;

use crate::abi::{
    self, Header, Legacy, PortHdr, PortInfo, Register, ValeAttach, ValeDetach, ValeList, ValeNewif,
    ValePolling, command, mode, reqtype, ringid,
};
use crate::control::serve::serve;
use crate::request::Request;
use crate::table::Ref;
use crate::user::{self, Plain};

/// The mode is in the lower bits of `nr_flags`.
const MODE: u32 = 0xf;
/// `nr_arg1` of BDG_ATTACH: with the host's rings.
const BDG_HOST: u16 = 1;

/// The call.
///
/// # Errors
/// `EINVAL`: no pointer, or a version before 14; a command that there is not; and as the request.
pub fn call(fd: i32, at: &Ref, command: u64, arg: u64) -> Result<(), Errno> {
    if arg == 0 {
        return Err(Errno::EINVAL);
    }
    let mut nmr: Legacy = user::read(arg)?;
    if nmr.version < u32::from(*abi::API.start()) {
        return Err(Errno::EINVAL);
    }
    nmr.name[nmr.name.len() - 1] = 0;
    translate(fd, at, command, &mut nmr)?;
    user::write(arg, nmr)
}

/// Serves a request with `body`, and returns what became of it.
fn ask<T: Plain>(
    fd: i32,
    at: &Ref,
    reqtype: u16,
    name: [u8; 64],
    mut body: T,
) -> Result<(T, [u8; 64]), Errno> {
    let header = Header {
        version: *abi::API.start(),
        reqtype,
        reserved: 0,
        name,
        options: 0,
        body: if size_of::<T>() == 0 { 0 } else { (&raw mut body) as u64 },
    };
    let mut header = Box::new(header);
    let mut request = Request::read((&raw mut *header) as u64)?;
    serve(fd, at, &mut request)?;
    // Written behind the compiler's back.
    let body = user::read((&raw const body) as u64)?;
    Ok((body, user::read::<Header>((&raw const *header) as u64)?.name))
}

fn translate(fd: i32, at: &Ref, call: u64, nmr: &mut Legacy) -> Result<(), Errno> {
    let mut name = [0; 64];
    name[..nmr.name.len()].copy_from_slice(&nmr.name);
    if call == abi::NIOCGINFO && nmr.cmd == command::BDG_LIST {
        let body = ValeList { bridge_idx: nmr.arg1, pad: 0, port_idx: nmr.arg2.into() };
        let (body, name) = ask(fd, at, reqtype::VALE_LIST, name, body)?;
        let n = nmr.name.len() - 1;
        nmr.name[..n].copy_from_slice(&name[..n]);
        (nmr.arg1, nmr.arg2) = (body.bridge_idx, body.port_idx as u16); // below 254
        return Ok(());
    }
    // The length of headers is asked by either call.
    if call == abi::NIOCGINFO && nmr.cmd != command::VNET_HDR_GET {
        let body = PortInfo { mem_id: nmr.arg2, ..PortInfo::default() };
        let (body, _) = ask(fd, at, reqtype::PORT_INFO_GET, name, body)?;
        nmr.memsize = body.memsize as u32; // as netmap: the lower half
        (nmr.tx_slots, nmr.rx_slots) = (body.tx_slots, body.rx_slots);
        (nmr.tx_rings, nmr.rx_rings) = (body.tx_rings, body.rx_rings);
        nmr.arg2 = body.mem_id;
        return Ok(());
    }
    match nmr.cmd {
        0 => {
            let body = register(nmr, &mut name)?;
            let (body, _) = ask(fd, at, reqtype::REGISTER, name, body)?;
            nmr.offset = body.offset as u32; // as netmap: the lower half
            nmr.memsize = body.memsize as u32;
            (nmr.tx_slots, nmr.rx_slots) = (body.tx_slots, body.rx_slots);
            (nmr.tx_rings, nmr.rx_rings) = (body.tx_rings, body.rx_rings);
            (nmr.arg2, nmr.arg3) = (body.mem_id, body.extra_bufs);
        }
        command::BDG_ATTACH => {
            let mut register = register(nmr, &mut name)?;
            let host = nmr.arg1 & BDG_HOST != 0;
            register.mode = if host { mode::NIC_SW } else { mode::ALL_NIC };
            let body = ValeAttach { register, port_index: 0, pad: 0 };
            ask(fd, at, reqtype::VALE_ATTACH, name, body)?;
        }
        command::BDG_DETACH => {
            ask(fd, at, reqtype::VALE_DETACH, name, ValeDetach::default())?;
        }
        command::BDG_VNET_HDR => {
            let body = PortHdr { hdr_len: nmr.arg1.into(), pad: 0 };
            ask(fd, at, reqtype::PORT_HDR_SET, name, body)?;
        }
        command::VNET_HDR_GET => {
            let (body, _) = ask(fd, at, reqtype::PORT_HDR_GET, name, PortHdr::default())?;
            nmr.arg1 = body.hdr_len as u16; // 0, 10 or 12
        }
        command::BDG_NEWIF => {
            let body = ValeNewif {
                tx_slots: nmr.tx_slots,
                rx_slots: nmr.rx_slots,
                tx_rings: nmr.tx_rings,
                rx_rings: nmr.rx_rings,
                mem_id: nmr.arg2,
                pad: 0,
            };
            ask(fd, at, reqtype::VALE_NEWIF, name, body)?;
        }
        command::BDG_DELIF => {
            ask(fd, at, reqtype::VALE_DELIF, name, Nothing)?;
        }
        cmd @ (command::BDG_POLLING_ON | command::BDG_POLLING_OFF) => {
            let on = cmd == command::BDG_POLLING_ON;
            let reqtype =
                if on { reqtype::VALE_POLLING_ENABLE } else { reqtype::VALE_POLLING_DISABLE };
            ask(fd, at, reqtype, name, ValePolling::default())?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// The body of requests that have none.
#[derive(Clone, Copy)]
struct Nothing;

// SAFETY: no bytes.
unsafe impl Plain for Nothing {}

/// What NIOCREGIF asks for. Pipes by number become pipes by name.
fn register(nmr: &Legacy, name: &mut [u8; 64]) -> Result<Register, Errno> {
    let mut number = nmr.ringid & ringid::MASK;
    let mut mode = match nmr.flags & MODE {
        mode::DEFAULT if nmr.ringid & ringid::SW_RING != 0 => mode::SW,
        mode::DEFAULT if nmr.ringid & ringid::HW_RING != 0 => mode::ONE_NIC,
        mode::DEFAULT => mode::ALL_NIC,
        mode => mode,
    };
    if matches!(mode, mode::PIPE_MASTER | mode::PIPE_SLAVE) {
        let brace = if mode == mode::PIPE_MASTER { '{' } else { '}' };
        let suffix = format!("{brace}{number}");
        let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let end = len + suffix.len();
        name.get_mut(len..end).ok_or(Errno::ENOBUFS)?.copy_from_slice(suffix.as_bytes());
        (mode, number) = (mode::ALL_NIC, 0);
    }
    let mut flags = u64::from(nmr.flags & !MODE);
    if nmr.ringid & ringid::NO_TX_POLL != 0 {
        flags |= abi::RegisterFlags::NO_TX_POLL.bits();
    }
    if nmr.ringid & ringid::DO_RX_POLL != 0 {
        flags |= abi::RegisterFlags::DO_RX_POLL.bits();
    }
    Ok(Register {
        tx_slots: nmr.tx_slots,
        rx_slots: nmr.rx_slots,
        tx_rings: nmr.tx_rings,
        rx_rings: nmr.rx_rings,
        mem_id: nmr.arg2,
        ringid: number,
        mode,
        extra_bufs: nmr.arg3,
        flags,
        ..Register::default()
    })
}
