//! Which file a descriptor is of.

use std::fs::File;

/// What distinguishes a file from others, as long as it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    /// Number of the file system.
    pub device: u64,
    /// Number of the file on it.
    pub inode: u64,
}

impl From<&nix::sys::stat::FileStat> for FileId {
    fn from(found: &nix::sys::stat::FileStat) -> Self {
        Self { device: found.st_dev, inode: found.st_ino }
    }
}

/// The identity of an open file.
pub fn id(file: &File) -> FileId {
    use std::os::unix::fs::MetadataExt;
    file.metadata()
        .map_or_else(|_| FileId::default(), |m| FileId { device: m.dev(), inode: m.ino() })
}
