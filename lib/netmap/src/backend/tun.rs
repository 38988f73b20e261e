//! The kernel's calls on taps, typed: `Documentation/networking/tuntap.rst`.
//!
//! Invariant: a queue that this module hands out belongs to a tap, does not block, and has a header in front of each
//! frame, with nothing left to do behind it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Error, InUse, Invalid, Lack, Privilege, Result};
use crate::netlink::{self, Watch};
use crate::{netns, random};

const TUN: &str = "/dev/net/tun";
/// `struct virtio_net_hdr`: what the kernel has unless it is told another length.
pub const PLAIN_HEADER_BYTES: u8 = 10;
/// What the kernel may leave undone: checksums, segmentation of TCP over IPv4 and IPv6, with ECN, and of UDP. Older
/// kernels know only the first of them.
const OFFLOADS: [u32; 4] = [0x6f, 0x0f, 0x07, 0x01];

/// Names tried for a tap that is to be moved.
const TRIES: usize = 16;

mod ioctl {
    const TUN: u8 = b'T';

    nix::ioctl_write_ptr_bad!(
        tunsetiff,
        nix::request_code_write!(TUN, 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        tunsetoffload,
        nix::request_code_write!(TUN, 208, size_of::<libc::c_uint>())
    );
    nix::ioctl_write_ptr!(tunsetvnethdrsz, TUN, 216, libc::c_int);
    nix::ioctl_read_bad!(
        tungetiff,
        nix::request_code_read!(TUN, 210, size_of::<libc::c_uint>()),
        libc::ifreq
    );
    nix::ioctl_none!(tungetdevnetns, TUN, 227);
    nix::ioctl_read_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// Attaches to the tap `interface` with so many queues, makes it if there is none, and brings it up. `port` is who
/// wants it; `netns` where it is, if not here.
///
/// A descriptor that was opened in a namespace keeps that alive, with all in it. So what is made for another
/// namespace is made here, and moved: it goes when that one does. What is there already can only be opened in there;
/// then the second value is true.
pub fn open(
    interface: &str,
    port: &str,
    queues: usize,
    netns: Option<BorrowedFd<'_>>,
) -> Result<(Vec<File>, bool)> {
    let open_here = || -> Result<Vec<File>> {
        let queues = attached(interface, port, queues)?;
        up(interface, port)?;
        Ok(queues)
    };
    let Some(netns) = netns else { return Ok((open_here()?, false)) };
    if netns::inside(netns, port, || Ok(if_nametoindex(interface).is_ok()))? {
        return Ok((netns::inside(netns, port, open_here)?, true));
    }
    let (made, index) = made(port, queues)?;
    netlink::move_to(netns, index, interface)
        .map_err(Error::io("move into its network namespace", interface))?;
    netns::inside(netns, port, || up(interface, port))?;
    Ok((made, false))
}

/// A new tap, under a name that nobody has, and its number.
fn made(port: &str, queues: usize) -> Result<(Vec<File>, i32)> {
    for _ in 0..TRIES {
        let name = format!("nm{:08x}", random::random() as u32);
        if if_nametoindex(name.as_str()).is_ok() {
            continue;
        }
        let made = attached(&name, port, queues)?;
        let index = if_nametoindex(name.as_str()).map_err(Error::io("find", name))?;
        return Ok((made, index.cast_signed()));
    }
    Err(Error::io("find a name for a new tap of", port)(Errno::EEXIST))
}

fn up(interface: &str, port: &str) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(Error::io("make a socket to configure", interface))?;
    bring_up(&socket, interface, port)
}

fn attached(interface: &str, port: &str, queues: usize) -> Result<Vec<File>> {
    // The kernel lets several programs have queues of one tap. Each would get a part of the packets, and the header is the same for
    // all: whoever sets it sets it for the others. Looked at before, as a queue takes packets at once, and behind, as somebody else
    // may have come meanwhile.
    let at_most = |own| match Watch::new(interface) {
        Ok(watch) if watch.interface().queues > own => {
            Err(Error::Busy { name: port.to_owned(), by: InUse::Tap })
        }
        Ok(_) => Ok(()),
        Err(error) if error.errno() == Errno::ENODEV => Ok(()),
        Err(error) => Err(error),
    };
    at_most(0)?;
    let several = queues > 1;
    let first = match one(interface, port, several) {
        // There is one, of the other sort, or it is something else.
        Err(Error::Invalid { .. }) if several => {
            one(interface, port, false)?;
            return Err(Error::invalid(port, Invalid::OneQueue));
        }
        Err(Error::Invalid { .. }) => one(interface, port, true)?,
        first => first?,
    };
    at_most(1)?;
    let mut all = vec![first];
    for _ in 1..queues {
        all.push(one(interface, port, several)?);
    }
    // Always: a persistent tap keeps both from its last user, who may have been killed. They are the same for all queues.
    leave_undone(&all[0], false)
        .and_then(|()| set_header(&all[0], PLAIN_HEADER_BYTES))
        .map_err(Error::io("switch off the offloads of", interface))?;
    Ok(all)
}

fn one(interface: &str, port: &str, several: bool) -> Result<File> {
    let may_not_open = || {
        let privilege = Privilege::OpenTap { interface: interface.into() };
        Error::NotPermitted { name: port.to_owned(), privilege }
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => may_not_open(),
        ErrorKind::NotFound => Error::Unavailable { name: port.to_owned(), lack: Lack::Tun },
        _ => Error::io("open", TUN)(error),
    })?;
    attach(&file, interface, several).map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES => may_not_open(),
        Errno::EBUSY => Error::Busy { name: port.to_owned(), by: InUse::Tap },
        Errno::EINVAL => Error::invalid(port, Invalid::NotATap),
        _ => Error::io("attach to the tap", interface)(errno),
    })?;
    Ok(file)
}

