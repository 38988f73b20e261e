//! The adapter: a NIC's queues as ring pairs, waiting for them, and what becomes of the interface meanwhile.
//!
//! Invariant: the program is attached when all sockets are ready, and only if something is received; it and the
//! sockets go with the last handle, before any memory does.

use std::cell;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::CAPABILITIES;
use super::chunks::Chunks;
use super::host::tap_of;
use super::program::{Hook, Redirect};
use super::queue::Queue;
use super::raw;
use super::socket::{Failure, Rings, Socket, Target};
use super::store::Store;
use super::umem::Umem;
use crate::adapter::Adapter;
use crate::error::{Error, Invalid, Lack, Result};
use crate::name::{Capabilities, PortName, RingSel, XdpMode};
use crate::netlink::{Link, Presence, Watch};
use crate::netns::Home;
use crate::options::{BoundRings, MAX_RINGS, MemoryRef, Options, PerDirection, Places, Sizes};
use crate::ring::{RingRef, TxRingRef};
use crate::ring_number::RingNumber;
use crate::rings::{RingCells, cells_needed, extra_buffers, make_if, make_rings, populate};
use crate::shm::file::FileId;
use crate::shm::mem::{Cell, STRIDE};
use crate::stats::Counters;
use crate::time::now_ms;
use crate::wait::Interest;

/// Ethernet header and one VLAN tag, which do not count for an MTU.
const HEADERS: usize = 14 + 4;
/// How old may be what is told of the link.
const LOOK_MS: u64 = 20;
/// Of so many cheap looks one is at the kernel's index: each takes the cache line away from the CPU that fills the ring.
const LOOKS: u32 = 8;
/// Of so many one ends in a sync.
const SYNC_LOOKS: u32 = 4096;
/// Syncs with nothing to do until the kernel is asked for news of the interface.
const IDLE: u32 = 64;

/// A handle on the port: some of its rings.
#[derive(Debug)]
pub struct Xdp {
    /// What tells of the interface, and the sockets of the rings bound while they are heard.
    epoll: Epoll,
    /// What of them is heard.
    heard: Interest,
    /// Somebody is about to wait, or does.
    armed: bool,
    bound: BoundRings,
    shared: Arc<Shared>,
    /// Syncs without anything to do since the kernel was asked for news.
    idle: u32,
    /// Cheap looks.
    looks: cell::Cell<u32>,
}

