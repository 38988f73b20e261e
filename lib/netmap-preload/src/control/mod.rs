//! ioctl(2) on a netmap descriptor: which request is whose.
//!
//! Invariant: a request fails with netmap's error number, and then it has changed nothing.

use nix::errno::Errno;

use crate::abi::{self, reqtype};
use crate::handle::{self, Netmap, Polling};
use crate::table::{self, Kind, Object, Ref};

mod hdr;
mod info;
mod legacy;
mod name;
mod register;
mod request;
mod vale;

pub use request::Request;

/// Whether an ioctl command is one of netmap's.
#[inline]
pub fn is_command(command: u64) -> bool {
    use abi::{NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC};
    // The kernel takes the lower half.
    let command = command & u64::from(u32::MAX);
    matches!(command, NIOCCTRL | NIOCTXSYNC | NIOCRXSYNC | NIOCGINFO | NIOCREGIF | NIOCCONFIG)
}

/// A call on a netmap descriptor.
pub fn ioctl(fd: i32, at: &Ref, command: u64, arg: u64) -> Result<(), Errno> {
    match command & u64::from(u32::MAX) {
        abi::NIOCTXSYNC => sync(at, |netmap| netmap.txsync(fd)),
        abi::NIOCRXSYNC => sync(at, |netmap| netmap.rxsync(fd)),
        abi::NIOCCTRL => {
            table::sweep();
            control(fd, at, arg)
        }
        command @ (abi::NIOCREGIF | abi::NIOCGINFO) => {
            table::sweep();
            legacy::call(fd, at, command, arg)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A sync in a signal handler that interrupted one of the same descriptor is that one.
#[inline]
fn sync(at: &Ref, f: impl FnOnce(&mut Netmap) -> Result<(), Errno>) -> Result<(), Errno> {
    at.netmap(f).unwrap_or(Ok(()))
}

fn control(fd: i32, at: &Ref, arg: u64) -> Result<(), Errno> {
    let mut request = Request::read(arg)?;
    let done = serve(fd, at, &mut request);
    request.tell();
    done
}

/// Serves a request of either API.
fn serve(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    match request.header.reqtype {
        reqtype::REGISTER => register::request(fd, at, request),
        _ if request.check_options(crate::kloop::options(request.header.reqtype)).is_err() => {
            Err(Errno::EOPNOTSUPP)
        }
        reqtype::PORT_INFO_GET => info::port(request),
        reqtype::POOLS_INFO_GET => info::pools(fd, at, request),
        reqtype::VALE_ATTACH => vale::attach(request),
        reqtype::VALE_DETACH => vale::detach(request),
        reqtype::VALE_LIST => vale::list(request),
        reqtype::VALE_NEWIF => vale::newif(request),
        reqtype::VALE_DELIF => vale::delif(request),
        reqtype::VALE_POLLING_ENABLE | reqtype::VALE_POLLING_DISABLE => vale::polling(request),
        reqtype::PORT_HDR_SET => hdr::set(request),
        reqtype::PORT_HDR_GET => hdr::get(request),
        reqtype::CSB_ENABLE => crate::kloop::enable(fd, at, request),
        reqtype::SYNC_KLOOP_START => crate::kloop::start(fd, at, request),
        reqtype::SYNC_KLOOP_STOP => crate::kloop::stop(at),
        _ => Err(Errno::EINVAL),
    }
}

/// A descriptor that is not known, and that a netmap command came for: it may have been inherited, kept across
/// execve(2), or received in a message. `None`: it is nothing to us.
pub fn recognise(fd: i32) -> Option<Result<Ref, Errno>> {
    let known = match handle::recognise(fd)? {
        Ok(None) => Netmap::new(),
        Ok(Some(port)) => Netmap::of(port, Polling::default()),
        Err(errno) => return Some(Err(errno)),
    };
    if table::kind(fd) == Kind::Ordinary && !table::add(fd, Object::Netmap(known)) {
        return Some(Err(Errno::ENOMEM));
    }
    table::find_netmap(fd).map(Ok)
}
