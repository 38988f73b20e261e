//! What a forked child must not share with its parent: open file descriptions whose locks are the
//! parent's sign of life, and locks of threads that it does not have.
//!
//! A child that kept such a description would keep a killed parent alive, and one that unlocked it would
//! end a living one. So a handler that runs in the child of every fork(2) puts a description of the
//! child's own behind the same descriptor, without locks. Closing the inherited one unlocks nothing, since
//! the parent has it, too. (A mapping keeps a description as well: no file with such a lock is mapped
//! through the same one.)
//!
//! Other threads may be in the middle of something when one forks. What they hold would be held in the
//! child for ever. So a fork waits until no thread is in a `section`.
//!
//! Invariant: the handler in the child calls only what may be called between fork and exec: it allocates
//! nothing and waits for nobody. A child that was made by a bare clone(2) has not run it.

use std::cell::{Cell, UnsafeCell};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;

use crate::shm::identity;
use crate::shm::place::Kept;

/// Descriptors that the handler renews. Others are renewed when they are next used.
const FILES: usize = 64;
const NONE: RawFd = -1;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static RENEWED: [Renewed; FILES] = [const { Renewed::new() }; FILES];

/// A descriptor that the handler renews, if the file is there that was.
struct Renewed {
    fd: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Renewed {
    const fn new() -> Self {
        let (device, inode) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { fd: AtomicI32::new(NONE), device, inode }
    }

    /// Async-signal-safe.
    fn is_here(&self, fd: RawFd) -> bool {
        let id = (self.device.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed));
        // SAFETY: any descriptor may be looked at; a number that is none is an error.
        let there = nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(fd) });
        there.is_ok_and(|there| (there.st_dev, there.st_ino) == id)
    }
}

/// Held for reading in sections, for writing during a fork.
static GATE: RwLock<()> = RwLock::new(());

/// What a fork holds meanwhile.
struct Closed(UnsafeCell<Option<RwLockWriteGuard<'static, ()>>>);
// SAFETY: only the thread that holds the gate for writing looks in, between the handlers of its fork.
unsafe impl Sync for Closed {}
static CLOSED: Closed = Closed(UnsafeCell::new(None));

thread_local! {
    /// Sections that this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A part of the program during which no thread of the process forks.
#[derive(Debug)]
pub struct Section {
    _gate: Option<RwLockReadGuard<'static, ()>>,
}

/// Begins a section: the caller is about to take a lock of the process, or to open a file that a child must
/// not share. Sections may lie within each other.
pub fn section() -> Section {
    install();
    let outermost = DEPTH.with(|depth| depth.replace(depth.get() + 1) == 0);
    let gate = || GATE.read().unwrap_or_else(PoisonError::into_inner);
    Section { _gate: outermost.then(gate) }
}

impl Drop for Section {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

fn install() {
    static HANDLERS: Once = Once::new();
    // SAFETY: the handlers keep to what may be called there.
    HANDLERS.call_once(|| unsafe {
        // Should it fail for want of memory, children renew what they use when they use it.
        libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child));
    });
}

extern "C" fn before() {
    if DEPTH.with(Cell::get) > 0 {
        return; // this thread is in a section itself, and nobody forks there
    }
    let gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: this thread holds the gate.
    unsafe { *CLOSED.0.get() = Some(gate) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread holds the gate since `before`.
    drop(unsafe { (*CLOSED.0.get()).take() });
}

/// How many forks lie between this process and the one that loaded the library.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Gives children of this process a description of their own in place of this one.
pub fn renew_in_children(file: &Kept) {
    install();
    let id = identity::id(file);
    let taken = |slot: &&Renewed| {
        let (none, fd) = (NONE, file.number());
        slot.fd.compare_exchange(none, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    // A fork in between finds nothing there that it knows, and leaves it to the next use.
    if let Some(slot) = RENEWED.iter().find(taken) {
        slot.device.store(id.device, Ordering::Relaxed);
        slot.inode.store(id.inode, Ordering::Relaxed);
    }
}

/// Takes that back: the file is about to be closed.
pub fn forget(file: &Kept) {
    for slot in &RENEWED {
        let fd = file.number();
        let _ = slot.fd.compare_exchange(fd, NONE, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Puts a new description of the same file behind its descriptor.
///
/// # Errors
/// As of open(2).
pub fn renew(file: &File) -> Result<(), Errno> {
    renew_fd(file.as_raw_fd())
}

extern "C" fn in_child() {
    in_parent(); // there, too, the gate is held
    let errno = Errno::last();
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for slot in &RENEWED {
        let fd = slot.fd.load(Ordering::Relaxed);
        if fd != NONE && slot.is_here(fd) {
            let _ = renew_fd(fd); // what fails is tried again when it is used
        }
    }
    errno.set();
}

fn renew_fd(fd: RawFd) -> Result<(), Errno> {
    let path = path(fd);
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` ends with a zero byte.
    let new = Errno::result(unsafe { libc::open(path.as_ptr().cast(), flags) })?;
    // The kernel's own calls, past whoever guards descriptors in this process: see `place`.
    // SAFETY: `new` is ours, and `fd` keeps naming the same file for whoever owns it.
    let replaced = unsafe { libc::syscall(libc::SYS_dup3, new, fd, libc::O_CLOEXEC) };
    let replaced = Errno::result(replaced).map(drop);
    // SAFETY: `new` is ours and not used any more.
    unsafe { libc::syscall(libc::SYS_close, new) };
    replaced
}

/// `/proc/self/fd/N`, with a zero byte at its end.
fn path(fd: RawFd) -> [u8; 32] {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut path = [0; 32];
    path[..PREFIX.len()].copy_from_slice(PREFIX);
    let mut digits = [0; 10];
    let (mut at, mut rest) = (digits.len(), fd.unsigned_abs());
    while rest > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    path[PREFIX.len()..][..digits.len() - at].copy_from_slice(&digits[at..]);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_a_descriptor_is_what_the_kernel_calls_it() {
        for fd in [0, 7, 10, 1023, i32::MAX] {
            let path = path(fd);
            let text = std::ffi::CStr::from_bytes_until_nul(&path).unwrap().to_str().unwrap();
            assert_eq!(text, format!("/proc/self/fd/{fd}"));
        }
    }

    #[test]
    fn renewed_description_has_none_of_the_old_ones_locks_and_leaves_them_alone() {
        use crate::shm::file;
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = crate::shm::dir::Dir::open(temp.path(), false).unwrap();
        drop(file::create(&dir, "f", 4096).unwrap());
        let first = file::open(&dir, "f").unwrap();
        assert!(file::mark_alive(&first, 1).unwrap());
        // As after a fork: a second descriptor of the same description.
        let inherited = first.try_clone().unwrap();
        renew(&inherited).unwrap();
        assert!(file::is_alive(&inherited, 1), "it is another description now");
        drop(first);
        assert!(!file::is_alive(&inherited, 1));
        assert_eq!(file::id(&inherited), file::id(&file::open(&dir, "f").unwrap()));
    }
}
