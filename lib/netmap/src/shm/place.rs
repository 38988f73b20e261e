//! Descriptors that the library keeps open for longer than a call, and where they are.
//!
//! A program that runs on netmap by preloading does not know of the library, closes descriptors that it did
//! not open, and takes the lowest number for its own. So whoever hosts the library in such a program may
//! choose another number for each, and knows them all. And the program may get at a number in ways that no host sees
//! (system calls of its own): then something else may be behind it.
//!
//! Invariant: every descriptor that outlives the call that made it is a `Kept`. In a hosted library none is used, or
//! closed, that is not the file any more that it was: a use finds a number at which nothing is ever open.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::shm::identity::{self, FileId};

/// What a host does about the descriptors that the library keeps.
#[derive(Clone, Copy, Debug)]
pub struct Placing {
    /// Is given each that is to be kept, and returns it or a copy in another place.
    pub place: fn(OwnedFd) -> OwnedFd,
    /// That number is no longer the library's.
    pub let_go: fn(RawFd),
}

static HOST: OnceLock<Placing> = OnceLock::new();
static LOSSES: AtomicU32 = AtomicU32::new(0);

/// Grows when a descriptor of the library's is found to be lost: a port that was opened before may be deaf or
/// dumb, and works again when it is taken over anew (`Port::from_fd`).
#[inline]
pub fn losses() -> u32 {
    LOSSES.load(Ordering::Relaxed)
}

/// From now on, descriptors that the library is to keep are the host's to place. The first call counts.
pub fn place_descriptors(host: Placing) {
    let _ = HOST.set(host);
}

/// Numbers and who has them: a number in the upper half of a word, and in the lower which of the descriptors
/// that were ever placed there it is.
static OWNERS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// Whose a number is from now on. 0: nobody knows, as there is no room for one more.
fn own(number: RawFd) -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let serial = NEXT.fetch_add(2, Ordering::Relaxed); // odd, so that no word is 0
    let owner = (number as u64) << 32 | u64::from(serial);
    let relaxed = Ordering::Relaxed;
    let is_of = |word: &&AtomicU64| word.load(relaxed) >> 32 == number as u64;
    if let Some(word) = OWNERS.iter().find(is_of) {
        word.store(owner, relaxed); // it was lost
        return owner;
    }
    let take = |word: &AtomicU64| word.compare_exchange(0, owner, relaxed, relaxed).is_ok();
    if OWNERS.iter().any(take) { owner } else { 0 }
}

/// Takes that back; false: it is somebody else's by now.
fn disown(owner: u64) -> bool {
    let take =
        |word: &AtomicU64| word.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
    owner == 0 || OWNERS.iter().any(|word| take(word).is_ok())
}

fn is_owner(owner: u64) -> bool {
    owner == 0 || OWNERS.iter().any(|word| word.load(Ordering::Relaxed) == owner)
}

/// A descriptor that is kept.
#[derive(Debug)]
pub struct Kept {
    file: ManuallyDrop<File>,
    /// What it was, and whose the number; `None`: without a host, nobody else closes anything.
    id: Option<(FileId, u64)>,
}

impl Kept {
    /// Keeps it.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        let fd = fd.into();
        let Some(host) = HOST.get() else {
            return Self { file: ManuallyDrop::new(fd.into()), id: None };
        };
        let file = File::from((host.place)(fd));
        let id = Some((identity::id(&file), own(file.as_raw_fd())));
        Self { file: ManuallyDrop::new(file), id }
    }

    /// Whether it is still what it was.
    fn is_here(&self) -> bool {
        let here =
            self.id.is_none_or(|(id, owner)| is_owner(owner) && identity::id(&self.file) == id);
        if !here {
            LOSSES.fetch_add(1, Ordering::Relaxed);
        }
        here
    }

    /// Its number, whatever is there by now.
    pub fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Gives it to somebody else to keep.
    pub fn into_owned(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once: `this` is neither used nor dropped any more.
        let file = unsafe { ManuallyDrop::take(&mut this.file) };
        if let (Some(host), Some((_, owner))) = (HOST.get(), this.id)
            && disown(owner)
        {
            (host.let_go)(file.as_raw_fd());
        }
        file.into()
    }
}

impl Deref for Kept {
    type Target = File;

    fn deref(&self) -> &File {
        static NOWHERE: OnceLock<ManuallyDrop<File>> = OnceLock::new();
        if self.is_here() {
            return &self.file;
        }
        // SAFETY: nobody has it (the kernel gives no such number), and nobody closes it.
        NOWHERE.get_or_init(|| ManuallyDrop::new(unsafe { File::from_raw_fd(RawFd::MAX) }))
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let here = self.is_here();
        if let (Some(host), Some((_, owner))) = (HOST.get(), self.id)
            && disown(owner)
        {
            (host.let_go)(self.file.as_raw_fd());
        }
        if here {
            // SAFETY: taken once, as it is dropped once.
            drop(unsafe { ManuallyDrop::take(&mut self.file) });
        }
    }
}
