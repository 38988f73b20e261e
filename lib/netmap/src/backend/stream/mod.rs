//! `stream:PATH`: Ethernet over a unix stream socket, as QEMU's `-netdev stream` and passt speak it: each frame
//! behind its length, 4 bytes, big endian.
//!
//! Invariants: one peer at a time, and the port outlives it: a server serves the next, a client tries again. What
//! is sent while nobody is there is dropped and counted, as on a cable that is unplugged, so nothing old reaches
//! the next peer. What a peer sent before it went is read to its end. Whatever a peer sends, a read and the frames in
//! it are all that a call looks at, and memory is bounded. Nothing shorter than an Ethernet header is ever sent: an
//! empty frame would end QEMU's netdev for good. What pads an IPv4 packet to Ethernet's shortest frame is nobody's
//! data, and is left out.
//!
//! Follows docs/design/host-and-nics.md, "Stream and datagram sockets".

mod inbox;
mod outbox;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, SockType, send};
use nix::unistd::read;

use crate::adapter::Kind;
use crate::backend::packets::Packets;
use crate::backend::socket_file::{SocketFile, connect_to, is_vacant, no_peer, why_no_peer};
use crate::backend::socket_wait::SocketWait;
use crate::backend::{Device, Sent};
use crate::error::{Error, Result};
use crate::name::{Behind, Capabilities, Scheme, Syntax};
use crate::netlink::Link;
use crate::wait::Interest;
use inbox::{Inbox, Next};
use outbox::Outbox;

pub use inbox::{MOST, SHORTEST, fuzz};

/// How long a peer that takes nothing is waited for at the end.
const LONGEST_DRAIN_MS: u16 = 500;

/// What such a port can do. Its link is up while a peer is there.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE.union(Capabilities::LINK_STATE);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "stream",
        syntax: Syntax::Socket { behind: Behind::Side },
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        let device = Stream::open(&name.to_string(), name.socket().unwrap_or_default())?;
        Ok(Box::new(Packets::new(name, options, CAPABILITIES, 1, |_| Ok(vec![device]))?))
    },
};

/// How the port gets its peers.
#[derive(Debug)]
enum Side {
    /// It listens.
    Server { listener: UnixListener, _file: SocketFile },
    /// It connects, and while it is not connected the timer says when to try.
    Client,
}

/// The device behind `stream:`.
#[derive(Debug)]
pub struct Stream {
    path: PathBuf,
    side: Side,
    peer: Option<OwnedFd>,
    /// A peer that has gone, of which there may be something left to be read.
    gone: Option<OwnedFd>,
    /// Readable for the peer, the listener or the timer, whichever matters.
    wait: SocketWait,
    /// A server that found no descriptor for its next peer looks again when the timer says so.
    is_short: bool,
    /// What the peer is watched for, whether it is there or gone.
    watched: EpollFlags,
    inbox: Inbox,
    /// The last read took all there was, and what it brought is being handed out.
    dry: bool,
    outbox: Outbox,
    notes: Notes,
}

/// What went wrong with peers.
#[derive(Debug, Default)]
struct Notes {
    /// Frames that a peer did not finish.
    cut: u64,
    /// Peers that announced a frame that cannot be, and the last such length.
    broken: u64,
    announced: u32,
    /// Peers that went before all that was sent to them had been handed over.
    deserted: u64,
    /// Bytes of frames that a peer which is there has not taken at the end.
    untaken: usize,
    /// Why the server that is looked for could not be connected to last, if that is not for want of one.
    unmet: Option<String>,
}

/// The path, and the side if the name says which: what is behind the last comma, unless that is within the path. Names with
/// other words there are none (`Behind::Side`).
fn sides(name: &str) -> (&Path, Option<bool>) {
    let (path, is_server) = match name.rsplit_once(',') {
        Some((path, "server")) => (path, Some(true)),
        Some((path, "client")) => (path, Some(false)),
        _ => (name, None),
    };
    (Path::new(path), is_server)
}

