//! `tap:NAME`: a tap interface of the host, so that its network stack is a peer like any other.
//!
//! Invariant: what crosses this file says what is left to be done to it. A port without headers has all offloads switched
//! off: the kernel finishes every checksum and cuts every segment before we see it, and what we send says that nothing is
//! left to do. The kernel's own header stays on all the same: a persistent tap may carry the offloads of its last user until
//! ours are set, and only the header tells a frame of those first microseconds from a finished one. A port with headers
//! passes them on, and both sides do what they say.
//!
//! Follows the kernel's `Documentation/networking/tuntap.rst` and `linux/virtio_net.h`.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::adapter::Kind;
use crate::backend::packets::{PACKET_BYTES, Packets};
use crate::backend::parts::Parts;
use crate::backend::{Device, Sent, tun};
use crate::error::{Error, Invalid, Lack, Result};
use crate::name::{Capabilities, Dashes, PortName, Scheme, Syntax};
use crate::netlink::{Link, Presence, Watch};
use crate::netns::{self, Home};
use crate::options::MAX_RINGS;
use crate::shm::mem::STRIDE;
use crate::time::now_ms;

/// Bytes of the kernel's header while the port has none.
const PLAIN: usize = tun::PLAIN_HEADER_BYTES as usize;
/// `virtio_net_hdr.flags`: the checksum is partial.
const NEEDS_CSUM: u8 = 1;
/// How often the kernel is asked whether it has told anything of the interface.
const LOOK_MS: u64 = 20;
/// Frames that are not plain, looked over in one call before it returns with nothing. Only the
/// first microseconds can have any, so the number matters to nobody.
const SKIP_MAX: usize = 64;
/// What a frame may have beside an MTU's worth of payload: its header, and a VLAN tag.
const AROUND_PAYLOAD: usize = 14 + 4;

/// What such a port can do. Its link takes a moment to come up in bridges that it belongs to.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE
    .union(Capabilities::ZERO_COPY)
    .union(Capabilities::OFFLOAD_HEADERS)
    .union(Capabilities::SEVERAL_RINGS)
    .union(Capabilities::LINK_STATE)
    .union(Capabilities::PERSISTENT)
    .union(Capabilities::HARDWARE_ADDRESS);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "tap",
        // Rings are queues that the kernel spreads flows over; a handle has all of them, so a dash chooses
        // none: it belongs to the name.
        syntax: Syntax::Interface { dashes: Dashes::InName },
        is_bare: |name| name.starts_with("tap"),
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        let open = |queues| Tap::open(name, queues);
        Ok(Box::new(Packets::new(name, options, CAPABILITIES, MAX_RINGS, open)?))
    },
};

/// A queue of a tap, the device behind `tap:`. An interface that was made for it is gone when the last one is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// The port's name, for messages.
    name: String,
    /// Bytes of the port's header, 0 if it has none.
    header: u8,
    /// What becomes of the interface, and when that was looked at.
    watch: Watch,
    looked_ms: u64,
    /// It is in a namespace that we may not look into.
    out_of_sight: bool,
    /// It was deleted.
    gone: bool,
    /// Frames that were cut, because the MTU had grown since the last look, or lost with the memory that they were for.
    cut: u64,
    /// What is to end with it.
    company: Option<Box<dyn Debug + Send>>,
    /// Another interface, without which it is of no use.
    leader: Option<Watch>,
    /// The namespace that it keeps alive, while the interface is there.
    home: Option<Home>,
}

impl Tap {
    /// Attaches to the tap of that name, makes it if there is none, and brings it up; a device for each queue.
    pub fn open(name: &PortName, queues: usize) -> Result<Vec<Tap>> {
        Self::open_for(&name.to_string(), name, queues)
    }

    /// The same for another port, by whose name errors go.
    pub fn open_for(port: &str, name: &PortName, queues: usize) -> Result<Vec<Tap>> {
        let interface = name.interface().unwrap_or_default();
        let netns = name.netns.as_deref().map(|netns| netns::open(netns, port)).transpose()?;
        let home =
            name.netns.as_deref().zip(netns.as_ref()).and_then(|(name, ns)| Home::of(name, ns));
        let netns = netns.as_ref().map(AsFd::as_fd);
        let (files, keeps) = tun::open(interface, port, queues, netns)?;
        let home = home.filter(|_| keeps);
        let tap = |file| {
            let watch = Watch::following(interface, netns)?;
            Ok(Tap {
                file,
                name: port.to_owned(),
                header: 0,
                watch,
                looked_ms: now_ms(),
                out_of_sight: false,
                gone: false,
                cut: 0,
                company: None,
                leader: None,
                home: home.clone(),
            })
        };
        files.into_iter().map(tap).collect()
    }

