//! What this library knows of each descriptor of the process.
//!
//! ```text
//!  fd -> chunk of 1024 -> entry:  0          an ordinary descriptor: nothing is known, nothing is done
//!                                 PRIVATE    the library's own; for the program it is not open
//!                                 kind, slot a netmap descriptor, or an epoll set with such in it
//!  slot:  descriptors that lead here, threads that use it, a lock, the object
//! ```
//!
//! Invariant: looking up an ordinary descriptor is two loads. Entries change by atomics only, so close(2) may be
//! called in a signal handler. Slots are never given back to the allocator: a thread that finds one counts itself, looks
//! at the entry again, and then the slot is not used for anything else until it has gone. What is behind a slot that
//! no descriptor leads to any more is dropped later, by `sweep`, since that allocates and takes locks.

use std::any::Any;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use crate::lock::{Lock, Taken};
use crate::process::Inside;
use crate::{next, process};

const CHUNK: usize = 1024;
const CHUNKS: usize = 1024;
/// Handles and sets of a process: more than a switch has handles.
const SLOTS: usize = 4096;

const PRIVATE: u32 = u32::MAX;
const SET: u32 = 1 << 30;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing to us.
    Ordinary,
    /// A netmap descriptor.
    Netmap,
    /// An epoll set with netmap descriptors in it, or that may have some.
    Set,
    /// The library's own.
    Private,
}

/// What is behind a slot.
pub trait Object: Any + std::fmt::Debug {
    /// What the descriptors are that lead to it.
    fn kind(&self) -> Kind;

    /// Before it is used in a process that may be a child of fork(2). `abandoned`: another thread was using it then,
    /// and it may be half changed.
    fn look_after_forks(&mut self, abandoned: bool);

    /// Whether it is still behind a descriptor of the program's.
    fn is_behind(&self, _fd: i32) -> bool {
        true
    }

    /// Lets go of what was closed.
    fn tidy(&mut self) {}
}

struct Slot {
    /// In use; also while it is swept.
    taken: AtomicBool,
    fds: AtomicU32,
    users: AtomicU32,
    lock: Lock,
    object: UnsafeCell<Option<Box<dyn Object>>>,
}

// SAFETY: the object is reached with the lock only, or by the one thread that makes or sweeps it.
unsafe impl Sync for Slot {}

static TOP: [AtomicPtr<[AtomicU32; CHUNK]>; CHUNKS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];
static SLOT: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        fds: AtomicU32::new(0),
        users: AtomicU32::new(0),
        lock: Lock::new(),
        object: UnsafeCell::new(None),
    }
}; SLOTS];
/// Entries that are not ordinary, private ones left out.
static KNOWN: AtomicU32 = AtomicU32::new(0);
/// Some slot may have lost its last descriptor.
static LITTER: AtomicBool = AtomicBool::new(false);

#[inline]
fn chunk(fd: i32) -> Option<(&'static [AtomicU32; CHUNK], usize)> {
    let fd = fd as usize; // a negative one is beyond the end
    let top = TOP.get(fd / CHUNK)?.load(Ordering::Acquire);
    // SAFETY: chunks are made once and for good.
    (!top.is_null()).then(|| (unsafe { &*top }, fd % CHUNK))
}

#[inline]
fn entry(fd: i32) -> Option<&'static AtomicU32> {
    chunk(fd).map(|(chunk, i)| &chunk[i])
}

/// The entry of a descriptor, made if need be; `None` if its number is too high, or there is no memory.
fn make_entry(fd: i32) -> Option<&'static AtomicU32> {
    if let Some(entry) = entry(fd) {
        return Some(entry);
    }
    let top = TOP.get(usize::try_from(fd).ok()? / CHUNK)?;
    let (rw, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let made = unsafe { next::mmap(std::ptr::null_mut(), CHUNK * 4, rw, flags, -1, 0) };
    if made == libc::MAP_FAILED {
        return None;
    }
    let null = std::ptr::null_mut();
    if top.compare_exchange(null, made.cast(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: nobody has seen it.
        unsafe { next::munmap(made, CHUNK * 4) };
    }
    entry(fd)
}

fn kind_of(word: u32) -> Kind {
    match word {
        0 => Kind::Ordinary,
        PRIVATE => Kind::Private,
        _ if word & SET != 0 => Kind::Set,
        _ => Kind::Netmap,
    }
}

fn slot_of(word: u32) -> &'static Slot {
    &SLOT[(word & !SET) as usize - 1]
}