/// The port, for all its handles.
#[derive(Debug)]
struct Shared {
    name: String,
    interface: String,
    /// Ring `i` is over this queue. Empty once it is closing.
    queues: Vec<Queue>,
    first_queue: u32,
    redirect: Option<Redirect>,
    hook: Option<Hook>,
    cells: RingCells,
    umem: Arc<Umem>,
    if_cell: Cell,
    watch: Mutex<Watch>,
    /// The name of the namespace that the sockets keep alive.
    home: Option<Home>,
    /// Longest frame that is sent.
    longest: AtomicUsize,
    gone: AtomicBool,
    /// Netlink tells nothing any more: sends fail when the interface has gone.
    is_deaf: AtomicBool,
    down: AtomicBool,
    looked_ms: AtomicU64,
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which queues of an interface a port has.
fn chosen(
    name: &PortName,
    interface: &str,
    options: &Options,
    has: u32,
) -> Result<std::ops::Range<u32>> {
    let asked = match (options.tx_rings, options.rx_rings) {
        (Some(tx), Some(rx)) if tx != rx => {
            return Err(Error::invalid(name, Invalid::QueuePairs { tx, rx }));
        }
        (tx, rx) => tx.or(rx).map(u32::from),
    };
    let first = match name.rings {
        RingSel::One(queue) => u32::from(queue),
        _ => 0,
    };
    let one = matches!(name.rings, RingSel::One(_));
    let n = if one { 1 } else { asked.unwrap_or(has) };
    let interface = interface.to_owned();
    if first + n > has || asked.is_some_and(|asked| asked > has) {
        let asked = asked.unwrap_or(0).max(first + n) - 1;
        return Err(Error::invalid(name, Invalid::NoQueue { asked, interface }));
    }
    if n > u32::from(MAX_RINGS) {
        return Err(Error::invalid(
            name,
            Invalid::TooManyQueues { has, most: MAX_RINGS, interface },
        ));
    }
    Ok(first..first + n)
}

impl Xdp {
    /// Opens a port.
    pub fn open(name: &PortName, options: &Options, home: Option<Home>) -> Result<Self> {
        let port = name.to_string();
        let interface = name.interface().unwrap_or_default();
        let watch = Watch::of_port(name)?;
        let mtu = watch.interface().mtu;
        let index = watch.interface().index.cast_unsigned();
        if mtu as usize + HEADERS > STRIDE {
            let most = (STRIDE - HEADERS) as u32;
            let interface = interface.to_owned();
            return Err(Error::invalid(port, Invalid::Mtu { mtu, most, interface }));
        }
        // Drivers that cannot tell have one.
        let (rx, tx) = raw::queues(interface).unwrap_or((1, 1));
        let queues = chosen(name, interface, options, rx.max(tx).max(1))?;
        let pairs = queues.len() as u16;
        let options = Options { tx_rings: Some(pairs), rx_rings: Some(pairs), ..options.clone() };
        let sizes = Sizes::from_options(&port, &options)?;
        let has = PerDirection { tx: queues.len(), rx: queues.len() };
        let bound = BoundRings::chosen(&port, RingSel::All, options.direction, has)?;

        let needed = cells_needed(sizes).saturating_add(options.extra_bufs).saturating_add(1);
        let umem = Umem::choose(&port, &options, needed)?;
        let (cells, if_cell) = umem.allocate(|region| {
            region.count_port();
            let cells = make_rings(region, sizes)?;
            let if_cell = make_if(region, &cells, &port, &bound, options.extra_bufs);
            let if_cell = if_cell.inspect_err(|_| {
                region.give_back(cells.ring_cells().chain(cells.buffers(region)));
            })?;
            Ok((cells, if_cell))
        })?;
        populate(&cells, umem.region());
        let mut shared = Shared {
            name: port,
            interface: interface.to_owned(),
            queues: Vec::new(),
            first_queue: queues.start,
            redirect: None,
            hook: None,
            cells,
            umem,
            if_cell,
            watch: Mutex::new(watch),
            home,
            longest: AtomicUsize::new(mtu as usize + HEADERS),
            gone: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
            down: AtomicBool::new(false),
            looked_ms: AtomicU64::new(0),
        };
        let tries = name.conf.xdp_mode.is_none() && !bound.rx.is_empty();
        match shared.begin(index, queues.clone(), &bound, name, tries) {
            Err(error)
                if tries
                    && shared.queues.iter().any(Queue::is_own)
                    && !matches!(error, Error::Busy { .. } | Error::NotPermitted { .. }) =>
            {
                // What a driver refuses in zero-copy mode it may do without.
                shared.close();
                shared.begin(index, queues, &bound, name, false)?;
            }
            begun => begun?,
        }
        shared.look();
        Self::with(shared.into(), bound)
    }