/// Whether an error says that the process or the machine has no more of something now.
fn is_shortage(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS))
}

impl Stream {
    /// Opens the port `port`, of which `name` is what is behind the colon: a path, and `,server` or `,client`.
    /// Without either it is the client of whoever listens there, else the server.
    pub fn open(port: &str, name: &str) -> Result<Self> {
        let (path, is_server) = sides(name);
        let failed = |errno: Errno| Error::io("make a socket for", path)(errno);
        let first =
            if is_server == Some(true) { None } else { Some(connect_to(path, SockType::Stream)) };
        let (connected, is_server) = match first {
            None => (None, true),
            Some(Ok(socket)) => (Some(socket), false),
            // Somebody is there, who has no time.
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => (None, false),
            Some(Err(error)) if is_vacant(&error) => (None, is_server.is_none()),
            Some(Err(error)) => return Err(no_peer(path, error)),
        };
        let wait = SocketWait::new().map_err(failed)?;
        let side = if is_server {
            let (listener, file) = SocketFile::bind(path, SockType::Stream, port)?;
            wait.add(&listener, EpollFlags::EPOLLIN).map_err(failed)?;
            Side::Server { listener: listener.into(), _file: file }
        } else {
            Side::Client
        };
        let mut stream = Self {
            path: path.into(),
            side,
            peer: None,
            gone: None,
            wait,
            is_short: false,
            watched: EpollFlags::empty(),
            inbox: Inbox::new(),
            dry: false,
            outbox: Outbox::new(MOST),
            notes: Notes::default(),
        };
        match connected {
            Some(socket) => stream.adopt(socket)?,
            None => stream.look_for_peers(true)?,
        }
        Ok(stream)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> Error + use<> {
        Error::io(what, self.path.clone())
    }

    /// Begins with a peer.
    fn adopt(&mut self, socket: OwnedFd) -> Result<()> {
        self.watched = EpollFlags::EPOLLIN;
        self.wait.add(&socket, self.watched).map_err(self.failed("watch the peer on"))?;
        self.peer = Some(socket);
        self.notes.unmet = None;
        self.notes.cut += u64::from(self.inbox.restart());
        self.dry = false;
        self.look_for_peers(false)
    }

    /// Ends with the peer. What was for it is gone; what it sent before it went is still read, and then `forget_peer` is called.
    fn part(&mut self) {
        let Some(peer) = self.peer.take() else { return };
        self.gone = Some(peer);
        self.notes.deserted += u64::from(!self.outbox.is_empty());
        self.outbox.clear();
    }

    /// Cuts off a peer that announced a frame that cannot be.
    fn cut_off(&mut self, announced: u32) -> Result<()> {
        self.notes.broken += 1;
        self.notes.announced = announced;
        self.inbox.restart();
        self.forget_peer()
    }

    /// There is nothing to be read of the peer any more; whole frames from it are still handed out.
    fn forget_peer(&mut self) -> Result<()> {
        self.part();
        let Some(gone) = self.gone.take() else { return Ok(()) };
        if !self.watched.is_empty() {
            // Elsewhere it is gone with its descriptor, but a forked child may have a copy.
            self.wait.remove(&gone).map_err(self.failed("let go of the peer on"))?;
        }
        self.look_for_peers(true)
    }

    /// Wakes up for those who want to be the peer, or for the next attempt to become one; or no more.
    fn look_for_peers(&mut self, yes: bool) -> Result<()> {
        let done = match &self.side {
            Side::Server { listener, .. } => {
                let events = if yes { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
                self.wait.change(listener, events)
            }
            Side::Client => self.wait.retry(yes),
        };
        done.map_err(self.failed("watch"))
    }

    /// A server leaves those who want to be its peer alone until the timer has struck, or no longer.
    fn be_short(&mut self, yes: bool) -> Result<()> {
        self.is_short = yes;
        self.wait.retry(yes).map_err(self.failed("set a timer for"))?;
        self.look_for_peers(!yes)
    }

    /// Looks whether there is a peer to be had, once.
    fn find_peer(&mut self) -> Result<()> {
        if self.is_short {
            if !self.wait.is_time() {
                return Ok(());
            }
            self.be_short(false)?;
        }
        let socket = match &self.side {
            Side::Server { listener, .. } => {
                let accepted = listener.accept().and_then(|(peer, _)| {
                    peer.set_nonblocking(true)?;
                    Ok(OwnedFd::from(peer))
                });
                match accepted {
                    Ok(socket) => socket,
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(()),
                        ErrorKind::ConnectionAborted => return Ok(()),
                        // It waits, and so would we not, if we went on listening.
                        _ if is_shortage(&error) => return self.be_short(true),
                        _ => return Err(Error::io("accept a peer on", &self.path)(error)),
                    },
                }
            }
            Side::Client => {
                if !self.wait.is_time() {
                    return Ok(());
                }
                match connect_to(&self.path, SockType::Stream) {
                    Ok(socket) => socket,
                    // Whatever is in the way may go away; open has shown that the path makes sense. If it does not, somebody
                    // will ask why there was no peer.
                    Err(error) => {
                        self.notes.unmet = why_no_peer(&self.path, error);
                        return Ok(());
                    }
                }
            }
        };
        self.adopt(socket)
    }

    /// Hands over what is to be sent, as far as the peer takes it.
    fn push(&mut self) -> Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while let (Some(peer), false) = (&self.peer, self.outbox.is_empty()) {
            match send(peer.as_raw_fd(), self.outbox.rest(), flags) {
                Ok(n) => self.outbox.pass(n),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.watch(self.watched | EpollFlags::EPOLLOUT);
                    return Ok(());
                }
                // It has gone, and may have said something before.
                Err(_) => self.part(),
            }
        }
        Ok(())
    }

    fn watch(&mut self, what: EpollFlags) {
        let before = std::mem::replace(&mut self.watched, what);
        let Some(peer) = self.peer.as_ref().or(self.gone.as_ref()).filter(|_| before != what)
        else {
            return;
        };
        // None of this can fail but for memory; if it did, sleeps would end by their timers. A peer that has gone is told of
        // whatever is asked for, so it is taken out if nothing is.
        let _ = match (before.is_empty(), what.is_empty()) {
            (true, _) => self.wait.add(peer, what),
            (false, true) => self.wait.remove(peer),
            (false, false) => self.wait.change(peer, what),
        };
    }

    /// Reads what has come, once. False: nothing has.
    fn fill(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.dry) {
            return Ok(false);
        }
        self.push()?;
        let Some(peer) = self.peer.as_ref().or(self.gone.as_ref()) else { return Ok(false) };
        let space = self.inbox.space();
        let room = space.len();
        match read(peer, space) {
            Ok(n) if n > 0 => {
                self.inbox.add(n);
                self.dry = n < room;
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // The end, or an error, which is one as well.
            _ => self.forget_peer().map(|()| false),
        }
    }
}

