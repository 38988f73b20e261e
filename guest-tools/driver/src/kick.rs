//! When TDT is written: send combining, and kicks by the CSB, as pure state machines. Plain needs none.
//!
//! Invariant: a packet that has not been announced to the device is announced by a later event: by the expected
//! interrupt (combining), by the next flush or when the caller goes idle (CSB), or by the timer of either.

/// A deferred tail is written after this long whatever happens: an interrupt may be lost.
const EXPIRE_NS: u64 = 2_000_000;
/// A kick without effect is repeated after this long.
const RETRY_NS: u64 = 1_000_000;

/// Send combining: at most one TDT write for each transmit interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Combine {
    /// The device has told of everything that it was told.
    #[default]
    Idle,
    /// A transmit interrupt will come.
    Expected,
    /// The same, and a new tail waits for it, since that time.
    Deferred(u64),
}

impl Combine {
    /// New packets: true if TDT is to be written now.
    pub(crate) fn flush(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        match self {
            Combine::Idle => {
                *self = Combine::Expected;
                true
            }
            Combine::Expected => {
                *self = Combine::Deferred(now_ns());
                false
            }
            Combine::Deferred(_) => false,
        }
    }

    /// The device has told of sent packets: true if TDT is to be written now.
    pub(crate) fn completed(&mut self) -> bool {
        let deferred = matches!(self, Combine::Deferred(_));
        *self = if deferred { Combine::Expected } else { Combine::Idle };
        deferred
    }

    /// Time passes: true if TDT is to be written although no interrupt came. `moderation_ns` is how
    /// long interrupts may be held back by intention.
    pub(crate) fn expired(&mut self, now_ns: u64, moderation_ns: u64) -> bool {
        match *self {
            Combine::Deferred(since)
                if now_ns.saturating_sub(since) >= EXPIRE_NS + 2 * moderation_ns =>
            {
                *self = Combine::Expected;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn deferred(self) -> bool {
        matches!(self, Combine::Deferred(_))
    }
}

/// Kicks by the CSB: whether to wake a host that sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doorbell {
    /// Packets worth a kick.
    batch: u32,
    /// Time that fewer may wait.
    delay_ns: u64,
    /// `host_tdh` and time of the last kick, until it has an effect.
    kicked: Option<(u32, u64)>,
    /// Since when packets have waited for a kick.
    waiting: Option<u64>,
}

/// The state after packets have been published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    /// The host asks for a kick.
    pub(crate) asked: bool,
    /// `host_tdh`.
    pub(crate) tdh: u32,
    /// Packets that the host has not sent.
    pub(crate) pending: u32,
    /// The sender may be about to do something else.
    pub(crate) flush: bool,
}

impl Doorbell {
    pub(crate) fn new(batch: u32, delay_ns: u64) -> Doorbell {
        Doorbell { batch, delay_ns, kicked: None, waiting: None }
    }

    pub(crate) fn reset(&mut self) {
        (self.kicked, self.waiting) = (None, None);
    }

    /// True if TDT is to be written now.
    #[inline]
    pub(crate) fn decide(&mut self, state: Published, now_ns: impl FnOnce() -> u64) -> bool {
        if !state.asked || state.pending == 0 {
            self.reset();
            return false;
        }
        self.decide_asked(state, now_ns())
    }

    fn decide_asked(&mut self, state: Published, now_ns: u64) -> bool {
        if let Some((tdh, at)) = self.kicked
            && tdh == state.tdh
            && now_ns.saturating_sub(at) < RETRY_NS
        {
            // Where the kick is an eventfd the host clears its flag only when it runs.
            return false;
        }
        let since = *self.waiting.get_or_insert(now_ns);
        if !state.flush
            && state.pending < self.batch
            && now_ns.saturating_sub(since) < self.delay_ns
        {
            return false;
        }
        self.kicked = Some((state.tdh, now_ns));
        self.waiting = None;
        true
    }

    /// Packets wait for a kick that a flush or the time will bring.
    pub(crate) fn waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combining_writes_once_per_interrupt() {
        let mut combine = Combine::default();
        assert!(combine.flush(|| 0), "idle");
        assert!(!combine.flush(|| 5) && !combine.flush(|| 6), "expected, then deferred");
        assert!(combine.completed(), "the deferred tail");
        assert_eq!(combine, Combine::Expected);
        assert!(!combine.completed());
        assert_eq!(combine, Combine::Idle);
        assert!(combine.flush(|| 7));
    }

    #[test]
    fn combining_survives_a_lost_interrupt() {
        let mut combine = Combine::default();
        assert!(combine.flush(|| 0) && !combine.expired(u64::MAX, 0), "nothing is deferred");
        assert!(!combine.flush(|| 1000));
        assert!(!combine.expired(1000 + EXPIRE_NS - 1, 0));
        assert!(!combine.expired(1000 + EXPIRE_NS, 1), "moderation is no loss");
        assert!(combine.expired(1000 + EXPIRE_NS, 0) && !combine.deferred());
    }

    fn asked(tdh: u32, pending: u32, flush: bool) -> Published {
        Published { asked: true, tdh, pending, flush }
    }

    #[test]
    fn host_that_is_awake_is_not_kicked() {
        let mut bell = Doorbell::new(1, 0);
        assert!(!bell.decide(Published { asked: false, ..asked(0, 9, true) }, || 0));
        assert!(!bell.decide(asked(0, 0, true), || 0), "nothing to send");
    }

    #[test]
    fn kick_waits_for_a_batch_a_flush_or_the_time() {
        let mut bell = Doorbell::new(100, 50);
        assert!(!bell.decide(asked(0, 99, false), || 0) && bell.waiting());
        assert!(bell.decide(asked(0, 100, false), || 1) && !bell.waiting());
        let mut bell = Doorbell::new(100, 50);
        assert!(bell.decide(asked(0, 1, true), || 0));
        let mut bell = Doorbell::new(100, 50);
        assert!(!bell.decide(asked(0, 1, false), || 7));
        assert!(!bell.decide(asked(0, 2, false), || 56));
        assert!(bell.decide(asked(0, 2, false), || 57));
    }

    #[test]
    fn kick_is_not_repeated_until_the_host_moved_or_a_millisecond_passed() {
        let mut bell = Doorbell::new(1, 0);
        assert!(bell.decide(asked(5, 1, true), || 0));
        assert!(!bell.decide(asked(5, 2, true), || RETRY_NS - 1));
        assert!(bell.decide(asked(6, 1, true), || 10), "it ran, and sleeps again");
        assert!(bell.decide(asked(6, 1, true), || 10 + RETRY_NS));
    }

    #[test]
    fn kick_is_forgotten_once_the_host_is_awake() {
        let mut bell = Doorbell::new(1, 0);
        assert!(bell.decide(asked(5, 1, true), || 0));
        assert!(!bell.decide(Published { asked: false, ..asked(5, 1, true) }, || 1));
        assert!(bell.decide(asked(5, 1, true), || 2), "asleep again, with packets");
    }
}
