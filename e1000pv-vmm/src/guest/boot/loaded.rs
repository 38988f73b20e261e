//! What loading comes to: what every kind of kernel leaves behind for the steps after it.

use std::path::PathBuf;

/// An initial RAM disk.
#[derive(Clone, Debug)]
pub struct Initrd(pub PathBuf);

/// Where and how the first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 32-bit mode, as PVH has it.
    Pvh(u64),
    /// In long mode, as Linux's protocol has it.
    Linux(u64),
}

/// A kernel in memory.
pub struct Loaded {
    /// Where it begins.
    pub entry: Entry,
    /// Where it may use memory up to before it has looked around.
    pub end: u64,
    /// An initial RAM disk lies below this.
    pub disk_end: u64,
    /// The longest command line that it takes.
    pub command_line: usize,
}
