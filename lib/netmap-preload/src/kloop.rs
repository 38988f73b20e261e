//! CSB mode: head, cur, hwcur and hwtail of each ring in tables of the program's, and the loop that syncs by them.
//!
//! ```text
//!   program: cur, release, head -> atok[i]        ktoa[i] -> hwtail, acquire, hwcur
//!                                   |                ^
//!   loop:                           +-- ring, sync --+     TX rings first, then RX rings, as bound
//! ```
//!
//! With an eventfd for each ring the loop sleeps when there is nothing to do: it says so in `kern_need_kick`, looks once more, and
//! is woken by the program or by the port's bell. It wakes the program where `appl_need_kick` asks for that. Without, it goes
//! round and round, with pauses as asked.
//!
//! Invariant: the tables are the program's memory and are copied by the kernel (`user`), so a table that goes away ends
//! the loop with `EFAULT`. The lock of the descriptor is held for a round, not between two.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use netmap::{Indices, Interest, Port, Ring, WaitSet};
use nix::errno::Errno;

use crate::abi::{
    CsbAtok, CsbKtoa, KickFds, KloopStart, OptionCsb, OptionHeader, OptionKloopMode, direct,
    option, reqtype,
};
use crate::csb::{Csb, State};
use crate::handle::Netmap;
use crate::jumps::Open;
use crate::kicks::Kicks;
use crate::lock::futex;
use crate::process::{self, Outside};
use crate::request::{Given, Request};
use crate::table::Ref;
use crate::user;

/// Rounds without work before the loop lets others run.
const IDLE_ROUNDS: u32 = 64;
/// Longest pause that may be asked for.
const LONGEST_PAUSE_US: u32 = 1_000_000;
/// Longest sleep, in milliseconds: a peer may have died before it rang.
const LONGEST_SLEEP: i32 = WaitSet::LONGEST_SLEEP.as_millis() as i32;
/// Bytes of an entry of either table.
const ENTRY: u64 = 64;
/// In an entry, where a side says that it wants to be woken.
const NEED_KICK: u64 = 8;

/// Loops of this process that have ended, modulo 2^32: what `stop` sleeps at. A loop and who stops it are threads of one
/// process, since a forked child's descriptor has none (`look_after_forks`).
static ENDED: AtomicU32 = AtomicU32::new(0);

/// Options of these requests.
pub fn options(kind: u16) -> &'static [u32] {
    match kind {
        reqtype::CSB_ENABLE => &[option::CSB],
        reqtype::SYNC_KLOOP_START => &[option::SYNC_KLOOP_MODE, option::SYNC_KLOOP_EVENTFDS],
        _ => &[],
    }
}

/// CSB_ENABLE: from now on the tables say what the rings' own indices said.
///
/// # Errors
/// `ENXIO`: not bound; `EBUSY`: it is enabled; and as `begin`.
pub fn enable(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    at.netmap(|netmap| netmap.port(fd).map(|_| ())).unwrap_or(Err(Errno::EBUSY))?;
    let tables = |csb: OptionCsb| {
        at.netmap(|netmap| {
            let port = netmap.port(fd)?;
            let csb = begin(port, &csb)?;
            if netmap.csb.is_some() {
                return Err(Errno::EBUSY);
            }
            netmap.csb = Some(csb);
            Ok(())
        })
        .unwrap_or(Err(Errno::EBUSY))
    };
    request.option(option::CSB, tables)?.ok_or(Errno::EINVAL)
}

/// Writes both tables as the rings are.
///
/// # Errors
/// `EINVAL`: no tables, or no rings; `EFAULT`.
pub fn begin(port: &mut Port, asked: &OptionCsb) -> Result<Csb, Errno> {
    let (atok, ktoa) = (asked.atok, asked.ktoa);
    let (tx, rx) = (port.tx_rings(), port.rx_rings());
    if atok == 0 || ktoa == 0 || tx + rx == 0 {
        return Err(Errno::EINVAL);
    }
    for (i, ring) in rings(tx, rx) {
        let Indices { head, cur, tail } = port.indices(ring);
        let entry = CsbAtok { head, cur, appl_need_kick: 1, sync_flags: 1, ..CsbAtok::default() };
        user::write(at(atok, i, 0)?, entry)?;
        let entry = CsbKtoa { hwcur: head, hwtail: tail, kern_need_kick: 1, ..CsbKtoa::default() };
        user::write(at(ktoa, i, 0)?, entry)?;
    }
    Ok(Csb { atok, ktoa, state: State::Idle, thread: 0 })
}

