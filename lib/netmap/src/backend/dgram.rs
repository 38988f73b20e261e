//! `dgram:PATH`: Ethernet over unix datagrams, a frame in each, as QEMU's `-netdev dgram` speaks it.
//!
//! Invariants: whatever comes that is no frame is left out and counted, an empty datagram among it; none is ever sent,
//! since it would end QEMU's receiving. A peer that has gone costs its packets, not the port: another one at the same
//! path is found again. A peer whose queue is full is waited for.
//!
//! Datagrams have no connection. Who the peer is, is told by the name (`dgram:OWN,PEER`), or else learnt from the
//! first that sends, if that has a path that leads to it from here. Packets go out of the bound socket, so that the peer
//! sees where they come from; a second socket, connected to the peer, carries nothing: it tells whether the peer lives, and
//! when its queue has room. What is under way may also have used up the memory of the bound socket, which tells of that
//! itself. A peer that is connected to us allows no second socket, and has no limit but that memory.
//!
//! Follows docs/design/host-and-nics.md, "Stream and datagram sockets".

#[allow(unsafe_code)]
mod calls;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll, ppoll};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockType, UnixAddr};
use nix::sys::time::TimeSpec;

use crate::adapter::Kind;
use crate::backend::packets::Packets;
use crate::backend::socket_file::{
    SocketFile, address_of, connect_to, is_connected, is_vacant, no_peer, why_no_peer,
};
use crate::backend::socket_wait::SocketWait;
use crate::backend::stream::{MOST, SHORTEST};
use crate::backend::{Device, Sent};
use crate::error::{Error, Invalid, Result};
use crate::name::{Behind, Capabilities, Scheme, Syntax};
use crate::netlink::Link;
use crate::wait::Interest;
use calls::BATCH;

/// Bytes that one such call can bring.
const ROOM: usize = BATCH * MOST;
/// How long a peer that takes nothing is waited for at the end.
const LONGEST_DRAIN: Duration = Duration::from_millis(500);

/// What such a port can do. Its link is up while a peer is known.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE.union(Capabilities::LINK_STATE);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "dgram",
        syntax: Syntax::Socket { behind: Behind::Peer },
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        let device = Datagrams::open(&name.to_string(), name.socket().unwrap_or_default())?;
        Ok(Box::new(Packets::new(name, options, CAPABILITIES, 1, |_| Ok(vec![device]))?))
    },
};

/// Whom packets are for.
#[derive(Debug)]
struct Peer {
    path: PathBuf,
    address: UnixAddr,
    /// Connected to it, and never sent to. None: it is connected, and takes nothing from others.
    gauge: Option<OwnedFd>,
}

/// What has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// The bound socket's memory, which has what the peer has not read.
    Own,
    /// The peer's queue.
    Peer,
}

/// The device behind `dgram:`.
#[derive(Debug)]
pub struct Datagrams {
    path: PathBuf,
    socket: OwnedFd,
    _file: SocketFile,
    /// Where the peer is, if the name says so.
    told: Option<PathBuf>,
    peer: Option<Peer>,
    /// For the bound socket, the gauge, and a peer that was told and is not there.
    wait: SocketWait,
    /// What the socket and the gauge are watched for.
    watched: (EpollFlags, EpollFlags),
    /// Why what is to be sent has not gone.
    full: Full,
    received: Received,
    outbox: Vec<u8>,
    /// Where the packets in it end.
    ends: Vec<usize>,
    /// Packets that the peer did not live to take.
    lost: u64,
    /// Who sent last, and gave a path that leads nowhere from here.
    out_of_reach: Option<PathBuf>,
    /// Why a peer could not be met last, if that is not for want of one.
    unmet: Option<String>,
}

/// What the last call brought.
#[derive(Debug)]
struct Received {
    bytes: Box<[u8]>,
    /// Length of each datagram, 0 if it is left out.
    lengths: [usize; BATCH],
    n: usize,
    next: usize,
    left_out: u64,
}

