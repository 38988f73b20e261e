//! open, close, dup and their kin.
//!
//! Invariant: close(2) and what else may be called in a signal handler takes no lock and allocates nothing. The
//! library's own descriptors are not open as far as the program can tell.

use std::ffi::CStr;

use libc::{c_char, c_int, c_uint, c_void, mode_t};
use nix::errno::Errno;

use super::call;
use crate::handle::{Netmap, stand_in};
use crate::place::{self, is_hidden, is_hidden_from_caller};
use crate::table::{self, Kind};
use crate::{next, process};

const DEVICE: &CStr = c"/dev/netmap";

/// open(2), the next library's by `open`: of `DEVICE` there is none there, or the kernel's.
#[inline]
fn opened(path: *const c_char, flags: c_int, open: impl FnOnce() -> c_int) -> c_int {
    let errno = Errno::last_raw();
    let fd = open();
    // Of these the path may not have been looked at, and may be none.
    if fd < 0 && matches!(Errno::last(), Errno::EFAULT | Errno::EINVAL) {
        return fd;
    }
    // SAFETY: the kernel has read a string there.
    if unsafe { CStr::from_ptr(path) } != DEVICE {
        return new(fd);
    }
    if fd >= 0 {
        // SAFETY: nobody else has it.
        unsafe { next::close(fd) };
    }
    Errno::set_raw(errno);
    call(|| {
        table::sweep();
        let fd = stand_in(flags)?;
        if table::add(fd, Netmap::unbound(fd)) {
            return Ok(fd);
        }
        // SAFETY: it is ours.
        unsafe { next::close(fd) };
        Err(Errno::ENOMEM)
    })
}

/// A number that the kernel has given to something new: whatever is known of it, has gone in a way that was not seen.
#[inline]
fn new(fd: c_int) -> c_int {
    if fd >= 0 && table::kind(fd) != Kind::Ordinary && !process::is_borrowed() {
        place::let_go(fd);
        table::forget(fd);
    }
    fd
}

/// Declares functions like open(2).
macro_rules! opens {
    ($($name:ident ( $($dir:ident : $type:ty,)? ; $($mode:ident : $mode_type:ty)? ) = $next:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name($($dir: $type,)? path: *const c_char, flags: c_int $(, $mode: $mode_type)?) -> c_int {
                // SAFETY: the program's call.
                opened(path, flags, || unsafe { next::$next($($dir,)? path, flags $(, $mode)?) })
            }
        )*
    };
}

opens! {
    open(; mode: mode_t) = open;
    open64(; mode: mode_t) = open64;
    __open(; mode: mode_t) = open;
    __open64(; mode: mode_t) = open64;
    openat(dir: c_int, ; mode: mode_t) = openat;
    openat64(dir: c_int, ; mode: mode_t) = openat64;
    __open_2(;) = __open_2;
    __open64_2(;) = __open64_2;
    __openat_2(dir: c_int, ;) = __openat_2;
    __openat64_2(dir: c_int, ;) = __openat64_2;
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
unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    if is_hidden(fd) {
        return not_open();
    }
    forget(fd);
    // SAFETY: the program's call.
    unsafe { next::close(fd) }
}

/// close(2) by its other name.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __close(fd: c_int) -> c_int {
    // SAFETY: the program's call.
    unsafe { close(fd) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: the program's call.
    let range = |first, last| unsafe { next::close_range(first, last, flags) };
    // What is ours is closed on execve(2) anyway; and what is refused closes nothing.
    if first > last || flags & !(libc::CLOSE_RANGE_UNSHARE as c_int) != 0 {
        return range(first, last);
    }
    let within = |fd: &c_int| (first..=last).contains(&(*fd as c_uint));
    table::known().filter(within).for_each(forget);
    let mut from = first;
    for hidden in table::private().filter(within).filter(|&fd| is_hidden(fd)) {
        let hidden = hidden as c_uint;
        if from < hidden && range(from, hidden - 1) != 0 {
            return -1;
        }
        from = hidden + 1;
    }
    if from <= last { range(from, last) } else { 0 }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn closefrom(first: c_int) {
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
unsafe extern "C-unwind" fn dup(fd: c_int) -> c_int {
    if is_hidden_from_caller(fd) {
        return not_open();
    }
    // SAFETY: the program's call.
    let copy = unsafe { next::dup(fd) };
    if concerns(fd) || concerns(copy) { copied(fd, copy) } else { copy }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn dup2(fd: c_int, to: c_int) -> c_int {
    if is_hidden_from_caller(fd) || is_hidden(to) {
        return not_open();
    }
    // SAFETY: the program's call.
    let copy = unsafe { next::dup2(fd, to) };
    if concerns(fd) || concerns(to) { copied(fd, copy) } else { copy }
}

/// dup2(2) by its other name.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn __dup2(fd: c_int, to: c_int) -> c_int {
    // SAFETY: the program's call.
    unsafe { dup2(fd, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if is_hidden_from_caller(fd) || is_hidden(to) {
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

/// Declares functions like fcntl(2).
macro_rules! fcntls {
    ($($name:ident = $next:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name(fd: c_int, command: c_int, arg: *mut c_void) -> c_int {
                if is_hidden_from_caller(fd) {
                    return not_open();
                }
                // SAFETY: the program's call.
                let answer = unsafe { next::$next(fd, command, arg) };
                let copies = matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
                if concerns(fd) || copies && concerns(answer) {
                    controlled(fd, command, answer)
                } else {
                    answer
                }
            }
        )*
    };
}

fcntls! {
    fcntl = fcntl;
    fcntl64 = fcntl64;
    __fcntl = fcntl;
}
