//! Waiting: for a port, for several, and for ordinary descriptors beside them (docs/design/wakeups.md).
//!
//! Invariants: a wait sleeps only after all its ports were armed and then found with nothing ready, and
//! never longer than `LONGEST_SLEEP` without another look, since a peer may have died between publishing
//! and ringing. However it ends, all ports are disarmed. Nothing is allocated for few ports, and a wait
//! that finds something at once reads no clock.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::port::Port;
use crate::wait::{Interest, Wait};

/// Looks for each reading of the clock: a look costs a nanosecond, the clock twenty.
const LOOKS: u32 = 64;
/// How long a thread that spins keeps its CPU before it lets others run, and looks at its descriptors.
const TURN: Duration = Duration::from_micros(50);

thread_local! {
    /// Since when this thread has not let others run. It is the thread's, not a wait's: where packets come one by one, no
    /// wait is long, and whoever is to forward them may wait for this very CPU all the time.
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}
/// As many descriptors are polled without an allocation.
const FEW: usize = 8;

/// A port in a set, and what is awaited of it.
#[derive(Debug)]
pub struct Watch<'a> {
    port: &'a mut Port,
    what: Interest,
    ready: Interest,
    /// Slots queued when the wait began.
    before: usize,
    /// The port had ended by then.
    ended: bool,
}

impl<'a> Watch<'a> {
    /// Waits for `what` of `port`; for nothing, if that is empty, but what is queued is sent.
    pub fn new(port: &'a mut Port, what: Interest) -> Self {
        Self { port, what, ready: Interest::empty(), before: 0, ended: false }
    }

    /// What was ready at the end of the last wait.
    #[must_use]
    pub fn ready(&self) -> Interest {
        self.ready
    }

    fn begin(&mut self) {
        self.before = self.port.pending();
        self.ended = self.port.ended();
    }

    /// Whether there is something to tell: it is ready, or has come to its end.
    fn is_over(&self) -> bool {
        !self.ready.is_empty() || self.port.ended() != self.ended
    }
}

/// An ordinary descriptor in a set, and what it is polled for.
#[derive(Debug)]
pub struct WatchFd<'a> {
    fd: BorrowedFd<'a>,
    events: PollFlags,
    ready: PollFlags,
}

impl<'a> WatchFd<'a> {
    /// Polls `fd` for `events`.
    #[must_use]
    pub fn new(fd: BorrowedFd<'a>, events: PollFlags) -> Self {
        Self { fd, events, ready: PollFlags::empty() }
    }

    /// The events at the end of the last wait: of those asked for, and those that poll(2) always reports.
    #[must_use]
    pub fn ready(&self) -> PollFlags {
        self.ready
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// A port or a descriptor is ready. If none is, the time was over, or a signal came, or a port came to
    /// its end.
    pub ready: bool,
    /// How often it slept.
    pub sleeps: u64,
}

/// Ports and descriptors that are waited for together.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm").unwrap();
/// # // SAFETY: a doc test is a process of its own, with one thread at this point.
/// # unsafe { std::env::set_var("NETMAP_ROOT", dir.path()) };
/// use std::os::fd::AsFd;
///
/// use netmap::{Interest, Port, Wait, WaitSet, Watch, WatchFd};
/// use nix::poll::PollFlags;
///
/// let (mut x, mut y) = (Port::open("valeA:x")?, Port::open("valeA:y")?);
/// let (from, _to) = std::io::pipe().unwrap();
/// assert!(y.tx(0).push(&[0xff; 60])); // broadcast, sent by the wait
/// let mut ports = [Watch::new(&mut y, Interest::SENT), Watch::new(&mut x, Interest::RX)];
/// let mut fds = [WatchFd::new(from.as_fd(), PollFlags::POLLIN)];
/// let waited = WaitSet::new(&mut ports, &mut fds).wait(Wait::default(), None)?;
/// assert!(waited.ready);
/// assert_eq!((ports[0].ready(), ports[1].ready()), (Interest::SENT, Interest::RX));
/// assert_eq!(fds[0].ready(), PollFlags::empty());
/// # Ok::<(), netmap::Error>(())
/// ```
#[derive(Debug)]
pub struct WaitSet<'s, 'a> {
    ports: &'s mut [Watch<'a>],
    fds: &'s mut [WatchFd<'a>],
}