    fn with(shared: Arc<Shared>, bound: BoundRings) -> Result<Self> {
        let failed = || Error::io("make a descriptor to wait for", &shared.name);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed())?;
        let news = EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX);
        epoll.add(lock(&shared.watch).fd(), news).map_err(failed())?;
        let heard = Interest::empty();
        Ok(Self { epoll, heard, armed: false, bound, shared, idle: 0, looks: cell::Cell::new(0) })
    }

    /// Has the epoll set hear of that, and of nothing else.
    ///
    /// A socket that is in a set costs each packet that leaves it a look at who waits, a tenth of all that sending
    /// costs. So who sends takes his out, unless he is about to wait.
    fn hear(&mut self, what: Interest) {
        let heard = std::mem::replace(&mut self.heard, what);
        if heard == what {
            return;
        }
        let events = |what: Interest, queue: RingNumber| {
            let mut events = EpollFlags::empty();
            let awaits =
                |interest, rings: &[RingNumber]| what.contains(interest) && rings.contains(&queue);
            events.set(EpollFlags::EPOLLIN, awaits(Interest::RX, &self.bound.rx));
            events.set(EpollFlags::EPOLLOUT, awaits(Interest::TX, &self.bound.tx));
            events
        };
        for queue in Self::queues_of(&self.bound) {
            let socket = self.shared.queues[queue.at()].socket().fd();
            let (before, now) = (events(heard, queue), events(what, queue));
            let mut event = EpollEvent::new(now, queue.0.into());
            // One that cannot be added, for want of memory, is looked at again when the sleep ends, by its timer.
            let _ = match (before.is_empty(), now.is_empty()) {
                (true, true) => Ok(()),
                (true, false) => self.epoll.add(socket, event),
                (false, true) => self.epoll.delete(socket),
                (false, false) => self.epoll.modify(socket, &mut event),
            };
        }
    }

    /// The queues that are bound in either direction.
    fn queues_of(bound: &BoundRings) -> impl Iterator<Item = RingNumber> {
        let all = RingNumber::first(MAX_RINGS.into());
        let (tx, rx) = (bound.tx.clone(), bound.rx.clone());
        all.filter(move |queue| tx.contains(queue) || rx.contains(queue))
    }

    /// After a sync: whether the port can go on.
    fn settle(&mut self, called: std::result::Result<(), Failure>) -> Result<()> {
        match called {
            Ok(()) | Err(Failure::Later) => {}
            // A driver that sets its queues up anew answers so, in zero-copy mode. Netlink knows better, unless it fails.
            Err(Failure::Gone | Failure::Other(Errno::EINVAL))
                if self.shared.queues.iter().any(Queue::is_own)
                    && !self.shared.is_deaf.load(Ordering::Relaxed) =>
            {
                self.shared.look_again();
            }
            Err(Failure::Gone) => self.shared.gone.store(true, Ordering::Relaxed),
            Err(Failure::Other(errno)) => {
                return Err(Error::io("exchange packets with", &self.shared.interface)(errno));
            }
        }
        if self.shared.gone.load(Ordering::Relaxed) {
            let name = self.shared.name.clone();
            return Err(Error::Unavailable { name, lack: Lack::InterfaceGone });
        }
        Ok(())
    }
}

impl Shared {
    /// Makes the sockets, and lets packets come.
    fn begin(
        &mut self,
        index: u32,
        queues: std::ops::Range<u32>,
        bound: &BoundRings,
        name: &PortName,
        mut try_own: bool,
    ) -> Result<()> {
        let receives = !bound.rx.is_empty();
        let mode = name.conf.xdp_mode;
        // In zero-copy mode a driver receives by the socket's memory even what is the stack's, for which it needs a program.
        let attaches = receives || mode == Some(XdpMode::ZeroCopy);
        let mut redirect = attaches.then(|| Redirect::load(&self.name, queues.end)).transpose()?;
        for queue in queues {
            let target = Target {
                port: &self.name,
                interface: &self.interface,
                index,
                queue,
                tx: (!bound.tx.is_empty()).then_some(self.cells.tx_slots),
                rx: receives.then_some(self.cells.rx_slots),
                busy_poll_us: name.conf.busy_poll_us,
            };
            let (socket, rings) = self.socket(target, mode, &mut try_own)?;
            if let Some(redirect) = redirect.as_ref().filter(|_| receives) {
                redirect.enter(&self.name, queue, socket.fd())?;
            }
            let polls = name.conf.busy_poll_us.is_some();
            let rx = receives.then(|| self.rx(RingNumber::new(self.queues.len())));
            let made = Queue::new(socket, rings, self.cells.tx_slots, rx, polls);
            self.queues.push(made);
        }
        if let Some(redirect) = &mut redirect {
            let own = self.queues.iter().any(Queue::is_own);
            // Not the kernel's own program in front of a driver in zero-copy mode: the packets would be copied twice, from
            // memory that both take from.
            let insists = if own && mode.is_none() { Some(XdpMode::Native) } else { mode };
            let hook = redirect.attach(&self.name, &self.interface, index, insists)?;
            if hook == Hook::Generic && Watch::new(&tap_of(index.cast_signed())).is_ok() {
                // What its host rings hand to the stack would come back here.
                return Err(Error::invalid(&self.name, Invalid::HostRingsAndGeneric));
            }
            self.hook = Some(hook);
        }
        self.redirect = redirect;
        Ok(())
    }

