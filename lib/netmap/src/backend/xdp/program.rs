//! The program that hands a NIC's packets to sockets: six instructions, a map, and the link that attaches it.
//!
//! ```text
//!   r2 = the packet's queue                 redirect_map(map, queue, PASS): to the socket of that queue,
//!   r1 = the map                            or on to the stack if there is none
//!   r3 = PASS
//!   return redirect_map(r1, r2, r3)
//! ```
//!
//! Invariant: the program is attached by a link alone, which ends with the last copy of its descriptor: a process that is
//! killed leaves nothing behind.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::raw::{
    self, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP, BPF_XDP, Insn, XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE, XDP_PASS,
};
use super::socket::lacks_capabilities;
use crate::error::{Error, InUse, Invalid, Lack, Result};
use crate::name::XdpMode;

/// Offset of `rx_queue_index` in `struct xdp_md`.
const QUEUE: i16 = 16;
const REDIRECT_MAP: i32 = 51;
const REDIRECT: i32 = 23;
/// bpf_redirect's flag: as if the interface had received it.
const INGRESS: i32 = 1;

const fn insn(code: u8, registers: u8, offset: i16, operand: i32) -> Insn {
    Insn { code, registers, offset, operand }
}

/// `return`.
const EXIT: Insn = insn(0x95, 0, 0, 0);

/// `r = n`.
const fn set(r: u8, n: i32) -> Insn {
    insn(0xb7, r, 0, n)
}

const fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, helper)
}

/// Who runs the programs of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The driver's.
    Native,
    /// The kernel's own.
    Generic,
}

/// The program on an interface, and its map. Packets of queues without a socket go on to the stack.
#[derive(Debug)]
pub struct Redirect {
    map: OwnedFd,
    program: OwnedFd,
    link: Option<OwnedFd>,
}

impl Redirect {
    /// Loads it for queues below `queues`; it does nothing yet.
    pub fn load(port: &str, queues: u32) -> Result<Self> {
        let failed = |what| {
            move |errno| match errno {
                Errno::EPERM | Errno::EACCES => lacks_capabilities(port),
                Errno::ENOSYS => Error::Unavailable { name: port.into(), lack: Lack::AfXdp },
                errno => Error::io(what, port)(errno),
            }
        };
        let map = raw::socket_map(queues).map_err(failed("make the map of sockets for"))?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&map);
        let code = [
            insn(0x61, 0x12, QUEUE, 0),
            insn(0x18, 0x11, 0, fd),
            insn(0, 0, 0, 0),
            set(3, XDP_PASS),
            call(REDIRECT_MAP),
            EXIT,
        ];
        let program = raw::load(BPF_PROG_TYPE_XDP, BPF_XDP, &code)
            .map_err(failed("load the XDP program for"))?;
        Ok(Self { map, program, link: None })
    }

    /// Lets a socket have the packets of a queue.
    pub fn enter(&self, port: &str, queue: u32, socket: BorrowedFd<'_>) -> Result<()> {
        raw::enter_socket(self.map.as_fd(), queue, socket)
            .map_err(Error::io("enter a socket in the map of", port))
    }

    /// Attaches it to an interface: from now on packets come.
    pub fn attach(
        &mut self,
        port: &str,
        interface: &str,
        index: u32,
        mode: Option<XdpMode>,
    ) -> Result<Hook> {
        let link = |flags| raw::link(self.program.as_fd(), index, BPF_XDP, flags);
        let generic = || Ok((Hook::Generic, link(XDP_FLAGS_SKB_MODE)?));
        let native = || Ok((Hook::Native, link(XDP_FLAGS_DRV_MODE)?));
        let done = match mode {
            Some(XdpMode::Generic) => generic(),
            Some(XdpMode::Native | XdpMode::ZeroCopy) => native(),
            None => match native() {
                Err(Errno::EOPNOTSUPP) => generic(),
                done => done,
            },
        };
        let interface = interface.to_owned();
        let (hook, link) = done.map_err(|errno| match errno {
            Errno::EBUSY | Errno::EEXIST => {
                // Busy is the hook that was asked for.
                let native = (errno == Errno::EBUSY) == (mode != Some(XdpMode::Generic));
                Error::Busy { name: port.into(), by: InUse::XdpProgram { interface, native } }
            }
            Errno::EPERM | Errno::EACCES => lacks_capabilities(port),
            Errno::EOPNOTSUPP => Error::invalid(port, Invalid::NoNativeXdp),
            Errno::ERANGE => Error::invalid(port, Invalid::MtuOfPeer { interface }),
            Errno::ENOSPC => Error::invalid(port, Invalid::QueuesOfPeer { interface }),
            Errno::ENODEV => Error::Unavailable { name: port.into(), lack: Lack::NoInterface },
            errno => Error::io("attach the XDP program to", interface)(errno),
        })?;
        self.link = Some(link);
        Ok(hook)
    }
}

/// Passes packets of one interface to another, as long as it is kept.
#[derive(Debug)]
pub struct Passage {
    _link: OwnedFd,
}

impl Passage {
    /// What the stack sends on interface `from` is sent on `to` in its place.
    pub fn of_sent(from: u32, to: u32) -> nix::Result<Self> {
        Self::new(from, raw::BPF_TCX_EGRESS, to, 0)
    }

    /// What interface `from` receives, the stack receives on `to` in its place.
    pub fn of_received(from: u32, to: u32) -> nix::Result<Self> {
        Self::new(from, raw::BPF_TCX_INGRESS, to, INGRESS)
    }

    fn new(from: u32, at: u32, to: u32, flags: i32) -> nix::Result<Self> {
        let code = [set(1, to.cast_signed()), set(2, flags), call(REDIRECT), EXIT];
        let program = raw::load(BPF_PROG_TYPE_SCHED_CLS, at, &code)?;
        Ok(Self { _link: raw::link(program.as_fd(), from, at, 0)? })
    }
}
