//! Programs that jump out of calls: a signal handler that does not return, but goes on elsewhere by siglongjmp(3), as
//! timeouts were made once.
//!
//! A system call is interrupted where it sleeps, and nowhere else. What stands here for one can be interrupted anywhere, and so left
//! with a ring half synced, or the allocator's lock held.
//!
//! Invariant: once a program has jumped out of a call of the library, its signals are held back while the library is at work, and
//! come through where it sleeps. Other programs do not pay for that: two system calls for each call.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::sigset_t;

use crate::stack;

/// The program jumps.
static JUMPS: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The program's mask, while signals are held back in a call of this thread's.
    static PROGRAM: Cell<Option<sigset_t>> = const { Cell::new(None) };
}

/// A jump is about to be made. Async-signal-safe.
pub fn note() {
    // Out of a call, as it seems, or within a handler that interrupted one.
    if stack::entry() != 0 {
        JUMPS.store(true, Ordering::Relaxed);
    }
}

/// The mask that the program has, where that is another one for now.
pub fn program_mask() -> Option<sigset_t> {
    if JUMPS.load(Ordering::Relaxed) { PROGRAM.get() } else { None }
}

/// Signals held back while it lives, but for faults.
pub struct Held {
    before: sigset_t,
}

impl Held {
    /// Begins.
    pub fn begin() -> Self {
        use nix::sys::signal::{SigSet, Signal};
        let mut all = SigSet::all();
        // A fault must be delivered at once, or it kills.
        for fault in [
            Signal::SIGBUS,
            Signal::SIGSEGV,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            all.remove(fault);
        }
        Self { before: change_mask(libc::SIG_BLOCK, all.as_ref()) }
    }

    /// The mask that was before.
    pub fn before(&self) -> &sigset_t {
        &self.before
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, &self.before);
    }
}

/// Changes the thread's mask, and returns what it was.
fn change_mask(how: libc::c_int, mask: &sigset_t) -> sigset_t {
    let mut before = std::mem::MaybeUninit::<sigset_t>::uninit();
    // SAFETY: a mask, and room for another.
    unsafe { libc::pthread_sigmask(how, mask, before.as_mut_ptr()) };
    // SAFETY: it fails for a wrong `how` only, and has written it.
    unsafe { before.assume_init() }
}

/// A call of the library's, in which signals are held back if the program jumps.
pub struct Work {
    held: Option<(Held, Option<sigset_t>)>,
}

impl Work {
    /// Begins.
    #[inline]
    pub fn begin() -> Self {
        let jumps = JUMPS.load(Ordering::Relaxed);
        Self { held: jumps.then(Self::hold) }
    }

    #[cold]
    fn hold() -> (Held, Option<sigset_t>) {
        let held = Held::begin();
        // A handler that interrupted a sleep may call, too.
        let outer = PROGRAM.replace(Some(*held.before()));
        (held, outer)
    }
}

impl Drop for Work {
    #[inline]
    fn drop(&mut self) {
        if let Some((_held, outer)) = &self.held {
            PROGRAM.set(*outer);
        }
    }
}

/// A sleep without a mask of its own, or a moment, in which held signals come through.
pub struct Open(Option<sigset_t>);

impl Open {
    /// Begins.
    pub fn begin() -> Self {
        Self(program_mask().map(|mask| change_mask(libc::SIG_SETMASK, &mask)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(held) = &self.0 {
            change_mask(libc::SIG_SETMASK, held);
        }
    }
}
