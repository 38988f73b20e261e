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

use crate::error::{Error, Result};

/// Messages read in one call of `Watch::update`; the rest is the next call's. Somebody may make and remove interfaces
/// all the time.
const MESSAGES: usize = 64;
/// Room for a message: those about an interface have some 1.5 KiB, with many virtual functions more.
const MESSAGE_BYTES: usize = 32 << 10;
/// `struct nlmsghdr`, and the `struct ifinfomsg` behind it.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
/// `IFLA_NEW_NETNSID`: in the farewell of an interface that moves to another namespace.
const IFLA_NEW_NETNSID: u16 = 45;

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
}

/// Watches an interface of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
    interface: Interface,
    presence: Presence,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Watch {
    /// Finds the interface `name`.
    ///
    /// # Errors
    /// There is none (`ENODEV`), or the kernel has no such sockets.
    pub fn new(name: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .map_err(Error::io("make a socket to watch", name))?;
        // First the membership, then the question: nothing falls in between.
        let links = NetlinkAddr::new(0, libc::RTMGRP_LINK.cast_unsigned());
        bind(socket.as_raw_fd(), &links).map_err(Error::io("watch", name))?;
        let mut watch = Self {
            socket,
            interface: Interface { name: name.to_owned(), ..Interface::default() },
            presence: Presence::Here,
            sequence: 0,
            buffer: vec![0; MESSAGE_BYTES],
        };
        watch.ask().and_then(|()| watch.read_on(true)).map_err(Error::io("find", name))?;
        if watch.interface.index == 0 {
            return Err(Error::io("find", name)(Errno::ENODEV));
        }
        Ok(watch)
    }

    /// Readable when `update` has something to tell.
    #[allow(dead_code, reason = "for ports that poll it beside their own descriptors")]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What was told last.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where it is, as far as was told.
    #[allow(
        dead_code,
        reason = "for ports that end, or go on elsewhere, when their interface moves"
    )]
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// The link. Of an interface that is out of sight it is taken for good.
    pub fn link(&self) -> Link {
        match self.presence {
            Presence::Deleted => Link::Gone,
            Presence::Moved => Link::Up,
            Presence::Here if self.interface.running => Link::Up,
            Presence::Here => Link::Down,
        }
    }

    /// Reads what was told since the last call, never waiting; true if anything has changed.
    ///
    /// # Errors
    /// The socket failed.
    pub fn update(&mut self) -> Result<bool> {
        let before = (self.interface.clone(), self.presence);
        let read = match self.read_on(false) {
            // More was told than the socket holds: asked anew.
            Err(Errno::ENOBUFS) => self.ask().and_then(|()| self.read_on(true)),
            read => read,
        };
        read.map_err(Error::io("watch", &self.interface.name))?;
        Ok(before != (self.interface.clone(), self.presence))
    }

    /// Asks for the interface by its number, or at first by its name.
    fn ask(&mut self) -> nix::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; HEADER_BYTES + LINK_BYTES];
        message[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let index = HEADER_BYTES + 4;
        message[index..index + 4].copy_from_slice(&self.interface.index.to_ne_bytes());
        if self.interface.index == 0 {
            let name = [self.interface.name.as_bytes(), &[0]].concat();
            let len = u16::try_from(4 + name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
            message.extend(len.to_ne_bytes());
            message.extend(libc::IFLA_IFNAME.to_ne_bytes());
            message.extend(name);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let len = u32::try_from(message.len()).expect("a name is short");
        message[0..4].copy_from_slice(&len.to_ne_bytes());
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &message, &kernel, MsgFlags::empty()).map(drop)
    }

    /// Reads up to the answer, which the kernel gives before the question's call returns, or else up to the end.
    fn read_on(&mut self, answer: bool) -> nix::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.read_into(&mut buffer, answer);
        self.buffer = buffer;
        read
    }

    fn read_into(&mut self, buffer: &mut [u8], answer: bool) -> nix::Result<()> {
        let mut left = MESSAGES;
        while answer || left > 0 {
            left = left.saturating_sub(1);
            let (len, from) = match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            if from.is_none_or(|from| from.pid() != 0) {
                continue; // from a process
            }
            for message in messages(&buffer[..len]) {
                let answered = message.sequence == self.sequence && answer;
                if message.kind == libc::NLMSG_ERROR as u16 && answered {
                    let code = word(message.body, 0).unwrap_or(0).cast_signed();
                    if Errno::from_raw(-code) == Errno::ENODEV && self.interface.index != 0 {
                        self.presence = Presence::Deleted;
                        return Ok(());
                    }
                    return Err(Errno::from_raw(-code));
                }
                self.hear(&message, answered);
                if answered {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &Message<'_>, answered: bool) {
        let Some(index) = word(message.body, 4).map(u32::cast_signed) else { return };
        if !answered && index != self.interface.index {
            return;
        }
        let Some(attributes) = message.body.get(LINK_BYTES..) else { return };
        if message.kind == libc::RTM_DELLINK {
            let moved = attributes_of(attributes).any(|(kind, _)| kind == IFLA_NEW_NETNSID);
            self.presence = if moved { Presence::Moved } else { Presence::Deleted };
        }
        if message.kind != libc::RTM_NEWLINK {
            return;
        }
        let flags = word(message.body, 8).unwrap_or(0);
        let needed = (libc::IFF_UP | libc::IFF_LOWER_UP).cast_unsigned();
        let seen = &mut self.interface;
        (seen.index, seen.running) = (index, flags & needed == needed);
        // Back, or another one with its number, which is all the same here: descriptors on the first say more.
        self.presence = Presence::Here;
        for (kind, value) in attributes_of(attributes) {
            match kind {
                libc::IFLA_MTU => seen.mtu = word(value, 0).unwrap_or(seen.mtu),
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

/// One netlink message.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
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
            messages(bytes).for_each(|message| watch.hear(&message, false));
        };
        let namespace = [&8_u16.to_ne_bytes()[..], &IFLA_NEW_NETNSID.to_ne_bytes(), &[0; 4]];
        hear(&mut watch, &farewell(&namespace.concat()));
        assert_eq!((watch.presence(), watch.link()), (Presence::Moved, Link::Up));
        hear(&mut watch, &farewell(&[]));
        assert_eq!((watch.presence(), watch.link()), (Presence::Deleted, Link::Gone));
    }
}
