//! The I/O thread of one NIC: rounds while there is work, the policy of `--notify` while there is
//! none, and a sleep that ends with a kick, a bell or a deadline.
//!
//! ```text
//!   round --work--> gather, round      empty: spin, poll, then before_sleep --work--> round
//!                                                                        \--none--> ppoll
//! ```
//! The times of gathering and polling adapt (`Gather`, `Poll`), so that a peer that sleeps long or sends single
//! packets neither has to wait nor keeps a core busy.
//!
//! Invariants: the thread sleeps only after `before_sleep` said that nothing came meanwhile, so no
//! wake-up is lost; a sleep has an end even then, since a peer may have died between publishing and
//! ringing. An idle NIC costs ten wake-ups a second.

use std::hint::spin_loop;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use e1000_device::{Await, Count, E1000, GuestMemory, NetPort, Size};
use netmap::{Link, WaitSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::sched_yield;
use nix::sys::time::TimeSpec;

use crate::host::clock::monotonic_ns;
use crate::net::notify::{Notify, Then};

/// A port with a descriptor that becomes ready when the awaited event happens.
pub trait Polled: NetPort {
    /// What to poll; the same as long as the port lives.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Events to poll for, to wait for `what`.
    fn events(&mut self, what: Await) -> PollFlags;
    /// When it wants to be looked at again, if it holds back packets, or would. `postponed_ns`: when the guest will be
    /// interrupted for what it has got, if it was not yet.
    fn due_ns(&mut self, _postponed_ns: Option<u64>) -> Option<u64> {
        None
    }
    /// The cable, looked at now.
    fn link(&mut self) -> Link {
        Link::Up
    }
    /// What it is called.
    fn name(&self) -> String {
        String::new()
    }
}

/// What ends a sleep, beside the port.
#[derive(Clone, Copy, Debug)]
pub struct Wakers<'a> {
    /// The doorbell: an ioeventfd on TDT.
    pub kick: BorrowedFd<'a>,
    /// What `Board::wake_io` signals.
    pub wake: BorrowedFd<'a>,
    /// Set, and `wake` signalled, to end the thread.
    pub stop: &'a AtomicBool,
}

/// Serves `nic` until it is stopped.
///
/// # Errors
/// Polling failed.
pub fn run<M: GuestMemory, P: Polled>(
    nic: &E1000<M, P>,
    wakers: Wakers<'_>,
    notify: &Notify,
) -> io::Result<()> {
    let port = nic.with_port(|port| port.fd().try_clone_to_owned())?;
    let mut thread = IoThread { nic, wakers, port: Some(port), link: Link::Up, looked_ns: 0 };
    let (mut gather, mut poll) = (Gather::new(notify.gather_ns), Poll::new(notify.poll_ns));
    let mut empty_rounds = 0_u32;
    let (mut empty_since_ns, mut defers) = (0, true);
    while !wakers.stop.load(Ordering::Relaxed) {
        let now_ns = monotonic_ns();
        thread.follow_link(now_ns);
        let next = nic.round(now_ns);
        nic.timer(now_ns);
        if next.work > 0 || next.again {
            empty_rounds = 0;
            let_others_run(gather.pause_ns(next.size));
            continue;
        }
        gather.forget();
        if empty_rounds == 0 {
            (empty_since_ns, defers) = (now_ns, true);
        }
        // The guest's `host_txcycles_lim` may ask for more rounds than a number has.
        empty_rounds = empty_rounds.saturating_add(1);
        if empty_rounds <= notify.spin {
            spin_loop();
            continue;
        }
        let empty_ns = now_ns - empty_since_ns;
        if empty_ns < poll.window_ns || empty_rounds <= nic.txcycles_lim() {
            if empty_ns >= IDLE_NS && defers {
                nic.idle();
                defers = false;
            }
            let _ = sched_yield(); // cannot fail on Linux
            continue;
        }
        match notify.then {
            Then::Busy => {
                nic.idle();
                empty_rounds = 0;
            }
            Then::Sleep(ns) => {
                nic.idle();
                thread.sleep(Some(ns), PollFlags::empty())?;
            }
            Then::Block => {
                empty_rounds = 0;
                thread.block()?;
                poll.slept(monotonic_ns() - now_ns);
            }
        }
    }
    Ok(())
}

