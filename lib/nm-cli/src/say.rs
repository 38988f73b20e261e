//! What a tool says to people, on stderr. Invariant: talk that nobody can hear is no failure. A full
//! disk, a closed pipe or no stderr at all changes nothing about what the tool does, whereas
//! `eprintln!` panics, and a panic ends a release build with a core dump.

use std::fmt;
use std::io::Write;

/// Prints a line to stderr, as `eprintln!` does, if that is possible.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(::std::format_args!($($words)*))
    };
}

/// What [`say!`](crate::say!) does: one write, so that lines of several processes do not mix.
pub fn line(words: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{words}\n").as_bytes());
}
