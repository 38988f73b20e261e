//! Memory that the program names in its requests.
//!
//! Invariant: it is copied by the kernel, in and out, so that a pointer into nowhere is `EFAULT`, as it is to a real
//! driver, and what was copied in cannot change any more.

use std::mem::MaybeUninit;

use nix::errno::Errno;

/// Types that are bytes: any bits are a value, and there is no padding.
///
/// # Safety
/// That must be so.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: two integers, packed.
unsafe impl Plain for libc::epoll_event {}

fn copy(there: u64, here: *mut u8, len: usize, write: bool) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: here.cast(), iov_len: len };
    let remote = libc::iovec { iov_base: there as *mut libc::c_void, iov_len: len };
    let call = if write { libc::SYS_process_vm_writev } else { libc::SYS_process_vm_readv };
    // SAFETY: without conditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: `here` is valid for `len` bytes; the kernel judges the other address.
    let n = unsafe {
        libc::syscall(call, pid, &raw const local, 1usize, &raw const remote, 1usize, 0usize)
    };
    match Errno::result(n) {
        Ok(n) if n as usize == len => Ok(()),
        // The call is forbidden here (seccomp): then a bad pointer cannot be told from a good one.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let there = there as *mut u8;
            if there.is_null() {
                return Err(Errno::EFAULT);
            }
            let (from, to) = if write { (here, there) } else { (there, here) };
            // SAFETY: the program says that there are so many bytes, as it would to a driver; a lie is its own
            // fault, and its own end.
            unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
            Ok(())
        }
        _ => Err(Errno::EFAULT),
    }
}

/// Whether there is memory at both ends of a stretch of it.
pub fn is_there(at: u64, len: u64) -> bool {
    let last = at.checked_add(len.saturating_sub(1));
    last.is_some_and(|last| read::<u8>(at).is_ok() && read::<u8>(last).is_ok())
}

/// Copies a value in.
///
/// # Errors
/// `EFAULT`.
pub fn read<T: Plain>(at: u64) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::uninit();
    copy(at, value.as_mut_ptr().cast(), size_of::<T>(), false)?;
    // SAFETY: all of its bytes were written, and any bits are a value.
    Ok(unsafe { value.assume_init() })
}

/// Copies a value out.
///
/// # Errors
/// `EFAULT`.
pub fn write<T: Plain>(at: u64, value: T) -> Result<(), Errno> {
    let mut value = value;
    copy(at, (&raw mut value).cast(), size_of::<T>(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_pointers_are_copied_and_bad_ones_are_efault() {
        let mut there = 7u32;
        let at = (&raw mut there) as u64;
        assert_eq!(read::<u32>(at), Ok(7));
        write(at, 8u32).unwrap();
        assert_eq!(there, 8);
        for bad in [0, 1, 8, u64::MAX, u64::MAX - 3, 1 << 47] {
            assert_eq!(read::<u32>(bad), Err(Errno::EFAULT), "{bad:#x}");
            assert_eq!(write(bad, 1u32), Err(Errno::EFAULT), "{bad:#x}");
        }
        // Half of it is not there.
        let two = nix_pages();
        assert_eq!(read::<u64>(two + 4096 - 4), Err(Errno::EFAULT));
        assert_eq!(read::<u32>(two + 4096 - 4), Ok(0));
    }

    /// A page with nothing behind it.
    fn nix_pages() -> u64 {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 8192, rw, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: the second page is ours.
        unsafe { libc::munmap(at.wrapping_byte_add(4096), 4096) };
        at as u64
    }
}