/// Nobody rings for a peer that has died between publishing and ringing.
const LONGEST_SLEEP_NS: u64 = WaitSet::LONGEST_SLEEP.as_nanos() as u64;

/// How often the port's link is looked at.
const LINK_NS: u64 = 20_000_000;

/// A thread without work for this long counts as idle although it still polls: nothing more may come, so
/// deferred interrupts are due.
const IDLE_NS: u64 = 3_000;

/// Learns how long to pause between rounds, so that packets gather. Each round takes cache lines (tail,
/// descriptors) from a guest on another core, which has to wait for them: a consumer that looked after
/// each packet lowered its producer's rate by a third, without notifications (docs/design/notification.md).
#[derive(Debug)]
struct Gather {
    max_ns: u64,
    last_ns: u64,
}

impl Gather {
    /// The first pause.
    const FIRST_NS: u64 = 500;

    fn new(max_ns: u64) -> Gather {
        Gather { max_ns, last_ns: 0 }
    }

    /// The pause after a round of that size, perhaps none. A single packet is no stream: its sender may
    /// wait for an answer.
    fn pause_ns(&mut self, size: Size) -> u64 {
        self.last_ns = match size {
            Size::One => 0,
            Size::Few => (2 * self.last_ns).max(Self::FIRST_NS).min(self.max_ns),
            Size::Enough => self.last_ns,
            Size::Many => self.last_ns / 2,
        };
        if size == Size::Many { 0 } else { self.last_ns }
    }

    /// There was nothing to do.
    fn forget(&mut self) {
        self.last_ns = 0;
    }
}

/// Learns how long polling pays, as KVM does for halted vCPUs: a sleep that polling would have avoided
/// doubles the time, a longer one sets it back.
#[derive(Debug)]
struct Poll {
    max_ns: u64,
    window_ns: u64,
}

impl Poll {
    fn new(max_ns: u64) -> Poll {
        Poll { max_ns, window_ns: IDLE_NS.min(max_ns) }
    }

    fn slept(&mut self, ns: u64) {
        let longer = if ns < self.max_ns { 2 * self.window_ns } else { IDLE_NS };
        self.window_ns = longer.min(self.max_ns);
    }
}

/// Does nothing for a while, but lets other threads run on this core.
fn let_others_run(ns: u64) {
    if ns == 0 {
        return;
    }
    let end_ns = monotonic_ns() + ns;
    while monotonic_ns() < end_ns {
        let _ = sched_yield();
    }
}

struct IoThread<'a, M, P> {
    nic: &'a E1000<M, P>,
    wakers: Wakers<'a>,
    /// None once it has failed.
    port: Option<OwnedFd>,
    /// What the guest was told last, and when the port was asked.
    link: Link,
    looked_ns: u64,
}

