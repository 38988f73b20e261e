//! What becomes of one interface: its link, MTU and address, a move to another network namespace, its end. The
//! kernel tells on a descriptor (rtnetlink(7)).
//!
//! Invariant: only messages of the kernel are believed, and each is read within its own bounds: lengths come from
//! the bytes received, attributes of other sizes than expected are passed over, as are messages about other interfaces.
//! It is a few attributes of one message type, which the crates for netlink would parse with all their kin, and
//! refuse as a whole where one of them has grown.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    socket,
};

use crate::error::{Error, Lack, Result};

/// Messages read in one call of `Watch::update`; the rest is the next call's. Somebody may make and remove interfaces
/// all the time.
const MESSAGES: usize = 64;
/// Times that a question is put whose answer found no room among what was told meanwhile.
const TRIES: usize = 4;
/// Room for a message: those about an interface have some 1.5 KiB, with many virtual functions more.
const MESSAGE_BYTES: usize = 32 << 10;
/// `struct nlmsghdr`, and the `struct ifinfomsg` behind it.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
/// `struct rtgenmsg`, with its padding.
const NETNS_BYTES: usize = 4;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
/// `IFLA_TARGET_NETNSID`: the namespace that a question is about.
const IFLA_TARGET_NETNSID: u16 = 46;
/// `IFLA_NEW_NETNSID`: in the farewell of an interface that moves to another namespace.
const IFLA_NEW_NETNSID: u16 = 45;
/// `IFLA_INFO_KIND`, within `IFLA_LINKINFO`.
const IFLA_INFO_KIND: u16 = 1;
/// What taps are, and tuns.
const TUN: &[u8] = b"tun\0";

/// Whether packets can pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// They can. Also of ports that have no link.
    #[default]
    Up,
    /// Somebody has set the interface down, or there is no carrier.
    Down,
    /// The interface was deleted, and the port is of no use any more.
    Gone,
}

/// Where an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Where it was found.
    Here,
    /// In another network namespace, of which nothing is told here.
    Moved,
    /// Nowhere.
    Deleted,
}

/// What the kernel said of an interface last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number in its namespace.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// It is set up, and has a carrier.
    pub running: bool,
    /// Bytes of an Ethernet frame's payload.
    pub mtu: u32,
    /// The hardware address, if it has one of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// It is behind /dev/net/tun.
    pub is_tun: bool,
}

/// Watches an interface, of this network namespace or another.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    /// Whether the socket hears of other namespaces, too, so that what it tells must be asked for again.
    hears_all: bool,
    /// The number, here, of the namespace that the interface is in, if that is another one.
    netns: Option<i32>,
    /// Something was told that got lost, and the question that makes up for it has had no answer.
    lost: bool,
    seen: Seen,
}

/// What was told, and where the interface is after all that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    interface: Interface,
    presence: Presence,
}

impl Watch {
    /// Finds the interface `name` in the namespace of the calling thread, which it is watched in.
    ///
    /// # Errors
    /// There is none (`ENODEV`), or the kernel has no such sockets.
    pub fn new(name: &str) -> Result<Self> {
        Self::find(name, None, false)
    }

    /// As `new`, for a port of that name: that there is no such interface is what the port lacks.
    ///
    /// # Errors
    /// As `new`.
    pub fn of_port(port: &str, name: &str) -> Result<Self> {
        Self::new(name).map_err(|error| match error.errno() {
            Errno::ENODEV => Error::Unavailable { name: port.to_owned(), lack: Lack::NoInterface },
            _ => error,
        })
    }

    /// Finds the interface `name`, here or in the namespace that a descriptor names, to be followed to others if this
    /// process may. A socket in there would keep the namespace alive, and the interface with it, so it is watched from
    /// here.
    ///
    /// # Errors
    /// As `new`; no permission to look into that namespace.
    pub fn following(name: &str, namespace: Option<BorrowedFd<'_>>) -> Result<Self> {
        Self::find(name, namespace, true)
    }

    fn find(name: &str, namespace: Option<BorrowedFd<'_>>, follows: bool) -> Result<Self> {
        let socket = Socket::new(libc::RTMGRP_LINK.cast_unsigned());
        let socket = socket.map_err(Error::io("make a socket to watch", name))?;
        let hears_all = follows && socket.listen_to_all_namespaces().is_ok();
        let interface = Interface { name: name.to_owned(), ..Interface::default() };
        let seen = Seen { interface, presence: Presence::Here };
        let mut watch = Self { socket, hears_all, netns: None, lost: false, seen };
        match namespace {
            Some(namespace) => watch.enter(namespace, name),
            None => watch.ask(),
        }
        .map_err(Error::io("find", name))?;
        Ok(watch)
    }

