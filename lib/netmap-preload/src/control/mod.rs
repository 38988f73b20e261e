//! ioctl(2) on a netmap descriptor: which request is whose.
//!
//! Invariant: a request fails with netmap's error number, and then it has changed nothing.

use nix::errno::Errno;

use crate::abi;
use crate::epoll;
use crate::handle::{self, Netmap, Polling};
use crate::request::Request;
use crate::table::{self, Kind, Ref};
use crate::user;

mod hdr;
mod info;
mod legacy;
mod name;
mod register;
mod serve;
mod switches;
mod vale;

/// Whether an ioctl command is one of netmap's.
#[inline]
pub fn is_command(command: u64) -> bool {
    use abi::{NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC};
    // The kernel takes the lower half.
    let command = command & u64::from(u32::MAX);
    matches!(command, NIOCCTRL | NIOCTXSYNC | NIOCRXSYNC | NIOCGINFO | NIOCREGIF | NIOCCONFIG)
}

/// Whether an ioctl command is one that the kernel does itself, of whatever descriptor.
#[inline]
pub fn is_any_descriptors(command: u64) -> bool {
    let command = command & u64::from(u32::MAX);
    matches!(command, libc::FIOCLEX | libc::FIONCLEX | libc::FIONBIO | libc::FIOASYNC)
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
        // Of switches with a module's own forwarding, which there are not.
        abi::NIOCCONFIG if arg == 0 => Err(Errno::EINVAL),
        abi::NIOCCONFIG => user::read::<u8>(arg).and(Err(Errno::EOPNOTSUPP)),
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
    let done = serve::serve(fd, at, &mut request);
    request.tell();
    done
}

/// A descriptor that is not known, and that a netmap command came for: it may have been inherited, kept across
/// execve(2), or received in a message. `None`: it is nothing to us.
pub fn recognise(fd: i32) -> Option<Result<Ref, Errno>> {
    let known = match handle::recognise(fd)? {
        Ok(None) => Netmap::unbound(fd),
        Ok(Some(port)) => Netmap::of(fd, port, Polling::default()),
        Err(errno) => return Some(Err(errno)),
    };
    if table::kind(fd) == Kind::Ordinary && !table::add(fd, known) {
        return Some(Err(Errno::ENOMEM));
    }
    let found = table::find_netmap(fd)?;
    epoll::adopt(fd, &found);
    Some(Ok(found))
}
