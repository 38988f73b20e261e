//! `tap:NAME`: a tap interface of the host, so that its network stack is a peer like any other.
//!
//! Invariant: only plain, complete Ethernet frames cross this file. All offloads are switched off,
//! so the kernel finishes every checksum and cuts every segment itself before we see it, and what
//! we send says that nothing is left to do. The virtio-net header stays switched on all the same:
//! a persistent tap may carry the offloads of its last user until ours are set, and only the
//! header tells a frame of those first microseconds from a finished one.
//!
//! Follows the kernel's `Documentation/networking/tuntap.rst` and `linux/virtio_net.h`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::adapter::Kind;
use crate::backend::packets::{Packets, one_ring_pair};
use crate::backend::{Device, Sent};
use crate::error::{Error, InUse, Invalid, Lack, Privilege, Result};
use crate::name::{Capabilities, Scheme, Syntax};
use crate::netlink::{Link, Watch};
use crate::time::now_ms;

const TUN: &str = "/dev/net/tun";
/// `struct virtio_net_hdr`: flags, gso_type, and four 16-bit words.
const VNET_HEADER_BYTES: usize = 10;
/// `virtio_net_hdr.flags`: the checksum is partial.
const NEEDS_CSUM: u8 = 1;
/// How often the kernel is asked whether it has told anything of the interface.
const LOOK_MS: u64 = 20;
/// Frames that are not plain, looked over in one call before it returns with nothing. Only the
/// first microseconds can have any, so the number matters to nobody.
const SKIP_MAX: usize = 64;

mod ioctl {
    //! The kernel's calls, typed.

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
    nix::ioctl_read_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_read_bad!(siocgifhwaddr, libc::SIOCGIFHWADDR, libc::ifreq);
}

/// What such a port can do. Its link takes a moment to come up in bridges that it belongs to.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::LINK_STATE)
    .union(Capabilities::PERSISTENT)
    .union(Capabilities::HARDWARE_ADDRESS);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "tap",
        // A tap has one ring pair, so a dash in its name chooses none: it belongs to the name.
        syntax: Syntax::Interface { dashes: true },
        is_bare: |name| name.starts_with("tap"),
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        one_ring_pair(name)?;
        let tap = Tap::open(name.interface().unwrap_or_default())?;
        Ok(Box::new(Packets::new(tap, name, options, CAPABILITIES)?))
    },
};

/// The device behind `tap:`. An interface that it made is gone when it is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    mac: [u8; 6],
    /// What becomes of the interface, and when that was looked at.
    watch: Watch,
    looked_ms: u64,
}

impl Tap {
    /// Attaches to the tap interface `name`, makes it if there is none, and brings it up.
    pub fn open(name: &str) -> Result<Tap> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN)
            .map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied => may_not_open(name),
                ErrorKind::NotFound => Error::Unavailable { name: full(name), lack: Lack::Tun },
                _ => Error::io("open", TUN)(error),
            })?;
        attach(&file, name)?;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(Error::io("make a socket to configure", name))?;
        bring_up(&socket, name)?;
        let mac = hardware_address(&socket, name)?;
        let watch = Watch::new(name)?;
        Ok(Tap { file, name: name.to_owned(), mac, watch, looked_ms: now_ms() })
    }

    fn deleted(&self) -> Error {
        Error::Unavailable { name: full(&self.name), lack: Lack::Interface }
    }
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

fn attach(file: &File, name: &str) -> Result<()> {
    let fd = file.as_raw_fd();
    let mut request = ifreq(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("these three are below 0x8000");
    // SAFETY: the descriptor is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::tunsetiff(fd, &raw const request) }.map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES => may_not_open(name),
        Errno::EBUSY => Error::Busy { name: full(name), by: InUse::Tap },
        Errno::EINVAL => Error::invalid(full(name), Invalid::NotATap),
        _ => Error::io("attach to the tap", name)(errno),
    })?;
    // SAFETY: the descriptor is open; the argument is an integer, no memory is touched.
    unsafe { ioctl::tunsetoffload(fd, 0) }
        .map_err(Error::io("switch off the offloads of", name))?;
    let header = libc::c_int::try_from(VNET_HEADER_BYTES).expect("10 fits");
    // SAFETY: the descriptor is open, and `header` is an int that outlives the call.
    unsafe { ioctl::tunsetvnethdrsz(fd, &raw const header) }
        .map_err(Error::io("set the virtio-net header of", name))?;
    Ok(())
}

fn bring_up(socket: &OwnedFd, name: &str) -> Result<()> {
    let mut request = ifreq(name);
    // SAFETY: the socket is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::siocgifflags(socket.as_raw_fd(), &raw mut request) }
        .map_err(Error::io("read the flags of", name))?;
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
            let privilege = Privilege::BringUp { interface: name.into() };
            return Error::NotPermitted { name: full(name), privilege };
        }
        Error::io("bring up", name)(errno)
    })?;
    Ok(())
}

fn hardware_address(socket: &OwnedFd, name: &str) -> Result<[u8; 6]> {
    let mut request = ifreq(name);
    // SAFETY: the socket is open, and `request` is a whole ifreq that outlives the call.
    unsafe { ioctl::siocgifhwaddr(socket.as_raw_fd(), &raw mut request) }
        .map_err(Error::io("read the hardware address of", name))?;
    // SAFETY: SIOCGIFHWADDR succeeded, so the kernel wrote this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Ok(std::array::from_fn(|i| address.sa_data[i].cast_unsigned()))
}

fn may_not_open(name: &str) -> Error {
    let privilege = Privilege::OpenTap { interface: name.into() };
    Error::NotPermitted { name: full(name), privilege }
}

