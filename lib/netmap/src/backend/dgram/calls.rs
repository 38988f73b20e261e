//! Several datagrams in one call: sendmmsg(2) and recvmmsg(2). (The wrappers of `nix` allocate for each call, or keep
//! the lengths of the last call's addresses.)

use std::ffi::OsStr;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, UnixAddr};

/// Datagrams in one call. A socket queues 11 unless `net.unix.max_dgram_qlen` says otherwise.
pub const BATCH: usize = 16;

const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: integers and nullable pointers; all of them may be zero.
    unsafe { std::mem::zeroed() }
}

/// Sends the datagrams of `bytes` that end at `ends`, the first `BATCH` of them, to `to`: how many went.
pub fn send(fd: BorrowedFd<'_>, to: &UnixAddr, bytes: &[u8], ends: &[usize]) -> nix::Result<usize> {
    let (mut headers, mut parts) = (headers(), [NOTHING; BATCH]);
    let (mut begin, mut n) = (0, 0);
    for ((header, part), &end) in headers.iter_mut().zip(&mut parts).zip(ends) {
        let datagram = &bytes[begin..end];
        *part =
            libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = to.len();
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        (begin, n) = (end, n + 1);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `n` headers each name an address and a part, which name memory that is borrowed during the
    // call; sending only reads what they name.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), n, flags) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// Receives up to `BATCH` datagrams, each to its part of `bytes`: how many came, and who sent the last of them if
/// its socket has a path. `lengths` are what they had, also of those that were cut.
pub fn receive(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    lengths: &mut [usize; BATCH],
) -> nix::Result<(usize, Option<PathBuf>)> {
    let (mut headers, mut parts) = (headers(), [NOTHING; BATCH]);
    // SAFETY: integers; all of them may be zero.
    let mut names: [libc::sockaddr_un; BATCH] = unsafe { std::mem::zeroed() };
    let each = bytes.len() / BATCH;
    let places = bytes.chunks_exact_mut(each).zip(&mut names);
    for ((header, part), (place, name)) in headers.iter_mut().zip(&mut parts).zip(places) {
        *part = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    let (fd, count, forever) = (fd.as_raw_fd(), BATCH as u32, std::ptr::null_mut());
    // SAFETY: each of the `BATCH` headers names an address and a part, which name disjoint memory of the lengths
    // that they say, borrowed mutably during the call; there is no time limit.
    let came = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, flags, forever) };
    let came = Errno::result(came)? as usize;
    for (length, header) in lengths.iter_mut().zip(&headers[..came]) {
        *length = header.msg_len as usize;
    }
    let last = came.checked_sub(1);
    Ok((came, last.and_then(|at| path(&names[at], headers[at].msg_hdr.msg_namelen))))
}

fn path(name: &libc::sockaddr_un, length: libc::socklen_t) -> Option<PathBuf> {
    let length = (length as usize).checked_sub(offset_of!(libc::sockaddr_un, sun_path))?;
    let bytes = name.sun_path.map(i8::cast_unsigned);
    let path = bytes[..length.min(bytes.len())].split(|&byte| byte == 0).next()?;
    (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)).to_path_buf())
}
