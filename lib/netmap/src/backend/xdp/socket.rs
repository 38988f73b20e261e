//! One AF_XDP socket: memory registered, four rings made and mapped, bound to a queue.
//!
//! Invariant: a socket that `open` returns is bound, and its rings belong to nobody else. Memory stays registered until
//! it is closed, so it holds on to that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::raw;
use super::ring::{Consumer, Layout, Producer, Ring};
use super::store::{Registration, Store};
use crate::error::{Error, InUse, Invalid, Lack, Privilege, Result};
use crate::shm::map::Map;

/// How long a queue may be busy: the kernel takes some 17 ms to let go of one whose socket was closed, on an idle
/// machine.
const LONGEST_BUSY: Duration = Duration::from_millis(500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Which queue to bind, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The port, for messages.
    pub port: &'a str,
    /// The interface's name, for messages.
    pub interface: &'a str,
    /// The interface.
    pub index: u32,
    /// The queue.
    pub queue: u32,
    /// Packets that may be under way to the NIC; none: nothing is sent.
    pub tx: Option<u32>,
    /// Buffers that may wait for packets from it; none: nothing is received.
    pub rx: Option<u32>,
    /// Microseconds for which receiving polls the NIC.
    pub busy_poll_us: Option<u32>,
}

/// A bound socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    store: Store,
    flags: u16,
}

/// The rings of a socket.
#[derive(Debug)]
pub struct Rings {
    /// Buffers for packets to come.
    pub fill: Producer,
    /// Packets that came.
    pub rx: Option<Consumer>,
    /// Packets to go.
    pub tx: Option<Producer>,
    /// Buffers of packets that went.
    pub completion: Consumer,
}

impl Socket {
    /// A socket on that queue, with `store` for its packets.
    pub fn open(target: Target<'_>, store: Store) -> Result<(Self, Rings)> {
        let Target { port, interface, index, queue, .. } = target;
        let fd = raw::socket().map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => lacks_capabilities(port),
            Errno::EAFNOSUPPORT => Error::Unavailable { name: port.into(), lack: Lack::AfXdp },
            _ => Error::io("make an AF_XDP socket for", port)(errno),
        })?;
        let Registration { memory, chunk, anywhere, flag } = store.registration();
        raw::register(fd.as_fd(), memory, chunk, anywhere).map_err(|errno| match errno {
            Errno::ENOBUFS | Errno::EPERM => {
                let privilege = Privilege::LockMemory { bytes: memory.len() as u64 };
                Error::NotPermitted { name: port.into(), privilege }
            }
            _ => Error::io("register the memory of", port)(errno),
        })?;
        let mut rings = Rings::make(fd.as_fd(), &target, &store)
            .map_err(Error::io("make the rings of", port))?;
        if let Store::Own(chunks) = &store {
            // First: a driver looks for them when its queue changes over.
            chunks.to_fill().for_each(|chunk| rings.fill.put(chunk));
            rings.fill.publish();
        }
        if let Some(entries) = target.tx {
            raw::widen(fd.as_fd(), entries.next_power_of_two());
        }
        if let Some(microseconds) = target.busy_poll_us {
            raw::busy_poll(fd.as_fd(), microseconds)
                .map_err(Error::io("let busy polling serve", port))?;
        }
        let start = Instant::now();
        let flags = flag | libc::XDP_USE_NEED_WAKEUP;
        loop {
            match raw::bind(fd.as_fd(), index, queue, flags) {
                Ok(()) => return Ok((Self { fd, store, flags }, rings)),
                Err(Errno::EBUSY) if start.elapsed() < LONGEST_BUSY => std::thread::sleep(PAUSE),
                Err(errno) => {
                    return Err(match errno {
                        Errno::EBUSY => {
                            Error::Busy { name: port.into(), by: InUse::Queue { queue } }
                        }
                        // Of what else it depends is the driver's affair, and each says it in its own way.
                        errno
                            if store.is_own()
                                && ![Errno::ENODEV, Errno::ENOMEM, Errno::EPERM]
                                    .contains(&errno) =>
                        {
                            Error::invalid(port, Invalid::NoZeroCopy)
                        }
                        Errno::EINVAL => {
                            let interface = interface.to_owned();
                            Error::invalid(port, Invalid::NoQueue { asked: queue, interface })
                        }
                        Errno::ENODEV => {
                            Error::Unavailable { name: port.into(), lack: Lack::NoInterface }
                        }
                        _ => Error::io("bind a socket to a queue of", interface)(errno),
                    });
                }
            }
        }
    }

    /// Where its packets are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the driver serves it, and the kernel's own code does not.
    pub fn is_zero_copy(&self) -> bool {
        self.flags & libc::XDP_ZEROCOPY != 0
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a port needs and the process has not.
pub fn lacks_capabilities(port: &str) -> Error {
    Error::NotPermitted { name: port.into(), privilege: Privilege::Xdp }
}

impl Rings {
    fn make(
        fd: BorrowedFd<'_>,
        target: &Target<'_>,
        store: &Store,
    ) -> std::result::Result<Self, std::io::Error> {
        // Each is asked for before any is mapped: the kernel tells then where things are.
        let count = |entries: Option<u32>| entries.unwrap_or(1).next_power_of_two();
        let (rx, tx) = (count(target.rx), count(target.tx));
        let fill = match store {
            Store::Lent(_) => rx,
            Store::Own(chunks) => count(Some(chunks.to_fill().len() as u32)),
        };
        raw::make_ring(fd, libc::XDP_UMEM_FILL_RING, fill)?;
        raw::make_ring(fd, libc::XDP_UMEM_COMPLETION_RING, tx)?;
        if target.rx.is_some() {
            raw::make_ring(fd, libc::XDP_RX_RING, rx)?;
        }
        if target.tx.is_some() {
            raw::make_ring(fd, libc::XDP_TX_RING, tx)?;
        }
        let at = raw::offsets(fd)?;
        let map = |page: u64, offsets: &libc::xdp_ring_offset, count, words| {
            let layout = Layout {
                producer: offsets.producer as usize,
                consumer: offsets.consumer as usize,
                flags: offsets.flags as usize,
                entries: offsets.desc as usize,
                count,
                words,
            };
            let map = Map::of(fd, page, layout.bytes())?;
            Ring::new(map, layout).ok_or_else(|| std::io::Error::from(Errno::EPROTO))
        };
        let fill = map(libc::XDP_UMEM_PGOFF_FILL_RING, &at.fr, fill, 1)?;
        let completion = map(libc::XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, tx, 1)?;
        let page = |offset: libc::off_t| offset.cast_unsigned();
        let rx = target.rx.map(|_| map(page(libc::XDP_PGOFF_RX_RING), &at.rx, rx, 2));
        let tx = target.tx.map(|_| map(page(libc::XDP_PGOFF_TX_RING), &at.tx, tx, 2));
        Ok(Self {
            fill: Producer::new(fill),
            rx: rx.transpose()?.map(Consumer::new),
            tx: tx.transpose()?.map(Producer::new),
            completion: Consumer::new(completion),
        })
    }
}

/// What a call of a bound socket failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing that lasts: try again later.
    Later,
    /// The interface is there no more, or in another namespace.
    Gone,
    /// Something else.
    Other(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            // No room in the kernel, the NIC or the socket's budget; a packet that the NIC refused; the interface is
            // down, and what is queued goes when it is up again.
            Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::ENOMEM | Errno::ENETDOWN => {
                Self::Later
            }
            Errno::ENXIO | Errno::ENODEV => Self::Gone,
            errno => Self::Other(errno),
        }
    }
}
