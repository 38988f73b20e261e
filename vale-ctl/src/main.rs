//! `vale-ctl`, the program: everything is in the library, so that the manual pages can be made from
//! the same definition of the command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vale_ctl::main()
}
