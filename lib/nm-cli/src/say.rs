//! What a tool says to people, on stderr. Invariant: talk that nobody can hear is no failure. A full
//! disk, a closed pipe or no stderr at all changes nothing about what the tool does, whereas
//! `eprintln!` panics, and a panic ends a release build with a core dump.

use std::fmt;
use std::io::{self, Write};

/// Prints a line to stderr, as `eprintln!` does, if that is possible.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(::std::format_args!($($words)*))
    };
}

/// What [`say!`](crate::say!) does: one write, so that lines of several processes do not mix.
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
