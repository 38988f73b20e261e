//! Sockets to the kernel's rtnetlink(7): questions, their answers, and what is told unasked.
//!
//! Invariant: only messages of the kernel are believed, and each is read within its own bounds: lengths come from
//! the bytes received, attributes of other sizes than expected are passed over. Of an answer in many messages, at most
//! [`DUMP_BYTES`] are read.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    socket,
};

/// Times that a question is put whose answer found no room among what was told meanwhile.
const TRIES: usize = 4;
/// Room for a message: those about an interface have some 1.5 KiB, with many virtual functions more.
const MESSAGE_BYTES: usize = 32 << 10;
/// Most bytes that are read of an answer in many messages: some ten thousand interfaces, or 200000 routes.
const DUMP_BYTES: usize = 16 << 20;
/// `struct nlmsghdr`, and the `struct ifinfomsg` behind it.
pub const HEADER_BYTES: usize = 16;
pub const LINK_BYTES: usize = 16;
/// `struct rtgenmsg`, with its padding.
const NETNS_BYTES: usize = 4;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
/// `IFLA_NEW_NETNSID`: in the farewell of an interface that moves to another namespace.
pub const IFLA_NEW_NETNSID: u16 = 45;

/// Within `IFLA_LINKINFO`.
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;

/// A socket to the kernel.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub fn new(groups: u32) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; MESSAGE_BYTES] })
    }

    /// To be waited at, until something can be read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Lets it hear of all namespaces that have a number here.
    pub fn listen_to_all_namespaces(&self) -> nix::Result<()> {
        self.switch_on(NETLINK_LISTEN_ALL_NSID)
    }

    fn switch_on(&self, option: libc::c_int) -> nix::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the socket is open, and the value is an int that outlives the call.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(set).map(drop)
    }

    /// Asks a socket of its own for all that there is of a kind, and tells `hear` of each. As far as the kernel can, it
    /// sends only what `body` asks for; older ones send more.
    pub fn dump(kind: u16, body: &[u8], mut hear: impl FnMut(&Message<'_>)) -> nix::Result<()> {
        let mut socket = Self::new(0)?;
        // Who cannot choose (before Linux 4.20) sends all.
        let _ = socket.switch_on(libc::NETLINK_GET_STRICT_CHK);
        let sequence = socket.send(kind, libc::NLM_F_DUMP, body)?;
        let (mut bytes, mut end) = (0, None);
        while end.is_none() && bytes < DUMP_BYTES {
            let is_empty = socket.read(1, |message| {
                if message.sequence != sequence || end.is_some() {
                    return;
                }
                bytes += HEADER_BYTES + message.body.len();
                match libc::c_int::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => end = Some(message.outcome()),
                    _ => hear(message),
                }
            })?;
            // More of it is there with each read, unless there was no memory for it.
            if is_empty && end.is_none() {
                return Err(Errno::ENOBUFS);
            }
        }
        end.unwrap_or(Ok(()))
    }

    /// The number of a namespace here, given to it if it had none.
    pub fn number_of(&mut self, namespace: BorrowedFd<'_>) -> nix::Result<i32> {
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
    pub fn call(
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

    /// Sends a request; its answers have the number that is returned.
    fn send(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> nix::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let len = (HEADER_BYTES + body.len()) as u32; // a few attributes
        let flags = (libc::NLM_F_REQUEST | flags) as u16; // two of the low bits
        let message = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        let message = [&message[..], &sequence.to_ne_bytes(), &[0; 4], body].concat();
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        Ok(sequence)
    }

    fn call_once(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
        hear: &mut impl FnMut(&Message<'_>, bool),
    ) -> nix::Result<()> {
        let sequence = self.send(kind, flags, body)?;
        let mut answer = None;
        while answer.is_none() {
            let read = self.read(1, |message| {
                let is_answer = message.sequence == sequence;
                if is_answer && message.kind == libc::NLMSG_ERROR as u16 {
                    answer = Some(message.outcome());
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
    pub fn read(&mut self, times: usize, mut hear: impl FnMut(&Message<'_>)) -> nix::Result<bool> {
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

pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> nix::Result<()> {
    let len = u16::try_from(4 + value.len()).map_err(|_| Errno::ENAMETOOLONG)?;
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    Ok(())
}

/// One netlink message.
pub struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The number of the interface that it is about, if it is about one.
    pub fn index(&self) -> Option<i32> {
        let links = [libc::RTM_NEWLINK, libc::RTM_DELLINK].contains(&self.kind);
        word(self.body, 4).filter(|_| links).map(u32::cast_signed)
    }

    pub fn is_about(&self, index: i32) -> bool {
        self.index() == Some(index)
    }

    /// Of an answer that ends a request: zero, or an error.
    fn outcome(&self) -> nix::Result<()> {
        match word(self.body, 0).unwrap_or(0).cast_signed() {
            0 => Ok(()),
            code => Err(Errno::from_raw(code.wrapping_neg())),
        }
    }

    /// Of a message about an interface.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &[u8])> {
        attributes_of(self.body.get(LINK_BYTES..).unwrap_or_default())
    }

    /// The interface is not here any more, but in another namespace.
    pub fn is_farewell_by_move(&self) -> bool {
        self.kind == libc::RTM_DELLINK
            && self.attributes().any(|(kind, _)| kind == IFLA_NEW_NETNSID)
    }
}

/// The value of the first attribute of a kind.
pub fn value_of(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes_of(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Text that ends with a NUL, as a name does.
pub fn text(value: &[u8]) -> String {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The messages in what was received. A length that cannot be ends them.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = word(bytes, 0)? as usize;
        let (kind, sequence) = (half(bytes, 4)?, word(bytes, 8)?);
        let body = bytes.get(HEADER_BYTES..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// The attributes behind a message's fixed part, by number.
pub fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)?;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
