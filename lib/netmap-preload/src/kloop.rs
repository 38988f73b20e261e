//! CSB mode: head, cur, hwcur and hwtail of each ring in tables of the program's, and the loop that syncs by them.
//!
//! ```text
//!   program: cur, release, head -> atok[i]        ktoa[i] -> hwtail, acquire, hwcur
//!                                   |                ^
//!   loop:                           +-- ring, sync --+     TX rings first, then RX rings, as bound
//! ```
//!
//! Invariant: the tables are the program's memory and are copied by the kernel (`user`), so a table that goes away ends
//! the loop with `EFAULT`. The lock of the descriptor is held for a round, not between two.

use std::sync::atomic::{Ordering, fence};

use netmap::{Indices, Ring};
use nix::errno::Errno;

use crate::abi::{CsbAtok, CsbKtoa, KloopStart, OptionCsb, OptionKloopMode, option, reqtype};
use crate::csb::{Csb, State};
use crate::handle::Netmap;
use crate::request::Request;
use crate::table::Ref;
use crate::user;

/// Rounds without work before the loop lets others run.
const IDLE_ROUNDS: u32 = 64;
/// Bytes of an entry of either table.
const ENTRY: u64 = 64;

/// Options of these requests.
pub fn options(kind: u16) -> &'static [u32] {
    match kind {
        reqtype::CSB_ENABLE => &[option::CSB],
        reqtype::SYNC_KLOOP_START => &[option::SYNC_KLOOP_MODE],
        _ => &[],
    }
}

/// CSB_ENABLE: from now on the tables say what the rings' own indices said.
///
/// # Errors
/// `ENXIO`: not bound; `EINVAL`: no tables; `EBUSY`: it is enabled; `EFAULT`.
pub fn enable(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    at.netmap(|netmap| netmap.port(fd).map(|_| ())).unwrap_or(Err(Errno::EBUSY))?;
    let tables = |csb: OptionCsb| {
        at.netmap(|netmap| {
            netmap.port(fd)?;
            if netmap.csb.is_some() {
                return Err(Errno::EBUSY);
            }
            if csb.atok == 0 || csb.ktoa == 0 {
                return Err(Errno::EINVAL);
            }
            let csb = Csb { atok: csb.atok, ktoa: csb.ktoa, state: State::Idle };
            begin(netmap, fd, &csb)?;
            netmap.csb = Some(csb);
            Ok(())
        })
        .unwrap_or(Err(Errno::EBUSY))
    };
    request.option(option::CSB, tables)?.ok_or(Errno::EINVAL)
}

/// Writes both tables as the rings are.
fn begin(netmap: &mut Netmap, fd: i32, csb: &Csb) -> Result<(), Errno> {
    let port = netmap.port(fd)?;
    let (tx, rx) = (port.tx_rings(), port.rx_rings());
    if tx + rx == 0 {
        return Err(Errno::EINVAL);
    }
    for (i, ring) in rings(tx, rx) {
        let Indices { head, cur, tail } = port.indices(ring);
        let atok = CsbAtok { head, cur, appl_need_kick: 1, sync_flags: 1, ..CsbAtok::default() };
        user::write(csb.atok + i * ENTRY, atok)?;
        let ktoa = CsbKtoa { hwcur: head, hwtail: tail, kern_need_kick: 1, ..CsbKtoa::default() };
        user::write(csb.ktoa + i * ENTRY, ktoa)?;
    }
    Ok(())
}

/// The rings in the order of the tables, with their places.
fn rings(tx: usize, rx: usize) -> impl Iterator<Item = (u64, Ring)> {
    (0..).zip((0..tx).map(Ring::Tx).chain((0..rx).map(Ring::Rx)))
}

/// SYNC_KLOOP_START: syncs by the tables until SYNC_KLOOP_STOP.
///
/// # Errors
/// `ENXIO`: not bound; `EINVAL`: not in CSB mode; `EBUSY`: a loop runs; `EINTR`; `EFAULT`.
pub fn start(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    let asked: KloopStart = request.body()?;
    // Syncing in the caller's thread is what this loop does anyway.
    request.option(option::SYNC_KLOOP_MODE, |_: OptionKloopMode| Ok(()))?;
    let enter = |netmap: &mut Netmap| {
        netmap.port(fd)?;
        let csb = netmap.csb.as_mut().ok_or(Errno::EINVAL)?;
        if csb.state == State::Running {
            return Err(Errno::EBUSY);
        }
        if csb.state == State::Stopping {
            csb.state = State::Idle; // it was stopped before it began
            return Ok(false);
        }
        csb.state = State::Running;
        Ok(true)
    };
    if !at.netmap(enter).unwrap_or(Err(Errno::EBUSY))? {
        return Ok(());
    }
    let ended = run(fd, at, asked.sleep_us);
    at.netmap(|netmap| {
        if let Some(csb) = &mut netmap.csb {
            csb.state = State::Idle;
        }
    });
    ended
}

fn run(fd: i32, at: &Ref, sleep_us: u32) -> Result<(), Errno> {
    let mut idle = 0;
    loop {
        let round = at.netmap(|netmap| round(netmap, fd)).unwrap_or(Ok(Some(false)))?;
        let Some(worked) = round else { return Ok(()) };
        if !at.is_at(fd) {
            return Ok(()); // closed: netmap's loop ends as well
        }
        idle = if worked { 0 } else { idle + 1 };
        if sleep_us > 0 {
            let pause = libc::timespec {
                tv_sec: (sleep_us / 1_000_000).into(),
                tv_nsec: (sleep_us % 1_000_000 * 1000).into(),
            };
            // SAFETY: a time that lives for the call.
            Errno::result(unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) })?;
        } else if idle >= IDLE_ROUNDS {
            std::thread::yield_now();
        }
    }
}

/// One round over all rings: whether there was work; `None`: the loop is to stop.
fn round(netmap: &mut Netmap, fd: i32) -> Result<Option<bool>, Errno> {
    let (atok, ktoa) = match &netmap.csb {
        Some(csb) if csb.state == State::Running => (csb.atok, csb.ktoa),
        _ => return Ok(None),
    };
    let port = netmap.port(fd)?;
    let (tx, rx) = (port.tx_rings(), port.rx_rings());
    let mut worked = false;
    for (i, ring) in rings(tx, rx) {
        // Pairs with the program's release between cur and head.
        let head: u32 = user::read(atok + i * ENTRY)?;
        fence(Ordering::Acquire);
        let cur: u32 = user::read(atok + i * ENTRY + 4)?;
        let before = port.indices(ring);
        let after = port.sync_ring(ring, head, cur).map_err(|e| e.errno())?;
        // The program reads them the other way round.
        user::write(ktoa + i * ENTRY, after.head)?;
        fence(Ordering::Release);
        user::write(ktoa + i * ENTRY + 4, after.tail)?;
        worked |= (before.head, before.tail) != (head, after.tail);
    }
    Ok(Some(worked))
}

/// SYNC_KLOOP_STOP: the loop of another thread ends. Without one, the next does so at once.
///
/// # Errors
/// `ENXIO`: not bound.
pub fn stop(at: &Ref) -> Result<(), Errno> {
    at.netmap(|netmap| {
        if !netmap.is_bound() {
            return Err(Errno::ENXIO);
        }
        if let Some(csb) = &mut netmap.csb {
            csb.state = State::Stopping;
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
}