impl<'s, 'a> WaitSet<'s, 'a> {
    /// Longest sleep without a look. Nobody rings for a peer that is killed between publishing and ringing,
    /// so nothing else ends such a sleep. The reason for its length is in docs/design/wakeups.md.
    pub const LONGEST_SLEEP: Duration = Duration::from_millis(100);

    /// These ports and descriptors. What they say is ready is that of the last wait.
    pub fn new(ports: &'s mut [Watch<'a>], fds: &'s mut [WatchFd<'a>]) -> Self {
        Self { ports, fds }
    }

    /// Syncs all ports, and waits until something is ready or the time is over. Queued packets are sent
    /// whatever is waited for, as poll(2) on netmap does. Returns early with nothing ready when a signal
    /// arrives during a sleep, and when a port comes to its end.
    ///
    /// # Errors
    /// As `Port::txsync` and `Port::rxsync` of any of the ports; or polling failed.
    pub fn wait(&mut self, how: Wait, timeout: Option<Duration>) -> Result<Waited> {
        self.ports.iter_mut().for_each(Watch::begin);
        if self.sync()? || timeout == Some(Duration::ZERO) {
            return self.end(0);
        }
        let start = Instant::now();
        let spin = match how {
            Wait::Busy => timeout.unwrap_or(Duration::MAX),
            Wait::Adaptive { .. } if !self.can_look() => Duration::ZERO,
            Wait::Adaptive { spin } => spin.min(timeout.unwrap_or(spin)),
            Wait::Block => Duration::ZERO,
        };
        if self.spin(start, spin)? {
            return self.end(0);
        }
        let mut sleeps = 0;
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            if left == Some(Duration::ZERO) {
                return self.end(sleeps);
            }
            let over = self.arm();
            let slept = matches!(over, Ok(false)).then(|| {
                sleeps += 1;
                let longest = Self::LONGEST_SLEEP;
                self.poll(true, left.map_or(longest, |left| left.min(longest)))
            });
            for watch in self.ports.iter_mut() {
                watch.port.adapter.disarm(slept == Some(Ok(true)));
            }
            over?;
            match slept {
                None => return self.end(sleeps),
                Some(Ok(_)) => {
                    if self.sync()? || self.fds.iter().any(|fd| !fd.ready.is_empty()) {
                        return Ok(self.waited(sleeps));
                    }
                }
                Some(Err(Errno::EINTR)) => {
                    self.sync()?;
                    return self.end(sleeps);
                }
                Some(Err(errno)) => return Err(self.failed(errno)),
            }
        }
    }

    /// True if the wait is over.
    fn sync(&mut self) -> Result<bool> {
        let mut over = false;
        for watch in self.ports.iter_mut() {
            watch.ready = watch.port.sync_since(watch.what, watch.before)?;
            over |= watch.is_over();
        }
        Ok(over)
    }

    /// As `sync`, after asking all for their doorbells. All of them, also behind one that is ready: the
    /// caller learns of each.
    fn arm(&mut self) -> Result<bool> {
        let mut over = false;
        for watch in self.ports.iter_mut() {
            watch.ready = watch.port.arm_since(watch.what, watch.before)?;
            over |= watch.is_over();
        }
        Ok(over)
    }

    /// Looks again and again for that time; true if the wait is over.
    fn spin(&mut self, start: Instant, time: Duration) -> Result<bool> {
        loop {
            let now = Instant::now();
            if now.duration_since(start) >= time {
                return Ok(false);
            }
            if self.look() && self.sync()? {
                return Ok(true);
            }
            let began = TURN_BEGAN.get().unwrap_or(start);
            TURN_BEGAN.set(Some(began));
            if now.duration_since(began) >= TURN {
                // Whoever is to make us ready may wait for this very CPU.
                std::thread::yield_now();
                TURN_BEGAN.set(Some(Instant::now()));
                // What no look shows: a port that came to its end, room for what is still queued.
                if self.look_at_fds()? || self.sync()? {
                    return Ok(true);
                }
            }
        }
    }

    /// Whether all ports that packets are awaited of can be looked at without a system call.
    fn can_look(&self) -> bool {
        let blind = |w: &Watch<'_>| w.what.contains(Interest::RX) && !w.port.adapter.peeks();
        !self.ports.iter().any(blind)
    }

    /// Whether a sync is worthwhile.
    fn look(&self) -> bool {
        for _ in 0..LOOKS {
            let news = |w: &Watch<'_>| w.what.contains(Interest::RX) && w.port.adapter.peek();
            if self.ports.iter().any(news) {
                return true;
            }
            std::hint::spin_loop();
        }
        // Room shows only by trying.
        self.ports.iter().any(|watch| watch.what.wants_room())
    }

    /// Polls the descriptors, and the doorbells of the ports that are waited for if it is `with_ports`;
    /// true if any is ready.
    fn poll(&mut self, with_ports: bool, time: Duration) -> std::result::Result<bool, Errno> {
        // A port that is waited for for nothing could have an error, which would be reported for ever.
        let asked = self.ports.iter().filter(|watch| with_ports && !watch.what.is_empty());
        let mut polled: SmallVec<[PollFd<'_>; FEW]> = asked
            .map(|watch| PollFd::new(watch.port.fd(), watch.port.events(watch.what)))
            .collect();
        let ports = polled.len();
        polled.extend(self.fds.iter().map(|fd| PollFd::new(fd.fd, fd.events)));
        let ready = ppoll(&mut polled, Some(TimeSpec::from(time)), None)?;
        for (fd, polled) in self.fds.iter_mut().zip(&polled[ports..]) {
            fd.ready = polled.revents().unwrap_or(PollFlags::empty());
        }
        Ok(ready > 0)
    }

    /// True if one of the descriptors is ready.
    fn look_at_fds(&mut self) -> Result<bool> {
        if self.fds.is_empty() {
            return Ok(false);
        }
        loop {
            match self.poll(false, Duration::ZERO) {
                Err(Errno::EINTR) => {} // it has been handled by now
                seen => return seen.map_err(|errno| self.failed(errno)),
            }
        }
    }

    /// Ends a wait whose last look at the descriptors is not the latest.
    fn end(&mut self, sleeps: u64) -> Result<Waited> {
        self.look_at_fds()?;
        Ok(self.waited(sleeps))
    }

    fn waited(&self, sleeps: u64) -> Waited {
        let ready = self.ports.iter().any(|watch| !watch.ready.is_empty())
            || self.fds.iter().any(|fd| !fd.ready.is_empty());
        Waited { ready, sleeps }
    }

    #[cold]
    fn failed(&self, errno: Errno) -> Error {
        let names: Vec<_> = self.ports.iter().map(|watch| watch.port.name.to_string()).collect();
        Error::io("wait for", names.join(" and "))(errno)
    }
}

