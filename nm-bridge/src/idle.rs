//! What a bridge does when there is nothing to move.
//!
//! Invariant: a wake-up is never lost and an idle bridge never spins longer than its mode allows.
//! Sleeping follows the library's one rule on both ports at once: ask both for their doorbells,
//! which looks again; if neither has anything, sleep on all descriptors; then take the asking back.

use std::time::{Duration, Instant};

use anyhow::Context;
use netmap::{Interest, Port};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nm_cli::signal::Signals;
use nm_cli::wait::WaitMode;

/// How long an adaptive wait looks before it sleeps: the library's own default.
const SPIN: Duration = Duration::from_micros(50);
/// Longest sleep without a look: a sender may die between a packet and its ring, and then nobody
/// rings. As long as the library's own waits have patience.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same while waiting for space: the full destination may be dead, which the next sync finds out.
const TX_PATIENCE: Duration = Duration::from_millis(50);
/// Empty rounds of a busy wait before it offers the CPU to others.
const ROUNDS: u32 = 256;

/// The waiting of one bridge.
#[derive(Debug)]
pub struct Idle {
    mode: WaitMode,
    /// Since when nothing moved.
    since: Option<Instant>,
    rounds: u32,
    /// Times that the bridge slept.
    pub sleeps: u64,
}

impl Idle {
    /// Waits in this mode.
    pub fn new(mode: WaitMode) -> Idle {
        Idle { mode, since: None, rounds: 0, sleeps: 0 }
    }

    /// Something moved: the next wait begins anew.
    pub fn reset(&mut self) {
        self.since = None;
    }

    /// True if the caller should just look again.
    pub fn spins(&mut self) -> bool {
        match self.mode {
            WaitMode::Block => false,
            WaitMode::Busy => {
                self.rounds = self.rounds.wrapping_add(1);
                if self.rounds.is_multiple_of(ROUNDS) {
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
                true
            }
            WaitMode::Adaptive => {
                std::hint::spin_loop();
                self.since.get_or_insert_with(Instant::now).elapsed() < SPIN
            }
        }
    }

    /// Sleeps until one of the ports has what is wanted of it, a signal arrives, or `timeout`.
    pub fn sleep(
        &mut self,
        a: (&mut Port, Interest),
        b: (&mut Port, Interest),
        signals: &Signals,
        timeout: Option<Duration>,
    ) -> anyhow::Result<()> {
        let ((a, a_wants), (b, b_wants)) = (a, b);
        let slept = if arm(a, a_wants)? || arm(b, b_wants)? {
            Ok(())
        } else {
            self.sleeps += 1;
            poll_both((a, a_wants), (b, b_wants), signals, timeout)
        };
        a.disarm();
        b.disarm();
        slept
    }
}

/// Asks for doorbells; true if there is a reason not to sleep. Space counts as such only if there
/// is more than before: some of it may have been there all the time, and not enough.
fn arm(port: &mut Port, wants: Interest) -> netmap::Result<bool> {
    let before = port.pending();
    let ready = port.arm(wants)?;
    Ok(ready.contains(Interest::RX) || (wants.contains(Interest::TX) && port.pending() < before))
}

/// Sleeps, for a while at most.
fn poll_both(
    (a, a_wants): (&Port, Interest),
    (b, b_wants): (&Port, Interest),
    signals: &Signals,
    timeout: Option<Duration>,
) -> anyhow::Result<()> {
    let mut fds = [
        PollFd::new(a.fd(), a.events(a_wants)),
        PollFd::new(b.fd(), b.events(b_wants)),
        PollFd::new(signals.fd(), PollFlags::POLLIN),
    ];
    let patience = if (a_wants | b_wants).contains(Interest::TX) { TX_PATIENCE } else { PATIENCE };
    // Rounded up: rounding down would spin through the last millisecond.
    let ms = timeout.unwrap_or(patience).min(patience).as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno).context("waiting for both ports"),
    }
    if fds[2].any().unwrap_or(false) {
        signals.drain();
    }
    Ok(())
}
