//! Signals: the first SIGINT or SIGTERM asks to stop, the second ends the process with 128 + signal,
//! SIGUSR1 asks for the totals so far.
//!
//! Handlers only set flags and write a byte to a pipe, so that a thread that waits in [`Signals::wait`]
//! or polls [`Signals::fd`] wakes at once and none is lost between a look at the flags and the wait.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// The installed handlers; install once per process, before threads start.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    wake: UnixStream,
    ring: UnixStream,
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
    pub fn install() -> anyhow::Result<Signals> {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(AtomicBool::new(false));
        // Apart from `stop`: a run that ended by itself has not used up its first signal.
        let signalled = Arc::new(AtomicBool::new(false));
        let (wake, ring) = UnixStream::pair().context("creating the signal pipe")?;
        for end in [&wake, &ring] {
            end.set_nonblocking(true).context("creating the signal pipe")?;
        }
        let install = || -> std::io::Result<()> {
            for signal in [SIGINT, SIGTERM] {
                // Order matters: actions run in it, so the first signal finds the flag clear.
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signalled))?;
                flag::register(signal, Arc::clone(&signalled))?;
                flag::register(signal, Arc::clone(&stop))?;
                pipe::register(signal, ring.try_clone()?)?;
            }
            flag::register(SIGUSR1, Arc::clone(&report))?;
            pipe::register(SIGUSR1, ring.try_clone()?)?;
            Ok(())
        };
        install().context("installing signal handlers")?;
        Ok(Signals { stop, report, wake, ring })
    }

    /// The stop flag, for worker threads.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// True once a signal or [`Signals::request_stop`] asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Stops as a first SIGINT would.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// True once per SIGUSR1 (several pending ones count once).
    pub fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }

    /// A handle for another thread that has something to tell the waiting one.
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
    use std::time::Instant;

    use nix::sys::signal::{Signal, raise};

    use super::*;

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

        let waker = signals.waker().expect("waker");
        std::thread::spawn(move || waker.wake()).join().expect("thread");
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a wake-up");

        raise(Signal::SIGTERM).expect("raise");
        assert!(signals.stopped());
        signals.wait(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(30), "slept through a signal");
    }
}