/// Where a field of an entry is.
fn at(table: u64, entry: u64, field: u64) -> Result<u64, Errno> {
    table.checked_add(entry * ENTRY + field).ok_or(Errno::EFAULT)
}

/// The rings in the order of the tables, with their places.
fn rings(tx: usize, rx: usize) -> impl Iterator<Item = (u64, Ring)> {
    (0..).zip((0..tx).map(Ring::Tx).chain((0..rx).map(Ring::Rx)))
}

/// SYNC_KLOOP_START: syncs by the tables until SYNC_KLOOP_STOP.
///
/// # Errors
/// `EINVAL`: a pause of more than a second, not in CSB mode, or eventfds that are none or not as many as rings; `ENXIO`: not
/// bound; `EBUSY`: a loop runs; `EBADF`; `EFAULT`.
pub fn start(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    let asked: KloopStart = request.body()?;
    if asked.sleep_us > LONGEST_PAUSE_US {
        return Err(Errno::EINVAL);
    }
    let enter = |netmap: &mut Netmap| {
        let port = netmap.port(fd)?;
        let rings = port.tx_rings() + port.rx_rings();
        let csb = netmap.csb.as_mut().ok_or(Errno::EINVAL)?;
        if csb.thread != 0 {
            return Err(Errno::EBUSY);
        }
        csb.thread = process::thread();
        if csb.state == State::Idle {
            csb.state = State::Running; // else it was stopped before it began
        }
        Ok(rings)
    };
    let rings = at.netmap(enter).unwrap_or(Err(Errno::EBUSY))?;
    let ended = Kloop::new(request, rings).and_then(|mut kloop| kloop.run(fd, at, asked.sleep_us));
    at.netmap(|netmap| {
        if let Some(csb) = &mut netmap.csb {
            (csb.state, csb.thread) = (State::Idle, 0);
        }
    });
    // Pairs with `stop`'s load: who sees the new number sees that the loop is gone.
    ENDED.fetch_add(1, Ordering::Release);
    futex(&ENDED, libc::FUTEX_WAKE, i32::MAX as u32, None);
    ended
}

/// Sleeps until more loops have ended than so many, a signal was handled, or the longest sleep is over: that one whose
/// thread was ended in the middle is gone shows by its descriptor only.
fn await_end(ended: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: i64::from(LONGEST_SLEEP) * 1_000_000 };
    let (_outside, _open) = (Outside::begin(), Open::begin());
    futex(&ENDED, libc::FUTEX_WAIT, ended, Some(&time));
}

/// The options of a start.
fn options_of(request: &mut Request, rings: usize) -> Result<Kicks, Errno> {
    let eventfds = |given: &Given| {
        let head = size_of::<OptionHeader>() as u64;
        if given.header.size != head + (rings * size_of::<KickFds>()) as u64 {
            return Err(Errno::EINVAL);
        }
        let place = |i: usize| given.at + head + (i * size_of::<KickFds>()) as u64;
        let fds = (0..rings).map(|i| user::read(place(i))).collect::<Result<Vec<_>, _>>()?;
        Kicks::new(&fds)
    };
    let kicks = request.given(option::SYNC_KLOOP_EVENTFDS, eventfds)?;
    let sleeps = kicks.as_ref().is_none_or(Kicks::wake_for_all);
    // In the context of the loop's thread is where all is done, whoever kicks.
    let mode = |asked: OptionKloopMode| {
        let known = asked.mode & !(direct::TX | direct::RX) == 0;
        if known && (asked.mode == 0 || sleeps) { Ok(()) } else { Err(Errno::EINVAL) }
    };
    request.option(option::SYNC_KLOOP_MODE, mode)?;
    Ok(kicks.unwrap_or_default())
}

/// A loop.
struct Kloop {
    kicks: Kicks,
    /// Head and tail of each ring, as they were told last.
    told: Vec<(u32, u32)>,
}

impl Kloop {
    fn new(request: &mut Request, rings: usize) -> Result<Self, Errno> {
        // None is told that of the first round.
        Ok(Self { kicks: options_of(request, rings)?, told: vec![(u32::MAX, u32::MAX); rings] })
    }

    fn run(&mut self, fd: i32, at: &Ref, sleep_us: u32) -> Result<(), Errno> {
        let mut idle = 0;
        loop {
            let round = at.netmap(|netmap| self.round(netmap, fd)).unwrap_or(Ok(Some(false)))?;
            let Some(worked) = round else { return Ok(()) };
            drop(Open::begin());
            if !at.is_at(fd) {
                return Ok(()); // closed: netmap's loop ends as well
            }
            idle = if worked { 0 } else { idle + 1 };
            if self.kicks.wake_for_all() {
                if !worked {
                    self.sleep(fd, at)?;
                }
            } else if sleep_us > 0 {
                pause(sleep_us);
            } else if idle >= IDLE_ROUNDS {
                std::thread::yield_now();
            }
        }
    }