    /// Closes all queues; returns the buffers of their rings and slots.
    fn close(&mut self) -> Vec<Cell> {
        let mut queues = std::mem::take(&mut self.queues).into_iter();
        let mut had = Vec::new();
        for ring in RingNumber::first(self.cells.tx.len()) {
            let (tx, rx) = (self.tx(ring), self.rx(ring));
            match queues.next() {
                Some(queue) => had.extend(queue.close(&self.umem, tx, rx)),
                None => had.extend([tx, rx].into_iter().flat_map(RingRef::named_buffers)),
            }
        }
        had
    }

    /// A socket in zero-copy mode, if it is to be or can; else one in copy mode, and none of the next will `try_own`. Who sends
    /// alone does not try: the queue would be set up anew, and the stack's packets copied once more.
    fn socket(
        &self,
        target: Target<'_>,
        mode: Option<XdpMode>,
        try_own: &mut bool,
    ) -> Result<(Socket, Rings)> {
        let own = || {
            let tx = target.tx.unwrap_or(0);
            // As many for the NIC's own ring as for packets that wait for us; else a burst finds none. The stack's share of what
            // comes needs chunks, too.
            let rx = target.rx.map_or(tx, |slots| 2 * slots);
            let chunks = Chunks::new(&self.name, rx, tx)?;
            Socket::open(target, Store::Own(chunks.into()))
        };
        let lent = || Socket::open(target, Store::Lent(self.umem.clone()));
        match mode {
            Some(XdpMode::ZeroCopy) => own(),
            None if *try_own => match own() {
                Err(error) if !matches!(error, Error::Busy { .. }) => {
                    // Without such a mode, or the right to lock so much memory; what else is wrong shows again.
                    *try_own = false;
                    lent()
                }
                opened => opened,
            },
            _ => lent(),
        }
    }

    fn tx(&self, ring: RingNumber) -> RingRef<'_> {
        let ring = self.cells.tx_ring(self.umem.region(), ring);
        ring.expect("made in this region with this shape")
    }

    fn rx(&self, ring: RingNumber) -> RingRef<'_> {
        let ring = self.cells.rx_ring(self.umem.region(), ring);
        ring.expect("made in this region with this shape")
    }

    /// How packets come and go.
    fn about(&self) -> String {
        let hook = match self.hook {
            Some(Hook::Native) => "native XDP",
            Some(Hook::Generic) => "generic XDP: the driver has none of its own",
            None => "sending only: the stack receives as before",
        };
        let (first, last) = (self.first_queue, self.first_queue + self.queues.len() as u32 - 1);
        let queues = match first == last {
            true => format!("queue {first}"),
            false => format!("queues {first} to {last}"),
        };
        let own = self.queues.iter().filter(|queue| queue.is_own()).count();
        let copies = match own {
            0 => "the kernel copies".into(),
            n if n == self.queues.len() => "zero-copy mode".into(),
            n => format!("zero-copy mode on {n} of them"),
        };
        format!("{queues}, {hook}, {copies}")
    }

    /// The same, unless that was done a moment ago.
    fn look_again(&self) {
        if now_ms().wrapping_sub(self.looked_ms.load(Ordering::Relaxed)) >= LOOK_MS {
            self.look();
        }
    }

    /// Takes in what the kernel tells of the interface.
    fn look(&self) {
        let mut watch = lock(&self.watch);
        self.looked_ms.store(now_ms(), Ordering::Relaxed);
        self.is_deaf.store(watch.update().is_err(), Ordering::Relaxed);
        let is_home = self.home.as_ref().is_none_or(Home::is_there);
        // One of that number may be there again by now, which the sockets are not bound to.
        let is_lost =
            self.queues.first().is_some_and(|queue| raw::has_lost_interface(queue.socket().fd()));
        let gone = watch.presence() != Presence::Here || is_lost || !is_home;
        self.gone.fetch_or(gone, Ordering::Relaxed);
        self.down.store(watch.link() == Link::Down, Ordering::Relaxed);
        let longest = (watch.interface().mtu as usize + HEADERS).min(STRIDE);
        self.longest.store(longest, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.redirect = None;
        let mut had: HashSet<Cell> = self.close().into_iter().collect();
        had.extend(self.cells.ring_cells().chain([self.if_cell]));
        had.extend(extra_buffers(self.umem.region(), self.if_cell));
        self.umem.give_back(had.into_iter().collect());
    }
}

