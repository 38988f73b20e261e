//! poll, select and epoll.

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};
use nix::errno::Errno;
use std::time::Instant;

use super::{call, waiting};
use crate::poll::{self, Bits};
use crate::table::{self, Kind};
use crate::wait::Timeout;
use crate::{epoll, next, stack, user};

/// The descriptors of a poll(2) that concerns us.
///
/// # Safety
/// As poll(2).
#[inline]
unsafe fn ours<'a>(fds: *mut pollfd, n: nfds_t) -> Option<&'a mut [pollfd]> {
    if table::is_empty() || n == 0 || fds.is_null() {
        return None;
    }
    // A pointer into nowhere is the kernel's to judge.
    let bytes = n.checked_mul(size_of::<pollfd>() as u64)?;
    let last = (fds as u64).checked_add(bytes - size_of::<pollfd>() as u64)?;
    if !stack::holds(fds as u64, bytes)
        && (user::read::<u64>(fds as u64).is_err() || user::read::<u64>(last).is_err())
    {
        return None;
    }
    // SAFETY: the program says that there are so many, and the first and the last are there.
    let fds = unsafe { std::slice::from_raw_parts_mut(fds, n as usize) };
    poll::concerns(fds).then_some(fds)
}

fn time(time: *const timespec) -> Result<Timeout, Errno> {
    if time.is_null() {
        return Ok(Timeout::Never);
    }
    // SAFETY: the program says that there is one.
    let time = unsafe { time.read() };
    Timeout::of_parts(time.tv_sec, time.tv_nsec)
}

fn mask<'a>(mask: *const sigset_t) -> Option<&'a sigset_t> {
    // SAFETY: the program says that there is one, for the time of the call.
    unsafe { mask.as_ref() }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the program's call.
    match unsafe { ours(fds, n) } {
        Some(fds) => waiting(|| poll::poll(fds, Timeout::of_ms(timeout), None).map(|n| n as c_int)),
        // SAFETY: the program's call.
        None => unsafe { next::poll(fds, n, timeout) },
    }
}

