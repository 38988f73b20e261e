//! A lock that a thread holds while it uses what is behind a descriptor, for as long as a sync takes.
//!
//! ```text
//!  word:  31           30..22              21..0
//!         others wait  generation, 9 bits  thread that holds it, 0: nobody
//! ```
//!
//! Invariant: a thread never waits for itself: a signal handler that meets the lock of the thread that it interrupted
//! is told so; but one that jumped out of a handler, over the frames that held it, takes it as abandoned. And none waits for a thread that does not exist: what was held at a fork is held by a generation that
//! is over, and who takes it then learns that what it protects may be half changed.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::{process, stack};

const WAITED: u32 = 1 << 31;
const THREAD: u32 = (1 << 22) - 1;

/// The lock.
#[derive(Debug, Default)]
pub struct Lock {
    word: AtomicU32,
    /// `stack::entry` of the thread that took it.
    frame: AtomicUsize,
}

/// How it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was free.
    Free,
    /// Whoever held it was lost in a fork, or this thread jumped out of what it was doing.
    Abandoned,
    /// Not: this thread has it.
    Mine,
}

impl Lock {
    /// Not held.
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0), frame: AtomicUsize::new(0) }
    }

    fn me() -> u32 {
        (process::generation() & 511) << 22 | process::thread() & THREAD
    }

    /// Takes it, or says that this thread has it.
    #[inline]
    pub fn take(&self) -> Taken {
        let taken = self.try_take();
        if taken != Taken::Mine {
            self.frame.store(stack::entry(), Ordering::Relaxed);
        }
        taken
    }

    #[inline]
    fn try_take(&self) -> Taken {
        let me = Self::me();
        // Pairs with the Release in `give`.
        match self.word.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Taken::Free,
            Err(found) => self.wait(me, found),
        }
    }

    #[cold]
    fn wait(&self, me: u32, mut found: u32) -> Taken {
        const SPINS: u32 = 100;
        let mut spins = 0;
        loop {
            if found == 0 {
                // Others may wait as well, and nobody knows: whoever takes it after a wait wakes the next.
                let want = if spins < SPINS { me } else { me | WAITED };
                match self.word.compare_exchange(0, want, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Taken::Free,
                    Err(now) => found = now,
                }
                continue;
            }
            if found & !WAITED == me {
                let held = self.frame.load(Ordering::Relaxed);
                return if stack::is_left(held) { Taken::Abandoned } else { Taken::Mine };
            }
            if (found ^ me) & !(WAITED | THREAD) != 0 {
                match self.word.compare_exchange(found, me, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return Taken::Abandoned,
                    Err(now) => found = now,
                }
                continue;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else if found & WAITED != 0
                || self
                    .word
                    .compare_exchange(found, found | WAITED, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                futex(&self.word, libc::FUTEX_WAIT, found | WAITED, None);
            }
            found = self.word.load(Ordering::Relaxed);
        }
    }

    /// Gives it back.
    #[inline]
    pub fn give(&self) {
        let me = Self::me();
        if self.word.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            // Somebody waits; or it was taken as abandoned, in the child of a fork in a handler.
            let waited =
                self.word.compare_exchange(me | WAITED, 0, Ordering::Release, Ordering::Relaxed);
            if waited.is_ok() {
                futex(&self.word, libc::FUTEX_WAKE, 1, None);
            }
        }
    }
}

/// futex(2) among the threads of this process: waits while the word has this value, for so long at most, or wakes so many.
pub fn futex(word: &AtomicU32, op: i32, value: u32, time: Option<&libc::timespec>) {
    // SAFETY: word and time live for the call; an early return is looked after by the caller.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            op | libc::FUTEX_PRIVATE_FLAG,
            value,
            time.map_or(std::ptr::null(), std::ptr::from_ref),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;

    #[test]
    fn lock_excludes_threads_and_wakes_who_waits() {
        struct Shared(Lock, UnsafeCell<u64>);
        // SAFETY: the number is touched with the lock only.
        unsafe impl Sync for Shared {}
        let shared = Shared(Lock::new(), UnsafeCell::new(0));
        let shared = &shared;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        assert_eq!(shared.0.take(), Taken::Free);
                        // SAFETY: the lock is held.
                        unsafe { *shared.1.get() += 1 };
                        shared.0.give();
                    }
                });
            }
        });
        // SAFETY: all threads have ended.
        assert_eq!(unsafe { *shared.1.get() }, 40_000);
    }

    #[test]
    fn lock_of_the_same_thread_is_told_and_not_waited_for() {
        let lock = Lock::new();
        assert_eq!(lock.take(), Taken::Free);
        assert_eq!(lock.take(), Taken::Mine);
        lock.give();
        assert_eq!(lock.take(), Taken::Free);
    }

    #[test]
    fn lock_of_a_call_that_was_jumped_out_of_is_abandoned() {
        #[inline(never)]
        fn deeper(lock: &Lock) -> (usize, Taken) {
            std::hint::black_box([0u8; 4096]);
            (stack::enter(), lock.take())
        }
        let lock = Lock::new();
        assert_eq!(deeper(&lock).1, Taken::Free);
        // That call has not been left, and is gone.
        stack::enter();
        assert_eq!(lock.take(), Taken::Abandoned);
        // As in a handler.
        assert_eq!(deeper(&lock).1, Taken::Mine);
        stack::leave(0);
    }

    #[test]
    fn lock_of_another_generation_is_abandoned() {
        let lock = Lock::new();
        lock.word.store(Lock::me() ^ 1 << 22, Ordering::Relaxed);
        assert_eq!(lock.take(), Taken::Abandoned);
    }
}
