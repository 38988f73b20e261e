//! What a bridge does when there is nothing to move: it waits as the user chose, and counts its sleeps.

use std::time::Duration;

use netmap::{Interest, Port, Wait, WaitSet, Watch, WatchFd};
use nix::poll::PollFlags;
use nm_cli::signal::Signals;
use nm_cli::wait::WaitMode;

/// The waiting of one bridge.
#[derive(Debug)]
pub struct Idle {
    how: Wait,
    /// Times that the bridge slept.
    pub sleeps: u64,
}

impl Idle {
    /// Waits in this mode.
    pub fn new(mode: WaitMode) -> Idle {
        let how = match mode {
            WaitMode::Busy => Wait::Busy,
            WaitMode::Adaptive => Wait::default(),
            WaitMode::Block => Wait::Block,
        };
        Idle { how, sleeps: 0 }
    }

    /// Waits until one of the ports has what is wanted of it, a signal arrives, or `timeout`.
    pub fn wait(
        &mut self,
        a: (&mut Port, Interest),
        b: (&mut Port, Interest),
        signals: &Signals,
        timeout: Option<Duration>,
    ) -> netmap::Result<()> {
        let mut ports = [Watch::new(a.0, a.1), Watch::new(b.0, b.1)];
        let mut fds = [WatchFd::new(signals.fd(), PollFlags::POLLIN)];
        let waited = WaitSet::new(&mut ports, &mut fds).wait(self.how, timeout)?;
        self.sleeps += waited.sleeps;
        if !fds[0].ready().is_empty() {
            signals.drain();
        }
        Ok(())
    }
}
