//! What becomes of one interface: its link, MTU and address, a move to another network namespace, its end. The
//! kernel tells on a descriptor (rtnetlink(7)).
//!
//! Invariant: only messages of the kernel are believed, and each is read within its own bounds: lengths come from
//! the bytes received, attributes of other sizes than expected are passed over, as are messages about other interfaces.
//! It is a few attributes of one message type, which the crates for netlink would parse with all their kin, and
//! refuse as a whole where one of them has grown.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Error, Lack, Result};
use crate::name::{PortName, RingSel};

#[allow(unsafe_code)]
pub mod socket;
use socket::{
    IFLA_INFO_DATA, IFLA_INFO_KIND, LINK_BYTES, Message, Socket, attribute, text, value_of, word,
};

/// Messages read in one call of `Watch::update`; the rest is the next call's. Somebody may make and remove interfaces
/// all the time.
const MESSAGES: usize = 64;
/// `IFLA_TARGET_NETNSID`: the namespace that a question is about.
const IFLA_TARGET_NETNSID: u16 = 46;
/// What taps are, and tuns.
const TUN: &[u8] = b"tun\0";
/// Of those that can have several queues: how many there are, and how many of these are switched off.
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

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
    /// Queues that programs had open there when it was found, if it can have several.
    pub queues: u32,
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
    pub fn of_port(port: &PortName) -> Result<Self> {
        let lack = match port.rings {
            RingSel::One(_) => Lack::NoInterfaceOfQueue,
            _ => Lack::NoInterface,
        };
        Self::new(port.interface().unwrap_or_default()).map_err(|error| match error.errno() {
            Errno::ENODEV => Error::Unavailable { name: port.to_string(), lack },
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
        self.socket.fd()
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
                    seen.is_tun = value_of(value, IFLA_INFO_KIND) == Some(TUN);
                    if seen.is_tun {
                        let data = value_of(value, IFLA_INFO_DATA).unwrap_or_default();
                        let count = |kind| value_of(data, kind).and_then(|n| word(n, 0));
                        let kinds = [IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES];
                        seen.queues = kinds.into_iter().filter_map(count).sum();
                    }
                }
                libc::IFLA_ADDRESS => seen.mac = value.try_into().ok(),
                libc::IFLA_IFNAME => seen.name = text(value),
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

/// `struct ifinfomsg` about an interface.
fn link_body(index: i32) -> Vec<u8> {
    let mut body = vec![0; LINK_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::socket::{HEADER_BYTES, IFLA_NEW_NETNSID, attributes_of, messages};
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