    /// Watches the interface `name` of another namespace from now on. Makes no descriptor and no thread.
    ///
    /// # Errors
    /// No permission to look into that namespace; there is none of that name.
    pub fn enter(&mut self, namespace: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
        if !self.hears_all {
            return Err(Errno::EPERM);
        }
        self.netns = Some(self.socket.number_of(namespace)?);
        self.seen.interface.index = 0;
        self.seen.interface.name = name.to_owned();
        self.ask()
    }

    /// Readable when `update` has something to tell.
    #[allow(dead_code, reason = "for ports that poll it beside their own descriptors")]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd.as_fd()
    }

    /// What was told last.
    pub fn interface(&self) -> &Interface {
        &self.seen.interface
    }

    /// Where it is, as far as was told.
    pub fn presence(&self) -> Presence {
        self.seen.presence
    }

    /// The link. Of an interface that is out of sight it is taken for good.
    pub fn link(&self) -> Link {
        match self.seen.presence {
            Presence::Deleted => Link::Gone,
            Presence::Moved => Link::Up,
            Presence::Here if self.seen.interface.running => Link::Up,
            Presence::Here => Link::Down,
        }
    }

    /// Reads what was told since the last call, never waiting; true if anything has changed.
    ///
    /// # Errors
    /// The socket failed.
    pub fn update(&mut self) -> Result<bool> {
        self.follow().map_err(Error::io("watch", &self.seen.interface.name))
    }

    fn follow(&mut self) -> nix::Result<bool> {
        let before = self.seen.clone();
        let (seen, unsure) = (&mut self.seen, self.hears_all);
        let mut moved = false;
        let mut told = false;
        let read = self.socket.read(MESSAGES, |message| {
            if message.is_about(seen.interface.index) {
                told = true;
                moved = message.is_farewell_by_move();
                // Another namespace may have another interface of that number.
                if !unsure {
                    seen.hear(message);
                }
            }
        });
        // More was told than the socket holds.
        match read {
            Err(Errno::ENOBUFS) => self.lost = true,
            read => drop(read?),
        }
        if (self.lost || told && unsure) && self.seen.presence == Presence::Here {
            self.lost = false;
            match self.ask() {
                // So much is told that answers get lost as well: it is asked again.
                Err(Errno::ENOBUFS) => self.lost = true,
                // EINVAL: the namespace itself has gone.
                Err(Errno::ENODEV | Errno::EINVAL) => {
                    self.seen.presence = if moved { Presence::Moved } else { Presence::Deleted };
                }
                asked => asked?,
            }
        }
        Ok(before != self.seen)
    }

    /// Asks for the interface by its number, or at first by its name.
    fn ask(&mut self) -> nix::Result<()> {
        let Interface { index, name, .. } = &self.seen.interface;
        let asked = *index;
        let mut body = link_body(asked);
        if asked == 0 {
            attribute(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())?;
        }
        if let Some(number) = self.netns {
            attribute(&mut body, IFLA_TARGET_NETNSID, &number.to_ne_bytes())?;
        }
        let seen = &mut self.seen;
        // What is told meanwhile is told again, by the answer, but for an end or a move.
        let mut farewell = None;
        self.socket.call(libc::RTM_GETLINK, 0, &body, |message, answer| {
            if answer {
                seen.hear(message);
            } else if message.is_about(asked) && message.kind == libc::RTM_DELLINK {
                farewell = Some(message.is_farewell_by_move());
            }
        })?;
        if let (Some(moved), false) = (farewell, self.hears_all) {
            self.seen.presence = if moved { Presence::Moved } else { Presence::Deleted };
        }
        Ok(())
    }
}

