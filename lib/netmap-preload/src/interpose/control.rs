//! ioctl, and mmap.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_ulong, c_void, off_t, size_t};
use nix::errno::Errno;

use super::call;
use crate::handle::{Look, errno, look_at};
use crate::process::Inside;
use crate::table::{self, Ref};
use crate::{control, next};

/// Whether the program has ever mapped netmap's memory.
static MAPPED: AtomicBool = AtomicBool::new(false);

/// What is behind a descriptor that netmap's calls are made on.
#[inline]
fn behind(fd: c_int) -> Option<Result<Ref, Errno>> {
    match table::find_netmap(fd) {
        Some(found) => Some(Ok(found)),
        None => control::recognise(fd),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn ioctl(fd: c_int, command: c_ulong, arg: *mut c_void) -> c_int {
    let concerns = table::kind(fd) == table::Kind::Netmap && !control::is_any_descriptors(command)
        || control::is_command(command) && !Inside::is();
    if !concerns {
        // SAFETY: the program's call.
        return unsafe { next::ioctl(fd, command, arg) };
    }
    let mut passes = false;
    let done = call(|| match behind(fd) {
        Some(found) => control::ioctl(fd, &found?, command, arg as u64).map(|()| 0),
        None => {
            passes = true;
            Ok(0)
        }
    });
    if passes {
        // SAFETY: the program's call.
        return unsafe { next::ioctl(fd, command, arg) };
    }
    done
}

/// Whether a mapping may be one of netmap's memory.
#[inline]
fn may_concern(fd: c_int, flags: c_int) -> bool {
    fd >= 0
        && flags & libc::MAP_ANONYMOUS == 0
        && (table::kind(fd) == table::Kind::Netmap
            || !Inside::is() && look_at(fd) == Some(Look::Bell))
}

/// What lies there is going to be something else. Whether any of it was netmap's.
#[inline]
fn unguard(at: *mut c_void, len: size_t) -> bool {
    MAPPED.load(Ordering::Relaxed) && !Inside::is() && netmap::unguard_mapping(at, len)
}

/// What lies there is a shared mapping of netmap's memory, or a part of one.
fn guard(at: *mut c_void, len: size_t) {
    // SAFETY: it is, and the functions here that end it take the guard away first.
    unsafe { netmap::guard_mapping(at, len.next_multiple_of(4096)) };
    MAPPED.store(true, Ordering::Relaxed);
}

/// Maps the memory of the handle behind a descriptor; `None`: there is none behind it.
fn map(
    at: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    from: off_t,
) -> Option<*mut c_void> {
    let mut mapped = Some(libc::MAP_FAILED);
    call(|| {
        let Some(found) = behind(fd) else {
            mapped = None;
            return Ok(0);
        };
        let memory = found?
            .netmap(|netmap| {
                // What is not bound has no memory; whoever may not have it is told so.
                let unbound = |e| if e == Errno::ENXIO { Errno::EINVAL } else { e };
                let layout = netmap.layout(fd).map_err(unbound)?;
                let end = u64::try_from(from).ok().and_then(|from| from.checked_add(len as u64));
                let whole = layout.mem_size.next_multiple_of(4096);
                if end.is_none_or(|end| end > whole) {
                    return Err(Errno::EINVAL);
                }
                netmap.port(fd)?.open_memory().map_err(|e| errno(&e))
            })
            .unwrap_or(Err(Errno::EINVAL))?;
        // Where the place is ours to choose, huge pages fit.
        let at = if at.is_null() && from == 0 { netmap::place_for_huge(len) } else { at };
        // SAFETY: the program's call, on another file.
        let there = unsafe { next::mmap(at, len, prot, flags, memory.as_raw_fd(), from) };
        if there == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        if flags & libc::MAP_TYPE != libc::MAP_PRIVATE {
            guard(there, len);
        }
        mapped = Some(there);
        Ok(0)
    });
    mapped
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn mmap(
    at: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    from: off_t,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 {
        unguard(at, len);
    }
    if may_concern(fd, flags)
        && let Some(mapped) = map(at, len, prot, flags, fd, from)
    {
        return mapped;
    }
    // SAFETY: the program's call.
    unsafe { next::mmap(at, len, prot, flags, fd, from) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn mmap64(
    at: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    from: off_t,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 {
        unguard(at, len);
    }
    if may_concern(fd, flags)
        && let Some(mapped) = map(at, len, prot, flags, fd, from)
    {
        return mapped;
    }
    // SAFETY: the program's call.
    unsafe { next::mmap64(at, len, prot, flags, fd, from) }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn munmap(at: *mut c_void, len: size_t) -> c_int {
    unguard(at, len);
    // SAFETY: the program's call.
    unsafe { next::munmap(at, len) }
}

/// The guard moves with the mapping. What it grows by lies beyond the memory, and is left to the program.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn mremap(
    at: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    if flags & libc::MREMAP_FIXED != 0 {
        unguard(to, new);
    }
    let guarded = unguard(at, old);
    // SAFETY: the program's call.
    let there = unsafe { next::mremap(at, old, new, flags, to) };
    if guarded && there == libc::MAP_FAILED {
        guard(at, old);
    } else if guarded {
        guard(there, old.min(new));
    }
    there
}