impl<M: GuestMemory, P: Polled> IoThread<'_, M, P> {
    /// Plugs the guest's cable in or out as the port's is, which is looked at now and then.
    fn follow_link(&mut self, now_ns: u64) {
        if now_ns - self.looked_ns >= LINK_NS && self.port.is_some() {
            self.looked_ns = now_ns;
            let link = self.nic.with_port(Polled::link);
            if link != self.link {
                self.plug(link);
            }
        }
    }

    #[cold]
    fn plug(&mut self, link: Link) {
        self.link = link;
        let name = self.nic.with_port(|port| port.name());
        match link {
            Link::Up => nm_cli::say!("{name}: the link is up"),
            Link::Down => nm_cli::say!("{name}: the link is down"),
            Link::Gone => {
                nm_cli::say!("{name}: the interface was deleted; the guest has no link any more");
            }
        }
        self.nic.link(link == Link::Up);
    }

    /// Asks for everything that can end a sleep, and sleeps unless it has happened already.
    fn block(&mut self) -> io::Result<()> {
        let slept = if self.nic.before_sleep() {
            let now_ns = monotonic_ns();
            let awaits = self.nic.awaits();
            let interrupt_ns = self.nic.timer(now_ns);
            let (events, due_ns) =
                self.nic.with_port(|port| (port.events(awaits), port.due_ns(interrupt_ns)));
            let ends = interrupt_ns.into_iter().chain(due_ns);
            let soonest_ns = ends.map(|at_ns| at_ns.saturating_sub(now_ns)).min();
            let timeout_ns = soonest_ns.map_or(LONGEST_SLEEP_NS, |ns| ns.min(LONGEST_SLEEP_NS));
            self.sleep(Some(timeout_ns), events)
        } else {
            Ok(())
        };
        self.nic.after_sleep();
        slept
    }

    fn sleep(&mut self, timeout_ns: Option<u64>, events: PollFlags) -> io::Result<()> {
        let counters = self.nic.counters();
        let timeout = timeout_ns
            .map(|ns| TimeSpec::new((ns / 1_000_000_000) as i64, (ns % 1_000_000_000) as i64));
        let Wakers { kick, wake, .. } = self.wakers;
        // Without a port that works, its place is taken by a descriptor that is polled anyway.
        let port = self.port.as_ref().map_or(wake, AsFd::as_fd);
        let events = if self.port.is_some() { events } else { PollFlags::POLLIN };
        let mut fds = [
            PollFd::new(kick, PollFlags::POLLIN),
            PollFd::new(wake, PollFlags::POLLIN),
            PollFd::new(port, events),
        ];
        counters.bump(Count::IoSleeps, 1);
        match ppoll(&mut fds, timeout, None) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => counters.bump(Count::IoWakeups, 1),
            Err(e) => return Err(e.into()),
        }
        let seen = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let (kicked, woken, on_port) = (seen(&fds[0]), seen(&fds[1]), seen(&fds[2]));
        if kicked.contains(PollFlags::POLLIN) {
            drain(kick);
            self.nic.kicked();
        }
        if woken.contains(PollFlags::POLLIN) {
            drain(wake);
        }
        let failed = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if self.port.is_some() && on_port.intersects(failed) {
            // The network is gone (a tap that was removed): the guest sees the cable unplugged. Not
            // polled any more, because it would be ready for ever.
            self.port = None;
            self.plug(Link::Gone);
        }
        Ok(())
    }
}

