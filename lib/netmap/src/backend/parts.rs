//! Where the bytes of a packet are in a ring's buffers, as the kernel takes them (`struct iovec`), so that a device
//! reads and writes there without a copy in between.
//!
//! Invariant: each part lies within a buffer of memory that outlives the list. The place in front of the first part
//! belongs to the device, for a header that the ring does not have.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use smallvec::SmallVec;

use crate::abi::NETMAP_MAX_FRAGS;
use crate::ring::RingRef;

/// A place for the device, and the most parts there can be.
const MOST: usize = 1 + NETMAP_MAX_FRAGS;
/// The next size that such lists come in.
const ROOM: usize = 96;
const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Parts of a packet to be sent, or room for packets to be received.
pub struct Parts<'a> {
    list: SmallVec<[libc::iovec; ROOM]>,
    /// Where the device's place is. Parts before it have been used.
    start: usize,
    bytes: usize,
    memory: PhantomData<RingRef<'a>>,
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start, bytes, .. } = self;
        f.debug_struct("Parts").field("start", start).field("bytes", bytes).finish_non_exhaustive()
    }
}

impl<'a> Parts<'a> {
    /// None yet.
    pub fn new() -> Self {
        let list = SmallVec::from_slice(&[NOTHING]);
        Self { list, start: 0, bytes: 0, memory: PhantomData }
    }

    /// Takes all of them off.
    pub fn clear(&mut self) {
        self.list.truncate(1);
        (self.start, self.bytes) = (0, 0);
    }

    /// One packet that lies in one piece.
    pub fn of(packet: &'a [u8]) -> Self {
        let mut parts = Self::new();
        // Only read from: whoever has parts to be sent writes nowhere.
        parts.add(packet.as_ptr().cast_mut(), packet.len());
        parts
    }

    /// Room in one piece.
    pub fn of_mut(room: &'a mut [u8]) -> Self {
        let mut parts = Self::new();
        parts.add(room.as_mut_ptr(), room.len());
        parts
    }

    fn add(&mut self, start: *mut u8, len: usize) {
        self.list.push(libc::iovec { iov_base: start.cast(), iov_len: len });
        self.bytes += len;
    }

    /// Adds `len` bytes of a ring's buffer `idx`. False, and nothing added: there is no such buffer, it is shorter, or
    /// there are as many parts as there can be.
    pub fn push(&mut self, ring: RingRef<'a>, idx: u32, len: usize) -> bool {
        let Some(buffer) = ring.buffer(idx).filter(|_| len <= ring.buffer_bytes()) else {
            return false;
        };
        if self.list.len() == MOST {
            return false;
        }
        self.add(buffer, len);
        true
    }

    /// Adds a ring's buffer `idx` as room, or if there is no such buffer, buffer 0. Nothing is added beyond the most
    /// parts there can be.
    pub fn push_room(&mut self, ring: RingRef<'a>, idx: u32) {
        if self.list.len() < MOST {
            self.add(ring.buffer(idx).unwrap_or(ring.buffers.first), ring.buffer_bytes());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len() - 1 - self.start
    }

    /// Their bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Takes the first `n` off: they have been filled.
    pub fn used(&mut self, n: usize) {
        let used = &self.list[self.start + 1..][..n];
        self.bytes -= used.iter().map(|part| part.iov_len).sum::<usize>();
        self.start += n;
    }

    /// The first bytes; zeros where there are less.
    pub fn first<const N: usize>(&self) -> [u8; N] {
        let mut first = [0; N];
        self.copy_out(&mut first);
        first
    }

    /// Copies as many bytes as there are, and fit.
    pub fn copy_out(&self, to: &mut [u8]) -> usize {
        self.in_turn(to.len(), |part, done, n| {
            // SAFETY: by the invariant, `n` bytes are there; `to` has as many from `done` on.
            unsafe { crate::copy::bytes(to[done..].as_mut_ptr(), part, n) }
        })
    }

    /// Copies as many bytes as there is room for.
    pub fn copy_in(&mut self, from: &[u8]) -> usize {
        self.in_turn(from.len(), |part, done, n| {
            // SAFETY: by the invariant, there is room for `n` bytes; `from` has as many from `done` on.
            unsafe { crate::copy::bytes(part, from[done..].as_ptr(), n) }
        })
    }

    /// As `copy_out`, to memory that a device reads.
    pub fn copy_to_words(&self, to: &[AtomicU64]) -> usize {
        let start = to.as_ptr().cast_mut().cast::<u8>();
        self.in_turn(size_of_val(to), |part, done, n| {
            // SAFETY: by the invariant, `n` bytes are there; `to` has as many from `done` on, which atomics let others write.
            unsafe { crate::copy::bytes(start.wrapping_add(done), part, n) }
        })
    }

    /// As `copy_in`, `len` bytes of memory that a device writes, or as many as it has.
    pub fn copy_from_words(&mut self, from: &[AtomicU64], len: usize) -> usize {
        let start = from.as_ptr().cast::<u8>();
        self.in_turn(len.min(size_of_val(from)), |part, done, n| {
            // SAFETY: by the invariant, there is room for `n` bytes; `from` has as many from `done` on.
            unsafe { crate::copy::bytes(part, start.wrapping_add(done), n) }
        })
    }

    fn in_turn(&self, len: usize, mut copy: impl FnMut(*mut u8, usize, usize)) -> usize {
        let mut done = 0;
        for part in &self.list[self.start + 1..] {
            let n = part.iov_len.min(len - done);
            copy(part.iov_base.cast(), done, n);
            done += n;
            if done == len {
                break;
            }
        }
        done
    }

    /// Writes `header` and all parts to `fd` in one call.
    pub fn write_to(&mut self, fd: BorrowedFd<'_>, header: &[u8]) -> nix::Result<usize> {
        let header =
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
        let parts = self.with(header, usize::MAX);
        // SAFETY: a list of that many, each of which names readable memory: the header, which outlives the call and is
        // only read, and parts by the invariant.
        let written = unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
        Errno::result(written).map(isize::cast_unsigned)
    }

    /// Reads into `header` and the first parts, `most` of them, in one call.
    pub fn read_from(
        &mut self,
        fd: BorrowedFd<'_>,
        header: &mut [u8],
        most: usize,
    ) -> nix::Result<usize> {
        let header = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
        let parts = self.with(header, most);
        // SAFETY: a list of that many, each of which names writable memory: the header, which outlives the call, and
        // parts by the invariant.
        let read = unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), parts.len() as i32) };
        Errno::result(read).map(isize::cast_unsigned)
    }

    /// The list for the kernel, with a header at the device's place if it is not empty.
    fn with(&mut self, header: libc::iovec, most: usize) -> &[libc::iovec] {
        let first = self.start + usize::from(header.iov_len == 0);
        self.list[self.start] = header;
        let end = self.list.len().min((self.start + 1).saturating_add(most));
        &self.list[first..end]
    }
}
