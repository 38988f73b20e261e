//! SIGBUS: the library's guard of mapped regions, and the program's own handler behind it.
//!
//! ```text
//!  SIGBUS -> on_sigbus -> in a guarded mapping: zeros are put there, and the program goes on
//!                      -> else: what the program has set: its handler, nothing, the end
//! ```
//!
//! Invariant: the kernel has `on_sigbus`, with the program's mask and flags, as soon as the program has a handler or
//! there is something to guard. `PROGRAM` is what the program has set, in one word, so that it is changed and
//! read in signal handlers without a lock.

use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{SA_ONSTACK, SA_RESETHAND, SA_SIGINFO, SIG_DFL, SIG_IGN, c_int, c_void, siginfo_t};
use nix::errno::Errno;

use crate::{next, process};

/// Of the word: the handler, and above all addresses the flags that the kernel was not given as the program gave them.
const HANDLER: u64 = (1 << 48) - 1;
const ONCE: u64 = 1 << 48;
const FLAGS: [(u64, c_int); 3] =
    [(ONCE, SA_RESETHAND), (1 << 49, SA_SIGINFO), (1 << 50, SA_ONSTACK)];

static PROGRAM: AtomicU64 = AtomicU64::new(SIG_DFL as u64);
static GUARDED: AtomicBool = AtomicBool::new(false);

fn pack(action: &libc::sigaction) -> u64 {
    let bits = FLAGS.iter().filter(|(_, flag)| action.sa_flags & flag != 0);
    bits.fold(action.sa_sigaction as u64 & HANDLER, |word, (bit, _)| word | bit)
}

fn is_handler(word: u64) -> bool {
    let handler = (word & HANDLER) as usize;
    handler != SIG_DFL && handler != SIG_IGN
}

fn address() -> usize {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
    handler as *const () as usize
}

fn zeroed() -> libc::sigaction {
    // SAFETY: zeros are an action: the default one, with no flags and an empty mask.
    unsafe { std::mem::zeroed() }
}

/// What the kernel gets for what the program has set.
fn above(action: &libc::sigaction) -> libc::sigaction {
    let mut ours = *action;
    ours.sa_sigaction = address();
    // The handler goes after one signal of the program's, not after one of the guard's.
    ours.sa_flags = ours.sa_flags & !SA_RESETHAND | SA_SIGINFO;
    if !is_handler(pack(action)) {
        ours.sa_flags |= SA_ONSTACK;
    }
    ours
}

/// Sets the kernel's action, if there is a new one, and returns what that was before.
fn kernel(new: Option<&libc::sigaction>) -> Result<libc::sigaction, Errno> {
    let (new, mut old) = (new.map_or(null(), std::ptr::from_ref), zeroed());
    // SAFETY: nothing or an action, and room for one.
    Errno::result(unsafe { next::sigaction(libc::SIGBUS, new, &raw mut old) })?;
    Ok(old)
}

/// From now on there is something to guard.
pub fn guard() {
    GUARDED.store(true, Ordering::SeqCst);
    if let Ok(there) = kernel(None)
        && there.sa_sigaction != address()
    {
        // Set before the program's start, or past this library.
        PROGRAM.store(pack(&there), Ordering::SeqCst);
        let _ = kernel(Some(&above(&there))); // it fails for wrong arguments only
    }
}

/// sigaction(2) of SIGBUS, as the program calls it. Returns what it had set before.
///
/// # Errors
/// As sigaction(2).
pub fn set(new: Option<&libc::sigaction>) -> Result<libc::sigaction, Errno> {
    let before = PROGRAM.load(Ordering::SeqCst);
    let mut old = match new {
        // The handlers of a child of vfork(2) are its own, and its memory is its parent's.
        Some(new) if !process::is_borrowed() => {
            PROGRAM.store(pack(new), Ordering::SeqCst);
            let is_ours = GUARDED.load(Ordering::SeqCst) || is_handler(pack(new));
            kernel(Some(&if is_ours { above(new) } else { *new }))?
        }
        other => kernel(other)?,
    };
    if old.sa_sigaction == address() {
        old.sa_sigaction = (before & HANDLER) as usize;
        for (bit, flag) in FLAGS {
            old.sa_flags = old.sa_flags & !flag | if before & bit == 0 { 0 } else { flag };
        }
    }
    Ok(old)
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    // SAFETY: the kernel's, to a handler with SA_SIGINFO.
    let sent = unsafe { &*info }.si_code <= 0;
    // SAFETY: the same, of a SIGBUS.
    let absorbed = unsafe { netmap::absorb_sigbus(info) };
    Errno::set_raw(errno);
    if absorbed {
        return;
    }
    let word = PROGRAM.load(Ordering::SeqCst);
    if is_handler(word) {
        if word & ONCE != 0 {
            PROGRAM.store(SIG_DFL as u64, Ordering::SeqCst);
        }
        type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
        // SAFETY: the program's handler; one without SA_SIGINFO takes the first argument and leaves the others (C ABI of x86-64).
        let handler: Handler = unsafe { std::mem::transmute((word & HANDLER) as usize) };
        handler(signal, info, context);
    } else if !sent || (word & HANDLER) as usize != SIG_IGN {
        // The access fails again and ends the process; what was sent must be sent again. Ignoring an access that
        // fails is not possible.
        let _ = kernel(Some(&zeroed()));
        if sent {
            // SAFETY: async-signal-safe; it comes when the handler returns.
            unsafe { libc::raise(signal) };
        }
    }
}
