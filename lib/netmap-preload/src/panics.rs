//! A panic in here is a fault of ours, of which the program knows nothing.
//!
//! Invariant: nothing is written to a descriptor of the program's, of which any, 2 among them, may be a port. Who looks for such
//! a fault names a file in `NETMAP_LOG`: it gets a line for each.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where lines go, if anywhere.
const LOG: &str = "NETMAP_LOG";

/// From now on panics are written to the file that is named in the environment, as it is now, or nowhere.
pub fn keep_quiet() {
    let log = std::env::var_os(LOG).map(PathBuf::from);
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(log) = &log {
            // There is nobody who could be told of a failure.
            let _ = add(log, panic);
        }
    }));
}

/// Adds a line. It is written at once, so that lines of several processes do not mix.
fn add(log: &Path, what: impl Display) -> io::Result<()> {
    let line = format!("libnetmap_preload[{}]: {what}", std::process::id()).replace('\n', " ");
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log)?;
    log.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_lines_of_the_file_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for what in ["panicked at here.rs:1:\nindex", "again"] {
            add(&log, what).unwrap();
        }
        let id = std::process::id();
        let lines = format!(
            "libnetmap_preload[{id}]: panicked at here.rs:1: index\nlibnetmap_preload[{id}]: again\n"
        );
        assert_eq!(std::fs::read_to_string(&log).unwrap(), lines);
        add(&dir.path().join("no/log"), "lost").unwrap_err();
    }
}