/// Empties an event counter. One that is empty already was emptied by nobody else: a spurious wake-up.
fn drain(fd: BorrowedFd<'_>) {
    let _ = nix::unistd::read(fd, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};
    use std::time::{Duration, Instant};

    use e1000_device::harness::{Counted, MockPort};
    use e1000_device::{Board, Clock, Config, GuestRam, InterruptLine};
    use e1000pv::bits::Tctl;
    use e1000pv::desc::{LegacyTx, TxCmd};
    use e1000pv::regs;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::host::event::{event, owned};

    const RING: u64 = 0x1000;
    const FRAME: u64 = 0x2000;

    #[derive(Debug)]
    struct Wake(EventFd);

    impl InterruptLine for Wake {
        fn set_intx(&self, _: bool) {}
    }

    impl Clock for Wake {
        fn now_ns(&self) -> u64 {
            monotonic_ns()
        }
    }

    impl Board for Wake {
        fn set_doorbell(&self, _: bool) {}
        fn wake_io(&self) {
            self.0.write(1).expect("a counter far from its end");
        }
    }

    /// Without a network nothing ever comes.
    impl Polled for MockPort {
        fn fd(&self) -> BorrowedFd<'_> {
            static NEVER: OnceLock<OwnedFd> = OnceLock::new();
            NEVER.get_or_init(|| owned(event().unwrap())).as_fd()
        }

        fn events(&mut self, _: Await) -> PollFlags {
            PollFlags::POLLIN
        }
    }

    /// Waits for something that another thread does soon.
    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
            std::thread::yield_now();
        }
    }

    /// Sends packets one by one through a thread with that policy, letting it fall asleep in between.
    fn serve(policy: &str) {
        let ram = GuestRam::anonymous(1 << 16).unwrap();
        let board = Arc::new(Wake(event().unwrap()));
        let (kick, wake) = (owned(event().unwrap()), owned(board.0.try_clone().unwrap()));
        let stop = AtomicBool::new(false);
        let notify: Notify = policy.parse().unwrap();
        let config = Config { moderation: false, wake: notify.wake(), ..Config::default() };
        let counters = Arc::new(Counted::default());
        let port = MockPort::new(64, true);
        let nic = E1000::new(config, ram.clone(), port, board.clone(), counters.clone());
        let write = |offset: u32, value: u32| {
            nic.mmio_write(offset.into(), &value.to_le_bytes());
        };
        let cmd = TxCmd::EOP | TxCmd::RS;
        let desc = LegacyTx { buffer_addr: FRAME, length: 60, cmd, ..LegacyTx::default() };
        for i in 0..8 {
            assert!(ram.write(RING + 16 * i, &desc.to_bytes()));
        }
        write(regs::TDBAL, RING as u32);
        write(regs::TDLEN, 128);
        write(regs::TCTL, Tctl::EN.bits());
        let wakers = Wakers { kick: kick.as_fd(), wake: wake.as_fd(), stop: &stop };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| run(&nic, wakers, &notify));
            if notify.then != Then::Busy {
                until("a sleep", || counters.value(Count::IoSleeps) > 0);
            }
            for sent in 1..=20u32 {
                write(regs::TDT, sent % 8);
                until("a packet", || nic.with_port(|port| port.sent()) == u64::from(sent));
            }
            stop.store(true, Ordering::Relaxed);
            board.wake_io();
            thread.join().unwrap().unwrap();
        });
    }

    #[test]
    fn gather_pauses_for_streams_only() {
        let mut gather = Gather::new(2_000);
        let pauses = [
            (Size::One, 0),
            (Size::Few, 500),
            (Size::Few, 1_000),
            (Size::Few, 2_000),
            (Size::Few, 2_000),
            (Size::Enough, 2_000),
            (Size::Many, 0),
            (Size::Enough, 1_000),
            (Size::One, 0),
            (Size::Enough, 0),
        ];
        for (i, (size, ns)) in pauses.into_iter().enumerate() {
            assert_eq!(gather.pause_ns(size), ns, "{i}");
        }
        assert_eq!(gather.pause_ns(Size::Few), 500);
        gather.forget();
        assert_eq!(gather.pause_ns(Size::Few), 500, "an idle consumer begins anew");
        let mut never = Gather::new(0);
        assert_eq!((never.pause_ns(Size::Few), never.pause_ns(Size::Few)), (0, 0));
    }

    #[test]
    fn poll_grows_with_short_sleeps_only() {
        let mut poll = Poll::new(10_000);
        assert_eq!(poll.window_ns, IDLE_NS);
        poll.slept(9_999);
        assert_eq!(poll.window_ns, 2 * IDLE_NS);
        poll.slept(1);
        assert_eq!(poll.window_ns, 10_000);
        poll.slept(10_000);
        assert_eq!(poll.window_ns, IDLE_NS);
        let mut never = Poll::new(0);
        never.slept(0);
        assert_eq!(never.window_ns, 0);
    }

    #[test]
    fn run_every_policy_sends_and_stops() {
        for policy in ["block", "gather=8us,poll=20us", "spin=100,busy", "sleep=20us", "wake=first"]
        {
            serve(policy);
        }
    }
}
