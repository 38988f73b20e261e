//! Whether memory is on the calling thread's stack, where it need not be asked for: what poll(2) is given mostly is, and
//! a question to the kernel takes as long as sending thirty packets.
//!
//! Invariant: what is said to be there is mapped, and stays so for the call: it lies between this call's own frame and the
//! end of the stack that the thread began with. Of a stack that a program has made by itself (a coroutine's, that of
//! a signal handler) nothing is known. Nothing is allocated, and no lock is taken.

use std::cell::Cell;
use std::ops::Range;

use crate::next;

/// A stack of the main thread grows. Whoever is on another one asks so often, and no more.
const TRIES: u32 = 4;

/// Calls from one place of the program begin so near to each other at most; what a signal puts on the stack is more.
const SLACK: usize = 512;

thread_local! {
    static ENTRY: Cell<usize> = const { Cell::new(0) };
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    static TRIED: Cell<u32> = const { Cell::new(0) };
}

/// Whether `len` bytes at `at` are on this thread's stack, in a frame of its callers.
#[inline]
pub fn holds(at: u64, len: u64) -> bool {
    let here = 0u8;
    let frame = (&raw const here) as usize;
    let (start, end) = STACK.get();
    if !(start..end).contains(&frame) {
        return find(frame) && holds(at, len);
    }
    at >= frame as u64 && at.checked_add(len).is_some_and(|last| last <= end as u64)
}

/// The program's call in which this thread is: about where its stack ends in it. To be given to `leave`.
#[inline]
pub fn enter() -> usize {
    let here = 0u8;
    ENTRY.replace((&raw const here) as usize)
}

/// The call is over that `enter` was in.
#[inline]
pub fn leave(before: usize) {
    ENTRY.set(before);
}

/// Where the innermost call of this thread began.
#[inline]
pub fn entry() -> usize {
    ENTRY.get()
}

/// Whether the call is over that began at `entry` in this thread: it was jumped out of, over its frames, by a signal handler.
/// As long as the thread's calls begin deeper than that one did, this is not told.
#[cold]
pub fn is_left(entry: usize) -> bool {
    // SAFETY: zeros are a stack.
    let mut other: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; room for the answer.
    let asked = unsafe { libc::sigaltstack(std::ptr::null(), &raw mut other) };
    let now = self::entry();
    // A handler on a stack of its own tells nothing of that which it interrupted; 0 is no call.
    asked == 0
        && other.ss_flags & libc::SS_ONSTACK == 0
        && now != 0
        && entry != 0
        && now + SLACK >= entry
}

/// Looks where the stack is that `frame` is on; false: it is not known now.
#[cold]
fn find(frame: usize) -> bool {
    let tried = TRIED.get();
    if tried >= TRIES {
        return false;
    }
    TRIED.set(tried + 1);
    let Some(found) = mapping_of(frame) else { return false };
    // The C library keeps what it knows of a thread that it has made at the end of its stack; at that of the first
    // thread the kernel leaves random bytes for the process.
    // SAFETY: without conditions.
    let own = (unsafe { libc::pthread_self() }) as usize;
    // SAFETY: without conditions.
    let first = (unsafe { libc::getauxval(libc::AT_RANDOM) }) as usize;
    match [own, first].into_iter().find(|end| (frame..found.end).contains(end)) {
        Some(end) => {
            STACK.set((found.start, end));
            true
        }
        None => false,
    }
}

/// The mapping that an address is in, by /proc/self/maps.
fn mapping_of(address: usize) -> Option<Range<usize>> {
    // SAFETY: a path.
    let fd =
        unsafe { next::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    let mut lines = Lines::default();
    let mut bytes = [0u8; 1024];
    let found = loop {
        // SAFETY: room for so many.
        let n = unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
        let Some(read) = usize::try_from(n).ok().filter(|&n| n > 0) else { break None };
        let found = bytes[..read]
            .iter()
            .find_map(|&byte| lines.add(byte).filter(|range| range.contains(&address)));
        if found.is_some() {
            break found;
        }
    };
    // SAFETY: it is ours.
    unsafe { next::close(fd) };
    found
}

/// Reads `start-end rest` lines byte by byte.
#[derive(Debug, Default)]
struct Lines {
    start: usize,
    number: usize,
    rest: bool,
}

impl Lines {
    /// The range of a line, once its end has been read.
    fn add(&mut self, byte: u8) -> Option<Range<usize>> {
        match byte {
            b'\n' => *self = Self::default(),
            _ if self.rest => {}
            b'-' => (self.start, self.number) = (self.number, 0),
            b' ' => {
                self.rest = true;
                return Some(self.start..self.number);
            }
            _ => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.number = self.number << 4 | digit as usize;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

    use super::*;

    #[test]
    fn lines_of_maps_are_read() {
        let text = b"7f00-7f0f r--p 0-1 08:01 5 /a-b c\nffe0-fff0 rw-p [stack]\n";
        let mut lines = Lines::default();
        let ranges: Vec<_> = text.iter().filter_map(|&byte| lines.add(byte)).collect();
        assert_eq!(ranges, [0x7f00..0x7f0f, 0xffe0..0xfff0]);
    }

    #[test]
    fn variables_of_callers_are_on_the_stack_and_nothing_else_is() {
        fn check() {
            let there = [0u64; 4];
            let at = there.as_ptr() as u64;
            assert!(holds(at, 32));
            let end = STACK.get().1 as u64;
            assert!(holds(at, end - at) && !holds(at, end - at + 1) && !holds(at, u64::MAX));
            let heap = Box::new([0u64; 4]);
            for other in [heap.as_ptr() as u64, 0, 8, u64::MAX, at - 65536] {
                assert!(!holds(other, 8), "{other:#x}");
            }
        }
        check();
        std::thread::spawn(check).join().unwrap();
        // A deeper stack than at the first look.
        #[inline(never)]
        fn deep(n: usize) -> u64 {
            let there = [n as u64; 4096];
            assert!(holds(there.as_ptr() as u64, 8));
            if n == 0 { there[7] } else { deep(n - 1) + there[9] }
        }
        std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(|| deep(500))
            .unwrap()
            .join()
            .unwrap();
    }

    /// A stack that is not the thread's.
    #[test]
    fn other_stacks_are_not_known() {
        static HELD: AtomicU32 = AtomicU32::new(9);
        extern "C" fn on_it(_: i32) {
            let there = 0u64;
            let held = holds((&raw const there) as u64, 8);
            HELD.store(held.into(), Relaxed);
        }
        let run = || {
            let there = 0u64;
            assert!(holds((&raw const there) as u64, 8));
            let mut memory = vec![0u8; 1 << 16];
            let stack = libc::stack_t {
                ss_sp: memory.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: memory.len(),
            };
            let set = |stack: &libc::stack_t| {
                // SAFETY: the memory lives until the thread has ended.
                unsafe { libc::sigaltstack(std::ptr::from_ref(stack), std::ptr::null_mut()) }
            };
            assert_eq!(set(&stack), 0);
            let action =
                SigAction::new(SigHandler::Handler(on_it), SaFlags::SA_ONSTACK, SigSet::empty());
            // SAFETY: the handler does nothing that it must not.
            unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
            for _ in 0..=TRIES {
                raise(Signal::SIGUSR2).unwrap();
            }
            let flags = libc::SS_DISABLE;
            assert_eq!(set(&libc::stack_t { ss_flags: flags, ..stack }), 0);
            drop(memory);
        };
        std::thread::spawn(run).join().unwrap();
        assert_eq!(HELD.load(Relaxed), 0);
    }
}
