//! open, close, dup and their kin.
//!
//! Invariant: close(2) and what else may be called in a signal handler takes no lock and allocates nothing. The
//! library's own descriptors are not open as far as the program can tell.

use std::ffi::CStr;

use libc::{c_char, c_int, c_uint, c_void, mode_t};
use nix::errno::Errno;

use super::call;
use crate::handle::{Netmap, stand_in};
use crate::next;
use crate::process::{self, Inside};
use crate::table::{self, Kind};

const DEVICE: &CStr = c"/dev/netmap";

/// What comes after the next open(2): where that is `DEVICE`, there is none, or the kernel's.
fn opened(path: *const c_char, flags: c_int, fd: c_int) -> c_int {
    if fd < 0 && Errno::last_raw() == libc::EFAULT {
        return fd;
    }
    // SAFETY: the kernel has read a string there.
    if unsafe { CStr::from_ptr(path) } != DEVICE {
        return fd;
    }
    if fd >= 0 {
        // SAFETY: nobody else has it.
        unsafe { next::close(fd) };
    }
    call(|| {
        table::sweep();
        let fd = stand_in(flags)?;
        if table::add(fd, Netmap::new()) {
            return Ok(fd);
        }
        // SAFETY: it is ours.
        unsafe { next::close(fd) };
        Err(Errno::ENOMEM)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::open(path, flags, mode) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::open64(path, flags, mode) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::openat(dir, path, flags, mode) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::openat64(dir, path, flags, mode) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::__open_2(path, flags) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the program's call.
    opened(path, flags, unsafe { next::__open64_2(path, flags) })
}

/// Whether a descriptor is not open, as far as the caller can tell.
#[inline]
fn is_hidden(fd: c_int) -> bool {
    table::kind(fd) == Kind::Private && !Inside::is()
}

fn not_open() -> c_int {
    Errno::EBADF.set();
    -1
}

/// A descriptor is about to be closed, in whatever way. In a child of vfork(2) it is the child's, and the table is
/// its parent's.
#[inline]
fn forget(fd: c_int) {
    if table::kind(fd) != Kind::Ordinary && !process::is_borrowed() {
        table::forget(fd);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    if is_hidden(fd) {
        return not_open();
    }
    forget(fd);
    // SAFETY: the program's call.
    unsafe { next::close(fd) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: the program's call.
    let range = |first, last| unsafe { next::close_range(first, last, flags) };
    // What is ours is closed on execve(2) anyway.
    if first > last || flags & libc::CLOSE_RANGE_CLOEXEC as c_int != 0 {
        return range(first, last);
    }
    let within = |fd: &c_int| (first..=last).contains(&(*fd as c_uint));
    table::known().filter(within).for_each(forget);
    let mut from = first;
    for hidden in table::private().filter(within) {
        let hidden = hidden as c_uint;
        if from < hidden && range(from, hidden - 1) != 0 {
            return -1;
        }
        from = hidden + 1;
    }
    if from <= last { range(from, last) } else { 0 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn closefrom(first: c_int) {
    // SAFETY: as the program's call.
    unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) };
}

/// After the copying of a descriptor: the copy is what the other is.
fn copied(fd: c_int, copy: c_int) -> c_int {
    if copy < 0 || process::is_borrowed() {
        return copy;
    }
    let of = table::find(fd);
    if fd == copy {
        return copy;
    }
    table::forget(copy);
    match of {
        Some(of) if !table::add_copy(copy, &of) => {
            // A number beyond all that is known of: rather none than one that netmap is not behind.
            // SAFETY: it was made just now.
            unsafe { next::close(copy) };
            Errno::EMFILE.set();
            -1
        }
        _ => copy,
    }
}

#[inline]
fn concerns(fd: c_int) -> bool {
    table::kind(fd) != Kind::Ordinary
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup(fd: c_int) -> c_int {
    if is_hidden(fd) {
        return not_open();
    }
    // SAFETY: the program's call.
    let copy = unsafe { next::dup(fd) };
    if concerns(fd) { copied(fd, copy) } else { copy }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup2(fd: c_int, to: c_int) -> c_int {
    if is_hidden(fd) || is_hidden(to) {
        return not_open();
    }
    // SAFETY: the program's call.
    let copy = unsafe { next::dup2(fd, to) };
    if concerns(fd) || concerns(to) { copied(fd, copy) } else { copy }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if is_hidden(fd) || is_hidden(to) {
        return not_open();
    }
    // SAFETY: the program's call.
    let copy = unsafe { next::dup3(fd, to, flags) };
    if concerns(fd) || concerns(to) { copied(fd, copy) } else { copy }
}

/// After fcntl(2) on a descriptor that is not ordinary.
fn controlled(fd: c_int, command: c_int, answer: c_int) -> c_int {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copied(fd, answer),
        // What stands in for it is open for writing only.
        libc::F_GETFL if answer >= 0 && table::kind(fd) == Kind::Netmap => {
            answer & !libc::O_ACCMODE | libc::O_RDWR
        }
        _ => answer,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl(fd: c_int, command: c_int, arg: *mut c_void) -> c_int {
    if is_hidden(fd) {
        return not_open();
    }
    // SAFETY: the program's call.
    let answer = unsafe { next::fcntl(fd, command, arg) };
    if concerns(fd) { controlled(fd, command, answer) } else { answer }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, arg: *mut c_void) -> c_int {
    if is_hidden(fd) {
        return not_open();
    }
    // SAFETY: the program's call.
    let answer = unsafe { next::fcntl64(fd, command, arg) };
    if concerns(fd) { controlled(fd, command, answer) } else { answer }
}
