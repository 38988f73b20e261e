//! Waiting until something may have changed: a file of a switch that came or went (inotify(7)), a
//! signal, or a time that passed.
//!
//! Invariant: a wake-up says only "look again". Changes inside the shared files (a learnt
//! address, a dead port that has not been reaped yet) cause no event, so every wait has a time limit.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use netmap::control;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nm_cli::signal::Signals;

/// What can wake a command.
#[derive(Debug)]
pub struct Notify {
    inotify: Inotify,
    signals: Signals,
    extra: Option<UnixStream>,
}

impl Notify {
    /// Installs the signal handlers too, hence once per process.
    pub fn new() -> anyhow::Result<Notify> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .context("creating an inotify instance")?;
        Ok(Notify { inotify, signals: Signals::install()?, extra: None })
    }

    /// Wakes on these signals as well, without doing anything else about them.
    pub fn wake_on(&mut self, signals: &[i32]) -> anyhow::Result<()> {
        let (wake, ring) = UnixStream::pair().context("creating the signal pipe")?;
        wake.set_nonblocking(true).context("creating the signal pipe")?;
        for signal in signals {
            let ring = ring.try_clone().context("creating the signal pipe")?;
            signal_hook::low_level::pipe::register(*signal, ring)
                .context("installing a signal handler")?;
        }
        self.extra = Some(wake);
        Ok(())
    }

    /// The signals' flags.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Watches the root and every switch's directory. To be called *before* looking at the
    /// switches: what changes after the look then wakes the next wait.
    pub fn watch_root(&self) {
        let root = control::root();
        self.watch(&root);
        let Ok(entries) = root.read_dir() else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.watch(&entry.path());
            }
        }
    }

    /// If a directory cannot be watched (it does not exist yet, or no longer), changes are only noticed later,
    /// because every wait is bounded; so errors are ignored. Adding a watch twice has no effect.
    fn watch(&self, dir: &Path) {
        let changes = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        let _ = self.inotify.add_watch(dir, changes);
    }

    /// Waits for any of the events, at most until `deadline`.
    pub fn wait_until(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: rounding down would spin through the last millisecond.
        let ms = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.extra.iter().map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        // The only error is EINTR: a signal, which is an event as well.
        let _ = poll(&mut fds, timeout);
        // It is empty if something else ended the wait.
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        self.signals.drain();
        if let Some(mut wake) = self.extra.as_ref() {
            let mut bytes = [0; 64];
            while std::io::Read::read(&mut wake, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
        }
    }
}
