//! Signals: SIGINT, SIGTERM or SIGHUP asks to stop; one that comes a second later or more asks to hurry, which
//! means not to wait for anybody, and still to flush and report; a third, again a second later, ends the
//! process with 128 + signal. SIGUSR1 asks for the totals so far. A SIGHUP that is ignored when the process starts
//! (nohup) stays so.
//!
//! Signals within that second belong to the previous request: `timeout N tool` signals the process
//! and then its group, and a Ctrl-C reaches a whole pipeline whose other members pass it on, so the same
//! request arrives twice within milliseconds.
//!
//! Handlers only look at the clock, set flags and write a byte to a pipe, so that a thread that waits in [`Signals::wait`]
//! or polls [`Signals::fd`] wakes at once and none is lost between a look at the flags and the wait.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::low_level::{self, pipe};

/// A signal counts as a new request if it arrives at least this long after the previous one.
pub const APART: Duration = Duration::from_secs(1);

/// The installed handlers; install once per process, before threads start.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    hurry: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    wake: UnixStream,
    ring: UnixStream,
}

/// The requests to end so far. They are separate from the stop flag because a run that ends by itself sets that
/// flag, too, and must not use up a request.
#[derive(Debug, Default)]
struct Requests {
    /// When the last one came, in milliseconds of the monotonic clock, plus one; 0: none came.
    last_ms: AtomicU64,
    count: AtomicU64,
}

impl Requests {
    /// Takes a signal at `now_ms` and returns which request it belongs to, 1 being the first.
    fn take(&self, now_ms: u64) -> u64 {
        let last = self.last_ms.load(Ordering::Relaxed);
        if last != 0 && now_ms.saturating_sub(last - 1) < APART.as_millis() as u64 {
            return self.count.load(Ordering::Relaxed);
        }
        // Two threads may handle two signals at the same time, which then count as one request.
        let next = now_ms.saturating_add(1);
        match self.last_ms.compare_exchange(last, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => self.count.fetch_add(1, Ordering::Relaxed) + 1,
            Err(_) => self.count.load(Ordering::Relaxed),
        }
    }
}

/// What is done before a third request ends the process.
static BEFORE_THE_LAST: OnceLock<fn()> = OnceLock::new();

/// Has a third request do this before it ends the process at once, without whatever is done at other ends; the first that
/// is given counts.
///
/// # Safety
/// It runs in a signal handler, so it must be async-signal-safe.
#[allow(unsafe_code)]
pub unsafe fn before_the_last(act: fn()) {
    let _ = BEFORE_THE_LAST.set(act); // the first counts
}

/// Lets `signal` count as a request: the second sets `hurry`, the third ends the process.
#[allow(unsafe_code)]
fn request(signal: i32, requests: &Arc<Requests>, hurry: &Arc<AtomicBool>) -> std::io::Result<()> {
    let (requests, hurry) = (Arc::clone(requests), Arc::clone(hurry));
    let action = move || match requests.take(monotonic_ms()) {
        0 | 1 => {}
        2 => hurry.store(true, Ordering::Relaxed),
        _ => {
            if let Some(act) = BEFORE_THE_LAST.get() {
                act();
            }
            low_level::exit(128 + signal)
        }
    };
    // SAFETY: the action is async-signal-safe: it uses atomics, clock_gettime and _exit, takes no
    // lock, allocates nothing and cannot panic; so is what `before_the_last` was given, by its contract.
    unsafe { low_level::register(signal, action) }.map(|_| ())
}

/// Whether a signal was ignored when this process started, as nohup(1) does it.
#[allow(unsafe_code)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no action is set, and there is room for the one that is.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed, which is a valid one, and then perhaps written by the call.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Makes a file that reaches the limit on its size (`ulimit -f`) an error of its writer, as a full disk is, where else
/// the process would end without a word.
#[allow(unsafe_code)]
pub fn outlive_file_size_limit() {
    // SAFETY: no handler is installed. It cannot fail for a signal that may be ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// The clock that measures the time between two signals. The call cannot fail for this clock; if it did, 0
/// would merge the two signals into one request.
fn monotonic_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}