/// What a descriptor is.
#[inline]
pub fn kind(fd: i32) -> Kind {
    entry(fd).map_or(Kind::Ordinary, |entry| kind_of(entry.load(Ordering::Relaxed)))
}

/// Whether there is any descriptor that calls have to be looked at for.
#[inline]
pub fn is_empty() -> bool {
    KNOWN.load(Ordering::Relaxed) == 0
}

/// What is behind a descriptor, held so that it stays.
#[derive(Debug)]
pub struct Ref {
    word: u32,
}

impl Ref {
    fn slot(&self) -> &'static Slot {
        slot_of(self.word)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        kind_of(self.word)
    }

    /// Whether a descriptor leads here.
    pub fn is_at(&self, fd: i32) -> bool {
        entry(fd).is_some_and(|entry| entry.load(Ordering::SeqCst) == self.word)
    }

    /// Whether both are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.word == other.word
    }

    /// The descriptors that lead here.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        let word = self.word;
        descriptors(move |there| there == word)
    }

    /// Uses the object, with its lock; `None` if this thread is using it, and a signal handler came in
    /// between, or if it is of another type.
    #[inline]
    pub fn with<T: Object, R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.locked(|object| {
            let object: &mut dyn Any = object;
            object.downcast_mut().map(f)
        })
        .flatten()
    }

    #[inline]
    fn locked<R>(&self, f: impl FnOnce(&mut dyn Object) -> R) -> Option<R> {
        struct Give<'a>(&'a Lock);
        impl Drop for Give<'_> {
            fn drop(&mut self) {
                self.0.give();
            }
        }
        let slot = self.slot();
        let taken = slot.lock.take();
        if taken == Taken::Mine {
            return None;
        }
        let _give = Give(&slot.lock);
        // SAFETY: the lock is held, and the slot is not swept while `self` is counted.
        let object = (unsafe { &mut *slot.object.get() }).as_deref_mut()?;
        object.look_after_forks(taken == Taken::Abandoned);
        Some(f(object))
    }
}

impl Clone for Ref {
    fn clone(&self) -> Self {
        self.slot().users.fetch_add(1, Ordering::SeqCst);
        Self { word: self.word }
    }
}

impl Drop for Ref {
    #[inline]
    fn drop(&mut self) {
        if self.slot().users.fetch_sub(1, Ordering::SeqCst) == 1
            && self.slot().fds.load(Ordering::SeqCst) == 0
        {
            LITTER.store(true, Ordering::Relaxed);
        }
    }
}

/// What is behind a descriptor, unless it is ordinary or private.
#[inline]
pub fn find(fd: i32) -> Option<Ref> {
    let entry = entry(fd)?;
    loop {
        let word = entry.load(Ordering::SeqCst);
        if matches!(word, 0 | PRIVATE) {
            return None;
        }
        // First counted, then looked at again: `sweep` sees the one, or this sees the other.
        slot_of(word).users.fetch_add(1, Ordering::SeqCst);
        let found = Ref { word };
        if entry.load(Ordering::SeqCst) == word {
            return Some(found);
        }
    }
}

/// As `find`, for a netmap descriptor.
#[inline]
pub fn find_netmap(fd: i32) -> Option<Ref> {
    if kind(fd) != Kind::Netmap {
        return None;
    }
    find(fd).filter(|found| found.kind() == Kind::Netmap)
}

