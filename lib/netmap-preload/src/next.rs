//! The functions that this library stands in front of, as the program would have called them without it.
//!
//! Some end the thread if it was cancelled, which unwinds its stack through the functions here and those of `interpose`. These have
//! nothing on it that is to be dropped, and the compiler is told that nothing unwinds, so that it puts nothing there to
//! stop it: that would end the process.
//!
//! Invariant: each is looked up once, without allocation, by whoever needs it first: calls come before the
//! library's own start, in signal handlers and during exit.

use std::ffi::CStr;
use std::mem::transmute_copy;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{
    c_char, c_int, c_uint, c_ulong, c_void, epoll_event, fd_set, mode_t, nfds_t, off_t, pollfd,
    pthread_t, sighandler_t, sigset_t, size_t, timespec, timeval,
};

/// A function found by its name.
#[derive(Debug)]
pub struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(std::ptr::null_mut()) }
    }

    #[inline]
    fn address(&self) -> *mut c_void {
        // Relaxed: code is there before anybody runs.
        let found = self.found.load(Ordering::Relaxed);
        if found.is_null() { self.find() } else { found }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

extern "C" fn missing() -> c_int {
    nix::errno::Errno::ENOSYS.set();
    -1
}

/// Declares the functions: a caller each, with the C prototype, which fails with `ENOSYS` where the C library
/// has none.
macro_rules! next {
    ($($name:ident ( $($arg:ident : $type:ty),* ) -> $result:ty;)*) => {
        #[allow(non_upper_case_globals, reason = "the functions' names")]
        mod found {
            use super::{CStr, Next};
            $(
                pub static $name: Next = Next::new(
                    // SAFETY: the text ends with its only zero byte.
                    unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
                );
            )*
        }

        /// Finds all of them, so that none is left for a signal handler.
        pub fn find_all() {
            $(found::$name.address();)*
        }

        $(
            /// The next function of that name.
            ///
            /// # Safety
            /// As the C library's.
            #[inline]
            pub unsafe fn $name($($arg: $type),*) -> $result {
                let found = found::$name.address();
                if found.is_null() {
                    let f: extern "C" fn() -> c_int = missing;
                    // SAFETY: a caller with more arguments does no harm in the C ABI of x86-64.
                    let f: unsafe extern "C" fn($($type),*) -> $result = unsafe { transmute_copy(&f) };
                    // SAFETY: as above.
                    return unsafe { f($($arg),*) };
                }
                // SAFETY: the C library's function of that name has this prototype.
                let f: unsafe extern "C" fn($($type),*) -> $result = unsafe { transmute_copy(&found) };
                // SAFETY: the caller keeps to what that function asks for.
                unsafe { f($($arg),*) }
            }
        )*
    };
}

next! {
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    __open_2(path: *const c_char, flags: c_int) -> c_int;
    __open64_2(path: *const c_char, flags: c_int) -> c_int;
    __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
    __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
    ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int;
    mmap(at: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, from: off_t) -> *mut c_void;
    mmap64(at: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, from: off_t) -> *mut c_void;
    mremap(at: *mut c_void, old: size_t, new: size_t, flags: c_int, to: *mut c_void) -> *mut c_void;
    munmap(at: *mut c_void, len: size_t) -> c_int;
    poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int;
    __poll_chk(fds: *mut pollfd, n: nfds_t, timeout: c_int, room: size_t) -> c_int;
    ppoll(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    __ppoll_chk(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: size_t) -> c_int;
    select(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *mut timeval) -> c_int;
    pselect(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_ctl(set: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    epoll_wait(set: c_int, events: *mut epoll_event, n: c_int, timeout: c_int) -> c_int;
    epoll_pwait(set: c_int, events: *mut epoll_event, n: c_int, timeout: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2(set: c_int, events: *mut epoll_event, n: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int;
    close(fd: c_int) -> c_int;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(fd: c_int, to: c_int) -> c_int;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int;
    fcntl(fd: c_int, command: c_int, arg: *mut c_void) -> c_int;
    fcntl64(fd: c_int, command: c_int, arg: *mut c_void) -> c_int;
    pthread_cancel(thread: pthread_t) -> c_int;
    sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int;
    longjmp(place: *mut c_void, value: c_int) -> c_int;
    _longjmp(place: *mut c_void, value: c_int) -> c_int;
    siglongjmp(place: *mut c_void, value: c_int) -> c_int;
    __longjmp_chk(place: *mut c_void, value: c_int) -> c_int;
    signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    ssignal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
}