/// poll(2) by its other name.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the program's call.
    unsafe { poll(fds, n, timeout) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __poll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: c_int,
    room: size_t,
) -> c_int {
    if (room / size_of::<pollfd>()) < n as usize {
        // SAFETY: the program's call, which ends it.
        return unsafe { next::__poll_chk(fds, n, timeout, room) };
    }
    // SAFETY: the program's call.
    match unsafe { ours(fds, n) } {
        Some(fds) => waiting(|| poll::poll(fds, Timeout::of_ms(timeout), None).map(|n| n as c_int)),
        // SAFETY: the program's call.
        None => unsafe { next::__poll_chk(fds, n, timeout, room) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn ppoll(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    signals: *const sigset_t,
) -> c_int {
    // SAFETY: the program's call.
    match unsafe { ours(fds, n) } {
        Some(fds) => waiting(|| poll::poll(fds, time(timeout)?, mask(signals)).map(|n| n as c_int)),
        // SAFETY: the program's call.
        None => unsafe { next::ppoll(fds, n, timeout, signals) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __ppoll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    signals: *const sigset_t,
    room: size_t,
) -> c_int {
    if (room / size_of::<pollfd>()) < n as usize {
        // SAFETY: the program's call, which ends it.
        return unsafe { next::__ppoll_chk(fds, n, timeout, signals, room) };
    }
    // SAFETY: the program's call.
    match unsafe { ours(fds, n) } {
        Some(fds) => waiting(|| poll::poll(fds, time(timeout)?, mask(signals)).map(|n| n as c_int)),
        // SAFETY: the program's call.
        None => unsafe { next::__ppoll_chk(fds, n, timeout, signals, room) },
    }
}

/// The sets of a select(2) that concerns us.
///
/// # Safety
/// As select(2).
unsafe fn sets<'a>(n: c_int, sets: [*mut fd_set; 3]) -> Option<[Bits<'a>; 3]> {
    if table::is_empty() || n <= 0 {
        return None;
    }
    let words = (n as usize).div_ceil(64);
    // A pointer into nowhere is the kernel's to judge.
    let is_there = |set: &*mut fd_set| {
        let (at, len) = (*set as u64, words as u64 * 8);
        set.is_null() || stack::holds(at, len) || user::is_there(at, len)
    };
    if !sets.iter().all(is_there) {
        return None;
    }
    let bits = sets.map(|set| {
        // SAFETY: the program says that there are `n` bits, in whole words.
        Bits((!set.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(set.cast(), words) }))
    });
    poll::select_concerns(n as usize, &bits).then_some(bits)
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn select(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the program's call.
    let Some(mut bits) = (unsafe { sets(n, [r, w, e]) }) else {
        // SAFETY: the program's call.
        return unsafe { next::select(n, r, w, e, timeout) };
    };
    waiting(|| {
        let start = Instant::now();
        // SAFETY: the program says that there is one, or none.
        let asked = match unsafe { timeout.as_mut() } {
            None => Timeout::Never,
            Some(time) => {
                if time.tv_sec < 0 || time.tv_usec < 0 {
                    return Err(Errno::EINVAL);
                }
                // More than a second of microseconds is allowed.
                let (secs, usecs) = (time.tv_usec / 1_000_000, time.tv_usec % 1_000_000);
                Timeout::of_parts(time.tv_sec.saturating_add(secs), usecs * 1000)?
            }
        };
        let told = poll::select(n as usize, &mut bits, asked, None);
        // Linux tells what was left.
        // SAFETY: as above.
        if let (Timeout::After(time), Some(left)) = (asked, unsafe { timeout.as_mut() }) {
            let rest = time.saturating_sub(start.elapsed());
            (left.tv_sec, left.tv_usec) = (rest.as_secs() as i64, rest.subsec_micros().into());
        }
        told.map(|n| n as c_int)
    })
}

/// select(2) by its other name.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __select(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the program's call.
    unsafe { select(n, r, w, e, timeout) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn pselect(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    timeout: *const timespec,
    signals: *const sigset_t,
) -> c_int {
    // SAFETY: the program's call.
    match unsafe { sets(n, [r, w, e]) } {
        Some(mut bits) => waiting(|| {
            let told = poll::select(n as usize, &mut bits, time(timeout)?, mask(signals));
            told.map(|n| n as c_int)
        }),
        // SAFETY: the program's call.
        None => unsafe { next::pselect(n, r, w, e, timeout, signals) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn epoll_ctl(
    set: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if !matches!(table::kind(fd), Kind::Netmap | Kind::Set) {
        // SAFETY: the program's call.
        return unsafe { next::epoll_ctl(set, op, fd, event) };
    }
    call(|| {
        // The kernel reads none of one that goes.
        let event = match op {
            libc::EPOLL_CTL_DEL => None,
            _ => Some(user::read(event as u64)?),
        };
        epoll::ctl(set, op, fd, event).map(|()| 0)
    })
}

/// Whether a wait is for a set that has to do with netmap; it is the kernel's to refuse what no wait takes.
#[inline]
fn concerns(fd: c_int, n: c_int) -> bool {
    const MOST: c_int = c_int::MAX / size_of::<epoll_event>() as c_int;
    table::kind(fd) == Kind::Set && (1..=MOST).contains(&n)
}

fn epoll_wait_here(
    fd: c_int,
    events: *mut epoll_event,
    n: c_int,
    timeout: Result<Timeout, Errno>,
    signals: *const sigset_t,
) -> c_int {
    waiting(|| {
        let found = table::find(fd).filter(|found| found.kind() == Kind::Set);
        let set = found.ok_or(Errno::EBADF)?; // closed just now
        let (at, len) = (events as u64, size_of::<epoll_event>() as u64);
        if !stack::holds(at, len) && !user::is_there(at, len) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the program says that there is room for so many, and for the first there is.
        let events = unsafe { std::slice::from_raw_parts_mut(events, n as usize) };
        epoll::wait(fd, &set, events, timeout?, mask(signals)).map(|n| n as c_int)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn epoll_wait(
    fd: c_int,
    events: *mut epoll_event,
    n: c_int,
    timeout: c_int,
) -> c_int {
    if concerns(fd, n) {
        return epoll_wait_here(fd, events, n, Ok(Timeout::of_ms(timeout)), std::ptr::null());
    }
    // SAFETY: the program's call.
    unsafe { next::epoll_wait(fd, events, n, timeout) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn epoll_pwait(
    fd: c_int,
    events: *mut epoll_event,
    n: c_int,
    timeout: c_int,
    signals: *const sigset_t,
) -> c_int {
    if concerns(fd, n) {
        return epoll_wait_here(fd, events, n, Ok(Timeout::of_ms(timeout)), signals);
    }
    // SAFETY: the program's call.
    unsafe { next::epoll_pwait(fd, events, n, timeout, signals) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn epoll_pwait2(
    fd: c_int,
    events: *mut epoll_event,
    n: c_int,
    timeout: *const timespec,
    signals: *const sigset_t,
) -> c_int {
    if concerns(fd, n) {
        return epoll_wait_here(fd, events, n, time(timeout), signals);
    }
    // SAFETY: the program's call.
    unsafe { next::epoll_pwait2(fd, events, n, timeout, signals) }
}