/// Ends a [`Signals::wait`] from another thread, as a signal would.
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// Wakes the waiter, or keeps its next wait from sleeping.
    pub fn wake(&self) {
        // A full pipe wakes as well; a closed one has no waiter.
        let _ = (&self.0).write(&[0]);
    }
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// There is no descriptor left, or no handler can be installed.
    pub fn install() -> anyhow::Result<Signals> {
        let stop = Arc::new(AtomicBool::new(false));
        let hurry = Arc::new(AtomicBool::new(false));
        let report = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Requests::default());
        let (wake, ring) = UnixStream::pair().context("creating the signal pipe")?;
        for end in [&wake, &ring] {
            end.set_nonblocking(true).context("creating the signal pipe")?;
        }
        let install = || -> std::io::Result<()> {
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                if signal == SIGHUP && is_ignored(signal) {
                    continue;
                }
                // The order matters: actions run in the order of their registration, and the thread that the
                // last one wakes looks at the flags.
                flag::register(signal, Arc::clone(&stop))?;
                request(signal, &requests, &hurry)?;
                pipe::register(signal, ring.try_clone()?)?;
            }
            flag::register(SIGUSR1, Arc::clone(&report))?;
            pipe::register(SIGUSR1, ring.try_clone()?)?;
            Ok(())
        };
        install().context("installing signal handlers")?;
        Ok(Signals { stop, hurry, report, wake, ring })
    }

    /// The stop flag, for worker threads.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// True once a signal or [`Signals::request_stop`] asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// True after a second request: wait for nothing any more, but still flush and report.
    pub fn hurried(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    /// The flag behind [`Signals::hurried`], for worker threads.
    pub fn hurry_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hurry)
    }

    /// Stops as a first SIGINT would.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// True once per SIGUSR1 (several pending ones count once).
    pub fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }

    /// A flag that one more signal sets; it wakes the waiter as the others do.
    ///
    /// # Errors
    /// There is no descriptor left, or the handler cannot be installed.
    pub fn flag_for(&self, signal: i32) -> anyhow::Result<Arc<AtomicBool>> {
        let flag = Arc::new(AtomicBool::new(false));
        let register = || -> std::io::Result<()> {
            flag::register(signal, Arc::clone(&flag))?;
            pipe::register(signal, self.ring.try_clone()?)?;
            Ok(())
        };
        register().context("installing a signal handler")?;
        Ok(flag)
    }

    /// A handle for another thread that has something to tell the waiting one.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn waker(&self) -> anyhow::Result<Waker> {
        Ok(Waker(self.ring.try_clone().context("copying the signal pipe")?))
    }

    /// Readable when a signal arrived; for a poll together with other descriptors. Call
    /// [`Signals::drain`] after it fired.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Empties the pipe behind [`Signals::fd`]; look at the flags after it, not before.
    pub fn drain(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.wake).read(&mut bytes) {
                Ok(n) if n == bytes.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    /// Sleeps for a time, for instance until a link is up, unless a signal asks to stop.
    pub fn sleep(&self, time: Duration) {
        let begin = Instant::now();
        while !self.stopped() {
            let left = time.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return;
            }
            self.wait(left);
        }
    }

    /// Sleeps until a signal arrives or the time is over. Returns at once if one arrived since the last
    /// call.
    pub fn wait(&self, timeout: Duration) {
        // Rounded up: rounding down would spin through the last millisecond.
        let ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        // An error can only be EINTR here, and then a flag is set.
        let _ = poll(&mut fds, timeout);
        self.drain();
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn signals_close_together_are_one_request() {
        let requests = Requests::default();
        let seen: Vec<u64> =
            [5000, 5001, 5999, 6000, 6500, 7100, 7100].map(|ms| requests.take(ms)).to_vec();
        assert_eq!(seen, [1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(Requests::default().take(0), 1, "the first of all, right after boot");
    }

    // One test: signals and their handlers belong to the whole process.
    #[test]
    fn signals_set_flags_and_wake_a_waiter() {
        let signals = Signals::install().expect("install");
        assert!(!signals.stopped());

        raise(Signal::SIGUSR1).expect("raise");
        let begin = Instant::now();
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a signal");
        assert!(signals.take_report());
        assert!(!signals.take_report());

        raise(Signal::SIGUSR1).expect("raise");
        let sleep = Instant::now();
        signals.sleep(Duration::from_millis(20));
        assert!(sleep.elapsed() >= Duration::from_millis(20), "a report cut the sleep short");

        let suspended = signals.flag_for(nix::libc::SIGURG).expect("a handler");
        raise(Signal::SIGURG).expect("raise");
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a signal");
        assert!(suspended.load(Ordering::Relaxed) && !signals.stopped());

        let waker = signals.waker().expect("waker");
        std::thread::spawn(move || waker.wake()).join().expect("thread");
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a wake-up");

        raise(Signal::SIGTERM).expect("raise");
        assert!(signals.stopped() && !signals.hurried());
        signals.sleep(Duration::from_secs(60));
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a signal");
    }
}