    /// Keeps something as long as the tap, which ends with the interface `leader` and the namespace `home`, and forgets
    /// what the stack has sent on it so far.
    pub fn accompany(&mut self, company: Box<dyn Debug + Send>, leader: Watch, home: Option<Home>) {
        let mut scratch = [0; STRIDE];
        for _ in 0..SKIP_MAX {
            if (&self.file).read(&mut scratch).is_err() {
                break;
            }
        }
        (self.company, self.leader, self.home) = (Some(company), Some(leader), home);
    }

    #[cold]
    fn deleted(&mut self) -> Error {
        self.gone = true;
        let is_left = self.leader.as_ref().is_some_and(|it| it.presence() != Presence::Here)
            || self.home.as_ref().is_some_and(|home| !home.is_there());
        let lack = if is_left { Lack::InterfaceGone } else { Lack::Interface };
        Error::Unavailable { name: self.name.clone(), lack }
    }

    /// Follows the interface to another namespace, unless there is none any more. The queue itself knows: the two look alike
    /// to who asks between the move and its announcement.
    #[cold]
    fn follow(&mut self) -> Result<()> {
        let name = match tun::name(&self.file) {
            Err(Errno::EBADFD) => return Err(self.deleted()),
            name => name.map_err(Error::io("find", &self.name))?,
        };
        self.home = None; // it is elsewhere, and that namespace is another's business
        let entered = tun::namespace(&self.file).and_then(|ns| self.watch.enter(ns.as_fd(), &name));
        // If not, it works on; its link and MTU are what they were.
        self.out_of_sight = entered.is_err();
        Ok(())
    }

    /// The longest frame without a header that can be read or written, and nothing else be left to do.
    fn longest_plain(&self) -> usize {
        self.watch.interface().mtu as usize + AROUND_PAYLOAD
    }

    /// Sets the kernel's header and offloads: off before the header shrinks, on after it has grown.
    fn set_header(&mut self, bytes: u8) -> nix::Result<()> {
        tun::leave_undone(&self.file, false)?;
        tun::set_header(&self.file, if bytes == 0 { tun::PLAIN_HEADER_BYTES } else { bytes })?;
        if bytes > 0 {
            tun::leave_undone(&self.file, true)?;
        }
        self.header = bytes;
        Ok(())
    }
}

impl Drop for Tap {
    /// Whoever opens a persistent tap next may know of no headers.
    fn drop(&mut self) {
        if self.header > 0 {
            let _ = self.set_header(0); // the interface may be gone
        }
    }
}

/// Whether a frame with this header needs nothing done to it.
fn is_plain(header: &[u8; PLAIN]) -> bool {
    let (flags, gso_type) = (header[0], header[1]);
    flags & NEEDS_CSUM == 0 && gso_type == 0
}