impl Seen {
    fn hear(&mut self, message: &Message<'_>) {
        if message.kind == libc::RTM_DELLINK {
            let moved = message.is_farewell_by_move();
            self.presence = if moved { Presence::Moved } else { Presence::Deleted };
        }
        let (libc::RTM_NEWLINK, Some(index)) = (message.kind, message.index()) else { return };
        let flags = word(message.body, 8).unwrap_or(0);
        let needed = (libc::IFF_UP | libc::IFF_LOWER_UP).cast_unsigned();
        let seen = &mut self.interface;
        (seen.index, seen.running) = (index, flags & needed == needed);
        // Back, or another one with its number, which is all the same here: descriptors on the first say more.
        self.presence = Presence::Here;
        for (kind, value) in message.attributes() {
            match kind {
                libc::IFLA_MTU => seen.mtu = word(value, 0).unwrap_or(seen.mtu),
                libc::IFLA_LINKINFO => {
                    let kind = (IFLA_INFO_KIND, TUN);
                    seen.is_tun = attributes_of(value).any(|attribute| attribute == kind);
                }
                libc::IFLA_ADDRESS => seen.mac = value.try_into().ok(),
                libc::IFLA_IFNAME => {
                    let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
                    seen.name = String::from_utf8_lossy(name).into_owned();
                }
                _ => {}
            }
        }
    }
}

/// Moves an interface of this namespace to the one that a descriptor names, under another name.
///
/// # Errors
/// An interface has that name there (`EEXIST`); no permission.
pub fn move_to(namespace: BorrowedFd<'_>, index: i32, name: &str) -> nix::Result<()> {
    let mut body = link_body(index);
    attribute(&mut body, libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())?;
    attribute(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())?;
    Socket::new(0)?.call(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body, |_, _| {})
}

/// A socket to the kernel.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    fn new(groups: u32) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; MESSAGE_BYTES] })
    }

    /// Lets it hear of all namespaces that have a number here.
    fn listen_to_all_namespaces(&self) -> nix::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the socket is open, and the value is an int that outlives the call.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                NETLINK_LISTEN_ALL_NSID,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(set).map(drop)
    }

    /// The number of a namespace here, given to it if it had none.
    fn number_of(&mut self, namespace: BorrowedFd<'_>) -> nix::Result<i32> {
        let of = |wanted: Option<i32>| {
            let mut body = vec![0; NETNS_BYTES];
            attribute(&mut body, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes())?;
            if let Some(number) = wanted {
                attribute(&mut body, NETNSA_NSID, &number.to_ne_bytes())?;
            }
            Ok::<_, Errno>(body)
        };
        // -1: any.
        match self.call(RTM_NEWNSID, libc::NLM_F_ACK, &of(Some(-1))?, |_, _| {}) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let mut number = None;
        self.call(RTM_GETNSID, 0, &of(None)?, |message, answer| {
            let attributes = attributes_of(message.body.get(NETNS_BYTES..).unwrap_or_default());
            for (_, value) in attributes.filter(|(kind, _)| answer && *kind == NETNSA_NSID) {
                number = word(value, 0).map(u32::cast_signed);
            }
        })?;
        number.filter(|&number| number >= 0).ok_or(Errno::ENODEV)
    }

    /// Sends a request and reads up to its answer, which the kernel gives before the request's call returns. `hear` is
    /// told of each message, and whether it is the answer.
    fn call(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
        mut hear: impl FnMut(&Message<'_>, bool),
    ) -> nix::Result<()> {
        for _ in 1..TRIES {
            match self.call_once(kind, flags, body, &mut hear) {
                // A socket that was told more than it holds takes no answer until it has been emptied, as it is now.
                Err(Errno::ENOBUFS) => {}
                called => return called,
            }
        }
        self.call_once(kind, flags, body, &mut hear)
    }

    fn call_once(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
        hear: &mut impl FnMut(&Message<'_>, bool),
    ) -> nix::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let len = (HEADER_BYTES + body.len()) as u32; // a few attributes
        let flags = (libc::NLM_F_REQUEST | flags) as u16; // two of the low bits
        let message = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        let message = [&message[..], &sequence.to_ne_bytes(), &[0; 4], body].concat();
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        let mut answer = None;
        while answer.is_none() {
            let read = self.read(1, |message| {
                let is_answer = message.sequence == sequence;
                if is_answer && message.kind == libc::NLMSG_ERROR as u16 {
                    let code = word(message.body, 0).unwrap_or(0).cast_signed();
                    answer = Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) });
                    return;
                }
                hear(message, is_answer);
                if is_answer {
                    answer = Some(Ok(()));
                }
            });
            match read {
                // It was there when the call returned, unless there was no memory for it.
                Ok(true) if answer.is_none() => return Err(Errno::ENOBUFS),
                // What was told got lost; there was room for the answer all the same, or there is none.
                Err(Errno::ENOBUFS) | Ok(_) => {}
                Err(errno) => return Err(errno),
            }
        }
        answer.unwrap_or(Ok(()))
    }

    /// Reads what has come, at most so many times; true if that is all.
    fn read(&mut self, times: usize, mut hear: impl FnMut(&Message<'_>)) -> nix::Result<bool> {
        for _ in 0..times {
            let (len, from) = match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            if from.is_some_and(|from| from.pid() == 0) {
                messages(&self.buffer[..len]).for_each(|message| hear(&message));
            } // else from a process
        }
        Ok(false)
    }
}