impl Port {
    /// Syncs, and waits until something of `what` is ready or the time is over; returns what is
    /// ready. A `WaitSet` of this port alone: see `WaitSet::wait`.
    ///
    /// # Errors
    /// As `WaitSet::wait`.
    pub fn wait(
        &mut self,
        what: Interest,
        how: Wait,
        timeout: Option<Duration>,
    ) -> Result<Interest> {
        let mut alone = [Watch::new(self, what)];
        WaitSet::new(&mut alone, &mut []).wait(how, timeout)?;
        Ok(alone[0].ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{BoundRings, Options, PerDirection};
    use crate::vale::lifecycle::open;
    use crate::vale::lifecycle::root::Root;
    use crate::vale::port::ValePort;
    use crate::vale::state::ids::RingNumber;
    use crate::vale::state::kring::Kring;
    use crate::vale::state::switch::Settings;

    /// Far beyond anything that works: what takes longer has failed.
    const FOR_EVER: Duration = Duration::from_secs(20);
    /// What comes before the sleep proves nothing, so there are several tries.
    const TRIES: usize = 1000;

    /// Opens a port of a switch below a root of its own.
    fn vale(root: &Root, name: &str) -> ValePort {
        let bound = |_: &_| Ok(BoundRings::all(PerDirection { tx: 1, rx: 1 }));
        let options = Options { tx_slots: Some(64), rx_slots: Some(64), ..Options::default() };
        ValePort::new(open::open(root, "valeA", name, &options, bound).unwrap())
    }

    fn port(root: &Root, name: &str) -> Port {
        Port::of("valeA:x".parse().unwrap(), Box::new(vale(root, name)))
    }

    fn root() -> (tempfile::TempDir, Root) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = Root::at(temp.path());
        (temp, root)
    }

    fn fill(port: &mut Port) {
        while port.tx(0).push(&[0xff; 60]) {
            port.txsync().unwrap();
        }
    }

    /// Waits for `what`. When the waiter has asked at `ring` to be woken, somebody takes that off and dies
    /// before it rings; then `change` makes the port ready, and nobody is asked to ring any more. True if the
    /// wait had slept by then.
    fn ended_by_the_timer(
        port: &mut Port,
        what: Interest,
        takes: impl Fn() -> bool,
        change: impl FnOnce(),
    ) -> bool {
        let start = Instant::now();
        let waited = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut ports = [Watch::new(&mut *port, what)];
                WaitSet::new(&mut ports, &mut []).wait(Wait::Block, Some(FOR_EVER)).unwrap()
            });
            while !takes() {
                std::thread::yield_now();
            }
            change();
            waiter.join().unwrap()
        });
        assert!(waited.ready && start.elapsed() < FOR_EVER, "it slept on");
        assert_eq!(port.counters().wakeups, 0, "somebody rang");
        waited.sleeps > 0
    }

    #[test]
    fn waits_too_short_for_a_turn_add_up_to_one() {
        let (_temp, root) = root();
        let mut port = port(&root, "x");
        let mut wait = || {
            let mut ports = [Watch::new(&mut port, Interest::RX)];
            let how = Wait::Adaptive { spin: TURN };
            let waited = WaitSet::new(&mut ports, &mut []).wait(how, Some(TURN / 50)).unwrap();
            assert!(!waited.ready);
            TURN_BEGAN.get().expect("it has spun")
        };
        let first = wait();
        loop {
            let was_due = first.elapsed() >= TURN;
            let now = wait();
            if now != first {
                assert!(now.duration_since(first) >= TURN, "each wait begins anew");
                break;
            }
            assert!(!was_due, "nobody else may ever run");
        }
    }

    #[test]
    fn wait_whose_sender_dies_before_it_rings_ends_by_the_timer() {
        let (_temp, root) = root();
        let (mut receiver, mut sender) = (port(&root, "r"), port(&root, "t"));
        let spy = vale(&root, "r");
        let ring: &Kring = spy.at.port.file.kring(RingNumber::FIRST);
        let proved = (0..TRIES).any(|_| {
            let takes = || ring.take_sleepers().is_some();
            let slept = ended_by_the_timer(&mut receiver, Interest::RX, takes, || {
                assert!(sender.tx(0).push(&[0xff; 60]));
                sender.txsync().unwrap();
            });
            let mut got = receiver.rx(0);
            assert_eq!(got.available(), 1);
            got.advance(1);
            slept
        });
        assert!(proved, "the packet was always there before the sleep");
    }

    #[test]
    fn wait_for_space_whose_receiver_dies_before_it_rings_ends_by_the_timer() {
        let (_temp, root) = root();
        let (mut receiver, mut sender) = (port(&root, "r"), port(&root, "t"));
        let spy = vale(&root, "r");
        let lossless = Settings { persistent: false, backpressure: true, ageing_ms: 0 };
        spy.at.switch.set(&root.lock().unwrap(), lossless);
        let ring: &Kring = spy.at.port.file.kring(RingNumber::FIRST);
        let proved = (0..TRIES).any(|_| {
            fill(&mut sender);
            let takes = || ring.take_waiters().is_some();
            ended_by_the_timer(&mut sender, Interest::SPACE, takes, || {
                receiver.rxsync().unwrap();
                let mut got = receiver.rx(0);
                got.advance(got.available());
                receiver.rxsync().unwrap();
            })
        });
        assert!(proved, "the space was always there before the sleep");
    }

    #[test]
    fn adapters_are_asked_for_packets_and_room_only() {
        for what in [Interest::empty(), Interest::RX, Interest::SPACE, Interest::all()] {
            let asked = what.for_adapter();
            assert!(Interest::RX.union(Interest::TX).contains(asked), "{what:?}: {asked:?}");
            assert_eq!(asked.contains(Interest::RX), what.contains(Interest::RX));
            assert_eq!(asked.contains(Interest::TX), what.wants_room());
        }
    }
}
