//! Messages for people, on stderr. Invariant: a message that cannot be written is not a failure. A full disk, a
//! closed pipe or a missing stderr does not change what the tool does, whereas `eprintln!` panics, and a panic
//! ends a release build with a core dump.

use std::fmt;
use std::io::{self, Write};

/// Prints a line to stderr, as `eprintln!` does, if that is possible.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(::std::format_args!($($words)*))
    };
}

/// The implementation of [`say!`](crate::say!): a single write, so that lines of several processes do not mix.
pub fn line(words: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{words}\n").as_bytes());
}

/// stderr as a writer that cannot fail.
#[derive(Debug)]
pub struct Talk;

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