impl Adapter for Xdp {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn rings(&self) -> PerDirection<usize> {
        self.bound.count()
    }

    fn all_rings(&self) -> PerDirection<usize> {
        PerDirection { tx: self.shared.cells.tx.len(), rx: self.shared.cells.rx.len() }
    }

    fn slots(&self) -> PerDirection<u32> {
        self.shared.cells.slots()
    }

    fn tx(&self, ring: usize) -> TxRingRef<'_> {
        let queue = self.bound.tx[ring];
        let (hwcur, sent) = self.shared.queues[queue.at()].sent();
        TxRingRef { ring: self.shared.tx(queue), hwcur, sent }
    }

    fn rx(&self, ring: usize) -> RingRef<'_> {
        self.shared.rx(self.bound.rx[ring])
    }

    fn txsync_ring(&mut self, ring: usize) -> Result<()> {
        if !self.armed {
            self.hear(Interest::empty());
        }
        let (queue, shared) = (self.bound.tx[ring], &self.shared);
        let is_down = || shared.down.load(Ordering::Relaxed);
        if is_down() {
            shared.look_again();
        }
        if is_down() {
            // As on a cable that is unplugged: nothing old is sent when it is up again.
            shared.queues[queue.at()].discard(shared.tx(queue));
            return self.settle(Ok(()));
        }
        let longest = shared.longest.load(Ordering::Relaxed);
        let called = shared.queues[queue.at()].txsync(shared.tx(queue), longest);
        let (completed, sent) = shared.queues[queue.at()].sent();
        if completed != sent {
            shared.look_again(); // why it does not go
        }
        self.settle(called)
    }

    fn rxsync_ring(&mut self, ring: usize) -> Result<()> {
        let (queue, shared) = (self.bound.rx[ring], &self.shared);
        let slots = shared.rx(queue);
        let called = shared.queues[queue.at()].rxsync(slots);
        if slots.is_ready() {
            self.idle = 0;
            return Ok(()); // what came is read before anything is told
        }
        self.idle += 1;
        if self.idle >= IDLE {
            self.idle = 0;
            self.shared.look();
        }
        self.settle(called)
    }

    fn peek(&self) -> bool {
        let looks = self.looks.get().wrapping_add(1);
        self.looks.set(looks);
        // Now and then a sync, which tells of an interface that is gone.
        looks.is_multiple_of(LOOKS)
            && (looks.is_multiple_of(SYNC_LOOKS)
                || self.bound.rx.iter().any(|queue| self.shared.queues[queue.at()].has_news()))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn events(&self, _: Interest) -> PollFlags {
        PollFlags::POLLIN
    }

    fn arm(&mut self, what: Interest) {
        self.armed = true;
        self.hear(what);
    }

    fn disarm(&mut self, slept: bool) {
        self.armed = false;
        if !slept {
            return;
        }
        // What woke us may have been news of the interface.
        self.shared.look();
        if let Some(queue) = self.bound.rx.first() {
            self.shared.queues[queue.at()].count_wakeup();
        }
    }

    fn about(&self) -> Option<String> {
        Some(self.shared.about())
    }

    fn link(&self) -> Link {
        self.shared.look_again();
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        match (is(&self.shared.gone), is(&self.shared.down)) {
            (true, _) => Link::Gone,
            (false, true) => Link::Down,
            (false, false) => Link::Up,
        }
    }

    fn mtu(&self) -> Option<u32> {
        Some((self.shared.longest.load(Ordering::Relaxed) - HEADERS) as u32)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        lock(&self.shared.watch).interface().mac
    }

    fn give_away(&mut self, places: &Places) -> Result<Box<dyn Adapter>> {
        let other = Self::with(self.shared.clone(), self.bound.at(places))?;
        *self = Self::with(self.shared.clone(), self.bound.without(&other.bound))?;
        Ok(Box::new(other))
    }

    fn memory_id(&self) -> FileId {
        self.shared.umem.region().id()
    }

    fn memory(&self) -> Option<MemoryRef> {
        Some(self.shared.umem.memory())
    }

    fn extra_buffers(&self) -> Vec<Cell> {
        extra_buffers(self.shared.umem.region(), self.shared.if_cell)
    }

    fn counters(&self) -> Counters {
        self.shared.queues.iter().map(Queue::counters).sum()
    }
}