/// An `ifreq` that names the interface and is otherwise zero.
fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: integers, byte arrays and a nullable pointer; all of them may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The grammar of port names keeps interface names below IFNAMSIZ; the last byte stays NUL.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn attach(file: &File, interface: &str, several: bool) -> nix::Result<()> {
    let mut request = ifreq(interface);
    let queues = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("these are below 0x8000");
    // SAFETY: the descriptor is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::tunsetiff(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// Lets the kernel leave segmentation and checksums undone, all that it can, or nothing.
pub fn leave_undone(file: &File, what_can_be: bool) -> nix::Result<()> {
    let wanted = if what_can_be { &OFFLOADS[..] } else { &[0] };
    let mut set = Ok(());
    for &offloads in wanted {
        let word = libc::c_int::try_from(offloads).expect("a few low bits");
        // SAFETY: the descriptor is open; the argument is an integer, no memory is touched.
        set = unsafe { ioctl::tunsetoffload(file.as_raw_fd(), word) }.map(drop);
        if set != Err(Errno::EINVAL) {
            break;
        }
    }
    set
}

/// Sets the length of the header in front of each frame.
pub fn set_header(file: &File, bytes: u8) -> nix::Result<()> {
    let header = libc::c_int::from(bytes);
    // SAFETY: the descriptor is open, and `header` is an int that outlives the call.
    unsafe { ioctl::tunsetvnethdrsz(file.as_raw_fd(), &raw const header) }.map(drop)
}

/// What the tap is called now.
pub fn name(file: &File) -> nix::Result<String> {
    let mut request = ifreq("");
    // SAFETY: the descriptor is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::tungetiff(file.as_raw_fd(), &raw mut request) }?;
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let name = bytes.take_while(|&byte| byte != 0).collect::<Vec<_>>();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The network namespace that the tap is in now, wherever it was moved to.
pub fn namespace(file: &File) -> nix::Result<OwnedFd> {
    // SAFETY: the descriptor is open; there is no argument.
    let fd = unsafe { ioctl::tungetdevnetns(file.as_raw_fd()) }?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bring_up(socket: &OwnedFd, interface: &str, port: &str) -> Result<()> {
    let mut request = ifreq(interface);
    // SAFETY: the socket is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::siocgifflags(socket.as_raw_fd(), &raw mut request) }
        .map_err(Error::io("read the flags of", interface))?;
    let up = i16::try_from(libc::IFF_UP).expect("IFF_UP is 1");
    // SAFETY: SIOCGIFFLAGS succeeded, so the kernel wrote this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & up != 0 {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: as above.
    unsafe { ioctl::siocsifflags(socket.as_raw_fd(), &raw const request) }.map_err(|errno| {
        if errno == Errno::EPERM {
            let privilege = Privilege::BringUp { interface: interface.into() };
            return Error::NotPermitted { name: port.to_owned(), privilege };
        }
        Error::io("bring up", interface)(errno)
    })?;
    Ok(())
}
