//! The C library's functions, as the program calls them.
//!
//! Invariant: a call that concerns no netmap descriptor is the next library's, after two loads. Of one that does, errno
//! changes only if it fails; nothing unwinds into the program, and nothing is printed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::c_int;
use nix::errno::Errno;

use crate::handle::{Look, Netmap, look_at};
use crate::jumps::Work;
use crate::process::Inside;
use crate::set::Set;
use crate::table;
use crate::{cancel, faults, next, panics, place, process, stack};

mod control;
mod files;
mod signals;
mod wait;

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

/// After the program's own end: what it has closed and nobody has cleared away yet.
extern "C" fn end() {
    let _ = catch_unwind(table::sweep);
}

/// Before the program's own start.
extern "C" fn start() {
    next::find_all();
    process::generation();
    let _inside = Inside::begin();
    let (place, let_go) = (place::keep, place::let_go);
    netmap::place_descriptors(netmap::Placing { place, let_go });
    netmap::handle_sigbus_by(faults::guard);
    panics::keep_quiet();
    look_around();
}

/// What came from before execve(2): handles, and sets that have such in them.
fn look_around() {
    let Ok(names) = std::fs::read_dir("/proc/self/fd") else { return };
    let fds = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut sets = Vec::new();
    for fd in fds {
        match look_at(fd) {
            Some(Look::Bell) => {
                table::add(fd, Netmap::inherited(fd));
            }
            Some(Look::Unbound | Look::Closed) => {} // known when it is used, by whoever means it
            None => sets.push(fd),
        }
    }
    if table::is_empty() {
        return;
    }
    // Sets of what is known; then sets of these.
    let mut before = usize::MAX;
    while before != sets.len() {
        before = sets.len();
        sets.retain(|&fd| {
            let set = Set::of_kernel(fd);
            set.members.is_empty() || !table::add(fd, set)
        });
    }
}

/// A call that is done here.
#[inline]
fn call(f: impl FnOnce() -> Result<c_int, Errno>) -> c_int {
    let (cancelled, entry) = (cancel::hold(), stack::enter());
    let value = contained(f);
    stack::leave(entry);
    // SAFETY: what is on the stack up to the program are numbers and references.
    unsafe { cancel::give(cancelled) };
    value
}

/// What is done with nobody cancelled: nothing unwinds out of it. (A function of its own, as a thread that may be cancelled anywhere
/// can be unwound anywhere in a function that catches nothing, and in no other.)
#[inline(never)]
fn contained(f: impl FnOnce() -> Result<c_int, Errno>) -> c_int {
    let errno = Errno::last_raw();
    let done = {
        // What is held back comes when the library is no more at work.
        let _work = Work::begin();
        let _inside = Inside::begin();
        // A panic would be a fault of ours; the call then fails like a broken device.
        catch_unwind(AssertUnwindSafe(f)).unwrap_or(Err(Errno::EIO))
    };
    match done {
        Ok(value) => {
            Errno::set_raw(errno);
            value
        }
        Err(failed) => {
            failed.set();
            -1
        }
    }
}

/// A call that waits, and so is a cancellation point: before, meanwhile, and not behind what it has found.
#[inline]
fn waiting(f: impl FnOnce() -> Result<c_int, Errno>) -> c_int {
    // SAFETY: as in `call`.
    unsafe { cancel::point() };
    let value = call(f);
    if value == -1 && Errno::last() == Errno::ECANCELED {
        // SAFETY: as above.
        unsafe { cancel::point() };
        // Others were cancelled, very many of them.
        Errno::EINTR.set();
    }
    value
}

/// pthread_cancel(3): whom it concerns may be asleep here.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn pthread_cancel(thread: libc::pthread_t) -> c_int {
    // SAFETY: the program's call.
    let told = unsafe { next::pthread_cancel(thread) };
    if told == 0 {
        cancel::note(thread);
    }
    told
}
