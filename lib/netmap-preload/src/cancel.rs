//! Threads that are cancelled (`pthread_cancel`) while they are in the library.
//!
//! ```text
//!   the program's call      a cancellation point, if the C library's is one
//!    +- hold                from here on nothing is cancelled: a thread's end unwinds its stack, and what is on it here is
//!    |    work              no program's to unwind (locks, handles half changed)
//!    |    sleep             in parts; whoever is cancelled meanwhile (`is_asked`) returns
//!    +- give                from here on as before
//!   a cancellation point
//! ```
//!
//! Invariant: whoever returns because `is_asked` says so has been cancelled, by a request that `note` was told of, and ends at
//! the next cancellation point.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use libc::{c_int, pthread_t};

use crate::lock::Lock;

const ENABLED: c_int = 0;
const DISABLED: c_int = 1;
const DEFERRED: c_int = 0;

// As of `next`: nothing on the way to the program may stop what they unwind.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
    fn pthread_setcanceltype(kind: c_int, before: *mut c_int) -> c_int;
    fn pthread_testcancel();
}

/// Requests that are remembered. More between two looks of a thread count as one for each thread.
const REQUESTS: u32 = 64;
static ASKED: [AtomicUsize; REQUESTS as usize] = [const { AtomicUsize::new(0) }; REQUESTS as usize];
static COUNT: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Whether the thread can be cancelled, and how many requests there were when it came in.
    static CALL: Cell<(bool, u32)> = const { Cell::new((false, 0)) };
}

/// What was before `hold`.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    state: c_int,
    kind: c_int,
    call: (bool, u32),
}

/// The calling thread ends here if it has been cancelled.
///
/// # Safety
/// No caller up to the program has anything on its stack that must be dropped.
#[inline]
pub unsafe fn point() {
    // SAFETY: the caller's promise.
    unsafe { pthread_testcancel() };
}

/// From now on the calling thread is not cancelled.
#[inline]
pub fn hold() -> Before {
    let since = COUNT.load(Ordering::Acquire);
    let (mut state, mut kind) = (ENABLED, DEFERRED);
    // The request to a thread that may be cancelled anywhere is a signal, and that may be on its way already: the C library
    // then looks at the kind alone.
    // SAFETY: room for the kind; deferring acts on nothing.
    unsafe { pthread_setcanceltype(DEFERRED, &raw mut kind) };
    // SAFETY: room for the state; disabling acts on nothing.
    unsafe { pthread_setcancelstate(DISABLED, &raw mut state) };
    Before { state, kind, call: CALL.replace((state == ENABLED, since)) }
}

/// As it was before; at once, in a thread that may be cancelled anywhere.
///
/// # Safety
/// As of `point`.
#[inline]
pub unsafe fn give(before: Before) {
    CALL.set(before.call);
    // SAFETY: no room is asked for; and the caller's promise.
    unsafe { pthread_setcancelstate(before.state, std::ptr::null_mut()) };
    if before.kind != DEFERRED {
        // SAFETY: the same.
        unsafe { pthread_setcanceltype(before.kind, std::ptr::null_mut()) };
    }
}

/// A thread has been asked to end.
pub fn note(thread: pthread_t) {
    static LOCK: Lock = Lock::new();
    LOCK.take();
    let at = COUNT.load(Ordering::Relaxed);
    ASKED[(at % REQUESTS) as usize].store(thread as usize, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Release);
    LOCK.give();
}

/// Whether the calling thread has been asked to end since `hold`, and may.
pub fn is_asked() -> bool {
    let (can, since) = CALL.get();
    let new = COUNT.load(Ordering::Acquire).wrapping_sub(since);
    if new == 0 || !can {
        return false;
    }
    // SAFETY: without conditions.
    let me = (unsafe { libc::pthread_self() }) as usize;
    let is_me = |i| {
        let at = since.wrapping_add(i) % REQUESTS;
        ASKED[at as usize].load(Ordering::Relaxed) == me
    };
    new > REQUESTS || (0..new).any(is_me)
}