/// Ethernet's shortest frame, without its CRC: what is shorter is padded by the NIC, or by its driver, as that of the e1000.
const SHORTEST_ON_A_WIRE: usize = 60;

/// A frame without its padding, if that is behind an IPv4 packet. passt (2023-03-09) takes it for data of TCP, and so no bare
/// acknowledgement of a guest with an e1000 ever reaches it.
fn unpadded(frame: &[u8]) -> &[u8] {
    const ETHERNET: usize = 14;
    if frame.len() != SHORTEST_ON_A_WIRE || frame[12..14] != [0x08, 0x00] || frame[14] >> 4 != 4 {
        return frame;
    }
    let header = usize::from(frame[14] & 15) * 4;
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    // A length that contradicts itself says nothing about where the packet ends.
    if header < 20 || length < header {
        return frame;
    }
    &frame[..frame.len().min(ETHERNET + length)]
}

impl Device for Stream {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        let packet = unpadded(packet);
        if !(SHORTEST..=MOST).contains(&packet.len()) {
            return Ok(Sent::Refused);
        }
        if !self.outbox.has_room(packet.len()) {
            self.push()?;
            if !self.outbox.has_room(packet.len()) {
                return Ok(Sent::Again);
            }
        }
        if self.peer.is_none() {
            return Ok(Sent::Down);
        }
        self.outbox.add(packet);
        Ok(Sent::Done)
    }

    fn flush(&mut self) -> Result<()> {
        self.push()
    }

    fn holds_back(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let mut has_read = false;
        loop {
            match self.inbox.next() {
                Next::Frame(frame) => {
                    buf[..frame.len()].copy_from_slice(frame);
                    return Ok(Some(frame.len()));
                }
                Next::More => {}
                Next::Broken(announced) => return self.cut_off(announced).map(|()| None),
            }
            if has_read || !self.fill()? {
                return Ok(None);
            }
            has_read = true;
        }
    }

    fn look(&mut self) -> Result<()> {
        // The next one's bytes go where the last one's frames are, which are read first.
        if self.peer.is_some() || self.inbox.has_frame() {
            return Ok(());
        }
        if self.gone.is_none() {
            return self.find_peer();
        }
        // Whoever only sends reads nothing, and is to have a next peer all the same.
        match self.inbox.next() {
            Next::Broken(announced) => self.cut_off(announced),
            _ => self.fill().map(drop),
        }
    }

    fn link(&self) -> Link {
        if self.peer.is_some() { Link::Up } else { Link::Down }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wait.fd())
    }

    /// The epoll set is readable for whatever it was asked for.
    fn events(&self, _: Interest) -> PollFlags {
        PollFlags::POLLIN
    }

    fn arm(&mut self, what: Interest) {
        let mut events = EpollFlags::empty();
        events.set(EpollFlags::EPOLLIN, what.contains(Interest::RX));
        events.set(EpollFlags::EPOLLOUT, !self.outbox.is_empty());
        self.watch(events);
    }

    fn finish(&mut self) -> Result<()> {
        loop {
            self.push()?;
            let (Some(peer), false) = (&self.peer, self.outbox.is_empty()) else { return Ok(()) };
            let mut waits = [PollFd::new(peer.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut waits, LONGEST_DRAIN_MS) {
                Ok(0) => {
                    self.notes.untaken = self.outbox.rest().len();
                    return Ok(());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("wait for the peer on")(errno)),
            }
        }
    }

    fn left_out(&self) -> u64 {
        self.inbox.left_out() + self.notes.broken
    }

    fn about(&self) -> Option<String> {
        Some(match self.side {
            Side::Server { .. } => "the server: whoever connects to that path is its peer".into(),
            Side::Client => "a client: looks for a server at that path, again and again".into(),
        })
    }

    fn remarks(&self) -> Vec<String> {
        let path = self.path.display();
        let Notes { cut, broken, announced, deserted, untaken, ref unmet } = self.notes;
        let left_out = self.inbox.left_out();
        let mut remarks = Vec::new();
        let mut remark = |n: u64, what: &str| {
            if n > 0 {
                remarks.push(format!("stream:{path}: {what}: {n}"));
            }
        };
        remark(left_out, "frames left out, shorter than 14 bytes or longer than 65600");
        let what =
            format!("peers cut off, the last after a frame of {announced} bytes was announced");
        remark(broken, &what);
        remark(cut, "peers that left in the middle of a frame");
        remark(deserted, "peers that left with frames under way to them");
        remark(
            untaken as u64,
            "bytes of frames that the peer did not take at the end, though it was waited for",
        );
        remarks.extend(unmet.as_ref().map(|why| format!("stream:{path}: no peer at last: {why}")));
        remarks
    }
}

#[cfg(test)]
mod tests;
