//! Which process this is: the one that filled the tables, a fork of it, or a vfork child that borrows its memory.
//!
//! Invariant: a forked child sees another generation than its parent from its first look on, however it was made,
//! since the kernel wipes the page in it. A vfork child sees the parent's page, but has another number.

use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Process number in the page that the kernel clears in forked children; 0 after a fork.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
static GENERATION: AtomicU32 = AtomicU32::new(1);

thread_local! {
    /// The thread's number and the generation in which that was asked.
    static THREAD: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    /// Calls of the library that this thread is in.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// The library is at work in this thread: descriptors that it opens and closes are its own.
#[derive(Debug)]
pub struct Inside(());

impl Inside {
    /// Begins.
    pub fn begin() -> Self {
        INSIDE.with(|inside| inside.set(inside.get() + 1));
        Self(())
    }

    /// Whether the library is at work in this thread.
    pub fn is() -> bool {
        INSIDE.with(Cell::get) > 0
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(inside.get() - 1));
    }
}

/// The library is not at work in this thread while it sleeps: what signal handlers call meanwhile is the program's.
/// (One that does not return, by siglongjmp, leaves it so.)
#[derive(Debug)]
pub struct Outside(u32);

impl Outside {
    /// Begins.
    pub fn begin() -> Self {
        Self(INSIDE.replace(0))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

fn pid() -> u32 {
    // SAFETY: without conditions.
    (unsafe { libc::getpid() }) as u32
}

/// The page, made at the first call. Without one (no memory) there is one generation.
fn page() -> Option<&'static AtomicU32> {
    let known = PAGE.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: it was mapped for good below, and holds an atomic.
        return Some(unsafe { &*known });
    }
    let (rw, private) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let made = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rw, private, -1, 0) };
    if made == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page is ours. A kernel that does not know the advice says so, and children then look like their parent.
    unsafe { libc::madvise(made, 4096, libc::MADV_WIPEONFORK) };
    // SAFETY: zeros are an atomic, the page is aligned, and nobody unmaps it.
    let word: &'static AtomicU32 = unsafe { &*made.cast::<AtomicU32>() };
    word.store(pid(), Ordering::Relaxed);
    let raced = PAGE.compare_exchange(
        std::ptr::null_mut(),
        made.cast(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    match raced {
        Ok(_) => Some(word),
        Err(_) => page(),
    }
}

/// A number that differs between a process and its forks.
#[inline]
pub fn generation() -> u32 {
    if let Some(page) = page()
        && page.load(Ordering::Relaxed) == 0
    {
        renew(page);
    }
    GENERATION.load(Ordering::Relaxed)
}

#[cold]
fn renew(page: &AtomicU32) {
    // Several threads of a new child may come here at once; one counts.
    if page.compare_exchange(0, pid(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        GENERATION.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether this is a child of vfork(2), whose memory is its parent's.
pub fn is_borrowed() -> bool {
    generation(); // a forked child is itself
    page().is_some_and(|page| page.load(Ordering::Relaxed) != pid())
}

/// The thread's number, never 0.
#[inline]
pub fn thread() -> u32 {
    let now = GENERATION.load(Ordering::Relaxed);
    let (thread, then) = THREAD.with(Cell::get);
    if then == now { thread } else { ask_thread(now) }
}

#[cold]
fn ask_thread(now: u32) -> u32 {
    // SAFETY: without conditions.
    let thread = (unsafe { libc::syscall(libc::SYS_gettid) }) as u32;
    THREAD.with(|cell| cell.set((thread, now)));
    thread
}
