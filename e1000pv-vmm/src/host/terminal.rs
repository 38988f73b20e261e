//! The terminal of a user who types to the guest: raw while the machine runs in its foreground, and at every
//! other time as it was.
//!
//! Invariants: a terminal whose foreground is another job's is neither read nor changed. Its mode is put back before
//! this process ends or stops, whatever the reason, but for those that no process notices: SIGKILL, SIGSTOP, and a call
//! that the sandbox forbids. Signals that end it are noticed by handlers, whichever thread crashes, and a third request to
//! end, which waits for nobody, by what [`nm_cli::signal::before_the_last`] is told.

use std::io::{self, Stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// How often a terminal that is another job's is looked at again. A shell need not tell a job that becomes its foreground:
/// bash continues only one that was stopped.
const LOOK: Duration = Duration::from_millis(250);

/// What a process that has gone wrong ends by, and all else that ends one which does not heed it: limits (`ulimit -t`), timers,
/// what somebody sends by mistake. SIGBUS is here first, and what it means for shared memory is asked
/// first nevertheless: whoever opens a port later puts its handler in front of this one.
const ENDS: [libc::c_int; 16] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGALRM,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGUSR2,
    libc::SIGVTALRM,
    libc::SIGXCPU,
];

/// Those by which the processor refuses an instruction, which it refuses again when the handler has returned.
const FAULTS: [libc::c_int; 4] = [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV];

/// The mode to put back if this process ends by a signal; none while the terminal is as it was.
static MODE: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());

/// stdin, which is a terminal.
pub struct Terminal {
    stdin: Stdin,
    /// As it was, while it is raw.
    before: Option<libc::termios>,
    /// When to look whether its foreground is ours, if it is not.
    next_look: Instant,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("is_raw", &self.is_raw()).finish_non_exhaustive()
    }
}

impl Terminal {
    /// stdin's; raw at once if its foreground is ours. To be called before ports are opened.
    pub fn take() -> Terminal {
        let mut terminal = Terminal { stdin: io::stdin(), before: None, next_look: Instant::now() };
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
            watch_for_ends(before);
            set(self.fd(), &raw(before));
        }
    }

    /// When to [`Terminal::look`], if it is not raw.
    pub fn next_look(&self) -> Option<Instant> {
        (!self.is_raw()).then_some(self.next_look)
    }

    /// Makes it raw if it has become ours since the last look.
    pub fn look(&mut self, now: Instant) {
        if !self.is_raw() && now >= self.next_look {
            self.enter();
            self.next_look = now + LOOK;
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

/// From now on an end by a signal puts `mode` back.
fn watch_for_ends(mode: libc::termios) {
    static INSTALL: Once = Once::new();
    // Kept for the life of the process: an end may need it at any time. One for each time that a user comes back.
    MODE.store(Box::leak(Box::new(mode)), Ordering::Release);
    INSTALL.call_once(|| {
        // SAFETY: async-signal-safe, as it says.
        unsafe { nm_cli::signal::before_the_last(put_back) };
        for signal in ENDS {
            // SAFETY: all-zero bytes are a valid sigaction.
            let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: nothing is set, and there is room for what is.
            unsafe { libc::sigaction(signal, ptr::null(), &raw mut before) };
            if before.sa_sigaction == libc::SIG_IGN {
                continue; // it ends nothing, as whoever started this process has it
            }
            // SAFETY: all-zero bytes are a valid sigaction.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_end as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: a valid action, whose handler is async-signal-safe.
            unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        }
    });
}

/// Puts the mode back, if there is one. Async-signal-safe: an atomic and a system call.
fn put_back() {
    let mode = MODE.swap(ptr::null_mut(), Ordering::Acquire);
    if !mode.is_null() {
        // SAFETY: a mode that `watch_for_ends` has leaked; nobody writes to it.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) };
    }
}

/// Async-signal-safe: atomics and system calls.
extern "C" fn on_end(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    put_back();
    // SAFETY: the default action for one of the signals above.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let sent = unsafe { (*info).si_code } <= 0;
    if sent || !FAULTS.contains(&signal) {
        // What a fault has raised is raised again by going on; this comes when the handler has returned.
        // SAFETY: no condition.
        unsafe { libc::raise(signal) };
    }
}
