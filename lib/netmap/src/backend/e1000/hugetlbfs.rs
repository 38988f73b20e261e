//! Where files of huge pages can be made.
//!
//! Invariant: a directory that is given out is on a hugetlbfs with pages of 2 MiB, whatever is mounted there meanwhile.
//!
//! Follows the kernel's `Documentation/admin-guide/mm/hugetlbpage.rst`.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use crate::error::{Error, Result};

/// Bytes of a page.
pub const PAGE: usize = crate::shm::map::HUGE;

/// Where a file system of such pages is mounted, by the kernel's list of mounts.
fn mounted(mounts: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == b"hugetlbfs").then(|| unescaped(path))
    })
}

/// A path as it is. In the list a backslash and three octal digits stand for a byte that would end the word or the line, and
/// for a backslash. Other bytes are as they are, and need not be UTF-8.
fn unescaped(mut word: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(word.len());
    loop {
        word = match *word {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref rest @ ..] => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [byte, ref rest @ ..] => {
                path.push(byte);
                rest
            }
            [] => return OsString::from_vec(path).into(),
        }
    }
}

/// A directory on a file system of such pages.
pub fn directory() -> Result<Option<OwnedFd>> {
    let list = Path::new("/proc/self/mounts");
    let mounts = std::fs::read(list).map_err(Error::io("read", list))?;
    let right = |path: PathBuf| {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&path, flags, Mode::empty()).ok()?;
        let fs = fstatfs(&fd).ok()?;
        let is_right = fs.filesystem_type() == HUGETLBFS_MAGIC && fs.block_size() as usize == PAGE;
        is_right.then_some(fd)
    };
    Ok(mounted(&mounts).find_map(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_huge_pages_are_found() {
        let mounts = b"proc /proc proc rw 0 0\nnone /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\nx";
        assert_eq!(mounted(mounts).collect::<Vec<_>>(), [PathBuf::from("/dev/hugepages")]);
    }

    #[test]
    fn mount_points_with_spaces_and_other_bytes_are_found() {
        let mounts = br"none /mnt/huge\040pages\0111\134040\043 hugetlbfs rw 0 0";
        let found: Vec<_> = mounted(mounts).collect();
        assert_eq!(found, [PathBuf::from("/mnt/huge pages\t1\\040#")]);
        let mounts = b"none /mnt/\xff tmpfs rw 0 0\nnone /mnt/\xfe\\04 hugetlbfs rw 0 0\n";
        let path = OsString::from_vec(b"/mnt/\xfe\\04".to_vec());
        assert_eq!(mounted(mounts).collect::<Vec<_>>(), [PathBuf::from(path)]);
    }
}
