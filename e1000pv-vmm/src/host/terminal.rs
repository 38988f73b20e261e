//! The terminal of a user who types to the guest: raw while the machine runs in its foreground, and at every
//! other time as it was.
//!
//! Invariants: a terminal whose foreground is another job's is neither read nor changed. Its mode is put back before
//! this process ends or stops, whatever the reason, but for two that no process notices: SIGKILL, and a call that the
//! sandbox forbids. Crashes are noticed by handlers of their signals, whichever thread crashes.

use std::io::{self, Stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::sys::signal::{SigSet, Signal};

/// What a process that has gone wrong ends by. SIGBUS is here first, and what it means for shared memory is asked
/// first nevertheless: whoever opens a port later puts its handler in front of this one.
const CRASHES: [libc::c_int; 6] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGQUIT, libc::SIGSEGV];

/// The mode to put back if this process crashes; none while the terminal is as it was.
static MODE: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());

/// stdin, which is a terminal.
pub struct Terminal {
    stdin: Stdin,
    /// As it was, while it is raw.
    before: Option<libc::termios>,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("is_raw", &self.is_raw()).finish_non_exhaustive()
    }
}

impl Terminal {
    /// stdin's; raw at once if its foreground is ours. To be called before ports are opened.
    pub fn take() -> Terminal {
        let mut terminal = Terminal { stdin: io::stdin(), before: None };
        terminal.enter();
        terminal
    }

    /// Whether it is raw, and what is typed is for the guest.
    pub fn is_raw(&self) -> bool {
        self.before.is_some()
    }

    /// What to poll and read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    /// Makes it raw, at the start and after this process was stopped, unless another job has it now.
    pub fn enter(&mut self) {
        if !self.is_in_foreground() {
            self.forget();
            return;
        }
        if self.before.is_none() {
            self.before = mode(self.fd());
        }
        if let Some(before) = self.before {
            watch_for_crashes(before);
            set(self.fd(), &raw(before));
        }
    }

    /// Puts back what was, unless another job has it now, which has its own wishes.
    pub fn leave(&mut self) {
        if let Some(before) = self.before.filter(|_| self.is_in_foreground()) {
            set(self.fd(), &before);
        }
        self.forget();
    }

    /// Stops this process as SIGTSTP would that nobody handles, with the terminal as it was. Returns when it goes on.
    pub fn stop(&mut self) {
        self.leave();
        // SAFETY: all-zero bytes are a valid sigaction, the default one.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: a valid action, and room for another.
        unsafe { libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut ours) };
        // SAFETY: no condition. In the default action the kernel knows of groups that nobody could continue.
        unsafe { libc::raise(libc::SIGTSTP) };
        // SAFETY: the action that the first call returned.
        unsafe { libc::sigaction(libc::SIGTSTP, &raw const ours, ptr::null_mut()) };
    }

    fn forget(&mut self) {
        self.before = None;
        MODE.store(ptr::null_mut(), Ordering::Release);
    }

    fn is_in_foreground(&self) -> bool {
        // SAFETY: the descriptor is open; nothing else is given.
        let foreground = unsafe { libc::tcgetpgrp(self.stdin.as_raw_fd()) };
        // -1: it is not this session's terminal, so no jobs compete for it.
        foreground < 0 || foreground == nix::unistd::getpgrp().as_raw()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// All that is typed arrives as it is typed, at once and unseen; what is printed still gets its carriage returns.
fn raw(mut mode: libc::termios) -> libc::termios {
    mode.c_iflag &= !(libc::IGNBRK
        | libc::BRKINT
        | libc::PARMRK
        | libc::ISTRIP
        | libc::INLCR
        | libc::IGNCR
        | libc::ICRNL
        | libc::IXON);
    mode.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::IEXTEN | libc::ISIG);
    mode.c_cflag &= !(libc::CSIZE | libc::PARENB);
    mode.c_cflag |= libc::CS8;
    mode.c_cc[libc::VMIN] = 1;
    mode.c_cc[libc::VTIME] = 0;
    mode
}

fn mode(fd: BorrowedFd<'_>) -> Option<libc::termios> {
    let mut mode = std::mem::MaybeUninit::uninit();
    // SAFETY: the descriptor is open, and the structure large enough for what is written.
    let result = unsafe { libc::tcgetattr(fd.as_raw_fd(), mode.as_mut_ptr()) };
    // SAFETY: written whole if the call succeeded.
    (result == 0).then(|| unsafe { mode.assume_init() })
}

fn set(fd: BorrowedFd<'_>, mode: &libc::termios) {
    // If another job has got hold of the terminal just now, the kernel would stop this process.
    let stops: SigSet = [Signal::SIGTTOU].into_iter().collect();
    let blocked = stops.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    // It fails only if the terminal is gone, in which case there is nothing to restore.
    // SAFETY: the descriptor is open, and the structure is one that tcgetattr filled in.
    let _ = unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, mode) };
    if let Ok(before) = blocked {
        let _ = before.thread_set_mask(); // a mask that the kernel gave
    }
}

/// From now on a crash puts `mode` back.
fn watch_for_crashes(mode: libc::termios) {
    static INSTALL: Once = Once::new();
    // Kept for the life of the process: a crash may need it at any time. One for each time that a user comes back.
    MODE.store(Box::leak(Box::new(mode)), Ordering::Release);
    INSTALL.call_once(|| {
        for signal in CRASHES {
            // SAFETY: all-zero bytes are a valid sigaction.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_crash as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: a valid action, whose handler is async-signal-safe.
            unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        }
    });
}

/// Async-signal-safe: atomics and system calls.
extern "C" fn on_crash(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let mode = MODE.swap(ptr::null_mut(), Ordering::Acquire);
    if !mode.is_null() {
        // SAFETY: a mode that `watch_for_crashes` has leaked; nobody writes to it.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) };
    }
    // SAFETY: the default action for one of the signals above.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let sent = unsafe { (*info).si_code } <= 0;
    if sent {
        // What a fault has raised is raised again by going on; this comes when the handler has returned.
        // SAFETY: no condition.
        unsafe { libc::raise(signal) };
    }
}