/// The name of the port of an interface.
fn full(name: &str) -> String {
    format!("tap:{name}")
}

/// Whether a frame with this header needs nothing done to it.
fn is_plain(header: &[u8; VNET_HEADER_BYTES]) -> bool {
    let (flags, gso_type) = (header[0], header[1]);
    flags & NEEDS_CSUM == 0 && gso_type == 0
}

impl Device for Tap {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        let nothing_to_do = [0; VNET_HEADER_BYTES];
        let parts = [IoSlice::new(&nothing_to_do), IoSlice::new(packet)];
        loop {
            let Err(error) = self.file.write_vectored(&parts) else {
                return Ok(Sent::Done);
            };
            return match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINTR) => continue,
                Some(Errno::EAGAIN) => Ok(Sent::Again),
                Some(Errno::EBADFD) => Err(self.deleted()),
                // Shorter than a header, longer than the kernel takes, no memory for it now, or
                // the interface is down: a NIC would lose this packet as well.
                Some(Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO | Errno::ENOMEM)
                | Some(Errno::ENOBUFS) => Ok(Sent::Refused),
                _ => Err(Error::io("send to", &self.name)(error)),
            };
        }
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        for _ in 0..SKIP_MAX {
            let mut header = [0; VNET_HEADER_BYTES];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buf)];
            match self.file.read_vectored(&mut parts) {
                Ok(n) if n > VNET_HEADER_BYTES && is_plain(&header) => {
                    return Ok(Some((n - VNET_HEADER_BYTES).min(buf.len())));
                }
                Ok(_) => {}
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::EAGAIN) => return Ok(None),
                    Some(Errno::EBADFD) => return Err(self.deleted()),
                    _ => return Err(Error::io("receive from", &self.name)(error)),
                },
            }
        }
        Ok(None)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn look(&mut self) -> Result<()> {
        let now_ms = now_ms();
        if now_ms.wrapping_sub(self.looked_ms) < LOOK_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        self.watch.update().map(drop)
    }

    fn link(&self) -> Link {
        self.watch.link()
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.watch.interface().mtu)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }
}

#[cfg(test)]
#[path = "../../../nm-cli/tests/skip/mod.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tap of this process, or the reason why there can be none.
    fn tap(letter: char) -> Option<Tap> {
        let name = format!("nmt{letter}{}", std::process::id());
        match Tap::open(&name) {
            Ok(tap) => Some(tap),
            Err(error @ (Error::NotPermitted { .. } | Error::Unavailable { .. })) => {
                skip::skip("tap", &error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn statistic(name: &str, counter: &str) -> u64 {
        let path = format!("/sys/class/net/{name}/statistics/{counter}");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn header_with_anything_left_to_do_is_not_plain() {
        let mut header = [0; VNET_HEADER_BYTES];
        assert!(is_plain(&header));
        header[0] = 2; // VIRTIO_NET_HDR_F_DATA_VALID: checked already
        assert!(is_plain(&header));
        header[0] = NEEDS_CSUM;
        assert!(!is_plain(&header));
        header = [0; VNET_HEADER_BYTES];
        header[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
        assert!(!is_plain(&header));
    }

    #[test]
    fn tap_exists_and_is_up_while_open_and_is_gone_after() {
        let Some(tap) = tap('a') else { return };
        let path = format!("/sys/class/net/{}", tap.name);
        let flags = std::fs::read_to_string(format!("{path}/flags")).unwrap();
        let flags = i32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert_ne!(flags & libc::IFF_UP, 0);
        let address = std::fs::read_to_string(format!("{path}/address")).unwrap();
        let mac = tap.mac().unwrap().map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(address.trim(), mac);
        let error = Tap::open(&tap.name).unwrap_err().to_string();
        assert!(error.contains("another program has it open"), "{error}");
        drop(tap);
        assert!(!std::path::Path::new(&path).exists());
    }

    #[test]
    fn link_and_mtu_follow_the_interface() {
        let Some(mut tap) = tap('d') else { return };
        let name = tap.name.clone();
        let ip = |words: &[&str]| {
            let args = [&["link", "set", name.as_str()], words].concat();
            std::process::Command::new("ip").args(args).status().is_ok_and(|s| s.success())
        };
        if !ip(&["mtu", "1400"]) {
            return skip::skip("link_and_mtu_follow_the_interface", "ip is not installed");
        }
        let mut see = |link, mtu| {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while (tap.link(), tap.mtu()) != (link, Some(mtu)) {
                assert!(std::time::Instant::now() < until, "{:?} {:?}", tap.link(), tap.mtu());
                tap.look().unwrap();
                std::thread::yield_now();
            }
        };
        see(Link::Up, 1400);
        assert!(ip(&["down"]));
        see(Link::Down, 1400);
        assert!(ip(&["up"]) && ip(&["mtu", "9000"]));
        see(Link::Up, 9000);
        let deleted = std::process::Command::new("ip").args(["link", "del", &name]).status();
        assert!(deleted.unwrap().success());
        see(Link::Gone, 9000);
    }

    #[test]
    fn send_reaches_the_host_and_short_frames_are_refused() {
        let Some(mut tap) = tap('b') else { return };
        let before = statistic(&tap.name, "rx_packets");
        assert_eq!(tap.send(&[0xff; 60]).unwrap(), Sent::Done);
        assert_eq!(statistic(&tap.name, "rx_packets"), before + 1);
        assert_eq!(tap.send(&[0xff; 5]).unwrap(), Sent::Refused);
    }

    #[test]
    fn open_of_something_else_says_what_to_do() {
        if tap('c').is_none() {
            return;
        }
        let error = Tap::open("lo").unwrap_err().to_string();
        assert!(error.contains("not a plain tap"), "{error}");
    }
}