impl Device for Tap {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        self.send_parts(&mut Parts::of(packet), &mut [])
    }

    fn send_parts(&mut self, packet: &mut Parts<'_>, _: &mut [u8]) -> Result<Sent> {
        const NOTHING_TO_DO: [u8; PLAIN] = [0; PLAIN];
        let longest = self.longest_plain() + usize::from(self.header);
        if packet.len() > longest {
            let [_, gso_type] = packet.first::<2>();
            if self.header == 0 || gso_type == 0 {
                return Ok(Sent::TooLong);
            }
        }
        let header = if self.header == 0 { &NOTHING_TO_DO[..] } else { &[] };
        loop {
            let Err(errno) = packet.write_to(self.file.as_fd(), header) else {
                return Ok(Sent::Done);
            };
            return match errno {
                Errno::EINTR => continue,
                Errno::EAGAIN => Ok(Sent::Again),
                Errno::EBADFD => Err(self.deleted()),
                Errno::EIO => Ok(Sent::Down),
                // Shorter than a header, a header that cannot be, or no memory for it now: a NIC would lose
                // this packet as well.
                Errno::EINVAL | Errno::EMSGSIZE | Errno::ENOMEM | Errno::ENOBUFS => {
                    Ok(Sent::Refused)
                }
                // Somebody has cut the memory that is shared with a switch.
                Errno::EFAULT => Ok(Sent::Refused),
                _ => Err(Error::io("send to", &self.name)(errno)),
            };
        }
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.receive_parts(&mut Parts::of_mut(buf), &mut [])
    }

    fn receive_parts(&mut self, room: &mut Parts<'_>, _: &mut [u8]) -> Result<Option<usize>> {
        let (longest, most) = (self.longest() - 1, self.longest().div_ceil(STRIDE));
        for _ in 0..SKIP_MAX {
            let mut header = [0; PLAIN];
            let place = if self.header == 0 { &mut header[..] } else { &mut [] };
            match room.read_from(self.file.as_fd(), place, most) {
                Ok(n) if self.header > 0 => return Ok(Some(n)),
                Ok(n) if n > PLAIN && is_plain(&header) => {
                    let n = n - PLAIN;
                    if n < most * STRIDE || n <= longest {
                        return Ok(Some(n));
                    }
                    self.cut += 1;
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EFAULT) => self.cut += 1,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EBADFD) => return Err(self.deleted()),
                Err(errno) => return Err(Error::io("receive from", &self.name)(errno)),
            }
        }
        Ok(None)
    }

    fn longest(&self) -> usize {
        // By one more, a frame is known that was cut.
        1 + if self.header == 0 { self.longest_plain() } else { PACKET_BYTES }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn left_out(&self) -> u64 {
        self.cut
    }

    fn look(&mut self) -> Result<()> {
        if self.gone {
            return Err(self.deleted());
        }
        let now_ms = now_ms();
        if now_ms.wrapping_sub(self.looked_ms) < LOOK_MS {
            return Ok(());
        }
        self.looked_ms = now_ms;
        self.watch.update()?;
        if let Some(leader) = &mut self.leader {
            leader.update()?;
            if leader.presence() != Presence::Here {
                return Err(self.deleted());
            }
        }
        if self.home.as_ref().is_some_and(|home| !home.is_there()) {
            return Err(self.deleted());
        }
        match self.watch.presence() {
            Presence::Here => Ok(()),
            _ if self.out_of_sight => Ok(()),
            Presence::Moved | Presence::Deleted => self.follow(),
        }
    }

    fn vnet_hdr_len(&self) -> u8 {
        self.header
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        if ![0, 10, 12].contains(&len) {
            return Err(Error::invalid(name, Invalid::VnetHeader { asked: len }));
        }
        if len == self.header {
            return Ok(());
        }
        self.set_header(len).map_err(Error::io("set the virtio-net header of", &self.name))
    }

    fn link(&self) -> Link {
        match (self.gone, self.out_of_sight) {
            (true, _) => Link::Gone,
            (false, true) => Link::Up,
            (false, false) => self.watch.link(),
        }
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.watch.interface().mtu)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.watch.interface().mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::skip::skip;

    /// A tap of this process, or the reason why there can be none.
    fn tap(letter: char) -> Option<Tap> {
        let name = format!("tap:nmt{letter}{}", std::process::id());
        match Tap::open(&name.parse().unwrap(), 1) {
            Ok(mut taps) => taps.pop(),
            Err(error @ (Error::NotPermitted { .. } | Error::Unavailable { .. })) => {
                skip("tap", &error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn interface(tap: &Tap) -> &str {
        tap.name.strip_prefix("tap:").unwrap()
    }

    fn statistic(name: &str, counter: &str) -> u64 {
        let path = format!("/sys/class/net/{name}/statistics/{counter}");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn header_with_anything_left_to_do_is_not_plain() {
        let mut header = [0; PLAIN];
        assert!(is_plain(&header));
        header[0] = 2; // VIRTIO_NET_HDR_F_DATA_VALID: checked already
        assert!(is_plain(&header));
        header[0] = NEEDS_CSUM;
        assert!(!is_plain(&header));
        header = [0; PLAIN];
        header[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
        assert!(!is_plain(&header));
    }

    #[test]
    fn tap_exists_and_is_up_while_open_and_is_gone_after() {
        let Some(tap) = tap('a') else { return };
        let path = format!("/sys/class/net/{}", interface(&tap));
        let flags = std::fs::read_to_string(format!("{path}/flags")).unwrap();
        let flags = i32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert_ne!(flags & libc::IFF_UP, 0);
        let address = std::fs::read_to_string(format!("{path}/address")).unwrap();
        let mac = tap.mac().unwrap().map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(address.trim(), mac);
        let error = Tap::open(&tap.name.parse().unwrap(), 1).unwrap_err().to_string();
        assert!(error.contains("another program has it open"), "{error}");
        drop(tap);
        assert!(!std::path::Path::new(&path).exists());
    }

    #[test]
    fn link_and_mtu_follow_the_interface() {
        let Some(mut tap) = tap('d') else { return };
        let name = interface(&tap).to_owned();
        let ip = |words: &[&str]| {
            let args = [&["link", "set", name.as_str()], words].concat();
            std::process::Command::new("ip").args(args).status().is_ok_and(|s| s.success())
        };
        if !ip(&["mtu", "1400"]) {
            return skip("link_and_mtu_follow_the_interface", "ip is not installed");
        }
        let mut see = |link, mtu| {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while (tap.link(), tap.mtu()) != (link, Some(mtu)) {
                assert!(std::time::Instant::now() < until, "{:?} {:?}", tap.link(), tap.mtu());
                // It says so itself, from then on.
                assert!(tap.look().is_ok() || link == Link::Gone);
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
        let before = statistic(interface(&tap), "rx_packets");
        assert_eq!(tap.send(&[0xff; 60]).unwrap(), Sent::Done);
        assert_eq!(statistic(interface(&tap), "rx_packets"), before + 1);
        assert_eq!(tap.send(&[0xff; 5]).unwrap(), Sent::Refused);
    }

    #[test]
    fn open_of_something_else_says_what_to_do() {
        if tap('c').is_none() {
            return;
        }
        let error = Tap::open(&"tap:lo".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(error.contains("not a plain tap"), "{error}");
    }
}
