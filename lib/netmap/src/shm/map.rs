//! A mapping of a shared file, and the guard that turns its truncation into zero pages.
//!
//! The two rules for shared memory, which every module keeps:
//! 1. No `&T` or `&mut T` to bytes that another process can write, unless `T` is made of atomics.
//! 2. A value is copied out once, validated, and the copy used; it is never read again.
//!
//! Invariant: a pointer handed out by `Map` lies within the mapping. A peer that truncates the
//! file behind our back would make an access raise SIGBUS: the handler installed here puts zero
//! pages there and goes on, as if the peer had written zeros (which any peer may do at any time).

use std::fs::File;
use std::io;
use std::mem::{align_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use shared_bytes::Span;

/// Types that may be referenced in shared memory.
///
/// # Safety
/// The type must consist of atomics (or padding) only, and be valid for every bit pattern.
pub unsafe trait Shared {}
// SAFETY: an atomic integer, valid for every bit pattern.
unsafe impl Shared for crate::sync::core_atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for crate::sync::core_atomic::AtomicU64 {}

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// A shared mapping of a file from its start. It may reach beyond the end of the file; whoever
/// uses that part must have checked that the file has grown there.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len: usize,
    guard: usize,
}
// SAFETY: the mapping belongs to the process, not to a thread, and lives until `Map` is dropped. What `Map` hands out are
// references to atomics, and pointers, whose use is their user's to justify.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `file` for reading and writing; long mappings so that huge pages fit (`Map::gather`).
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let map = Self::at_hint(place_for_huge(len), file.as_fd(), 0, len)?;
        // Traffic has no place in a core dump. A kernel that does not know the advice goes without.
        let _ = map.advise(0, len, libc::MADV_DONTDUMP);
        Ok(map)
    }

    /// Maps `len` bytes at `offset` of what a descriptor names, which need not be a file. `offset` is a multiple of the page size.
    pub fn of(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::at_hint(std::ptr::null_mut(), fd, offset, len)
    }

    fn at_hint(
        hint: *mut libc::c_void,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<Self> {
        let offset = offset.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: without MAP_FIXED, which replaces no mapping, wherever the hint points.
        let there = unsafe { libc::mmap(hint, len, rw, shared, fd.as_raw_fd(), offset) };
        if there == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(there.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { base, len, guard: sigbus::watch(there as usize, len) })
    }

    /// As madvise(2), for `len` bytes at `offset`, whole pages of the mapping.
    fn advise(&self, offset: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the pages are the mapping's, and the callers' advice changes no bytes in them.
        let result = unsafe { libc::madvise(self.base().wrapping_add(offset).cast(), len, advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Puts the first `len` bytes, a multiple of `HUGE`, into huge pages where the kernel can. Each of these has memory already. Works for files
    /// in memory, of whatever mount (Linux 6.1), unless the machine's or the process's settings say no; then nothing changes.
    pub fn gather(&self, len: usize) {
        let _ = self.advise(0, len, libc::MADV_COLLAPSE);
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Start of the mapping.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The `T` at byte `offset`, if it lies within the mapping and is aligned.
    pub fn at<T: Shared>(&self, offset: usize) -> Option<&T> {
        self.slice(offset, 1).map(|s| &s[0])
    }

    /// `n` consecutive `T`s at byte `offset`, if they lie within the mapping and are aligned.
    pub fn slice<T: Shared>(&self, offset: usize, n: usize) -> Option<&[T]> {
        let bytes = n.checked_mul(size_of::<T>())?;
        if offset.checked_add(bytes)? > self.len() || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` lies within the mapping, checked above.
        let p = unsafe { self.base().add(offset) };
        // SAFETY: n Ts from `p` lie within the mapping (checked), which lives as long as `self`
        // and is page-aligned, so `p` is aligned; T consists of atomics (`Shared`).
        Some(unsafe { std::slice::from_raw_parts(p.cast::<T>(), n) })
    }

    /// `len` bytes at byte `offset`, if they lie within the mapping.
    pub fn span(&self, offset: usize, len: usize) -> Option<Span<'_>> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        // SAFETY: the bytes lie within the mapping, which lives as long as `self`. References to them are to atomics alone:
        // no others are ever made of shared memory (rule 1).
        Some(unsafe { Span::new(self.base().wrapping_add(offset), len) })
    }

    /// Makes the pages of `[offset, offset + len)` present, so that the data path takes few page
    /// faults. A read of one byte brings in the 64 KiB around it (the kernel's fault-around), for
    /// writing as well, since tmpfs does not track dirty pages: a tenth of the time that
    /// MADV_POPULATE_WRITE takes page by page.
    pub fn populate(&self, offset: usize, len: usize) {
        const AROUND: usize = 65536;
        let end = offset.saturating_add(len).min(self.len());
        let mut at = offset;
        while at < end {
            // SAFETY: `at` lies within the mapping; a volatile read of one byte.
            let _ = unsafe { self.base().wrapping_add(at).read_volatile() };
            at = (at / AROUND + 1) * AROUND;
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        sigbus::unwatch(self.guard);
        // SAFETY: the mapping is ours, and what was handed out of it borrowed `self`.
        unsafe { libc::munmap(self.base().cast(), self.len) };
    }
}

/// Where a mapping of so many bytes from a file's start can be placed so that huge pages fit: a hint for mmap(2). Null, by which
/// the kernel chooses, for one that holds none.
#[must_use]
pub fn place_for_huge(len: usize) -> *mut libc::c_void {
    let null = std::ptr::null_mut();
    let Some(room) = len.checked_add(HUGE).filter(|_| len >= HUGE) else { return null };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at a place that is free.
    let found = unsafe { libc::mmap(null, room, libc::PROT_NONE, flags, -1, 0) };
    if found == libc::MAP_FAILED {
        return null;
    }
    // SAFETY: it was made here, and nobody was told of it. Another thread may map something there before the hint is used:
    // then the kernel chooses.
    unsafe { libc::munmap(found, room) };
    found.wrapping_byte_add(found.align_offset(HUGE))
}

/// Lets a mapping that the program made of a region have the same guard: should a peer truncate the file, it reads
/// as zeros from there on, and the process lives. One more than the table holds works without.
///
/// # Safety
/// `start` and `len` are a shared mapping of a region's file (`Port::open_memory`), which nobody but
/// `unguard_mapping` is told of before it is unmapped, in whole or in part, or something else is mapped there; and
/// the program treats its bytes as what other processes may write, zeros among them.
pub unsafe fn guard_mapping(start: *mut libc::c_void, len: usize) {
    sigbus::watch(start as usize, len);
}

/// Takes the guard from a range that is going to be unmapped: from the whole of a mapping, or from one of its ends. Of
/// what lies in the middle of one, everything behind loses the guard, too. Returns whether there was one.
pub fn unguard_mapping(start: *mut libc::c_void, len: usize) -> bool {
    sigbus::unwatch_range(start as usize, len)
}

/// For programs with a SIGBUS handler of their own, which takes the place of the library's: whether that signal came
/// from an access to a guarded mapping. If so, it has been mended, and the handler is to return. Can be
/// called in a signal handler.
///
/// # Safety
/// `info` is what the kernel gave to a handler of SIGBUS that was installed with `SA_SIGINFO`.
#[must_use]
pub unsafe fn absorb_sigbus(info: *const libc::siginfo_t) -> bool {
    // SAFETY: of a SIGBUS, which is the caller's promise.
    unsafe { sigbus::absorb(info) }
}

/// From now on the library installs no handler of SIGBUS: when there is something to guard, it calls `install` once, and
/// whoever hosts it has one that asks `absorb_sigbus` first. For a host that stands between a program and
/// sigaction(2). The first call counts.
pub fn handle_sigbus_by(install: fn()) {
    let _ = sigbus::INSTALLER.set(install);
}

/// Number of times that a truncated file was patched over in this process.
#[cfg(test)]
fn truncations() -> u64 {
    sigbus::PATCHED.load(Ordering::Relaxed)
}

mod sigbus {
    use super::{AtomicU64, AtomicUsize, Once, Ordering};
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicPtr;

    /// Most mappings watched at once; further ones work, but are not guarded.
    const MAX: usize = 8192;
    static BASE: [AtomicUsize; MAX] = [const { AtomicUsize::new(0) }; MAX];
    static LEN: [AtomicUsize; MAX] = [const { AtomicUsize::new(0) }; MAX];
    pub static PATCHED: AtomicU64 = AtomicU64::new(0);
    static INSTALL: Once = Once::new();
    pub static INSTALLER: OnceLock<fn()> = OnceLock::new();
    static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

    /// Watches a range and returns its place in the table.
    pub fn watch(base: usize, len: usize) -> usize {
        INSTALL.call_once(|| INSTALLER.get().map_or_else(install, |install| install()));
        for i in 0..MAX {
            // LEN is 0 while BASE is being set, so the handler never sees a half-made entry.
            if BASE[i].compare_exchange(0, base, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                LEN[i].store(len, Ordering::Release);
                return i;
            }
        }
        MAX
    }

    pub fn unwatch(i: usize) {
        if i < MAX {
            LEN[i].store(0, Ordering::Release);
            BASE[i].store(0, Ordering::Release);
        }
    }

    #[cfg(test)]
    pub fn is_watched(at: usize) -> bool {
        let load = |a: &AtomicUsize| a.load(Ordering::Acquire);
        (0..MAX).any(|i| at.wrapping_sub(load(&BASE[i])) < load(&LEN[i]))
    }

    /// Takes a range out of what is watched; whether any of it was.
    pub fn unwatch_range(start: usize, len: usize) -> bool {
        let end = start.saturating_add(len);
        let mut was = false;
        for i in 0..MAX {
            let (base, n) = (BASE[i].load(Ordering::Acquire), LEN[i].load(Ordering::Acquire));
            let old_end = base + n;
            if n == 0 || start >= old_end || end <= base {
                continue;
            }
            was = true;
            LEN[i].store(0, Ordering::Release);
            if start > base {
                LEN[i].store(start - base, Ordering::Release);
            } else if end < old_end {
                BASE[i].store(end, Ordering::Release);
                LEN[i].store(old_end - end, Ordering::Release);
            } else {
                BASE[i].store(0, Ordering::Release);
            }
        }
        was
    }

    fn install() {
        let mut previous = Box::new(zeroed());
        let mut action = zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `action` is a valid sigaction with an SA_SIGINFO handler that is
        // async-signal-safe; `previous` is valid for writing.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut *previous) };
        // Kept for the life of the process: the handler may need it at any time.
        PREVIOUS.store(Box::into_raw(previous), Ordering::Release);
    }

    fn zeroed() -> libc::sigaction {
        // SAFETY: all-zero bytes are a valid sigaction (default handler, empty mask).
        unsafe { std::mem::zeroed() }
    }

    extern "C" fn on_sigbus(sig: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler of SIGBUS.
        if !unsafe { absorb(info) } {
            chain(sig, info, context);
        }
    }

    /// Puts zero pages where an access failed, if that is watched. Async-signal-safe: atomics and a system call.
    ///
    /// # Safety
    /// `info` is that of a SIGBUS.
    pub unsafe fn absorb(info: *const libc::siginfo_t) -> bool {
        // SAFETY: the caller's promise.
        let info_ref = unsafe { &*info };
        if info_ref.si_code <= 0 {
            return false; // sent by a process, not by an access
        }
        // SAFETY: a SIGBUS has an address.
        let addr = unsafe { info_ref.si_addr() } as usize;
        for i in 0..MAX {
            let len = LEN[i].load(Ordering::Acquire);
            let base = BASE[i].load(Ordering::Acquire);
            if len != 0 && base != 0 && addr.wrapping_sub(base) < len {
                // The file ends at or before this page, so nothing behind it is there either: one
                // patch for all, however often the file is cut.
                let page = addr & !4095;
                // SAFETY: the pages belong to a mapping of this module (table entry), which only
                // hands out atomics and raw pointers, or to one that was named with the same promise;
                // replacing them by zeros is what a peer that writes zeros could do as well.
                let r = unsafe {
                    libc::mmap(
                        page as *mut libc::c_void,
                        base + len - page,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_PRIVATE
                            | libc::MAP_ANONYMOUS
                            | libc::MAP_NORESERVE
                            | libc::MAP_FIXED,
                        -1,
                        0,
                    )
                };
                if r != libc::MAP_FAILED {
                    PATCHED.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
        }
        false
    }

    /// Not ours: hand it to whoever was there before, or die of it as usual.
    fn chain(sig: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let previous = PREVIOUS.load(Ordering::Acquire);
        if !previous.is_null() {
            // SAFETY: set once from Box::into_raw and never freed.
            let old = unsafe { &*previous };
            if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN {
                type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: a non-default sa_sigaction is a handler; one installed without
                // SA_SIGINFO takes fewer arguments and ignores the rest (x86-64 C ABI).
                let f: Handler = unsafe { std::mem::transmute(old.sa_sigaction) };
                f(sig, info, context);
                return;
            }
        }
        let default = zeroed();
        // SAFETY: a valid sigaction.
        unsafe { libc::sigaction(sig, &raw const default, std::ptr::null_mut()) };
        // A faulting access faults again on return and ends the process; a signal that was sent
        // must be sent again.
        // SAFETY: async-signal-safe; the signal is blocked until the handler returns.
        unsafe { libc::raise(sig) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::core_atomic::AtomicU32;

    #[test]
    fn at_outside_or_unaligned_returns_none() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = Map::new(&file, 4096).unwrap();
        assert!(map.at::<AtomicU32>(4092).is_some());
        assert!(map.at::<AtomicU32>(4093).is_none());
        assert!(map.at::<AtomicU32>(4096).is_none());
        assert!(map.slice::<AtomicU32>(0, usize::MAX / 2).is_none());
        assert!(map.at::<AtomicU32>(usize::MAX - 3).is_none());
    }

    #[test]
    fn long_mappings_begin_where_huge_pages_do() {
        assert!(place_for_huge(HUGE - 4096).is_null() && place_for_huge(usize::MAX).is_null());
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4 * HUGE as u64).unwrap();
        // Mappings lie beside each other, and so elsewhere without a hint: each of these moves what follows by a page.
        let maps: Vec<Map> = (0..4).map(|i| Map::new(&file, HUGE + i * 4096).unwrap()).collect();
        assert!(maps.iter().all(|map| (map.base() as usize).is_multiple_of(HUGE)), "{maps:?}");
    }

    #[test]
    fn mapping_is_left_out_of_core_dumps() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let map = Map::new(&file, 8192).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", map.base() as usize);
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
    }

    #[test]
    fn truncated_file_reads_as_zero_and_does_not_kill() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let map = Map::new(&file, 8192).unwrap();
        map.at::<AtomicU32>(4096).unwrap().store(7, Ordering::Relaxed);
        file.set_len(0).unwrap();
        assert_eq!(map.at::<AtomicU32>(4096).unwrap().load(Ordering::Relaxed), 0);
        map.at::<AtomicU32>(4096).unwrap().store(9, Ordering::Relaxed);
        assert_eq!(map.at::<AtomicU32>(4096).unwrap().load(Ordering::Relaxed), 9);
        assert!(truncations() > 0);
    }

    #[test]
    fn mapping_of_the_program_is_guarded_until_it_is_unguarded_at_either_end() {
        let page = |i: usize| i << 12;
        let watched = |at: usize| sigbus::is_watched(at);
        // No mapping is there: only the table is looked at.
        let base = 1 << 46;
        let ptr = |i: usize| (base + page(i)) as *mut libc::c_void;
        // SAFETY: nothing is ever mapped there, so no access meets the guard.
        unsafe { guard_mapping(ptr(0), page(10)) };
        assert!(watched(base) && watched(base + page(10) - 1) && !watched(base + page(10)));
        unguard_mapping(ptr(0), page(2));
        unguard_mapping(ptr(9), page(3));
        let left: Vec<usize> = (0..12).filter(|&i| watched(base + page(i))).collect();
        assert_eq!(left, (2..9).collect::<Vec<_>>());
        unguard_mapping(ptr(4), page(1)); // in the middle
        let left: Vec<usize> = (0..12).filter(|&i| watched(base + page(i))).collect();
        assert_eq!(left, [2, 3]);
        unguard_mapping(ptr(0), page(100));
        assert!(!(0..12).any(|i| watched(base + page(i))));
    }
}