    /// Sleeps until there may be something to do.
    fn sleep(&mut self, fd: i32, at: &Ref) -> Result<(), Errno> {
        let arm = |netmap: &mut Netmap| {
            ask(netmap, fd, true)?;
            netmap.port(fd)?.arm(Interest::RX | Interest::TX).map_err(|e| e.errno())?;
            // What came before that was said.
            self.round(netmap, fd)
        };
        let looked = at.netmap(arm).unwrap_or(Ok(Some(true)));
        if looked == Ok(Some(false)) {
            let (_outside, _open) = (Outside::begin(), Open::begin());
            self.kicks.sleep(fd, LONGEST_SLEEP);
        }
        let disarm = |netmap: &mut Netmap| {
            netmap.port(fd)?.disarm();
            ask(netmap, fd, false)
        };
        at.netmap(disarm).unwrap_or(Ok(()))?;
        looked.map(drop)
    }

    /// One round over all rings: whether there was work; `None`: the loop is to stop.
    fn round(&mut self, netmap: &mut Netmap, fd: i32) -> Result<Option<bool>, Errno> {
        let (atok, ktoa) = match &netmap.csb {
            Some(csb) if csb.state == State::Running => (csb.atok, csb.ktoa),
            _ => return Ok(None),
        };
        let port = netmap.port(fd)?;
        let mut worked = false;
        for ((i, ring), told) in rings(port.tx_rings(), port.rx_rings()).zip(&mut self.told) {
            // Pairs with the program's release between cur and head.
            let head: u32 = user::read(at(atok, i, 0)?)?;
            fence(Ordering::Acquire);
            let cur: u32 = user::read(at(atok, i, 4)?)?;
            let after = port.sync_ring(ring, head, cur).map_err(|e| e.errno())?;
            // The program reads them the other way round.
            user::write(at(ktoa, i, 0)?, after.head)?;
            fence(Ordering::Release);
            user::write(at(ktoa, i, 4)?, after.tail)?;
            let before = std::mem::replace(told, (head, after.tail));
            worked |= before != *told;
            if before.1 != after.tail && before.1 != u32::MAX && self.kicks.can_ring(i) {
                // Pairs with the program's between asking for that and its last look.
                fence(Ordering::SeqCst);
                if user::read::<u32>(at(atok, i, NEED_KICK)?)? != 0 {
                    self.kicks.ring(i);
                }
            }
        }
        Ok(Some(worked))
    }
}

/// A while, or until a signal was handled.
fn pause(us: u32) {
    let time =
        libc::timespec { tv_sec: (us / 1_000_000).into(), tv_nsec: (us % 1_000_000 * 1000).into() };
    let (_outside, _open) = (Outside::begin(), Open::begin());
    // SAFETY: a time that lives for the call.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// Says whether the program is to wake the loop.
fn ask(netmap: &mut Netmap, fd: i32, wake: bool) -> Result<(), Errno> {
    let Some(Csb { ktoa, .. }) = netmap.csb else { return Ok(()) };
    let port = netmap.port(fd)?;
    for (i, _) in rings(port.tx_rings(), port.rx_rings()) {
        user::write(self::at(ktoa, i, NEED_KICK)?, u32::from(wake))?;
    }
    // Pairs with the program's between its head and its look at that.
    fence(Ordering::SeqCst);
    Ok(())
}

/// SYNC_KLOOP_STOP: the loop of another thread has ended when this returns. Without one, the next ends at once.
///
/// # Errors
/// `ENXIO`: not bound.
pub fn stop(at: &Ref) -> Result<(), Errno> {
    let tell = |netmap: &mut Netmap| {
        if !netmap.is_bound() {
            return Err(Errno::ENXIO);
        }
        let Some(csb) = &mut netmap.csb else { return Ok(false) };
        csb.state = State::Stopping;
        // A handler that has interrupted the loop cannot wait for it.
        Ok(csb.thread != 0 && csb.thread != process::thread())
    };
    let mut runs = at.netmap(tell).unwrap_or(Ok(false))?;
    while runs {
        // Read before the look: an end after it changes the word, and the sleep ends at once.
        let ended = ENDED.load(Ordering::Acquire);
        let still = |netmap: &mut Netmap| netmap.csb.is_some_and(|csb| csb.thread != 0);
        runs = at.netmap(still).unwrap_or(false);
        if runs {
            await_end(ended);
        }
    }
    Ok(())
}
