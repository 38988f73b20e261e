//! The bytes of a capture, as many as a record needs.
//!
//! Invariant: a call that does not get all it needs loses nothing, so a stream may pause between any two bytes.
//! Memory grows with the bytes that have arrived, not with the length that a record claims.

use std::fmt;
use std::io::{self, ErrorKind, Read};

/// Bytes that one read of the input asks for.
const BUFFER_BYTES: usize = 256 * 1024;

/// The outcome of [`Feed::need`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The bytes are there.
    Enough,
    /// The input has nothing now.
    Pending,
    /// The input has ended, and so many bytes are there.
    Short(usize),
}

/// A buffer in front of an input.
pub struct Feed {
    input: Box<dyn Read + Send>,
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    offset: u64,
    ended: bool,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Feed {
    /// In front of `input`, of which nothing was read.
    pub fn new(input: Box<dyn Read + Send>) -> Feed {
        Feed { input, bytes: Vec::new(), begin: 0, end: 0, offset: 0, ended: false }
    }

    /// Reads until `n` bytes are there, the input has no more now, or it ended.
    pub fn need(&mut self, n: usize) -> io::Result<Fill> {
        loop {
            let have = self.end - self.begin;
            if have >= n {
                return Ok(Fill::Enough);
            }
            if self.ended {
                return Ok(Fill::Short(have));
            }
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, have);
            if have == self.bytes.len() {
                self.bytes.resize((2 * have).max(BUFFER_BYTES), 0);
            }
            match self.input.read(&mut self.bytes[have..]) {
                Ok(0) => self.ended = true,
                Ok(got) => self.end += got,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fill::Pending),
                Err(error) => return Err(error),
            }
        }
    }

    /// The bytes that are there.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// Discards the first `n` of them.
    pub fn take(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.begin);
        self.begin += n;
        self.offset += n as u64;
    }

    /// Offset of the first of them from the beginning of the input.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The input from its beginning on. Nothing may have been discarded yet.
    pub fn rewound(self) -> impl Read + Send + 'static {
        debug_assert!(self.offset == 0);
        let mut read = self.bytes;
        read.truncate(self.end);
        io::Cursor::new(read).chain(self.input)
    }
}