impl Datagrams {
    /// Opens the port `port`, of which `name` is what is behind the colon: its own path, and behind a comma
    /// the peer's.
    pub fn open(port: &str, name: &str) -> Result<Self> {
        let (own, told) =
            name.split_once(',').map_or((name, None), |(own, peer)| (own, Some(peer)));
        let failed = |errno: Errno| Error::io("make a socket for", own)(errno);
        // What no address can hold will never be met. A path from here is one whatever becomes of the working directory.
        let told = told.map(|peer| std::path::absolute(peer).map_err(Error::io("find", peer)));
        let told = told.transpose()?;
        if let Some(peer) = &told {
            address_of(peer).map_err(Error::io("address the peer at", peer))?;
            // Nobody there now is waited for, and one that is connected is met; what else is in the way will stay.
            if let Err(error) = connect_to(peer, SockType::Datagram)
                && !is_vacant(&error)
                && !is_connected(&error)
            {
                return Err(no_peer(peer, error));
            }
        }
        let (socket, file) = SocketFile::bind(Path::new(own), SockType::Datagram, port)?;
        if told.as_ref().is_some_and(|peer| file.is_at(peer)) {
            return Err(Error::invalid(port, Invalid::OwnPeer));
        }
        let wait = SocketWait::new().map_err(failed)?;
        wait.add(&socket, EpollFlags::EPOLLIN).map_err(failed)?;
        let mut device = Self {
            path: own.into(),
            socket,
            _file: file,
            told,
            peer: None,
            wait,
            watched: (EpollFlags::EPOLLIN, EpollFlags::empty()),
            full: Full::Own,
            received: Received {
                bytes: vec![0; ROOM].into(),
                lengths: [0; BATCH],
                n: 0,
                next: 0,
                left_out: 0,
            },
            outbox: Vec::with_capacity(BATCH * MOST),
            ends: Vec::with_capacity(BATCH),
            lost: 0,
            out_of_reach: None,
            unmet: None,
        };
        if let Some(peer) = device.told.clone() {
            device.meet(&peer)?;
        }
        Ok(device)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> Error + use<> {
        Error::io(what, self.path.clone())
    }

    /// Takes whoever lives at `path` for the peer, if somebody does; one that is told is looked for again else.
    fn meet(&mut self, path: &Path) -> Result<bool> {
        (self.peer, self.unmet) = (None, None);
        self.watched.1 = EpollFlags::empty();
        let gauge = match connect_to(path, SockType::Datagram) {
            Ok(gauge) => Some(Some(gauge)),
            Err(error) if is_connected(&error) => Some(None),
            Err(error) => {
                self.unmet = why_no_peer(path, error);
                None
            }
        };
        let address = UnixAddr::new(path).ok();
        if let (Some(gauge), Some(address)) = (gauge, address) {
            if let Some(gauge) = &gauge {
                let watched = self.wait.add(gauge, EpollFlags::empty());
                watched.map_err(self.failed("watch the peer of"))?;
            }
            self.peer = Some(Peer { path: path.into(), address, gauge });
        }
        let found = self.peer.is_some();
        if self.told.is_some() {
            self.wait.retry(!found).map_err(self.failed("set a timer for"))?;
        }
        Ok(found)
    }

    /// Looks for the peer that was told, if it is time.
    fn find_peer(&mut self) -> Result<()> {
        if let (None, Some(told)) = (&self.peer, &self.told)
            && self.wait.is_time()
        {
            self.meet(&told.clone())?;
        }
        Ok(())
    }

    /// Hands over what is to be sent, as far as the peer takes it.
    fn push(&mut self) -> Result<()> {
        let mut met_again = false;
        while let (Some(peer), false) = (&self.peer, self.ends.is_empty()) {
            match calls::send(self.socket.as_fd(), &peer.address, &self.outbox, &self.ends) {
                Ok(n) => self.taken(n),
                Err(Errno::EINTR) => {}
                // A gauge that has room nevertheless hangs on a socket that is dead, while another has its path.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM)
                    if met_again || !self.is_stale() =>
                {
                    let own = !has_room(self.socket.as_fd());
                    self.full = if own || peer.gauge.is_none() { Full::Own } else { Full::Peer };
                    self.watch(self.watched.0.contains(EpollFlags::EPOLLIN));
                    return Ok(());
                }
                // It takes no frame of that length.
                Err(Errno::EMSGSIZE) => {
                    self.lost += 1;
                    self.taken(1);
                }
                // It has gone; perhaps another one has its path.
                Err(_) => {
                    let path = self.peer.take().map(|peer| peer.path).unwrap_or_default();
                    met_again = !met_again && self.meet(&path)?;
                    if !met_again {
                        self.peer = None;
                        self.lost += self.ends.len() as u64;
                        self.taken(self.ends.len());
                        if self.told.is_some() {
                            self.meet(&path)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The first `n` packets to be sent are none any more.
    fn taken(&mut self, n: usize) {
        let bytes = self.ends.get(n.wrapping_sub(1)).copied().unwrap_or(0);
        self.ends.drain(..n);
        self.ends.iter_mut().for_each(|end| *end -= bytes);
        self.outbox.drain(..bytes);
    }

    /// Whether there is room everywhere, so that what does not go is for somebody else.
    fn is_stale(&self) -> bool {
        let gauge = self.peer.as_ref().and_then(|peer| peer.gauge.as_ref());
        has_room(self.socket.as_fd()) && gauge.is_some_and(|gauge| has_room(gauge.as_fd()))
    }

    /// Wakes up for packets, if so, and for room where there is none.
    fn watch(&mut self, receives: bool) {
        let awaits = |full| !self.ends.is_empty() && self.full == full;
        let (mut socket, mut gauge) = (EpollFlags::empty(), EpollFlags::empty());
        socket.set(EpollFlags::EPOLLIN, receives);
        socket.set(EpollFlags::EPOLLOUT, awaits(Full::Own));
        gauge.set(EpollFlags::EPOLLOUT, awaits(Full::Peer));
        // These cannot fail: both are in the set. If they did, sleeps would end by their timers.
        if socket != self.watched.0 {
            let _ = self.wait.change(&self.socket, socket);
        }
        if let (Some(Peer { gauge: Some(fd), .. }), true) = (&self.peer, gauge != self.watched.1) {
            let _ = self.wait.change(fd, gauge);
        }
        self.watched = (socket, gauge);
    }

    /// Takes what has come. False: nothing has.
    fn fill(&mut self) -> Result<bool> {
        self.push()?;
        let received = &mut self.received;
        (received.n, received.next) = (0, 0);
        let Received { bytes, lengths, .. } = received;
        let (came, sender) = match calls::receive(self.socket.as_fd(), bytes, lengths) {
            Ok(came) => came,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(Error::io("receive from", &self.path)(errno)),
        };
        received.n = came;
        for length in &mut received.lengths[..came] {
            if !(SHORTEST..=MOST).contains(length) {
                *length = 0;
                received.left_out += 1;
            }
        }
        if self.told.is_none()
            && let Some(sender) = sender
            && self.peer.as_ref().is_none_or(|peer| peer.path != sender)
        {
            self.learn(&sender)?;
        }
        Ok(true)
    }

    /// Who has sent is the peer, unless another one is and lives.
    fn learn(&mut self, sender: &Path) -> Result<()> {
        if let Some(peer) = &self.peer {
            let path = peer.path.clone();
            if self.meet(&path)? {
                return Ok(());
            }
        }
        // One without a root is from where the sender works, and here might be another's.
        self.unmet = None;
        let is_met = sender.is_absolute() && self.meet(sender)?;
        self.out_of_reach = (!is_met && self.unmet.is_none()).then(|| sender.to_owned());
        Ok(())
    }
}

/// Whether a socket has room for a packet to be sent.
fn has_room(socket: BorrowedFd<'_>) -> bool {
    let mut waits = [PollFd::new(socket, PollFlags::POLLOUT)];
    poll(&mut waits, 0u8).is_ok_and(|ready| ready > 0)
}

impl Device for Datagrams {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        if !(SHORTEST..=MOST).contains(&packet.len()) {
            return Ok(Sent::Refused);
        }
        if self.ends.len() == BATCH {
            self.push()?;
            if self.ends.len() == BATCH {
                return Ok(Sent::Again);
            }
        }
        if self.peer.is_none() {
            return Ok(Sent::Down);
        }
        self.outbox.extend_from_slice(packet);
        self.ends.push(self.outbox.len());
        Ok(Sent::Done)
    }

    fn flush(&mut self) -> Result<()> {
        self.push()
    }

    fn holds_back(&self) -> bool {
        !self.ends.is_empty()
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let mut has_called = false;
        loop {
            let received = &mut self.received;
            while received.next < received.n {
                let (at, length) = (received.next, received.lengths[received.next]);
                received.next += 1;
                if length > 0 {
                    buf[..length].copy_from_slice(&received.bytes[at * MOST..][..length]);
                    return Ok(Some(length));
                }
            }
            // What came was nothing, or less than there was room for, or all of it was left out, of which a peer may send more and
            // more: no more in this call.
            if has_called || (received.n > 0 && received.n < BATCH) || !self.fill()? {
                self.received.n = 0;
                return Ok(None);
            }
            has_called = true;
        }
    }

    fn look(&mut self) -> Result<()> {
        self.find_peer()
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
        self.watch(what.contains(Interest::RX));
    }

    fn finish(&mut self) -> Result<()> {
        let (mut left, mut end) = (usize::MAX, Instant::now());
        loop {
            self.push()?;
            let (Some(peer), false) = (&self.peer, self.ends.is_empty()) else { return Ok(()) };
            if self.ends.len() < left {
                (left, end) = (self.ends.len(), Instant::now() + LONGEST_DRAIN);
            }
            let time = end.saturating_duration_since(Instant::now());
            if time.is_zero() {
                return Ok(());
            }
            let full = match (self.full, &peer.gauge) {
                (Full::Peer, Some(gauge)) => gauge,
                _ => &self.socket,
            };
            let mut waits = [PollFd::new(full.as_fd(), PollFlags::POLLOUT)];
            match ppoll(&mut waits, Some(TimeSpec::from(time)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("wait for the peer of")(errno)),
            }
        }
    }

    fn left_out(&self) -> u64 {
        self.received.left_out
    }

    fn remarks(&self) -> Vec<String> {
        let (path, left_out) = (self.path.display(), self.received.left_out);
        let mut remarks = Vec::new();
        if left_out > 0 {
            let what = "datagrams left out, shorter than 14 bytes or longer than 65600";
            remarks.push(format!("dgram:{path}: {what}: {left_out}"));
        }
        if let Some(sender) = &self.out_of_reach {
            let sender = sender.display();
            remarks.push(format!(
                "dgram:{path}: nothing could be sent to who sent last: {sender}, the path of its socket as it says, does \
                 not lead there from here; start it with one that does, or name that here, as in dgram:{path},PEER"
            ));
        }
        remarks
            .extend(self.unmet.as_ref().map(|why| format!("dgram:{path}: no peer at last: {why}")));
        if self.lost > 0 {
            remarks.push(format!("dgram:{path}: frames lost with peers that left: {}", self.lost));
        }
        remarks
    }
}

#[cfg(test)]
mod tests;