/// Makes an object, with the first descriptor that leads to it. False if there is no place for it.
pub fn add(fd: i32, object: impl Object) -> bool {
    let set = if object.kind() == Kind::Set { SET } else { 0 };
    let Some(entry) = make_entry(fd) else { return false };
    let free = |slot: &&Slot| {
        slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let Some((i, slot)) = (1..).zip(&SLOT).find(|(_, slot)| free(slot)) else { return false };
    // Against `sweep`, which may be looking at a slot without a descriptor; nobody else can have it.
    slot.lock.take();
    // SAFETY: the lock is held, and no entry leads here.
    unsafe { *slot.object.get() = Some(Box::new(object)) };
    slot.fds.store(1, Ordering::SeqCst);
    slot.lock.give();
    replace(entry, i | set);
    true
}

/// Another descriptor for the same. False if its number is too high.
pub fn add_copy(fd: i32, of: &Ref) -> bool {
    let Some(entry) = make_entry(fd) else { return false };
    of.slot().fds.fetch_add(1, Ordering::SeqCst);
    replace(entry, of.word);
    true
}

fn replace(entry: &AtomicU32, word: u32) {
    KNOWN.fetch_add(u32::from(word != PRIVATE && word != 0), Ordering::Relaxed);
    let old = entry.swap(word, Ordering::SeqCst);
    if matches!(old, 0 | PRIVATE) {
        return;
    }
    KNOWN.fetch_sub(1, Ordering::Relaxed);
    if slot_of(old).fds.fetch_sub(1, Ordering::SeqCst) == 1 {
        LITTER.store(true, Ordering::Relaxed);
    }
}

/// A descriptor is ordinary from now on: it is about to be closed. Returns whether it was not. Nothing is
/// allocated, and no lock is taken.
pub fn forget(fd: i32) -> bool {
    match entry(fd) {
        Some(entry) if entry.load(Ordering::Relaxed) != 0 => {
            replace(entry, 0);
            true
        }
        _ => false,
    }
}

/// A descriptor is the library's own. False if its number is too high.
pub fn hide(fd: i32) -> bool {
    match make_entry(fd) {
        Some(entry) => {
            replace(entry, PRIVATE);
            true
        }
        None => false,
    }
}

fn descriptors(is: impl Fn(u32) -> bool) -> impl Iterator<Item = i32> {
    (0..CHUNKS)
        .filter_map(|top| chunk((top * CHUNK) as i32).map(|(chunk, _)| (top, chunk)))
        .flat_map(|(top, chunk)| (0..CHUNK).map(move |i| (top * CHUNK + i, &chunk[i])))
        .filter(move |(_, entry)| is(entry.load(Ordering::SeqCst)))
        .map(|(fd, _)| fd as i32)
}

/// The library's own descriptors, in order.
pub fn private() -> impl Iterator<Item = i32> {
    descriptors(|word| word == PRIVATE)
}

/// The program's descriptors that are not ordinary, in order.
pub fn known() -> impl Iterator<Item = i32> {
    descriptors(|word| word != PRIVATE && word != 0)
}

/// Drops what no descriptor leads to any more. Not for signal handlers.
pub fn sweep() {
    if process::is_borrowed() {
        return;
    }
    let _inside = Inside::begin();
    // Some may have been closed by system calls that nobody saw.
    for (fd, found) in known().filter_map(|fd| Some((fd, find(fd)?))) {
        if found.locked(|object| object.is_behind(fd)) == Some(false) && found.is_at(fd) {
            forget(fd);
        }
    }
    if !LITTER.swap(false, Ordering::Relaxed) {
        return;
    }
    // Sets let go of what was closed.
    for set in known().filter(|&fd| kind(fd) == Kind::Set).filter_map(find) {
        set.locked(Object::tidy);
    }
    for slot in &SLOT {
        let idle =
            || slot.fds.load(Ordering::SeqCst) == 0 && slot.users.load(Ordering::SeqCst) == 0;
        if !slot.taken.load(Ordering::Acquire) || !idle() {
            continue;
        }
        // Of two that sweep, one takes the object; that of a new slot is there with its count only.
        if slot.lock.take() == Taken::Mine {
            continue;
        }
        // SAFETY: the lock is held, no entry leads here, and whoever is about to count itself looks at its entry
        // again.
        let gone = if idle() { (unsafe { &mut *slot.object.get() }).take() } else { None };
        slot.lock.give();
        if let Some(object) = gone {
            drop(object);
            slot.taken.store(false, Ordering::Release);
        }
    }
}