/// `struct ifinfomsg` about an interface.
fn link_body(index: i32) -> Vec<u8> {
    let mut body = vec![0; LINK_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> nix::Result<()> {
    let len = u16::try_from(4 + value.len()).map_err(|_| Errno::ENAMETOOLONG)?;
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    Ok(())
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// The number of the interface that it is about, if it is about one.
    fn index(&self) -> Option<i32> {
        let links = [libc::RTM_NEWLINK, libc::RTM_DELLINK].contains(&self.kind);
        word(self.body, 4).filter(|_| links).map(u32::cast_signed)
    }

    fn is_about(&self, index: i32) -> bool {
        self.index() == Some(index)
    }

    /// Of a message about an interface.
    fn attributes(&self) -> impl Iterator<Item = (u16, &[u8])> {
        attributes_of(self.body.get(LINK_BYTES..).unwrap_or_default())
    }

    /// The interface is not here any more, but in another namespace.
    fn is_farewell_by_move(&self) -> bool {
        self.kind == libc::RTM_DELLINK
            && self.attributes().any(|(kind, _)| kind == IFLA_NEW_NETNSID)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The messages in what was received. A length that cannot be ends them.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = word(bytes, 0)? as usize;
        let (kind, sequence) = (half(bytes, 4)?, word(bytes, 8)?);
        let body = bytes.get(HEADER_BYTES..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// The attributes behind a message's fixed part, by number.
fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)?;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_nothing_is_told_of_it_unasked() {
        let mut watch = Watch::new("lo").unwrap();
        let lo = watch.interface().clone();
        assert_eq!((lo.name.as_str(), watch.presence()), ("lo", Presence::Here));
        assert!(lo.mtu >= 1500 && lo.index > 0, "{lo:?}");
        watch.update().unwrap();
        assert_eq!(*watch.interface(), lo);
        let error = Watch::new("nm-no-such-if").unwrap_err();
        assert_eq!(error.errno(), Errno::ENODEV);
    }

    #[test]
    fn lengths_that_cannot_be_end_the_reading() {
        let message = |len: u32, rest: &[u8]| {
            [&len.to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &[0; 10], rest].concat()
        };
        assert_eq!(messages(&message(16, &[])).count(), 1);
        for len in [0, 4, 15, 17, u32::MAX] {
            assert_eq!(messages(&message(len, &[])).count(), 0, "{len}");
        }
        let attribute = |len: u16, rest: &[u8]| {
            [&len.to_ne_bytes()[..], &libc::IFLA_MTU.to_ne_bytes(), rest].concat()
        };
        assert_eq!(attributes_of(&attribute(8, &[1, 0, 0, 0])).count(), 1);
        for len in [0, 3, 9, u16::MAX] {
            assert_eq!(attributes_of(&attribute(len, &[1, 0, 0, 0])).count(), 0, "{len}");
        }
    }

    #[test]
    fn move_and_deletion_are_told_apart() {
        let mut watch = Watch::new("lo").unwrap();
        let index = watch.interface().index;
        let farewell = |attributes: &[u8]| {
            let body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 8], attributes].concat();
            let len = (HEADER_BYTES + body.len()) as u32;
            let kind = libc::RTM_DELLINK;
            [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &body].concat()
        };
        let hear = |watch: &mut Watch, bytes: &[u8]| {
            messages(bytes).for_each(|message| watch.seen.hear(&message));
        };
        let namespace = [&8_u16.to_ne_bytes()[..], &IFLA_NEW_NETNSID.to_ne_bytes(), &[0; 4]];
        hear(&mut watch, &farewell(&namespace.concat()));
        assert_eq!((watch.presence(), watch.link()), (Presence::Moved, Link::Up));
        hear(&mut watch, &farewell(&[]));
        assert_eq!((watch.presence(), watch.link()), (Presence::Deleted, Link::Gone));
    }
}
